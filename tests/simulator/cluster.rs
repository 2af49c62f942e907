//! Runs with several servers, and proxies that spread ids over all of them.
//!
//! In most runs any fault may happen. In some, faults hit one server alone, to show what copies are
//! for: no session is lost with that server ([`one_server_fails`]), and only requests for its ids
//! wait for it ([`one_server_hangs`]).

use crate::plan::{Behaviour, Conditions, Faults, Node, Plan, pick};
use distcache_core::Limits;
use distcache_core::table::Layout;
use distcache_testing::memory::limits;
use distcache_testing::random::Random;
use std::time::Duration;

/// The most servers of a run.
pub const SERVERS_MAX: usize = 4;

/// The timeout of clients that reset their connection when it is over, in milliseconds.
pub const IMPATIENT: u64 = 20;

/// No timeouts.
const FOREVER: Limits = limits(0, 0);

/// Connects the proxies of a plan to its servers: to all of them, or to another proxy.
pub fn connect_proxies(plan: &mut Plan, random: &mut Random) {
    let servers = plan.servers;
    for number in servers..plan.nodes.len() {
        let node = &mut plan.nodes[number];
        node.slots += 2;
        if number > servers && random.below(4) == 0 {
            node.upstreams[0] = servers + random.below(number - servers);
            continue;
        }
        // Each proxy has its servers in another order.
        node.upstream_count = servers;
        for place in 0..servers {
            node.upstreams[place] = place;
            node.upstreams.swap(place, random.below(place + 1));
        }
        node.config.copies = plan.copies;
        node.buffers += 2 * (servers - 1);
    }
    for client in &mut plan.clients {
        // A change of one copy alone would make the copies differ.
        let least = if plan.copies > 1 { servers } else { 0 };
        client.node = least + random.below(plan.nodes.len() - least);
    }
}

/// Makes it a run in which sessions leave only when clients remove them or they expire.
fn make_durable(plan: &mut Plan, random: &mut Random) {
    plan.durable = true;
    plan.layout = Layout::new(100, 300_000).expect("a valid size");
    plan.session_len = plan.session_len.min(2_000);
    plan.ids = plan.ids.min(3);
    plan.shared = pick(random, &[0, 1, 2]);
    plan.max_ttl = pick(random, &[2_000, 60_000, 604_800_000]);
    for node in &mut plan.nodes {
        node.config.limits = FOREVER;
        node.config.server_patience = 0;
    }
    for client in &mut plan.clients {
        (client.patience, client.window) = (1 << 40, client.window.min(2));
    }
}

/// A run without faults, in which every session is kept.
pub fn nothing_fails(plan: &mut Plan, random: &mut Random) {
    make_durable(plan, random);
}

/// A run in which one server crashes, maybe more than once, pauses and loses its connections. Time
/// may jump; there are no other faults.
pub fn one_server_fails(plan: &mut Plan, random: &mut Random) {
    make_durable(plan, random);
    plan.victim = Some(random.below(plan.servers));
    if random.below(2) == 0 {
        (plan.conditions.cuts, plan.conditions.lost_dials) = (0, 0);
    }
    let faults = &mut plan.faults;
    faults.crashes = pick(random, &[5, 15, 30]);
    faults.pauses = if plan.conditions.cuts > 0 { pick(random, &[0, 5]) } else { 0 };
    // With a timeout, the other servers must never be late.
    let patience = pick(random, &[0, 3_000]);
    if patience > 0 {
        (faults.jumps, faults.idle_turns, plan.conditions.delay) = (0, 0, 0);
    } else {
        faults.pauses = 0;
    }
    for node in &mut plan.nodes[plan.servers..] {
        node.config.limits = limits(0, patience);
        node.config.server_patience = if patience > 0 { pick(random, &[0, 250, 3_000]) } else { 0 };
        node.config.retry = pick(random, &[1, 50, 1_000]);
    }
    plan.hostile_clients.clear();
    plan.max_ttl = pick(random, &[60_000, 604_800_000]);
    for client in &mut plan.clients {
        // Time must pass for a server to come back.
        (client.requests, client.pause) = (100, pick(random, &[10, 300, 3_000]));
        client.per_connection = 1_000;
    }
}

/// A run in which one server stops for good, without other faults.
pub fn one_server_hangs(plan: &mut Plan, random: &mut Random) {
    plan.stuck = Some(random.below(plan.servers));
    plan.faults = Faults::default();
    plan.conditions = Conditions { delay: 0, cuts: 0, lost_dials: 0, ..plan.conditions };
    plan.hostile_clients.retain(|hostile_client| hostile_client.behaviour == Behaviour::Silent);
    let clients = plan.clients.len() + plan.hostile_clients.len() + plan.nodes.len();
    for node in &mut plan.nodes {
        give_ample_room(node, clients);
    }
    let impatient = random.below(2) == 0;
    for node in &mut plan.nodes[plan.servers..] {
        node.config.limits.patience = Some(Duration::from_millis(pick(random, &[300, 3_000])));
        node.config.server_patience = pick(random, &[0, 250, 3_000]);
        // As many clients as possible leave before the server times out.
        if impatient {
            node.config.limits.patience = Some(Duration::from_secs(60));
            node.config.server_patience = 0;
            // No more than all clients can have in flight at one time.
            node.in_flight = clients * node.upstream_count;
        }
    }
    if impatient {
        // As many requests as there is time for.
        (plan.conditions.piece, plan.conditions.capacity, plan.session_len) =
            (1 << 20, 1 << 20, 300);
        while plan.clients.len() < 4 {
            plan.clients.push(plan.clients[0]);
        }
    }
    for (number, client) in plan.clients.iter_mut().enumerate() {
        (client.patience, client.window, client.pause) = (1 << 40, 1, client.pause.min(10));
        // The other clients wait for their answers, and must not wait long.
        if impatient && number % 2 == 1 {
            (client.patience, client.requests, client.connections) = (IMPATIENT, 200, 200);
            client.core_client = false;
        }
        // A proxy is one client of another proxy, where one request does wait for the other.
        if plan.nodes[client.node].upstream_count == 1 {
            client.node = plan.servers;
        }
    }
}

/// Gives a node all that it can need for so many clients.
fn give_ample_room(node: &mut Node, clients: usize) {
    node.config.limits = FOREVER;
    node.slots = clients;
    node.in_flight = clients * (node.upstream_count + 1);
    node.buffers = 2 * clients + 2 * node.upstream_count + 2;
}
