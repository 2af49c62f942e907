//! Runs with several servers, and proxies that spread ids over all of them.
//!
//! In most of them anything may happen. In some there is trouble for one server alone, so that what
//! copies are for can be told: nothing is lost with it ([`one_in_trouble`]), or nobody waits for it
//! who has no business there ([`one_stuck`]).

use crate::plan::{Faults, Node, Plan, Vice, Wire, pick};
use distcache_core::Limits;
use distcache_core::table::Layout;
use distcache_testing::memory::limits;
use distcache_testing::random::Random;
use std::time::Duration;

/// The most servers that there are.
pub const SERVERS_MAX: usize = 4;

/// The patience of clients whose connections break when they have lost it, in milliseconds.
pub const IMPATIENT: u64 = 20;

/// Nobody is ever sent away.
const FOREVER: Limits = limits(0, 0);

/// Connects the proxies of a plan to its servers: to all of them, or to another proxy.
pub fn spread(plan: &mut Plan, random: &mut Random) {
    let servers = plan.servers;
    for number in servers..plan.nodes.len() {
        let node = &mut plan.nodes[number];
        node.slots += 2;
        if number > servers && random.below(4) == 0 {
            node.upstreams[0] = servers + random.below(number - servers);
            continue;
        }
        // Each proxy has an order of its own.
        node.links = servers;
        for place in 0..servers {
            node.upstreams[place] = place;
            node.upstreams.swap(place, random.below(place + 1));
        }
        node.config.copies = plan.copies;
        node.buffers += 2 * (servers - 1);
    }
    for caller in &mut plan.callers {
        // What is done to one copy alone makes the copies differ.
        let least = if plan.copies > 1 { servers } else { 0 };
        caller.node = least + random.below(plan.nodes.len() - least);
    }
}

/// Makes it a run in which sessions may leave for no reason but those that clients give.
fn keep(plan: &mut Plan, random: &mut Random) {
    plan.keeps = true;
    plan.layout = Layout::new(100, 300_000).expect("a lawful size");
    plan.session = plan.session.min(2_000);
    plan.ids = plan.ids.min(3);
    plan.shared = pick(random, &[0, 1, 2]);
    plan.life = pick(random, &[2_000, 60_000, 604_800_000]);
    for node in &mut plan.nodes {
        node.config.limits = FOREVER;
        node.config.server_patience = 0;
    }
    for caller in &mut plan.callers {
        (caller.patience, caller.window) = (1 << 40, caller.window.min(2));
    }
}

/// A run in which nothing goes wrong, and all is kept.
pub fn all_well(plan: &mut Plan, random: &mut Random) {
    keep(plan, random);
}

/// A run in which one server dies, maybe more than once, stops, and loses its connections; nothing
/// else goes wrong but time.
pub fn one_in_trouble(plan: &mut Plan, random: &mut Random) {
    keep(plan, random);
    plan.victim = Some(random.below(plan.servers));
    if random.below(2) == 0 {
        (plan.wire.cuts, plan.wire.lost_dials) = (0, 0);
    }
    let faults = &mut plan.faults;
    faults.deaths = pick(random, &[5, 15, 30]);
    faults.freezes = if plan.wire.cuts > 0 { pick(random, &[0, 5]) } else { 0 };
    // Who waits for no more than a while must not find the others late.
    let patience = pick(random, &[0, 3_000]);
    if patience > 0 {
        (faults.jumps, faults.sloth, plan.wire.delay) = (0, 0, 0);
    } else {
        faults.freezes = 0;
    }
    for node in &mut plan.nodes[plan.servers..] {
        node.config.limits = limits(0, patience);
        node.config.server_patience = if patience > 0 { pick(random, &[0, 250, 3_000]) } else { 0 };
        node.config.retry = pick(random, &[1, 50, 1_000]);
    }
    plan.villains.clear();
    plan.life = pick(random, &[60_000, 604_800_000]);
    for caller in &mut plan.callers {
        // Time must pass for a server to come back.
        (caller.requests, caller.pause) = (100, pick(random, &[10, 300, 3_000]));
        caller.stay = 1_000;
    }
}

/// A run in which one server stops at some time and never moves again, with all else well.
pub fn one_stuck(plan: &mut Plan, random: &mut Random) {
    plan.stuck = Some(random.below(plan.servers));
    plan.faults = Faults::default();
    plan.wire = Wire { delay: 0, cuts: 0, lost_dials: 0, ..plan.wire };
    plan.villains.retain(|villain| villain.vice == Vice::Mute);
    let clients = plan.callers.len() + plan.villains.len() + plan.nodes.len();
    for node in &mut plan.nodes {
        can_send(node, clients);
    }
    let impatient = random.below(2) == 0;
    for node in &mut plan.nodes[plan.servers..] {
        node.config.limits.patience = Some(Duration::from_millis(pick(random, &[300, 3_000])));
        node.config.server_patience = pick(random, &[0, 250, 3_000]);
        // Those who leave are as many as can be, before the server is given up.
        if impatient {
            node.config.limits.patience = Some(Duration::from_secs(60));
            node.config.server_patience = 0;
            // No more than all clients can have on their way at one time.
            node.in_flight = clients * node.links;
        }
    }
    if impatient {
        // As many requests as there is time for.
        (plan.wire.piece, plan.wire.capacity, plan.session) = (1 << 20, 1 << 20, 300);
        while plan.callers.len() < 4 {
            plan.callers.push(plan.callers[0]);
        }
    }
    for (number, caller) in plan.callers.iter_mut().enumerate() {
        (caller.patience, caller.window, caller.pause) = (1 << 40, 1, caller.pause.min(10));
        // Others are there who wait for the rest, and must not wait long.
        if impatient && number % 2 == 1 {
            (caller.patience, caller.requests, caller.connections) = (IMPATIENT, 200, 200);
            caller.careful = false;
        }
        // To another proxy, a proxy is one client: there one request does wait for the other.
        if plan.nodes[caller.node].links == 1 {
            caller.node = plan.servers;
        }
    }
}

/// Gives a node all that it can ever need for so many clients.
fn can_send(node: &mut Node, clients: usize) {
    node.config.limits = FOREVER;
    node.slots = clients;
    node.in_flight = clients * (node.links + 1);
    node.buffers = 2 * clients + 2 * node.links + 2;
}
