//! A server or a proxy on the network, driven as by a poll loop, but in random order.
//!
//! The loop relies on the machine: it wakes it only after an event or at its deadline, and looks at
//! a peer's wants only after a verb on that peer or when `advance` names it. A machine that does
//! not report what has changed, or when it must be woken, stands still here, and the run fails.

mod checks;

use crate::framing::FrameScanner;
use crate::network::{Dial, End, Network};
use crate::pipe::{Ending, Readable};
use crate::plan::Node;
use crate::routing::RoutingCheck;
use crate::subject::Subject;
use crate::trace::{Actor, record};
use distcache_core::machine::{Peer, ServerKey, Wants};
use distcache_core::proxy;
use distcache_core::time::Instant;
use distcache_core::wire::MESSAGE_MAX;
use distcache_testing::memory::millis;
use distcache_testing::net::probe;

/// More than the requests that fit into all buffers.
const STEPS_MAX: u64 = 100_000;

/// One connection of a machine.
#[derive(Debug)]
struct Socket {
    end: End,
    peer: Peer,
    wants: Wants,
    /// The peer has ended its sending side.
    ended: bool,
    received: FrameScanner,
    sent: FrameScanner,
    /// When it was connected.
    connected_at: Instant,
    /// When the peer last did what its timeout is measured from.
    since: Instant,
    /// Bytes have arrived, and the machine had no space for them at the last attempt.
    no_space: bool,
    /// How many of the pending bytes have been checked.
    seen: usize,
}

/// A machine and its connections.
#[derive(Debug)]
pub struct EventLoop<M> {
    /// The machine.
    pub machine: M,
    number: usize,
    plan: Node,
    sockets: Vec<Socket>,
    /// Attempts to connect, by server number.
    dialing: Vec<Option<(ServerKey, End)>>,
    dialed: Vec<Option<Instant>>,
    /// Checks where its requests go.
    routing: RoutingCheck,
    round: u64,
    /// It has been without one of its servers, so copies may be missing.
    pub degraded: bool,
    /// No request now in flight was sent before this.
    in_flight_since: Instant,
    /// The uids of answers from servers since the machine was last idle.
    answered: Vec<u32>,
    /// There is work left from the last turn.
    busy: bool,
    /// Keys of connections that are closed.
    stale: Vec<Peer>,
}

impl<M: Subject> EventLoop<M> {
    /// Creates a loop without connections.
    pub fn new(machine: M, number: usize, plan: Node, routing: RoutingCheck) -> Self {
        let servers = plan.upstreams().len();
        Self {
            machine,
            number,
            plan,
            sockets: Vec::new(),
            dialing: vec![None; servers],
            dialed: vec![None; servers],
            routing,
            round: 0,
            degraded: false,
            in_flight_since: Instant::ORIGIN,
            answered: Vec::new(),
            busy: true,
            stale: Vec::new(),
        }
    }

    const fn actor(&self) -> Actor {
        Actor::Node(self.number)
    }

    /// Takes one turn. Returns whether anything moved.
    pub fn turn(&mut self, network: &mut Network) -> bool {
        let mut moved = self.poll_dials(network) | self.accept(network);
        if network.chance(20) {
            self.use_stale_key(network);
        }
        let first = network.random.below(self.sockets.len().max(1));
        let reads_first = network.chance(300);
        for reads in [reads_first, !reads_first] {
            let mut number = first;
            for _ in 0..self.sockets.len() {
                number = (number + 1) % self.sockets.len().max(1);
                moved |= match reads {
                    true => self.read(network, number),
                    false => self.write(network, number),
                };
            }
        }
        let broken = self.drop_broken(network);
        let due = self.machine.deadline().is_some_and(|at| at <= network.now);
        if moved || due || self.busy {
            self.advance(network);
            moved = true;
        }
        let closed = self.close_done(network);
        // After a connection is lost it may be time to dial again, in the next turn.
        let due = self.machine.deadline().is_some_and(|at| at <= network.now);
        let unsettled = closed || broken || (due && self.plan.turn > 0);
        if !self.busy && !unsettled {
            self.check_idle(network.now);
            self.answered.drain(..).for_each(|uid| self.routing.answered(uid));
        }
        moved | closed | broken
    }

    /// Returns when it next has something to do if nothing happens before.
    pub fn wake(&self, network: &Network) -> Option<Instant> {
        let now = network.now;
        let deadline = self.machine.deadline().map(|at| at.max(now));
        let dialing = self.dialing.iter().flatten();
        let dialing = dialing.filter_map(|(_, end)| network.next_dial(*end));
        let reads = self.sockets.iter().filter(|socket| socket.wants.read && !socket.ended);
        let reads = reads.filter_map(|socket| network.next(socket.end));
        let own = [deadline, network.next_accept(self.number)].into_iter().flatten();
        own.chain(dialing).chain(reads).min()
    }

    /// Returns the connections of which it holds an end.
    pub fn ends(&self) -> impl Iterator<Item = End> {
        let dialing = self.dialing.iter().flatten().map(|(_, end)| *end);
        self.sockets.iter().map(|socket| socket.end).chain(dialing)
    }

    fn poll_dials(&mut self, network: &mut Network) -> bool {
        let now = network.now;
        let mut moved = false;
        for number in 0..self.dialing.len() {
            let Some((key, end)) = self.dialing[number] else { continue };
            let peer = Peer::Server(key);
            match network.dialed(end) {
                Dial::Waiting => continue,
                Dial::Refused => {
                    self.degraded = true;
                    self.machine.closed(peer);
                    self.keep_stale_key(peer);
                }
                Dial::Connected => {
                    self.machine.connected(now, key);
                    self.routing.views[number].connected();
                    self.add_socket(end, peer, now);
                    assert_eq!(
                        self.machine.pending(peer),
                        probe(),
                        "{} sends more than a probe",
                        self.actor()
                    );
                    self.sockets.last_mut().expect("it was added").seen = probe().len();
                }
            }
            self.dialing[number] = None;
            moved = true;
        }
        while let Some(dial) = self.machine.dial(now) {
            let key = match dial {
                proxy::Dial::Connect(key) => key,
                proxy::Dial::Cancel(key) => {
                    self.cancel_dial(network, key);
                    moved = true;
                    continue;
                }
            };
            let number = usize::from(key.number());
            let last = self.dialed[number].replace(now);
            let early = last.is_some_and(|last| now.since(last) < self.plan.config.retry);
            assert!(!early, "{} dials again before `retry`", self.actor());
            assert_eq!(self.dialing[number], None, "{} dials twice", self.actor());
            let end = network.dial(self.actor(), self.plan.upstreams()[number]);
            self.dialing[number] = Some((key, end));
            moved = true;
        }
        self.busy |= moved;
        moved
    }

    fn accept(&mut self, network: &mut Network) -> bool {
        let Some(end) = network.accept(self.number) else {
            return false;
        };
        match self.machine.open(network.now) {
            Some(key) => self.add_socket(end, Peer::Client(key), network.now),
            None => {
                assert_eq!(self.machine.clients(), self.plan.slots, "refused though there is room");
                record(network.now, self.actor(), "refuses link", [end.link as u64, 0]);
                network.abort(end);
            }
        }
        true
    }

    fn add_socket(&mut self, end: End, peer: Peer, now: Instant) {
        let (received, sent) = (FrameScanner::default(), FrameScanner::default());
        let wants = Wants::default();
        let (ended, no_space, since, seen) = (false, false, now, 0);
        let connected_at = now;
        self.sockets.push(Socket {
            end,
            peer,
            wants,
            ended,
            received,
            sent,
            connected_at,
            since,
            no_space,
            seen,
        });
        self.refresh_wants(self.sockets.len() - 1);
    }

    fn refresh_wants(&mut self, number: usize) {
        let socket = &mut self.sockets[number];
        socket.wants = self.machine.wants(socket.peer);
        let pending = self.machine.pending(socket.peer).len();
        assert!(pending <= MESSAGE_MAX, "{pending} bytes are pending");
        assert!(
            socket.wants.close || socket.wants.write == (pending > 0),
            "`wants.write` differs from `pending`"
        );
    }

    fn write(&mut self, network: &mut Network, number: usize) -> bool {
        let socket = &mut self.sockets[number];
        if !socket.wants.write {
            return false;
        }
        let pending = self.machine.pending(socket.peer);
        let len = network.write(Actor::Node(self.number), socket.end, pending);
        if len == 0 {
            return false;
        }
        socket.sent.feed(&pending[..len]);
        socket.seen = socket.seen.saturating_sub(len);
        socket.since = network.now;
        self.machine.sent(network.now, socket.peer, len);
        self.refresh_wants(number);
        true
    }

    fn read(&mut self, network: &mut Network, number: usize) -> bool {
        let socket = &mut self.sockets[number];
        if !socket.wants.read || socket.ended {
            return false;
        }
        match network.readable(socket.end) {
            Readable::Bytes(_) => {
                // A second call of `space` must change nothing.
                self.machine.space(socket.peer);
                let space = self.machine.space(socket.peer);
                socket.no_space = space.is_empty();
                let len = match space.is_empty() {
                    true => 0,
                    false => network.read(Actor::Node(self.number), socket.end, space),
                };
                if len > 0
                    && !socket.received.in_message
                    && socket.received.messages == socket.sent.messages
                {
                    socket.since = network.now;
                }
                if self.plan.level_zero {
                    socket.received.clear_level(&mut space[..len]);
                }
                match socket.peer {
                    Peer::Server(_) => {
                        let answered = |uid| self.answered.push(uid);
                        socket.received.feed_each(&space[..len], answered);
                    }
                    Peer::Client(_) => socket.received.feed(&space[..len]),
                }
                if let Peer::Server(server) = socket.peer {
                    self.routing.views[usize::from(server.number())].answered_probe |=
                        socket.received.messages > 0;
                }
                self.machine.filled(socket.peer, len);
                self.refresh_wants(number);
                len > 0
            }
            Readable::Ended(Ending::Finished) => {
                socket.ended = true;
                record(
                    network.now,
                    Actor::Node(self.number),
                    "sees the end of",
                    [socket.end.link as u64, 0],
                );
                self.machine.ended(network.now, socket.peer);
                self.refresh_wants(number);
                true
            }
            _ => false,
        }
    }

    /// Drops connections that are reset, whatever the machine wants of them.
    fn drop_broken(&mut self, network: &mut Network) -> bool {
        let broken = Readable::Ended(Ending::Reset);
        let before = self.sockets.len();
        while let Some(number) =
            self.sockets.iter().position(|socket| network.readable(socket.end) == broken)
        {
            self.drop_socket(network, number);
            self.busy = true;
        }
        self.sockets.len() < before
    }

    fn drop_socket(&mut self, network: &mut Network, number: usize) {
        let socket = self.sockets.swap_remove(number);
        self.server_down(socket.peer);
        self.machine.closed(socket.peer);
        network.close(self.actor(), socket.end);
        self.keep_stale_key(socket.peer);
    }

    fn keep_stale_key(&mut self, peer: Peer) {
        self.stale.push(peer);
        if self.stale.len() > 6 {
            self.stale.remove(0);
        }
    }

    fn advance(&mut self, network: &mut Network) {
        let (before, mut calls) = (self.machine.work(), 0_u64);
        self.busy = false;
        loop {
            let had_in_flight = self.machine.in_flight() > 0;
            self.observe_full();
            let next = self.machine.advance(network.now);
            self.observe_full();
            self.observe(network.now, next.is_none());
            let Some(peer) = next else {
                return;
            };
            if !had_in_flight {
                self.in_flight_since = network.now;
            }
            calls += 1;
            record(network.now, self.actor(), "thinks", [calls, self.machine.work()]);
            if let Some(number) = self.sockets.iter().position(|socket| socket.peer == peer) {
                self.refresh_wants(number);
            }
            let most = 64 + 8 * self.sockets.len() as u64 + 4 * (self.machine.work() - before);
            assert!(calls <= most.min(STEPS_MAX), "{} does not come to rest", self.actor());
            if self.plan.turn > 0 && calls >= self.plan.turn as u64 {
                // The deadline must say that there is more to do.
                return;
            }
        }
    }

    /// Marks a server as down: its connection is gone, or was never made.
    fn server_down(&mut self, peer: Peer) {
        if let Peer::Server(key) = peer {
            self.routing.server_lost(key.number().into());
            let view = &mut self.routing.views[usize::from(key.number())];
            (view.since, view.last_idle) = (None, None);
            self.degraded = true;
        }
    }

    /// Ends an attempt to connect that the machine has cancelled after its timeout.
    fn cancel_dial(&mut self, network: &mut Network, key: ServerKey) {
        let number = usize::from(key.number());
        let (dialed, end) = self.dialing[number].take().expect("an attempt to cancel");
        assert_eq!(dialed, key, "{} cancels another attempt", self.actor());
        let (patience, since) = (millis(self.plan.config.limits.patience), self.dialed[number]);
        let took = since.map_or(0, |since| network.now.since(since));
        let late = patience > 0 && took >= patience;
        assert!(late, "{} cancels an attempt after only {took} ms", self.actor());
        let peer = Peer::Server(key);
        assert!(self.machine.wants(peer).close, "a cancelled key is not stale");
        self.server_down(peer);
        self.keep_stale_key(peer);
        network.close(self.actor(), end);
    }

    fn close_done(&mut self, network: &mut Network) -> bool {
        let mut closed = false;
        while let Some(number) = self.sockets.iter().position(|socket| socket.wants.close) {
            self.check_close(network, number);
            self.drop_socket(network, number);
            closed = true;
        }
        self.busy |= closed;
        closed
    }

    /// Breaks all connections, as when the process dies.
    pub fn crash(&mut self, network: &mut Network) {
        for end in self.ends().collect::<Vec<_>>() {
            network.abort(end);
        }
        self.sockets.clear();
    }

    /// Returns whether there is a connection to the server of this number.
    pub fn is_connected(&self, number: u8) -> bool {
        let is =
            |socket: &Socket| matches!(socket.peer, Peer::Server(key) if key.number() == number);
        self.sockets.iter().any(is)
    }

    /// Returns whether all its servers have answered.
    pub fn is_complete(&self) -> bool {
        (0..self.plan.upstream_count as u8).all(|number| self.machine.is_up(number))
    }

    /// Returns the number of its node.
    pub const fn number(&self) -> usize {
        self.number
    }

    /// Returns how many buffers it has, without those reserved for servers.
    pub const fn buffers(&self) -> u32 {
        self.plan.buffers as u32 - 2 * self.plan.upstream_count as u32
    }

    /// Returns its size and timeouts.
    pub const fn plan(&self) -> &Node {
        &self.plan
    }
}
