//! How the daemons end: at once or after the pending answers, and which files they leave.

use distcache_testing::bytes::{ADD, HAVE, add, get, have, session, status};
use distcache_testing::process::{Dir, Program, Signal, has_tool};
use distcache_testing::raw_client::RawClient;
use distcache_testing::start;

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

/// Starts a server on a socket in a directory, with a pid file beside it.
fn server(dir: &Dir, arguments: &[&str]) -> Program {
    let pid_file = dir.text("server.pid");
    let words = [&["-pidfile", &pid_file], arguments].concat();
    start::server(DC_SERVER, &dir.address("server"), &words)
}

/// Starts a proxy to the server in the same directory.
fn client(dir: &Dir, arguments: &[&str]) -> Program {
    let pid_file = dir.text("client.pid");
    let words = [&["-pidfile", &pid_file], arguments].concat();
    start::connected(DC_CLIENT, &dir.address("client"), &dir.address("server"), &words)
}

/// Returns a client that has sent more requests than it will read answers to.
fn client_that_does_not_read(dir: &Dir) -> RawClient {
    let large = vec![b'x'; 30_000];
    let caller = RawClient::connect(&dir.address("server"));
    assert_eq!(caller.ask(&add(1, b"large", &large)), status(1, ADD, 0));
    caller.send_available(&get(2, b"large").repeat(20_000));
    caller
}

#[test]
fn the_user_signals_are_ignored_without_killable() {
    let dir = Dir::new();
    let server = server(&dir, &[]);
    let proxy = client(&dir, &[]);
    for program in [&server, &proxy] {
        program.signal(Signal::USR1);
        program.signal(Signal::USR2);
    }
    let caller = RawClient::connect(&dir.address("client"));
    assert_eq!(caller.ask(&have(1, b"id")), status(1, HAVE, 1));
    assert_eq!(proxy.end(Signal::TERM).code, 0);
    assert_eq!(server.end(Signal::TERM).code, 0);
}

#[test]
fn the_user_signals_end_a_killable_program_and_no_file_is_left() {
    for signal in [Signal::USR1, Signal::USR2] {
        let dir = Dir::new();
        let server = server(&dir, &["-killable"]);
        let proxy = client(&dir, &["-killable"]);
        assert_eq!(dir.names(), ["client", "client.pid", "server", "server.pid"]);
        assert_eq!(proxy.end(signal).code, 0);
        assert_eq!(dir.names(), ["server", "server.pid"]);
        assert_eq!(server.end(signal).code, 0);
        assert!(dir.names().is_empty());
    }
}

#[test]
fn term_and_int_wait_for_answers_and_no_file_is_left() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = Dir::new();
        let server = server(&dir, &[]);
        let callers: Vec<_> = (0..20).map(|_| RawClient::connect(&dir.address("server"))).collect();
        for caller in &callers {
            assert_eq!(caller.ask(&have(1, b"id")), status(1, HAVE, 1));
        }
        for caller in &callers {
            caller.send(&have(2, b"id").repeat(200));
        }
        let ended = server.end(signal);
        assert_eq!(ended.code, 0, "{}", ended.err);
        for caller in &callers {
            assert_eq!(caller.rest(), status(2, HAVE, 1).repeat(200));
        }
        assert!(dir.names().is_empty());
    }
}

#[test]
fn more_requests_than_a_buffer_holds_are_answered_before_the_end() {
    let dir = Dir::new();
    let server = server(&dir, &[]);
    let caller = RawClient::connect(&dir.address("server"));
    assert_eq!(caller.ask(&add(1, b"id", &[9; 100])), status(1, ADD, 0));
    // The server is stopped, so that all of it has arrived when the signal comes.
    server.freeze();
    let request = have(2, &[b'i'; 2000]);
    let fit = caller.send_available(&request.repeat(1000)) / request.len();
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    let ended = server.ended();
    assert_eq!(ended.code, 0, "{}", ended.err);
    let answers = caller.rest();
    assert_eq!(answers.len() / 15, fit, "of {fit} requests sent");
}

#[test]
fn an_unfinished_request_does_not_delay_the_end() {
    let dir = Dir::new();
    let server = server(&dir, &["-reqtimeout", "0"]);
    let (half, silent) =
        (RawClient::connect(&dir.address("server")), RawClient::connect(&dir.address("server")));
    half.send(&[&have(1, b"id")[..], &have(2, b"id")[..9]].concat());
    assert_eq!(half.message(), status(1, HAVE, 1));
    assert_eq!(server.end(Signal::TERM).code, 0);
    assert_eq!((half.rest(), silent.rest()), (Vec::new(), Vec::new()));
}

#[test]
fn a_terminated_proxy_waits_for_answers_of_its_server() {
    let dir = Dir::new();
    let server = server(&dir, &[]);
    let proxy = client(&dir, &[]);
    let callers: Vec<_> = (0..20).map(|_| RawClient::connect(&dir.address("client"))).collect();
    for caller in &callers {
        assert_eq!(caller.ask(&have(1, b"id")), status(1, HAVE, 1));
    }
    server.freeze();
    for caller in &callers {
        caller.send(&have(2, b"id").repeat(3));
    }
    proxy.signal(Signal::TERM);
    server.signal(Signal::CONT);
    assert_eq!(proxy.ended().code, 0);
    for caller in &callers {
        assert_eq!(caller.rest(), status(2, HAVE, 1).repeat(3));
    }
    assert_eq!(dir.names(), ["server", "server.pid"]);
}

#[test]
fn a_client_that_never_reads_does_not_delay_the_end_for_ever() {
    let dir = Dir::new();
    let server = server(&dir, &["-reqtimeout", "0"]);
    let _lazy = client_that_does_not_read(&dir);
    assert_eq!(server.end(Signal::TERM).code, 0);
    assert!(dir.names().is_empty());
}

#[test]
fn a_second_signal_ends_a_program_at_once() {
    let (patient, hasty) = (Dir::new(), Dir::new());
    let mut waiting = server(&patient, &["-reqtimeout", "0"]);
    let server = server(&hasty, &["-reqtimeout", "0"]);
    let _lazy = [client_that_does_not_read(&patient), client_that_does_not_read(&hasty)];
    waiting.signal(Signal::TERM);
    server.signal(Signal::TERM);
    server.signal(Signal::INT);
    assert_eq!(server.ended().code, 0);
    assert!(hasty.names().is_empty());
    assert!(waiting.is_running(), "the first signal alone waits for the client");
}

#[test]
fn a_client_that_connects_after_the_signal_is_not_left_waiting() {
    let dir = Dir::new();
    let server = server(&dir, &["-reqtimeout", "0"]);
    let client_that_does_not_read = client_that_does_not_read(&dir);
    server.signal(Signal::TERM);
    let late = RawClient::connect(&dir.address("server"));
    late.send(&have(1, b"id"));
    drop(client_that_does_not_read);
    assert_eq!(server.ended().code, 0);
    // It may have been served in the turn before.
    let answer = late.rest();
    assert!(answer.is_empty() || answer == status(1, HAVE, 1));
}

#[test]
fn a_session_stored_through_a_proxy_outlives_it() {
    let dir = Dir::new();
    let _server = server(&dir, &[]);
    let first = client(&dir, &[]);
    let address = dir.address("client");
    assert_eq!(RawClient::connect(&address).ask(&add(1, b"id", b"session")), status(1, ADD, 0));
    assert_eq!(first.end(Signal::TERM).code, 0);
    let _second = client(&dir, &[]);
    assert_eq!(RawClient::connect(&address).ask(&get(2, b"id")), session(2, b"session"));
}

#[test]
fn signals_that_were_blocked_at_the_start_end_a_program() {
    if !has_tool("env") {
        return;
    }
    for (signal, killable) in [(Signal::TERM, false), (Signal::INT, false), (Signal::USR1, true)] {
        let dir = Dir::new();
        let listen = dir.address("server");
        let words = ["--block-signal", DC_SERVER, "-listen", &listen, "-killable"];
        let program = Program::start("env", &words[..if killable { 5 } else { 4 }]);
        assert_eq!(program.address(), listen);
        assert_eq!(program.end(signal).code, 0);
        assert!(dir.names().is_empty());
    }
}
