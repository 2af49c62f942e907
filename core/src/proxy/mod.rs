//! The proxy: many clients, one connection to each of a few servers.
//!
//! ```text
//!  client ──► inbox ─┐  whole requests,             ┌─► outbox ──► server
//!  client ──► inbox ─┼─ one of each client in turn ─┤   (uid = ticket of InFlight)
//!  client ──► inbox ─┘                              │
//!                                               in flight
//!  client ◄── outbox ◄─┐                            │
//!  client ◄── outbox ◄─┴─ back under the client's ──┴── inbox ◄── server
//!                         uid
//! ```
//!
//! A request on its way is an [`InFlight`], and its ticket is the uid that the server sees. A ticket
//! finds its request once, and the request names its client by a key that goes stale with the client.
//! So an answer without a request, a second answer, and the answer to a client that has left reach
//! nobody.
//!
//! A request starts only with a free `InFlight` slot and a buffer for the client's answer. A server
//! whose outbox is full has a queue of requests that wait for it, so it does not delay those for other
//! servers. Each server has an equal share of the slots. A server whose share is used up by requests
//! whose clients have left is skipped like one that is unreachable, so a server that hangs costs the
//! others nothing.
//!
//! A server is up once it has answered the probe on its connection. One that leaves a request
//! unanswered for too long, or sends answers without requests, is given up.
//!
//! The id alone determines the server: each id ranks the servers in its own order, and the first one
//! that is up gets the request. With more than one copy of each session, a request visits several
//! servers; the table is in the source of `in_flight`. While no server is up, every request is answered
//! at once. When a connection is lost, so are its requests, unless there is another server to ask.
//!
//! # Connections to servers
//!
//! The caller makes them. [`Proxy::dial`] says when to start or cancel an attempt; the caller reports
//! the result with [`Proxy::connected`] or [`Machine::closed`].

mod check;
mod config;
mod forward;
mod hedge;
mod in_flight;
mod memory;
mod probe;
mod repair;
mod replies;
mod seal;
mod service;
#[cfg(test)]
mod tests;
mod upstream;

use crate::buffer::Pool;
use crate::clients::{ClientSlot, Clients, Counters, SetupError};
use crate::machine::{Machine, Peer, ServerKey, Wants};
use crate::memory::Array;
use crate::slots::{Key, Lane, Queue, QueueId, Slots};
use crate::time::{Instant, earlier};

use config::Terms;
pub use config::{Config, SERVER_PATIENCE, Traffic};
pub use hedge::HEDGE_AFTER;
pub use in_flight::InFlight;
use memory::Servers;
pub use memory::{Borrowed, Fixed, InFlightSlot, Memory, Sizes};
pub use probe::PROBE_ID;
use seal::Sealing;
pub use seal::{Rejected, Seal};
use upstream::{DIAL_GRACE, Input, Link};
pub use upstream::{GivenUp, ServerTraffic, Upstream};
pub(crate) use upstream::{hash, rank};

/// The most servers of one proxy.
pub const SERVERS_MAX: usize = 32;

/// The queue of requests that may be hedged; the first ids are those of servers.
const HEDGEABLE: Queue = Queue::new(Lane::Time, QueueId(u8::MAX));

/// What to do about the connection to a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dial {
    /// Start an attempt to connect. Report its result with [`Proxy::connected`] or [`Machine::closed`].
    Connect(ServerKey),
    /// Cancel the attempt: it has taken longer than the patience of
    /// [`Config::limits`]. The key is stale already, so there is nothing to report.
    Cancel(ServerKey),
}

/// Why the first client's request does not start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Blocked {
    /// It may start.
    No,
    /// It waits for a connection, until then.
    ForConnection(Instant),
    /// It waits for the end of another request.
    ForInFlight,
}

/// A proxy without sockets.
#[derive(Debug)]
pub struct Proxy<M: Memory> {
    clients: Clients<M::Clients, M::Buffers>,
    terms: Terms,
    servers: Servers<M::Servers>,
    /// The server whose turn is next.
    turn: u8,
    /// The number of servers that are not up.
    not_up: usize,
    /// The time at which no server had left anything unanswered for too long.
    judged_at: Instant,
    in_flight: Slots<InFlight, M::InFlight>,
    /// The most requests in flight of each server.
    share: usize,
    /// Requests that may be sent to a second server, in the order in which they were sent.
    hedgeable: Queue,
    blocked: Blocked,
    /// When the proxy was last called much later than its deadline.
    woken: Instant,
    traffic: Traffic,
    /// Sessions go to servers in clear if `None`.
    sealing: Option<Sealing>,
}

impl<C, F, U, B> Proxy<(C, F, U, B)>
where
    C: Array<ClientSlot>,
    F: Array<InFlightSlot>,
    U: Array<Upstream>,
    B: Array<u8>,
{
    /// A proxy for as many clients as there are `slots`, and as many requests at a time as there are
    /// slots `in_flight`.
    ///
    /// A client has at most one request in flight at each server, but a request whose client has left
    /// stays until it is answered. One slot for each client at each server, and as many again, are
    /// plenty; each server gets an equal share. Two buffers for each client and each server are enough
    /// for every case. With fewer (at least two for each server and two more, of
    /// [`MESSAGE_MAX`](crate::wire::MESSAGE_MAX) bytes or more) clients may have to wait for each other.
    ///
    /// # Errors
    /// [`SetupError`] if there is too little memory, or too few or too many servers.
    pub fn new(
        slots: C,
        in_flight: F,
        servers: U,
        pool: Pool<B>,
        config: Config,
    ) -> Result<Self, SetupError> {
        let mut servers = Servers(servers);
        let in_flight = Slots::new(in_flight);
        if in_flight.capacity() == 0 {
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
        let mut clients = Clients::new(slots, pool, buffers, config.limits)?;
        for (number, server) in (0..=u8::MAX).zip(&mut *servers) {
            server.set_number(number);
            server.inbox.keep(&mut clients.pool);
            server.outbox.keep(&mut clients.pool);
        }
        Ok(Self {
            clients,
            terms: config.terms(),
            turn: 0,
            not_up: servers.len(),
            judged_at: Instant::ORIGIN,
            share: in_flight.capacity().checked_div(servers.len()).unwrap_or(1).max(1),
            servers,
            in_flight,
            hedgeable: HEDGEABLE,
            blocked: Blocked::No,
            woken: Instant::ORIGIN,
            traffic: Traffic::default(),
            sealing: None,
        })
    }
}

impl<M: Memory> Proxy<M> {
    /// Returns an attempt to connect that must be started or cancelled now. Each is returned once: call
    /// this until it returns `None`, after [`Machine::advance`] and whenever the deadline is reached.
    pub fn dial(&mut self, now: Instant) -> Option<Dial> {
        self.cancel_dial(now).or_else(|| self.start_dial(now))
    }

    fn cancel_dial(&mut self, now: Instant) -> Option<Dial> {
        let dialing = |server: &&Upstream| server.link == Link::Dialing;
        let over = self.servers.iter().filter(dialing).find_map(|server| {
            let (end, _) = self.patience_ends(server)?;
            (end <= now).then_some((server.key(), end))
        });
        let (key, end) = over?;
        if self.is_late(now, end) {
            return None;
        }
        self.server_closed(key);
        Some(Dial::Cancel(key))
    }

    fn start_dial(&mut self, now: Instant) -> Option<Dial> {
        let retry = self.terms.retry;
        let due = |server: &&mut Upstream| server.dial_at(retry).is_some_and(|at| at <= now);
        let server = self.servers.iter_mut().find(due)?;
        server.link = Link::Dialing;
        server.dialed = Some(now);
        self.blocked = Blocked::No;
        Some(Dial::Connect(server.key()))
    }

    /// Reports that the connection to a server is made. The server is up once it has answered the
    /// probe.
    pub fn connected(&mut self, now: Instant, key: ServerKey) {
        let server = self.servers.get_mut(usize::from(key.number()));
        let server = server.filter(|server| server.is(key) && server.link == Link::Dialing);
        if let Some(server) = server {
            server.level = 0;
            count(&mut server.traffic.connects);
            server.probe(now, &mut self.clients.pool);
        }
    }

    /// Whether server `number` has answered on its present connection.
    pub fn is_up(&self, number: u8) -> bool {
        self.server(number).is_some_and(Upstream::is_up)
    }

    /// Whether server `number` has its share of requests in flight, so that it gets no more.
    pub fn is_full(&self, number: u8) -> bool {
        self.server(number).is_some_and(|server| server.load() >= self.share)
    }

    /// Why the last connection of server `number` was given up.
    pub fn given_up(&self, number: u8) -> Option<GivenUp> {
        self.server(number)?.given_up
    }

    /// Counters of requests.
    pub fn traffic(&self) -> Traffic {
        let mut sum = self.traffic;
        for server in self.servers.iter() {
            let ServerTraffic { strays, connects, losses, given_up, .. } = server.traffic;
            let ServerTraffic { rejected, repaired, .. } = server.traffic;
            sum.strays = sum.strays.saturating_add(strays);
            sum.connects = sum.connects.saturating_add(connects);
            sum.losses = sum.losses.saturating_add(losses);
            sum.given_up = sum.given_up.saturating_add(given_up);
            sum.rejected = sum.rejected.plus(&rejected);
            sum.repaired = sum.repaired.saturating_add(repaired);
        }
        sum
    }

    /// Counters of server `number`.
    pub fn server_traffic(&self, number: u8) -> ServerTraffic {
        self.server(number).map_or_else(ServerTraffic::default, |server| server.traffic)
    }

    /// Counters of clients.
    pub const fn counters(&self) -> Counters {
        self.clients.counters
    }

    /// The number of connected clients.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// The number of free buffers that were in use before.
    pub const fn buffers_touched(&self) -> u32 {
        self.clients.pool.touched()
    }

    /// Sets aside buffers that are no longer needed; see [`Pool::trim`].
    pub fn trim(&mut self, keep: u32, most: u32, discard: impl FnMut(&mut [u8])) -> u32 {
        self.clients.pool.trim(keep, most, discard)
    }

    /// The number of requests in flight, including those whose clients have left.
    pub const fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The number of free buffers: all but two for each server while no client has bytes waiting or a
    /// request in flight.
    pub const fn buffers_free(&self) -> u32 {
        self.clients.pool.free()
    }

    fn server(&self, number: u8) -> Option<&Upstream> {
        self.servers.get(usize::from(number))
    }

    /// The server of this key, unless the key is stale.
    #[inline]
    fn keyed(&self, key: ServerKey) -> Option<&Upstream> {
        self.server(key.number()).filter(|server| server.is(key))
    }

    /// The server of this key and the pool, if it has a connection in use.
    #[inline]
    fn talking(&mut self, key: ServerKey) -> Option<(&mut Upstream, &mut Pool<M::Buffers>)> {
        let server = self.servers.get_mut(usize::from(key.number()))?;
        (server.is(key) && server.is_talking()).then_some((server, &mut self.clients.pool))
    }

    /// The connection to a server, or the attempt to connect, has ended.
    fn server_closed(&mut self, key: ServerKey) {
        let server = self.servers.get_mut(usize::from(key.number()));
        let Some(server) = server.filter(|server| server.is(key)) else {
            return;
        };
        if server.is_connected() {
            count(&mut server.traffic.losses);
        }
        if server.is_up() {
            self.not_up = self.not_up.saturating_add(1);
        }
        server.leave();
        server.inbox.clear(&mut self.clients.pool);
        server.outbox.clear(&mut self.clients.pool);
        self.blocked = Blocked::No;
    }
}

impl<M: Memory> Machine for Proxy<M> {
    fn open(&mut self, now: Instant) -> Option<Key> {
        self.clients.open(now)
    }

    fn space(&mut self, peer: Peer) -> &mut [u8] {
        match peer {
            Peer::Client(key) => self.clients.space(key),
            Peer::Server(key) => match self.talking(key) {
                Some((server, pool)) if server.input != Input::Ended => server.inbox.space(pool),
                _ => Default::default(),
            },
        }
    }

    fn filled(&mut self, peer: Peer, len: usize) {
        match peer {
            Peer::Client(key) => self.clients.filled(key, len),
            Peer::Server(key) => {
                if let Some((server, pool)) = self.talking(key) {
                    server.inbox.filled(pool, len);
                    server.wants_changed = false;
                    if len > 0 && server.input == Input::Quiet {
                        server.input = Input::Unread;
                    }
                }
            }
        }
    }

    fn ended(&mut self, now: Instant, peer: Peer) {
        match peer {
            Peer::Client(key) => self.clients.ended(now, key),
            Peer::Server(key) => {
                if let Some((server, _)) = self.talking(key) {
                    (server.input, server.wants_changed) = (Input::Ended, false);
                }
            }
        }
    }

    /// The work of each step is due exactly when [`Proxy::deadline`] says so: both ask the same
    /// functions.
    fn advance(&mut self, now: Instant) -> Option<Peer> {
        if let Some(key) = self.clients.expire_next(now, self.blocked != Blocked::No) {
            return Some(Peer::Client(key));
        }
        let peer = self.service(now).or_else(|| self.hedge(now)).or_else(|| self.admit(now));
        let peer = peer.or_else(|| self.clients.next_unblocked().map(Peer::Client));
        peer.or_else(|| self.wants_changed())
    }

    fn pending(&self, peer: Peer) -> &[u8] {
        match peer {
            Peer::Client(key) => self.clients.pending(key),
            Peer::Server(key) => {
                let server = self.keyed(key).filter(|server| server.is_talking());
                server.map_or(&[], |server| server.outbox.bytes(&self.clients.pool))
            }
        }
    }

    fn sent(&mut self, now: Instant, peer: Peer, len: usize) {
        match peer {
            Peer::Client(key) => self.clients.sent(now, key, len),
            Peer::Server(key) => {
                if let Some((server, pool)) = self.talking(key).filter(|_| len > 0) {
                    server.outbox.consume(pool, len);
                    server.wants_changed = false;
                    server.set_can_send(true);
                }
            }
        }
    }

    fn wants(&self, peer: Peer) -> Wants {
        let key = match peer {
            Peer::Client(key) => return self.clients.wants(key),
            Peer::Server(key) => key,
        };
        match self.keyed(key) {
            None => Wants::CLOSE,
            Some(server) if server.is_talking() => {
                let full = server.inbox.len() >= self.clients.pool.buffer_len();
                let read = !full && server.input != Input::Ended;
                Wants { read, write: !server.outbox.is_empty(), close: false }
            }
            Some(server) if server.is_connected() => Wants::CLOSE,
            Some(_) => Wants::default(),
        }
    }

    fn closed(&mut self, peer: Peer) {
        match peer {
            Peer::Client(key) => {
                if let Some(in_flight) = self.clients.closed(key).and_then(|conn| conn.in_flight) {
                    self.desert(in_flight);
                }
                self.blocked = Blocked::No;
            }
            Peer::Server(key) => self.server_closed(key),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let admit = self.admit_at();
        let busy = |server: &Upstream| server.wants_changed || server.has_work();
        let ready = admit == Some(Instant::ORIGIN) || self.clients.unblocked().is_some();
        if ready || self.servers.iter().any(busy) {
            return Some(Instant::ORIGIN);
        }
        let of_server = |server: &Upstream| {
            let silent = self.patience_ends(server).map(|(end, _)| end);
            earlier(server.dial_at(self.terms.retry), silent)
        };
        let servers = self.servers.iter().filter_map(of_server).min();
        let ours = earlier(servers, earlier(admit, self.hedge_at()));
        earlier(self.clients.deadline(), ours)
    }
}

fn count(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}
