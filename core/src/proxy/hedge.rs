//! Hedged requests: a second server is asked when the first one is slow. And orphans: requests whose
//! client has left.
//!
//! With more than one copy of each session, a GET, FETCH or HAVE that its server has not answered for
//! [`HEDGE_AFTER`] milliseconds is sent to the next server too. The two requests are twins. The first
//! hit is the answer. A miss, or the end of a connection, leaves the decision to the other twin, which
//! takes over what is known. So a miss counts only if both servers have sent one.
//!
//! A request that was sent stays until its server has answered or its connection has ended, because an
//! answer with its uid may arrive until then. Without a client it is an orphan of its server, and
//! counts towards that server's share.

use super::forward::Route;
use super::{Memory, Proxy, count};
use crate::machine::Peer;
use crate::slots::Key;
use crate::time::Instant;

/// How long a server may take for a GET or HAVE before the next one is asked too, in milliseconds.
pub const HEDGE_AFTER: u64 = 50;

impl<M: Memory> Proxy<M> {
    /// Queues a request that was sent to be hedged later, if it may be.
    #[inline]
    pub(super) fn await_hedge(&mut self, key: Key) {
        if self.terms.copies > 1 && self.in_flight.get(key).is_some_and(|one| one.is_hedgeable()) {
            self.in_flight.enqueue(&mut self.hedgeable, key);
        }
    }

    /// When the next request is hedged.
    #[inline]
    pub(super) fn hedge_at(&self) -> Option<Instant> {
        let first = self.in_flight.get(self.in_flight.front(&self.hedgeable)?)?;
        Some(first.since.after(HEDGE_AFTER))
    }

    /// Sends a request to a second server if the first one has not answered it for a while.
    #[inline]
    pub(super) fn hedge(&mut self, now: Instant) -> Option<Peer> {
        if self.hedgeable.is_empty() || self.hedge_at().is_none_or(|at| at > now) {
            return None;
        }
        self.hedge_first(now)
    }

    fn hedge_first(&mut self, now: Instant) -> Option<Peer> {
        let key = self.in_flight.dequeue(&mut self.hedgeable)?;
        let in_flight = self.in_flight.get(key)?;
        let (client, aim, twin) = (in_flight.client?, in_flight.aim(), in_flight.split(key));
        if let Route::Server(number) = self.choose(aim)
            && let level = self.server(number).map_or(0, |server| server.level)
            && twin.request.header.op.level() <= level
            && let Ok(twin) = self.in_flight.insert(twin)
        {
            if let Some(in_flight) = self.in_flight.get_mut(key) {
                in_flight.twin = Some(twin);
                in_flight.leave_out(number);
            }
            if let Some(twin) = self.in_flight.get_mut(twin) {
                twin.visit(number, level);
            }
            self.send(now, twin);
        }
        Some(Peer::Client(client))
    }

    /// Ends a request that has a twin, and passes on what is known to the twin. False if it has none.
    pub(super) fn leave_to_twin(&mut self, key: Key) -> bool {
        let in_flight = self.in_flight.get(key);
        let Some((twin, client)) = in_flight.and_then(|one| Some((one.twin?, one.client?))) else {
            return false;
        };
        if let Some(in_flight) = self.remove(key)
            && let Some(twin) = self.in_flight.get_mut(twin)
        {
            twin.absorb(&in_flight);
        }
        if let Some((conn, _)) = self.clients.get(client) {
            conn.in_flight = Some(twin);
        }
        true
    }

    /// The client of this request has left.
    pub(super) fn desert(&mut self, key: Key) {
        let twin = self.in_flight.get(key).and_then(|in_flight| in_flight.twin);
        if let Some(twin) = twin {
            self.abandon(twin);
        }
        self.abandon(key);
        count(&mut self.traffic.orphaned);
    }

    /// Makes a request an orphan. One that was never sent ends here.
    pub(super) fn abandon(&mut self, key: Key) {
        let Some(in_flight) = self.in_flight.get_mut(key) else {
            return;
        };
        (in_flight.client, in_flight.twin) = (None, None);
        let number = usize::from(in_flight.server);
        self.in_flight.unlink(&mut self.hedgeable, key);
        let Some(server) = self.servers.get_mut(number) else {
            return;
        };
        server.orphans = server.orphans.saturating_add(1);
        if self.in_flight.is_queued(&server.waiting, key) {
            self.in_flight.unlink(&mut server.waiting, key);
            self.remove(key);
        }
    }
}
