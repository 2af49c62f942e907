//! A server or a proxy on the network: what a poll loop does, in an order that chance decides.
//!
//! The loop trusts the machine: it wakes it only after an event or at its deadline, and looks at
//! a peer's wants only after a verb on that peer or when `advance` names it. So a machine that does
//! not say what has changed, or when it wants to be woken, stands still here, and is found out.

use crate::framing::FrameScanner;
use crate::network::{Dial, End, Network};
use crate::pipe::{Ending, Readable};
use crate::plan::Node;
use crate::routing::RoutingCheck;
use crate::subject::Subject;
use crate::trace::{Actor, record};
use distcache_core::machine::{Peer, ServerKey, Wants};
use distcache_core::time::Instant;
use distcache_core::wire::MESSAGE_MAX;
use distcache_testing::net::probe;

/// More than all requests that fit into all buffers.
const STEPS_MAX: u64 = 100_000;

/// One connection of a machine.
#[derive(Debug)]
struct Socket {
    end: End,
    peer: Peer,
    wants: Wants,
    /// The peer said that it sends no more.
    ended: bool,
    received: FrameScanner,
    sent: FrameScanner,
    /// When it was connected.
    connected_at: Instant,
    /// When the peer last did what its patience is measured by.
    since: Instant,
    /// Its bytes are there, and the machine had no room for them when it was last asked.
    no_space: bool,
    /// How many of the bytes that are pending have been looked at.
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
    /// By the numbers of its servers.
    dialing: Vec<Option<(ServerKey, End)>>,
    dialed: Vec<Option<Instant>>,
    /// Which way its requests go.
    routing: RoutingCheck,
    round: u64,
    /// It has been without one of its servers, and may not have all that it gave away.
    pub degraded: bool,
    /// No request now on its way set out before this.
    in_flight_since: Instant,
    /// Under which uids servers have answered since the machine last was at rest.
    answered: Vec<u32>,
    /// There is work left from the last turn.
    busy: bool,
    /// Keys of clients that are gone.
    stale: Vec<Peer>,
}

impl<M: Subject> EventLoop<M> {
    /// A machine without connections.
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

    /// Takes one turn; false where nothing moved.
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
        // Where a connection is gone it may be time to dial again, in the next turn.
        let due = self.machine.deadline().is_some_and(|at| at <= network.now);
        let unsettled = closed || broken || (due && self.plan.turn > 0);
        if !self.busy && !unsettled {
            self.check_idle(network.now);
            self.answered.drain(..).for_each(|uid| self.routing.answered(uid));
        }
        moved | closed | broken
    }

    /// When it has something to do, if nothing happens before.
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

    /// The connections of which it holds an end.
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
                    self.machine.closed(now, peer);
                    self.keep_stale_key(peer);
                }
                Dial::Connected => {
                    self.machine.connected(now, key);
                    self.routing.views[number].connected();
                    self.add_socket(end, peer, now);
                    assert_eq!(self.machine.pending(peer), probe(), "{} asks more", self.actor());
                    self.sockets.last_mut().expect("it was added").seen = probe().len();
                }
            }
            self.dialing[number] = None;
            moved = true;
        }
        while let Some(key) = self.machine.dial(now) {
            let number = usize::from(key.number());
            let last = self.dialed[number].replace(now);
            let early = last.is_some_and(|last| now.since(last) < self.plan.config.retry);
            assert!(!early, "{} dials again before it may", self.actor());
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
        assert!(socket.wants.close || socket.wants.write == (pending > 0), "writes as it says");
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
                // Asking twice is asking once.
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
                self.machine.filled(network.now, socket.peer, len);
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

    /// A broken connection is seen by whoever looks, whatever it wants.
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
        self.machine.closed(network.now, socket.peer);
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
            } else if let Peer::Server(server) = peer
                && self.machine.wants(peer).close
            {
                self.abandon_dial(network, server.number().into());
            }
            let most = 64 + 8 * self.sockets.len() as u64 + 4 * (self.machine.work() - before);
            assert!(calls <= most.min(STEPS_MAX), "{} runs in circles", self.actor());
            if self.plan.turn > 0 && calls >= self.plan.turn as u64 {
                // That there is more to do is for the deadline to say.
                return;
            }
        }
    }

    /// Looks at what the machine has put into the outboxes of its servers; `rests` where it has done
    /// all that is to be done.
    fn observe(&mut self, now: Instant, rests: bool) {
        self.round += 1;
        let servers =
            self.sockets.iter_mut().filter(|socket| matches!(socket.peer, Peer::Server(_)));
        let mut new_requests = Vec::new();
        for socket in servers {
            let Peer::Server(number) = socket.peer else { continue };
            let (pending, aborted) =
                (self.machine.pending(socket.peer), self.machine.wants(socket.peer).close);
            let view = &mut self.routing.views[usize::from(number.number())];
            if aborted {
                (view.since, view.last_idle) = (None, None);
            } else if view.since.is_none() && self.machine.is_up(number.number()) {
                // It was connected before, and has now answered.
                (view.since, view.last_idle) = (Some(self.round), None);
            }
            if pending.len() > socket.seen {
                new_requests.push((usize::from(number.number()), &pending[socket.seen..]));
                socket.seen = pending.len();
            } else if rests && pending.is_empty() {
                view.last_idle = view.since.map(|_| self.round);
            }
        }
        for (number, bytes) in new_requests {
            self.routing.check_requests(now, number, bytes);
        }
        self.degraded |= self.routing.degraded;
    }

    /// A server that is full just before or after a thought may be left out by it.
    fn observe_full(&mut self) {
        for number in 0..self.routing.views.len() {
            if self.machine.is_full(number as u8) {
                let view = &mut self.routing.views[number];
                view.since = view.since.map(|_| self.round + 1);
                self.degraded = true;
            }
        }
    }

    /// A server's connection is gone, or was never made.
    fn server_down(&mut self, peer: Peer) {
        if let Peer::Server(key) = peer {
            self.routing.server_lost(key.number().into());
            let view = &mut self.routing.views[usize::from(key.number())];
            (view.since, view.last_idle) = (None, None);
            self.degraded = true;
        }
    }

    fn abandon_dial(&mut self, network: &mut Network, number: usize) {
        if let Some((key, end)) = self.dialing[number].take() {
            let peer = Peer::Server(key);
            self.server_down(peer);
            self.machine.closed(network.now, peer);
            self.keep_stale_key(peer);
            network.close(self.actor(), end);
        }
        self.busy = true;
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

    /// A machine closes a connection for a reason: its peer's end, or what it sent, or its time.
    fn check_close(&self, network: &Network, number: usize) {
        let socket = &self.sockets[number];
        let limits = self.plan.config.limits;
        let is_server = matches!(socket.peer, Peer::Server(_));
        let since = if is_server { self.in_flight_since } else { socket.since };
        let waited = network.now.since(since);
        let over = |limit: u64| limit > 0 && waited >= limit;
        let answered = socket.received.messages == socket.sent.messages;
        let right = match (socket.peer, network.dialer(socket.end)) {
            (_, Actor::HostileClient(_)) => true,
            // What an honest server does is no reason; what a liar does may be one.
            (Peer::Server(_), _) if socket.ended || self.plan.upstream_may_be_faulty => true,
            // So is a probe that is not answered.
            (Peer::Server(key), _) => {
                let answered_probe = self.routing.views[usize::from(key.number())].answered_probe;
                let patience = self.plan.config.server_patience;
                let probed = network.now.since(socket.connected_at);
                let silent =
                    patience > 0 && waited.max(if answered_probe { 0 } else { probed }) >= patience;
                silent
                    || over(limits.patience)
                    || (!answered_probe && probed >= limits.patience.max(1))
            }
            // Who has no answer to read and waits for room is not late.
            (Peer::Client(_), _) if socket.no_space && answered && !socket.sent.in_message => {
                socket.ended
            }
            (Peer::Client(_), _) => socket.ended || over(limits.idle) || over(limits.patience),
        };
        assert!(right, "{} closes link {} for nothing: {socket:?}", self.actor(), socket.end.link);
        // Who hangs up is answered first.
        let timely = !over(limits.idle) && !over(limits.patience);
        let valid = !matches!(network.dialer(socket.end), Actor::HostileClient(_)) && !is_server;
        // One that has hung up makes room for others after a while.
        let timely = timely && !(socket.ended && waited >= 1_000);
        assert!(!(timely && valid) || answered, "{} closes unanswered {socket:?}", self.actor());
    }

    /// What holds when it has nothing to do.
    fn check_idle(&self, now: Instant) {
        let deadline = self.machine.deadline();
        assert!(deadline.is_none_or(|at| at > now), "{} does not rest: {deadline:?}", self.actor());
        assert_eq!(self.machine.check(), Ok(()), "{} is out of order", self.actor());
        if let Some(did) = self.machine.traffic() {
            let ended = did.answered + did.disconnected + did.orphaned;
            let open = did.requests.checked_sub(ended).map(|open| open as usize);
            let fits = open.is_some_and(|open| open <= self.machine.in_flight());
            assert!(fits, "{} miscounts requests: {did:?}", self.actor());
        }
        for socket in &self.sockets {
            let wants = self.machine.wants(socket.peer);
            assert_eq!(wants, socket.wants, "{} has not named {socket:?}", self.actor());
        }
        let clients = self.sockets.iter().filter(|socket| matches!(socket.peer, Peer::Client(_)));
        let clients = clients.count();
        assert_eq!(self.machine.clients(), clients, "{} miscounts its clients", self.actor());
    }

    /// A key whose connection is gone finds nothing and harms nothing.
    fn use_stale_key(&mut self, network: &mut Network) {
        let Some(&peer) = self.stale.get(network.random.below(self.stale.len())) else {
            return;
        };
        let (now, clients) = (network.now, self.machine.clients());
        let free = self.machine.buffers_free();
        assert_eq!(self.machine.wants(peer), Wants::CLOSE);
        assert!(self.machine.pending(peer).is_empty() && self.machine.space(peer).is_empty());
        match network.random.below(4) {
            0 => self.machine.filled(now, peer, 5),
            1 => self.machine.sent(now, peer, 5),
            2 => self.machine.ended(now, peer),
            _ => self.machine.closed(now, peer),
        }
        assert_eq!(self.machine.clients(), clients, "a stale key took a client's place");
        assert_eq!(self.machine.buffers_free(), free, "a stale key moved a buffer");
    }
}

impl<M: Subject> EventLoop<M> {
    /// Its process dies: all its connections break.
    pub fn crash(&mut self, network: &mut Network) {
        for end in self.ends().collect::<Vec<_>>() {
            network.abort(end);
        }
        self.sockets.clear();
    }

    /// All its connections break under it: nothing may be kept.
    pub fn disconnect_all(&mut self, network: &mut Network) {
        while !self.sockets.is_empty() {
            self.drop_socket(network, 0);
        }
        for number in 0..self.dialing.len() {
            if self.dialing[number].is_some() {
                self.abandon_dial(network, number);
            }
        }
        for _ in 0..10_000 {
            if self.busy || self.machine.in_flight() > 0 {
                self.advance(network);
            }
        }
        let machine = &self.machine;
        assert_eq!((machine.clients(), machine.in_flight()), (0, 0), "something is kept of nobody");
        assert_eq!(machine.buffers_free(), self.buffers(), "buffers stay lent to nobody");
    }

    /// Whether there is a connection to a server of its own.
    pub fn is_connected(&self, number: u8) -> bool {
        let is =
            |socket: &Socket| matches!(socket.peer, Peer::Server(key) if key.number() == number);
        self.sockets.iter().any(is)
    }

    /// Whether all its servers have answered.
    pub fn is_complete(&self) -> bool {
        (0..self.plan.upstream_count as u8).all(|number| self.machine.is_up(number))
    }

    /// Which node it is.
    pub const fn number(&self) -> usize {
        self.number
    }

    /// Its buffers, without those that it keeps for good.
    pub const fn buffers(&self) -> u32 {
        self.plan.buffers as u32 - 2 * self.plan.upstream_count as u32
    }

    /// Its size and patience.
    pub const fn plan(&self) -> &Node {
        &self.plan
    }
}
