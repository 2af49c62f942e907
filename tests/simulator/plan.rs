//! What a seed decides before anything happens: who there is, how large, how patient, how unlucky.
//!
//! Each kind of trouble is there or not in a given run, so that none hides behind the others.

use crate::ask::Speaks;
use crate::park::{self, SERVERS_MAX};
use distcache_core::table::Layout;
use distcache_core::{Limits, proxy};
use distcache_testing::memory::limits;
use distcache_testing::random::Random;
use std::time::Duration;

/// How bytes and attempts to connect fare.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    /// The longest delay in milliseconds.
    pub delay: u64,
    /// The largest piece; 0 where a piece may be anything.
    pub piece: usize,
    /// How many bytes are on their way in one direction at most.
    pub capacity: usize,
    /// How many of a thousand pieces are the last ones of their connection.
    pub cuts: usize,
    /// How many of a thousand attempts to connect get no answer.
    pub lost_dials: usize,
}

/// How often the rest goes wrong: of a thousand rounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A node stops for a while; its bytes wait.
    pub freezes: usize,
    /// A node dies, and comes back with nothing.
    pub deaths: usize,
    /// Time jumps forward.
    pub jumps: usize,
    /// A node does nothing in so many of a thousand rounds.
    pub sloth: usize,
}

/// The configuration of a server or proxy, in milliseconds; 0 is for ever.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// What clients may do.
    pub limits: Limits,
    /// As in the proxy's own configuration.
    pub server_patience: u64,
    /// The time between two attempts to connect.
    pub retry: u64,
    /// How many servers hold each session.
    pub copies: u8,
    /// The shortest timeout of a session.
    pub min_ttl: u32,
}

impl Config {
    /// The same for the machine.
    pub fn of_proxy(&self) -> proxy::Config {
        let time = |millis: u64| (millis > 0).then(|| Duration::from_millis(millis));
        proxy::Config {
            limits: self.limits,
            server_patience: time(self.server_patience),
            retry: Duration::from_millis(self.retry),
            copies: self.copies,
            min_lifetime: time(self.min_ttl.into()),
        }
    }
}

/// The size and the patience of a server or proxy.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// Who it passes requests to, where it is a proxy: the first `links` count, and all are nodes of
    /// lower numbers.
    pub upstreams: [usize; SERVERS_MAX],
    /// How many it passes requests to: none where it is a server.
    pub links: usize,
    /// Whether it is a server of old, which knows no level but 0.
    pub old: bool,
    /// Whether that one may lie.
    pub doubtful: bool,
    /// Places for clients.
    pub slots: usize,
    /// Places for requests in flight.
    pub in_flight: usize,
    /// Buffers.
    pub buffers: usize,
    /// What it does with time, and with copies.
    pub config: Config,
    /// Calls of `advance` in one turn; 0 where there is no bound.
    pub turn: usize,
}

impl Node {
    /// The nodes that it passes requests to.
    pub fn upstreams(&self) -> &[usize] {
        &self.upstreams[..self.links]
    }
}

/// A client that keeps to the rules.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Whom it calls.
    pub node: usize,
    /// At which levels it asks.
    pub speaks: Speaks,
    /// Whether it is the core's own client, which makes one request at a time.
    pub careful: bool,
    /// How many requests it makes in all.
    pub requests: usize,
    /// How many of them it sends without waiting for answers.
    pub window: usize,
    /// How many connections it may make.
    pub connections: usize,
    /// The longest pause between two requests.
    pub pause: u64,
    /// How long it waits for an answer.
    pub patience: u64,
    /// How many requests it makes on one connection.
    pub stay: usize,
}

/// What a client that keeps to no rules does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Vice {
    /// Says nothing, or half of something, and stays.
    Mute,
    /// Asks and never reads.
    Deaf,
    /// Leaves in the middle of a request.
    Vanish,
    /// Sends what is no message.
    Babble,
    /// Asks for much, in small pieces.
    Flood,
}

/// A client that keeps to no rules.
#[derive(Clone, Copy, Debug)]
pub struct Villain {
    /// Whom it calls.
    pub node: usize,
    /// What it does.
    pub vice: Vice,
}

/// All that is decided beforehand.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whether nothing at all goes wrong: then every request must have a real answer.
    pub calm: bool,
    /// Whether node 0 is a server that lies.
    pub liar: bool,
    /// The first nodes are servers; proxies follow.
    pub servers: usize,
    /// On how many servers proxies store each session.
    pub copies: u8,
    /// Whether no session may be missing that was stored by all rules.
    pub keeps: bool,
    /// The only server that anything happens to.
    pub victim: Option<usize>,
    /// A server that stops and does not go on, where all else is well.
    pub stuck: Option<usize>,
    /// The size of the server's table.
    pub layout: Layout,
    /// Requests of one client that the server answers before the next one's turn.
    pub budget: u32,
    /// The server, and the proxies.
    pub nodes: Vec<Node>,
    /// Those who keep to the rules.
    pub callers: Vec<Caller>,
    /// Those who do not.
    pub villains: Vec<Villain>,
    /// How bytes fare.
    pub wire: Wire,
    /// How the rest fares.
    pub faults: Faults,
    /// The most bytes that most sessions have.
    pub session: usize,
    /// How many ids all clients share.
    pub ids: usize,
    /// How many of four requests are for these.
    pub shared: usize,
    /// How long most sessions live at most.
    pub life: u32,
}

/// How often a node can die in one run.
pub const LIVES: usize = 4;

impl Plan {
    /// What `random` decides.
    pub fn draw(random: &mut Random) -> Self {
        let calm = random.below(5) == 0;
        let park = random.below(2) == 0;
        let liar = !calm && !park && random.below(4) == 0;
        let servers = if park { pick(random, &[1, 2, 2, 3, 3, SERVERS_MAX]) } else { 1 };
        let least = usize::from(liar || park);
        let proxies = random.below(if calm { 3 } else { 4 }).max(least);
        let last = servers + proxies - 1;
        let mut nodes: Vec<Node> =
            (0..=last).map(|number| node(random, number, (servers, last), calm, liar)).collect();
        let min_ttl = if liar { 0 } else { pick(random, &[0, 0, 0, 1_000]) };
        nodes[..servers].iter_mut().for_each(|node| node.config.min_ttl = min_ttl);
        if liar {
            nodes[0].config.limits = limits(0, 0);
        }
        let most = if calm { 3 } else { 5 };
        let callers = (0..=random.below(most)).map(|_| caller(random, last, liar)).collect();
        let villains = if calm { 0 } else { random.below(4) };
        let sessions = pick(random, &[1, 2, 5, 16, 50, 80]);
        let bytes = pick(random, &[256, 2_048, 33_024, 300_000]);
        let wire = wire(random, calm);
        // Byte for byte, long sessions would take up all the time there is.
        let narrowest = if wire.piece == 0 { wire.capacity } else { wire.piece.min(wire.capacity) };
        let session = pick(random, &[16, 300, 300, 5_000, 32_700]).min(100 * narrowest);
        let mut plan = Self {
            calm,
            liar,
            servers,
            copies: if park { pick(random, &[1, 2, 2]) } else { 1 },
            keeps: false,
            victim: None,
            stuck: None,
            layout: Layout::new(sessions, bytes).expect("a lawful size"),
            budget: pick(random, &[1, 2, 128]),
            nodes,
            callers,
            villains: (0..villains).map(|_| villain(random, last, liar)).collect(),
            wire,
            faults: if calm { Faults::default() } else { faults(random, liar, proxies) },
            session,
            ids: pick(random, &[1, 3, 12, 100]),
            shared: 3,
            life: pick(random, &[5, 2_000, 60_000, 604_800_000]),
        };
        if random.below(8) == 0 {
            plan.hoard(random);
        }
        if park {
            plan.spread(random);
        }
        plan.level();
        plan
    }

    /// Makes it a run with several servers.
    fn spread(&mut self, random: &mut Random) {
        park::spread(self, random);
        match random.below(3) {
            _ if self.calm => park::all_well(self, random),
            0 if self.copies > 1 && self.servers > 1 => park::one_in_trouble(self, random),
            1 if self.servers > 1 => park::one_stuck(self, random),
            _ => (),
        }
    }

    /// Who calls a server of old knows what it is.
    fn level(&mut self) {
        for caller in &mut self.callers {
            let old = self.nodes[caller.node].old;
            if old && caller.speaks == Speaks::All {
                caller.speaks = Speaks::Any;
            }
        }
    }

    /// The least time for which a session lives that is stored by way of this node.
    pub fn least(&self, node: usize) -> u32 {
        let next = self.nodes[node].upstreams().first();
        let beyond = next.map_or(0, |next| self.least(*next));
        beyond.max(self.nodes[node].config.min_ttl)
    }

    /// The highest level at which this node answers, where that never changes.
    pub fn level_of(&self, node: usize) -> Option<u16> {
        let steady = node < self.servers && !self.liar;
        steady.then(|| u16::from(!self.nodes[node].old))
    }

    /// Whether requests may leave this node for a server of old.
    pub fn leads_to_old(&self, node: usize) -> bool {
        let next = self.nodes[node].upstreams().iter();
        self.nodes[node].old || next.into_iter().any(|next| self.leads_to_old(*next))
    }

    /// Makes it a run in which a large table fills up, quickly and for long, while sessions in the
    /// midst of it are removed and expire.
    fn hoard(&mut self, random: &mut Random) {
        (self.ids, self.session) = (100, 300);
        self.life = pick(random, &[2_000, 60_000, 604_800_000]);
        self.layout = Layout::new(pick(random, &[30, 80]), 300_000).expect("a lawful size");
        self.wire = Wire { delay: 0, piece: 1 << 20, capacity: 1 << 20, cuts: 0, lost_dials: 0 };
        self.faults = Faults::default();
        self.faults.jumps = if self.calm { 0 } else { 30 };
        for caller in &mut self.callers {
            (caller.requests, caller.pause, caller.stay) = (400, 0, 1_000);
        }
        for node in &mut self.nodes {
            node.config.limits.idle = None;
        }
    }
}

/// One of `these`.
pub fn pick<T: Copy>(random: &mut Random, these: &[T]) -> T {
    these[random.below(these.len())]
}

fn wire(random: &mut Random, calm: bool) -> Wire {
    let delay = if calm { pick(random, &[0, 0, 5]) } else { pick(random, &[0, 0, 3, 200, 4_000]) };
    let (cuts, lost_dials) = match calm {
        true => (0, 0),
        false => (pick(random, &[0, 0, 5, 40]), pick(random, &[0, 0, 0, 200])),
    };
    let piece = pick(random, &[0, 0, 0, 1, 13, 2_062, 1 << 20]);
    let capacity = pick(random, &[1, 20, 3_000, 60_000, 1 << 20, 1 << 20]);
    // Byte for byte, even the first words on a connection would take longer than they are waited for.
    let narrow = capacity < 100 || (1..100).contains(&piece);
    let delay = if calm && narrow { 0 } else { delay };
    Wire { delay, piece, capacity, cuts, lost_dials }
}

fn faults(random: &mut Random, liar: bool, proxies: usize) -> Faults {
    let mut one = |rates: &[usize]| pick(random, rates);
    Faults {
        freezes: one(&[0, 0, 5, 20]),
        deaths: if liar && proxies > 0 { 0 } else { one(&[0, 0, 3, 10]) },
        jumps: one(&[0, 0, 10, 50]),
        sloth: one(&[0, 0, 0, 500, 900]),
    }
}

fn node(
    random: &mut Random,
    number: usize,
    (servers, last): (usize, usize),
    calm: bool,
    liar: bool,
) -> Node {
    let is_server = number < servers;
    let idle = pick(random, &[0, 0, 40, 5_000, 60_000]);
    let patience = pick(random, &[0, 300, 3_000, 10_000]);
    let patience = if liar { patience.max(300) } else { patience };
    let limits = if calm { limits(0, 0) } else { limits(idle, patience) };
    // A proxy behind it finds a place for certain once the others have left.
    let slots = last + 1 + random.below(6) + if calm { 5 } else { 0 };
    let least = if is_server { 2 } else { 4 };
    let upstream = if is_server { 0 } else { random.below(number) };
    let retry = pick(random, &[1, 50, 1_000, 5_000]);
    let server_patience = if calm { 0 } else { pick(random, &[0, 40, 250, 250, 3_000]) };
    let server_patience = if liar { server_patience.max(250) } else { server_patience };
    // All servers do the same, that proxies need not care which one they ask.
    let min_ttl = if is_server { 0 } else { pick(random, &[0, 0, 0, 1_000]) };
    Node {
        upstreams: [upstream; SERVERS_MAX],
        links: usize::from(!is_server),
        old: is_server && !liar && random.below(4) == 0,
        doubtful: liar && !is_server && upstream == 0,
        slots,
        in_flight: pick(random, &[1, 2, 3, 6, 3 * slots]),
        buffers: least + pick(random, &[0, 0, 1, 3, 2 * slots]),
        config: Config { limits, server_patience, retry, copies: 1, min_ttl },
        turn: pick(random, &[0, 0, 1, 5]),
    }
}

fn caller(random: &mut Random, last: usize, liar: bool) -> Caller {
    let careful = random.below(3) == 0;
    // Only the core's client defends itself against a server that lies.
    let node = match liar && !careful {
        true => 1 + random.below(last),
        false => random.below(last + 1),
    };
    Caller {
        node,
        speaks: pick(random, &[Speaks::Zero, Speaks::Any, Speaks::All, Speaks::All, Speaks::All]),
        careful,
        requests: match random.below(8) {
            0 => 300,
            _ => 1 + random.below(60),
        },
        window: if careful { 1 } else { pick(random, &[1, 2, 5, 30]) },
        connections: if careful { 6 } else { 12 },
        pause: pick(random, &[0, 0, 0, 10, 3_000]),
        patience: pick(random, &[60_000, 60_000, 60_000, 300]),
        stay: pick(random, &[1, 3, 10, 1_000]),
    }
}

fn villain(random: &mut Random, last: usize, liar: bool) -> Villain {
    let first = usize::from(liar);
    let vices = [Vice::Mute, Vice::Deaf, Vice::Vanish, Vice::Babble, Vice::Flood];
    Villain { node: first + random.below(last + 1 - first), vice: pick(random, &vices) }
}
