//! Requests that are asked of two servers at a time, and requests that nobody waits for any more.
//!
//! With more than one copy of each session, a GET or HAVE that its server has not answered for a
//! while is sent to the next server too. The two flights are twins. The first hit is the answer. A
//! miss, or the end of a connection, leaves the decision to the other twin, which takes over what is
//! known. So a miss counts only when both servers have said it.
//!
//! A flight that was sent stays until its server has answered, or its connection is gone, because its
//! uid may come back at any time until then. Where nobody waits for it, it is an orphan of its server
//! and part of that server's share.

use super::{Mux, Next};
use crate::machine::Peer;
use crate::slots::Key;
use crate::time::Instant;

/// How long a server may take for a GET or HAVE before the next one is asked too, in milliseconds.
pub const HEDGE_AFTER: u64 = 50;

impl Mux<'_> {
    /// A flight has been sent: it may be hedged later.
    #[inline]
    pub(super) fn await_hedge(&mut self, key: Key) {
        if self.config.copies > 1 && self.flights.get(key).is_some_and(|one| one.is_hedgeable()) {
            self.flights.enqueue(&mut self.hedgeable, key);
        }
    }

    /// When the first of the flights that may be hedged is to be.
    #[inline]
    pub(super) fn hedge_at(&self) -> Option<Instant> {
        let first = self.flights.get(self.flights.front(&self.hedgeable)?)?;
        Some(first.since.after(HEDGE_AFTER))
    }

    /// Asks another server for what the first one has not answered for a while.
    #[inline]
    pub(super) fn hedge(&mut self, now: Instant) -> Option<Peer> {
        if self.hedgeable.is_empty() || self.hedge_at().is_none_or(|at| at > now) {
            return None;
        }
        self.hedge_first(now)
    }

    fn hedge_first(&mut self, now: Instant) -> Option<Peer> {
        let key = self.flights.dequeue(&mut self.hedgeable)?;
        let flight = self.flights.get(key)?;
        let (client, aim, twin) = (flight.client?, flight.aim(), flight.split(key));
        if let Next::Server(number) = self.next_server(aim)
            && let Ok(twin) = self.flights.insert(twin)
        {
            if let Some(flight) = self.flights.get_mut(key) {
                flight.twin = Some(twin);
                flight.leave_out(number);
            }
            // A GET and a HAVE are there at every level.
            let level = self.server(number).map_or(0, |server| server.level);
            if let Some(twin) = self.flights.get_mut(twin) {
                twin.visit(number, level);
            }
            self.send(now, twin);
        }
        Some(Peer::Client(client))
    }

    /// Ends a flight whose twin can still be answered, and leaves what is known to that one. False
    /// where there is none.
    pub(super) fn leave_to_twin(&mut self, key: Key) -> bool {
        let flight = self.flights.get(key);
        let Some((twin, client)) = flight.and_then(|flight| Some((flight.twin?, flight.client?)))
        else {
            return false;
        };
        if let Some(flight) = self.end(key)
            && let Some(twin) = self.flights.get_mut(twin)
        {
            twin.absorb(&flight);
        }
        if let Some((conn, _)) = self.conns.get(client) {
            conn.flight = Some(twin);
        }
        true
    }

    /// The client of this flight has left.
    pub(super) fn desert(&mut self, key: Key) {
        let twin = self.flights.get(key).and_then(|flight| flight.twin);
        if let Some(twin) = twin {
            self.abandon(twin);
        }
        self.abandon(key);
        super::count(&mut self.traffic.orphaned);
    }

    /// Nobody waits for this flight any more. One that was never sent ends here.
    pub(super) fn abandon(&mut self, key: Key) {
        let Some(flight) = self.flights.get_mut(key) else {
            return;
        };
        (flight.client, flight.twin) = (None, None);
        let number = usize::from(flight.server);
        self.flights.unlink(&mut self.hedgeable, key);
        let Some(server) = self.servers.get_mut(number) else {
            return;
        };
        server.orphans = server.orphans.saturating_add(1);
        if self.flights.is_queued(&server.waiting, key) {
            self.flights.unlink(&mut server.waiting, key);
            self.end(key);
        }
    }
}
