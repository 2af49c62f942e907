//! Daemons that listen on every interface: which family they hear, and where they answer from.
#![cfg(target_os = "linux")]

use std::net::UdpSocket;

use distcache_testing::process::{PATIENCE, Program, Signal};
use distcache_testing::sessiond::{key, packet};

const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

/// A reply over UDP that comes from another address than was asked does not reach a socket that is
/// connected to that.
#[test]
fn datagrams_are_answered_from_the_address_that_was_asked() {
    let server = Program::start(DC_SERVER, &["-listen", "SESSIOND:0.0.0.0:0"]);
    let address = server.address();
    let (_, port) = address.rsplit_once(':').expect("a port");
    for host in ["127.0.0.1", "127.0.0.2", "127.9.9.9"] {
        let asker = UdpSocket::bind("127.0.0.1:0").expect("a socket for datagrams");
        asker.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        asker.connect(format!("{host}:{port}")).expect("an address to send to");
        asker.send(&packet(1, 77, &key(b"id"), b"")).expect("room for it");
        let mut answer = [0; 99];
        let len = asker.recv(&mut answer).unwrap_or_else(|error| panic!("{host}: {error}"));
        assert_eq!(answer[..len], packet(0x80, 77, &key(b"id"), b""));
    }
    assert_eq!(server.end(Signal::TERM).code, 0);
}
