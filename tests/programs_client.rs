//! The program `dc_client`: what it passes on, and what it answers while the server is unreachable.

use distcache_testing::bytes::{ADD, GET, HAVE, REMOVE, add, get, have, remove, session, status};
use distcache_testing::process::{Dir, Program, Signal};
use distcache_testing::raw_client::{ProgramUnderTest, RawClient, ask_until};
use distcache_testing::start::{self, ANY_PORT};
use distcache_testing::vectors::{lines, replay};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

/// Starts a server.
fn server(listen: &str) -> Program {
    start::server(DC_SERVER, listen, &["-sessions", "512"])
}

/// Starts a proxy to a server.
fn proxy(listen: &str, server: &str, arguments: &[&str]) -> Program {
    start::before(DC_CLIENT, listen, server, &[&["-retry", "50"], arguments].concat())
}

/// Starts a proxy, and waits until it is connected.
fn connected(listen: &str, server: &str, arguments: &[&str]) -> Program {
    start::connected(DC_CLIENT, listen, server, &[&["-retry", "50"], arguments].concat())
}

/// Returns a request for a session that is not stored, and its answer.
fn ask() -> (Vec<u8>, Vec<u8>) {
    (have(7, b"nobody's"), status(7, HAVE, 1))
}

fn passes_the_vectors(listen: &str, server_listens: &str) {
    let server = server(server_listens);
    let proxy = connected(listen, &server.address(), &[]);
    replay(&mut ProgramUnderTest { address: &proxy.address(), barrier: ask() }, lines());
    assert_eq!(proxy.end(Signal::TERM).code, 0);
    let err = server.end(Signal::TERM).err;
    assert!(err.contains(" 0 malformed"), "the server got only valid requests: {err}");
}

#[test]
fn it_passes_the_reference_vectors_over_tcp() {
    passes_the_vectors(ANY_PORT, ANY_PORT);
}

#[test]
fn it_passes_the_reference_vectors_over_unix_sockets() {
    let dir = Dir::new();
    passes_the_vectors(&dir.address("c"), &dir.address("s"));
}

#[test]
fn proxies_can_be_chained() {
    let dir = Dir::new();
    let server = server(&dir.address("s"));
    let near = connected(&dir.address("near"), &server.address(), &[]);
    let far = connected(&dir.address("far"), &near.address(), &[]);
    replay(&mut ProgramUnderTest { address: &far.address(), barrier: ask() }, lines());
}

#[test]
fn before_the_first_connection_every_request_is_answered_at_once() {
    let dir = Dir::new();
    let proxy = proxy(&dir.address("c"), &dir.address("s"), &["-retry", "3600000"]);
    proxy.err.wait_for(" is unreachable (");
    let client = RawClient::connect(&proxy.address());
    for _ in 0..3 {
        assert_eq!(client.ask(&add(1, b"id", b"session")), status(1, ADD, 2));
        assert_eq!(client.ask(&get(2, b"id")), status(2, GET, 2));
        assert_eq!(client.ask(&remove(3, b"id")), status(3, REMOVE, 2));
        assert_eq!(client.ask(&have(4, b"id")), status(4, HAVE, 2));
    }
    client.send(&have(5, b"id").repeat(100));
    assert_eq!(client.take(1500), status(5, HAVE, 2).repeat(100));
    assert_eq!(proxy.end(Signal::TERM).code, 0);
}

#[test]
fn a_server_that_starts_later_is_found() {
    let dir = Dir::new();
    let proxy = proxy(&dir.address("c"), &dir.address("s"), &[]);
    let client = RawClient::connect(&proxy.address());
    let (ask, answer) = ask();
    assert_eq!(client.ask(&ask), status(7, HAVE, 2));
    let _server = server(&dir.address("s"));
    ask_until(&proxy.address(), &ask, &answer);
    assert_eq!(client.ask(&ask), answer, "a client that was connected before is served");
}

/// Kills a server with requests in flight, and starts another at the same address.
fn survives_a_restart(listen: &str) {
    let first = server(listen);
    let address = first.address();
    let proxy = connected(ANY_PORT, &address, &[]);
    let clients: Vec<_> = (0..50).map(|_| RawClient::connect(&proxy.address())).collect();
    let (ask, answer) = ask();
    assert!(clients.iter().all(|client| client.ask(&ask) == answer));
    first.freeze();
    for client in &clients {
        client.send(&ask.repeat(2));
    }
    assert_eq!(first.end(Signal::KILL).code, -9);
    for client in &clients {
        assert_eq!(client.take(30), status(7, HAVE, 2).repeat(2));
    }
    proxy.err.wait_for(" is unreachable (");
    let _second = server(&address);
    ask_until(&proxy.address(), &ask, &answer);
    assert!(clients.iter().all(|client| client.ask(&ask) == answer));
    assert_eq!(clients[0].ask(&add(8, b"id", b"session")), status(8, ADD, 0));
    assert_eq!(clients[1].ask(&get(9, b"id")), session(9, b"session"));
}

#[test]
fn a_killed_server_leaves_no_request_unanswered_and_the_next_is_found_over_tcp() {
    survives_a_restart(ANY_PORT);
}

#[test]
fn a_killed_server_leaves_no_request_unanswered_and_the_next_is_found_over_unix_sockets() {
    survives_a_restart(&Dir::new().address("s"));
}

#[test]
fn a_server_that_is_terminated_leaves_no_request_unanswered() {
    let dir = Dir::new();
    let server = server(&dir.address("s"));
    let proxy = connected(&dir.address("c"), &dir.address("s"), &["-retry", "3600000"]);
    let clients: Vec<_> = (0..50).map(|_| RawClient::connect(&proxy.address())).collect();
    let (ask, answer) = ask();
    for client in &clients {
        client.send(&ask.repeat(20));
    }
    assert_eq!(server.end(Signal::TERM).code, 0);
    for client in &clients {
        for _ in 0..20 {
            let got = client.message();
            assert!(got == answer || got == status(7, HAVE, 2), "{got:02x?}");
        }
        assert_eq!(client.ask(&ask), status(7, HAVE, 2));
    }
}

#[test]
fn a_client_that_leaves_mid_request_costs_nobody_anything() {
    let dir = Dir::new();
    let server = server(&dir.address("s"));
    let proxy = connected(&dir.address("c"), &dir.address("s"), &[]);
    let (ask, answer) = ask();
    let stays = RawClient::connect(&proxy.address());
    assert_eq!(stays.ask(&add(1, b"secret", b"session of another")), status(1, ADD, 0));
    for len in [1, 13, 14, 15, ask.len() - 1] {
        RawClient::connect(&proxy.address()).send(&ask[..len]);
        assert_eq!(stays.ask(&ask), answer);
    }
    // These clients leave while the server still has to send them a session, which the next client
    // must not get.
    server.freeze();
    for _ in 0..100 {
        let leaves = RawClient::connect(&proxy.address());
        leaves.send(&get(7, b"secret").repeat(3));
        drop(leaves);
    }
    let next: Vec<_> = (0..100).map(|_| RawClient::connect(&proxy.address())).collect();
    for client in &next {
        client.send(&ask);
    }
    server.signal(Signal::CONT);
    for client in &next {
        assert_eq!(client.message(), answer);
        assert!(client.is_silent());
    }
    assert_eq!(stays.ask(&get(2, b"secret")), session(2, b"session of another"));
}

#[test]
fn a_stopped_server_is_disconnected_after_reqtimeout_and_found_again() {
    let dir = Dir::new();
    let server = server(&dir.address("s"));
    let proxy = connected(&dir.address("c"), &dir.address("s"), &["-reqtimeout", "200"]);
    let clients: Vec<_> = (0..10).map(|_| RawClient::connect(&proxy.address())).collect();
    let (ask, answer) = ask();
    assert!(clients.iter().all(|client| client.ask(&ask) == answer));
    server.freeze();
    for client in &clients {
        client.send(&ask);
    }
    for client in &clients {
        assert_eq!(client.message(), status(7, HAVE, 2));
    }
    server.signal(Signal::CONT);
    ask_until(&proxy.address(), &ask, &answer);
    assert!(clients.iter().all(|client| client.ask(&ask) == answer));
}

#[test]
fn without_reqtimeout_requests_wait_for_a_stopped_server() {
    let dir = Dir::new();
    let server = server(&dir.address("s"));
    let arguments = ["-reqtimeout", "0", "-idle", "300"];
    let proxy = connected(&dir.address("c"), &dir.address("s"), &arguments);
    let (ask, answer) = ask();
    server.freeze();
    let waits = RawClient::connect(&proxy.address());
    waits.send(&ask);
    // A client without a request is idle; one with a request in flight is not.
    assert_eq!(RawClient::connect(&proxy.address()).rest(), b"");
    assert!(waits.is_silent());
    server.signal(Signal::CONT);
    assert_eq!(waits.message(), answer);
    assert_eq!(waits.rest(), b"", "now it is idle");
}

#[test]
fn half_a_request_is_closed_after_reqtimeout() {
    let dir = Dir::new();
    let _server = server(&dir.address("s"));
    let proxy = connected(&dir.address("c"), &dir.address("s"), &["-reqtimeout", "200"]);
    let (half, silent) =
        (RawClient::connect(&proxy.address()), RawClient::connect(&proxy.address()));
    let (ask, answer) = ask();
    half.send(&[&ask[..], &ask[..10]].concat());
    assert_eq!(half.rest(), answer);
    assert_eq!(silent.ask(&ask), answer);
}

#[test]
fn the_client_beyond_maxconn_is_refused_and_the_others_are_served() {
    let dir = Dir::new();
    let _server = server(&dir.address("s"));
    let proxy = connected(&dir.address("c"), &dir.address("s"), &["-maxconn", "2"]);
    let clients = [RawClient::connect(&proxy.address()), RawClient::connect(&proxy.address())];
    let (ask, answer) = ask();
    assert!(clients.iter().all(|client| client.ask(&ask) == answer));
    for _ in 0..5 {
        assert_eq!(RawClient::connect(&proxy.address()).rest(), b"");
    }
    assert!(clients.iter().all(|client| client.ask(&ask) == answer));
    drop(clients);
    ask_until(&proxy.address(), &ask, &answer);
    let err = proxy.end(Signal::TERM).err;
    assert!(err.contains("3 clients accepted, 5 refused"), "{err}");
}

#[test]
fn every_client_gets_its_own_answers() {
    let dir = Dir::new();
    let _server = server(&dir.address("s"));
    let proxy = connected(&dir.address("c"), &dir.address("s"), &[]);
    let address = proxy.address();
    std::thread::scope(|scope| {
        for number in 0..8_u8 {
            let address = &address;
            scope.spawn(move || {
                let client = RawClient::connect(address);
                let data = vec![number; 3000 + usize::from(number)];
                for round in 0..50 {
                    // The same uid everywhere: it has a meaning only for its client.
                    let id = [number, round];
                    assert_eq!(client.ask(&add(1, &id, &data)), status(1, ADD, 0));
                    client.send(&[get(1, &id), have(1, &id), remove(1, &id), get(1, &id)].concat());
                    assert_eq!(client.message(), session(1, &data));
                    assert_eq!(client.message(), status(1, HAVE, 0));
                    assert_eq!(client.message(), status(1, REMOVE, 0));
                    assert_eq!(client.message(), status(1, GET, 1));
                }
            });
        }
    });
}
