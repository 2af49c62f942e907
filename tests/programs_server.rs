//! The program `dc_server`: its answers, and its limits for each client.

use distcache_testing::bytes::{ADD, GET, HAVE, REMOVE, add, get, have, remove, session, status};
use distcache_testing::process::{Dir, Program, Signal, has_tool, runs_as_root, skip, until};
use distcache_testing::raw_client::{ProgramUnderTest, RawClient, ask_until};
use distcache_testing::start::{self, ANY_PORT};
use distcache_testing::vectors::{lines, replay};

const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

fn server_on_any_port(arguments: &[&str]) -> (Program, String) {
    let program = start::server(DC_SERVER, ANY_PORT, arguments);
    let address = program.address();
    (program, address)
}

/// Returns a request for a session that an empty server does not have, and its answer.
fn ask() -> (Vec<u8>, Vec<u8>) {
    (have(7, b"nobody's"), status(7, HAVE, 1))
}

fn is_served(client: &RawClient) -> bool {
    let (ask, answer) = ask();
    client.try_ask(&ask).is_ok_and(|got| got == answer)
}

fn answers_the_vectors(listen: &str) {
    let program = start::server(DC_SERVER, listen, &["-sessions", "512"]);
    replay(&mut ProgramUnderTest { address: &program.address(), barrier: ask() }, lines());
    assert_eq!(program.end(Signal::TERM).code, 0);
}

#[test]
fn it_answers_the_reference_vectors_over_tcp() {
    answers_the_vectors(ANY_PORT);
}

#[test]
fn it_answers_the_reference_vectors_over_tcp_on_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return skip("IPv6");
    }
    answers_the_vectors("IP:[::1]:0");
}

#[test]
fn it_answers_the_reference_vectors_over_unix_sockets() {
    let dir = Dir::new();
    answers_the_vectors(&dir.address("s"));
    #[cfg(target_os = "linux")]
    answers_the_vectors(&format!("UNIX:@distcache-{}", std::process::id()));
}

#[test]
fn a_session_expires_after_its_lifetime() {
    let (_program, address) = server_on_any_port(&[]);
    let client = RawClient::connect(&address);
    let short = distcache_testing::bytes::add_for(1, 50, b"short", b"data!");
    assert_eq!(client.ask(&short), status(1, ADD, 0));
    assert_eq!(client.ask(&add(2, b"long", b"data!")), status(2, ADD, 0));
    until("the end of the session", || {
        (client.ask(&have(3, b"short")) == status(3, HAVE, 1)).then_some(())
    });
    assert_eq!(client.ask(&get(4, b"short")), status(4, GET, 1));
    assert_eq!(client.ask(&get(5, b"long")), session(5, b"data!"));
}

#[test]
fn the_oldest_session_of_a_lifetime_class_is_evicted() {
    let (_program, address) = server_on_any_port(&["-sessions", "2"]);
    let client = RawClient::connect(&address);
    for (id, ttl) in [(b"a", 60_000), (b"b", 40_000), (b"c", 50_000)] {
        let add = distcache_testing::bytes::add_for(1, ttl, id, b"session");
        assert_eq!(client.ask(&add), status(1, ADD, 0));
    }
    let there = [b"a", b"b", b"c"].map(|id| client.ask(&have(2, id)) == status(2, HAVE, 0));
    assert_eq!(there, [false, true, true]);
}

#[test]
fn the_client_beyond_maxconn_is_refused_and_the_others_are_served() {
    let (program, address) = server_on_any_port(&["-maxconn", "3"]);
    let clients: Vec<_> = (0..3).map(|_| RawClient::connect(&address)).collect();
    assert!(clients.iter().all(is_served));
    for _ in 0..5 {
        assert_eq!(RawClient::connect(&address).rest(), b"");
    }
    assert!(clients.iter().all(is_served));
    drop(clients);
    let (ask, answer) = ask();
    ask_until(&address, &ask, &answer);
    let err = program.end(Signal::TERM).err;
    assert!(err.contains("4 clients accepted, 5 refused"), "{err}");
}

#[test]
fn a_silent_client_is_closed_after_idle() {
    let (_program, address) = server_on_any_port(&["-idle", "1500"]);
    let (silent, busy) = (RawClient::connect(&address), RawClient::connect(&address));
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| silent.rest());
        until("the end of the silent client", || {
            assert!(is_served(&busy));
            closed.is_finished().then_some(())
        });
        assert_eq!(closed.join().expect("an end"), b"");
    });
    assert!(is_served(&busy));
    assert_eq!(busy.rest(), b"");
}

#[test]
fn an_unfinished_request_is_closed_after_reqtimeout_and_silence_is_not() {
    let (_program, address) = server_on_any_port(&["-reqtimeout", "200"]);
    let (silent, half, slow) =
        (RawClient::connect(&address), RawClient::connect(&address), RawClient::connect(&address));
    let (ask, answer) = ask();
    half.send(&ask[..5]);
    slow.send(&[&ask[..], &ask[..20]].concat());
    assert_eq!(half.rest(), b"");
    assert_eq!(slow.rest(), answer);
    assert!(is_served(&silent));
}

#[test]
fn a_client_that_reads_no_answers_is_closed_after_reqtimeout() {
    let (_program, address) = server_on_any_port(&["-reqtimeout", "200"]);
    let large = vec![b'x'; 30_000];
    let (reader, lazy) = (RawClient::connect(&address), RawClient::connect(&address));
    assert_eq!(reader.ask(&add(1, b"large", &large)), status(1, ADD, 0));
    lazy.send_available(&get(2, b"large").repeat(10_000));
    // The server's timeout ends at some time; until then no other client notices.
    until("the end of the client that does not read", || {
        assert_eq!(reader.ask(&get(3, b"large")), session(3, &large));
        lazy.is_closed().then_some(())
    });
    assert!(is_served(&reader));
}

#[test]
fn without_descriptors_it_refuses_and_goes_on_serving() {
    if !has_tool("prlimit") {
        return;
    }
    // Root may raise every limit, so the program must not stay root.
    let user: &[&str] = if runs_as_root() { &["-user", "nobody"] } else { &[] };
    let few = ["--nofile=40:40", DC_SERVER, "-listen", ANY_PORT, "-maxconn", "1000"];
    let program = Program::start("prlimit", &[&few, user].concat());
    let address = program.address();
    program
        .err
        .wait_for("dc_server: warning: only 40 descriptors: about 31 clients instead of 1000");
    let (served, refused): (Vec<_>, Vec<_>) =
        (0..100).map(|_| RawClient::connect(&address)).partition(is_served);
    assert!((20..40).contains(&served.len()), "{} are served", served.len());
    assert!(refused.iter().all(|client| client.rest().is_empty()));
    assert!(served.iter().all(is_served));
    drop(served);
    let (ask, answer) = ask();
    ask_until(&address, &ask, &answer);
    assert_eq!(program.end(Signal::TERM).code, 0);
}

#[test]
fn a_table_too_large_for_the_system_is_an_error_with_a_reason() {
    if !has_tool("prlimit") {
        return;
    }
    let little = ["--as=200000000", DC_SERVER, "-listen", ANY_PORT, "-sessions", "1000000"];
    let ended = Program::run("prlimit", &little);
    assert_eq!((ended.code, ended.out.as_str()), (1, ""));
    assert!(
        ended.err.starts_with("dc_server: cannot allocate ") && ended.err.contains("-sessions"),
        "{ended:?}"
    );
}

/// Returns total operations, new ones, total sessions, and their change.
fn progress(line: &str) -> (u64, u64, i64, i64) {
    let parse = || {
        let line = line.strip_prefix("total operations ")?;
        let (total, line) = line.split_once(" (+ ")?;
        let (new, line) = line.split_once("), total sessions ")?;
        let (sessions, line) = line.split_once(" (")?;
        let (sign, change) = line.strip_suffix(")")?.split_once(' ')?;
        let change: i64 = change.parse().ok()?;
        let change = match sign {
            "+" => change,
            "-" => -change,
            _ => (sign == "=" && change == 0).then_some(0)?,
        };
        Some((total.parse().ok()?, new.parse().ok()?, sessions.parse().ok()?, change))
    };
    parse().unwrap_or_else(|| panic!("a line of progress, not {line:?}"))
}

#[test]
fn progress_is_printed_after_enough_operations_and_changes() {
    let (program, address) = server_on_any_port(&["-progress", "10"]);
    let client = RawClient::connect(&address);
    let adds: Vec<u8> = (0..20).flat_map(|id| add(1, &[id], b"session")).collect();
    client.send(&adds);
    assert_eq!(client.take(20 * 15), status(1, ADD, 0).repeat(20));
    program.out.wait_for("total operations 20 (+ ");
    // Fewer than ten operations are printed too, a little later.
    assert_eq!(client.ask(&remove(2, &[0])), status(2, REMOVE, 0));
    assert_eq!(client.ask(&remove(3, &[1])), status(3, REMOVE, 0));
    program.out.find("the last of 22 operations", |text| {
        text.lines().find(|line| line.starts_with("total operations 22 "))?;
        text.ends_with('\n').then_some(())
    });
    let printed = program.end(Signal::TERM).out;
    let (mut operations, mut sessions, mut lines) = (0, 0, 0);
    for line in printed.lines().skip(1) {
        let (total, new, there, change) = progress(line);
        operations += new;
        sessions += change;
        lines += 1;
        assert!(new > 0, "{line}");
        assert_eq!((total, there), (operations, sessions), "{line}");
    }
    assert!((operations, sessions) == (22, 18) && lines >= 2, "{printed}");
}

#[test]
fn without_progress_nothing_is_printed() {
    let (program, address) = server_on_any_port(&[]);
    assert!(is_served(&RawClient::connect(&address)));
    let ended = program.end(Signal::TERM);
    assert_eq!(ended.out, format!("dc_server: listening on {address}\n"));
    assert!(ended.err.contains("1 requests"), "{}", ended.err);
}
