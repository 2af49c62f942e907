//! Datagrams, turn by turn.

use std::net::UdpSocket;

use distcache_core::proxy::Mux;

use super::super::tests::{LIMITS, cache, connect_server, hub, mux, turn};
use super::*;
use crate::poller::Events;
use crate::socket::Stream;
use crate::testing::in_child;

/// A listener for datagrams, and a socket that sends there.
fn with_asker<M: Machine>(machine: M, clients: usize, servers: usize) -> (Hub<M>, UdpSocket) {
    let hub = hub(machine, clients, servers, "SESSIOND:127.0.0.1:0");
    let asker = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = hub.listeners[0].listener.address();
    asker.connect(address.strip_prefix("SESSIOND:").unwrap()).unwrap();
    (hub, asker)
}

/// A get of a session that is not there.
fn get() -> [u8; 36] {
    let mut packet = [7; 36];
    packet[..4].copy_from_slice(&[1, 1, 0, 60]);
    packet
}

#[test]
fn a_turn_takes_no_more_than_so_many_datagrams_of_a_listener() {
    in_child(
        "hub::datagrams::tests::a_turn_takes_no_more_than_so_many_datagrams_of_a_listener",
        || {
            let (mut hub, asker) = with_asker(cache(8), 8, 0);
            let helping = HELPING as u64;
            for _ in 0..3 * HELPING {
                asker.send(&get()).unwrap();
            }
            for turns in 1..=3 {
                turn(&mut hub);
                assert_eq!(hub.datagrams.tally.requests, turns * helping);
            }
            assert_eq!((hub.datagrams.tally.refused, hub.datagrams.tally.unsent), (0, 0));
        },
    );
}

/// A proxy with a server that never answers, and a datagram on its way to that.
fn unanswered() -> (Hub<Mux<'static>>, UdpSocket, Stream) {
    let (mut hub, asker) = with_asker(mux(4), 4, 1);
    let theirs = connect_server(&mut hub);
    asker.send(&get()).unwrap();
    turn(&mut hub);
    assert_eq!(hub.datagrams.open(), 1);
    (hub, asker, theirs)
}

#[test]
fn a_datagram_that_the_server_never_answers_is_answered_and_gives_its_place_back() {
    let name = "hub::datagrams::tests::\
                a_datagram_that_the_server_never_answers_is_answered_and_gives_its_place_back";
    in_child(name, || {
        for _ in 0..2 {
            let (mut hub, asker, _server) = unanswered();
            let late = hub.now().after(2 * LIMITS.patience);
            // One turn gives the server up, and the next one tells who waited for it.
            for _ in 0..2 {
                hub.turn(late, &Events::new());
            }
            assert_eq!(hub.datagrams.open(), 0);
            assert_eq!(hub.datagrams.free.len(), hub.datagrams.askers.len());
            let mut answer = get();
            assert_eq!(asker.recv(&mut answer).unwrap(), 36);
            assert_eq!(answer[..2], [1, 0x80], "nothing is there");
            assert_eq!(hub.datagrams.tally.hits, 0);
        }
    });
}
