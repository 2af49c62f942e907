//! A server or a proxy on the network: what a poll loop does, in an order that chance decides.
//!
//! The loop trusts the machine: it wakes it only after an event or at its deadline, and looks at
//! a peer's wants only after a verb on that peer or when `advance` names it. So a machine that does
//! not say what has changed, or when it wants to be woken, stands still here, and is found out.

use crate::pipe::{Ending, Front};
use crate::plan::Node;
use crate::route::Route;
use crate::scan::Scan;
use crate::subject::Subject;
use crate::trace::{Who, note};
use crate::wires::{Dial, End, Wires};
use distcache_core::machine::{Peer, ServerKey, Wants};
use distcache_core::proxy;
use distcache_core::time::Instant;
use distcache_core::wire::MESSAGE_MAX;
use distcache_testing::memory::millis;
use distcache_testing::net::probe;

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
    /// When it was connected.
    made: Instant,
    /// When the peer last did what its patience is measured by.
    since: Instant,
    /// Its bytes are there, and the machine had no room for them when it was last asked.
    turned_away: bool,
    /// How many of the bytes that are pending have been looked at.
    seen: usize,
}

/// A machine and its connections.
#[derive(Debug)]
pub struct Shell<M> {
    /// The machine.
    pub machine: M,
    number: usize,
    plan: Node,
    ports: Vec<Port>,
    /// By the numbers of its servers.
    dialing: Vec<Option<(ServerKey, End)>>,
    dialed: Vec<Option<Instant>>,
    /// Which way its requests go.
    route: Route,
    thoughts: u64,
    /// It has been without one of its servers, and may not have all that it gave away.
    pub shaken: bool,
    /// No request now on its way set out before this.
    flying: Instant,
    /// Under which uids servers have answered since the machine last was at rest.
    answered: Vec<u32>,
    /// There is work left from the last turn.
    busy: bool,
    /// Keys of clients that are gone.
    stale: Vec<Peer>,
}

impl<M: Subject> Shell<M> {
    /// A machine without connections.
    pub fn new(machine: M, number: usize, plan: Node, route: Route) -> Self {
        let servers = plan.upstreams().len();
        Self {
            machine,
            number,
            plan,
            ports: Vec::new(),
            dialing: vec![None; servers],
            dialed: vec![None; servers],
            route,
            thoughts: 0,
            shaken: false,
            flying: Instant::ORIGIN,
            answered: Vec::new(),
            busy: true,
            stale: Vec::new(),
        }
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
            self.answered.drain(..).for_each(|uid| self.route.answered(uid));
        }
        moved | closed | broken
    }

    /// When it has something to do, if nothing happens before.
    pub fn wake(&self, wires: &Wires) -> Option<Instant> {
        let now = wires.now;
        let deadline = self.machine.deadline().map(|at| at.max(now));
        let dialing = self.dialing.iter().flatten();
        let dialing = dialing.filter_map(|(_, end)| wires.next_dial(*end));
        let reads = self.ports.iter().filter(|port| port.wants.read && !port.ended);
        let reads = reads.filter_map(|port| wires.next(port.end));
        let own = [deadline, wires.next_accept(self.number)].into_iter().flatten();
        own.chain(dialing).chain(reads).min()
    }

    /// The connections of which it holds an end.
    pub fn ends(&self) -> impl Iterator<Item = End> {
        let dialing = self.dialing.iter().flatten().map(|(_, end)| *end);
        self.ports.iter().map(|port| port.end).chain(dialing)
    }

    fn dial(&mut self, wires: &mut Wires) -> bool {
        let now = wires.now;
        let mut moved = false;
        for number in 0..self.dialing.len() {
            let Some((key, end)) = self.dialing[number] else { continue };
            let peer = Peer::Server(key);
            match wires.dialed(end) {
                Dial::Waiting => continue,
                Dial::Refused => {
                    self.shaken = true;
                    self.machine.closed(peer);
                    self.go_stale(peer);
                }
                Dial::Connected => {
                    self.machine.connected(now, key);
                    self.route.marks[number].connected();
                    self.add_port(end, peer, now);
                    assert_eq!(self.machine.pending(peer), probe(), "{} asks more", self.who());
                    self.ports.last_mut().expect("it was added").seen = probe().len();
                }
            }
            self.dialing[number] = None;
            moved = true;
        }
        while let Some(dial) = self.machine.dial(now) {
            let key = match dial {
                proxy::Dial::Connect(key) => key,
                proxy::Dial::Cancel(key) => {
                    self.cancel_dial(wires, key);
                    moved = true;
                    continue;
                }
            };
            let number = usize::from(key.number());
            let last = self.dialed[number].replace(now);
            let early = last.is_some_and(|last| now.since(last) < self.plan.config.retry);
            assert!(!early, "{} dials again before it may", self.who());
            assert_eq!(self.dialing[number], None, "{} dials twice", self.who());
            let end = wires.dial(self.who(), self.plan.upstreams()[number]);
            self.dialing[number] = Some((key, end));
            moved = true;
        }
        self.busy |= moved;
        moved
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
        let (ended, turned_away, since, seen) = (false, false, now, 0);
        let made = now;
        self.ports.push(Port {
            end,
            peer,
            wants,
            ended,
            came,
            went,
            made,
            since,
            turned_away,
            seen,
        });
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
        port.seen = port.seen.saturating_sub(len);
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
                if self.plan.old {
                    port.came.age(&mut space[..len]);
                }
                match port.peer {
                    Peer::Server(_) => {
                        let answered = |uid| self.answered.push(uid);
                        port.came.pass_each(&space[..len], answered);
                    }
                    Peer::Client(_) => port.came.pass(&space[..len]),
                }
                if let Peer::Server(server) = port.peer {
                    self.route.marks[usize::from(server.number())].heard |= port.came.messages > 0;
                }
                self.machine.filled(port.peer, len);
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
        self.forget(port.peer);
        self.machine.closed(port.peer);
        wires.close(self.who(), port.end);
        self.go_stale(port.peer);
    }

    fn go_stale(&mut self, peer: Peer) {
        self.stale.push(peer);
        if self.stale.len() > 6 {
            self.stale.remove(0);
        }
    }

    fn think(&mut self, wires: &mut Wires) {
        let (before, mut calls) = (self.machine.work(), 0_u64);
        self.busy = false;
        loop {
            let flew = self.machine.in_flight() > 0;
            self.note_full();
            let next = self.machine.advance(wires.now);
            self.note_full();
            self.follow(wires.now, next.is_none());
            let Some(peer) = next else {
                return;
            };
            if !flew {
                self.flying = wires.now;
            }
            calls += 1;
            note(wires.now, self.who(), "thinks", [calls, self.machine.work()]);
            if let Some(number) = self.ports.iter().position(|port| port.peer == peer) {
                self.look(number);
            }
            let most = 64 + 8 * self.ports.len() as u64 + 4 * (self.machine.work() - before);
            assert!(calls <= most.min(STEPS_MAX), "{} runs in circles", self.who());
            if self.plan.turn > 0 && calls >= self.plan.turn as u64 {
                // That there is more to do is for the deadline to say.
                return;
            }
        }
    }

    /// Looks at what the machine has put into the outboxes of its servers; `rests` where it has done
    /// all that is to be done.
    fn follow(&mut self, now: Instant, rests: bool) {
        self.thoughts += 1;
        let servers = self.ports.iter_mut().filter(|port| matches!(port.peer, Peer::Server(_)));
        let mut fresh = Vec::new();
        for port in servers {
            let Peer::Server(number) = port.peer else { continue };
            let (pending, aborted) =
                (self.machine.pending(port.peer), self.machine.wants(port.peer).close);
            let mark = &mut self.route.marks[usize::from(number.number())];
            if aborted {
                (mark.since, mark.clear) = (None, None);
            } else if mark.since.is_none() && self.machine.is_up(number.number()) {
                // It was connected before, and has now answered.
                (mark.since, mark.clear) = (Some(self.thoughts), None);
            }
            if pending.len() > port.seen {
                fresh.push((usize::from(number.number()), &pending[port.seen..]));
                port.seen = pending.len();
            } else if rests && pending.is_empty() {
                mark.clear = mark.since.map(|_| self.thoughts);
            }
        }
        for (number, bytes) in fresh {
            self.route.follow(now, number, bytes);
        }
        self.shaken |= self.route.shaken;
    }

    /// A server that is full just before or after a thought may be left out by it.
    fn note_full(&mut self) {
        for number in 0..self.route.marks.len() {
            if self.machine.is_full(number as u8) {
                let mark = &mut self.route.marks[number];
                mark.since = mark.since.map(|_| self.thoughts + 1);
                self.shaken = true;
            }
        }
    }

    /// A server's connection is gone, or was never made.
    fn forget(&mut self, peer: Peer) {
        if let Peer::Server(key) = peer {
            self.route.lost(key.number().into());
            let mark = &mut self.route.marks[usize::from(key.number())];
            (mark.since, mark.clear) = (None, None);
            self.shaken = true;
        }
    }

    /// The machine has lost patience with an attempt to connect.
    fn cancel_dial(&mut self, wires: &mut Wires, key: ServerKey) {
        let number = usize::from(key.number());
        let (dialed, end) = self.dialing[number].take().expect("an attempt is under way");
        assert_eq!(dialed, key, "{} cancels another attempt", self.who());
        let (patience, since) = (millis(self.plan.config.limits.patience), self.dialed[number]);
        let took = since.map_or(0, |since| wires.now.since(since));
        assert!(patience > 0 && took >= patience, "{} is impatient: {took} ms", self.who());
        let peer = Peer::Server(key);
        assert!(self.machine.wants(peer).close, "a key that is cancelled is stale");
        self.forget(peer);
        self.go_stale(peer);
        wires.close(self.who(), end);
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
        let is_server = matches!(port.peer, Peer::Server(_));
        let since = if is_server { self.flying } else { port.since };
        let waited = wires.now.since(since);
        let over = |limit: u64| limit > 0 && waited >= limit;
        let answered = port.came.messages == port.went.messages;
        let right = match (port.peer, wires.dialer(port.end)) {
            (_, Who::Villain(_)) => true,
            // What an honest server does is no reason; what a liar does may be one.
            (Peer::Server(_), _) if port.ended || self.plan.doubtful => true,
            // So is a probe that is not answered.
            (Peer::Server(key), _) => {
                let heard = self.route.marks[usize::from(key.number())].heard;
                let patience = self.plan.config.server_patience;
                let probed = wires.now.since(port.made);
                let silent = patience > 0 && waited.max(if heard { 0 } else { probed }) >= patience;
                let patience = millis(limits.patience);
                silent || over(patience) || (!heard && probed >= patience.max(1))
            }
            // Who has no answer to read and waits for room is not late.
            (Peer::Client(_), _) if port.turned_away && answered && !port.went.within => port.ended,
            (Peer::Client(_), _) => {
                port.ended || over(millis(limits.idle)) || over(millis(limits.patience))
            }
        };
        assert!(right, "{} closes link {} for nothing: {port:?}", self.who(), port.end.link);
        // Who hangs up is answered first.
        let timely = !over(millis(limits.idle)) && !over(millis(limits.patience));
        let lawful = !matches!(wires.dialer(port.end), Who::Villain(_)) && !is_server;
        // One that has hung up makes room for others after a while.
        let timely = timely && !(port.ended && waited >= 1_000);
        assert!(!(timely && lawful) || answered, "{} closes unanswered {port:?}", self.who());
    }

    /// What holds when it has nothing to do.
    fn check_rest(&self, now: Instant) {
        let deadline = self.machine.deadline();
        assert!(deadline.is_none_or(|at| at > now), "{} does not rest: {deadline:?}", self.who());
        assert_eq!(self.machine.check(), Ok(()), "{} is out of order", self.who());
        if let Some(did) = self.machine.traffic() {
            let ended = did.answered + did.disconnected + did.orphaned;
            let open = did.requests.checked_sub(ended).map(|open| open as usize);
            let fits = open.is_some_and(|open| open <= self.machine.in_flight());
            assert!(fits, "{} miscounts requests: {did:?}", self.who());
        }
        for port in &self.ports {
            let wants = self.machine.wants(port.peer);
            assert_eq!(wants, port.wants, "{} has not named {port:?}", self.who());
        }
        let clients = self.ports.iter().filter(|port| matches!(port.peer, Peer::Client(_)));
        let clients = clients.count();
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
            0 => self.machine.filled(peer, 5),
            1 => self.machine.sent(now, peer, 5),
            2 => self.machine.ended(now, peer),
            _ => self.machine.closed(peer),
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
        for number in 0..self.dialing.len() {
            if let Some((key, end)) = self.dialing[number].take() {
                let peer = Peer::Server(key);
                self.forget(peer);
                self.machine.closed(peer);
                self.go_stale(peer);
                wires.close(self.who(), end);
            }
        }
        for _ in 0..10_000 {
            if self.busy || self.machine.in_flight() > 0 {
                self.think(wires);
            }
        }
        let machine = &self.machine;
        assert_eq!((machine.clients(), machine.in_flight()), (0, 0), "something is kept of nobody");
        assert_eq!(machine.buffers_free(), self.buffers(), "buffers stay lent to nobody");
    }

    /// Whether there is a connection to a server of its own.
    pub fn is_connected(&self, number: u8) -> bool {
        let is = |port: &Port| matches!(port.peer, Peer::Server(key) if key.number() == number);
        self.ports.iter().any(is)
    }

    /// Whether all its servers have answered.
    pub fn is_complete(&self) -> bool {
        (0..self.plan.links as u8).all(|number| self.machine.is_up(number))
    }

    /// Which node it is.
    pub const fn number(&self) -> usize {
        self.number
    }

    /// Its buffers, without those that it keeps for good.
    pub const fn buffers(&self) -> u32 {
        self.plan.buffers as u32 - 2 * self.plan.links as u32
    }

    /// Its size and patience.
    pub const fn plan(&self) -> &Node {
        &self.plan
    }
}
