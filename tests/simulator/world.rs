//! All parts together: rounds of turns in random order, faults between them, and time that moves
//! when nothing else does.

use crate::checked_table::CheckedTable;
use crate::client::Client;
use crate::event_loop::EventLoop;
use crate::faulty_server::FaultyServer;
use crate::hostile_client::HostileClient;
use crate::network::Network;
use crate::oracle::Oracle;
use crate::plan::{Plan, STARTS_MAX, pick};
use crate::request::{Dialect, Generator};
use crate::routing::RoutingCheck;
use crate::sealed;
use crate::trace::{Actor, record};
use distcache_core::proxy;
use distcache_core::server;
use distcache_core::time::Instant;
use distcache_testing::memory::Memory;
use distcache_testing::random::Random;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// A server over a checked table.
type Cache<'m> = server::Borrowed<'m, CheckedTable<'m>>;

/// A time that is never reached.
const NEVER: Instant = Instant::from_millis(u64::MAX);

/// Rounds in which faults happen.
const FAULT_ROUNDS: usize = 3_000;

/// The memory of all machines of a run, some for each start.
pub struct Arena {
    nodes: Vec<Vec<Memory>>,
    tables: Vec<Vec<u8>>,
    client_memory: Vec<Vec<Vec<u8>>>,
}

impl Arena {
    /// Allocates as much as this plan can need.
    pub fn new(plan: &Plan) -> Self {
        let starts = if plan.faults.crashes > 0 { STARTS_MAX } else { 1 };
        let node = |node: &crate::plan::Node| {
            let memory =
                || Memory::with_buffers(node.slots, node.buffers).with_in_flight(node.in_flight);
            let servers = || node.upstreams().iter().copied();
            (0..starts).map(|_| memory().with_servers_named(servers())).collect()
        };
        let client_memory = |client: &crate::plan::Client| {
            let connections = if client.core_client { client.connections } else { 0 };
            (0..connections).map(|_| vec![0; distcache_core::client::MEMORY]).collect()
        };
        Self {
            nodes: plan.nodes.iter().map(node).collect(),
            tables: (0..starts * plan.servers).map(|_| vec![0; plan.layout.size() + 64]).collect(),
            client_memory: plan.clients.iter().map(client_memory).collect(),
        }
    }
}

/// What runs as one node.
enum Process<'m> {
    Server(Box<EventLoop<Cache<'m>>>),
    Proxy(Box<EventLoop<proxy::Borrowed<'m>>>),
    FaultyServer(FaultyServer),
    /// The process is dead.
    Dead,
}

/// A node, and what keeps it from running.
struct Host<'m> {
    process: Process<'m>,
    memory: Vec<&'m mut Memory>,
    /// It does nothing before this.
    stopped_until: Instant,
}

/// The whole system.
pub struct World<'m> {
    pub(crate) plan: &'m Plan,
    pub(crate) network: Network,
    pub(crate) oracle: Rc<RefCell<Oracle>>,
    pub(crate) clients: Vec<Client<'m>>,
    pub(crate) hostile_clients: Vec<HostileClient>,
    hosts: Vec<Host<'m>>,
    tables: Vec<&'m mut Vec<u8>>,
    faults_on: bool,
}

impl<'m> World<'m> {
    /// Creates a world with all nodes up and no connections.
    pub fn new(plan: &'m Plan, arena: &'m mut Arena, random: Random) -> Self {
        let mut network = Network::new(random, plan.conditions, plan.nodes.len());
        network.victim = plan.victim;
        let generator = |owner: usize, node: usize, dialect: Dialect| Generator {
            owner: owner as u64,
            ids: plan.ids,
            shared: plan.shared,
            session_len: plan.session_len,
            max_ttl: plan.max_ttl,
            dialect,
            min_ttl: plan.min_ttl_of(node),
            proxied: node >= plan.servers,
            sealed: plan.sealed,
        };
        let client_memory =
            arena.client_memory.iter_mut().map(|own| own.iter_mut().map(Vec::as_mut_slice));
        let clients = plan.clients.iter().zip(client_memory).enumerate();
        let clients = clients.map(|(number, (client, memory))| {
            let generator = generator(number + 1, client.node, client.dialect);
            let flags = (plan.fault_free, plan.faulty_server, plan.level_of(client.node));
            Client::new(number, *client, generator, flags, memory.collect())
        });
        let hostile_clients = plan.hostile_clients.iter().enumerate();
        let hostile_clients = hostile_clients.map(|(number, hostile_client)| {
            let generator = generator(number + 100, hostile_client.node, Dialect::AllOps);
            HostileClient::new(number, *hostile_client, generator)
        });
        let hosts = arena.nodes.iter_mut().map(|memory| Host {
            process: Process::Dead,
            memory: memory.iter_mut().collect(),
            stopped_until: Instant::ORIGIN,
        });
        let mut world = Self {
            plan,
            network,
            oracle: Rc::new(RefCell::new(Oracle::new(plan))),
            clients: clients.collect(),
            hostile_clients: hostile_clients.collect(),
            hosts: hosts.collect(),
            tables: arena.tables.iter_mut().collect(),
            faults_on: true,
        };
        (0..plan.nodes.len()).for_each(|number| world.start(number));
        world
    }

    /// Starts the process of a node.
    fn start(&mut self, number: usize) {
        let plan = self.plan.nodes[number];
        if self.plan.faulty_server && number == 0 {
            let level = self.network.random.below(2) as u8;
            self.hosts[0].process = Process::FaultyServer(FaultyServer::new(level));
            return;
        }
        let memory = self.hosts[number].memory.pop().expect("no starts are left");
        let level_zero = |node: &usize| (*node, self.plan.nodes[*node].level_zero);
        let routing =
            RoutingCheck::new(plan.upstreams().iter().map(level_zero), plan.config.copies);
        self.hosts[number].process = match number < self.plan.servers {
            true => {
                let table = self.tables.pop().expect("no starts are left");
                let aligned = table.as_ptr().align_offset(64);
                let key = self.network.random.next();
                let (layout, oracle) = (self.plan.layout, self.oracle.clone());
                let mut table =
                    CheckedTable::new(&mut table[aligned..], number, layout, key, oracle);
                table.sealed = self.plan.sealed;
                table.lies = (self.plan.liars >> number & 1 > 0).then(|| Random::new(key));
                let retries = self.plan.nodes.iter().map(|node| node.config.retry);
                let config = server::Config {
                    proxy_retry: Duration::from_millis(retries.max().unwrap_or(0)),
                    budget: self.plan.budget,
                    min_lifetime: Duration::from_millis(plan.config.min_ttl.into()),
                    ..server::Config::new(plan.config.limits)
                };
                let server = memory.server_with(config, table);
                Process::Server(Box::new(EventLoop::new(server, number, plan, routing)))
            }
            false => {
                let mut proxy = memory.proxy(plan.config.of_proxy());
                let servers = self.plan.servers;
                if self.plan.sealed && plan.upstreams().iter().all(|node| *node < servers) {
                    let run = (number as u64) << 32 | self.hosts[number].memory.len() as u64;
                    let now = self.network.now;
                    proxy.set_seal(now, sealed::unix_millis(now), sealed::of_proxy(run));
                }
                Process::Proxy(Box::new(EventLoop::new(proxy, number, plan, routing)))
            }
        };
        self.network.listeners[number].up = true;
        record(self.network.now, Actor::Node(number), "begins", [0, 0]);
    }

    /// Runs with faults until all clients have made their requests, or for a limited number of
    /// rounds.
    pub fn run_with_faults(&mut self) {
        for _ in 0..FAULT_ROUNDS {
            self.faults();
            self.round();
            if self.clients.iter().all(Client::is_done) {
                break;
            }
        }
        self.faults_on = false;
        self.oracle.borrow_mut().lies_are_over = true;
    }

    /// Gives each part one turn. If nothing moves, time does.
    pub(crate) fn round(&mut self) {
        if self.turns() {
            return;
        }
        match self.wake() {
            Some(at) => self.network.now = self.network.now.max(at),
            None => self.network.now = self.network.now.after(1),
        }
    }

    /// Gives one turn to each part that is not idle by chance. Returns whether anything moved or
    /// was idle.
    pub(crate) fn turns(&mut self) -> bool {
        let count = self.hosts.len() + self.clients.len() + self.hostile_clients.len();
        let first = self.network.random.below(count);
        let idle_turns = if self.faults_on { self.plan.faults.idle_turns } else { 0 };
        let mut moved = false;
        for number in 0..count {
            let number = (first + number) % count;
            if self.network.chance(if self.plan.fault_free { 100 } else { 100.max(idle_turns) }) {
                moved = true;
                continue;
            }
            moved |= self.turn(number);
        }
        moved
    }

    fn turn(&mut self, number: usize) -> bool {
        let (nodes, clients) = (self.hosts.len(), self.clients.len());
        if number >= nodes + clients {
            let hostile_client = &mut self.hostile_clients[number - nodes - clients];
            return hostile_client.turn(&mut self.network, &mut self.oracle.borrow_mut());
        }
        if number >= nodes {
            let client = &mut self.clients[number - nodes];
            return client.turn(&mut self.network, &mut self.oracle.borrow_mut());
        }
        let host = &mut self.hosts[number];
        if host.stopped_until > self.network.now {
            return false;
        }
        match &mut host.process {
            Process::Server(event_loop) => event_loop.turn(&mut self.network),
            Process::Proxy(event_loop) => {
                let moved = event_loop.turn(&mut self.network);
                self.oracle.borrow_mut().guarantees.degraded |= event_loop.degraded;
                moved
            }
            Process::FaultyServer(faulty_server) => {
                faulty_server.turn(&mut self.network, &mut self.oracle.borrow_mut())
            }
            Process::Dead => {
                self.start(number);
                true
            }
        }
    }

    /// Returns when the next thing happens.
    pub(crate) fn wake(&self) -> Option<Instant> {
        let hosts = self.hosts.iter().map(|host| match &host.process {
            _ if host.stopped_until == NEVER => None,
            _ if host.stopped_until > self.network.now => Some(host.stopped_until),
            Process::Server(event_loop) => event_loop.wake(&self.network),
            Process::Proxy(event_loop) => event_loop.wake(&self.network),
            Process::FaultyServer(faulty_server) => faulty_server.wake(&self.network),
            Process::Dead => None,
        });
        let clients = self.clients.iter().map(|client| client.wake(&self.network));
        let hostile_clients =
            self.hostile_clients.iter().map(|hostile_client| hostile_client.wake(&self.network));
        // A part that is due and did not move waits for something else.
        let later = |at: &Instant| *at > self.network.now;
        hosts.chain(clients).chain(hostile_clients).flatten().filter(later).min()
    }

    fn faults(&mut self) {
        let faults = self.plan.faults;
        if self.network.chance(faults.jumps) {
            self.jump();
        }
        // Requests wait for the first connections, whichever server they are for.
        if let Some(stuck) = self.plan.stuck
            && self.hosts[stuck].stopped_until != NEVER
            && self.proxies().all(|event_loop| event_loop.is_complete())
            && self.network.chance(20)
        {
            self.hosts[stuck].stopped_until = NEVER;
            record(self.network.now, Actor::Node(stuck), "is stuck", [0, 0]);
        }
        let number = self.network.random.below(self.hosts.len());
        let number = self.plan.victim.unwrap_or(number);
        if self.network.chance(faults.pauses) {
            let longest = pick(&mut self.network.random, &[20, 2_000, 60_000]);
            let pause = self.network.random.below(longest) as u64;
            self.hosts[number].stopped_until = self.network.now.after(pause);
            record(self.network.now, Actor::Node(number), "stops for ms", [pause, 0]);
        }
        if self.network.chance(faults.crashes) && !self.hosts[number].memory.is_empty() {
            self.crash(number);
            let pause = self.network.random.below(10_000) as u64;
            self.hosts[number].stopped_until = self.network.now.after(pause);
        }
    }

    fn crash(&mut self, number: usize) {
        record(self.network.now, Actor::Node(number), "dies", [0, 0]);
        match std::mem::replace(&mut self.hosts[number].process, Process::Dead) {
            Process::Server(mut event_loop) => event_loop.crash(&mut self.network),
            Process::Proxy(mut event_loop) => event_loop.crash(&mut self.network),
            Process::FaultyServer(_) | Process::Dead => (),
        }
        self.network.shut(number);
    }

    /// Lets time jump: a little, a lot, or to just before a session expires.
    fn jump(&mut self) {
        let now = self.network.now;
        let number = self.network.random.below(1_000);
        let server = self.network.random.below(self.plan.servers);
        let due = match &self.hosts[server].process {
            Process::Server(event_loop) => event_loop.machine.store().due(number),
            _ => None,
        };
        let to = match (due, self.network.random.below(6)) {
            (Some(due), 0..=2) => due,
            (Some(due), 3) => Instant::from_millis(due.as_millis() - 1),
            (_, 4) => now.after(8 * 86_400_000),
            _ => now.after(pick(&mut self.network.random, &[1, 30, 1_000, 300_000])),
        };
        self.network.now = now.max(to);
        record(self.network.now, Actor::World, "jumps ms", [self.network.now.since(now), 0]);
    }

    /// Returns the nodes that are proxies.
    pub(crate) fn proxies(&mut self) -> impl Iterator<Item = &mut EventLoop<proxy::Borrowed<'m>>> {
        self.hosts.iter_mut().filter_map(|host| match &mut host.process {
            Process::Proxy(event_loop) => Some(&mut **event_loop),
            _ => None,
        })
    }

    /// Returns the nodes that are correct servers.
    pub(crate) fn servers(&mut self) -> impl Iterator<Item = &mut EventLoop<Cache<'m>>> {
        self.hosts.iter_mut().filter_map(|host| match &mut host.process {
            Process::Server(event_loop) => Some(&mut **event_loop),
            _ => None,
        })
    }

    /// Breaks all connections of a node, which must keep nothing.
    pub(crate) fn disconnect_all_of(&mut self, number: usize) {
        match &mut self.hosts[number].process {
            Process::Server(event_loop) => event_loop.disconnect_all(&mut self.network),
            Process::Proxy(event_loop) => event_loop.disconnect_all(&mut self.network),
            Process::FaultyServer(_) | Process::Dead => (),
        }
    }

    /// Ends all faults: every node runs, and the network is perfect.
    pub(crate) fn heal(&mut self) {
        record(self.network.now, Actor::World, "faults end", [0, 0]);
        for host in &mut self.hosts {
            host.stopped_until = Instant::ORIGIN;
        }
        for number in 0..self.hosts.len() {
            if let Process::Dead = self.hosts[number].process {
                self.start(number);
            }
        }
        // A node with a timeout must find out on its own that a connection to another node is dead.
        let patient: Vec<bool> =
            self.plan.nodes.iter().map(|node| node.config.limits.patience.is_some()).collect();
        self.network.heal(|actor, other| match (actor, other) {
            (Actor::Node(number), Actor::Node(_)) => !patient[number],
            _ => true,
        });
        if patient.iter().skip(self.plan.servers).any(|patient| !patient) {
            self.network.refuse_hanging();
        }
    }
}
