//! What keeps the memory of the programs from others: no core dumps, no tracing by the same user, no swap.
#![cfg(target_os = "linux")]

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use distcache_testing::bytes::{ADD, add, status};
use distcache_testing::process::{Dir, Program, Signal, has_tool, is_root, skip, until};
use distcache_testing::raw_client::RawClient;
use distcache_testing::start::ANY_PORT;

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const DC_SNOOP: &str = env!("CARGO_BIN_EXE_dc_snoop");
const NOBODY: u32 = 65_534;

/// The programs that sessions pass through, with enough to start them.
const PROGRAMS: [(&str, &[&str]); 3] = [
    (DC_SERVER, &["-listen", ANY_PORT]),
    (DC_CLIENT, &["-listen", ANY_PORT, "-server", "IP:127.0.0.1:1"]),
    (DC_SNOOP, &["-listen", ANY_PORT, "-server", "IP:127.0.0.1:1"]),
];

/// The size and the flags of each mapping, from `/proc/PID/smaps`.
fn mappings(program: &Program) -> Vec<(u64, Vec<String>)> {
    let path = format!("/proc/{}/smaps", program.pid());
    let text = std::fs::read_to_string(path).expect("its mappings");
    let sizes = text.lines().filter_map(|line| line.strip_prefix("Size:"));
    let sizes = sizes.map(|size| size.trim().trim_end_matches(" kB").parse().expect("a size"));
    let flags = text.lines().filter_map(|line| line.strip_prefix("VmFlags:"));
    let flags = flags.map(|flags| flags.split_whitespace().map(str::to_owned).collect());
    sizes.zip(flags).collect()
}

fn locked_kilobytes(program: &Program) -> u64 {
    let path = format!("/proc/{}/status", program.pid());
    let text = std::fs::read_to_string(path).expect("its status");
    let line = text.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("locked memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_program_that_crashes_leaves_no_core_dump() {
    if !has_tool("prlimit") {
        return;
    }
    let unlimited = Command::new("prlimit").args(["--core=unlimited:unlimited", "true"]).status();
    if !unlimited.is_ok_and(|status| status.success()) {
        return skip("the right to dump core");
    }
    for (program, arguments) in PROGRAMS {
        let dir = Dir::new();
        let mut command = Command::new("prlimit");
        command.args(["--core=unlimited:unlimited", program]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).current_dir(dir.path());
        let started = Program::spawn(command);
        started.address();
        // Not SIGSEGV: the first one from outside only removes the handler of Rust's library.
        assert!(!started.end_and_dump(Signal::ABORT), "{program}");
        assert!(dir.names().is_empty(), "{program}: {:?}", dir.names());
    }
}

#[test]
fn a_program_belongs_to_root_in_proc_so_its_user_cannot_read_its_memory() {
    if !is_root() {
        return;
    }
    for (program, arguments) in PROGRAMS {
        for own_user in [false, true] {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
            if own_user {
                if program == DC_SNOOP {
                    continue;
                }
                command.args(["-user", "nobody"]);
            } else {
                command.uid(NOBODY).gid(NOBODY);
            }
            let program = Program::spawn(command);
            program.address();
            let place = format!("/proc/{}", program.pid());
            let status = std::fs::read_to_string(format!("{place}/status")).expect("its status");
            assert!(status.contains(&format!("\nUid:\t{NOBODY}")), "{status}");
            let owner = std::fs::metadata(format!("{place}/mem")).expect("its memory").uid();
            assert_eq!(owner, 0);
        }
    }
}

#[test]
fn the_memory_for_sessions_is_left_out_of_dumps_and_children() {
    if !is_root() {
        return;
    }
    for (path, arguments) in PROGRAMS {
        let program = Program::start(path, arguments);
        program.address();
        // The table and the buffers are the only mappings of that size.
        let large: Vec<_> =
            mappings(&program).into_iter().filter(|(size, _)| *size > 60_000).collect();
        assert_eq!(large.len(), if path == DC_SERVER { 2 } else { 1 }, "{path}");
        for (size, flags) in large {
            for wanted in ["dd", "wf"] {
                let found = flags.iter().any(|flag| flag == wanted);
                assert!(found, "{path}: {size} kB has {flags:?}, not {wanted}");
            }
        }
    }
}

#[test]
fn locked_memory_takes_room_only_where_it_is_used_and_goes_back_after_a_crowd() {
    if !is_root() {
        return;
    }
    for (path, arguments) in &PROGRAMS[..2] {
        let dir = Dir::new();
        let more = ["-listen", &dir.address("s"), "-mlock", "-maxconn", "1000"];
        let program = Program::start(path, &[arguments, &more[..]].concat());
        program.addresses(2);
        let locked = locked_kilobytes(&program);
        assert!(locked > 60_000, "{path}: {locked} kB");
        let before = program.resident();
        assert!(before < 40_000_000, "{path}: {before} bytes of memory");
        let request = add(1, b"an id of the crowd's", &[7; 32_000]);
        let clients: Vec<_> = (0..500).map(|_| RawClient::connect(&dir.address("s"))).collect();
        clients.iter().for_each(|client| client.send(&request[..request.len() - 1]));
        until("the crowd's bytes", || (program.resident() > before + 12_000_000).then_some(()));
        drop(clients);
        until("the memory to go back", || (program.resident() < before + 6_000_000).then_some(()));
        assert_eq!(locked_kilobytes(&program), locked);
    }
}

#[test]
fn memory_that_cannot_be_locked_fails_the_start_with_what_to_do() {
    if !(is_root() && has_tool("prlimit")) {
        return;
    }
    for (path, arguments) in &PROGRAMS[..2] {
        let start = |user: u32| {
            let mut command = Command::new("prlimit");
            command.args(["--memlock=65536:65536", path]).args(*arguments).arg("-mlock");
            command.stdin(Stdio::null()).stdout(Stdio::piped()).uid(user).gid(user);
            Program::spawn(command)
        };
        let ended = start(NOBODY).ended();
        assert_eq!((ended.code, ended.out.as_str()), (1, ""));
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
        let expected =
            " bytes of memory for -mlock: the limit is 65536 bytes; raise it (ulimit -l, ";
        assert!(ended.err.contains(expected), "{}", ended.err);
        // Root needs no limit.
        start(0).address();
    }
}

#[test]
fn memory_is_locked_though_the_user_that_a_program_becomes_may_not_lock_any() {
    if !(is_root() && has_tool("prlimit")) {
        return;
    }
    let limit = "--memlock=65536:unlimited";
    if !Command::new("prlimit").args([limit, "true"]).status().is_ok_and(|status| status.success())
    {
        return skip("the right to lock memory");
    }
    for (path, arguments) in &PROGRAMS[..2] {
        let before = [limit, path];
        let more = ["-mlock", "-user", "nobody"];
        let program = Program::start("prlimit", &[&before[..], arguments, &more].concat());
        let client = RawClient::connect(&program.address());
        let answer = if *path == DC_SERVER { 0 } else { 2 };
        assert_eq!(client.ask(&add(1, b"id", b"a session")), status(1, ADD, answer));
        assert!(locked_kilobytes(&program) > 60_000);
    }
}
