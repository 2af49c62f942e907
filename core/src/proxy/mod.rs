//! The proxy: many clients, one connection to each of a few servers.
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
//! A flight starts only when there is room for what follows: a flight slot, and a buffer for the
//! client's answer. A server whose outbox is full has a queue of flights that wait for it, so that
//! it does not keep those for other servers waiting.
//!
//! Which server a request goes to follows from its id alone: every id ranks the servers in an order
//! of its own, and the first of them that is up is asked. With more than one copy of each session, a
//! request visits more than one of them; the table is in the source of `flight`. While no server is
//! up every request is answered at once; when a connection is lost, so is every request on it, unless
//! there is another server to ask.

mod flight;
mod journey;
mod upstream;

use crate::conns::{Conn, Conns, Counters, Limits, SetupError, earlier};
use crate::machine::{Machine, Peer, Wants};
use crate::pool::Pool;
use crate::slots::{Key, Slot, Slots};
use crate::time::Instant;

pub use flight::Flight;
use upstream::Phase;
pub use upstream::Upstream;

/// The most servers that a proxy has.
pub const SERVERS_MAX: usize = 32;

/// How a proxy deals with time, in milliseconds, and with copies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Config {
    /// What clients may do. `patience` also bounds how long a server may leave a request
    /// unanswered, and how long an attempt to connect to it may take.
    pub limits: Limits,
    /// The time between two attempts to connect.
    pub retry: u64,
    /// How many servers hold each session; 0 is taken for 1.
    pub copies: u8,
    /// Sessions that are to live for less are stored for so long; 0 leaves all as they are.
    pub min_ttl: u32,
}

impl Config {
    /// One copy of each session, to live as long as is asked for.
    pub const fn new(limits: Limits, retry: u64) -> Self {
        Self { limits, retry, copies: 1, min_ttl: 0 }
    }
}

/// What happened on the servers' side, counted from the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Requests passed to servers; one that visits two counts twice.
    pub forwarded: u64,
    /// Answers passed back.
    pub answered: u64,
    /// Requests answered with [`Status::DISCONNECTED`](crate::message::Status::DISCONNECTED).
    pub disconnected: u64,
    /// Answers whose client had left.
    pub orphaned: u64,
    /// Answers that nobody had asked for.
    pub strays: u64,
    /// Connections to servers that were made.
    pub connects: u64,
    /// Connections to servers that were lost.
    pub losses: u64,
}

/// A proxy without its sockets.
#[derive(Debug)]
pub struct Mux<'m> {
    conns: Conns<'m>,
    config: Config,
    servers: &'m mut [Upstream],
    /// The server that is looked after first.
    turn: u8,
    /// How many servers are not up.
    away: usize,
    /// The time at which no server had left anything unanswered for too long.
    judged_at: Instant,
    flights: Slots<'m, Flight>,
    /// The first client's request can't start before something happens.
    blocked: bool,
    traffic: Traffic,
}

impl<'m> Mux<'m> {
    /// A proxy for as many clients as there are `slots`, with as many requests on their way as there
    /// are `flights`. Each client has one at most, but one whose client has left stays until it is
    /// answered: twice the clients is plenty. Two buffers a client and two a server are enough for
    /// every case; with fewer (two a server and two more at least, of
    /// [`MESSAGE_MAX`](crate::wire::MESSAGE_MAX) bytes or more) clients may have to wait for each
    /// other.
    ///
    /// # Errors
    /// [`SetupError`] says which memory will not do.
    pub fn new(
        slots: &'m mut [Slot<Conn>],
        flights: &'m mut [Slot<Flight>],
        servers: &'m mut [Upstream],
        pool: Pool<'m>,
        config: Config,
    ) -> Result<Self, SetupError> {
        if flights.is_empty() {
            return Err(SetupError::Slots);
        }
        let count = u32::try_from(servers.len()).unwrap_or(u32::MAX);
        if servers.is_empty() {
            return Err(SetupError::NoServers);
        }
        if servers.len() > SERVERS_MAX {
            return Err(SetupError::TooManyServers);
        }
        let buffers = count.saturating_mul(2).saturating_add(2);
        let mut conns = Conns::new(slots, pool, buffers, config.limits)?;
        for (number, server) in (0..=u8::MAX).zip(&mut *servers) {
            server.number(number);
            server.inbox.keep(&mut conns.pool);
            server.outbox.keep(&mut conns.pool);
        }
        Ok(Self {
            conns,
            config,
            turn: 0,
            away: servers.len(),
            judged_at: Instant::ORIGIN,
            servers,
            flights: Slots::new(flights),
            blocked: false,
            traffic: Traffic::default(),
        })
    }

    /// The number of a server that an attempt to connect to is to begin now. Says so once:
    /// [`Mux::connected`] or [`Machine::closed`] must follow. There may be more than one: ask until
    /// it says `None`.
    pub fn dial(&mut self, now: Instant) -> Option<u8> {
        let retry = self.config.retry;
        let due = |server: &Upstream| {
            server.phase == Phase::Away && server.dial_at(retry).is_none_or(|at| at <= now)
        };
        let number = self.servers.iter().position(due)?;
        let server = self.servers.get_mut(number)?;
        server.phase = Phase::Dialing;
        server.dialed = Some(now);
        self.blocked = false;
        u8::try_from(number).ok()
    }

    /// The connection to server `number` is made.
    pub fn connected(&mut self, now: Instant, number: u8) {
        let server = self.servers.get_mut(usize::from(number));
        if let Some(server) = server.filter(|server| server.phase == Phase::Dialing) {
            // Nobody has waited for it any more, so it lacks what went elsewhere.
            server.forgetful |= server.grace(false).is_none_or(|end| end <= now);
            server.phase = Phase::Up;
            server.level = 0;
            // Who waited for room on the last connection waits for nothing now.
            server.roomy = true;
            self.away = self.away.saturating_sub(1);
            self.blocked = false;
            count(&mut self.traffic.connects);
        }
    }

    /// Whether server `number` is connected.
    pub fn is_up(&self, number: u8) -> bool {
        let server = self.servers.get(usize::from(number));
        server.is_some_and(|server| server.phase == Phase::Up)
    }

    /// What happened on the servers' side so far.
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

    /// How many buffers that were in use are ready to be used again.
    pub const fn buffers_touched(&self) -> u32 {
        self.conns.pool.touched()
    }

    /// Sets aside buffers that nobody needs any more: see [`Pool::trim`].
    pub fn trim(&mut self, keep: u32, most: u32, discard: impl FnMut(&mut [u8])) -> u32 {
        self.conns.pool.trim(keep, most, discard)
    }

    /// How many requests are on their way, those of clients that have left among them.
    pub const fn flights(&self) -> usize {
        self.flights.len()
    }

    /// How many buffers nobody holds: all but two for each server where no client has bytes waiting
    /// or a request on its way.
    pub const fn buffers_free(&self) -> u32 {
        self.conns.pool.free()
    }

    fn server(&self, number: u8) -> Option<&Upstream> {
        self.servers.get(usize::from(number))
    }

    /// Until when requests wait for connections that are being made.
    #[inline]
    fn grace(&self) -> Option<Instant> {
        if self.away == 0 {
            return None;
        }
        let any_up = self.servers.iter().any(Upstream::is_up);
        self.servers.iter().filter_map(|server| server.grace(any_up)).max()
    }

    /// When the server's connection is given up if nothing more is heard of it.
    fn patience_ends(&self, server: &Upstream) -> Option<Instant> {
        let oldest = || self.flights.get(self.flights.front(&server.open)?);
        let since = match server.phase {
            Phase::Away => None,
            Phase::Dialing => server.dialed,
            Phase::Up => oldest().map(|flight| flight.since),
        };
        let patience = self.config.limits.patience;
        let waiting = since.filter(|_| patience > 0 && !server.doomed);
        waiting.map(|since| since.after(patience))
    }

    /// The server's fault, or its silence: its connection is to be closed.
    fn doom(&mut self, number: u8) -> Option<Peer> {
        self.servers.get_mut(usize::from(number))?.doomed = true;
        Some(Peer::Server(number))
    }

    /// Does a piece of work for one of the servers.
    fn tend(&mut self, now: Instant) -> Option<Peer> {
        let (before, after) = self.servers.split_at_checked(self.turn.into())?;
        let busy = Upstream::has_work;
        let at = after.iter().position(busy).map(|at| before.len().saturating_add(at));
        let Some(at) = at.or_else(|| before.iter().position(busy)) else {
            return self.tend_silent(now);
        };
        let number = u8::try_from(at).ok()?;
        self.turn =
            if at.saturating_add(1) < self.servers.len() { number.saturating_add(1) } else { 0 };
        let server = self.server(number)?;
        let (lost, unread) = (server.lost > 0, server.unread);
        if lost {
            return self.give_up(now, number);
        }
        if unread && let Some(peer) = self.land(now, number) {
            return Some(peer);
        }
        self.resume(now, number).or_else(|| self.tend(now))
    }

    /// Gives up a server that has left something unanswered for too long.
    fn tend_silent(&mut self, now: Instant) -> Option<Peer> {
        if now == self.judged_at {
            return None;
        }
        let silent = |server: &Upstream| self.patience_ends(server).is_some_and(|end| end <= now);
        match self.servers.iter().position(silent) {
            Some(number) => self.doom(u8::try_from(number).ok()?),
            None => {
                self.judged_at = now;
                None
            }
        }
    }

    /// A server whose wants have changed.
    fn stirred(&mut self) -> Option<Peer> {
        let number = self.servers.iter().position(|server| server.stirred)?;
        self.servers.get_mut(number)?.stirred = false;
        u8::try_from(number).ok().map(Peer::Server)
    }
}

impl Machine for Mux<'_> {
    fn open(&mut self, now: Instant) -> Option<Key> {
        self.conns.open(now)
    }

    fn space(&mut self, peer: Peer) -> &mut [u8] {
        let wanted = self.wants(peer).read;
        match peer {
            Peer::Client(key) => self.conns.space(key),
            Peer::Server(number) => match self.servers.get_mut(usize::from(number)) {
                Some(server) if wanted => server.inbox.space(&mut self.conns.pool),
                _ => Default::default(),
            },
        }
    }

    fn filled(&mut self, _now: Instant, peer: Peer, len: usize) {
        match peer {
            Peer::Client(key) => self.conns.filled(key, len),
            Peer::Server(number) => {
                if let Some(server) = self.servers.get_mut(usize::from(number)) {
                    server.inbox.filled(&mut self.conns.pool, len);
                    server.unread |= len > 0;
                }
            }
        }
    }

    fn ended(&mut self, _now: Instant, peer: Peer) {
        match peer {
            Peer::Client(key) => self.conns.ended(key),
            Peer::Server(number) => {
                if let Some(server) = self.servers.get_mut(usize::from(number)) {
                    (server.input_over, server.unread) = (true, true);
                }
            }
        }
    }

    fn advance(&mut self, now: Instant) -> Option<Peer> {
        if let Some(key) = self.conns.overdue(now, self.blocked) {
            return Some(Peer::Client(key));
        }
        let peer = self.tend(now).or_else(|| self.take_off(now));
        let peer = peer.or_else(|| self.conns.refreshed().map(Peer::Client));
        peer.or_else(|| self.stirred())
    }

    fn pending(&self, peer: Peer) -> &[u8] {
        match peer {
            Peer::Client(key) => self.conns.pending(key),
            Peer::Server(number) => {
                let server = self.server(number);
                server.map_or(&[], |server| server.outbox.bytes(&self.conns.pool))
            }
        }
    }

    fn sent(&mut self, now: Instant, peer: Peer, len: usize) {
        match peer {
            Peer::Client(key) => self.conns.sent(now, key, len),
            Peer::Server(number) => {
                if let Some(server) = self.servers.get_mut(usize::from(number)) {
                    server.outbox.consume(&mut self.conns.pool, len);
                    server.roomy = true;
                }
            }
        }
    }

    fn wants(&self, peer: Peer) -> Wants {
        let number = match peer {
            Peer::Client(key) => return self.conns.wants(key),
            Peer::Server(number) => number,
        };
        match self.server(number) {
            None => Wants::CLOSE,
            Some(server) if server.doomed => Wants::CLOSE,
            Some(server) if server.phase == Phase::Up => {
                let (read, write) = (!server.unread, !server.outbox.is_empty());
                Wants { read, write, close: false }
            }
            Some(_) => Wants::default(),
        }
    }

    fn closed(&mut self, _now: Instant, peer: Peer) {
        self.blocked = false;
        match peer {
            Peer::Client(key) => drop(self.conns.closed(key)),
            Peer::Server(number) => {
                if let Some(server) = self.servers.get_mut(usize::from(number)) {
                    if server.phase == Phase::Up {
                        count(&mut self.traffic.losses);
                        self.away = self.away.saturating_add(1);
                    }
                    server.leave();
                    server.inbox.clear(&mut self.conns.pool);
                    server.outbox.clear(&mut self.conns.pool);
                }
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let ready = self.conns.first().is_some() && !self.blocked;
        if ready || self.servers.iter().any(|server| server.stirred || server.has_work()) {
            return Some(Instant::ORIGIN);
        }
        let of_server = |server: &Upstream| {
            let dial = (server.phase == Phase::Away)
                .then(|| server.dial_at(self.config.retry).unwrap_or(Instant::ORIGIN));
            earlier(dial, self.patience_ends(server))
        };
        let servers = self.servers.iter().filter_map(of_server).min();
        // Where there is no flight to be had, the end of the wait for connections changes nothing.
        let room = self.flights.len() < self.flights.capacity();
        let grace = self.grace().filter(|_| self.blocked && room);
        earlier(self.conns.deadline(), earlier(servers, grace))
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

    const CONFIG: Config = Config::new(Limits { idle: 0, patience: 0 }, 100);

    #[test]
    fn memory_that_will_not_do_is_refused() {
        let cases = [
            (1, 1, 1, 3, Some(SetupError::Buffers(4))),
            (1, 1, 3, 7, Some(SetupError::Buffers(8))),
            (1, 0, 1, 4, Some(SetupError::Slots)),
            (0, 1, 1, 4, Some(SetupError::Slots)),
            (1, 1, 0, 4, Some(SetupError::NoServers)),
            (1, 1, 33, 68, Some(SetupError::TooManyServers)),
            (1, 1, 32, 66, None),
            (1, 1, 1, 4, None),
        ];
        for (slots, flights, count, buffers, too_small) in cases {
            let mut slots: vec::Vec<_> = (0..slots).map(|_| Slot::EMPTY).collect();
            let mut flights: vec::Vec<_> = (0..flights).map(|_| Slot::EMPTY).collect();
            let mut servers = [const { Upstream::ONLY }; 33];
            let mut memory = vec![0; buffers * MESSAGE_MAX];
            let pool = Pool::new(&mut memory, MESSAGE_MAX);
            let made = Mux::new(&mut slots, &mut flights, &mut servers[..count], pool, CONFIG);
            assert_eq!(made.err(), too_small);
        }
    }

    #[test]
    fn an_attempt_to_connect_is_asked_for_once() {
        let (mut slots, mut flights) = ([const { Slot::EMPTY }; 1], [const { Slot::EMPTY }; 1]);
        let mut memory = vec![0; 4 * MESSAGE_MAX];
        let pool = Pool::new(&mut memory, MESSAGE_MAX);
        let mut servers = [Upstream::ONLY];
        let mut mux = Mux::new(&mut slots, &mut flights, &mut servers, pool, CONFIG).unwrap();
        let at = Instant::from_millis;
        assert_eq!(mux.deadline(), Some(Instant::ORIGIN));
        let dials = [7, 7, 1000].map(|time| mux.dial(at(time)));
        assert_eq!(dials, [Some(0), None, None]);
        mux.closed(at(50), Peer::Server(0));
        assert_eq!(mux.deadline(), Some(at(107)));
        assert_eq!([106, 107].map(|time| mux.dial(at(time))), [None, Some(0)]);
        mux.connected(at(108), 0);
        assert!(mux.is_up(0) && mux.dial(at(5000)).is_none());
    }
}
