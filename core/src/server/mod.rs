//! The server: many clients and one store.
//!
//! ```text
//!            space/filled                                     pending/sent
//!  client ──────────────► inbox ──► measure, answer ──► outbox ──────────► client
//!                                        │  ▲
//!                                        ▼  │
//!                                        Store
//! ```
//!
//! `advance` answers as many whole requests of one client as there are, as there is room for and as
//! the budget allows, in their order, and puts all answers into one buffer for one send. Nobody's
//! second helping comes before everybody else's first.

mod answer;
mod batch;
mod store;

pub use answer::{Answered, answer};
pub use store::Store;

use crate::buffer::Pool;
use crate::clients::{Client, Clients, Counters, Limits, SetupError, earlier};
use crate::machine::{Machine, Peer, Wants};
use crate::message::{Status, TTL_MAX};
use crate::slots::{Key, Slot};
use crate::time::Instant;
use crate::wire::Op;
use batch::{Batch, End};

/// Requests of one client that are answered before the next one's turn.
pub const BUDGET: u32 = 128;
/// How many expired sessions one call of `advance` drops.
const EXPIRE_BUDGET: usize = 64;
/// Milliseconds between two rounds of dropping what has expired.
const EXPIRE_EVERY: u64 = 1000;

/// How many requests were answered, by operation, and how.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Operations {
    /// All requests answered.
    pub total: u64,
    /// Requests to fetch a session: GET and TAKE.
    pub gets: u64,
    /// Those of `gets` that were answered with a session.
    pub hits: u64,
    /// Requests to store a session: ADD and PUT.
    pub adds: u64,
    /// Those of `adds` that were refused because a session of this id is there.
    pub existing: u64,
    /// Those of `adds` that were refused because the store has no room for them.
    pub no_room: u64,
    /// Those of `adds` that were refused because a part of them is out of range.
    pub invalid: u64,
}

impl Operations {
    fn count(&mut self, op: Op, status: Status) {
        let done = status == Status::OK;
        let add = |counter: &mut u64, one: bool| *counter = counter.saturating_add(one.into());
        add(&mut self.total, true);
        match op {
            Op::Add | Op::Put => {
                add(&mut self.adds, true);
                match status {
                    Status::OK => {}
                    Status::ADD_EXISTS => add(&mut self.existing, true),
                    Status::NOT_OK | Status::ADD_DATA => add(&mut self.no_room, true),
                    _ => add(&mut self.invalid, true),
                }
            }
            Op::Get | Op::Take => {
                add(&mut self.gets, true);
                add(&mut self.hits, done);
            }
            Op::Remove | Op::Have => (),
        }
    }
}

/// A cache server without its sockets.
#[derive(Debug)]
pub struct Server<'m, S> {
    clients: Clients<'m>,
    store: S,
    operations: Operations,
    budget: u32,
    min_ttl: u32,
    max_ttl: u32,
    /// When to look for expired sessions next, if any has expired by then.
    expire_at: Instant,
}

impl<'m, S: Store> Server<'m, S> {
    /// A server for as many clients as there are `slots`. Two buffers a client are enough for every
    /// case; with fewer (2 at least, of [`MESSAGE_MAX`](crate::wire::MESSAGE_MAX) bytes or more) clients may have to
    /// wait for each other.
    ///
    /// # Errors
    /// [`SetupError`] says which memory will not do.
    pub fn new(
        slots: &'m mut [Slot<Client>],
        pool: Pool<'m>,
        limits: Limits,
        store: S,
    ) -> Result<Self, SetupError> {
        Ok(Self {
            clients: Clients::new(slots, pool, 2, limits)?,
            store,
            operations: Operations::default(),
            budget: BUDGET,
            min_ttl: 0,
            max_ttl: TTL_MAX,
            expire_at: Instant::ORIGIN,
        })
    }

    /// Changes how many requests of one client `advance` answers at most: 1 or more, [`BUDGET`] if
    /// it is never called.
    pub fn set_budget(&mut self, requests: u32) {
        self.budget = requests.max(1);
    }

    /// Stores sessions that are to live for less for `millis` milliseconds; 0, as it is where this is
    /// never called, leaves all as they are.
    pub fn set_min_ttl(&mut self, millis: u32) {
        self.min_ttl = millis;
    }

    /// Stores sessions that ask for more (up to [`TTL_MAX`], which it is where this is never called)
    /// for `millis` milliseconds. Where the least is longer, this wins.
    pub fn set_max_ttl(&mut self, millis: u32) {
        self.max_ttl = millis;
    }

    /// The store.
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// What was answered so far.
    pub const fn operations(&self) -> Operations {
        self.operations
    }

    /// What happened to connections so far.
    pub const fn counters(&self) -> Counters {
        self.clients.counters
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Checks all queues of clients. Takes a time that grows with the memory.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        self.clients.check()
    }

    /// How many buffers nobody holds: all of them where no client has bytes waiting.
    pub const fn buffers_free(&self) -> u32 {
        self.clients.pool.free()
    }

    /// How many buffers that were in use are ready to be used again.
    pub const fn buffers_touched(&self) -> u32 {
        self.clients.pool.touched()
    }

    /// Sets aside buffers that nobody needs any more: see [`Pool::trim`].
    pub fn trim(&mut self, keep: u32, most: u32, discard: impl FnMut(&mut [u8])) -> u32 {
        self.clients.pool.trim(keep, most, discard)
    }

    fn serve(&mut self, now: Instant, key: Key) {
        let Some((conn, pool)) = self.clients.get(key) else {
            return;
        };
        if !conn.outbox.is_empty() || conn.inbox.is_empty() {
            return;
        }
        if !conn.outbox.reserve(pool) {
            self.clients.wait_for_room(key);
            return;
        }
        let Some((input, output)) = pool.between(&conn.inbox, &conn.outbox) else {
            return;
        };
        let mut batch = Batch {
            now,
            store: &mut self.store,
            operations: &mut self.operations,
            min_ttl: self.min_ttl,
            max_ttl: self.max_ttl,
            used: 0,
            written: 0,
        };
        let end = batch.run(input, output, self.budget);
        let (used, written) = (batch.used, batch.written);
        conn.outbox.filled(pool, written);
        conn.inbox.consume(pool, used);
        if end == End::Malformed {
            self.clients.malformed(key);
        }
        // Where budget or room ended it there are answers now, and what is left can only be answered
        // once they are gone: `sent` has it queued then.
        self.clients.retime(now, key, used > 0);
    }

    /// Drops some of what has expired, where it is time to.
    fn expire(&mut self, now: Instant) {
        if now >= self.expire_at {
            let all = self.store.expire(now, EXPIRE_BUDGET) < EXPIRE_BUDGET;
            self.expire_at = now.after(if all { EXPIRE_EVERY } else { 1 });
        }
    }
}

impl<S: Store> Machine for Server<'_, S> {
    fn open(&mut self, now: Instant) -> Option<Key> {
        self.clients.open(now)
    }

    fn space(&mut self, peer: Peer) -> &mut [u8] {
        match peer {
            Peer::Client(key) => self.clients.space(key),
            Peer::Server(_) => Default::default(),
        }
    }

    fn filled(&mut self, _now: Instant, peer: Peer, len: usize) {
        if let Peer::Client(key) = peer {
            self.clients.filled(key, len);
        }
    }

    fn ended(&mut self, now: Instant, peer: Peer) {
        if let Peer::Client(key) = peer {
            self.clients.ended(now, key);
        }
    }

    fn advance(&mut self, now: Instant) -> Option<Peer> {
        if let Some(key) = self.clients.expire_next(now, false) {
            return Some(Peer::Client(key));
        }
        self.expire(now);
        let key = match self.clients.first() {
            Some(key) => {
                self.clients.take(key);
                self.serve(now, key);
                key
            }
            None => self.clients.next_unblocked()?,
        };
        Some(Peer::Client(key))
    }

    fn pending(&self, peer: Peer) -> &[u8] {
        match peer {
            Peer::Client(key) => self.clients.pending(key),
            Peer::Server(_) => &[],
        }
    }

    fn sent(&mut self, now: Instant, peer: Peer, len: usize) {
        if let Peer::Client(key) = peer {
            self.clients.sent(now, key, len);
        }
    }

    fn wants(&self, peer: Peer) -> Wants {
        match peer {
            Peer::Client(key) => self.clients.wants(key),
            Peer::Server(_) => Wants::CLOSE,
        }
    }

    fn closed(&mut self, _now: Instant, peer: Peer) {
        if let Peer::Client(key) = peer {
            self.clients.closed(key);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.clients.first().is_some() {
            return Some(Instant::ORIGIN);
        }
        let expire = self.store.deadline().map(|due| due.max(self.expire_at));
        earlier(self.clients.deadline(), expire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Layout, Table};
    use crate::wire::{self, Envelope, HEADER_LEN, MESSAGE_MAX};
    use std::vec;

    const LIMITS: Limits = Limits { idle: 0, patience: 0 };

    #[test]
    fn memory_that_will_not_do_is_refused() {
        let cases = [
            (1, 2, MESSAGE_MAX - 1, Some(SetupError::BufferLen)),
            (1, 1, MESSAGE_MAX, Some(SetupError::Buffers(2))),
            (0, 2, MESSAGE_MAX, Some(SetupError::Slots)),
            (1, 2, MESSAGE_MAX, None),
        ];
        for (slots, buffers, len, refused) in cases {
            let layout = Layout::new(1, 256).unwrap();
            let mut sessions = vec![0; layout.size()];
            let table = Table::new(&mut sessions, layout, [0; 16]).unwrap();
            let mut slots: vec::Vec<_> = (0..slots).map(|_| Slot::EMPTY).collect();
            let mut memory = vec![0; buffers * len];
            let pool = Pool::new(&mut memory, len);
            assert_eq!(Server::new(&mut slots, pool, LIMITS, table).err(), refused);
        }
    }

    #[test]
    fn who_has_more_to_ask_than_the_budget_is_looked_at_again_once_the_answers_are_sent() {
        let layout = Layout::new(1, 256).unwrap();
        let mut sessions = vec![0; layout.size()];
        let table = Table::new(&mut sessions, layout, [0; 16]).unwrap();
        let mut slots = [const { Slot::EMPTY }];
        let mut memory = vec![0; 2 * MESSAGE_MAX];
        let pool = Pool::new(&mut memory, MESSAGE_MAX);
        let mut server = Server::new(&mut slots, pool, LIMITS, table).unwrap();
        server.set_budget(2);
        let now = Instant::ORIGIN;
        let peer = Peer::Client(server.open(now).unwrap());
        let mut request = [0; HEADER_LEN + 2];
        wire::frame(&mut request, &Envelope::request(1, Op::Have), 2).unwrap();
        let requests = request.repeat(4);
        server.space(peer)[..requests.len()].copy_from_slice(&requests);
        server.filled(now, peer, requests.len());
        for asked in [2, 4] {
            assert_eq!(server.advance(now), Some(peer));
            assert_eq!(server.operations().total, asked);
            let len = server.pending(peer).len();
            server.sent(now, peer, 1);
            assert_eq!(server.advance(now), None, "the answers are not all on their way");
            server.sent(now, peer, len - 1);
        }
        assert_eq!(server.advance(now), None);
        assert_eq!(server.wants(peer), Wants { read: true, ..Wants::default() });
    }
}
