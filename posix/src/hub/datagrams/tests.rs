//! Datagrams, turn by turn.

use std::net::UdpSocket;

use super::super::tests::{cache, hub, turn};
use super::*;
use crate::testing::in_child;

/// A listener for datagrams, and a socket that sends there.
fn with_asker<'m>(clients: usize) -> (Hub<impl Machine + 'm>, UdpSocket) {
    let hub = hub(cache(clients), clients, 0, "SESSIOND:127.0.0.1:0");
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
            let (mut hub, asker) = with_asker(8);
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
