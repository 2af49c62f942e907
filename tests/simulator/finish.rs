//! How a run ends, and what must hold then: nobody waits in vain, nothing is kept, all works again.

use crate::ask::{Asker, Speaks};
use crate::caller::Caller;
use crate::plan;
use crate::trace::{Who, note};
use crate::world::World;
use distcache_core::time::Instant;
use distcache_testing::memory::millis;

/// More rounds than anything sensible takes.
const ROUNDS: usize = 1_000_000;
/// Milliseconds that a request may take beyond what patience and retries explain.
const SLACK: u64 = 1_000;

impl World<'_> {
    /// Ends the run.
    ///
    /// # Panics
    /// Where anything is not as it must be.
    pub fn finish(&mut self) {
        self.heal();
        let wires = &mut self.wires;
        self.villains.iter_mut().for_each(|villain| villain.retire(wires));
        self.villains.clear();
        self.callers.iter_mut().for_each(Caller::retire);
        self.answer_everybody();
        for caller in &mut self.callers {
            caller.leave(&mut self.wires, &mut self.ledger.borrow_mut());
        }
        self.callers.clear();
        // Connections that swallow bytes and that nobody was waiting on are still there.
        self.wires.heal(|_, _| true);
        let end = self.wires.now.after(self.longest());
        self.pass(end);
        self.check_left();
        self.probe();
        self.check_left();
        self.part();
    }

    /// What a request may take at most, with every proxy on its way losing patience and dialing.
    pub(crate) fn longest(&self) -> u64 {
        let wait = |node: &plan::Node| {
            let patience = millis(node.config.limits.patience).max(node.config.server_patience);
            let one = 2 * patience + node.config.retry + 200;
            one * node.links as u64
        };
        self.plan.nodes.iter().map(wait).sum::<u64>() + SLACK
    }

    fn answer_everybody(&mut self) {
        let begun = self.wires.now;
        // A liar may let proxies wait for every single answer.
        let waits: u64 = self.plan.callers.iter().map(|caller| caller.window as u64).sum();
        let waits = if self.plan.liar { 1 + waits } else { 1 };
        // Where buffers are short, each connection that is not heard any more may hold one in turn.
        let dead = |node: &plan::Node| millis(node.config.limits.patience) * node.slots as u64;
        let limit = waits * self.longest() + self.plan.nodes.iter().map(dead).sum::<u64>();
        for _ in 0..ROUNDS {
            if !self.callers.iter().any(Caller::is_waiting) {
                return;
            }
            self.round();
            let waited = self.wires.now.since(begun);
            assert!(waited <= limit, "after {waited} ms of calm, a request has not ended");
        }
        panic!("requests do not end");
    }

    /// Lets time pass until `end`, and everything that is to happen by then.
    fn pass(&mut self, end: Instant) {
        for _ in 0..ROUNDS {
            if self.turns() {
                continue;
            }
            match self.wake().filter(|at| *at <= end) {
                Some(at) => self.wires.now = self.wires.now.max(at),
                None => {
                    self.wires.now = self.wires.now.max(end);
                    return;
                }
            }
        }
        panic!("it does not come to rest");
    }

    /// All clients have left: nothing is kept of them.
    fn check_left(&mut self) {
        let now = self.wires.now;
        note(now, Who::World, "looks for leaks", [0, 0]);
        let nodes = self.plan.nodes.clone();
        let limits = |node: usize| nodes[node].config.limits;
        let liar = self.plan.liar;
        let mut links = vec![0; nodes.len()];
        for shell in self.proxies() {
            for (number, upstream) in (0..).zip(shell.plan().upstreams()) {
                let up = shell.machine.is_up(number);
                links[*upstream] += usize::from(shell.is_connected(number));
                let kicked = limits(*upstream).idle.is_some() || liar;
                assert!(kicked || up, "a proxy does not come back to its server");
            }
            let kept = usize::from(liar) * shell.machine.in_flight();
            assert_eq!(
                shell.machine.in_flight(),
                kept,
                "requests are on their way that nobody made"
            );
        }
        let check = |count: usize, links: usize, free: u32, all: u32| {
            // A proxy's probe may wait for a liar, and where buffers are short others behind it.
            assert!(count == links || (liar && count > links), "clients stay that have left");
            assert!(free == all || (liar && free < all), "buffers stay lent");
        };
        for shell in self.proxies() {
            let (count, free) = (shell.machine.clients(), shell.machine.buffers_free());
            check(count, links[shell.number()], free, shell.buffers());
        }
        for shell in self.servers() {
            let (count, free) = (shell.machine.clients(), shell.machine.buffers_free());
            check(count, links[shell.number()], free, shell.buffers());
            shell.machine.store().audit(now);
        }
    }

    /// A new client of every node gets real answers wherever nothing stands in the way.
    fn probe(&mut self) {
        if self.plan.liar {
            return;
        }
        for node in 0..self.plan.nodes.len() {
            let plan = plan::Caller {
                node,
                speaks: Speaks::Any,
                careful: false,
                requests: 6,
                window: 2,
                connections: 1,
                pause: 0,
                patience: 1 << 40,
                stay: 100,
            };
            let asker = Asker {
                owner: 200 + node as u64,
                ids: 3,
                shared: 3,
                session: 300,
                life: 60_000,
                speaks: plan.speaks,
                least: self.plan.least(node),
                proxied: node >= self.plan.servers,
            };
            let strict = (self.path_is_steady(node), false, self.plan.level_of(node));
            self.callers.push(Caller::new(300 + node, plan, asker, strict, Vec::new()));
            let begun = self.wires.now;
            while !self.callers.iter().all(Caller::is_done) {
                self.round();
                let waited = self.wires.now.since(begun);
                assert!(waited <= self.longest(), "a new client is not served in {waited} ms");
            }
            for mut caller in std::mem::take(&mut self.callers) {
                caller.leave(&mut self.wires, &mut self.ledger.borrow_mut());
            }
            self.pass(self.wires.now);
            if self.path_is_steady(node) {
                self.verify(node);
                self.pass(self.wires.now);
            }
        }
    }

    /// Whether no connection on the way from this node to the server ends for being idle.
    fn path_is_steady(&self, node: usize) -> bool {
        let node = &self.plan.nodes[node];
        // Its own client may be sent away too, for being idle or for being slow.
        let steady = node.config.limits.idle.is_none();
        steady && node.upstreams().iter().all(|next| self.path_is_steady(*next))
    }

    /// Every connection breaks: nothing is on its way any more.
    fn part(&mut self) {
        for number in (0..self.plan.nodes.len()).rev() {
            self.lose(number);
        }
    }
}
