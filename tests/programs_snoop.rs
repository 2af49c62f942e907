//! The program `dc_snoop`: what it passes on, and what it prints.

use std::io::{BufRead, BufReader, PipeReader, Read};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use distcache_testing::bytes::{
    ADD, COPY, FETCH, GET, HAVE, REPAIR, add, add_payload, at_level, get, have, message, remove,
    session, status,
};
use distcache_testing::process::{Dir, Program, Signal, TIMEOUT};
use distcache_testing::raw_client::{ProgramUnderTest, RawClient};
use distcache_testing::start::{self, ANY_PORT};
use distcache_testing::vectors::{lines, replay};

const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const DC_SNOOP: &str = env!("CARGO_BIN_EXE_dc_snoop");

/// Starts a snoop in front of a server.
fn snoop(listen: &str, server: &str, arguments: &[&str]) -> Program {
    start::before(DC_SNOOP, listen, server, arguments)
}

/// Starts a server, and a snoop in front of it.
fn start_between(listen: &str, server_listens: &str, arguments: &[&str]) -> (Program, Program) {
    let server = Program::start(DC_SERVER, &["-listen", server_listens, "-sessions", "512"]);
    let snoop = snoop(listen, &server.address(), arguments);
    (server, snoop)
}

/// Starts a snoop whose server is the test itself. Returns both ends of a connection.
fn start_to_test(dir: &Dir, arguments: &[&str]) -> (Program, RawClient, UnixStream) {
    let listener = UnixListener::bind(dir.join("s")).expect("a free path");
    let snoop = snoop(&dir.address("c"), &dir.address("s"), arguments);
    let client = RawClient::connect(&dir.address("c"));
    let (server, _) = listener.accept().expect("the snoop");
    server.set_read_timeout(Some(TIMEOUT)).expect("a socket takes a timeout");
    (snoop, client, server)
}

fn passes_the_vectors(listen: &str, server_listens: &str, arguments: &[&str]) {
    let (_server, snoop) = start_between(listen, server_listens, arguments);
    let barrier = (have(7, b"nobody's"), status(7, HAVE, 1));
    replay(&mut ProgramUnderTest { address: &snoop.address(), barrier }, lines());
    assert_eq!(snoop.end(Signal::TERM).code, 0);
}

#[test]
fn the_reference_vectors_pass_unchanged_over_tcp() {
    passes_the_vectors(ANY_PORT, ANY_PORT, &[]);
}

#[test]
fn the_reference_vectors_pass_unchanged_over_unix_sockets_with_payloads_shown() {
    let dir = Dir::new();
    passes_the_vectors(&dir.address("c"), &dir.address("s"), &["-full"]);
}

/// Returns a line without its time, and without how long an answer took.
fn strip_times(line: &str) -> String {
    let (time, rest) = line.split_once(' ').expect("a time and more");
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    assert_eq!(shape, "9999-99-99T99:99:99.999Z", "{line}");
    match rest.strip_suffix(" ms").and_then(|rest| rest.rsplit_once(' ')) {
        Some((rest, took)) if rest.contains(" < ") => {
            assert!(took.parse::<f64>().is_ok_and(|took| took >= 0.0), "{line}");
            format!("{rest} T")
        }
        _ => rest.to_owned(),
    }
}

#[test]
fn a_client_that_closes_in_order_is_not_printed_as_broken() {
    let dir = Dir::new();
    let (server, _) = start_between(&dir.address("c"), &dir.address("s"), &[]);
    for listen in [ANY_PORT, &dir.address("u")] {
        let snoop = snoop(listen, &server.address(), &[]);
        let client = RawClient::connect(&snoop.address());
        client.ask(&have(1, b"id"));
        drop(client);
        snoop.out.wait_for("#1 closed");
        let printed = snoop.end(Signal::TERM).out;
        let last = printed.lines().last().map(strip_times);
        assert_eq!(last.as_deref(), Some("#1 closed"), "{printed}");
    }
}

#[test]
fn what_servers_ask_each_other_is_a_line_without_secrets_too() {
    let dir = Dir::new();
    let (_server, snoop) = start_between(&dir.address("c"), &dir.address("s"), &[]);
    let caller = RawClient::connect(&dir.address("c"));
    let (id, secret) = (b"0123456789abcdef", b"the secret of a session".repeat(20));
    let level_2 = |uid, op, payload: &[u8]| at_level(2, message(0, uid, op, payload));
    let repair = [&[7; 8][..], &add_payload(60_000, id, &secret)].concat();
    for request in [
        level_2(1, FETCH, id),
        // The server has just started, so it accepts none.
        level_2(2, REPAIR, &repair),
        add(3, id, &secret),
        level_2(4, FETCH, id),
        level_2(5, COPY, &[0, 0, 0, 9, 0, 0, 64, 0]),
    ] {
        caller.ask(&request);
    }
    caller.finish();
    snoop.out.wait_for("#1 closed");
    let printed = snoop.end(Signal::TERM).out;
    let printed_lines: Vec<String> = printed.lines().skip(2).map(strip_times).collect();
    let shown = "id 303132333435…(16)";
    let found = &printed_lines[7];
    let ttl = found.split(" ttl ").nth(1).and_then(|rest| rest.split(' ').next());
    let ttl: u32 = ttl.and_then(|ttl| ttl.parse().ok()).expect("a lifetime");
    assert!((1..=60_000).contains(&ttl), "{found}");
    let expected = [
        format!("#1 > FETCH uid 1 {shown}"),
        format!("#1 < FETCH uid 1 {shown} not found T"),
        format!("#1 > REPAIR uid 2 {shown} ttl 60000 ms session 460"),
        format!("#1 < REPAIR uid 2 {shown} removed T"),
        format!("#1 > ADD uid 3 {shown} ttl 60000 ms session 460"),
        format!("#1 < ADD uid 3 {shown} ok T"),
        format!("#1 > FETCH uid 4 {shown}"),
        format!("#1 < FETCH uid 4 {shown} session 460 ttl {ttl} ms T"),
        "#1 > COPY uid 5 cursor 9 most 16384".to_owned(),
        "#1 < COPY uid 5 not supported T".to_owned(),
        "#1 closed".to_owned(),
    ];
    assert_eq!(printed_lines, expected);
    assert!(!printed.contains("secret") && !printed.contains("73 65 63"), "{printed}");
}

#[test]
fn each_message_is_a_line_without_secrets() {
    let dir = Dir::new();
    let (_server, snoop) = start_between(&dir.address("c"), &dir.address("s"), &[]);
    let caller = RawClient::connect(&dir.address("c"));
    let (id, secret) = (b"0123456789abcdef", b"the secret of a session".repeat(200));
    for request in [
        have(1, id),
        add(2, id, &secret),
        add(3, id, &secret),
        get(4, id),
        have(5, id),
        remove(6, id),
        get(u32::MAX, b"id"),
    ] {
        caller.ask(&request);
    }
    caller.finish();
    assert_eq!(caller.rest(), b"");
    snoop.out.wait_for("#1 closed");
    let printed = snoop.end(Signal::TERM).out;
    let printed_lines: Vec<String> = printed.lines().skip(1).map(strip_times).collect();
    let id = "id 303132333435…(16)";
    let expected = [
        "#1 opened".to_owned(),
        format!("#1 > HAVE uid 1 {id}"),
        format!("#1 < HAVE uid 1 {id} not found T"),
        format!("#1 > ADD uid 2 {id} ttl 60000 ms session 4600"),
        format!("#1 < ADD uid 2 {id} ok T"),
        format!("#1 > ADD uid 3 {id} ttl 60000 ms session 4600"),
        format!("#1 < ADD uid 3 {id} already there T"),
        format!("#1 > GET uid 4 {id}"),
        format!("#1 < GET uid 4 {id} session 4600 T"),
        format!("#1 > HAVE uid 5 {id}"),
        format!("#1 < HAVE uid 5 {id} ok T"),
        format!("#1 > REMOVE uid 6 {id}"),
        format!("#1 < REMOVE uid 6 {id} ok T"),
        "#1 > GET uid 4294967295 id 6964(2)".to_owned(),
        "#1 < GET uid 4294967295 id 6964(2) not found T".to_owned(),
        "#1 closed".to_owned(),
    ];
    assert_eq!(printed_lines, expected);
    assert!(!printed.contains("secret") && !printed.contains("73 65 63"), "{printed}");
}

#[test]
fn payloads_are_shown_on_request() {
    let dir = Dir::new();
    let (_server, snoop) = start_between(&dir.address("c"), &dir.address("s"), &["-full"]);
    let caller = RawClient::connect(&dir.address("c"));
    assert_eq!(caller.ask(&add(1, b"the id", b"the secret of it")), status(1, ADD, 0));
    assert_eq!(caller.ask(&get(2, b"the id")), session(2, b"the secret of it"));
    let row = "    #1  74 68 65 20 73 65 63 72 65 74 20 6f 66 20 69 74  the secret of it";
    snoop.out.wait_for(row);
    let printed = snoop.end(Signal::TERM).out;
    let printed_lines: Vec<String> = printed.lines().skip(2).map(strip_times_of_line).collect();
    let expected = [
        "#1 > ADD uid 1 id 746865206964(6) ttl 60000 ms session 16",
        "    #1  00 00 ea 60 00 00 00 06 74 68 65 20 69 64 74 68  ...`....the idth",
        "    #1  65 20 73 65 63 72 65 74 20 6f 66 20 69 74        e secret of it",
        "#1 < ADD uid 1 id 746865206964(6) ok T",
        "    #1  00                                               .",
        "#1 > GET uid 2 id 746865206964(6)",
        "    #1  74 68 65 20 69 64                                the id",
        "#1 < GET uid 2 id 746865206964(6) session 16 T",
        row,
    ];
    assert_eq!(printed_lines, expected);
}

/// Returns a line without its times, if it has any.
fn strip_times_of_line(line: &str) -> String {
    if line.starts_with(' ') { line.to_owned() } else { strip_times(line) }
}

#[test]
fn with_payloads_ids_are_whole_and_each_payload_follows_its_line_in_one_piece() {
    let dir = Dir::new();
    let (_server, snoop) = start_between(&dir.address("c"), &dir.address("s"), &["-full"]);
    let caller = RawClient::connect(&dir.address("c"));
    // The longest id, a session of several frames, and a request that comes byte by byte.
    let (id, data) = ([0xab; 64], vec![b'.'; 5000]);
    assert_eq!(caller.ask(&add(1, &id, &data)), status(1, ADD, 0));
    get(2, &id).iter().for_each(|byte| caller.send(&[*byte]));
    assert_eq!(caller.message(), session(2, &data));
    caller.send(&have(3, &id)[..20]);
    caller.finish();
    assert_eq!(caller.rest(), b"");
    snoop.out.wait_for("#1 closed");
    let printed = snoop.end(Signal::TERM).out;
    let mut parts: Vec<(String, usize)> = Vec::new();
    for line in printed.lines().skip(2) {
        match (line.split("  ").nth(3), parts.last_mut()) {
            (Some(hex), Some((_, bytes))) if line.starts_with(' ') => {
                *bytes += hex.split(' ').count();
            }
            _ => parts.push((strip_times(line), 0)),
        }
    }
    let id = format!("id {}(64)", "ab".repeat(64));
    let expected = [
        (format!("#1 > ADD uid 1 {id} ttl 60000 ms session 5000"), 8 + 64 + 5000),
        (format!("#1 < ADD uid 1 {id} ok T"), 1),
        (format!("#1 > GET uid 2 {id}"), 64),
        (format!("#1 < GET uid 2 {id} session 5000 T"), 5000),
        ("#1 > unfinished, payload 6 so far".to_owned(), 6),
        ("#1 closed".to_owned(), 0),
    ];
    assert_eq!(parts, expected);
}

/// Starts a snoop whose lines only the test reads, if it does.
fn start_with_reader(arguments: &[&str]) -> (Program, PipeReader) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = Command::new(DC_SNOOP);
    command.args(arguments).stdin(Stdio::null()).stdout(writer);
    (Program::spawn(command), reader)
}

#[test]
fn it_ends_when_its_output_has_no_reader() {
    let dir = Dir::new();
    let _server = start::server(DC_SERVER, &dir.address("s"), &[]);
    let (listen, server) = (dir.address("c"), dir.address("s"));
    let (snoop, reader) = start_with_reader(&["-listen", &listen, "-server", &server]);
    let mut lines = BufReader::new(reader).lines();
    assert!(lines.next().is_some_and(|line| line.is_ok_and(|line| line.contains("listening"))));
    let caller = RawClient::connect(&listen);
    assert_eq!(caller.ask(&have(1, b"id")), status(1, HAVE, 1));
    drop(lines);
    // It prints nothing more.
    let ended = snoop.ended();
    assert!(ended.code == 0 && ended.err.is_empty(), "{ended:?}");
    assert_eq!(caller.rest(), b"");
    assert_eq!(dir.names(), ["s"], "its socket is gone");
}

#[test]
fn each_connection_has_a_number() {
    let dir = Dir::new();
    let (_server, snoop) = start_between(&dir.address("c"), &dir.address("s"), &[]);
    let callers: Vec<_> = (0..20).map(|_| RawClient::connect(&dir.address("c"))).collect();
    for (number, caller) in (1..).zip(&callers) {
        assert_eq!(caller.ask(&have(1000 + number, b"id")), status(1000 + number, HAVE, 1));
        snoop.out.wait_for(&format!("#{number} < HAVE uid {} ", 1000 + number));
    }
}

#[test]
fn the_end_of_one_direction_is_passed_on_and_the_other_stays_open() {
    let dir = Dir::new();
    let (snoop, client, mut server) = start_to_test(&dir, &[]);
    client.send(&have(1, b"id"));
    client.finish();
    let mut request = Vec::new();
    server.read_to_end(&mut request).expect("an end");
    assert_eq!(request, have(1, b"id"));
    // Only now does the server answer.
    std::io::Write::write_all(&mut server, &status(1, HAVE, 0)).expect("room");
    assert_eq!(client.message(), status(1, HAVE, 0));
    assert!(client.is_silent());
    drop(server);
    assert_eq!(client.rest(), b"");
    snoop.out.wait_for("#1 closed");

    let dir = Dir::new();
    let (snoop, client, mut server) = start_to_test(&dir, &[]);
    server.shutdown(Shutdown::Write).expect("a connection");
    assert_eq!(client.rest(), b"");
    client.send(&have(1, b"id"));
    client.finish();
    let mut request = Vec::new();
    server.read_to_end(&mut request).expect("an end");
    assert_eq!(request, have(1, b"id"));
    snoop.out.wait_for("#1 closed");
}

#[test]
fn bytes_of_other_protocols_are_passed_on_and_reported() {
    let dir = Dir::new();
    let (snoop, client, mut server) = start_to_test(&dir, &[]);
    let stray = b"GET / HTTP/1.1\r\nHost: cache\r\n\r\n".repeat(10_000);
    let reply = b"SSH-2.0-nonsense\r\n".repeat(10_000);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            client.send(&stray);
            client.finish();
        });
        let mut passed = Vec::new();
        server.read_to_end(&mut passed).expect("an end");
        assert!(passed == stray, "{} bytes of {}", passed.len(), stray.len());
    });
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::io::Write::write_all(&mut server, &reply).expect("room");
            server.shutdown(Shutdown::Write).expect("a connection");
        });
        assert!(client.rest() == reply);
    });
    snoop.out.wait_for("#1 closed");
    let printed = snoop.end(Signal::TERM).out;
    assert_eq!(printed.matches("#1 not a distcache message: ").count(), 2, "{printed}");
    assert_eq!(printed.lines().count(), 5, "{printed}");
}

#[test]
fn an_answer_without_a_request_is_reported() {
    let dir = Dir::new();
    let (snoop, client, mut server) = start_to_test(&dir, &[]);
    std::io::Write::write_all(&mut server, &status(9, GET, 1)).expect("room");
    assert_eq!(client.message(), status(9, GET, 1));
    snoop.out.wait_for("< GET uid 9 not found (unexpected)");
}

#[test]
fn without_a_server_clients_are_refused_and_that_is_reported() {
    let dir = Dir::new();
    let snoop = snoop(&dir.address("c"), &dir.address("s"), &[]);
    assert_eq!(RawClient::connect(&dir.address("c")).rest(), b"");
    snoop.out.wait_for("#1 refused: the server is unreachable (no such socket)");
    let server = Program::start(DC_SERVER, &["-listen", &dir.address("s")]);
    server.address();
    assert_eq!(RawClient::connect(&dir.address("c")).ask(&have(1, b"id")), status(1, HAVE, 1));
    // The end of the server ends its connections.
    let caller = RawClient::connect(&dir.address("c"));
    assert_eq!(caller.ask(&have(1, b"id")), status(1, HAVE, 1));
    assert_eq!(server.end(Signal::KILL).code, -9);
    assert_eq!(caller.rest(), b"");
    assert_eq!(snoop.end(Signal::INT).code, 0);
    assert_eq!(dir.names(), ["s"], "the stale socket of the killed server");
}
