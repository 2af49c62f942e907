//! The proxy: many clients, one connection to each of a few servers.
//!
//! ```text
//!  client ──► inbox ─┐  whole requests,             ┌─► outbox ──► server
//!  client ──► inbox ─┼─ one of each client in turn ─┤   (uid = request in flight)
//!  client ──► inbox ─┘                              │
//!                                                 requests in request in flight
//!  client ◄── outbox ◄─┐                            │
//!  client ◄── outbox ◄─┴─ back under the client's ──┴── inbox ◄── server
//! ```
//!
//! A request on its way is a request in flight, and the request in flight's ticket is the uid that the server sees. A ticket
//! finds its request in flight once; the request in flight names its client by a key that goes stale with the client. So
//! an answer that nobody asked for, a second answer, and the answer to a client that has left reach
//! nobody.
//!
//! A request in flight starts only when there is room for what follows: a request in flight slot, and a buffer for the
//! client's answer. A server whose outbox is full has a queue of requests in request in flight that wait for it, so that
//! it does not keep those for other servers waiting. Each server has its share of the requests in request in flight. Once
//! that is used up by requests that nobody waits for any more, the server is left out like one that
//! is away, so that a server that hangs costs the others nothing.
//!
//! A server is up once it has answered on its connection; `probe` asks it. One that leaves a request
//! unanswered for too long, or sends what nobody asked for, is given up.
//!
//! Which server a request goes to follows from its id alone: every id ranks the servers in an order
//! of its own, and the first of them that is up is asked. With more than one copy of each session, a
//! request visits more than one of them; the table is in the source of `request in flight`. While no server is
//! up every request is answered at once; when a connection is lost, so is every request on it, unless
//! there is another server to ask.

mod check;
mod hedge;
mod in_flight;
mod journey;
mod probe;
mod upstream;

use crate::buffer::Pool;
use crate::clients::{Client, Clients, Counters, Limits, SetupError, earlier};
use crate::machine::{Machine, Peer, ServerKey, Wants};
use crate::slots::{Key, Lane, Queue, QueueId, Slot, Slots};
use crate::time::Instant;

pub use hedge::HEDGE_AFTER;
use in_flight::Aim;
pub use in_flight::InFlight;
pub use probe::PROBE_ID;
use upstream::{DIAL_GRACE, Phase};
pub use upstream::{GivenUp, ServerTraffic, Upstream};

/// The most servers that a proxy has.
pub const SERVERS_MAX: usize = 32;

/// The patience with servers that [`Config::new`] sets, in milliseconds.
pub const SERVER_PATIENCE: u64 = 250;

/// How much later than it asked for a proxy may be called before it takes a server's silence for its
/// own absence, in milliseconds.
const LATE: u64 = 50;

/// The queue of requests in request in flight that may be hedged; the first tags are those of servers.
const HEDGEABLE: Queue = Queue::new(Lane::Time, QueueId(u8::MAX));

/// How a proxy deals with time, in milliseconds, and with copies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Config {
    /// What clients may do. `patience` also bounds how long a server may leave one request
    /// unanswered while it answers others, and how long an attempt to connect to it may take.
    pub limits: Limits,
    /// How long a server may answer nothing at all while a request waits for it; 0 is for ever.
    pub server_patience: u64,
    /// The time between two attempts to connect.
    pub retry: u64,
    /// How many servers hold each session; 0 is taken for 1.
    pub copies: u8,
    /// Any server will do for any id, since what is behind them is the same: the one with the fewest
    /// requests is asked, and another one where its connection is lost.
    pub anycast: bool,
    /// Sessions that are to live for less are stored for so long; 0 leaves all as they are.
    pub min_ttl: u32,
}

impl Config {
    /// One copy of each session, to live as long as is asked for, and [`SERVER_PATIENCE`].
    pub const fn new(limits: Limits, retry: u64) -> Self {
        Self {
            limits,
            server_patience: SERVER_PATIENCE,
            retry,
            copies: 1,
            anycast: false,
            min_ttl: 0,
        }
    }
}

/// What became of requests, counted from the start. Each request of a client counts once, whatever
/// servers it visits: `requests` is the sum of `answered`, `disconnected`, `orphaned` and those that
/// are on their way. The rest are sums over all servers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Requests that clients made.
    pub requests: u64,
    /// Requests answered with what servers said, or that none is known to have the operation.
    pub answered: u64,
    /// Requests answered with [`Status::DISCONNECTED`](crate::message::Status::DISCONNECTED), for
    /// lack of a server.
    pub disconnected: u64,
    /// Requests whose client left before the answer.
    pub orphaned: u64,
    /// Answers that nobody had asked for.
    pub strays: u64,
    /// Connections to servers that were made.
    pub connects: u64,
    /// Connections to servers that are gone.
    pub losses: u64,
    /// Connections to servers that were given up.
    pub given_up: u64,
}

/// Which server a request goes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Next {
    /// This one.
    Server(u8),
    /// This one, whose share is used up by requests that clients wait for.
    Busy(u8),
    /// None.
    Nobody,
}

/// Whether the first client's request waits for something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Blocked {
    /// It does not.
    No,
    /// For a connection, until then.
    ForConnection(Instant),
    /// For a request in flight.
    ForFlight,
}

/// A proxy without its sockets.
#[derive(Debug)]
pub struct Proxy<'m> {
    clients: Clients<'m>,
    config: Config,
    servers: &'m mut [Upstream],
    /// The server that is looked after first.
    turn: u8,
    /// How many servers are not up.
    away: usize,
    /// The time at which no server had left anything unanswered for too long.
    judged_at: Instant,
    in_flight: Slots<'m, InFlight>,
    /// How many requests in request in flight each server may have.
    share: usize,
    /// Flights that may be sent to a second server, in the order in which they were sent.
    hedgeable: Queue,
    /// The first client's request can't start before something happens.
    blocked: Blocked,
    /// When it last was called much later than it had asked for.
    woken: Instant,
    traffic: Traffic,
}

impl<'m> Proxy<'m> {
    /// A proxy for as many clients as there are `slots`, with as many requests on their way as there
    /// are `requests in request in flight`. Each client has one at each server at most, but one whose client has left stays
    /// until it is answered: as many as clients for each server, and as many again, are plenty. Each
    /// server has an equal share of the requests in request in flight. Two buffers a client and two a server are enough for
    /// every case; with fewer (two a server and two more at least, of
    /// [`MESSAGE_MAX`](crate::wire::MESSAGE_MAX) bytes or more) clients may have to wait for each
    /// other.
    ///
    /// # Errors
    /// [`SetupError`] says which memory will not do.
    pub fn new(
        slots: &'m mut [Slot<Client>],
        in_flight: &'m mut [Slot<InFlight>],
        servers: &'m mut [Upstream],
        pool: Pool<'m>,
        config: Config,
    ) -> Result<Self, SetupError> {
        if in_flight.is_empty() {
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
            config,
            turn: 0,
            away: servers.len(),
            judged_at: Instant::ORIGIN,
            share: in_flight.len().checked_div(servers.len()).unwrap_or(1).max(1),
            servers,
            in_flight: Slots::new(in_flight),
            hedgeable: HEDGEABLE,
            blocked: Blocked::No,
            woken: Instant::ORIGIN,
            traffic: Traffic::default(),
        })
    }

    /// The server that an attempt to connect to is to begin now. Says so once:
    /// [`Proxy::connected`] or [`Machine::closed`] must follow. There may be more than one: ask until
    /// it says `None`.
    pub fn dial(&mut self, now: Instant) -> Option<ServerKey> {
        let retry = self.config.retry;
        let due = |server: &Upstream| {
            server.phase == Phase::Away && server.dial_at(retry).is_none_or(|at| at <= now)
        };
        let server = self.servers.iter_mut().find(|server| due(server))?;
        server.phase = Phase::Dialing;
        server.dialed = Some(now);
        self.blocked = Blocked::No;
        Some(server.key())
    }

    /// The connection to a server is made. The server is up once it has answered on it.
    pub fn connected(&mut self, now: Instant, key: ServerKey) {
        let server = self.servers.get_mut(usize::from(key.number()));
        let server = server.filter(|server| server.is(key) && server.phase == Phase::Dialing);
        if let Some(server) = server.filter(|server| !server.aborted) {
            server.level = 0;
            count(&mut server.traffic.connects);
            server.probe(now, &mut self.clients.pool);
        }
    }

    /// The server has answered the probe.
    fn rise(&mut self, now: Instant, number: u8) {
        let Some(server) = self.servers.get_mut(usize::from(number)) else {
            return;
        };
        // Requests went elsewhere meanwhile, so it lacks what they stored.
        server.may_lack_data |= server.dialed.is_none_or(|at| at.after(DIAL_GRACE) <= now);
        // Requests that waited for room on the last connection wait for nothing now.
        server.can_send = true;
        self.away = self.away.saturating_sub(1);
        self.blocked = Blocked::No;
    }

    /// Whether server `number` has answered on the connection that it has now.
    pub fn is_up(&self, number: u8) -> bool {
        self.server(number).is_some_and(|server| server.phase == Phase::Up)
    }

    /// Whether server `number` has more requests on their way than it may have, so that no more are
    /// passed to it.
    pub fn is_full(&self, number: u8) -> bool {
        self.server(number).is_some_and(|server| server.load() >= self.share)
    }

    /// Why a connection of server `number` was last given up.
    pub fn given_up(&self, number: u8) -> Option<GivenUp> {
        self.server(number)?.given_up
    }

    /// What became of requests so far.
    pub fn traffic(&self) -> Traffic {
        let mut sum = self.traffic;
        for server in &*self.servers {
            let ServerTraffic { strays, connects, losses, given_up, .. } = server.traffic;
            sum.strays = sum.strays.saturating_add(strays);
            sum.connects = sum.connects.saturating_add(connects);
            sum.losses = sum.losses.saturating_add(losses);
            sum.given_up = sum.given_up.saturating_add(given_up);
        }
        sum
    }

    /// What happened at server `number` so far.
    pub fn server_traffic(&self, number: u8) -> ServerTraffic {
        self.server(number).map_or_else(ServerTraffic::default, |server| server.traffic)
    }

    /// What happened to clients so far.
    pub const fn counters(&self) -> Counters {
        self.clients.counters
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// How many buffers that were in use are ready to be used again.
    pub const fn buffers_touched(&self) -> u32 {
        self.clients.pool.touched()
    }

    /// Sets aside buffers that nobody needs any more: see [`Pool::trim`].
    pub fn trim(&mut self, keep: u32, most: u32, discard: impl FnMut(&mut [u8])) -> u32 {
        self.clients.pool.trim(keep, most, discard)
    }

    /// How many requests are on their way, those of clients that have left among them.
    pub const fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// How many buffers nobody holds: all but two for each server where no client has bytes waiting
    /// or a request on its way.
    pub const fn buffers_free(&self) -> u32 {
        self.clients.pool.free()
    }

    fn server(&self, number: u8) -> Option<&Upstream> {
        self.servers.get(usize::from(number))
    }

    /// The server of this key, where that is not stale.
    #[inline]
    fn keyed(&self, key: ServerKey) -> Option<&Upstream> {
        self.server(key.number()).filter(|server| server.is(key))
    }

    /// The server of this key and the pool, where the key is not stale and bytes go to and fro.
    #[inline]
    fn talking(&mut self, key: ServerKey) -> Option<(&mut Upstream, &mut Pool<'m>)> {
        let server = self.servers.get_mut(usize::from(key.number()))?;
        (server.is(key) && server.is_talking()).then_some((server, &mut self.clients.pool))
    }

    /// The key of server `number`, as `advance` names it.
    fn peer(&self, number: u8) -> Option<Peer> {
        self.server(number).map(|server| Peer::Server(server.key()))
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

    /// When the server's connection is given up if nothing more is heard of it, and after how many
    /// milliseconds that is.
    fn patience_ends(&self, server: &Upstream) -> Option<(Instant, u64)> {
        let patience = self.config.limits.patience;
        let limit =
            |since: Instant, millis: u64| (millis > 0).then(|| (since.after(millis), millis));
        match server.phase {
            _ if server.aborted => None,
            Phase::Away => None,
            Phase::Dialing => limit(server.dialed?.max(self.woken), patience),
            Phase::Probing => limit(server.heard.max(self.woken), self.server_patience()),
            Phase::Up => {
                let oldest = self.in_flight.get(self.in_flight.front(&server.open)?)?;
                let since = oldest.since.max(self.woken);
                let silent = limit(since.max(server.heard), self.config.server_patience);
                let one = limit(since, patience);
                silent.into_iter().chain(one).min()
            }
        }
    }

    /// How long a server may take for the probe.
    const fn server_patience(&self) -> u64 {
        match self.config.server_patience {
            0 => self.config.limits.patience,
            millis => millis,
        }
    }

    /// The server's fault, or its silence: its connection is to be closed.
    fn abort(&mut self, number: u8, why: Option<GivenUp>) -> Option<Peer> {
        self.blocked = Blocked::No;
        let server = self.servers.get_mut(usize::from(number))?;
        server.aborted = true;
        if why.is_some() && server.is_connected() {
            server.given_up = why;
            count(&mut server.traffic.given_up);
        }
        Some(Peer::Server(server.key()))
    }

    /// Does a piece of work for one of the servers.
    fn service(&mut self, now: Instant) -> Option<Peer> {
        // One that has nothing more to do after all is not busy when it is looked at again.
        for _ in 0..self.servers.len() {
            let Some(number) = self.next_busy() else {
                break;
            };
            if let Some(peer) = self.tend_busy(now, number) {
                return Some(peer);
            }
        }
        self.service_silent(now)
    }

    /// The next server in turn that has work.
    fn next_busy(&mut self) -> Option<u8> {
        let (before, after) = self.servers.split_at_checked(self.turn.into())?;
        let busy = Upstream::has_work;
        let at = after.iter().position(busy).map(|at| before.len().saturating_add(at));
        let at = at.or_else(|| before.iter().position(busy))?;
        let number = u8::try_from(at).ok()?;
        let next = at.saturating_add(1);
        self.turn = if next < self.servers.len() { number.saturating_add(1) } else { 0 };
        Some(number)
    }

    fn tend_busy(&mut self, now: Instant, number: u8) -> Option<Peer> {
        let server = self.server(number)?;
        let (lost, unread) = (server.lost > 0, server.unread);
        if lost {
            return self.give_up(now, number);
        }
        if unread && let Some(peer) = self.receive(now, number) {
            return Some(peer);
        }
        self.resume(now, number)
    }

    /// Gives up a server that has left something unanswered for too long.
    fn service_silent(&mut self, now: Instant) -> Option<Peer> {
        if now == self.judged_at {
            return None;
        }
        let silent = |server: &Upstream| {
            let (end, millis) = self.patience_ends(server).filter(|(end, _)| *end <= now)?;
            Some((server.number(), end, millis))
        };
        match self.servers.iter().find_map(silent) {
            // It was not called when it had asked for it. What servers have said meanwhile may be
            // there and not have been looked at, so all of them have their time once more.
            Some((_, end, _)) if end.after(LATE) < now && self.woken < now => {
                self.woken = now;
                None
            }
            Some((number, _, millis)) => self.abort(number, Some(GivenUp::Silent(millis))),
            None => {
                self.judged_at = now;
                None
            }
        }
    }

    /// A server whose wants have changed.
    fn wants_changed(&mut self) -> Option<Peer> {
        let server = self.servers.iter_mut().find(|server| server.wants_changed)?;
        server.wants_changed = false;
        Some(Peer::Server(server.key()))
    }
}

impl Machine for Proxy<'_> {
    fn open(&mut self, now: Instant) -> Option<Key> {
        self.clients.open(now)
    }

    fn space(&mut self, peer: Peer) -> &mut [u8] {
        match peer {
            Peer::Client(key) => self.clients.space(key),
            Peer::Server(key) => match self.talking(key) {
                Some((server, pool)) if !server.unread => server.inbox.space(pool),
                _ => Default::default(),
            },
        }
    }

    fn filled(&mut self, _now: Instant, peer: Peer, len: usize) {
        match peer {
            Peer::Client(key) => self.clients.filled(key, len),
            Peer::Server(key) => {
                if let Some((server, pool)) = self.talking(key) {
                    server.inbox.filled(pool, len);
                    server.unread |= len > 0;
                }
            }
        }
    }

    fn ended(&mut self, now: Instant, peer: Peer) {
        match peer {
            Peer::Client(key) => self.clients.ended(now, key),
            Peer::Server(key) => {
                if let Some((server, _)) = self.talking(key) {
                    (server.input_over, server.unread) = (true, true);
                }
            }
        }
    }

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
                    server.can_send = true;
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
            Some(server) if server.aborted => Wants::CLOSE,
            Some(server) if server.is_connected() => {
                let (read, write) = (!server.unread, !server.outbox.is_empty());
                Wants { read, write, close: false }
            }
            Some(_) => Wants::default(),
        }
    }

    fn closed(&mut self, _now: Instant, peer: Peer) {
        match peer {
            Peer::Client(key) => {
                if let Some(in_flight) = self.clients.closed(key).and_then(|conn| conn.in_flight) {
                    self.desert(in_flight);
                }
            }
            Peer::Server(key) => {
                let server = self.servers.get_mut(usize::from(key.number()));
                let Some(server) = server.filter(|server| server.is(key)) else {
                    return;
                };
                if server.is_connected() {
                    count(&mut server.traffic.losses);
                }
                if server.phase == Phase::Up {
                    self.away = self.away.saturating_add(1);
                }
                server.leave();
                server.inbox.clear(&mut self.clients.pool);
                server.outbox.clear(&mut self.clients.pool);
            }
        }
        self.blocked = Blocked::No;
    }

    fn deadline(&self) -> Option<Instant> {
        let ready = self.clients.first().is_some() && self.blocked == Blocked::No;
        if ready || self.servers.iter().any(|server| server.wants_changed || server.has_work()) {
            return Some(Instant::ORIGIN);
        }
        let of_server = |server: &Upstream| {
            let dial = (server.phase == Phase::Away)
                .then(|| server.dial_at(self.config.retry).unwrap_or(Instant::ORIGIN));
            earlier(dial, self.patience_ends(server).map(|(end, _)| end))
        };
        let servers = self.servers.iter().filter_map(of_server).min();
        let grace = match self.blocked {
            Blocked::ForConnection(end) => Some(end),
            Blocked::No | Blocked::ForFlight => None,
        };
        let ours = earlier(servers, earlier(grace, self.hedge_at()));
        earlier(self.clients.deadline(), ours)
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
        for (slots, in_flight, count, buffers, too_small) in cases {
            let mut slots: vec::Vec<_> = (0..slots).map(|_| Slot::EMPTY).collect();
            let mut in_flight: vec::Vec<_> = (0..in_flight).map(|_| Slot::EMPTY).collect();
            let mut servers = [const { Upstream::ONLY }; 33];
            let mut memory = vec![0; buffers * MESSAGE_MAX];
            let pool = Pool::new(&mut memory, MESSAGE_MAX);
            let made = Proxy::new(&mut slots, &mut in_flight, &mut servers[..count], pool, CONFIG);
            assert_eq!(made.err(), too_small);
        }
    }

    #[test]
    fn an_attempt_to_connect_is_asked_for_once() {
        let (mut slots, mut in_flight) = ([const { Slot::EMPTY }; 1], [const { Slot::EMPTY }; 1]);
        let mut memory = vec![0; 4 * MESSAGE_MAX];
        let pool = Pool::new(&mut memory, MESSAGE_MAX);
        let mut servers = [Upstream::ONLY];
        let mut proxy = Proxy::new(&mut slots, &mut in_flight, &mut servers, pool, CONFIG).unwrap();
        let at = Instant::from_millis;
        assert_eq!(proxy.deadline(), Some(Instant::ORIGIN));
        let dials = [7, 7, 1000].map(|time| proxy.dial(at(time)));
        let [Some(key), None, None] = dials else { panic!("{dials:?}") };
        proxy.closed(at(50), Peer::Server(key));
        assert_eq!(proxy.deadline(), Some(at(107)));
        assert_eq!(proxy.dial(at(106)), None);
        let key = proxy.dial(at(107)).unwrap();
        proxy.connected(at(108), key);
        assert!(!proxy.is_up(0) && proxy.dial(at(5000)).is_none());
    }
}
