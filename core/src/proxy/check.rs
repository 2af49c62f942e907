//! The invariants between any two calls, for tests, fuzzing and the simulator.

use super::{Memory, Proxy};
use crate::slots::Key;

impl<M: Memory> Proxy<M> {
    /// Checks the states of all servers, all queues, and the numbers kept about them. Takes time in
    /// proportion to the memory.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        self.clients.check()?;
        self.check_queues()?;
        let not_up = self.servers.iter().filter(|server| !server.is_up()).count();
        if not_up != self.not_up {
            return Err("servers that are not up are miscounted");
        }
        for (number, server) in (0..=u8::MAX).zip(&*self.servers) {
            server.check()?;
            let orphans = self.in_flight.keys().filter_map(|key| self.in_flight.get(key));
            let orphans = orphans.filter(|in_flight| in_flight.client.is_none());
            if orphans.filter(|in_flight| in_flight.server == number).count() != server.orphans {
                return Err("orphans are miscounted");
            }
        }
        self.in_flight.keys().try_for_each(|key| self.check_in_flight(key))
    }

    fn check_queues(&self) -> Result<(), &'static str> {
        let opens = self.servers.iter().map(|server| &server.open);
        let waits = self.servers.iter().map(|server| &server.waiting);
        self.in_flight.check(opens.chain(waits).chain([&self.hedgeable]))
    }

    /// Each request is in one queue of its server, and is that of its client or the twin of it.
    fn check_in_flight(&self, key: Key) -> Result<(), &'static str> {
        let Some(in_flight) = self.in_flight.get(key) else {
            return Err("a key finds nothing");
        };
        let Some(server) = self.server(in_flight.server) else {
            return Err("a request has no server");
        };
        let open = self.in_flight.is_queued(&server.open, key);
        let waiting = self.in_flight.is_queued(&server.waiting, key);
        if open == waiting {
            return Err("a request is neither sent nor waiting, or both");
        }
        if self.in_flight.is_queued(&self.hedgeable, key) && !(open && in_flight.is_hedgeable()) {
            return Err("a request waits to be hedged that must not be");
        }
        let Some(client) = in_flight.client else {
            let forgotten = open && in_flight.twin.is_none();
            return if forgotten { Ok(()) } else { Err("an orphan waits for something") };
        };
        let Some(own) = self.clients.in_flight(client) else {
            return Err("the client of a request has none in flight");
        };
        let twin = in_flight.twin.map(|twin| self.in_flight.get(twin).and_then(|twin| twin.twin));
        match twin {
            None if own != key => Err("a client has another request in flight"),
            Some(back) if back != Some(key) => Err("the twin of a request has another twin"),
            Some(_) if own != key && Some(own) != in_flight.twin => {
                Err("a client has neither twin")
            }
            _ => Ok(()),
        }
    }
}
