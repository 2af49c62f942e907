//! The command line: what it accepts, what it refuses, and where it is documented.

mod rig;

use std::collections::BTreeSet;
use std::path::Path;

use distcache_gateway::DC_GATEWAY;
use distcache_testing::daemon::Daemon;
use distcache_testing::process::{Dir, Ended, Program, Signal, is_root};

use rig::{dc_gateway, free_ports};

const SWITCHES: [&str; 4] = ["daemon", "killable", "mlock", "nosandbox"];
const COMMON: [&str; 5] = ["help", "h", "?", "version", "V"];
/// Options with a good value.
const GOOD: [(&str, &str); 21] = [
    ("engine", "redis://127.0.0.1:1,[::1]:2"),
    ("listen", "IP:127.0.0.1:0"),
    ("credentials", "/nowhere"),
    ("cafile", "/nowhere"),
    ("tlscert", "/nowhere"),
    ("tlskey", "/nowhere"),
    ("tlsname", "engine"),
    ("deadline", "1m"),
    ("threads", "4"),
    ("inflight", "64k"),
    ("overtake", "10ms"),
    ("mintimeout", "7d"),
    ("maxconn", "10"),
    ("idle", "1h"),
    ("reqtimeout", "0"),
    ("user", "nobody"),
    ("sockowner", "nobody"),
    ("sockgroup", "0"),
    ("sockperms", "660"),
    ("allowuid", "nobody"),
    ("allowgid", "12345"),
];
/// Options with a bad value.
const BAD: [(&str, &str); 13] = [
    ("engine", "127.0.0.1:6379"),
    ("listen", "9001"),
    ("deadline", "0"),
    ("deadline", "61s"),
    ("threads", "0"),
    ("threads", "1025"),
    ("inflight", "63"),
    ("overtake", "61s"),
    ("mintimeout", "8d"),
    ("maxconn", "0"),
    ("idle", "61m"),
    ("sockperms", "888"),
    ("allowuid", "no-such-user"),
];

fn run(words: &[&str]) -> Ended {
    Program::run(&dc_gateway(), words)
}

#[test]
fn help_names_every_option_and_fits_a_terminal() {
    let Ended { code, out, err } = run(&["-h"]);
    assert_eq!((code, err.as_str(), out.as_str()), (0, "", DC_GATEWAY.to_string().as_str()));
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    let words: Vec<_> = DC_GATEWAY.example.split(' ').skip(1).chain(["-version"]).collect();
    let ended = run(&words);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert_eq!(ended.out, format!("dc_gateway {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_options_are_those_tested_here_and_those_of_the_documentation() {
    let listed: BTreeSet<_> = DC_GATEWAY.options().flat_map(|entry| entry.names).copied().collect();
    let good = GOOD.iter().map(|(option, _)| *option);
    let tested = SWITCHES.into_iter().chain(COMMON).chain(good).chain(["pidfile"]).collect();
    assert_eq!(listed, tested);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/programs.md");
    let text = std::fs::read_to_string(path).expect("docs/programs.md");
    let mut documented: BTreeSet<_> = COMMON.into_iter().collect();
    for section in text.split("\n## ") {
        let (heading, body) = section.split_once('\n').unwrap_or((section, ""));
        if !["dc_gateway", "Daemons"].contains(&heading) {
            continue;
        }
        let cells = body.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
        let code = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
        documented.extend(code.filter_map(|word| word.strip_prefix('-')?.split(' ').next()));
    }
    assert_eq!(listed, documented);
}

#[test]
fn good_values_are_accepted_and_bad_ones_are_reported_with_their_option() {
    let mut words: Vec<_> = GOOD.iter().map(|(name, value)| format!("-{name}={value}")).collect();
    words.extend(SWITCHES.map(|name| format!("-{name}")));
    words.push("-version".into());
    let ended = run(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    for (name, value) in BAD {
        let ended = run(&["-engine", "redis://127.0.0.1:1", &format!("-{name}={value}")]);
        assert_eq!((ended.code, ended.out.as_str()), (1, ""), "-{name} {value}");
        assert!(ended.err.contains(&format!("-{name}")) && ended.err.lines().count() == 1);
    }
    for (name, _) in GOOD {
        let ended = run(&[&format!("-{name}")]);
        assert!(ended.code == 1 && ended.err.contains("needs a value"), "{}", ended.err);
    }
}

#[test]
fn it_detaches_drops_its_privileges_and_leaves_no_core_dump() {
    let dir = Dir::new();
    let pid_file = dir.text("pid");
    let engine = format!("redis://127.0.0.1:{}", free_ports(1)[0]);
    let mut words = vec!["-listen", "IP:127.0.0.1:0", "-engine", &engine, "-daemon", "-pidfile"];
    words.push(&pid_file);
    if is_root() {
        words.extend(["-user", "12345:12345"]);
    }
    let ended = run(&words);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let daemon = Daemon::of(Path::new(&pid_file));
    let read = |name: &str| daemon.about(name);
    let status = read("status").expect("a running daemon");
    let has = |line: &str| status.lines().any(|found| found.replace('\t', " ") == line);
    if is_root() {
        assert!(
            has("Uid: 12345 12345 12345 12345") && has("Gid: 12345 12345 12345 12345"),
            "{status}"
        );
    }
    assert!(has("CapEff: 0000000000000000") && has("NoNewPrivs: 1"), "{status}");
    let limits = read("limits").expect("a running daemon");
    let core = limits.lines().find(|line| line.starts_with("Max core file size"));
    let core: Vec<_> = core.expect("a limit").split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"]);
    daemon.end(Signal::TERM);
}

#[test]
fn mlock_locks_all_memory_or_is_refused_because_of_the_limit() {
    let dir = Dir::new();
    let pid_file = dir.text("pid");
    let words = ["-listen", "IP:127.0.0.1:0", "-engine", "redis://127.0.0.1:1", "-mlock"];
    let ended = run(&[&words[..], &["-daemon", "-pidfile", &pid_file]].concat());
    if ended.code == 0 {
        let daemon = Daemon::of(Path::new(&pid_file));
        let status = daemon.about("status").expect("a running daemon");
        let locked = status.lines().find(|line| line.starts_with("VmLck:")).expect("a size");
        assert!(!locked.ends_with(" 0 kB"), "{locked}");
        daemon.end(Signal::TERM);
    } else {
        assert!(ended.err.contains("use ulimit -l unlimited"), "{}", ended.err);
        assert!(!Path::new(&pid_file).exists());
    }
}
