//! Daemons that listen on every interface: address families, and the source of answers.
#![cfg(target_os = "linux")]

use std::net::{TcpListener, UdpSocket};

use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::process::{Program, Signal, TIMEOUT, skip};
use distcache_testing::raw_client::RawClient;
use distcache_testing::sessiond::{key, packet};

const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

/// A connected UDP socket only receives from the address that it sends to.
#[test]
fn datagrams_are_answered_from_the_address_they_were_sent_to() {
    let server = Program::start(DC_SERVER, &["-listen", "SESSIOND:0.0.0.0:0"]);
    let address = server.address();
    let (_, port) = address.rsplit_once(':').expect("a port");
    for host in ["127.0.0.1", "127.0.0.2", "127.9.9.9"] {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket for datagrams");
        udp.set_read_timeout(Some(TIMEOUT)).expect("a socket takes a timeout");
        udp.connect(format!("{host}:{port}")).expect("an address to send to");
        udp.send(&packet(1, 77, &key(b"id"), b"")).expect("room for it");
        let mut answer = [0; 99];
        let len = udp.recv(&mut answer).unwrap_or_else(|error| panic!("{host}: {error}"));
        assert_eq!(answer[..len], packet(0x80, 77, &key(b"id"), b""));
    }
    assert_eq!(server.end(Signal::TERM).code, 0);
}

/// Returns whether this machine has IPv6. If not, reports the test as skipped.
fn has_ipv6() -> bool {
    let there = TcpListener::bind("[::1]:0").is_ok();
    if !there {
        skip("IPv6");
    }
    there
}

#[test]
fn a_port_without_a_host_is_for_both_families_unless_one_is_named() {
    if !has_ipv6() {
        return;
    }
    for (listen, both) in [
        ("IP:0", [true, true]),
        ("IP::0", [true, true]),
        ("IPv4:0", [true, false]),
        ("IPv6:0", [false, true]),
    ] {
        let server = Program::start(DC_SERVER, &["-listen", listen]);
        let address = server.address();
        let (_, port) = address.rsplit_once(':').expect("a port");
        for (host, heard) in ["127.0.0.1", "[::1]"].into_iter().zip(both) {
            match RawClient::try_connect(&format!("IP:{host}:{port}")) {
                Ok(client) => {
                    assert!(heard, "{listen} is not for {host}");
                    assert_eq!(client.ask(&have(1, b"id")), status(1, HAVE, 1));
                }
                Err(error) => assert!(!heard, "{listen} is for {host}: {error}"),
            }
        }
        assert_eq!(server.end(Signal::TERM).code, 0);
    }
}

#[test]
fn a_port_used_in_one_family_is_refused_for_both() {
    if !has_ipv6() {
        return;
    }
    for taken in ["IPv4:0", "IPv6:0"] {
        let server = Program::start(DC_SERVER, &["-listen", taken]);
        let address = server.address();
        let (_, port) = address.rsplit_once(':').expect("a port");
        let ended = Program::run(DC_SERVER, &["-listen", &format!("IP:{port}")]);
        assert!(ended.code == 1 && ended.err.contains("in use by another server"), "{ended:?}");
    }
}
