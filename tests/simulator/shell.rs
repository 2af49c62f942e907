//! A server or a proxy on the network: what a poll loop does, in an order that chance decides.
//!
//! The loop trusts the machine: it wakes it only after an event or at its deadline, and looks at
//! a peer's wants only after a verb on that peer or when `advance` names it. So a machine that does
//! not say what has changed, or when it wants to be woken, stands still here, and is found out.

use crate::pipe::{Ending, Front};
use crate::plan::Node;
use crate::scan::Scan;
use crate::subject::Subject;
use crate::trace::{Who, note};
use crate::wires::{Dial, End, Wires};
use distcache_core::machine::{Peer, Wants};
use distcache_core::time::Instant;
use distcache_core::wire::MESSAGE_MAX;

/// The one server of a proxy.
const SERVER: Peer = Peer::Server(0);
/// More than all requests that fit into all buffers.
const STEPS_MAX: u64 = 100_000;

/// One connection of a machine.
#[derive(Debug)]
struct Port {
    end: End,
    peer: Peer,
    wants: Wants,
    /// The peer said that it sends no more.
    ended: bool,
    came: Scan,
    went: Scan,
    /// When the peer last did what its patience is measured by.
    since: Instant,
    /// Its bytes are there, and the machine had no room for them when it was last asked.
    turned_away: bool,
}

/// A machine and its connections.
#[derive(Debug)]
pub struct Shell<M> {
    /// The machine.
    pub machine: M,
    number: usize,
    plan: Node,
    ports: Vec<Port>,
    dialing: Option<End>,
    dialed: Option<Instant>,
    /// No request now on its way set out before this.
    flying: Instant,
    /// There is work left from the last turn.
    busy: bool,
    /// Keys of clients that are gone.
    stale: Vec<Peer>,
}

impl<M: Subject> Shell<M> {
    /// A machine without connections.
    pub fn new(machine: M, number: usize, plan: Node) -> Self {
        let (ports, stale) = (Vec::new(), Vec::new());
        let (dialing, dialed, flying) = (None, None, Instant::ORIGIN);
        Self { machine, number, plan, ports, dialing, dialed, flying, busy: true, stale }
    }

    const fn who(&self) -> Who {
        Who::Node(self.number)
    }

    /// Takes one turn; false where nothing moved.
    pub fn turn(&mut self, wires: &mut Wires) -> bool {
        let mut moved = self.dial(wires) | self.accept(wires);
        if wires.chance(20) {
            self.try_stale(wires);
        }
        let first = wires.random.below(self.ports.len().max(1));
        let reads_first = wires.chance(300);
        for reads in [reads_first, !reads_first] {
            let mut number = first;
            for _ in 0..self.ports.len() {
                number = (number + 1) % self.ports.len().max(1);
                moved |= match reads {
                    true => self.read(wires, number),
                    false => self.write(wires, number),
                };
            }
        }
        let broken = self.drop_broken(wires);
        let due = self.machine.deadline().is_some_and(|at| at <= wires.now);
        if moved || due || self.busy {
            self.think(wires);
            moved = true;
        }
        let closed = self.close_done(wires);
        // Where a connection is gone it may be time to dial again, in the next turn.
        let due = self.machine.deadline().is_some_and(|at| at <= wires.now);
        let unsettled = closed || broken || (due && self.plan.turn > 0);
        if !self.busy && !unsettled {
            self.check_rest(wires.now);
        }
        moved | closed | broken
    }

    /// When it has something to do, if nothing happens before.
    pub fn wake(&self, wires: &Wires) -> Option<Instant> {
        let now = wires.now;
        let deadline = self.machine.deadline().map(|at| at.max(now));
        let dialing = self.dialing.and_then(|end| wires.next_dial(end));
        let reads = self.ports.iter().filter(|port| port.wants.read && !port.ended);
        let reads = reads.filter_map(|port| wires.next(port.end));
        [deadline, dialing, wires.next_accept(self.number)].into_iter().flatten().chain(reads).min()
    }

    /// The connections of which it holds an end.
    pub fn ends(&self) -> impl Iterator<Item = End> {
        self.ports.iter().map(|port| port.end).chain(self.dialing)
    }

    fn dial(&mut self, wires: &mut Wires) -> bool {
        let now = wires.now;
        if let Some(end) = self.dialing {
            match wires.dialed(end) {
                Dial::Waiting => return false,
                Dial::Refused => self.machine.closed(now, SERVER),
                Dial::Connected => {
                    self.machine.connected(now, 0);
                    self.add_port(end, SERVER, now);
                }
            }
            self.dialing = None;
            self.busy = true;
        }
        if self.machine.dial(now).is_none() {
            return self.busy;
        }
        let early = self.dialed.is_some_and(|last| now.since(last) < self.plan.config.retry);
        assert!(!early, "{} dials again before it may", self.who());
        self.dialed = Some(now);
        self.dialing = Some(wires.dial(self.who(), self.plan.upstream));
        true
    }

    fn accept(&mut self, wires: &mut Wires) -> bool {
        let Some(end) = wires.accept(self.number) else {
            return false;
        };
        match self.machine.open(wires.now) {
            Some(key) => self.add_port(end, Peer::Client(key), wires.now),
            None => {
                assert_eq!(self.machine.clients(), self.plan.slots, "refused though there is room");
                note(wires.now, self.who(), "refuses link", [end.link as u64, 0]);
                wires.abort(end);
            }
        }
        true
    }

    fn add_port(&mut self, end: End, peer: Peer, now: Instant) {
        let (came, went) = (Scan::default(), Scan::default());
        let wants = Wants::default();
        let (ended, turned_away) = (false, false);
        self.ports.push(Port { end, peer, wants, ended, came, went, since: now, turned_away });
        self.look(self.ports.len() - 1);
    }

    fn look(&mut self, number: usize) {
        let port = &mut self.ports[number];
        port.wants = self.machine.wants(port.peer);
        let pending = self.machine.pending(port.peer).len();
        assert!(pending <= MESSAGE_MAX, "{pending} bytes are pending");
        assert!(port.wants.close || port.wants.write == (pending > 0), "writes as it says");
    }

    fn write(&mut self, wires: &mut Wires, number: usize) -> bool {
        let port = &mut self.ports[number];
        if !port.wants.write {
            return false;
        }
        let pending = self.machine.pending(port.peer);
        let len = wires.write(Who::Node(self.number), port.end, pending);
        if len == 0 {
            return false;
        }
        port.went.pass(&pending[..len]);
        port.since = wires.now;
        self.machine.sent(wires.now, port.peer, len);
        self.look(number);
        true
    }

    fn read(&mut self, wires: &mut Wires, number: usize) -> bool {
        let port = &mut self.ports[number];
        if !port.wants.read || port.ended {
            return false;
        }
        match wires.front(port.end) {
            Front::Bytes(_) => {
                // Asking twice is asking once.
                self.machine.space(port.peer);
                let space = self.machine.space(port.peer);
                port.turned_away = space.is_empty();
                let len = match space.is_empty() {
                    true => 0,
                    false => wires.read(Who::Node(self.number), port.end, space),
                };
                if len > 0 && !port.came.within && port.came.messages == port.went.messages {
                    port.since = wires.now;
                }
                port.came.pass(&space[..len]);
                self.machine.filled(wires.now, port.peer, len);
                self.look(number);
                len > 0
            }
            Front::Ended(Ending::Over) => {
                port.ended = true;
                note(
                    wires.now,
                    Who::Node(self.number),
                    "sees the end of",
                    [port.end.link as u64, 0],
                );
                self.machine.ended(wires.now, port.peer);
                self.look(number);
                true
            }
            _ => false,
        }
    }

    /// A broken connection is seen by whoever looks, whatever it wants.
    fn drop_broken(&mut self, wires: &mut Wires) -> bool {
        let broken = Front::Ended(Ending::Broken);
        let before = self.ports.len();
        while let Some(number) = self.ports.iter().position(|port| wires.front(port.end) == broken)
        {
            self.drop_port(wires, number);
            self.busy = true;
        }
        self.ports.len() < before
    }

    fn drop_port(&mut self, wires: &mut Wires, number: usize) {
        let port = self.ports.swap_remove(number);
        self.machine.closed(wires.now, port.peer);
        wires.close(self.who(), port.end);
        if let Peer::Client(_) = port.peer {
            self.stale.push(port.peer);
            if self.stale.len() > 4 {
                self.stale.remove(0);
            }
        }
    }

    fn think(&mut self, wires: &mut Wires) {
        let (before, mut calls) = (self.machine.work(), 0_u64);
        self.busy = false;
        loop {
            let flew = self.machine.flights() > 0;
            let Some(peer) = self.machine.advance(wires.now) else {
                return;
            };
            if !flew {
                self.flying = wires.now;
            }
            calls += 1;
            note(wires.now, self.who(), "thinks", [calls, self.machine.work()]);
            if let Some(number) = self.ports.iter().position(|port| port.peer == peer) {
                self.look(number);
            } else if peer == SERVER && self.machine.wants(peer).close {
                self.give_up_dialing(wires);
            }
            let most = 64 + 8 * self.ports.len() as u64 + 4 * (self.machine.work() - before);
            assert!(calls <= most.min(STEPS_MAX), "{} runs in circles", self.who());
            if self.plan.turn > 0 && calls >= self.plan.turn as u64 {
                // That there is more to do is for the deadline to say.
                return;
            }
        }
    }

    fn give_up_dialing(&mut self, wires: &mut Wires) {
        self.machine.closed(wires.now, SERVER);
        if let Some(end) = self.dialing.take() {
            wires.close(self.who(), end);
        }
        self.busy = true;
    }

    fn close_done(&mut self, wires: &mut Wires) -> bool {
        let mut closed = false;
        while let Some(number) = self.ports.iter().position(|port| port.wants.close) {
            self.check_close(wires, number);
            self.drop_port(wires, number);
            closed = true;
        }
        self.busy |= closed;
        closed
    }

    /// A machine closes a connection for a reason: its peer's end, or what it sent, or its time.
    fn check_close(&self, wires: &Wires, number: usize) {
        let port = &self.ports[number];
        let limits = self.plan.config.limits;
        let since = if port.peer == SERVER { self.flying } else { port.since };
        let waited = wires.now.since(since);
        let over = |limit: u64| limit > 0 && waited >= limit;
        let answered = port.came.messages == port.went.messages;
        let right = match (port.peer, wires.dialer(port.end)) {
            (_, Who::Villain(_)) => true,
            // What an honest server does is no reason; what a liar does may be one.
            (Peer::Server(_), _) => port.ended || self.plan.doubtful || over(limits.patience),
            // Who has no answer to read and waits for room is not late.
            (Peer::Client(_), _) if port.turned_away && answered && !port.went.within => port.ended,
            (Peer::Client(_), _) => port.ended || over(limits.idle) || over(limits.patience),
        };
        assert!(right, "{} closes link {} for nothing: {port:?}", self.who(), port.end.link);
        // Who hangs up is answered first.
        let timely = !over(limits.idle) && !over(limits.patience);
        let lawful = !matches!(wires.dialer(port.end), Who::Villain(_)) && port.peer != SERVER;
        assert!(!(timely && lawful) || answered, "{} closes unanswered {port:?}", self.who());
    }

    /// What holds when it has nothing to do.
    fn check_rest(&self, now: Instant) {
        let deadline = self.machine.deadline();
        assert!(deadline.is_none_or(|at| at > now), "{} does not rest: {deadline:?}", self.who());
        for port in &self.ports {
            let wants = self.machine.wants(port.peer);
            assert_eq!(wants, port.wants, "{} has not named {port:?}", self.who());
        }
        let clients = self.ports.iter().filter(|port| port.peer != SERVER).count();
        assert_eq!(self.machine.clients(), clients, "{} miscounts its clients", self.who());
    }

    /// A key whose connection is gone finds nothing and harms nothing.
    fn try_stale(&mut self, wires: &mut Wires) {
        let Some(&peer) = self.stale.get(wires.random.below(self.stale.len())) else {
            return;
        };
        let (now, clients) = (wires.now, self.machine.clients());
        let free = self.machine.buffers_free();
        assert_eq!(self.machine.wants(peer), Wants::CLOSE);
        assert!(self.machine.pending(peer).is_empty() && self.machine.space(peer).is_empty());
        match wires.random.below(4) {
            0 => self.machine.filled(now, peer, 5),
            1 => self.machine.sent(now, peer, 5),
            2 => self.machine.ended(now, peer),
            _ => self.machine.closed(now, peer),
        }
        assert_eq!(self.machine.clients(), clients, "a stale key took a client's place");
        assert_eq!(self.machine.buffers_free(), free, "a stale key moved a buffer");
    }
}

impl<M: Subject> Shell<M> {
    /// Its process dies: all its connections break.
    pub fn die(&mut self, wires: &mut Wires) {
        for end in self.ends().collect::<Vec<_>>() {
            wires.abort(end);
        }
        self.ports.clear();
    }

    /// All its connections break under it: nothing may be kept.
    pub fn lose_everybody(&mut self, wires: &mut Wires) {
        while !self.ports.is_empty() {
            self.drop_port(wires, 0);
        }
        if self.dialing.is_some() {
            self.give_up_dialing(wires);
        }
        for _ in 0..10_000 {
            if self.busy || self.machine.flights() > 0 {
                self.think(wires);
            }
        }
        let machine = &self.machine;
        assert_eq!((machine.clients(), machine.flights()), (0, 0), "something is kept of nobody");
        assert_eq!(machine.buffers_free(), self.buffers(), "buffers stay lent to nobody");
    }

    /// Which node it is.
    pub const fn number(&self) -> usize {
        self.number
    }

    /// Its buffers, without those that it keeps for good.
    pub const fn buffers(&self) -> u32 {
        let kept = if self.number == 0 { 0 } else { 2 };
        self.plan.buffers as u32 - kept
    }

    /// Its size and patience.
    pub const fn plan(&self) -> &Node {
        &self.plan
    }
}
