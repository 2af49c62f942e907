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

use crate::conns::{Conn, Conns, Counters, Limits, TooSmall, earlier};
use crate::id::{ID_MAX, Id};
use crate::machine::{Machine, Peer, Wants};
use crate::message::{Add, Status, raise_ttl};
use crate::pool::Pool;
use crate::slots::{Key, Slot};
use crate::table::{AddError, Table};
use crate::time::Instant;
use crate::wire::{self, Direction, Envelope, HEADER_LEN, Malformed, Message, Op, PAYLOAD_MAX};

/// Requests of one client that are answered before the next one's turn.
pub const BUDGET: u32 = 128;
/// How many requests of a batch have their sessions fetched into the processor's cache at a time.
const LOOKAHEAD: u32 = 16;
const AHEAD: usize = LOOKAHEAD as usize;
/// How many expired sessions one call of `advance` drops.
const EXPIRE_BUDGET: usize = 64;
/// Milliseconds between two rounds of dropping what has expired.
const EXPIRE_EVERY: u64 = 1000;

/// Where sessions are kept: the seam for a store other than [`crate::table::Table`].
pub trait Store {
    /// Stores a session for `ttl` milliseconds (0 to [`crate::message::TTL_MAX`]) from `now`.
    ///
    /// # Errors
    /// The status that refuses it; then nothing has changed.
    fn add(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status>;

    /// Stores a session as [`Store::add`] does, in place of what is there.
    ///
    /// # Errors
    /// The status that refuses it; then what is there stays.
    fn put(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status>;

    /// Copies as much of the session as fits to the front of `out`, and says how long it is; `None`
    /// where there is none.
    fn get(&mut self, now: Instant, id: Id<'_>, out: &mut [u8]) -> Option<usize>;

    /// Whether there is a session of this id.
    fn have(&mut self, now: Instant, id: Id<'_>) -> bool;

    /// Forgets the session of this id; false where there is none.
    fn remove(&mut self, now: Instant, id: Id<'_>) -> bool;

    /// Drops up to `budget` sessions that have expired, and says how many it dropped.
    fn expire(&mut self, now: Instant, budget: usize) -> usize;

    /// How many sessions are stored, expired ones that were not dropped yet among them.
    fn len(&self) -> usize;

    /// Whether nothing is stored.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says that these ids are about to be asked for, so that a store whose memory is far away can
    /// send for all of them at once.
    fn touch(&self, _ids: &[Id<'_>]) {}
}

impl Store for Table<'_> {
    fn add(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status> {
        Table::add(self, now, ttl, id, session).map_err(refusal)
    }

    fn put(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status> {
        Table::put(self, now, ttl, id, session).map_err(refusal)
    }

    fn get(&mut self, now: Instant, id: Id<'_>, out: &mut [u8]) -> Option<usize> {
        Table::get(self, now, id, out)
    }

    fn have(&mut self, now: Instant, id: Id<'_>) -> bool {
        self.has(now, id)
    }

    fn remove(&mut self, now: Instant, id: Id<'_>) -> bool {
        Table::remove(self, now, id)
    }

    fn expire(&mut self, now: Instant, budget: usize) -> usize {
        Table::expire(self, now, budget)
    }

    fn len(&self) -> usize {
        Table::len(self) as usize
    }

    fn touch(&self, ids: &[Id<'_>]) {
        core::hint::black_box(Table::touch(self, ids));
    }
}

const fn refusal(error: AddError) -> Status {
    match error {
        AddError::Exists => Status::ADD_EXISTS,
        AddError::Full => Status::NOT_OK,
        AddError::TooLarge => Status::ADD_DATA,
    }
}

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
    /// Those of `adds` that were refused.
    pub refused: u64,
}

/// A cache server without its sockets.
#[derive(Debug)]
pub struct Server<'m, S> {
    conns: Conns<'m>,
    store: S,
    operations: Operations,
    budget: u32,
    min_ttl: u32,
    /// When to look for expired sessions next; not at all while nothing is stored.
    expire_at: Instant,
}

impl<'m, S: Store> Server<'m, S> {
    /// A server for as many clients as there are `slots`. Two buffers a client are enough for every
    /// case; with fewer (2 at least, of [`wire::MESSAGE_MAX`] bytes or more) clients may have to
    /// wait for each other.
    ///
    /// # Errors
    /// [`TooSmall`] says which memory will not do.
    pub fn new(
        slots: &'m mut [Slot<Conn>],
        pool: Pool<'m>,
        limits: Limits,
        store: S,
    ) -> Result<Self, TooSmall> {
        Ok(Self {
            conns: Conns::new(slots, pool, 2, limits)?,
            store,
            operations: Operations::default(),
            budget: BUDGET,
            min_ttl: 0,
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
        self.conns.counters
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        self.conns.len()
    }

    /// How many buffers nobody holds: all of them where no client has bytes waiting.
    pub const fn buffers_free(&self) -> u32 {
        self.conns.pool.free()
    }

    fn serve(&mut self, now: Instant, key: Key) {
        let Some((conn, pool)) = self.conns.get(key) else {
            return;
        };
        if !conn.outbox.is_empty() || conn.inbox.is_empty() {
            return;
        }
        if !conn.outbox.reserve(pool) {
            self.conns.wait_for_room(key);
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
            used: 0,
            written: 0,
        };
        let end = batch.run(input, output, self.budget);
        let (used, written) = (batch.used, batch.written);
        conn.outbox.filled(pool, written);
        conn.inbox.consume(pool, used);
        match end {
            End::Malformed => self.conns.malformed(key),
            End::Budget => self.conns.rework(key),
            End::NeedsMore | End::NoRoom => (),
        }
        self.conns.retime(now, key, used > 0);
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
        self.conns.open(now)
    }

    fn space(&mut self, peer: Peer) -> &mut [u8] {
        match peer {
            Peer::Client(key) => self.conns.space(key),
            Peer::Server(_) => Default::default(),
        }
    }

    fn filled(&mut self, _now: Instant, peer: Peer, len: usize) {
        if let Peer::Client(key) = peer {
            self.conns.filled(key, len);
        }
    }

    fn ended(&mut self, _now: Instant, peer: Peer) {
        if let Peer::Client(key) = peer {
            self.conns.ended(key);
        }
    }

    fn advance(&mut self, now: Instant) -> Option<Peer> {
        if let Some(key) = self.conns.overdue(now, false) {
            return Some(Peer::Client(key));
        }
        self.expire(now);
        let key = match self.conns.first() {
            Some(key) => {
                self.conns.take(key);
                self.serve(now, key);
                key
            }
            None => self.conns.refreshed()?,
        };
        Some(Peer::Client(key))
    }

    fn pending(&self, peer: Peer) -> &[u8] {
        match peer {
            Peer::Client(key) => self.conns.pending(key),
            Peer::Server(_) => &[],
        }
    }

    fn sent(&mut self, now: Instant, peer: Peer, len: usize) {
        if let Peer::Client(key) = peer {
            self.conns.sent(now, key, len);
        }
    }

    fn wants(&self, peer: Peer) -> Wants {
        match peer {
            Peer::Client(key) => self.conns.wants(key),
            Peer::Server(_) => Wants::CLOSE,
        }
    }

    fn closed(&mut self, _now: Instant, peer: Peer) {
        if let Peer::Client(key) = peer {
            self.conns.closed(key);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.conns.first().is_some() {
            return Some(Instant::ORIGIN);
        }
        let expire = (!self.store.is_empty()).then_some(self.expire_at);
        earlier(self.conns.deadline(), expire)
    }
}

/// The requests of one client that are answered in one go.
struct Batch<'a, S> {
    now: Instant,
    store: &'a mut S,
    operations: &'a mut Operations,
    min_ttl: u32,
    /// Bytes of requests answered.
    used: usize,
    /// Bytes of answers.
    written: usize,
}

/// Requests that were measured and are to be answered.
type Ahead = heapless::Vec<Message, AHEAD>;

/// Why a batch ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// More requests may be there, but it is somebody else's turn.
    Budget,
    /// The bytes behind the last request can't become one.
    Malformed,
    /// What is left is the beginning of a request, or nothing.
    NeedsMore,
    /// The next answer has no room before some of the others are sent.
    NoRoom,
}

impl<S: Store> Batch<'_, S> {
    fn run(&mut self, input: &mut [u8], output: &mut [u8], budget: u32) -> End {
        let mut left = budget;
        loop {
            let mut ahead = Ahead::new();
            let rest = input.get(self.used..).unwrap_or_default();
            let end = look_ahead(rest, left.min(LOOKAHEAD), &mut ahead);
            if ahead.len() > 1 {
                self.touch(rest, &ahead);
            }
            for message in &ahead {
                let wire = input.get_mut(self.used..).unwrap_or_default();
                let wire = wire.get_mut(..message.wire_len).unwrap_or_default();
                let room = output.get_mut(self.written..).unwrap_or_default();
                if message.header.op.stores() {
                    raise_ttl(wire.get_mut(HEADER_LEN..).unwrap_or_default(), self.min_ttl);
                }
                match answer(self.now, self.store, message, wire, room) {
                    Ok(Some(answered)) => {
                        self.used = self.used.saturating_add(message.wire_len);
                        self.written = self.written.saturating_add(answered.len);
                        self.operations.count(message.header.op, answered.done);
                    }
                    Ok(None) => return End::NoRoom,
                    Err(_) => return End::Malformed,
                }
                left = left.saturating_sub(1);
            }
            if let Some(end) = end {
                return end;
            }
            if left == 0 {
                return End::Budget;
            }
        }
    }

    /// Sends for the sessions that the requests at the front of `requests` ask for.
    fn touch(&self, requests: &[u8], ahead: &Ahead) {
        let mut rest = requests;
        let mut ids = heapless::Vec::<Id<'_>, AHEAD>::new();
        for message in ahead {
            let Some((wire, behind)) = rest.split_at_checked(message.wire_len) else {
                break;
            };
            let id = wire.get(HEADER_LEN..).and_then(Id::new);
            if let (Some(id), false) = (id, message.header.op.stores()) {
                // There is room for as many as there are messages.
                let _ = ids.push(id);
            }
            rest = behind;
        }
        self.store.touch(&ids);
    }
}

/// Measures up to `most` requests at the front of `requests`, and says why there are no more, if not
/// for `most`.
fn look_ahead(requests: &[u8], most: u32, ahead: &mut Ahead) -> Option<End> {
    let mut rest = requests;
    for _ in 0..most {
        if rest.is_empty() {
            return Some(End::NeedsMore);
        }
        let message = match Message::measure(rest, Direction::Request) {
            Ok(Some(message)) => message,
            Ok(None) => return Some(End::NeedsMore),
            Err(_) => return Some(End::Malformed),
        };
        if ahead.push(message).is_err() {
            return None;
        }
        rest = rest.get(message.wire_len..).unwrap_or_default();
    }
    None
}

impl Operations {
    fn count(&mut self, op: Op, done: bool) {
        let add = |counter: &mut u64, one: bool| *counter = counter.saturating_add(one.into());
        add(&mut self.total, true);
        match op {
            Op::Add | Op::Put => {
                add(&mut self.adds, true);
                add(&mut self.refused, !done);
            }
            Op::Get | Op::Take => {
                add(&mut self.gets, true);
                add(&mut self.hits, done);
            }
            Op::Remove | Op::Have => (),
        }
    }
}

/// One request's answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answered {
    /// Bytes of the answer on the wire.
    pub len: usize,
    /// Whether what was asked for was there, or was done.
    pub done: bool,
}

/// Answers one whole request to the front of `out`; `None`, with nothing changed, where `out` has no
/// room for the answer. [`wire::MESSAGE_MAX`] bytes are always enough.
///
/// `wire` is the request as it was measured; its bytes are of no use afterwards.
///
/// # Errors
/// [`Malformed`] where the payload is none for this operation.
pub fn answer(
    now: Instant,
    store: &mut impl Store,
    message: &Message,
    wire: &mut [u8],
    out: &mut [u8],
) -> Result<Option<Answered>, Malformed> {
    let op = message.header.op;
    let Some((_, room @ [_, ..])) = out.split_at_mut_checked(HEADER_LEN) else {
        return Ok(None);
    };
    // Such a long id is not there, whatever it says.
    let id = match message.payload_len {
        ..=ID_MAX if !op.stores() => Id::new(message.payload(wire)),
        _ => None,
    };
    let status = match (op, id) {
        (Op::Add | Op::Put, _) => match Add::parse(message.payload(wire))? {
            Ok(Add { ttl, id, session }) if op == Op::Add => store.add(now, ttl, id, session).err(),
            Ok(Add { ttl, id, session }) => store.put(now, ttl, id, session).err(),
            Err(status) => Some(status),
        }
        .unwrap_or(Status::OK),
        (Op::Get | Op::Take, Some(id)) => match store.get(now, id, room) {
            Some(len @ 0..=PAYLOAD_MAX) => {
                let answered = reply(message, out, len, true);
                if op == Op::Take && answered.is_some() {
                    store.remove(now, id);
                }
                return Ok(answered);
            }
            _ => Status::NOT_OK,
        },
        (Op::Remove, Some(id)) if store.remove(now, id) => Status::OK,
        (Op::Have, Some(id)) if store.have(now, id) => Status::OK,
        (Op::Get | Op::Remove | Op::Have | Op::Take, _) => Status::NOT_OK,
    };
    if let Some(first) = room.first_mut() {
        *first = status.0;
    }
    Ok(reply(message, out, 1, status == Status::OK))
}

#[inline]
fn reply(message: &Message, out: &mut [u8], payload_len: usize, done: bool) -> Option<Answered> {
    let envelope = Envelope::answer(&message.header, wire::LEVEL);
    let len = wire::frame(out, &envelope, payload_len)?;
    Some(Answered { len, done })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Geometry;
    use crate::wire::MESSAGE_MAX;
    use std::vec;

    const LIMITS: Limits = Limits { idle: 0, patience: 0 };

    #[test]
    fn memory_that_will_not_do_is_refused() {
        let cases = [
            (1, 2, MESSAGE_MAX - 1, Some(TooSmall::BufferLen)),
            (1, 1, MESSAGE_MAX, Some(TooSmall::Buffers(2))),
            (0, 2, MESSAGE_MAX, Some(TooSmall::Slots)),
            (1, 2, MESSAGE_MAX, None),
        ];
        for (slots, buffers, len, too_small) in cases {
            let geometry = Geometry::new(1, 256).unwrap();
            let mut sessions = vec![0; geometry.size()];
            let table = Table::new(&mut sessions, geometry, [0; 16]).unwrap();
            let mut slots: vec::Vec<_> = (0..slots).map(|_| Slot::EMPTY).collect();
            let mut memory = vec![0; buffers * len];
            let pool = Pool::new(&mut memory, len);
            assert_eq!(Server::new(&mut slots, pool, LIMITS, table).err(), too_small);
        }
    }

    #[test]
    fn an_answer_without_room_changes_nothing() {
        let geometry = Geometry::new(4, 4096).unwrap();
        let mut sessions = vec![0; geometry.size()];
        let mut table = Table::new(&mut sessions, geometry, [0; 16]).unwrap();
        let id = Id::new(b"id").unwrap();
        let mut ask = |op, payload: &[u8], room| {
            let mut wire = [0; 64];
            wire[HEADER_LEN..][..payload.len()].copy_from_slice(payload);
            wire::frame(&mut wire, &Envelope::request(1, op), payload.len()).unwrap();
            let message = Message::measure(&wire, Direction::Request).unwrap().unwrap();
            let mut out = [0; 64];
            let answer =
                answer(Instant::ORIGIN, &mut table, &message, &mut wire, &mut out[..room]).unwrap();
            (answer.map(|answered| answered.len), Store::len(&table))
        };
        let add =
            [&100_u32.to_be_bytes()[..], &2_u32.to_be_bytes(), id.bytes(), b"session"].concat();
        assert_eq!(ask(Op::Add, &add, 14), (None, 0));
        assert_eq!(ask(Op::Add, &add, 15), (Some(15), 1));
        assert_eq!(ask(Op::Get, id.bytes(), 20), (None, 1));
        assert_eq!(ask(Op::Get, id.bytes(), 21), (Some(21), 1));
        assert_eq!(ask(Op::Remove, id.bytes(), 14), (None, 1));
        assert_eq!(ask(Op::Remove, id.bytes(), 15), (Some(15), 0));
    }
}
