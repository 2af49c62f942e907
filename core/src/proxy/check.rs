//! What holds between any two calls, for tests and simulators to look at.

use super::Mux;
use super::upstream::Phase;
use crate::slots::Key;

impl Mux<'_> {
    /// Checks all queues and what is counted about them. Takes a time that grows with the memory.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        self.conns.check()?;
        self.check_queues()?;
        let away = self.servers.iter().filter(|server| server.phase != Phase::Up).count();
        if away != self.away {
            return Err("servers that are not up are miscounted");
        }
        for (number, server) in (0..=u8::MAX).zip(&*self.servers) {
            let orphans = self.flights.keys().filter_map(|key| self.flights.get(key));
            let orphans = orphans.filter(|flight| flight.client.is_none());
            if orphans.filter(|flight| flight.server == number).count() != server.orphans {
                return Err("orphans are miscounted");
            }
            if server.phase == Phase::Away && server.open.len() != server.lost {
                return Err("a request is on its way on no connection");
            }
        }
        self.flights.keys().try_for_each(|key| self.check_flight(key))
    }

    fn check_queues(&self) -> Result<(), &'static str> {
        let opens = self.servers.iter().map(|server| &server.open);
        let waits = self.servers.iter().map(|server| &server.waiting);
        self.flights.check(opens.chain(waits).chain([&self.hedgeable]))
    }

    /// Each flight is at one server, in one of its queues, and is the one of its client or the twin of
    /// that.
    fn check_flight(&self, key: Key) -> Result<(), &'static str> {
        let Some(flight) = self.flights.get(key) else {
            return Err("a key finds nothing");
        };
        let Some(server) = self.server(flight.server) else {
            return Err("a flight has no server");
        };
        let open = self.flights.is_queued(&server.open, key);
        let waiting = self.flights.is_queued(&server.waiting, key);
        if open == waiting {
            return Err("a flight is neither sent nor waiting, or both");
        }
        if self.flights.is_queued(&self.hedgeable, key) && !(open && flight.is_hedgeable()) {
            return Err("a flight may be hedged that must not be");
        }
        let Some(client) = flight.client else {
            let forgotten = open && flight.twin.is_none();
            return if forgotten { Ok(()) } else { Err("an orphan waits for something") };
        };
        let Some(own) = self.conns.flight(client) else {
            return Err("a flight's client has none");
        };
        let twin = flight.twin.map(|twin| self.flights.get(twin).and_then(|twin| twin.twin));
        match twin {
            None if own != key => Err("a client has another flight"),
            Some(back) if back != Some(key) => Err("a twin is not one"),
            Some(_) if own != key && Some(own) != flight.twin => Err("a client has neither twin"),
            _ => Ok(()),
        }
    }
}
