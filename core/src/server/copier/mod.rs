//! Copies the sessions of other servers, one server after the other: for a server that starts empty.
//!
//! ```text
//!  Waiting
//!   │ begin: at the time at which stamps are good
//!   ▼    dial               connected: HAVE           level 2: COPY (cursor)
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
//! # What was removed stays removed
//!
//! A session that a piece contains may be removed at its source a moment later. Then the removal visits
//! this server, too: before, and the mark refuses the session, or after, and it is dropped. That is so
//! once all proxies are connected here. Before, a removal visits the source alone, and nothing would drop
//! the copy. So no piece is asked for until [`Server::advance`](crate::Machine::advance) was called for
//! as long as proxies need to connect, and a removal that left before that needs to reach the source. What
//! was removed before is not at the source any more when the first piece is made there. Repairs wait for
//! the same time, for the same reason. A proxy that needs longer is not covered; neither is one that loses
//! its connection later, as with every session that two servers have.
//!
//! With [`Copier::set_share`] a session is taken only from a server at which proxies keep it, too. Others
//! have it because they stood in for one that was unreachable. Removals do not visit them.
//!
//! # Bounds
//!
//! The other server may lie. A cursor that does not grow, a malformed answer, too many sessions or too
//! many empty pieces end the copy. So does silence, after [`TRIES`] attempts, and an average of fewer than
//! [`PACE`] answers in [`PACE_TIME`]. No source takes longer than [`TIME_MAX`]. Nothing is evicted: a copy
//! ends where there is no room. Then the next source has its turn.

mod answers;
mod connection;
mod outcome;

pub use outcome::{Copied, CopyFailure};

use super::Store;
use crate::buffer::{Fifo, Pool};
use crate::copy::{Copy, END};
use crate::id::ID_MAX;
use crate::machine::ServerKey;
use crate::memory::Array;
use crate::proxy::{SERVERS_MAX, hash};
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
/// The fewest answers in each [`PACE_TIME`].
const PACE: u32 = 32;
/// How often answers are counted, in milliseconds.
const PACE_TIME: u64 = 10_000;
/// The longest time for one source, in milliseconds.
const TIME_MAX: u64 = 1_800_000;
/// On how many servers a session is, for [`Copier::set_share`].
const COPIES: usize = 2;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Link {
    /// There is nothing more to do.
    Off,
    /// The server does not serve yet.
    Waiting,
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
    /// Answers since then.
    answers: u32,
    pace_since: Instant,
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
            answers: 0,
            pace_since: Instant::ORIGIN,
            pass: 0,
            tries: 0,
            began: Instant::ORIGIN,
            now: Instant::ORIGIN,
            copied: NOTHING,
            result: None,
        }
    }

    /// Adds a server to copy from, by its name. Beyond [`SOURCES_MAX`] it is ignored.
    pub(super) fn add_source(&mut self, name: &[u8]) {
        if self.sources.push(hash(name)).is_ok() && self.link == Link::Off {
            self.link = Link::Waiting;
        }
    }

    /// Connects to the first server at this time.
    pub(super) fn begin(&mut self, at: Instant) {
        if self.link == Link::Waiting {
            self.link = Link::Due(at);
            (self.began, self.now) = (at, at);
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
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.link {
            Link::Off | Link::Closing => None,
            Link::Waiting => Some(Instant::ORIGIN),
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
                Asked::Nothing(_) => {
                    (self.pace_since, self.answers) = (now, 0);
                    self.ask_piece(now, pool, store);
                }
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
        let next = next.and_then(|()| self.keep_pace(now));
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
