//! Moving a client from one server to another, with the bytes that are on their way.
//!
//! ```text
//!  old server   inbox  [ requests that are not answered yet ]   outbox [ answers not sent yet ]
//!                  │ export: lent, not copied                      │
//!                  ▼                                               ▼ import: copied
//!  new server   inbox  [ the same ]                             outbox [ the same ]
//! ```
//!
//! The two servers have the same sessions, and the caller moves the socket. A byte that was received
//! is in the inbox or has been answered, and an answer is in the outbox or has been sent. So each
//! request is answered exactly once, wherever the stream is cut.

use core::fmt;

use super::{ClientSlot, Server};
use crate::memory::Array;
use crate::slots::Key;
use crate::time::Instant;

/// What a server knows of a client's connection.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub struct Transfer<'a> {
    /// Bytes received: whole requests that wait for room for their answers, and the beginning of
    /// another one. At most the length of one buffer.
    pub input: &'a [u8],
    /// Answers that are not sent yet. At most the length of one buffer.
    pub output: &'a [u8],
    /// Whether the client sends no more: it has closed its sending side, or sent something
    /// malformed.
    pub input_over: bool,
}

/// Shows lengths only, since the bytes are secret: sessions.
impl fmt::Debug for Transfer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { input, output, input_over } = self;
        let (input, output) = (input.len(), output.len());
        write!(f, "Transfer({input} bytes in, {output} out, over: {input_over})")
    }
}

impl<S, C, B> Server<S, C, B> {
    /// The store, to put sessions of another server into it.
    pub const fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }
}

impl<S, C: Array<ClientSlot>, B: Array<u8>> Server<S, C, B> {
    /// A client's part of a transfer; `None` if there is no such client, or it is being closed.
    pub fn export(&self, key: Key) -> Option<Transfer<'_>> {
        self.clients.export(key)
    }

    /// Takes in a client of another server, which then is as it was there. Its timeouts start again.
    /// [`Counters::accepted`](crate::Counters::accepted) does not count it.
    ///
    /// `None` if all places are taken, if there is no buffer for its bytes, or if they are longer than
    /// a buffer: nothing has changed then.
    pub fn import(&mut self, now: Instant, client: Transfer<'_>) -> Option<Key> {
        self.clients.import(now, client)
    }

    /// Starts the timeouts of a client again, as if it had just sent or received something: after a
    /// time in which nothing could be received from it.
    pub fn restart_timeout(&mut self, now: Instant, key: Key) {
        self.clients.retime(now, key, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Limits;
    use crate::machine::{Machine, Next, Peer, Wants};
    use crate::server::Config;
    use crate::table::{Layout, Table};
    use crate::wire::{self, Envelope, HEADER_LEN, MESSAGE_MAX, Op};
    use crate::{Pool, slots::Slot};
    use core::time::Duration;
    use std::vec::Vec;
    use std::{format, vec};

    type Owned = Server<Table<Vec<[u8; 64]>>, Vec<ClientSlot>, Vec<u8>>;

    const LIMITS: Limits =
        Limits { idle: Some(Duration::from_secs(5)), patience: Some(Duration::from_secs(1)) };

    fn table() -> Table<Vec<[u8; 64]>> {
        let layout = Layout::new(16, 4096).unwrap();
        Table::new(layout, [0; 16], |lines| vec![[0; 64]; lines]).unwrap()
    }

    fn server(clients: usize, buffers: usize, table: Table<Vec<[u8; 64]>>) -> Owned {
        let slots = (0..clients).map(|_| Slot::EMPTY).collect();
        let pool = Pool::new(vec![0; buffers * MESSAGE_MAX], MESSAGE_MAX);
        Server::new(slots, pool, Config::new(LIMITS), table).unwrap()
    }

    fn message(uid: u32, op: Op, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN + payload.len()];
        bytes[HEADER_LEN..].copy_from_slice(payload);
        wire::frame(&mut bytes, &Envelope::request(uid, op), payload.len()).unwrap();
        bytes
    }

    /// ADD, GET, HAVE, REMOVE, GET of one session.
    fn conversation() -> Vec<u8> {
        let mut add = Vec::from(60_000_u32.to_be_bytes());
        add.extend(2_u32.to_be_bytes());
        add.extend(b"idsession");
        let requests = [
            (Op::Add, &add[..]),
            (Op::Get, b"id"),
            (Op::Have, b"id"),
            (Op::Remove, b"id"),
            (Op::Get, b"id"),
        ];
        let message = |(uid, &(op, payload)): (u32, &(Op, &[u8]))| message(uid, op, payload);
        (1..).zip(&requests).flat_map(message).collect()
    }

    /// Sends requests to a client's server and returns up to `most` bytes of answers.
    fn ask(server: &mut Owned, key: Key, requests: &[u8], most: usize) -> Vec<u8> {
        let mut output = vec![0; most];
        let done = server.exchange(Instant::ORIGIN, Peer::Client(key), requests, &mut output);
        assert_eq!(done.taken, requests.len());
        output.truncate(done.written);
        output
    }

    fn answers() -> Vec<u8> {
        let mut server = server(1, 2, table());
        let key = server.open(Instant::ORIGIN).unwrap();
        ask(&mut server, key, &conversation(), 1000)
    }

    /// Moves the only client of a server to a new one, which gets the sessions.
    fn moved(old: Owned, key: Key) -> (Owned, Key) {
        let client = old.export(key).unwrap();
        let (input, output) = (client.input.to_vec(), client.output.to_vec());
        let input_over = client.input_over;
        let Server { store, .. } = old;
        let mut new = server(1, 2, store);
        let transfer = Transfer { input: &input, output: &output, input_over };
        let key = new.import(Instant::ORIGIN, transfer).unwrap();
        new.check().unwrap();
        (new, key)
    }

    #[test]
    fn a_client_that_moves_at_any_byte_gets_each_answer_once() {
        let (requests, expected) = (conversation(), answers());
        assert!(expected.len() > 5 * HEADER_LEN);
        for cut in 0..=requests.len() {
            for most in 0..=expected.len() {
                let mut old = server(1, 2, table());
                let key = old.open(Instant::ORIGIN).unwrap();
                let mut received = ask(&mut old, key, &requests[..cut], most);
                let (mut new, key) = moved(old, key);
                // What the old server has left undone needs no further byte.
                received.extend(ask(&mut new, key, &[], 1000));
                received.extend(ask(&mut new, key, &requests[cut..], 1000));
                assert_eq!(received, expected, "cut at {cut}, {most} bytes sent before");
                assert_eq!(new.buffers_free(), 2);
                new.check().unwrap();
            }
        }
    }

    #[test]
    fn requests_that_nobody_has_looked_at_are_answered_by_the_new_server() {
        let (requests, expected) = (conversation(), answers());
        let mut old = server(1, 2, table());
        let key = old.open(Instant::ORIGIN).unwrap();
        old.space(Peer::Client(key))[..requests.len()].copy_from_slice(&requests);
        old.filled(Peer::Client(key), requests.len());
        let (mut new, key) = moved(old, key);
        assert_eq!(ask(&mut new, key, &[], 1000), expected);
    }

    #[test]
    fn a_client_that_sends_no_more_is_closed_once_it_has_its_answers() {
        let mut old = server(1, 2, table());
        let key = old.open(Instant::ORIGIN).unwrap();
        ask(&mut old, key, &conversation(), 3);
        old.ended(Instant::ORIGIN, Peer::Client(key));
        let (mut new, key) = moved(old, key);
        let mut output = [0; 1000];
        let done = new.exchange(Instant::ORIGIN, Peer::Client(key), &[], &mut output);
        assert_eq!((&output[..done.written], done.next), (&answers()[3..], Next::Close));
    }

    #[test]
    fn an_idle_client_is_polled_and_its_timeouts_start_again() {
        let old_now = Instant::from_millis(4_000);
        let mut old = server(1, 2, table());
        let key = old.open(Instant::ORIGIN).unwrap();
        old.restart_timeout(old_now, key);
        assert_eq!(old.deadline(), Some(Instant::from_millis(9_000)));
        old.store_mut().clear();
        let (mut new, key) = moved(old, key);
        assert_eq!(new.advance(Instant::ORIGIN), Some(Peer::Client(key)), "the loop watches it");
        let wants = new.wants(Peer::Client(key));
        assert_eq!(wants, Wants { read: true, ..Wants::default() });
        assert_eq!(new.deadline(), Some(Instant::from_millis(5_000)));
        assert_eq!((new.clients(), new.counters().accepted), (1, 0));
    }

    #[test]
    fn a_client_without_a_place_or_a_buffer_is_refused_and_nothing_changes() {
        let mut new = server(2, 2, table());
        let (long, bytes) = (vec![0; MESSAGE_MAX + 1], [7; 9]);
        let whole = Transfer { input: &bytes, output: &bytes, input_over: false };
        for refused in [
            Transfer { input: &long, ..Transfer::default() },
            Transfer { output: &long, ..Transfer::default() },
        ] {
            assert_eq!(new.import(Instant::ORIGIN, refused), None);
            assert_eq!((new.clients(), new.buffers_free()), (0, 2));
        }
        assert!(new.import(Instant::ORIGIN, whole).is_some());
        assert_eq!(new.import(Instant::ORIGIN, whole), None, "no buffer");
        assert_eq!((new.clients(), new.buffers_free()), (1, 0));
        assert!(new.import(Instant::ORIGIN, Transfer::default()).is_some());
        assert_eq!(new.import(Instant::ORIGIN, Transfer::default()), None, "no place");
        assert_eq!(new.counters().refused, 0, "the caller says what it refuses");
        new.check().unwrap();
    }

    #[test]
    fn a_client_that_is_being_closed_does_not_move() {
        let mut old = server(1, 2, table());
        let key = old.open(Instant::ORIGIN).unwrap();
        assert_eq!(old.advance(Instant::from_millis(5_000)), Some(Peer::Client(key)));
        assert_eq!(old.export(key), None, "it reached its limit");
        old.closed(Peer::Client(key));
        assert_eq!(old.export(key), None, "it is gone");
        let text = format!("{:?}", Transfer { input: b"secret", ..Transfer::default() });
        assert!(!text.contains("115"), "bytes are never in logs: {text}");
    }
}
