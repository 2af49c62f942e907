//! Everybody together: rounds of turns in the order of chance, faults between them, and time that
//! moves when nothing else does.

use crate::ask::{Asker, Speaks};
use crate::caller::Caller;
use crate::checked::Checked;
use crate::ledger::Ledger;
use crate::liar::Liar;
use crate::plan::{LIVES, Plan, pick};
use crate::route::Route;
use crate::shell::Shell;
use crate::trace::{Who, note};
use crate::villain::Villain;
use crate::wires::Wires;
use distcache_core::client;
use distcache_core::proxy;
use distcache_core::server;
use distcache_core::time::Instant;
use distcache_testing::memory::Memory;
use distcache_testing::random::Random;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// A server over a table that is checked.
type Cache<'m> = server::Borrowed<'m, Checked<'m>>;

/// A time that does not come.
const NEVER: Instant = Instant::from_millis(u64::MAX);

/// Rounds in which faults happen.
const STORM: usize = 3_000;

/// The memory that all machines of a run live in: some for each of their lives.
pub struct Stock {
    nodes: Vec<Vec<Memory>>,
    tables: Vec<Vec<u8>>,
    clients: Vec<Vec<Vec<u8>>>,
}

impl Stock {
    /// As much as this plan can need.
    pub fn new(plan: &Plan) -> Self {
        let lives = if plan.faults.deaths > 0 { LIVES } else { 1 };
        let node = |node: &crate::plan::Node| {
            let memory =
                || Memory::with_buffers(node.slots, node.buffers).with_flights(node.in_flight);
            let servers = || node.upstreams().iter().copied();
            (0..lives).map(|_| memory().with_servers_called(servers())).collect()
        };
        let client = |caller: &crate::plan::Caller| {
            let connections = if caller.careful { caller.connections } else { 0 };
            (0..connections).map(|_| vec![0; client::MEMORY]).collect()
        };
        Self {
            nodes: plan.nodes.iter().map(node).collect(),
            tables: (0..lives * plan.servers).map(|_| vec![0; plan.layout.size() + 64]).collect(),
            clients: plan.callers.iter().map(client).collect(),
        }
    }
}

/// What runs as one node.
enum Post<'m> {
    Server(Box<Shell<Cache<'m>>>),
    Proxy(Box<Shell<proxy::Borrowed<'m>>>),
    Liar(Liar),
    /// Its process is dead.
    Nobody,
}

/// A node, and what keeps it from running.
struct Seat<'m> {
    post: Post<'m>,
    memory: Vec<&'m mut Memory>,
    /// It does nothing before this.
    stopped: Instant,
}

/// The whole system.
pub struct World<'m> {
    pub(crate) plan: &'m Plan,
    pub(crate) wires: Wires,
    pub(crate) ledger: Rc<RefCell<Ledger>>,
    pub(crate) callers: Vec<Caller<'m>>,
    pub(crate) villains: Vec<Villain>,
    seats: Vec<Seat<'m>>,
    tables: Vec<&'m mut Vec<u8>>,
    storm: bool,
}

impl<'m> World<'m> {
    /// All nodes up, and nobody connected yet.
    pub fn new(plan: &'m Plan, stock: &'m mut Stock, random: Random) -> Self {
        let mut wires = Wires::new(random, plan.wire, plan.nodes.len());
        wires.victim = plan.victim;
        let asker = |owner: usize, node: usize, speaks: Speaks| Asker {
            owner: owner as u64,
            ids: plan.ids,
            shared: plan.shared,
            session: plan.session,
            life: plan.life,
            speaks,
            least: plan.least(node),
            proxied: node >= plan.servers,
        };
        let clients = stock.clients.iter_mut().map(|own| own.iter_mut().map(Vec::as_mut_slice));
        let callers = plan.callers.iter().zip(clients).enumerate();
        let callers = callers.map(|(number, (caller, memory))| {
            let asker = asker(number + 1, caller.node, caller.speaks);
            let flags = (plan.calm, plan.liar, plan.level_of(caller.node));
            Caller::new(number, *caller, asker, flags, memory.collect())
        });
        let villains = plan.villains.iter().enumerate();
        let villains = villains.map(|(number, villain)| {
            let asker = asker(number + 100, villain.node, Speaks::All);
            Villain::new(number, *villain, asker)
        });
        let seats = stock.nodes.iter_mut().map(|memory| Seat {
            post: Post::Nobody,
            memory: memory.iter_mut().collect(),
            stopped: Instant::ORIGIN,
        });
        let mut world = Self {
            plan,
            wires,
            ledger: Rc::new(RefCell::new(Ledger::new(plan))),
            callers: callers.collect(),
            villains: villains.collect(),
            seats: seats.collect(),
            tables: stock.tables.iter_mut().collect(),
            storm: true,
        };
        (0..plan.nodes.len()).for_each(|number| world.raise(number));
        world
    }

    /// A node's process begins.
    fn raise(&mut self, number: usize) {
        let plan = self.plan.nodes[number];
        if self.plan.liar && number == 0 {
            let level = self.wires.random.below(2) as u8;
            self.seats[0].post = Post::Liar(Liar::new(level));
            return;
        }
        let memory = self.seats[number].memory.pop().expect("a life is left");
        let old = |node: &usize| (*node, self.plan.nodes[*node].old);
        let route = Route::new(plan.upstreams().iter().map(old), plan.config.copies);
        self.seats[number].post = match number < self.plan.servers {
            true => {
                let table = self.tables.pop().expect("a life is left");
                let aligned = table.as_ptr().align_offset(64);
                let key = self.wires.random.next();
                let (layout, ledger) = (self.plan.layout, self.ledger.clone());
                let table = Checked::new(&mut table[aligned..], number, layout, key, ledger);
                let config = server::Config {
                    budget: self.plan.budget,
                    min_lifetime: Duration::from_millis(plan.config.min_ttl.into()),
                    ..server::Config::new(plan.config.limits)
                };
                let server = memory.server_with(config, table);
                Post::Server(Box::new(Shell::new(server, number, plan, route)))
            }
            false => {
                let proxy = memory.proxy(plan.config.of_proxy());
                Post::Proxy(Box::new(Shell::new(proxy, number, plan, route)))
            }
        };
        self.wires.listeners[number].up = true;
        note(self.wires.now, Who::Node(number), "begins", [0, 0]);
    }

    /// Storms until everybody has asked what they had to ask, or the storm has blown long enough.
    pub fn storm(&mut self) {
        for _ in 0..STORM {
            self.faults();
            self.round();
            if self.callers.iter().all(Caller::is_done) {
                break;
            }
        }
        self.storm = false;
    }

    /// One turn of everybody; where nothing moves, time does.
    pub(crate) fn round(&mut self) {
        if self.turns() {
            return;
        }
        match self.wake() {
            Some(at) => self.wires.now = self.wires.now.max(at),
            None => self.wires.now = self.wires.now.after(1),
        }
    }

    /// One turn of everybody who is not idle by chance; false where nothing moved and nobody was.
    pub(crate) fn turns(&mut self) -> bool {
        let count = self.seats.len() + self.callers.len() + self.villains.len();
        let first = self.wires.random.below(count);
        let sloth = if self.storm { self.plan.faults.sloth } else { 0 };
        let mut moved = false;
        for number in 0..count {
            let number = (first + number) % count;
            if self.wires.chance(if self.plan.calm { 100 } else { 100.max(sloth) }) {
                moved = true;
                continue;
            }
            moved |= self.turn(number);
        }
        moved
    }

    fn turn(&mut self, number: usize) -> bool {
        let (nodes, callers) = (self.seats.len(), self.callers.len());
        if number >= nodes + callers {
            let villain = &mut self.villains[number - nodes - callers];
            return villain.turn(&mut self.wires, &mut self.ledger.borrow_mut());
        }
        if number >= nodes {
            let caller = &mut self.callers[number - nodes];
            return caller.turn(&mut self.wires, &mut self.ledger.borrow_mut());
        }
        let seat = &mut self.seats[number];
        if seat.stopped > self.wires.now {
            return false;
        }
        match &mut seat.post {
            Post::Server(shell) => shell.turn(&mut self.wires),
            Post::Proxy(shell) => {
                let moved = shell.turn(&mut self.wires);
                self.ledger.borrow_mut().keeper.shaken |= shell.shaken;
                moved
            }
            Post::Liar(liar) => liar.turn(&mut self.wires, &mut self.ledger.borrow_mut()),
            Post::Nobody => {
                self.raise(number);
                true
            }
        }
    }

    /// When the next thing happens.
    pub(crate) fn wake(&self) -> Option<Instant> {
        let seats = self.seats.iter().map(|seat| match &seat.post {
            _ if seat.stopped == NEVER => None,
            _ if seat.stopped > self.wires.now => Some(seat.stopped),
            Post::Server(shell) => shell.wake(&self.wires),
            Post::Proxy(shell) => shell.wake(&self.wires),
            Post::Liar(liar) => liar.wake(&self.wires),
            Post::Nobody => None,
        });
        let callers = self.callers.iter().map(|caller| caller.wake(&self.wires));
        let villains = self.villains.iter().map(|villain| villain.wake(&self.wires));
        // What did not move though its time had come waits for something else.
        let later = |at: &Instant| *at > self.wires.now;
        seats.chain(callers).chain(villains).flatten().filter(later).min()
    }

    fn faults(&mut self) {
        let faults = self.plan.faults;
        if self.wires.chance(faults.jumps) {
            self.jump();
        }
        // The first connections are waited for, whoever is asked.
        if let Some(stuck) = self.plan.stuck
            && self.seats[stuck].stopped != NEVER
            && self.proxies().all(|shell| shell.is_complete())
            && self.wires.chance(20)
        {
            self.seats[stuck].stopped = NEVER;
            note(self.wires.now, Who::Node(stuck), "is stuck", [0, 0]);
        }
        let number = self.wires.random.below(self.seats.len());
        let number = self.plan.victim.unwrap_or(number);
        if self.wires.chance(faults.freezes) {
            let longest = pick(&mut self.wires.random, &[20, 2_000, 60_000]);
            let pause = self.wires.random.below(longest) as u64;
            self.seats[number].stopped = self.wires.now.after(pause);
            note(self.wires.now, Who::Node(number), "stops for ms", [pause, 0]);
        }
        if self.wires.chance(faults.deaths) && !self.seats[number].memory.is_empty() {
            self.kill(number);
            let pause = self.wires.random.below(10_000) as u64;
            self.seats[number].stopped = self.wires.now.after(pause);
        }
    }

    fn kill(&mut self, number: usize) {
        note(self.wires.now, Who::Node(number), "dies", [0, 0]);
        match std::mem::replace(&mut self.seats[number].post, Post::Nobody) {
            Post::Server(mut shell) => shell.die(&mut self.wires),
            Post::Proxy(mut shell) => shell.die(&mut self.wires),
            Post::Liar(_) | Post::Nobody => (),
        }
        self.wires.shut(number);
    }

    /// Time jumps: a little, a lot, or to where something is just about to expire.
    fn jump(&mut self) {
        let now = self.wires.now;
        let number = self.wires.random.below(1_000);
        let server = self.wires.random.below(self.plan.servers);
        let due = match &self.seats[server].post {
            Post::Server(shell) => shell.machine.store().due(number),
            _ => None,
        };
        let to = match (due, self.wires.random.below(6)) {
            (Some(due), 0..=2) => due,
            (Some(due), 3) => Instant::from_millis(due.as_millis() - 1),
            (_, 4) => now.after(8 * 86_400_000),
            _ => now.after(pick(&mut self.wires.random, &[1, 30, 1_000, 300_000])),
        };
        self.wires.now = now.max(to);
        note(self.wires.now, Who::World, "jumps ms", [self.wires.now.since(now), 0]);
    }

    /// The nodes that are proxies.
    pub(crate) fn proxies(&mut self) -> impl Iterator<Item = &mut Shell<proxy::Borrowed<'m>>> {
        self.seats.iter_mut().filter_map(|seat| match &mut seat.post {
            Post::Proxy(shell) => Some(&mut **shell),
            _ => None,
        })
    }

    /// The nodes that are servers, and do not lie.
    pub(crate) fn servers(&mut self) -> impl Iterator<Item = &mut Shell<Cache<'m>>> {
        self.seats.iter_mut().filter_map(|seat| match &mut seat.post {
            Post::Server(shell) => Some(&mut **shell),
            _ => None,
        })
    }

    /// A node loses all its connections, and keeps nothing.
    pub(crate) fn lose(&mut self, number: usize) {
        match &mut self.seats[number].post {
            Post::Server(shell) => shell.lose_everybody(&mut self.wires),
            Post::Proxy(shell) => shell.lose_everybody(&mut self.wires),
            Post::Liar(_) | Post::Nobody => (),
        }
    }

    /// Faults cease: everybody runs, and the network is well.
    pub(crate) fn heal(&mut self) {
        note(self.wires.now, Who::World, "calms down", [0, 0]);
        for seat in &mut self.seats {
            seat.stopped = Instant::ORIGIN;
        }
        for number in 0..self.seats.len() {
            if let Post::Nobody = self.seats[number].post {
                self.raise(number);
            }
        }
        // Nodes that have patience must find out on their own that nothing comes from another node.
        let patient: Vec<bool> =
            self.plan.nodes.iter().map(|node| node.config.limits.patience.is_some()).collect();
        self.wires.heal(|who, other| match (who, other) {
            (Who::Node(number), Who::Node(_)) => !patient[number],
            _ => true,
        });
        if patient.iter().skip(self.plan.servers).any(|patient| !patient) {
            self.wires.refuse_hanging();
        }
    }
}
