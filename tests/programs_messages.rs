//! Error messages: one line with what failed, where, why, and what to do.

use std::os::unix::net::UnixListener;

use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::process::{Dir, Program, Signal, has_tool, is_root, runs_as_root};
use distcache_testing::raw_client::RawClient;
use distcache_testing::start::ANY_PORT;

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const DC_TEST: &str = env!("CARGO_BIN_EXE_dc_test");

/// Returns the one line with which a program refuses to start.
fn refusal(program: &str, arguments: &[&str]) -> String {
    let ended = Program::run(program, arguments);
    assert!(ended.code == 1 && ended.out.is_empty(), "{arguments:?}: {ended:?}");
    let line = ended.err.strip_suffix('\n').unwrap_or_default();
    assert!(!line.is_empty() && !line.contains('\n'), "{arguments:?}: {ended:?}");
    line.to_owned()
}

#[test]
fn a_mistake_is_reported_in_one_line_that_says_what_to_do() {
    let prefixes = "it must start with UNIX:, IP:, IPv4:, IPv6:, FD: or SESSIOND:";
    for (program, arguments, line) in [
        (
            DC_SERVER,
            &["-lisen", "IP:9001"][..],
            "dc_server: unknown option -lisen; did you mean -listen? See dc_server -h".to_owned(),
        ),
        (
            DC_SERVER,
            &["-listen", "127.0.0.1:9001"],
            format!(
                "dc_server: -listen: bad address '127.0.0.1:9001': {prefixes} (did you mean \
                 IP:127.0.0.1:9001?); see dc_server -h"
            ),
        ),
        (
            DC_SERVER,
            &["-listen", "UNIX:/nonexistent/dir/sock"],
            "dc_server: cannot listen on UNIX:/nonexistent/dir/sock: the directory \
             /nonexistent/dir does not exist"
                .to_owned(),
        ),
        (
            // An address of a network reserved for documentation.
            DC_SERVER,
            &["-listen", "IP:192.0.2.3:9001"],
            "dc_server: cannot listen on IP:192.0.2.3:9001: this machine has no address 192.0.2.3"
                .to_owned(),
        ),
        (
            DC_SERVER,
            &["-listen", "SESSIOND:192.0.2.3:9001"],
            "dc_server: cannot listen on SESSIOND:192.0.2.3:9001: this machine has no address \
             192.0.2.3"
                .to_owned(),
        ),
        (
            DC_CLIENT,
            &["-server", "IP:a:9001,IP:b:9001"],
            "dc_client: give -server once for each server, not 'IP:a:9001,IP:b:9001'; see \
             dc_client -h"
                .to_owned(),
        ),
        (
            DC_CLIENT,
            &["-server", "IP:cachehost"],
            "dc_client: -server: bad address 'IP:cachehost': it has no port; see dc_client -h"
                .to_owned(),
        ),
        (
            DC_SERVER,
            &["start"],
            "dc_server: unexpected argument 'start'; see dc_server -h".to_owned(),
        ),
        (
            DC_SERVER,
            &["-daemon", "true"],
            "dc_server: unexpected argument 'true'; see dc_server -h".to_owned(),
        ),
        (
            DC_SERVER,
            &["-sessions", "-5"],
            "dc_server: -sessions must be positive, not '-5'; see dc_server -h".to_owned(),
        ),
        (
            DC_SERVER,
            &["-listen", ANY_PORT, "-maxmem", "1"],
            "dc_server: -maxmem 1 is too small: one session needs 256 bytes".to_owned(),
        ),
        (
            DC_TEST,
            &["-seconds", "1", "-ops", "10"],
            "dc_test: -ops cannot be combined with -seconds; see dc_test -h".to_owned(),
        ),
    ] {
        assert_eq!(refusal(program, arguments), line);
    }
}

#[test]
fn missing_memory_is_reported_with_the_options_that_reduce_it() {
    if !has_tool("prlimit") {
        return;
    }
    let little = |program: &str, arguments: &[&str]| {
        let arguments = [&["--as=200000000", program, "-listen", ANY_PORT], arguments].concat();
        refusal("prlimit", &arguments)
    };
    let line = little(DC_CLIENT, &["-server", "IP:127.0.0.1:1", "-maxconn", "10000"]);
    assert!(line.starts_with("dc_client: cannot allocate 1392779264 bytes ("), "{line}");
    assert!(line.ends_with("): lower -maxconn"), "{line}");
    let line = little(DC_SERVER, &["-maxconn", "10000"]);
    assert!(line.ends_with("): lower -maxconn"), "{line}");
    let line = little(DC_SERVER, &["-sessions", "1M"]);
    assert!(line.ends_with("): lower -sessions or -maxmem"), "{line}");
}

#[test]
fn a_stale_socket_of_another_user_is_reported_with_what_to_do() {
    if !(is_root() && has_tool("setpriv")) {
        return;
    }
    let dir = Dir::new();
    drop(UnixListener::bind(dir.join("s")).expect("a free path"));
    let address = dir.address("s");
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", DC_SERVER];
    let line = refusal("setpriv", &[&nobody[..], &["-listen", &address]].concat());
    let expected = format!(
        "dc_server: cannot listen on {address}: cannot find out whether it is in use: permission \
         denied; remove it as root, or choose another"
    );
    assert_eq!(line, expected);
}

#[test]
fn a_missing_server_is_reported_as_unreachable_with_a_reason() {
    let dir = Dir::new();
    let server = dir.address("s");
    let proxy = Program::start(DC_CLIENT, &["-listen", ANY_PORT, "-server", &server]);
    proxy.err.wait_for(&format!("{server} is unreachable (no such socket); trying every 5000 ms"));
    assert_eq!(proxy.end(Signal::TERM).code, 0);
    drop(UnixListener::bind(dir.join("s")).expect("a free path"));
    let proxy = Program::start(DC_CLIENT, &["-listen", ANY_PORT, "-server", &server]);
    proxy.err.wait_for(&format!("{server} is unreachable (connection refused)"));
    assert_eq!(proxy.end(Signal::TERM).code, 0);
}

#[test]
fn few_descriptors_are_reported_with_the_number_of_clients_they_allow() {
    if !has_tool("prlimit") {
        return;
    }
    // Root may raise every limit, so the program must not stay root.
    let user: &[&str] = if runs_as_root() { &["-user", "nobody"] } else { &[] };
    let dir = Dir::new();
    let server = Program::start(DC_SERVER, &["-listen", &dir.address("s")]);
    server.address();
    let address = dir.address("s");
    std::fs::set_permissions(dir.join("s"), std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .expect("our own socket");
    for (program, more) in [(DC_SERVER, &[][..]), (DC_CLIENT, &["-server", &address])] {
        for (limit, enough) in [(10, 1), (40, 31)] {
            // Room for one listener, and in one case for the server.
            let enough = enough - more.len() / 2;
            let limits = format!("--nofile={limit}:{limit}");
            let few = [&limits, program, "-listen", ANY_PORT, "-maxconn", "1000"];
            let program = Program::start("prlimit", &[&few, user, more].concat());
            let line = program.err.wait_for("descriptors");
            let expected = format!(
                "only {limit} descriptors: about {enough} clients instead of 1000; raise ulimit -n"
            );
            assert!(line.ends_with(&expected), "{line}");
            let address = program.address();
            if !more.is_empty() {
                program.err.wait_for("connected to");
            }
            let answer = |caller: &RawClient| {
                let answer = caller.try_ask(&have(1, b"id"));
                answer.is_ok_and(|answer| answer == status(1, HAVE, 1))
            };
            let callers: Vec<_> = (0..50).map(|_| RawClient::connect(&address)).collect();
            let served = callers.iter().filter(|caller| answer(caller)).count();
            // Descriptors that this test has inherited count too.
            assert!((enough.saturating_sub(3)..=enough).contains(&served), "{served}: {line}");
            assert_eq!(program.end(Signal::TERM).code, 0);
        }
    }
}
