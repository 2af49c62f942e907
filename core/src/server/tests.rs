//! A server by itself, without harness.

use super::*;
use crate::clients::Limits;
use crate::slots::Slot;
use crate::table::{Layout, Table};
use crate::wire::{self, Envelope, HEADER_LEN, Op};
use std::vec;

const CONFIG: Config = Config::new(Limits::NONE);

#[test]
fn memory_that_is_too_small_is_refused() {
    let cases = [
        (1, 2, MESSAGE_MAX - 1, Some(SetupError::BufferLen)),
        (1, 1, MESSAGE_MAX, Some(SetupError::Buffers(2))),
        (0, 2, MESSAGE_MAX, Some(SetupError::Slots)),
        (1, 2, MESSAGE_MAX, None),
    ];
    for (slots, buffers, len, refused) in cases {
        let layout = Layout::new(1, 256).unwrap();
        let mut sessions = vec![0; layout.size()];
        let table = Table::in_memory(layout, [0; 16], &mut sessions).unwrap();
        let slots: vec::Vec<_> = (0..slots).map(|_| Slot::EMPTY).collect();
        let mut memory = vec![0; buffers * len];
        let pool = Pool::new(&mut memory, len);
        assert_eq!(Server::new(slots, pool, CONFIG, table).err(), refused);
    }
}

#[test]
fn requests_beyond_the_budget_are_answered_once_the_answers_before_them_are_sent() {
    let layout = Layout::new(1, 256).unwrap();
    let mut sessions = vec![0; layout.size()];
    let table = Table::in_memory(layout, [0; 16], &mut sessions).unwrap();
    let mut slots = [const { Slot::EMPTY }];
    let mut memory = vec![0; 2 * MESSAGE_MAX];
    let pool = Pool::new(&mut memory, MESSAGE_MAX);
    let config = Config { budget: 2, ..CONFIG };
    let mut server = Server::new(&mut slots, pool, config, table).unwrap();
    let now = Instant::ORIGIN;
    let peer = Peer::Client(server.open(now).unwrap());
    let mut request = [0; HEADER_LEN + 2];
    wire::frame(&mut request, &Envelope::request(1, Op::Have), 2).unwrap();
    let requests = request.repeat(4);
    server.space(peer)[..requests.len()].copy_from_slice(&requests);
    server.filled(peer, requests.len());
    for asked in [2, 4] {
        assert_eq!(server.advance(now), Some(peer));
        assert_eq!(server.operations().total, asked);
        let len = server.pending(peer).len();
        server.sent(now, peer, 1);
        assert_eq!(server.advance(now), None, "not all answers are sent");
        server.sent(now, peer, len - 1);
    }
    assert_eq!(server.advance(now), None);
    assert_eq!(server.wants(peer), Wants { read: true, ..Wants::default() });
}
