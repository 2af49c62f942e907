//! What a seed decides beforehand: nodes and clients, their sizes and timeouts, and the faults.
//!
//! Each kind of fault is there or not in a given run, so that none hides another.

use crate::cluster::{self, SERVERS_MAX};
use crate::request::Dialect;
use crate::sealed;
use distcache_core::table::Layout;
use distcache_core::wire::LEVEL;
use distcache_core::{Limits, proxy};
use distcache_testing::memory::limits;
use distcache_testing::random::Random;
use std::time::Duration;

/// Network conditions.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// The longest delay in milliseconds.
    pub delay: u64,
    /// The largest piece in bytes; 0 for pieces of any size.
    pub piece: usize,
    /// The most bytes in flight in one direction.
    pub capacity: usize,
    /// Of a thousand pieces, how many are the last of their connection.
    pub cuts: usize,
    /// Of a thousand attempts to connect, how many get no answer.
    pub lost_dials: usize,
}

/// Faults of nodes and of time, by their number in a thousand rounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A node stops for a while. Bytes for it wait.
    pub pauses: usize,
    /// A node crashes, and restarts empty.
    pub crashes: usize,
    /// Time jumps forward.
    pub jumps: usize,
    /// A node does nothing in its turn.
    pub idle_turns: usize,
}

/// The configuration of a server or proxy, in milliseconds; 0 for none.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Timeouts of clients.
    pub limits: Limits,
    /// How long servers may take.
    pub server_patience: u64,
    /// The time between two attempts to connect.
    pub retry: u64,
    /// How many servers hold each session.
    pub copies: u8,
    /// The shortest lifetime of a session.
    pub min_ttl: u32,
}

impl Config {
    /// Returns the same as a proxy's configuration.
    pub fn of_proxy(&self) -> proxy::Config {
        let time = |millis: u64| (millis > 0).then(|| Duration::from_millis(millis));
        proxy::Config {
            limits: self.limits,
            server_patience: time(self.server_patience),
            retry: Duration::from_millis(self.retry),
            copies: self.copies,
            anycast: false,
            min_lifetime: time(self.min_ttl.into()),
        }
    }
}

/// The size and timeouts of a server or proxy.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// The nodes that a proxy passes requests to, all of lower numbers. The first `upstream_count`
    /// count.
    pub upstreams: [usize; SERVERS_MAX],
    /// How many nodes it passes requests to; 0 for a server.
    pub upstream_count: usize,
    /// Whether it is an old server, which has only level 0.
    pub level_zero: bool,
    /// Whether its server may be faulty.
    pub upstream_may_be_faulty: bool,
    /// Places for clients.
    pub slots: usize,
    /// Places for requests in flight.
    pub in_flight: usize,
    /// Buffers.
    pub buffers: usize,
    /// Timeouts and copies.
    pub config: Config,
    /// Calls of `advance` in one turn; 0 for no limit.
    pub turn: usize,
}

impl Node {
    /// Returns the nodes that it passes requests to.
    pub fn upstreams(&self) -> &[usize] {
        &self.upstreams[..self.upstream_count]
    }
}

/// A client that follows the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The node that it calls.
    pub node: usize,
    /// Which levels and operations it uses.
    pub dialect: Dialect,
    /// Whether it is the core's client, which makes one request at a time.
    pub core_client: bool,
    /// How many requests it makes in all.
    pub requests: usize,
    /// How many requests it sends without waiting for answers.
    pub window: usize,
    /// How many connections it may make.
    pub connections: usize,
    /// The longest pause between two requests, in milliseconds.
    pub pause: u64,
    /// How long it waits for an answer, in milliseconds.
    pub patience: u64,
    /// How many requests it makes on one connection.
    pub per_connection: usize,
}

/// What a hostile client does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Behaviour {
    /// Sends nothing, or part of a request, and stays.
    Silent,
    /// Sends requests and never reads.
    NeverReads,
    /// Leaves in the middle of a request.
    LeavesMidRequest,
    /// Sends bytes that are no message.
    Garbage,
    /// Sends many requests in small pieces.
    Flood,
}

/// A client that breaks the rules.
#[derive(Clone, Copy, Debug)]
pub struct HostileClient {
    /// The node that it calls.
    pub node: usize,
    /// What it does.
    pub behaviour: Behaviour,
}

/// All that is decided beforehand.
#[derive(Clone, Debug)]
pub struct Plan {
    /// No faults at all: every request must get a real answer.
    pub fault_free: bool,
    /// Whether node 0 is a faulty server.
    pub faulty_server: bool,
    /// The first nodes are servers; proxies follow.
    pub servers: usize,
    /// On how many servers proxies store each session.
    pub copies: u8,
    /// Whether no fault may lose a session.
    pub durable: bool,
    /// Whether the proxies in front of the servers seal sessions.
    pub sealed: bool,
    /// The servers that lie about sealed sessions, one bit each.
    pub liars: usize,
    /// The only server that faults hit, if there is such a one.
    pub victim: Option<usize>,
    /// A server that stops for good, without other faults.
    pub stuck: Option<usize>,
    /// The size of each server's table.
    pub layout: Layout,
    /// How many requests of one client a server answers in a row.
    pub budget: u32,
    /// The servers, then the proxies.
    pub nodes: Vec<Node>,
    /// Clients that follow the protocol.
    pub clients: Vec<Client>,
    /// Clients that do not.
    pub hostile_clients: Vec<HostileClient>,
    /// Network conditions.
    pub conditions: Conditions,
    /// Faults of nodes and of time.
    pub faults: Faults,
    /// The most bytes that most sessions have.
    pub session_len: usize,
    /// How many ids all clients share.
    pub ids: usize,
    /// Of four requests, how many are for the shared ids.
    pub shared: usize,
    /// The longest lifetime of most sessions, in milliseconds.
    pub max_ttl: u32,
}

/// How often a node can start in one run.
pub const STARTS_MAX: usize = 4;

impl Plan {
    /// Draws a plan.
    pub fn draw(random: &mut Random) -> Self {
        let fault_free = random.below(5) == 0;
        let cluster = random.below(2) == 0;
        let faulty_server = !fault_free && !cluster && random.below(4) == 0;
        let servers = if cluster { pick(random, &[1, 2, 2, 3, 3, SERVERS_MAX]) } else { 1 };
        let least = usize::from(faulty_server || cluster);
        let proxies = random.below(if fault_free { 3 } else { 4 }).max(least);
        let last = servers + proxies - 1;
        let mut nodes: Vec<Node> = (0..=last)
            .map(|number| node(random, number, (servers, last), fault_free, faulty_server))
            .collect();
        let min_ttl = if faulty_server { 0 } else { pick(random, &[0, 0, 0, 1_000]) };
        nodes[..servers].iter_mut().for_each(|node| node.config.min_ttl = min_ttl);
        if faulty_server {
            nodes[0].config.limits = limits(0, 0);
        }
        let most = if fault_free { 3 } else { 5 };
        let clients =
            (0..=random.below(most)).map(|_| client(random, last, faulty_server)).collect();
        let hostile_clients = if fault_free { 0 } else { random.below(4) };
        let sessions = pick(random, &[1, 2, 5, 16, 50, 80]);
        let bytes = pick(random, &[256, 2_048, 33_024, 300_000]);
        let conditions = network_conditions(random, fault_free);
        // Byte for byte, long sessions would take too many rounds.
        let narrowest = if conditions.piece == 0 {
            conditions.capacity
        } else {
            conditions.piece.min(conditions.capacity)
        };
        let session = pick(random, &[16, 300, 300, 5_000, 32_700]).min(100 * narrowest);
        let mut plan = Self {
            fault_free,
            faulty_server,
            servers,
            copies: if cluster { pick(random, &[1, 2, 2]) } else { 1 },
            durable: false,
            sealed: false,
            liars: 0,
            victim: None,
            stuck: None,
            layout: Layout::new(sessions, bytes).expect("a valid size"),
            budget: pick(random, &[1, 2, 128]),
            nodes,
            clients,
            hostile_clients: (0..hostile_clients)
                .map(|_| hostile_client(random, last, faulty_server))
                .collect(),
            conditions,
            faults: if fault_free {
                Faults::default()
            } else {
                faults(random, faulty_server, proxies)
            },
            session_len: session,
            ids: pick(random, &[1, 3, 12, 100]),
            shared: 3,
            max_ttl: pick(random, &[5, 2_000, 60_000, 604_800_000]),
        };
        if random.below(8) == 0 {
            plan.fill_large_table(random);
        }
        if cluster {
            plan.use_cluster(random);
        }
        // Nothing else depends on what this draws.
        sealed::seal(&mut plan, &mut random.clone());
        plan.adapt_clients();
        plan
    }

    /// Makes it a run with several servers.
    fn use_cluster(&mut self, random: &mut Random) {
        cluster::connect_proxies(self, random);
        match random.below(3) {
            _ if self.fault_free => cluster::nothing_fails(self, random),
            0 if self.copies > 1 && self.servers > 1 => cluster::one_server_fails(self, random),
            1 if self.servers > 1 => cluster::one_server_hangs(self, random),
            _ => (),
        }
    }

    /// Clients of an old server know that it is one.
    fn adapt_clients(&mut self) {
        for client in &mut self.clients {
            let level_zero = self.nodes[client.node].level_zero;
            if level_zero && client.dialect == Dialect::AllOps {
                client.dialect = Dialect::LevelZeroOps;
            }
        }
    }

    /// Returns the largest minimum lifetime on the way of requests from this node.
    pub fn min_ttl_of(&self, node: usize) -> u32 {
        let next = self.nodes[node].upstreams().first();
        let beyond = next.map_or(0, |next| self.min_ttl_of(*next));
        beyond.max(self.nodes[node].config.min_ttl)
    }

    /// Returns the highest level at which this node answers, if that never changes.
    pub fn level_of(&self, node: usize) -> Option<u16> {
        let steady = node < self.servers && !self.faulty_server;
        steady.then(|| if self.nodes[node].level_zero { 0 } else { LEVEL })
    }

    /// Returns whether requests may go from this node to an old server.
    pub fn leads_to_level_zero(&self, node: usize) -> bool {
        let next = self.nodes[node].upstreams().iter();
        self.nodes[node].level_zero || next.into_iter().any(|next| self.leads_to_level_zero(*next))
    }

    /// Makes it a run in which a large table fills up quickly and stays full, while sessions are
    /// removed and expire.
    fn fill_large_table(&mut self, random: &mut Random) {
        (self.ids, self.session_len) = (100, 300);
        self.max_ttl = pick(random, &[2_000, 60_000, 604_800_000]);
        self.layout = Layout::new(pick(random, &[30, 80]), 300_000).expect("a valid size");
        self.conditions =
            Conditions { delay: 0, piece: 1 << 20, capacity: 1 << 20, cuts: 0, lost_dials: 0 };
        self.faults = Faults::default();
        self.faults.jumps = if self.fault_free { 0 } else { 30 };
        for client in &mut self.clients {
            (client.requests, client.pause, client.per_connection) = (400, 0, 1_000);
        }
        for node in &mut self.nodes {
            node.config.limits.idle = None;
        }
    }
}

/// Draws one of `these`.
pub fn pick<T: Copy>(random: &mut Random, these: &[T]) -> T {
    these[random.below(these.len())]
}

fn network_conditions(random: &mut Random, fault_free: bool) -> Conditions {
    let delay =
        if fault_free { pick(random, &[0, 0, 5]) } else { pick(random, &[0, 0, 3, 200, 4_000]) };
    let (cuts, lost_dials) = match fault_free {
        true => (0, 0),
        false => (pick(random, &[0, 0, 5, 40]), pick(random, &[0, 0, 0, 200])),
    };
    let piece = pick(random, &[0, 0, 0, 1, 13, 2_062, 1 << 20]);
    let capacity = pick(random, &[1, 20, 3_000, 60_000, 1 << 20, 1 << 20]);
    // Byte for byte, even a probe would take longer than its timeout.
    let narrow = capacity < 100 || (1..100).contains(&piece);
    let delay = if fault_free && narrow { 0 } else { delay };
    Conditions { delay, piece, capacity, cuts, lost_dials }
}

fn faults(random: &mut Random, faulty_server: bool, proxies: usize) -> Faults {
    let mut one = |rates: &[usize]| pick(random, rates);
    Faults {
        pauses: one(&[0, 0, 5, 20]),
        crashes: if faulty_server && proxies > 0 { 0 } else { one(&[0, 0, 3, 10]) },
        jumps: one(&[0, 0, 10, 50]),
        idle_turns: one(&[0, 0, 0, 500, 900]),
    }
}

fn node(
    random: &mut Random,
    number: usize,
    (servers, last): (usize, usize),
    fault_free: bool,
    faulty_server: bool,
) -> Node {
    let is_server = number < servers;
    let idle = pick(random, &[0, 0, 40, 5_000, 60_000]);
    let patience = pick(random, &[0, 300, 3_000, 10_000]);
    let patience = if faulty_server { patience.max(300) } else { patience };
    let limits = if fault_free { limits(0, 0) } else { limits(idle, patience) };
    // A proxy behind it always finds a place once the others have left.
    let slots = last + 1 + random.below(6) + if fault_free { 5 } else { 0 };
    let least = if is_server { 2 } else { 4 };
    let upstream = if is_server { 0 } else { random.below(number) };
    let retry = pick(random, &[1, 50, 1_000, 5_000]);
    let server_patience = if fault_free { 0 } else { pick(random, &[0, 40, 250, 250, 3_000]) };
    let server_patience = if faulty_server { server_patience.max(250) } else { server_patience };
    // All servers have the same, so it does not matter which one a proxy asks.
    let min_ttl = if is_server { 0 } else { pick(random, &[0, 0, 0, 1_000]) };
    let mut node = Node {
        upstreams: [upstream; SERVERS_MAX],
        upstream_count: usize::from(!is_server),
        level_zero: is_server && !faulty_server && random.below(4) == 0,
        upstream_may_be_faulty: faulty_server && !is_server && upstream == 0,
        slots,
        in_flight: pick(random, &[1, 2, 3, 6, 3 * slots]),
        buffers: least + pick(random, &[0, 0, 1, 3, 2 * slots]),
        config: Config { limits, server_patience, retry, copies: 1, min_ttl },
        turn: pick(random, &[0, 0, 1, 5]),
    };
    if fault_free && last >= servers {
        // Otherwise a probe may wait for a buffer for longer than requests wait for its answer.
        node.buffers = least + 2 * slots;
    }
    node
}

fn client(random: &mut Random, last: usize, faulty_server: bool) -> Client {
    let core_client = random.below(3) == 0;
    // Only the core's client detects what a faulty server does.
    let node = match faulty_server && !core_client {
        true => 1 + random.below(last),
        false => random.below(last + 1),
    };
    Client {
        node,
        dialect: pick(
            random,
            &[
                Dialect::LevelZero,
                Dialect::LevelZeroOps,
                Dialect::AllOps,
                Dialect::AllOps,
                Dialect::AllOps,
            ],
        ),
        core_client,
        requests: match random.below(8) {
            0 => 300,
            _ => 1 + random.below(60),
        },
        window: if core_client { 1 } else { pick(random, &[1, 2, 5, 30]) },
        connections: if core_client { 6 } else { 12 },
        pause: pick(random, &[0, 0, 0, 10, 3_000]),
        patience: pick(random, &[60_000, 60_000, 60_000, 300]),
        per_connection: pick(random, &[1, 3, 10, 1_000]),
    }
}

fn hostile_client(random: &mut Random, last: usize, faulty_server: bool) -> HostileClient {
    let first = usize::from(faulty_server);
    let behaviours = [
        Behaviour::Silent,
        Behaviour::NeverReads,
        Behaviour::LeavesMidRequest,
        Behaviour::Garbage,
        Behaviour::Flood,
    ];
    HostileClient {
        node: first + random.below(last + 1 - first),
        behaviour: pick(random, &behaviours),
    }
}
