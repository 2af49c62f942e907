//! A harness for one machine: peers at the other ends of its connections, and time that only tests move.
//!
//! ```text
//!  test ── send ──► up ──► space/filled ─┐
//!                                      machine ── advance, deadline
//!  test ◄─ received ◄── down ◄── pending/sent ─┘
//! ```
//!
//! The harness moves bytes as a poll loop does: it looks at a peer's wants only after a verb on that
//! peer or when `advance` names it, in turns of writes, reads, `advance` and closing. [`Pieces`] says how
//! many bytes move at a time. The same seed gives the same run.

use crate::bytes::{HAVE, at_level, message, status};
use crate::random::Random;
use distcache_core::machine::{Machine, Peer, ServerKey, Wants};
use distcache_core::proxy::{self, Dial, PROBE_ID, Proxy};
use distcache_core::server::{self, Server, Store};
use distcache_core::time::Instant;

/// After this many turns, or steps in a turn, a machine counts as running in circles.
const STEPS_MAX: usize = 1_000_000;

/// The most servers of a proxy.
pub const SERVERS: usize = 4;

/// A machine that may have servers to connect to.
pub trait TestMachine: Machine {
    /// Returns what to do about the connections to its servers.
    fn dial(&mut self, _now: Instant) -> Option<Dial> {
        None
    }

    /// Reports that a server is connected.
    fn connected(&mut self, _now: Instant, _key: ServerKey) {}

    /// Checks its queues.
    ///
    /// # Errors
    /// A description of the inconsistency.
    fn check(&self) -> Result<(), &'static str>;
}

impl<S: Store> TestMachine for server::Borrowed<'_, S> {
    fn dial(&mut self, now: Instant) -> Option<Dial> {
        Server::dial(self, now)
    }

    fn connected(&mut self, now: Instant, key: ServerKey) {
        Server::connected(self, now, key);
    }

    fn check(&self) -> Result<(), &'static str> {
        Server::check(self)
    }
}

impl TestMachine for proxy::Borrowed<'_> {
    fn dial(&mut self, now: Instant) -> Option<Dial> {
        Proxy::dial(self, now)
    }

    fn connected(&mut self, now: Instant, key: ServerKey) {
        Proxy::connected(self, now, key);
    }

    fn check(&self) -> Result<(), &'static str> {
        Proxy::check(self)
    }
}

/// How many bytes move at a time.
#[derive(Clone, Debug)]
pub enum Pieces {
    /// All that there are, and for which there is room.
    Whole,
    /// At most this many.
    Of(usize),
    /// All, but not across this offset of each stream.
    CutAt(usize),
    /// A random number, at least 1.
    Any(Random),
}

impl Pieces {
    fn of(&mut self, len: usize, offset: usize) -> usize {
        match self {
            Self::Whole => len,
            Self::Of(most) => len.min(*most),
            Self::CutAt(at) if offset < *at => len.min(*at - offset),
            Self::CutAt(_) => len,
            Self::Any(random) if len > 0 => 1 + random.below(len),
            Self::Any(_) => 0,
        }
    }
}

/// Runs a scenario with every split of its streams: at once, byte for byte, in random pieces, and
/// split at every offset up to `longest`.
pub fn with_every_split(longest: usize, scenario: impl Fn(Pieces)) {
    scenario(Pieces::Whole);
    scenario(Pieces::Of(1));
    for seed in 0..5 {
        scenario(Pieces::Any(Random::new(seed)));
    }
    for at in 1..longest {
        scenario(Pieces::CutAt(at));
    }
}

/// The peer's end of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct End(usize);

/// The end of a proxy's server, or of the first of them.
pub const SERVER: End = End(0);

/// Returns the end of a proxy's server `number`.
pub const fn server(number: u8) -> End {
    End(number as usize)
}

/// What happens when a proxy dials.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reach {
    /// It is connected.
    Accepts,
    /// It gets no answer.
    Hangs,
    /// It is refused at once.
    Refuses,
}

/// What happens to a proxy's probe.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Probes {
    /// The harness answers it at this patch level, hidden from the test.
    AnsweredAt(u8),
    /// The test sees it, as any request.
    Seen,
}

/// Returns the bytes of a probe.
pub fn probe() -> Vec<u8> {
    at_level(2, message(0, u32::MAX, HAVE, PROBE_ID))
}

#[derive(Debug)]
struct Link {
    /// `None` before the first connection to this server.
    peer: Option<Peer>,
    /// Hidden bytes: how many were sent, and how many are still to come.
    probe: [usize; 2],
    up: Vec<u8>,
    read: usize,
    down: Vec<u8>,
    /// How many more bytes the peer takes.
    window: usize,
    writes: usize,
    hung_up: bool,
    ended: bool,
    open: bool,
    wants: Wants,
}

impl Link {
    fn new(peer: Option<Peer>, open: bool) -> Self {
        let (up, down, window) = (Vec::new(), Vec::new(), usize::MAX);
        let wants = Wants::default();
        Self {
            peer,
            probe: [0; 2],
            up,
            read: 0,
            down,
            window,
            writes: 0,
            hung_up: false,
            ended: false,
            open,
            wants,
        }
    }
}

/// A machine and its peers.
#[derive(Debug)]
pub struct Net<M> {
    /// The machine.
    pub machine: M,
    /// The time.
    pub now: Instant,
    /// How bytes move.
    pub pieces: Pieces,
    /// What happens to attempts to reach a server.
    pub reach: Reach,
    /// What happens to probes.
    pub probes: Probes,
    /// What happens to attempts to reach one of several servers, if not the same as `reach`.
    pub reach_of: [Option<Reach>; SERVERS],
    /// The key of the last attempt to reach each server.
    pub keys: [Option<ServerKey>; SERVERS],
    /// When the machine dialed.
    pub dials: Vec<Instant>,
    /// How often each server was connected.
    pub connects: [usize; SERVERS],
    links: Vec<Link>,
}

impl<M: TestMachine> Net<M> {
    /// Creates a machine without peers.
    pub fn new(machine: M, pieces: Pieces) -> Self {
        let now = Instant::from_millis(1_000_000);
        let links = (0..SERVERS).map(|_| Link::new(None, false)).collect();
        let (probes, keys) = (Probes::AnsweredAt(0), [None; SERVERS]);
        let (reach, reach_of) = (Reach::Accepts, [None; SERVERS]);
        let (dials, connects) = (Vec::new(), [0; SERVERS]);
        Self { machine, now, pieces, reach, probes, reach_of, keys, dials, connects, links }
    }

    /// Connects a client; `None` if it is refused.
    pub fn try_connect(&mut self) -> Option<End> {
        let key = self.machine.open(self.now)?;
        self.links.push(Link::new(Some(Peer::Client(key)), true));
        let end = End(self.links.len() - 1);
        self.refresh_wants(end);
        Some(end)
    }

    /// Connects a client.
    ///
    /// # Panics
    /// If it is refused.
    pub fn connect(&mut self) -> End {
        self.try_connect().expect("a place for one more client")
    }

    /// Queues bytes from the peer. They move with the next turns.
    pub fn send(&mut self, end: End, bytes: &[u8]) {
        self.links[end.0].up.extend(bytes);
    }

    /// Returns all that the peer has received.
    pub fn received(&self, end: End) -> &[u8] {
        &self.links[end.0].down
    }

    /// Returns what the peer has received since the last call.
    pub fn take(&mut self, end: End) -> Vec<u8> {
        std::mem::take(&mut self.links[end.0].down)
    }

    /// Returns how many writes the peer's bytes took.
    pub fn writes(&self, end: End) -> usize {
        self.links[end.0].writes
    }

    /// Returns how many of the peer's bytes the machine has not taken.
    pub fn unread(&self, end: End) -> usize {
        self.links[end.0].up.len() - self.links[end.0].read
    }

    /// Lets the peer take `bytes` more bytes and then none.
    pub fn window(&mut self, end: End, bytes: usize) {
        self.links[end.0].window = bytes;
    }

    /// Ends the peer's sending side, after what it has sent.
    pub fn hang_up(&mut self, end: End) {
        self.links[end.0].hung_up = true;
    }

    /// Breaks the connection, with all that is in flight.
    pub fn cut(&mut self, end: End) {
        if self.links[end.0].open {
            self.close(end);
        }
    }

    /// Returns whether the connection is neither closed nor broken.
    pub fn is_open(&self, end: End) -> bool {
        self.links[end.0].open
    }

    /// Takes turns until nothing moves any more.
    ///
    /// # Panics
    /// If that takes too long, if the machine is due again at once, or if it has changed its wants
    /// of a peer without naming it.
    pub fn drive(&mut self) {
        for _ in 0..STEPS_MAX {
            if !self.step() {
                return self.check_idle();
            }
        }
        panic!("the machine does not come to rest");
    }

    /// Lets `millis` milliseconds pass, and wakes the machine at its deadlines.
    ///
    /// # Panics
    /// As [`Net::drive`].
    pub fn pass(&mut self, millis: u64) {
        let end = self.now.after(millis);
        self.drive();
        for _ in 0..STEPS_MAX {
            let Some(at) = self.machine.deadline().filter(|at| *at <= end) else {
                self.now = end;
                return self.drive();
            };
            self.now = at;
            self.drive();
        }
        panic!("the machine never sleeps");
    }

    fn check_idle(&self) {
        let (now, deadline) = (self.now, self.machine.deadline());
        assert!(deadline.is_none_or(|at| at > now), "at {now:?} it is due at {deadline:?}");
        for link in self.links.iter().filter(|link| link.open) {
            let Some(peer) = link.peer else { continue };
            assert_eq!(
                self.machine.wants(peer),
                link.wants,
                "a change of {peer:?} was not reported"
            );
        }
        assert_eq!(self.machine.check(), Ok(()));
    }

    /// Takes one turn. Returns whether anything moved.
    pub fn step(&mut self) -> bool {
        let mut moved = self.dial();
        for number in 0..self.links.len() {
            moved |= self.write(End(number));
        }
        for number in 0..self.links.len() {
            moved |= self.read(End(number));
        }
        moved |= self.advance();
        for number in 0..self.links.len() {
            let close = self.links[number].open && self.links[number].wants.close;
            if close {
                self.close(End(number));
            }
            moved |= close;
        }
        moved
    }

    fn dial(&mut self) -> bool {
        let key = match self.machine.dial(self.now) {
            None => return false,
            Some(Dial::Connect(key)) => key,
            // Its key is stale: nothing hangs on it.
            Some(Dial::Cancel(_)) => return true,
        };
        let number = key.number();
        self.keys[usize::from(number)] = Some(key);
        self.dials.push(self.now);
        match self.reach_of[usize::from(number)].unwrap_or(self.reach) {
            Reach::Hangs => (),
            Reach::Refuses => self.machine.closed(Peer::Server(key)),
            Reach::Accepts => self.accept_dial_of(number),
        }
        true
    }

    /// Lets the server accept the last attempt to reach it.
    pub fn accept_dial(&mut self) {
        self.accept_dial_of(0);
    }

    fn accept_dial_of(&mut self, number: u8) {
        let key = self.keys[usize::from(number)].expect("it was dialed");
        let mut link = Link::new(Some(Peer::Server(key)), true);
        if let Probes::AnsweredAt(_) = self.probes {
            link.probe[1] = probe().len();
        }
        self.links[usize::from(number)] = link;
        self.connects[usize::from(number)] += 1;
        self.machine.connected(self.now, key);
        self.refresh_wants(server(number));
    }

    fn write(&mut self, end: End) -> bool {
        let link = &mut self.links[end.0];
        let (Some(peer), true) = (link.peer, link.open && link.wants.write) else {
            return false;
        };
        let pending = self.machine.pending(peer);
        let len = self.pieces.of(pending.len().min(link.window), link.down.len());
        if len == 0 {
            return false;
        }
        let [done, left] = link.probe;
        let (hidden, seen) = pending[..len].split_at(len.min(left));
        assert_eq!(*hidden, probe()[done..][..hidden.len()], "a probe comes first");
        link.probe = [done + hidden.len(), left - hidden.len()];
        link.down.extend(seen);
        if let Probes::AnsweredAt(level) = self.probes
            && left > 0
            && link.probe[1] == 0
        {
            link.up.extend(at_level(level, status(u32::MAX, HAVE, 1)));
        }
        link.window = link.window.saturating_sub(if link.window == usize::MAX { 0 } else { len });
        link.writes += usize::from(!seen.is_empty());
        self.machine.sent(self.now, peer, len);
        self.refresh_wants(end);
        true
    }

    fn read(&mut self, end: End) -> bool {
        let link = &mut self.links[end.0];
        if !link.open || !link.wants.read || link.ended {
            return false;
        }
        let here = &link.up[link.read..];
        if here.is_empty() && !link.hung_up {
            return false;
        }
        let Some(peer) = link.peer else { return false };
        // A second call of `space` must change nothing.
        self.machine.space(peer);
        let space = self.machine.space(peer);
        // The hidden answer to a probe comes whole and alone.
        let unseen = if link.probe[0] > 0 { status(0, HAVE, 1).len() } else { 0 };
        let len = match unseen.checked_sub(link.read) {
            None | Some(0) => self.pieces.of(here.len().min(space.len()), link.read - unseen),
            Some(rest) => rest.min(here.len()).min(space.len()),
        };
        let room = !space.is_empty();
        space[..len].copy_from_slice(&here[..len]);
        link.read += len;
        self.machine.filled(peer, len);
        link.ended = room && link.hung_up && link.read == link.up.len();
        if link.ended {
            self.machine.ended(self.now, peer);
        }
        let moved = len > 0 || link.ended;
        self.refresh_wants(end);
        moved
    }

    fn advance(&mut self) -> bool {
        for turn in 0..STEPS_MAX {
            let Some(peer) = self.machine.advance(self.now) else {
                return turn > 0;
            };
            let at = |link: &Link| link.open && link.peer == Some(peer);
            let number = self.links.iter().position(at);
            if let Some(number) = number {
                self.refresh_wants(End(number));
            } else if matches!(peer, Peer::Server(_)) && self.machine.wants(peer).close {
                self.machine.closed(peer);
            }
        }
        panic!("the machine never rests");
    }

    fn refresh_wants(&mut self, end: End) {
        let link = &mut self.links[end.0];
        let Some(peer) = link.peer else { return };
        link.wants = self.machine.wants(peer);
        let pending = self.machine.pending(peer);
        assert!(
            link.wants.close || link.wants.write != pending.is_empty(),
            "`wants.write` differs from `pending`"
        );
    }

    fn close(&mut self, end: End) {
        let link = &mut self.links[end.0];
        link.open = false;
        if let Some(peer) = link.peer {
            self.machine.closed(peer);
        }
    }
}
