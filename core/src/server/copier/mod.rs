//! Copies the sessions of other servers, one server after the other: for a server that starts empty.
//!
//! ```text
//!        dial               connected: HAVE           level 2: COPY (cursor)
//!  Due ────────► Dialing ────────────────► Talking ◄─┬──────────────────────┐
//!   ▲               │                         │      └─ a piece: add, ask ──┘
//!   │ a new try,    ▼ refused, too late       ▼ all copied, or failed
//!   └──────────── closed ◄───────────────── Closing
//! ```
//!
//! One request is on its way at a time, and its answer is worked off in one step: [`PIECE`] bytes, about
//! as much as the requests of one client's turn. So copying never delays clients for longer than one
//! more client would.
//!
//! Each session is added as a repair: it replaces nothing, and what was removed here while it was on its
//! way is refused. The marks of removed ids are not exact, so a copy during which sessions were refused
//! is made again, after a pause in which the marks have aged.
//!
//! The other server may lie. A cursor that does not grow, a malformed answer, too many sessions or too
//! many empty pieces end the copy. So does silence, after [`TRIES`] attempts.

use super::Store;
use crate::buffer::{Fifo, Pool};
use crate::copy::{Copy, END, Piece};
use crate::id::{ID_MAX, Id};
use crate::machine::{ServerKey, Wants};
use crate::memory::Array;
use crate::message::{Fetched, Status};
use crate::proxy::{Dial, PROBE_ID, SERVERS_MAX, hash, rank};
use crate::table::Layout;
use crate::time::Instant;
use crate::wire::{self, Direction, Envelope, HEADER_LEN, Message, Op};

/// The most servers to copy from.
pub const SOURCES_MAX: usize = SERVERS_MAX - 1;
/// The most bytes of one answer.
const PIECE: u32 = 16_384;
/// How long a server may take to accept, and to answer, in milliseconds.
const PATIENCE: u64 = 5_000;
/// Attempts to copy from a server that is unreachable or breaks off.
const TRIES: u8 = 3;
/// The time between two attempts, in milliseconds.
const RETRY: u64 = 1_000;
/// How often the sessions of one server are copied, if some are refused.
const PASSES: u8 = 3;
/// The time between two passes, in milliseconds: marks of removed ids are too old then.
const PAUSE: u64 = 2_500;
/// The most empty pieces of one pass: a server looks at 1024 blocks for each.
const EMPTY_MAX: u32 = 1 << 22;
/// On how many servers a session is, for [`Copier::set_share`].
const COPIES: usize = 2;

/// Why sessions were not copied from a server, or not all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CopyFailure {
    /// No connection.
    Unreachable,
    /// The connection broke.
    Lost,
    /// No answer for this many milliseconds.
    Silent(u64),
    /// The server does not support COPY.
    OldLevel,
    /// The server does not allow COPY.
    Refused,
    /// An answer is malformed, or the answers do not end.
    Malformed,
}

/// The result of copying from one server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Copied {
    /// The number of the server.
    pub source: u8,
    /// Sessions added.
    pub sessions: u64,
    /// Sessions that the last pass left out, because they may have been removed here meanwhile.
    pub removed: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// Why it ended before the end.
    pub failure: Option<CopyFailure>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Link {
    /// There is nothing more to do.
    Off,
    /// The next attempt to connect is due then.
    Due(Instant),
    /// An attempt to connect, since then.
    Dialing(Instant),
    /// A connection.
    Talking,
    /// A connection that must be closed.
    Closing,
}

/// What the server was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Asked {
    /// Its level.
    Level,
    /// A piece.
    Piece,
    /// The session that the last piece had no room for.
    Session,
    /// Nothing until then: the next pass begins.
    Nothing(Instant),
}

/// The client side of COPY. Its verbs are kept out of line: most servers never need them.
#[derive(Debug)]
pub(super) struct Copier {
    /// The hashes of the servers' names.
    sources: heapless::Vec<u64, SOURCES_MAX>,
    /// The hash of this server's own name, if only its share is copied.
    own: Option<u64>,
    number: u8,
    era: u32,
    link: Link,
    /// The server sends no more.
    ended: bool,
    /// The inbox may hold a complete answer.
    unread: bool,
    /// What its socket waits for has changed, and `advance` has not said so.
    wants_changed: bool,
    inbox: Fifo,
    outbox: Fifo,
    asked: Asked,
    asked_at: Instant,
    stamp: u64,
    uid: u32,
    cursor: u32,
    /// The id of a session that must be fetched by itself; empty if there is none.
    wanted: heapless::Vec<u8, ID_MAX>,
    /// Sessions and empty pieces of this pass.
    seen: u32,
    empty: u32,
    pass: u8,
    tries: u8,
    began: Instant,
    /// The latest time that was passed.
    now: Instant,
    copied: Copied,
    result: Option<Copied>,
}

const NOTHING: Copied = Copied { source: 0, sessions: 0, removed: 0, millis: 0, failure: None };

impl Copier {
    /// Nothing to copy.
    pub(super) const fn new() -> Self {
        Self {
            sources: heapless::Vec::new(),
            own: None,
            number: 0,
            era: 0,
            link: Link::Off,
            ended: false,
            unread: false,
            wants_changed: false,
            inbox: Fifo::new(),
            outbox: Fifo::new(),
            asked: Asked::Level,
            asked_at: Instant::ORIGIN,
            stamp: 0,
            uid: 0,
            cursor: 0,
            wanted: heapless::Vec::new(),
            seen: 0,
            empty: 0,
            pass: 0,
            tries: 0,
            began: Instant::ORIGIN,
            now: Instant::ORIGIN,
            copied: NOTHING,
            result: None,
        }
    }

    /// Adds a server to copy from, by its name. Beyond [`SOURCES_MAX`] it is ignored.
    pub(super) fn add_source(&mut self, now: Instant, name: &[u8]) {
        if self.sources.push(hash(name)).is_ok() && self.link == Link::Off {
            self.link = Link::Due(now);
            (self.began, self.now) = (now, now);
        }
    }

    /// Copies only what proxies with two copies would keep here: this server is called `name`.
    pub(super) fn set_share(&mut self, name: &[u8]) {
        self.own = Some(hash(name));
    }

    /// The result that was not taken yet.
    pub(super) const fn take_result(&mut self) -> Option<Copied> {
        self.result.take()
    }

    /// Whether there is nothing left to copy.
    pub(super) fn is_done(&self) -> bool {
        self.link == Link::Off
    }

    const fn key(&self) -> ServerKey {
        ServerKey::new(self.number, self.era)
    }

    #[cold]
    #[inline(never)]
    pub(super) fn dial(&mut self, now: Instant) -> Option<Dial> {
        self.now = now;
        match self.link {
            Link::Due(at) if at <= now => {
                self.link = Link::Dialing(now);
                Some(Dial::Connect(self.key()))
            }
            Link::Dialing(since) if since.after(PATIENCE) <= now => {
                let key = self.key();
                self.end_try(now, CopyFailure::Unreachable);
                Some(Dial::Cancel(key))
            }
            _ => None,
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn connected(
        &mut self,
        now: Instant,
        key: ServerKey,
        pool: &mut Pool<impl Array<u8>>,
        store: &impl Store,
    ) {
        if self.key() != key || !matches!(self.link, Link::Dialing(_)) {
            return;
        }
        (self.link, self.now) = (Link::Talking, now);
        (self.ended, self.unread) = (false, false);
        (self.cursor, self.seen, self.empty) = (0, 0, 0);
        self.ask(now, pool, store, Asked::Level, PROBE_ID);
        self.wants_changed = true;
    }

    #[cold]
    #[inline(never)]
    pub(super) fn closed(&mut self, key: ServerKey, pool: &mut Pool<impl Array<u8>>) {
        if self.key() != key || matches!(self.link, Link::Off | Link::Due(_)) {
            return;
        }
        let now = self.now;
        self.inbox.clear(pool);
        self.outbox.clear(pool);
        match self.link {
            Link::Dialing(_) => self.end_try(now, CopyFailure::Unreachable),
            Link::Talking => self.end_try(now, CopyFailure::Lost),
            // The result is known.
            _ => self.leave(now),
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn space<'a>(
        &mut self,
        key: ServerKey,
        pool: &'a mut Pool<impl Array<u8>>,
    ) -> &'a mut [u8] {
        if !self.is_talking(key) || self.ended {
            return Default::default();
        }
        self.inbox.space(pool)
    }

    #[cold]
    #[inline(never)]
    pub(super) fn filled(&mut self, key: ServerKey, pool: &mut Pool<impl Array<u8>>, len: usize) {
        if self.is_talking(key) {
            self.inbox.filled(pool, len);
            self.unread |= len > 0;
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn ended(&mut self, key: ServerKey) {
        if self.is_talking(key) {
            (self.ended, self.unread) = (true, true);
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn pending<'a>(&self, key: ServerKey, pool: &'a Pool<impl Array<u8>>) -> &'a [u8] {
        if self.is_talking(key) { self.outbox.bytes(pool) } else { &[] }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn sent(&mut self, key: ServerKey, pool: &mut Pool<impl Array<u8>>, len: usize) {
        if self.is_talking(key) && len > 0 {
            self.outbox.consume(pool, len);
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn wants(&self, key: ServerKey) -> Wants {
        match self.link {
            _ if self.key() != key => Wants::CLOSE,
            Link::Talking => {
                Wants { read: !self.ended, write: !self.outbox.is_empty(), close: false }
            }
            Link::Closing => Wants::CLOSE,
            Link::Off | Link::Due(_) | Link::Dialing(_) => Wants::default(),
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.link {
            Link::Off | Link::Closing => None,
            Link::Due(at) => Some(at),
            Link::Dialing(since) => Some(since.after(PATIENCE)),
            Link::Talking if self.unread || self.wants_changed => Some(Instant::ORIGIN),
            Link::Talking => Some(match self.asked {
                Asked::Nothing(until) => until,
                _ => self.asked_at.after(PATIENCE),
            }),
        }
    }

    /// Does one step. Sessions live for `max_ttl` milliseconds at most.
    #[cold]
    #[inline(never)]
    pub(super) fn advance(
        &mut self,
        now: Instant,
        pool: &mut Pool<impl Array<u8>>,
        store: &mut impl Store,
        max_ttl: u32,
    ) -> Option<ServerKey> {
        self.now = now;
        if self.link != Link::Talking || self.deadline().is_none_or(|at| at > now) {
            return None;
        }
        if core::mem::take(&mut self.wants_changed) {
            return Some(self.key());
        }
        if !self.unread {
            match self.asked {
                Asked::Nothing(_) => self.ask_piece(now, pool, store),
                _ => self.fail(now, CopyFailure::Silent(PATIENCE)),
            }
            return Some(self.key());
        }
        let message = match Message::measure(self.inbox.bytes(pool), Direction::Response) {
            Ok(Some(message)) => message,
            Ok(None) if self.ended => {
                self.fail(now, CopyFailure::Lost);
                return Some(self.key());
            }
            Ok(None) => {
                self.unread = false;
                return None;
            }
            Err(_) => {
                self.fail(now, CopyFailure::Malformed);
                return Some(self.key());
            }
        };
        let next = self.receive(&message, self.inbox.bytes_mut(pool), now, store, max_ttl);
        self.inbox.consume(pool, message.wire_len);
        self.unread = self.ended || !self.inbox.is_empty();
        match next {
            Err(failure) => self.fail(now, failure),
            Ok(()) if !self.wanted.is_empty() => {
                let id = self.wanted.clone();
                self.ask(now, pool, store, Asked::Session, &id);
            }
            Ok(()) if self.cursor == END => self.end_pass(now),
            Ok(()) => self.ask_piece(now, pool, store),
        }
        Some(self.key())
    }

    /// Takes an answer.
    fn receive(
        &mut self,
        message: &Message,
        wire: &mut [u8],
        now: Instant,
        store: &mut impl Store,
        max_ttl: u32,
    ) -> Result<(), CopyFailure> {
        let header = &message.header;
        if Some(header.op) != self.asked.op() || header.uid != self.uid {
            return Err(CopyFailure::Malformed);
        }
        let payload: &[u8] = message.payload(wire);
        match self.asked {
            Asked::Level if header.patch < Op::Copy.level() => Err(CopyFailure::OldLevel),
            Asked::Level | Asked::Nothing(_) => Ok(()),
            Asked::Piece if *payload == [Status::UNSUPPORTED.0] => Err(CopyFailure::Refused),
            Asked::Piece => {
                let piece = Piece::parse(payload).map_err(|_| CopyFailure::Malformed)?;
                self.take_piece(&piece, now, store, max_ttl)
            }
            Asked::Session => {
                let id = core::mem::take(&mut self.wanted);
                match (Id::new(&id), Fetched::parse(payload)) {
                    (Some(id), Ok(Fetched::Session { ttl, session })) => {
                        self.add(now, store, ttl.min(max_ttl), id, session);
                    }
                    // It is gone.
                    (_, Ok(Fetched::Missing(_))) => {}
                    _ => return Err(CopyFailure::Malformed),
                }
                Ok(())
            }
        }
    }

    fn take_piece(
        &mut self,
        piece: &Piece<'_>,
        now: Instant,
        store: &mut impl Store,
        max_ttl: u32,
    ) -> Result<(), CopyFailure> {
        let before = self.seen;
        for record in piece.records() {
            self.seen = self.seen.saturating_add(1);
            match record.session {
                _ if !self.is_ours(record.id) => {}
                Some(session) => self.add(now, store, record.ttl.min(max_ttl), record.id, session),
                None => {
                    self.wanted = heapless::Vec::from_slice(record.id.bytes()).unwrap_or_default();
                }
            }
        }
        self.empty = self.empty.saturating_add((self.seen == before).into());
        let endless = self.seen > Layout::SESSIONS_MAX || self.empty > EMPTY_MAX;
        if endless || piece.next <= self.cursor {
            return Err(CopyFailure::Malformed);
        }
        self.cursor = piece.next;
        Ok(())
    }

    /// Whether a proxy with two copies would keep this session here.
    fn is_ours(&self, id: Id<'_>) -> bool {
        let Some(own) = self.own else {
            return true;
        };
        let id = hash(id.bytes());
        let ours = rank(own, id);
        self.sources.iter().filter(|name| rank(**name, id) > ours).count() < COPIES
    }

    fn add(&mut self, now: Instant, store: &mut impl Store, ttl: u32, id: Id<'_>, session: &[u8]) {
        match store.repair(now, self.stamp, ttl, id, session) {
            Ok(()) => self.copied.sessions = self.copied.sessions.saturating_add(1),
            Err(Status::REMOVED) => self.copied.removed = self.copied.removed.saturating_add(1),
            // It is here already, or there is no room for it.
            Err(_) => {}
        }
    }

    fn ask_piece(&mut self, now: Instant, pool: &mut Pool<impl Array<u8>>, store: &impl Store) {
        let request = Copy { cursor: self.cursor, most: PIECE };
        self.ask(now, pool, store, Asked::Piece, &request.encode());
    }

    fn ask(
        &mut self,
        now: Instant,
        pool: &mut Pool<impl Array<u8>>,
        store: &impl Store,
        asked: Asked,
        payload: &[u8],
    ) {
        (self.asked, self.asked_at, self.stamp) = (asked, now, store.stamp(now));
        self.uid = self.uid.wrapping_add(1);
        let envelope = Envelope::request(self.uid, asked.op().unwrap_or(Op::Have));
        let room = self.outbox.space(pool);
        let to = room.get_mut(HEADER_LEN..).and_then(|room| room.get_mut(..payload.len()));
        if let Some(to) = to {
            to.copy_from_slice(payload);
        }
        // Without a buffer nothing is asked, and silence ends the attempt.
        let len = wire::frame(room, &envelope, payload.len());
        self.outbox.filled(pool, len.unwrap_or(0));
    }

    fn end_pass(&mut self, now: Instant) {
        if self.copied.removed == 0 || self.pass.saturating_add(1) >= PASSES {
            return self.conclude(now, None);
        }
        self.pass = self.pass.saturating_add(1);
        self.copied.removed = 0;
        (self.cursor, self.seen, self.empty) = (0, 0, 0);
        self.asked = Asked::Nothing(now.after(PAUSE));
    }

    /// Ends the connection because of a failure.
    fn fail(&mut self, now: Instant, failure: CopyFailure) {
        match failure {
            CopyFailure::OldLevel | CopyFailure::Refused | CopyFailure::Malformed => {
                self.conclude(now, Some(failure));
            }
            CopyFailure::Unreachable | CopyFailure::Lost | CopyFailure::Silent(_) => {
                self.count_try(now, failure);
                self.link = Link::Closing;
            }
        }
    }

    /// The attempt has ended without a connection to close.
    fn end_try(&mut self, now: Instant, failure: CopyFailure) {
        self.count_try(now, failure);
        self.leave(now);
    }

    fn count_try(&mut self, now: Instant, failure: CopyFailure) {
        self.tries = self.tries.saturating_add(1);
        if self.tries >= TRIES {
            self.conclude(now, Some(failure));
        }
    }

    /// Notes the result for this server. Its connection must be closed.
    fn conclude(&mut self, now: Instant, failure: Option<CopyFailure>) {
        let millis = now.since(self.began);
        self.result = Some(Copied { source: self.number, millis, failure, ..self.copied });
        self.link = Link::Closing;
    }

    /// Goes on after the end of a connection or an attempt: with the next server, or another attempt.
    fn leave(&mut self, now: Instant) {
        self.era = self.era.wrapping_add(1);
        self.wanted.clear();
        (self.cursor, self.seen, self.empty) = (0, 0, 0);
        self.copied.removed = 0;
        if self.result.is_none_or(|result| result.source != self.number) {
            self.link = Link::Due(now.after(RETRY));
            return;
        }
        self.number = self.number.saturating_add(1);
        (self.tries, self.pass, self.copied, self.began) = (0, 0, NOTHING, now);
        let more = usize::from(self.number) < self.sources.len();
        self.link = if more { Link::Due(now) } else { Link::Off };
    }

    fn is_talking(&self, key: ServerKey) -> bool {
        self.key() == key && self.link == Link::Talking
    }
}

impl Asked {
    const fn op(self) -> Option<Op> {
        match self {
            Self::Level => Some(Op::Have),
            Self::Piece => Some(Op::Copy),
            Self::Session => Some(Op::Fetch),
            Self::Nothing(_) => None,
        }
    }
}
