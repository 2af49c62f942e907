//! Connections of the programs in the long run: probed, reported once, and closed with everything freed.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::net::UnixListener;

use distcache_posix::snoop::CONNECTIONS_MAX;
use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::process::{Dir, Program, Signal, until};
use distcache_testing::raw_client::RawClient;
use distcache_testing::start::{self, ANY_PORT};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const DC_SNOOP: &str = env!("CARGO_BIN_EXE_dc_snoop");

/// What the system waits for on the connection to this port: 0 for nothing, 1 to send again, 2 to probe.
fn timer(port: u16) -> Option<u8> {
    let connections = fs::read_to_string("/proc/net/tcp").expect("connections");
    let (remote, established) = (format!(":{port:04X}"), "01");
    connections.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let ours = fields.get(2)?.ends_with(&remote) && fields.get(3) == Some(&established);
        ours.then(|| fields.get(5)?.split(':').next()?.parse().ok())?
    })
}

#[test]
fn a_connection_to_a_server_is_probed_while_nothing_is_asked_of_it() {
    let dir = Dir::new();
    let server = Program::start(DC_SERVER, &["-listen", ANY_PORT]);
    let address = server.address();
    let proxy = start::connected(DC_CLIENT, &dir.address("c"), &address, &[]);
    let (_, port) = address.rsplit_once(':').expect("a port");
    let port = port.parse().expect("a number");
    assert_eq!(RawClient::connect(&proxy.address()).ask(&have(1, b"id")), status(1, HAVE, 1));
    // What was sent last may not be acknowledged yet.
    until("a connection that waits to be probed", || (timer(port) == Some(2)).then_some(()));
    assert_eq!(proxy.end(Signal::TERM).code, 0);
}

#[test]
fn each_change_of_a_servers_state_is_printed_once() {
    let dir = Dir::new();
    let words = ["-listen", &dir.address("c"), "-server", &dir.address("s"), "-retry", "1"];
    let proxy = Program::start(DC_CLIENT, &words);
    let caller = RawClient::connect(&proxy.address());
    for number in 0..50 {
        assert_eq!(caller.ask(&have(number, b"id")), status(number, HAVE, 2));
    }
    let server = Program::start(DC_SERVER, &["-listen", &dir.address("s")]);
    proxy.err.wait_for("connected to ");
    for number in 0..50 {
        assert_eq!(caller.ask(&have(number, b"id")), status(number, HAVE, 1));
    }
    let said = proxy.end(Signal::TERM).err;
    let times = |what: &str| said.matches(what).count();
    assert_eq!((times(" is unreachable ("), times("connected to ")), (1, 1), "{said}");
    assert_eq!(server.end(Signal::TERM).code, 0);
}

#[test]
fn a_snoop_s_connections_that_broke_hold_no_buffers() {
    let dir = Dir::new();
    let listener = UnixListener::bind(dir.join("s")).expect("a free path");
    let snoop = start::before(DC_SNOOP, &dir.address("c"), &dir.address("s"), &[]);
    let connect = || {
        let client = RawClient::connect(&dir.address("c"));
        (client, listener.accept().expect("the snoop").0)
    };
    // Each connection has two buffers at most, so this is more than there are.
    for _ in 0..=2 * CONNECTIONS_MAX / 200 {
        let (clients, servers): (Vec<_>, Vec<_>) = (0..200).map(|_| connect()).unzip();
        // What it finds when it goes on is for those who have gone.
        snoop.freeze();
        for client in &clients {
            client.send(&have(1, b"id"));
        }
        drop(servers);
        snoop.signal(Signal::CONT);
        for client in clients {
            client.rest();
        }
    }
    let client = RawClient::connect(&dir.address("c"));
    let (mut server, _) = listener.accept().expect("the snoop");
    client.send(&have(2, b"id"));
    let mut request = have(2, b"id");
    std::io::Read::read_exact(&mut server, &mut request).expect("a request");
    assert_eq!(request, have(2, b"id"));
    assert_eq!(snoop.end(Signal::TERM).code, 0);
}
