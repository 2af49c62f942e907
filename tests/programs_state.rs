//! `dc_server` with `-state`: what comes back after a restart, and after a crash at any moment.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use distcache_testing::bytes::{ADD, GET, REMOVE, add_for, get, remove, session, status};
use distcache_testing::daemon::Daemon;
use distcache_testing::process::{Dir, Ended, Program, Signal, is_root, skip, until};
use distcache_testing::raw_client::RawClient;
use distcache_testing::start::{self, ANY_PORT};

const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const MINUTE: u32 = 60_000;

fn server(dir: &Dir, arguments: &[&str]) -> Program {
    let usual = ["-state", &dir.text("state")];
    start::server(DC_SERVER, ANY_PORT, &[&usual, arguments].concat())
}

fn client(program: &Program) -> RawClient {
    RawClient::connect(&program.address())
}

/// The data of a session, which follow from its number.
fn data(number: u32) -> Vec<u8> {
    let len = 5 + number as usize * 37 % if number.is_multiple_of(40) { 20_000 } else { 400 };
    number.to_be_bytes().into_iter().cycle().take(len).collect()
}

fn store(client: &RawClient, ttl: u32, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        let request = add_for(number, ttl, &number.to_be_bytes(), &data(number));
        assert_eq!(client.ask(&request), status(number, ADD, 0), "session {number}");
    }
}

/// The sessions below `end` that are there. Each has its own data.
fn found(client: &RawClient, end: u32) -> BTreeSet<u32> {
    let there = |number: &u32| {
        let answer = client.ask(&get(*number, &number.to_be_bytes()));
        if answer == status(*number, GET, 1) {
            return false;
        }
        assert_eq!(answer, session(*number, &data(*number)), "session {number}");
        true
    };
    (0..end).filter(there).collect()
}

fn end(program: Program) -> Ended {
    let ended = program.end(Signal::TERM);
    assert_eq!(ended.code, 0, "{ended:?}");
    ended
}

/// Ends a server that has stored sessions 0 to `count`, with their state in `dir`.
fn written(dir: &Dir, count: u32, arguments: &[&str]) {
    let program = server(dir, arguments);
    store(&client(&program), MINUTE, 0..count);
    let ended = end(program);
    assert!(ended.err.contains(&format!("wrote {count} sessions to ")), "{ended:?}");
    assert_eq!(
        fs::metadata(dir.join("state")).expect("a file").permissions().mode() & 0o777,
        0o600
    );
}

/// The writer of a server: its only child.
fn writer(program: &Program) -> Daemon {
    Daemon::child_of(program.pid())
}

#[test]
fn all_sessions_come_back_after_an_orderly_end() {
    let dir = Dir::new();
    written(&dir, 300, &[]);
    let program = server(&dir, &[]);
    program.err.wait_for("restored 300 sessions from ");
    assert_eq!(dir.names(), [""; 0], "what was loaded is not loaded again");
    assert_eq!(found(&client(&program), 301).len(), 300);
    // And once more, with what has changed in between.
    let client = client(&program);
    assert_eq!(client.ask(&remove(7, &7_u32.to_be_bytes())), status(7, REMOVE, 0));
    store(&client, MINUTE, 300..310);
    end(program);
    let program = server(&dir, &[]);
    let expected: BTreeSet<u32> = (0..310).filter(|number| *number != 7).collect();
    assert_eq!(found(&self::client(&program), 320), expected);
}

#[test]
fn lifetimes_go_on_while_the_server_does_not_run() {
    let dir = Dir::new();
    let program = server(&dir, &[]);
    let begun = Instant::now();
    store(&client(&program), 1_500, 0..10);
    store(&client(&program), MINUTE, 10..20);
    end(program);
    // A gap that the shorter lifetimes do not outlast, whenever the next server starts.
    std::thread::sleep(Duration::from_millis(1_600).saturating_sub(begun.elapsed()));
    let program = server(&dir, &[]);
    program.err.wait_for("restored 10 of 20 sessions");
    assert_eq!(found(&client(&program), 20), (10..20).collect());
    end(program);
    // The longest lifetime of the new server is shorter.
    let program = server(&dir, &["-maxtimeout", "10ms"]);
    let client = client(&program);
    until("the end of all", || found(&client, 20).is_empty().then_some(()));
}

#[test]
fn a_server_of_another_size_takes_what_fits_and_keeps_the_newest() {
    let dir = Dir::new();
    written(&dir, 200, &["-sessions", "200"]);
    let copy = fs::read(dir.join("state")).expect("a file");
    let program = server(&dir, &["-sessions", "50"]);
    program.err.wait_for("restored 50 of 200 sessions");
    assert_eq!(found(&client(&program), 200), (150..200).collect());
    drop(program);
    write_private(&dir.join("state"), &copy);
    let program = server(&dir, &["-sessions", "100k"]);
    program.err.wait_for("restored 200 sessions");
    assert_eq!(found(&client(&program), 200).len(), 200);
}

fn write_private(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes)).expect("our own directory");
}

/// Starts a server on what is at `state`: it must say why that is refused, start without sessions, and
/// keep it aside.
fn refused(dir: &Dir, why: &str, arguments: &[&str]) {
    let program = server(dir, arguments);
    let line = program.err.wait_for("starts without sessions: the state file ");
    assert!(line.contains(why), "{line:?} instead of {why:?}");
    assert!(line.contains("/state.bad"), "{line:?}");
    assert!(dir.join("state.bad").symlink_metadata().is_ok() && !dir.join("state").exists());
    assert!(found(&client(&program), 10).is_empty());
    let ended = end(program);
    assert_eq!(ended.err.lines().filter(|line| line.contains("warning")).count(), 1, "{ended:?}");
    fs::remove_file(dir.join("state")).expect("the new state");
}

#[test]
fn what_is_no_state_of_ours_is_refused_in_one_line_and_kept_aside() {
    let dir = Dir::new();
    written(&dir, 10, &[]);
    let good = fs::read(dir.join("state")).expect("a file");
    let state = dir.join("state");
    fs::remove_file(&state).expect("our own");
    let mut flipped = good.clone();
    flipped[300] ^= 1;
    let mut version = good.clone();
    version[8] = 9;
    let cases: [(&[u8], &str); 6] = [
        (b"#!/bin/sh\necho this is something else entirely\n", "not a state file"),
        (b"", "ends early"),
        (&good[..good.len() - 1], "ends early"),
        (&flipped, "damaged"),
        (&version, "version 9"),
        (&[&good[..], b"more"].concat(), "follows its end"),
    ];
    for (bytes, why) in cases {
        write_private(&state, bytes);
        refused(&dir, why, &[]);
        assert_eq!(fs::read(dir.join("state.bad")).expect("kept"), bytes);
    }
    // What it is, whose it is, and who can read it.
    for mode in [0o640, 0o604, 0o620, 0o666] {
        write_private(&state, &good);
        fs::set_permissions(&state, fs::Permissions::from_mode(mode)).expect("our own");
        refused(&dir, &format!("mode {mode:o}"), &[]);
    }
    fs::write(dir.join("elsewhere"), &good).expect("our own");
    symlink(dir.join("elsewhere"), &state).expect("our own");
    refused(&dir, "not a regular file", &[]);
    assert_eq!(fs::read(dir.join("elsewhere")).expect("untouched"), good);
    let made = Program::run("mkfifo", &["-m", "600", &dir.text("state")]);
    assert_eq!(made.code, 0, "{made:?}");
    refused(&dir, "not a regular file", &[]);
    fs::create_dir(&state).expect("a directory");
    fs::remove_file(dir.join("state.bad")).expect("our own");
    refused(&dir, "not a regular file", &[]);
    if is_root() {
        fs::remove_dir(dir.join("state.bad")).expect("our own");
        write_private(&state, &good);
        std::os::unix::fs::chown(&state, Some(12_345), None).expect("as root");
        refused(&dir, "belongs to user 12345", &[]);
    }
    // After all of that, a good one is taken.
    write_private(&state, &good);
    let program = server(&dir, &[]);
    program.err.wait_for("restored 10 sessions");
}

#[test]
fn a_directory_that_cannot_be_written_to_fails_the_start_in_one_line() {
    let dir = Dir::new();
    let run = |path: &str| Program::run(DC_SERVER, &["-listen", ANY_PORT, "-state", path]);
    let ended = run(&dir.text("missing/state"));
    assert_eq!((ended.code, ended.err.lines().count()), (1, 1), "{ended:?}");
    assert!(ended.err.contains("cannot create a file beside it: No such file"), "{ended:?}");
    if !is_root() {
        return skip("root");
    }
    // As a user of its own.
    dir.permit(0o755);
    let arguments = ["-listen", ANY_PORT, "-user", "nobody", "-state", &dir.text("state")];
    let ended = Program::run(DC_SERVER, &arguments);
    assert_eq!((ended.code, ended.err.lines().count()), (1, 1), "{ended:?}");
    assert!(ended.err.contains("Permission denied"), "{ended:?}");
}

#[test]
fn options_of_the_state_need_it() {
    for option in ["-statewrite", "-sealkeys"] {
        let ended = Program::run(DC_SERVER, &[option, "9"]);
        assert_eq!(ended.err, format!("dc_server: {option} needs -state\n"));
        assert_eq!(ended.code, 1);
    }
}

#[test]
fn a_full_disk_leaves_the_old_state_whole_and_is_said() {
    let dir = Dir::new();
    written(&dir, 20, &[]);
    let old = fs::read(dir.join("state")).expect("a file");
    // No file of this process grows beyond 16 KiB. The writer ignores nothing else for it.
    let mut command = Command::new("/bin/sh");
    let script = "ulimit -f 32; trap '' XFSZ; exec \"$0\" \"$@\"";
    command.args(["-c", script, DC_SERVER, "-listen", ANY_PORT, "-state", &dir.text("state")]);
    command.args(["-statewrite", "1"]);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
    let program = Program::spawn(command);
    let client = client(&program);
    store(&client, MINUTE, 100..300);
    program.err.wait_for("the state was not written to ");
    assert_eq!(fs::read(dir.join("state")).expect("the old one"), old);
    assert_eq!(found(&client, 300).len(), 220, "it serves on");
    drop(client);
    let ended = end(program);
    assert!(ended.err.contains("cannot write it: File too large"), "{ended:?}");
    assert_eq!(fs::read(dir.join("state")).expect("the old one"), old);
    assert_eq!(dir.names(), ["state"]);
}

#[test]
fn a_sealed_state_has_no_session_in_clear_and_opens_with_its_keys_only() {
    let dir = Dir::new();
    let (old, new) = ("1f".repeat(32), "2e".repeat(32));
    write_private(&dir.join("keys"), format!("{old}\n").as_bytes());
    let sealed = ["-sealkeys", &dir.text("keys")];
    written(&dir, 50, &sealed);
    let state = fs::read(dir.join("state")).expect("a file");
    let clear = |number: u32| state.windows(5).any(|bytes| bytes == &data(number)[..5]);
    assert!(!(20..50).any(clear), "a session in clear");
    // Without keys, and with others, it is refused.
    refused(&dir, "is sealed, and no keys", &[]);
    write_private(&dir.join("state"), &state);
    fs::write(dir.join("keys"), format!("{new}\n")).expect("our own");
    refused(&dir, "an unknown key", &sealed);
    // With the old one as the second key it opens, and the next state is sealed by the first.
    write_private(&dir.join("state"), &state);
    fs::write(dir.join("keys"), format!("{new}\n{old}\n")).expect("our own");
    let program = server(&dir, &sealed);
    program.err.wait_for("restored 50 sessions");
    end(program);
    fs::write(dir.join("keys"), format!("{new}\n")).expect("our own");
    let program = server(&dir, &sealed);
    program.err.wait_for("restored 50 sessions");
    // A hangup reads the keys again, and a bad file changes nothing.
    fs::write(dir.join("keys"), "not a key\n").expect("our own");
    program.signal(Signal::HUP);
    program.err.wait_for("the old keys stay: ");
    fs::write(dir.join("keys"), format!("{old}\n{new}\n")).expect("our own");
    program.signal(Signal::HUP);
    program.err.wait_for("read 2 keys from ");
    end(program);
    fs::write(dir.join("keys"), format!("{old}\n")).expect("our own");
    let program = server(&dir, &sealed);
    program.err.wait_for("restored 50 sessions");
    end(program);
    let ended = Program::run(
        DC_SERVER,
        &["-listen", ANY_PORT, "-state", &dir.text("state"), "-sealkeys", &dir.text("none")],
    );
    assert_eq!((ended.code, ended.err.lines().count()), (1, 1), "{ended:?}");
}

/// Waits until a state was written that has at least `len` bytes.
fn wait_for_state(dir: &Dir, len: u64) {
    until("a state", || {
        let state = fs::metadata(dir.join("state")).ok()?;
        (state.len() >= len).then_some(())
    });
}

#[test]
fn after_a_crash_the_last_state_comes_back() {
    let dir = Dir::new();
    let program = server(&dir, &["-statewrite", "1"]);
    store(&client(&program), MINUTE, 0..200);
    wait_for_state(&dir, 40_000);
    assert_eq!(program.end(Signal::KILL).code, -9);
    let program = server(&dir, &["-statewrite", "1"]);
    program.err.wait_for("restored 200 sessions");
    assert!(dir.join("state").exists(), "a second crash would find it, too");
    assert_eq!(found(&client(&program), 200).len(), 200);
    drop(program);
    // Without -statewrite it is not kept.
    until("the end of the writer", || (dir.names() == ["state"]).then_some(()));
    let program = server(&dir, &[]);
    program.err.wait_for("restored 200 sessions");
    assert_eq!(dir.names(), [""; 0]);
}

#[test]
fn the_state_follows_what_changes_while_the_server_runs() {
    let dir = Dir::new();
    let program = server(&dir, &["-statewrite", "1"]);
    let client = client(&program);
    for round in 0..3 {
        store(&client, MINUTE, round * 100..round * 100 + 100);
        let expected = 100 * (round as usize + 1);
        // What is read is always a whole state, the last one or the one before.
        until("the next state", || {
            let copy = Dir::new();
            fs::copy(dir.join("state"), copy.join("state")).ok()?;
            let reader = server(&copy, &[]);
            reader.err.wait_for("restored ");
            (found(&self::client(&reader), 300).len() == expected).then_some(())
        });
    }
}

#[test]
fn a_kill_at_any_step_leaves_the_old_or_the_new_state_whole() {
    let dir = Dir::new();
    written(&dir, 100, &[]);
    let old = fs::read(dir.join("state")).expect("a file");
    for (step, victim) in (0..24).flat_map(|step| [(step, "server"), (step, "writer")]) {
        write_state(&dir, &old);
        let program = server(&dir, &["-statewrite", "1"]);
        let writer = writer(&program);
        store(&client(&program), MINUTE, 100..600);
        // At the end all is written at once: kill at another moment of that each time.
        program.signal(Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(step * 150) {
            std::hint::spin_loop();
        }
        if victim == "server" {
            let code = program.end(Signal::KILL).code;
            assert!([0, -9].contains(&code), "{code}");
            writer.ended();
        } else {
            // Dropping it kills it, if it still runs.
            drop(writer);
            let ended = program.ended();
            assert_eq!(ended.code, 0, "{ended:?}");
        }
        let program = server(&dir, &[]);
        let line = program.err.wait_for("restored ");
        let count = found(&client(&program), 600).len();
        assert!([100, 600].contains(&count), "step {step} of the {victim}: {count}; {line}");
        assert_eq!(dir.names(), [""; 0], "nothing is left over");
    }
}

fn write_state(dir: &Dir, bytes: &[u8]) {
    let _ = fs::remove_file(dir.join("state"));
    write_private(&dir.join("state"), bytes);
}

#[test]
fn a_server_whose_writer_was_killed_serves_on_and_says_so() {
    let dir = Dir::new();
    let program = server(&dir, &["-statewrite", "1"]);
    let writer = writer(&program);
    writer.signal(Signal::KILL);
    program.err.wait_for("the process that writes it is gone");
    let client = client(&program);
    store(&client, MINUTE, 0..10);
    assert_eq!(found(&client, 10).len(), 10);
    drop(client);
    let ended = end(program);
    assert_eq!(ended.err.matches("the state was not written").count(), 2, "{ended:?}");
    assert!(!dir.join("state").exists());
}

#[test]
fn the_writer_ends_with_its_server_and_not_before() {
    let dir = Dir::new();
    let program = server(&dir, &[]);
    let writer = writer(&program);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        writer.signal(signal);
    }
    store(&client(&program), MINUTE, 0..10);
    // It is as restricted as its server.
    let status = fs::read_to_string(format!("/proc/{}/status", program.pid())).expect("it runs");
    for key in ["NoNewPrivs", "Seccomp", "CapEff", "CapBnd"] {
        let line = format!("{key}:\t{}\n", writer.status(key).join(" "));
        assert!(status.contains(&line), "{line:?} of the writer, and {status}");
    }
    let ended = end(program);
    assert!(ended.err.contains("wrote 10 sessions"), "{ended:?}");
    writer.ended();
    let program = server(&dir, &[]);
    let writer = self::writer(&program);
    // It holds no listener of its server: another one can listen there at once.
    let address = program.address();
    assert_eq!(program.end(Signal::KILL).code, -9);
    let program = start::server(DC_SERVER, &address, &[]);
    drop(program);
    writer.ended();
}
