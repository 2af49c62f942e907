//! The proxy: many clients, one connection to a server.
//!
//! ```text
//!  client ──► inbox ─┐  whole requests,             ┌─► outbox ──► server
//!  client ──► inbox ─┼─ one of each client in turn ─┤   (uid = flight)
//!  client ──► inbox ─┘                              │
//!                                                 flights
//!  client ◄── outbox ◄─┐                            │
//!  client ◄── outbox ◄─┴─ back under the client's ──┴── inbox ◄── server
//! ```
//!
//! A request on its way is a flight, and the flight's tag is the uid that the server sees. A tag
//! finds its flight once; the flight names its client by a key that goes stale with the client. So
//! an answer that nobody asked for, a second answer, and the answer to a client that has left reach
//! nobody.
//!
//! A flight starts only when there is room for all that follows: a flight slot, the whole request
//! in the server's outbox, and a buffer for the client's answer. While the server is away every
//! request is answered at once; when its connection is lost, so is every request in flight.

use crate::conns::{Conn, Conns, Counters, Limits, TooSmall, earlier};
use crate::machine::{Machine, Peer, Wants};
use crate::message::{ADD_FIXED_LEN, Status};
use crate::pool::{Fifo, Pool};
use crate::slots::{Key, Lane, Queue, Slot, Slots, Tag};
use crate::time::Instant;
use crate::wire::{self, Direction, Envelope, HEADER_LEN, Header, LEVEL, Malformed, Message};

/// How long requests wait for a connection that is just being made, before they are answered that
/// the server is away.
const DIAL_GRACE: u64 = 100;
/// Buffers that a proxy needs at least: two for the server's connection, two for a client's.
const BUFFERS_MIN: u32 = 4;

/// How a proxy deals with time; all in milliseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Config {
    /// What clients may do. `patience` also bounds how long the server may leave a request
    /// unanswered, and how long an attempt to connect to it may take.
    pub limits: Limits,
    /// The time between two attempts to connect.
    pub retry: u64,
}

/// What happened on the server's side, counted from the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Requests passed to the server.
    pub forwarded: u64,
    /// Answers passed back.
    pub answered: u64,
    /// Requests answered with [`Status::DISCONNECTED`].
    pub disconnected: u64,
    /// Answers whose client had left.
    pub orphaned: u64,
    /// Answers that nobody had asked for.
    pub strays: u64,
    /// Connections to the server that were made.
    pub connects: u64,
    /// Connections to the server that were lost.
    pub losses: u64,
}

/// One request on its way.
#[derive(Debug)]
pub struct Flight {
    client: Key,
    /// The client's own header.
    request: Header,
    since: Instant,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// No connection, and none is being made.
    Away,
    /// One is being made.
    Dialing,
    /// One is there.
    Up,
}

/// The connection to the server.
#[derive(Debug)]
struct Upstream {
    phase: Phase,
    /// What the server did closes its connection.
    doomed: bool,
    /// The server sends no more.
    input_over: bool,
    /// There may be whole answers in the inbox.
    unread: bool,
    /// Its wants have changed, and `advance` has not named it since.
    stirred: bool,
    inbox: Fifo,
    outbox: Fifo,
    /// The patch level of its last answer; 0 before the first one on a connection.
    level: u16,
    /// When the last attempt to connect began; `None` before the first.
    dialed: Option<Instant>,
}

/// A proxy without its sockets.
#[derive(Debug)]
pub struct Mux<'m> {
    conns: Conns<'m>,
    config: Config,
    server: Upstream,
    flights: Slots<'m, Flight>,
    /// All flights, in the order in which they started.
    open: Queue,
    /// How many flights at the front of `open` were lost with their connection and are still to be
    /// answered.
    lost: usize,
    /// The first client's request can't start before something happens.
    blocked: bool,
    traffic: Traffic,
}

impl<'m> Mux<'m> {
    /// A proxy for as many clients as there are `slots`, with as many requests on their way as there
    /// are `flights`. Each client has one at most, but one whose client has left stays until it is
    /// answered: twice the clients is plenty. Two buffers a client and two more are enough for every
    /// case; with fewer (4 at least, of [`wire::MESSAGE_MAX`] bytes or more) clients may have to wait
    /// for each other.
    ///
    /// # Errors
    /// [`TooSmall`] says which memory will not do.
    pub fn new(
        slots: &'m mut [Slot<Conn>],
        flights: &'m mut [Slot<Flight>],
        pool: Pool<'m>,
        config: Config,
    ) -> Result<Self, TooSmall> {
        if flights.is_empty() {
            return Err(TooSmall::Slots);
        }
        let mut conns = Conns::new(slots, pool, BUFFERS_MIN, config.limits)?;
        let mut server = Upstream {
            phase: Phase::Away,
            doomed: false,
            input_over: false,
            unread: false,
            stirred: false,
            inbox: Fifo::new(),
            outbox: Fifo::new(),
            level: 0,
            dialed: None,
        };
        server.inbox.keep(&mut conns.pool);
        server.outbox.keep(&mut conns.pool);
        Ok(Self {
            conns,
            config,
            server,
            flights: Slots::new(flights),
            open: Queue::new(Lane::Work, Tag(0)),
            lost: 0,
            blocked: false,
            traffic: Traffic::default(),
        })
    }

    /// Whether an attempt to connect to the server is to begin now. Says so once: [`Mux::connected`]
    /// or [`Machine::closed`] must follow.
    pub fn dial(&mut self, now: Instant) -> bool {
        let due = self.server.phase == Phase::Away && self.dial_at().is_none_or(|at| at <= now);
        if due {
            self.server.phase = Phase::Dialing;
            self.server.dialed = Some(now);
            self.blocked = false;
        }
        due
    }

    /// The connection to the server is made.
    pub fn connected(&mut self, _now: Instant) {
        if self.server.phase == Phase::Dialing {
            self.server.phase = Phase::Up;
            self.server.level = 0;
            self.blocked = false;
            self.traffic.connects = self.traffic.connects.saturating_add(1);
        }
    }

    /// Whether the server is connected.
    pub fn is_up(&self) -> bool {
        self.server.phase == Phase::Up
    }

    /// What happened on the server's side so far.
    pub const fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// What happened to clients so far.
    pub const fn counters(&self) -> Counters {
        self.conns.counters
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        self.conns.len()
    }

    /// How many requests are on their way, those of clients that have left among them.
    pub const fn flights(&self) -> usize {
        self.flights.len()
    }

    /// How many buffers nobody holds: all but the two of the server's connection where no client
    /// has bytes waiting or a request on its way.
    pub const fn buffers_free(&self) -> u32 {
        self.conns.pool.free()
    }

    /// Until when requests wait for the connection that is being made.
    fn grace(&self) -> Option<Instant> {
        let dialing = self.server.dialed.filter(|_| self.server.phase == Phase::Dialing);
        dialing.map(|at| at.after(DIAL_GRACE))
    }

    /// When the server's connection is given up if nothing more is heard of it.
    fn patience_ends(&self) -> Option<Instant> {
        let since = match self.server.phase {
            Phase::Away => None,
            Phase::Dialing => self.server.dialed,
            Phase::Up => self.oldest_flight().map(|flight| flight.since),
        };
        let patience = self.config.limits.patience;
        let waiting = since.filter(|_| patience > 0 && !self.server.doomed);
        waiting.map(|since| since.after(patience))
    }

    fn oldest_flight(&self) -> Option<&Flight> {
        self.flights.get(self.flights.front(&self.open)?)
    }

    fn dial_at(&self) -> Option<Instant> {
        self.server.dialed.map(|at| at.after(self.config.retry))
    }

    /// The server's fault, or its silence: its connection is to be closed.
    fn doom(&mut self) -> Peer {
        self.server.doomed = true;
        Peer::Server
    }

    /// Passes the server's next whole answer back. `None` where there is none.
    fn land(&mut self, now: Instant) -> Option<Peer> {
        if self.server.phase != Phase::Up || self.server.doomed {
            return None;
        }
        let bytes = self.server.inbox.bytes(&self.conns.pool);
        let message = match Message::measure(bytes, Direction::Response) {
            Ok(Some(message)) => message,
            Ok(None) => {
                (self.server.unread, self.server.stirred) = (false, true);
                return self.server.input_over.then(|| self.doom());
            }
            Err(_) => return Some(self.doom()),
        };
        let landed = self.hand_over(now, &message);
        self.server.inbox.consume(&mut self.conns.pool, message.wire_len);
        match landed {
            Ok(Some(key)) => Some(Peer::Client(key)),
            Ok(None) => Some(Peer::Server),
            Err(_) => Some(self.doom()),
        }
    }

    /// Gives the answer at the front of the inbox to the client that it is for, if there is one.
    fn hand_over(&mut self, now: Instant, message: &Message) -> Result<Option<Key>, Malformed> {
        let Some(tag) = self.flights.tagged(message.header.uid) else {
            count(&mut self.traffic.strays);
            return Ok(None);
        };
        if self.flights.get(tag).is_some_and(|flight| flight.request.op != message.header.op) {
            return Err(Malformed::Payload);
        }
        let Some(flight) = self.end_flight(tag) else {
            return Ok(None);
        };
        self.server.level = message.header.patch;
        let Some((conn, pool)) = self.conns.get(flight.client) else {
            count(&mut self.traffic.orphaned);
            return Ok(None);
        };
        conn.flight = None;
        if let Some((wire, room)) = pool.between(&self.server.inbox, &conn.outbox) {
            let level = flight.request.patch.min(self.server.level).min(LEVEL);
            let len = message.relabel(wire, flight.request.uid, level, room).unwrap_or(0);
            conn.outbox.filled(pool, len);
        }
        count(&mut self.traffic.answered);
        self.conns.retime(now, flight.client, true);
        Ok(Some(flight.client))
    }

    fn end_flight(&mut self, key: Key) -> Option<Flight> {
        self.flights.unlink(&mut self.open, key);
        self.blocked = false;
        self.flights.remove(key)
    }

    /// Answers one request that was lost with its connection. `None` where there are none.
    fn give_up(&mut self, now: Instant) -> Option<Peer> {
        self.lost = self.lost.checked_sub(1)?;
        let key = self.flights.front(&self.open)?;
        let flight = self.end_flight(key)?;
        let Some((conn, _)) = self.conns.get(flight.client) else {
            count(&mut self.traffic.orphaned);
            return Some(Peer::Server);
        };
        conn.flight = None;
        self.refuse(now, flight.client, &flight.request, Status::DISCONNECTED);
        Some(Peer::Client(flight.client))
    }

    /// Answers that the server is away, or can't do this; the client has room for it.
    fn refuse(&mut self, now: Instant, key: Key, request: &Header, status: Status) {
        let Some((conn, pool)) = self.conns.get(key) else {
            return;
        };
        // Its buffer was reserved when the request set out, or just now.
        let room = conn.outbox.space(pool);
        if let Some(first) = room.get_mut(HEADER_LEN) {
            *first = status.0;
        }
        let level = self.server.level.min(LEVEL).max(request.op.level());
        let len = wire::frame(room, &Envelope::answer(request, level), 1).unwrap_or(0);
        conn.outbox.filled(pool, len);
        if status == Status::DISCONNECTED {
            count(&mut self.traffic.disconnected);
        }
        self.conns.retime(now, key, true);
    }

    /// Looks after the first client that waits for its turn. `None` where there is none, or where
    /// its request can't start now.
    fn take_off(&mut self, now: Instant) -> Option<Peer> {
        let key = self.conns.first()?;
        let started = self.start(now, key);
        self.blocked = started == Start::Blocked;
        if self.blocked {
            return None;
        }
        if started == Start::NoBuffer {
            self.conns.wait_for_room(key);
            return Some(Peer::Client(key));
        }
        self.conns.take(key);
        if started == Start::Malformed {
            self.conns.malformed(key);
        }
        self.conns.retime(now, key, started == Start::Done);
        Some(Peer::Client(key))
    }

    fn start(&mut self, now: Instant, key: Key) -> Start {
        let waits = self.grace().is_some_and(|end| now < end);
        let Some((conn, pool)) = self.conns.get(key) else {
            return Start::Nothing;
        };
        if conn.flight.is_some() || !conn.outbox.is_empty() {
            return Start::Nothing;
        }
        let message = match Message::measure(conn.inbox.bytes(pool), Direction::Request) {
            Ok(Some(message)) => message,
            Ok(None) => return Start::Nothing,
            Err(_) => return Start::Malformed,
        };
        let request = message.header;
        // The server would close the connection of everybody for this.
        if request.op.stores() && message.payload_len < ADD_FIXED_LEN {
            return Start::Malformed;
        }
        if waits {
            return Start::Blocked;
        }
        if !conn.outbox.reserve(pool) {
            return Start::NoBuffer;
        }
        let up = self.server.phase == Phase::Up && !self.server.doomed;
        if up && request.op.level() <= self.server.level {
            return self.forward(now, key, &message);
        }
        conn.inbox.consume(pool, message.wire_len);
        let status = if up { Status::UNSUPPORTED } else { Status::DISCONNECTED };
        self.refuse(now, key, &request, status);
        Start::Done
    }

    /// Starts the flight of the request at the front of the client's inbox.
    fn forward(&mut self, now: Instant, client: Key, message: &Message) -> Start {
        let Some((conn, pool)) = self.conns.get(client) else {
            return Start::Nothing;
        };
        let flight = Flight { client, request: message.header, since: now };
        if self.server.outbox.space(pool).len() < message.wire_len {
            return Start::Blocked;
        }
        let Ok(flight) = self.flights.insert(flight) else {
            return Start::Blocked;
        };
        let tag = self.flights.tag(flight);
        let between = pool.between(&conn.inbox, &self.server.outbox);
        let copied = between.and_then(|(wire, room)| message.relabel(wire, tag, LEVEL, room));
        let Some(len) = copied else {
            self.flights.remove(flight);
            return Start::Blocked;
        };
        self.server.outbox.filled(pool, len);
        self.server.stirred = true;
        conn.inbox.consume(pool, message.wire_len);
        conn.flight = Some(flight);
        self.flights.enqueue(&mut self.open, flight);
        count(&mut self.traffic.forwarded);
        Start::Done
    }
}

/// How far a request got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Start {
    /// Nowhere, for want of something that all clients share.
    Blocked,
    /// On its way, or answered.
    Done,
    /// It is none.
    Malformed,
    /// Nowhere, for want of a buffer for its answer.
    NoBuffer,
    /// There is no whole request, or it is not its turn.
    Nothing,
}

impl Machine for Mux<'_> {
    fn open(&mut self, now: Instant) -> Option<Key> {
        self.conns.open(now)
    }

    fn space(&mut self, peer: Peer) -> &mut [u8] {
        match peer {
            Peer::Client(key) => self.conns.space(key),
            Peer::Server if self.wants(peer).read => self.server.inbox.space(&mut self.conns.pool),
            Peer::Server => Default::default(),
        }
    }

    fn filled(&mut self, now: Instant, peer: Peer, len: usize) {
        match peer {
            Peer::Client(key) => self.conns.filled(now, key, len),
            Peer::Server => {
                self.server.inbox.filled(&mut self.conns.pool, len);
                self.server.unread |= len > 0;
            }
        }
    }

    fn ended(&mut self, _now: Instant, peer: Peer) {
        match peer {
            Peer::Client(key) => self.conns.ended(key),
            Peer::Server => (self.server.input_over, self.server.unread) = (true, true),
        }
    }

    fn advance(&mut self, now: Instant) -> Option<Peer> {
        if let Some(key) = self.conns.overdue(now, self.blocked) {
            return Some(Peer::Client(key));
        }
        if self.lost > 0 {
            return self.give_up(now);
        }
        if self.server.unread
            && let Some(peer) = self.land(now)
        {
            return Some(peer);
        }
        if self.patience_ends().is_some_and(|end| end <= now) {
            return Some(self.doom());
        }
        let peer = self.take_off(now);
        let peer = peer.or_else(|| self.conns.refreshed().map(Peer::Client));
        peer.or_else(|| core::mem::take(&mut self.server.stirred).then_some(Peer::Server))
    }

    fn pending(&self, peer: Peer) -> &[u8] {
        match peer {
            Peer::Client(key) => self.conns.pending(key),
            Peer::Server => self.server.outbox.bytes(&self.conns.pool),
        }
    }

    fn sent(&mut self, now: Instant, peer: Peer, len: usize) {
        match peer {
            Peer::Client(key) => self.conns.sent(now, key, len),
            Peer::Server => {
                self.server.outbox.consume(&mut self.conns.pool, len);
                self.blocked = false;
            }
        }
    }

    fn wants(&self, peer: Peer) -> Wants {
        match peer {
            Peer::Client(key) => self.conns.wants(key),
            Peer::Server if self.server.doomed => Wants::CLOSE,
            Peer::Server if self.server.phase == Phase::Up => Wants {
                read: !self.server.unread,
                write: !self.server.outbox.is_empty(),
                close: false,
            },
            Peer::Server => Wants::default(),
        }
    }

    fn closed(&mut self, _now: Instant, peer: Peer) {
        self.blocked = false;
        match peer {
            Peer::Client(key) => drop(self.conns.closed(key)),
            Peer::Server => {
                if self.server.phase == Phase::Up {
                    count(&mut self.traffic.losses);
                }
                self.server.phase = Phase::Away;
                self.server.doomed = false;
                (self.server.input_over, self.server.unread) = (false, false);
                self.server.inbox.clear(&mut self.conns.pool);
                self.server.outbox.clear(&mut self.conns.pool);
                self.lost = self.open.len();
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let ready = self.conns.first().is_some() && !self.blocked;
        if ready
            || self.server.stirred
            || self.lost > 0
            || (self.server.unread && !self.server.doomed)
        {
            return Some(Instant::ORIGIN);
        }
        let dial = match self.server.phase {
            Phase::Away => Some(self.dial_at().unwrap_or(Instant::ORIGIN)),
            Phase::Dialing => self.grace().filter(|_| self.blocked),
            Phase::Up => None,
        };
        earlier(self.conns.deadline(), earlier(dial, self.patience_ends()))
    }
}

fn count(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::MESSAGE_MAX;
    use std::vec;

    const CONFIG: Config = Config { limits: Limits { idle: 0, patience: 0 }, retry: 100 };

    #[test]
    fn memory_that_will_not_do_is_refused() {
        let cases = [
            (1, 1, 3, Some(TooSmall::Buffers(4))),
            (1, 0, 4, Some(TooSmall::Slots)),
            (0, 1, 4, Some(TooSmall::Slots)),
            (1, 1, 4, None),
        ];
        for (slots, flights, buffers, too_small) in cases {
            let mut slots: vec::Vec<_> = (0..slots).map(|_| Slot::EMPTY).collect();
            let mut flights: vec::Vec<_> = (0..flights).map(|_| Slot::EMPTY).collect();
            let mut memory = vec![0; buffers * MESSAGE_MAX];
            let pool = Pool::new(&mut memory, MESSAGE_MAX);
            assert_eq!(Mux::new(&mut slots, &mut flights, pool, CONFIG).err(), too_small);
        }
    }

    #[test]
    fn an_attempt_to_connect_is_asked_for_once() {
        let (mut slots, mut flights) = ([const { Slot::EMPTY }; 1], [const { Slot::EMPTY }; 1]);
        let mut memory = vec![0; 4 * MESSAGE_MAX];
        let pool = Pool::new(&mut memory, MESSAGE_MAX);
        let mut mux = Mux::new(&mut slots, &mut flights, pool, CONFIG).unwrap();
        let at = Instant::from_millis;
        assert_eq!(mux.deadline(), Some(Instant::ORIGIN));
        assert!(mux.dial(at(7)) && !mux.dial(at(7)) && !mux.dial(at(1000)));
        mux.closed(at(50), Peer::Server);
        assert_eq!(mux.deadline(), Some(at(107)));
        assert!(!mux.dial(at(106)) && mux.dial(at(107)));
        mux.connected(at(108));
        assert!(mux.is_up() && !mux.dial(at(5000)));
    }
}
