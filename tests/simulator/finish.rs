//! How a run ends, and what must hold then: every request ends, nothing leaks, everything works
//! again.

use crate::client::Client;
use crate::plan;
use crate::request::{Dialect, Generator};
use crate::trace::{Actor, record};
use crate::world::World;
use distcache_core::time::Instant;
use distcache_testing::memory::millis;

/// More rounds than a run can need.
const ROUNDS: usize = 1_000_000;
/// Milliseconds that a request may take beyond what timeouts and retries explain.
const SLACK: u64 = 1_000;

impl World<'_> {
    /// Ends the run.
    ///
    /// # Panics
    /// If anything is not as it must be.
    pub fn finish(&mut self) {
        self.heal();
        let network = &mut self.network;
        self.hostile_clients.iter_mut().for_each(|hostile_client| hostile_client.retire(network));
        self.hostile_clients.clear();
        self.clients.iter_mut().for_each(Client::retire);
        self.drain_requests();
        for client in &mut self.clients {
            client.close_connection(&mut self.network, &mut self.oracle.borrow_mut());
        }
        self.clients.clear();
        // Connections that lose bytes silently, and that no client waits on, are still there.
        self.network.heal(|_, _| true);
        let end = self.network.now.after(self.longest_wait());
        self.run_until(end);
        self.check_no_leaks();
        self.check_new_clients();
        self.check_no_leaks();
        self.disconnect_everybody();
    }

    /// Returns the longest time that a request may take, in milliseconds: every proxy on its way
    /// waits for its timeout and dials again.
    pub(crate) fn longest_wait(&self) -> u64 {
        let wait = |node: &plan::Node| {
            let patience = millis(node.config.limits.patience).max(node.config.server_patience);
            let one = 2 * patience + node.config.retry + 200;
            one * node.upstream_count as u64
        };
        self.plan.nodes.iter().map(wait).sum::<u64>() + SLACK
    }

    fn drain_requests(&mut self) {
        let begun = self.network.now;
        // A faulty server may make proxies time out on every single answer.
        let waits: u64 = self.plan.clients.iter().map(|client| client.window as u64).sum();
        let waits = if self.plan.faulty_server { 1 + waits } else { 1 };
        // If buffers are short, each dead connection may hold one in turn.
        let dead = |node: &plan::Node| millis(node.config.limits.patience) * node.slots as u64;
        let limit = waits * self.longest_wait() + self.plan.nodes.iter().map(dead).sum::<u64>();
        for _ in 0..ROUNDS {
            if !self.clients.iter().any(Client::is_waiting) {
                return;
            }
            self.round();
            let waited = self.network.now.since(begun);
            assert!(waited <= limit, "{waited} ms after the faults, a request has not ended");
        }
        panic!("requests do not end");
    }

    /// Lets time pass until `end`, with everything that is due by then.
    fn run_until(&mut self, end: Instant) {
        for _ in 0..ROUNDS {
            if self.turns() {
                continue;
            }
            match self.wake().filter(|at| *at <= end) {
                Some(at) => self.network.now = self.network.now.max(at),
                None => {
                    self.network.now = self.network.now.max(end);
                    return;
                }
            }
        }
        panic!("the world does not come to rest");
    }

    /// All clients have left: no node keeps anything of them.
    fn check_no_leaks(&mut self) {
        let now = self.network.now;
        record(now, Actor::World, "looks for leaks", [0, 0]);
        let nodes = self.plan.nodes.clone();
        let limits = |node: usize| nodes[node].config.limits;
        let faulty_server = self.plan.faulty_server;
        let mut links = vec![0; nodes.len()];
        for event_loop in self.proxies() {
            for (number, upstream) in (0..).zip(event_loop.plan().upstreams()) {
                let up = event_loop.machine.is_up(number);
                links[*upstream] += usize::from(event_loop.is_connected(number));
                let kicked = limits(*upstream).idle.is_some() || faulty_server;
                assert!(kicked || up, "a proxy does not reconnect to its server");
            }
            let kept = usize::from(faulty_server) * event_loop.machine.in_flight();
            assert_eq!(
                event_loop.machine.in_flight(),
                kept,
                "requests in flight that no client made"
            );
        }
        let check = |count: usize, links: usize, free: u32, all: u32| {
            // The probe of a proxy may wait for a faulty server, and others behind it for buffers.
            assert!(
                count == links || (faulty_server && count > links),
                "clients that have left are still counted"
            );
            assert!(free == all || (faulty_server && free < all), "buffers are leaked");
        };
        for event_loop in self.proxies() {
            let (count, free) = (event_loop.machine.clients(), event_loop.machine.buffers_free());
            check(count, links[event_loop.number()], free, event_loop.buffers());
        }
        for event_loop in self.servers() {
            let (count, free) = (event_loop.machine.clients(), event_loop.machine.buffers_free());
            check(count, links[event_loop.number()], free, event_loop.buffers());
            event_loop.machine.store().audit(now);
        }
    }

    /// A new client of every node gets real answers wherever nothing prevents it.
    fn check_new_clients(&mut self) {
        if self.plan.faulty_server {
            return;
        }
        // What they store must be sealed on the way.
        let first = if self.plan.sealed { self.plan.servers } else { 0 };
        for node in first..self.plan.nodes.len() {
            let plan = plan::Client {
                node,
                dialect: Dialect::LevelZeroOps,
                core_client: false,
                requests: 6,
                window: 2,
                connections: 1,
                pause: 0,
                patience: 1 << 40,
                per_connection: 100,
            };
            let generator = Generator {
                owner: 200 + node as u64,
                ids: 3,
                shared: 3,
                session_len: 300,
                max_ttl: 60_000,
                dialect: plan.dialect,
                min_ttl: self.plan.min_ttl_of(node),
                proxied: node >= self.plan.servers,
                sealed: self.plan.sealed,
            };
            let strict = (self.path_is_steady(node), false, self.plan.level_of(node));
            self.clients.push(Client::new(300 + node, plan, generator, strict, Vec::new()));
            let begun = self.network.now;
            while !self.clients.iter().all(Client::is_done) {
                self.round();
                let waited = self.network.now.since(begun);
                assert!(waited <= self.longest_wait(), "a new client is not served in {waited} ms");
            }
            for mut client in std::mem::take(&mut self.clients) {
                client.close_connection(&mut self.network, &mut self.oracle.borrow_mut());
            }
            self.run_until(self.network.now);
            if self.path_is_steady(node) {
                self.verify(node);
                self.run_until(self.network.now);
            }
        }
    }

    /// Returns whether no connection on the way from this node to a server is closed as idle.
    fn path_is_steady(&self, node: usize) -> bool {
        let node = &self.plan.nodes[node];
        // The node may also close the client's own connection as idle or stalled.
        let steady = node.config.limits.idle.is_none();
        steady && node.upstreams().iter().all(|next| self.path_is_steady(*next))
    }

    /// Breaks every connection, so nothing is in flight any more.
    fn disconnect_everybody(&mut self) {
        for number in (0..self.plan.nodes.len()).rev() {
            self.disconnect_all_of(number);
        }
    }
}
