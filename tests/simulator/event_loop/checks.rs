//! What must hold of a machine between the events of its loop.

use super::EventLoop;
use crate::network::Network;
use crate::subject::Subject;
use crate::trace::Actor;
use distcache_core::machine::{Peer, Wants};
use distcache_core::time::Instant;
use distcache_testing::memory::millis;

impl<M: Subject> EventLoop<M> {
    /// Checks what the machine has put into the outboxes of its servers. `rests` if it has no more
    /// work.
    pub(super) fn observe(&mut self, now: Instant, rests: bool) {
        self.round += 1;
        let servers =
            self.sockets.iter_mut().filter(|socket| matches!(socket.peer, Peer::Server(_)));
        let mut new_requests = Vec::new();
        for socket in servers {
            let Peer::Server(number) = socket.peer else { continue };
            let (pending, aborted) =
                (self.machine.pending(socket.peer), self.machine.wants(socket.peer).close);
            let view = &mut self.routing.views[usize::from(number.number())];
            if aborted {
                (view.since, view.last_idle) = (None, None);
            } else if view.since.is_none() && self.machine.is_up(number.number()) {
                // It was connected before, and has now answered.
                (view.since, view.last_idle) = (Some(self.round), None);
            }
            if pending.len() > socket.seen {
                new_requests.push((usize::from(number.number()), &pending[socket.seen..]));
                socket.seen = pending.len();
            } else if rests && pending.is_empty() {
                view.last_idle = view.since.map(|_| self.round);
            }
        }
        for (number, bytes) in new_requests {
            self.routing.check_requests(now, number, bytes);
        }
        self.degraded |= self.routing.degraded;
    }

    /// Notes which servers are full: `advance` may skip a server that is full just before or after
    /// it.
    pub(super) fn observe_full(&mut self) {
        for number in 0..self.routing.views.len() {
            if self.machine.is_full(number as u8) {
                let view = &mut self.routing.views[number];
                view.since = view.since.map(|_| self.round + 1);
                self.degraded = true;
            }
        }
    }

    /// Checks that the machine closes a connection for a reason: its peer has ended it, has sent
    /// bad input, or has timed out.
    pub(super) fn check_close(&self, network: &Network, number: usize) {
        let socket = &self.sockets[number];
        let limits = self.plan.config.limits;
        let is_server = matches!(socket.peer, Peer::Server(_));
        let since = if is_server { self.in_flight_since } else { socket.since };
        let waited = network.now.since(since);
        let over = |limit: u64| limit > 0 && waited >= limit;
        let answered = socket.received.messages == socket.sent.messages;
        let right = match (socket.peer, network.dialer(socket.end)) {
            (_, Actor::HostileClient(_)) => true,
            // A correct server gives no reason; a faulty one may.
            (Peer::Server(_), _) if socket.ended || self.plan.upstream_may_be_faulty => true,
            // An unanswered probe is a reason too.
            (Peer::Server(key), _) => {
                let answered_probe = self.routing.views[usize::from(key.number())].answered_probe;
                let patience = self.plan.config.server_patience;
                let probed = network.now.since(socket.connected_at);
                let silent =
                    patience > 0 && waited.max(if answered_probe { 0 } else { probed }) >= patience;
                let patience = millis(limits.patience);
                silent || over(patience) || (!answered_probe && probed >= patience.max(1))
            }
            // A client without an unread answer that waits for space is not late.
            (Peer::Client(_), _) if socket.no_space && answered && !socket.sent.in_message => {
                socket.ended
            }
            (Peer::Client(_), _) => {
                socket.ended || over(millis(limits.idle)) || over(millis(limits.patience))
            }
        };
        assert!(
            right,
            "{} closes link {} without a reason: {socket:?}",
            self.actor(),
            socket.end.link
        );
        // A client that has ended its sending side is answered first.
        let timely = !over(millis(limits.idle)) && !over(millis(limits.patience));
        let valid = !matches!(network.dialer(socket.end), Actor::HostileClient(_)) && !is_server;
        // After a while it is closed to admit other clients.
        let timely = timely && !(socket.ended && waited >= 1_000);
        assert!(
            !(timely && valid) || answered,
            "{} closes without an answer: {socket:?}",
            self.actor()
        );
    }

    /// Checks what holds when the machine has nothing to do.
    pub(super) fn check_idle(&self, now: Instant) {
        let deadline = self.machine.deadline();
        assert!(
            deadline.is_none_or(|at| at > now),
            "{} is due while idle: {deadline:?}",
            self.actor()
        );
        // Nobody needs to ask for it: the deadline woke the machine.
        let expired = self.machine.session_due().map_or(0, |due| now.since(due));
        assert!(expired < 2_000, "{} has a session that expired {expired} ms ago", self.actor());
        assert_eq!(self.machine.check(), Ok(()), "the queues of {} are inconsistent", self.actor());
        if let Some(did) = self.machine.traffic() {
            let ended = did.answered + did.disconnected + did.orphaned;
            let open = did.requests.checked_sub(ended).map(|open| open as usize);
            let fits = open.is_some_and(|open| open <= self.machine.in_flight());
            assert!(fits, "{} miscounts requests: {did:?}", self.actor());
        }
        for socket in &self.sockets {
            let wants = self.machine.wants(socket.peer);
            assert_eq!(
                wants,
                socket.wants,
                "{} has not reported a change of {socket:?}",
                self.actor()
            );
        }
        let clients = self.sockets.iter().filter(|socket| matches!(socket.peer, Peer::Client(_)));
        let clients = clients.count();
        assert_eq!(self.machine.clients(), clients, "{} miscounts its clients", self.actor());
    }

    /// Checks that a stale key finds nothing and changes nothing.
    pub(super) fn use_stale_key(&mut self, network: &mut Network) {
        let Some(&peer) = self.stale.get(network.random.below(self.stale.len())) else {
            return;
        };
        let (now, clients) = (network.now, self.machine.clients());
        let free = self.machine.buffers_free();
        assert_eq!(self.machine.wants(peer), Wants::CLOSE);
        assert!(self.machine.pending(peer).is_empty() && self.machine.space(peer).is_empty());
        match network.random.below(4) {
            0 => self.machine.filled(peer, 5),
            1 => self.machine.sent(now, peer, 5),
            2 => self.machine.ended(now, peer),
            _ => self.machine.closed(peer),
        }
        assert_eq!(self.machine.clients(), clients, "a stale key changed the number of clients");
        assert_eq!(self.machine.buffers_free(), free, "a stale key changed the number of buffers");
    }

    /// Breaks all connections.
    ///
    /// # Panics
    /// If the machine keeps anything of them.
    pub fn disconnect_all(&mut self, network: &mut Network) {
        while !self.sockets.is_empty() {
            self.drop_socket(network, 0);
        }
        for number in 0..self.dialing.len() {
            if let Some((key, end)) = self.dialing[number].take() {
                let peer = Peer::Server(key);
                self.server_down(peer);
                self.machine.closed(peer);
                self.keep_stale_key(peer);
                network.close(self.actor(), end);
            }
        }
        for _ in 0..10_000 {
            if self.busy || self.machine.in_flight() > 0 {
                self.advance(network);
            }
        }
        let machine = &self.machine;
        assert_eq!(
            (machine.clients(), machine.in_flight()),
            (0, 0),
            "something is kept without a connection"
        );
        assert_eq!(machine.buffers_free(), self.buffers(), "buffers are leaked");
    }
}
