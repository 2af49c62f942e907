//! A small world: one machine, its peers at the other ends of wires, and time that only tests move.
//!
//! ```text
//!  test ── send ──► up ──► space/filled ─┐
//!                                      machine ── advance, deadline
//!  test ◄─ received ◄── down ◄── pending/sent ─┘
//! ```
//!
//! The world moves bytes as a poll loop would: it looks at a peer's wants only after a verb on that
//! peer or when `advance` names it, in turns of writes, reads, thinking and closing. What it moves at
//! a time is [`Pieces`]. All is the same for the same seed.

use crate::bytes::{HAVE, at_level, message, status};
use crate::random::Random;
use distcache_core::machine::{Machine, Peer, ServerKey, Wants};
use distcache_core::proxy::{self, Dial, PROBE_ID, Proxy};
use distcache_core::server::{self, Server, Store};
use distcache_core::time::Instant;

/// How many turns, or pieces of work in a turn, are taken for a machine that runs in circles.
const PATIENCE: usize = 1_000_000;

/// How many servers a world has at most.
pub const SERVERS: usize = 4;

/// A machine that may have servers to connect to.
pub trait Station: Machine {
    /// What to do about the connections to its servers.
    fn dial(&mut self, _now: Instant) -> Option<Dial> {
        None
    }

    /// A server is connected.
    fn connected(&mut self, _now: Instant, _key: ServerKey) {}

    /// What does not hold of its queues.
    ///
    /// # Errors
    /// In a few words.
    fn check(&self) -> Result<(), &'static str>;
}

impl<S: Store> Station for server::Borrowed<'_, S> {
    fn check(&self) -> Result<(), &'static str> {
        Server::check(self)
    }
}

impl Station for proxy::Borrowed<'_> {
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
    /// As many as there are, and as there is room for.
    Whole,
    /// No more than this.
    Of(usize),
    /// All, but not across this offset of each stream.
    CutAt(usize),
    /// From 1 to all.
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

/// Report a scenario in every way: at once, byte for byte, in random pieces, and with a cut at every
/// offset up to `longest`.
pub fn every_way(longest: usize, scenario: impl Fn(Pieces)) {
    scenario(Pieces::Whole);
    scenario(Pieces::Of(1));
    for seed in 0..5 {
        scenario(Pieces::Any(Random::new(seed)));
    }
    for at in 1..longest {
        scenario(Pieces::CutAt(at));
    }
}

/// One end of a wire, as a test names it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct End(usize);

/// The end at which the server of a proxy sits, or the first of them.
pub const SERVER: End = End(0);

/// The end at which server `number` of a proxy sits.
pub const fn server(number: u8) -> End {
    End(number as usize)
}

/// What happens to a proxy that dials.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reach {
    /// It is connected.
    Accepts,
    /// It gets no answer.
    Hangs,
    /// It is told at once that nobody is there.
    Refuses,
}

/// What a server does with a proxy's probe.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Probes {
    /// The world answers it at this patch level, and tests see nothing of it.
    AnsweredAt(u8),
    /// It is a request like any other.
    Seen,
}

/// The probe on the wire.
pub fn probe() -> Vec<u8> {
    at_level(1, message(0, u32::MAX, HAVE, PROBE_ID))
}

#[derive(Debug)]
struct Wire {
    /// `None` before the first connection to this server.
    peer: Option<Peer>,
    /// Bytes that tests do not see: how many were sent, and how many are still to come.
    probe: [usize; 2],
    up: Vec<u8>,
    read: usize,
    down: Vec<u8>,
    /// How many bytes more the peer takes.
    window: usize,
    writes: usize,
    hung_up: bool,
    ended: bool,
    open: bool,
    wants: Wants,
}

impl Wire {
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
    /// What becomes of attempts to reach the server.
    pub reach: Reach,
    /// What becomes of probes.
    pub probes: Probes,
    /// What becomes of attempts to reach one of several servers, where that differs from `reach`.
    pub reach_of: [Option<Reach>; SERVERS],
    /// The keys of the last attempts to reach each server.
    pub keys: [Option<ServerKey>; SERVERS],
    /// When the machine dialed.
    pub dials: Vec<Instant>,
    /// How often it was connected to each of its servers.
    pub connects: [usize; SERVERS],
    wires: Vec<Wire>,
}

impl<M: Station> Net<M> {
    /// A machine without peers at some time.
    pub fn new(machine: M, pieces: Pieces) -> Self {
        let now = Instant::from_millis(1_000_000);
        let wires = (0..SERVERS).map(|_| Wire::new(None, false)).collect();
        let (probes, keys) = (Probes::AnsweredAt(0), [None; SERVERS]);
        let (reach, reach_of) = (Reach::Accepts, [None; SERVERS]);
        let (dials, connects) = (Vec::new(), [0; SERVERS]);
        Self { machine, now, pieces, reach, probes, reach_of, keys, dials, connects, wires }
    }

    /// Connects a client; `None` where it is refused.
    pub fn try_connect(&mut self) -> Option<End> {
        let key = self.machine.open(self.now)?;
        self.wires.push(Wire::new(Some(Peer::Client(key)), true));
        let end = End(self.wires.len() - 1);
        self.look(end);
        Some(end)
    }

    /// Connects a client.
    ///
    /// # Panics
    /// Where it is refused.
    pub fn connect(&mut self) -> End {
        self.try_connect().expect("a place for one more client")
    }

    /// The peer sends; the bytes move when the world turns.
    pub fn send(&mut self, end: End, bytes: &[u8]) {
        self.wires[end.0].up.extend(bytes);
    }

    /// All that the peer has received.
    pub fn received(&self, end: End) -> &[u8] {
        &self.wires[end.0].down
    }

    /// All that the peer has received since this was asked last.
    pub fn take(&mut self, end: End) -> Vec<u8> {
        std::mem::take(&mut self.wires[end.0].down)
    }

    /// In how many pieces the peer was sent what it was sent.
    pub fn writes(&self, end: End) -> usize {
        self.wires[end.0].writes
    }

    /// How many of the peer's bytes the machine has not taken.
    pub fn unread(&self, end: End) -> usize {
        self.wires[end.0].up.len() - self.wires[end.0].read
    }

    /// The peer takes `bytes` more and then none.
    pub fn window(&mut self, end: End, bytes: usize) {
        self.wires[end.0].window = bytes;
    }

    /// The peer will send no more, once what it sent has arrived.
    pub fn hang_up(&mut self, end: End) {
        self.wires[end.0].hung_up = true;
    }

    /// The connection breaks, with all that is on its way.
    pub fn cut(&mut self, end: End) {
        if self.wires[end.0].open {
            self.close(end);
        }
    }

    /// Whether the machine has not closed the connection, nor has it broken.
    pub fn is_open(&self, end: End) -> bool {
        self.wires[end.0].open
    }

    /// Turns the world until nothing moves any more.
    ///
    /// # Panics
    /// Where that takes too long, where the machine would not let its shell sleep, or where it has
    /// changed its mind about a peer and has not said so.
    pub fn drive(&mut self) {
        for _ in 0..PATIENCE {
            if !self.step() {
                return self.check_rest();
            }
        }
        panic!("the world does not come to rest");
    }

    /// Lets `millis` milliseconds pass, and wakes the machine whenever it wants to be woken.
    ///
    /// # Panics
    /// As [`Net::drive`].
    pub fn pass(&mut self, millis: u64) {
        let end = self.now.after(millis);
        self.drive();
        for _ in 0..PATIENCE {
            let Some(at) = self.machine.deadline().filter(|at| *at <= end) else {
                self.now = end;
                return self.drive();
            };
            self.now = at;
            self.drive();
        }
        panic!("the machine never sleeps");
    }

    fn check_rest(&self) {
        let (now, deadline) = (self.now, self.machine.deadline());
        assert!(deadline.is_none_or(|at| at > now), "at {now:?} it would wake at {deadline:?}");
        for wire in self.wires.iter().filter(|wire| wire.open) {
            let Some(peer) = wire.peer else { continue };
            assert_eq!(self.machine.wants(peer), wire.wants, "{peer:?} was not named");
        }
        assert_eq!(self.machine.check(), Ok(()));
    }

    /// Takes one turn; false where nothing moved.
    pub fn step(&mut self) -> bool {
        let mut moved = self.dial();
        for number in 0..self.wires.len() {
            moved |= self.write(End(number));
        }
        for number in 0..self.wires.len() {
            moved |= self.read(End(number));
        }
        moved |= self.think();
        for number in 0..self.wires.len() {
            let close = self.wires[number].open && self.wires[number].wants.close;
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
            Reach::Accepts => self.pick_up_at(number),
        }
        true
    }

    /// The server answers an attempt to reach it.
    pub fn pick_up(&mut self) {
        self.pick_up_at(0);
    }

    fn pick_up_at(&mut self, number: u8) {
        let key = self.keys[usize::from(number)].expect("it was dialed");
        let mut wire = Wire::new(Some(Peer::Server(key)), true);
        if let Probes::AnsweredAt(_) = self.probes {
            wire.probe[1] = probe().len();
        }
        self.wires[usize::from(number)] = wire;
        self.connects[usize::from(number)] += 1;
        self.machine.connected(self.now, key);
        self.look(server(number));
    }

    fn write(&mut self, end: End) -> bool {
        let wire = &mut self.wires[end.0];
        let (Some(peer), true) = (wire.peer, wire.open && wire.wants.write) else {
            return false;
        };
        let pending = self.machine.pending(peer);
        let len = self.pieces.of(pending.len().min(wire.window), wire.down.len());
        if len == 0 {
            return false;
        }
        let [done, left] = wire.probe;
        let (hidden, seen) = pending[..len].split_at(len.min(left));
        assert_eq!(*hidden, probe()[done..][..hidden.len()], "a probe comes first");
        wire.probe = [done + hidden.len(), left - hidden.len()];
        wire.down.extend(seen);
        if let Probes::AnsweredAt(level) = self.probes
            && left > 0
            && wire.probe[1] == 0
        {
            wire.up.extend(at_level(level, status(u32::MAX, HAVE, 1)));
        }
        wire.window = wire.window.saturating_sub(if wire.window == usize::MAX { 0 } else { len });
        wire.writes += usize::from(!seen.is_empty());
        self.machine.sent(self.now, peer, len);
        self.look(end);
        true
    }

    fn read(&mut self, end: End) -> bool {
        let wire = &mut self.wires[end.0];
        if !wire.open || !wire.wants.read || wire.ended {
            return false;
        }
        let here = &wire.up[wire.read..];
        if here.is_empty() && !wire.hung_up {
            return false;
        }
        let Some(peer) = wire.peer else { return false };
        // Asking twice is asking once.
        self.machine.space(peer);
        let space = self.machine.space(peer);
        // The answer to a probe that tests do not see comes whole and alone.
        let unseen = if wire.probe[0] > 0 { status(0, HAVE, 1).len() } else { 0 };
        let len = match unseen.checked_sub(wire.read) {
            None | Some(0) => self.pieces.of(here.len().min(space.len()), wire.read - unseen),
            Some(rest) => rest.min(here.len()).min(space.len()),
        };
        let room = !space.is_empty();
        space[..len].copy_from_slice(&here[..len]);
        wire.read += len;
        self.machine.filled(peer, len);
        wire.ended = room && wire.hung_up && wire.read == wire.up.len();
        if wire.ended {
            self.machine.ended(self.now, peer);
        }
        let moved = len > 0 || wire.ended;
        self.look(end);
        moved
    }

    fn think(&mut self) -> bool {
        for turn in 0..PATIENCE {
            let Some(peer) = self.machine.advance(self.now) else {
                return turn > 0;
            };
            let at = |wire: &Wire| wire.open && wire.peer == Some(peer);
            let number = self.wires.iter().position(at);
            if let Some(number) = number {
                self.look(End(number));
            } else if matches!(peer, Peer::Server(_)) && self.machine.wants(peer).close {
                self.machine.closed(peer);
            }
        }
        panic!("the machine never rests");
    }

    fn look(&mut self, end: End) {
        let wire = &mut self.wires[end.0];
        let Some(peer) = wire.peer else { return };
        wire.wants = self.machine.wants(peer);
        let pending = self.machine.pending(peer);
        assert!(wire.wants.close || wire.wants.write != pending.is_empty(), "write as it says");
    }

    fn close(&mut self, end: End) {
        let wire = &mut self.wires[end.0];
        wire.open = false;
        if let Some(peer) = wire.peer {
            self.machine.closed(peer);
        }
    }
}
