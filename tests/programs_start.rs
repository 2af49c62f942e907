//! How the daemons start with what their starter has left: open descriptors, blocked signals, stale
//! files.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::Read;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::daemon::Daemon;
use distcache_testing::process::{Dir, Program, Signal, TIMEOUT, until};
use distcache_testing::raw_client::RawClient;
use distcache_testing::sessiond::{DatagramClient, key};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

fn serves(address: &str) {
    assert_eq!(RawClient::connect(address).ask(&have(1, b"id")), status(1, HAVE, 1));
}

#[test]
fn another_users_lock_on_a_stale_pid_file_does_not_prevent_a_start() {
    let dir = Dir::new();
    let (listen, pid_file) = (dir.address("s"), dir.text("pid"));
    let start = || Program::start(DC_SERVER, &["-listen", &listen, "-pidfile", &pid_file]);
    let killed = start();
    assert_eq!(killed.address(), listen);
    assert_eq!(killed.end(Signal::KILL).code, -9);
    // A lock needs no more than the right to read.
    let other = fs::File::open(dir.join("pid")).expect("a file for all to read");
    other.lock().expect("no other lock");
    let server = start();
    assert_eq!(server.address(), listen);
    let number = fs::read_to_string(dir.join("pid")).expect("a pid file");
    assert_eq!(number, format!("{}\n", server.pid()));
    assert_eq!(server.end(Signal::TERM).code, 0);
    assert!(dir.names().is_empty());
}

#[test]
fn of_many_daemons_started_at_once_with_one_pid_file_one_runs() {
    const MANY: usize = 8;
    for round in 0..10 {
        let dir = Dir::new();
        let pid_file = dir.text("pid");
        if round % 2 == 0 {
            fs::write(&pid_file, "1\n").expect("a stale file");
        }
        let start = |number: usize| {
            let listen = dir.address(&number.to_string());
            Program::start(DC_SERVER, &["-listen", &listen, "-pidfile", &pid_file])
        };
        let mut programs: Vec<_> = (0..MANY).map(start).collect();
        until("the end of all but one", || {
            let running =
                programs.iter_mut().filter_map(|program| program.is_running().then_some(()));
            (running.count() <= 1).then_some(())
        });
        let at = programs.iter_mut().position(Program::is_running).expect("one that runs");
        let last = programs.swap_remove(at);
        serves(&last.address());
        let number = fs::read_to_string(&pid_file).expect("a pid file");
        assert_eq!(number, format!("{}\n", last.pid()));
        for program in programs {
            let ended = program.ended();
            assert_eq!(ended.code, 1, "{ended:?}");
            assert!(ended.err.contains(" holds it; "), "{ended:?}");
        }
        assert_eq!(last.end(Signal::TERM).code, 0);
        assert!(dir.names().is_empty(), "{:?}", dir.names());
    }
}

/// Starts a program by a line of shell, in which the program and its arguments are `"$0" "$@"`,
/// with two descriptors as 0 and 1.
fn start_by_shell(line: &str, program: &[&str], given: [OwnedFd; 2]) -> Program {
    let mut command = Command::new("sh");
    let [input, output] = given;
    command.args(["-c", line]).args(program).stdin(input).stdout(output);
    Program::spawn(command)
}

/// Waits until no process has the other end of `held` open.
fn wait_for_close_of(held: &mut UnixStream) {
    held.set_read_timeout(Some(TIMEOUT)).expect("a socket takes a timeout");
    let read = held.read(&mut [0]);
    assert_eq!(read.expect("the end of a connection that no process has open"), 0);
}

#[test]
fn descriptors_that_no_option_names_are_closed() {
    let dir = Dir::new();
    let server = Program::start(DC_SERVER, &["-listen", &dir.address("s")]);
    assert_eq!(server.address(), dir.address("s"));
    for daemon in [&["-daemon", "-listen"][..], &["-listen"]] {
        for named in ["IP:127.0.0.1:1", "FD:7"] {
            let (listen, pid_file) = (dir.address("c"), dir.text("pid"));
            let words = [&["-pidfile", &pid_file, "-server", named], daemon, &[&listen]].concat();
            let (mut held, theirs) = UnixStream::pair().expect("two sockets");
            let connected = UnixStream::connect(dir.join("s")).expect("a server");
            let line = "exec \"$0\" \"$@\" 3>&1 9>&1 7<&0 </dev/null >/dev/null";
            let program = start_by_shell(
                line,
                &[&[DC_CLIENT][..], &words].concat(),
                [connected.into(), theirs.into()],
            );
            wait_for_close_of(&mut held);
            let running = until("a pid file", || {
                fs::exists(&pid_file).is_ok_and(|there| there).then(|| Daemon::of(&dir.join("pid")))
            });
            // A descriptor that an option names stays open.
            let expected = if named == "FD:7" { 1 } else { 2 };
            until("an answer", || {
                (RawClient::connect(&listen).ask(&have(1, b"id")) == status(1, HAVE, expected))
                    .then_some(())
            });
            running.signal(Signal::TERM);
            let ended = program.ended();
            assert_eq!(ended.code, 0, "{ended:?}");
            until("the end", || (!running.is_running()).then_some(()));
            std::mem::forget(running);
            assert_eq!(dir.names(), ["s"]);
        }
    }
}

#[test]
fn sockets_from_a_service_manager_accept_clients() {
    let dir = Dir::new();
    let stream = UnixListener::bind(dir.join("s")).expect("a free path");
    let datagrams = UdpSocket::bind("0.0.0.0:0").expect("a free port");
    let place = datagrams.local_addr().expect("an address");
    let line = "exec 3<&0 4>&1 </dev/null >&2; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" \"$@\"";
    let server = start_by_shell(line, &[DC_SERVER], [stream.into(), datagrams.into()]);
    for address in [dir.address("s"), format!("SESSIOND:{place}")] {
        server.err.wait_for(&format!("dc_server: listening on {address}\n"));
    }
    for _ in 0..3 {
        serves(&dir.address("s"));
    }
    // It answers from the address that was asked, as on a port of its own.
    let udp = DatagramClient::connect(&format!("SESSIOND:127.0.0.2:{}", place.port()));
    udp.new_session(300, &key(b"id"), b"session");
    assert_eq!(udp.get(&key(b"id")), Some(b"session".to_vec()));
    assert_eq!(server.end(Signal::TERM).code, 0);
    assert_eq!(dir.names(), ["s"], "it belongs to the service manager");
}

#[test]
fn sockets_for_another_process_or_not_wanted_are_closed() {
    let dir = Dir::new();
    for pid in ["$$", "1"] {
        let (mut held, theirs) = UnixStream::pair().expect("two sockets");
        let handed = UnixListener::bind(dir.join("h")).expect("a free path");
        let line = format!(
            "exec 3<&0 4>&1 </dev/null >&2; LISTEN_PID={pid} LISTEN_FDS=2 exec \"$0\" \"$@\""
        );
        let words = [DC_SERVER, "-listen", &dir.address("s")];
        let server = start_by_shell(&line, &words, [handed.into(), theirs.into()]);
        wait_for_close_of(&mut held);
        server.err.wait_for(&format!("listening on {}\n", dir.address("s")));
        assert!(UnixStream::connect(dir.join("h")).is_err(), "nothing listens there");
        assert_eq!(server.err.so_far().matches("listening on").count(), 1);
        assert_eq!(server.end(Signal::TERM).code, 0);
        fs::remove_file(dir.join("h")).expect("our own socket");
    }
}

#[test]
fn unusable_sockets_from_a_service_manager_are_reported() {
    for (count, third, reason) in [
        ("x", "3<&-", "LISTEN_FDS is 'x' and must be a number from 0 to 16"),
        ("99", "3<&-", "LISTEN_FDS is '99' and must be a number from 0 to 16"),
        ("1", "3<&-", "cannot listen on FD:3: cannot take it: descriptor 3 is not open"),
        ("1", "3</dev/null", "cannot listen on FD:3: LISTEN_FDS names it, and it is no socket"),
    ] {
        let line = format!("exec {third}; LISTEN_PID=$$ LISTEN_FDS={count} exec \"$0\"");
        let mut command = Command::new("sh");
        command.args(["-c", &line, DC_SERVER]).stdin(Stdio::null()).stdout(Stdio::null());
        let ended = Program::spawn(command).ended();
        assert_eq!((ended.code, ended.err), (1, format!("dc_server: {reason}\n")));
    }
}
