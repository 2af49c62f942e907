//! A server by itself, without harness.

use super::*;
use crate::clients::Limits;
use crate::machine::{Exchanged, Next};
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

type OwnedServer = Server<Table<vec::Vec<[u8; 64]>>, vec::Vec<ClientSlot>, vec::Vec<u8>>;

/// A server for `clients` clients with these buffers, and a HAVE for it.
fn with_buffers(clients: usize, buffers: usize) -> (OwnedServer, [u8; HEADER_LEN + 2]) {
    let layout = Layout::new(1, 256).unwrap();
    let table = Table::new(layout, [0; 16], |lines| vec![[0; 64]; lines]).unwrap();
    let sizes = Sizes { buffers, ..Sizes::for_clients(clients) };
    let pool = Pool::new(vec![0; sizes.bytes()], sizes.buffer_len);
    let server = Server::new(sizes.slots().collect(), pool, CONFIG, table).unwrap();
    let mut request = [0; HEADER_LEN + 2];
    wire::frame(&mut request, &Envelope::request(1, Op::Have), 2).unwrap();
    (server, request)
}

#[test]
fn an_exchange_takes_all_input_and_says_what_is_next() {
    let (mut server, request) = with_buffers(1, 2);
    let now = Instant::ORIGIN;
    let peer = Peer::Client(server.open(now).unwrap());
    let mut output = [0; 100];
    let answer = HEADER_LEN + 1;
    let (first, second) = request.split_at(5);
    let done = server.exchange(now, peer, first, &mut output);
    assert_eq!(done, Exchanged { taken: 5, written: 0, next: Next::Receive });
    let done = server.exchange(now, peer, second, &mut output);
    assert_eq!(done, Exchanged { taken: second.len(), written: answer, next: Next::Receive });
    // An output that is too short gets the answers piece by piece.
    let done = server.exchange(now, peer, &request.repeat(3), &mut output[..answer + 1]);
    assert_eq!((done.written, done.next), (answer + 1, Next::Send));
    let done = server.exchange(now, peer, &[], &mut output);
    assert_eq!(done, Exchanged { taken: 0, written: 2 * answer - 1, next: Next::Receive });
    assert_eq!((server.buffers_free(), server.operations().total), (2, 4));
    // Nothing is lost at the end either.
    let done = server.exchange(now, peer, &request, &mut []);
    assert_eq!((done.taken, done.next), (request.len(), Next::Send));
    server.ended(now, peer);
    let done = server.exchange(now, peer, &[], &mut output);
    assert_eq!(done, Exchanged { taken: 0, written: answer, next: Next::Close });
    server.closed(peer);
    let done = server.exchange(now, peer, &request, &mut output);
    assert_eq!(done, Exchanged { taken: 0, written: 0, next: Next::Close });
    assert_eq!((server.buffers_free(), server.clients()), (2, 0));
}

#[test]
fn an_exchange_that_finds_no_buffer_waits_and_goes_on_later() {
    let (mut server, request) = with_buffers(2, 2);
    let now = Instant::ORIGIN;
    let [a, b] = [(); 2].map(|()| Peer::Client(server.open(now).unwrap()));
    let mut output = [0; 100];
    assert_eq!(server.exchange(now, a, &request[..5], &mut output).next, Next::Receive);
    let done = server.exchange(now, b, &request, &mut output);
    assert_eq!(done, Exchanged { taken: 0, written: 0, next: Next::Wait });
    assert_eq!(server.exchange(now, a, &request[5..], &mut output).written, HEADER_LEN + 1);
    let done = server.exchange(now, b, &request, &mut output);
    assert_eq!((done.taken, done.written), (request.len(), HEADER_LEN + 1));
}

#[test]
fn a_malformed_request_closes_only_its_own_connection() {
    let (mut server, request) = with_buffers(2, 4);
    let now = Instant::ORIGIN;
    let [a, b] = [(); 2].map(|()| Peer::Client(server.open(now).unwrap()));
    let mut output = [0; 100];
    assert_eq!(server.exchange(now, a, &[0xFF; 14], &mut output).next, Next::Close);
    assert_eq!(server.exchange(now, b, &request, &mut output).next, Next::Receive);
}
