//! Datagrams, turn by turn.

use std::net::UdpSocket;

use super::super::tests::{OwnedProxy, PATIENCE, cache, connect_server, event_loop, proxy, turn};
use super::*;
use crate::net::poller::Events;
use crate::net::stream::Stream;
use crate::testing::in_child;

/// A listener for datagrams, and a socket that sends there.
fn with_asker<M: Machine>(machine: M, clients: usize) -> (EventLoop<M>, UdpSocket) {
    let event_loop = event_loop(machine, clients, "SESSIOND:127.0.0.1:0");
    let asker = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = event_loop.listeners[0].listener.address();
    asker.connect(address.strip_prefix("SESSIOND:").unwrap()).unwrap();
    (event_loop, asker)
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
        "event_loop::datagrams::tests::a_turn_takes_no_more_than_so_many_datagrams_of_a_listener",
        || {
            let (mut event_loop, asker) = with_asker(cache(8), 8);
            let helping = DATAGRAMS_PER_TURN as u64;
            for _ in 0..3 * DATAGRAMS_PER_TURN {
                asker.send(&get()).unwrap();
            }
            for turns in 1..=3 {
                turn(&mut event_loop);
                assert_eq!(event_loop.datagrams.counts.requests, turns * helping);
            }
            assert_eq!(
                (event_loop.datagrams.counts.refused, event_loop.datagrams.counts.unsent),
                (0, 0)
            );
        },
    );
}

/// A proxy with a server that never answers, and a datagram on its way to that.
fn unanswered() -> (EventLoop<OwnedProxy>, UdpSocket, Stream) {
    let (mut event_loop, asker) = with_asker(proxy(4), 4);
    let theirs = connect_server(&mut event_loop);
    asker.send(&get()).unwrap();
    turn(&mut event_loop);
    assert_eq!(event_loop.datagrams.open(), 1);
    (event_loop, asker, theirs)
}

#[test]
fn a_datagram_that_the_server_never_answers_is_answered_and_gives_its_place_back() {
    let name = "event_loop::datagrams::tests::\
                a_datagram_that_the_server_never_answers_is_answered_and_gives_its_place_back";
    in_child(name, || {
        for _ in 0..2 {
            let (mut event_loop, asker, _server) = unanswered();
            let late = event_loop.now().after(2 * PATIENCE.as_millis() as u64);
            // One turn gives the server up, and the next one tells who waited for it.
            for _ in 0..2 {
                event_loop.turn(late, &Events::new());
            }
            assert_eq!(event_loop.datagrams.open(), 0);
            assert_eq!(event_loop.datagrams.free.len(), event_loop.datagrams.open.len());
            let mut answer = get();
            assert_eq!(asker.recv(&mut answer).unwrap(), 36);
            assert_eq!(answer[..2], [1, 0x80], "nothing is there");
            assert_eq!(event_loop.datagrams.counts.hits, 0);
        }
    });
}

#[test]
fn a_datagram_that_was_answered_leaves_nothing_behind() {
    in_child(
        "event_loop::datagrams::tests::a_datagram_that_was_answered_leaves_nothing_behind",
        || {
            let (mut event_loop, asker) = with_asker(cache(8), 8);
            let value = [&[1, 0, 0, 60][..], &[7; 32], &[9; 200]].concat();
            for (datagram, answer) in [(&value[..], 0), (&get()[..], 236)] {
                asker.send(datagram).unwrap();
                turn(&mut event_loop);
                assert_eq!(event_loop.datagrams.open(), 0);
                if answer > 0 {
                    assert_eq!(asker.recv(&mut [0; 512]).unwrap(), answer);
                }
                assert_eq!(event_loop.datagrams.buffer, [0; PACKET_MAX + 1]);
                for exchange in &event_loop.datagrams.exchanges {
                    assert_eq!(exchange.request(&mut [0; 1024]), None, "it was cleared");
                }
            }
        },
    );
}
