//! What a change of the clock does to the programs.
//!
//! A test cannot change the time of day of the machine. So a preloaded library gives the program
//! another one at every call: years ahead, years back. `dc_snoop`, which prints the time of day,
//! shows that this works. The monotonic clock cannot be set while a program runs; in a time
//! namespace it starts elsewhere.
#![cfg(target_os = "linux")]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use distcache_testing::bytes::{ADD, HAVE, add_for, have, status};
use distcache_testing::daemon::Daemon;
use distcache_testing::load::Load;
use distcache_testing::process::{Dir, Program, Signal, is_in_path, until};
use distcache_testing::raw_client::RawClient;
use distcache_testing::stress::{Counters, ROUNDS, Target, can_make_namespaces, print_row};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const DC_SNOOP: &str = env!("CARGO_BIN_EXE_dc_snoop");

/// The time of day of each call is ten years later than the real one, or ten years earlier.
const LEAPS: &str = "
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t leap(void) {
    static int looks;
    return (looks++ % 2 ? -10 : 10) * (time_t)31557600;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += leap();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    int failed = (int)syscall(SYS_gettimeofday, now, zone);
    if (!failed && now)
        now->tv_sec += leap();
    return failed;
}

time_t time(time_t *now) {
    struct timespec is;
    clock_gettime(CLOCK_REALTIME, &is);
    if (now)
        *now = is.tv_sec;
    return is.tv_sec;
}
";

/// Compiles the library into a directory.
fn jumping_clock(dir: &Dir) -> PathBuf {
    assert!(is_in_path("cc"), "this test needs a C compiler");
    let (source, library) = (dir.join("leaps.c"), dir.join("leaps.so"));
    std::fs::write(&source, LEAPS).expect("a file of ours");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
    assert!(cc.status().expect("a compiler").success());
    library
}

/// Starts a program whose time of day jumps.
fn start_with_library(library: &PathBuf, program: &str, arguments: &[&str]) -> Program {
    let mut command = Command::new(program);
    command.args(arguments).env("LD_PRELOAD", library);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let program = Program::spawn(command);
    program.address();
    program
}

/// Checks that sessions and connections live exactly as long as they should.
fn check_times(address: &str) {
    let (short, long) = (Duration::from_millis(700), 600_000);
    let begun = Instant::now();
    let (silent, half) = (RawClient::connect(address), RawClient::connect(address));
    half.send(&have(1, b"id")[..9]);
    let client = RawClient::connect(address);
    let millis = short.as_millis() as u32;
    assert_eq!(client.ask(&add_for(1, millis, b"short", b"data!")), status(1, ADD, 0));
    assert_eq!(client.ask(&add_for(2, long, b"long", b"data!")), status(2, ADD, 0));
    let mut last_there = begun;
    until("the end of the session", || {
        let asked = Instant::now();
        let answer = client.ask(&have(3, b"short"));
        last_there = if answer == status(3, HAVE, 0) { asked } else { last_there };
        (answer == status(3, HAVE, 1)).then_some(())
    });
    // The programs count whole milliseconds.
    let lived = begun.elapsed() + Duration::from_millis(2);
    assert!(lived >= short, "it expired too early: {lived:?}");
    assert!(last_there.duration_since(begun) < short * 10, "it expired too late");
    // The limit of both is 800 ms.
    for closed in [half, silent] {
        assert_eq!(closed.rest(), b"");
        assert!(begun.elapsed() >= Duration::from_millis(798), "closed too early");
    }
    let again = RawClient::connect(address);
    assert_eq!(again.ask(&have(4, b"long")), status(4, HAVE, 0));
}

const LIMITS: [&str; 4] = ["-reqtimeout", "800", "-idle", "800"];

#[test]
fn a_wall_clock_that_jumps_by_years_changes_nothing() {
    let dir = Dir::new();
    let library = jumping_clock(&dir);
    let (s, c) = (dir.address("s"), dir.address("c"));
    let server = start_with_library(&library, DC_SERVER, &[&["-listen", &s], &LIMITS[..]].concat());
    // A server of its own, since the proxy is an idle client of it.
    let b = dir.address("b");
    let behind = start_with_library(&library, DC_SERVER, &["-listen", &b]);
    let words = ["-listen", &c, "-server", &b, "-retry", "50"];
    let proxy = start_with_library(&library, DC_CLIENT, &[&words, &LIMITS[..]].concat());
    proxy.err.wait_for("connected to ");
    let snoop =
        start_with_library(&library, DC_SNOOP, &["-listen", &dir.address("o"), "-server", &s]);
    check_times(&s);
    check_times(&c);
    let plain = [Target::server(DC_SERVER, &[]), Target::proxy(DC_CLIENT, DC_SERVER, &[])];
    for (target, address) in plain.iter().zip([&s, &c]) {
        let ((_, undisturbed), stressed) = (target.load(), Load::connect(address).run(ROUNDS));
        print_row(
            target.name,
            "a wall clock that jumps",
            &undisturbed,
            &stressed,
            &Counters::default(),
        );
    }
    assert_eq!(RawClient::connect(&dir.address("o")).ask(&have(1, b"id")), status(1, HAVE, 1));
    let years = snoop.out.find("years far apart", |text| {
        let year = |line: &str| line.get(..4)?.parse::<u32>().ok();
        let years: Vec<u32> = text.lines().filter_map(year).collect();
        let (first, last) = (years.iter().min()?, years.iter().max()?);
        (last - first >= 19).then_some((*first, *last))
    });
    println!("the programs' time of day was from {} to {}", years.0, years.1);
    for program in [proxy, server, behind] {
        assert_eq!(program.end(Signal::TERM).code, 0);
    }
}

#[test]
fn a_monotonic_clock_that_began_long_ago_or_just_now_changes_nothing() {
    if !can_make_namespaces() {
        return;
    }
    let uptime = std::fs::read_to_string("/proc/uptime").expect("how long this machine is up");
    let now: f64 = uptime.split(' ').next().and_then(|word| word.parse().ok()).expect("seconds");
    // One second after the origin, and more than a century later.
    for offset in [1 - now as i64, 4_000_000_000] {
        let dir = Dir::new();
        let (s, pid_file) = (dir.address("s"), dir.join("pid"));
        let offset = format!("--monotonic={offset}");
        let words = ["--time", &offset, "--fork", "--kill-child", DC_SERVER, "-listen", &s];
        let pid = ["-pidfile", &dir.text("pid")];
        let program = Program::start("unshare", &[&words[..], &pid, &LIMITS].concat());
        program.address();
        let daemon = Daemon::of(&pid_file);
        check_times(&s);
        daemon.end(Signal::TERM);
        assert_eq!(program.ended().code, 0);
    }
}
