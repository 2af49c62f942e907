//! What can be asked of a machine under test, whichever it is.

use crate::cluster::SERVERS_MAX;
use distcache_core::proxy::{Proxy, Traffic};
use distcache_core::server::{Server, Store};
use distcache_testing::net::Station;

/// What can be asked of both sorts of machine, for checking.
pub trait Subject: Station {
    /// How much it has done: with every unit, `advance` may have something to say.
    fn work(&self) -> u64;
    /// How many clients it believes to have.
    fn clients(&self) -> usize;
    /// How many of its buffers nobody holds.
    fn buffers_free(&self) -> u32;
    /// How many requests it believes to be on their way.
    fn in_flight(&self) -> usize;
    /// Whether it is connected to a server of its own.
    fn is_up(&self, _number: u8) -> bool {
        false
    }
    /// Whether a server of its own has all the requests that it may have.
    fn is_full(&self, _number: u8) -> bool {
        false
    }
    /// What became of requests.
    fn traffic(&self) -> Option<Traffic> {
        None
    }
}

impl<S: Store> Subject for Server<'_, S> {
    fn work(&self) -> u64 {
        let counters = self.counters();
        self.operations().total + counters.malformed + counters.idle + counters.stalled
    }

    fn clients(&self) -> usize {
        Server::clients(self)
    }

    fn buffers_free(&self) -> u32 {
        Server::buffers_free(self)
    }

    fn in_flight(&self) -> usize {
        0
    }
}

impl Subject for Proxy<'_> {
    fn work(&self) -> u64 {
        let (counters, did) = (self.counters(), self.traffic());
        let clients = counters.malformed + counters.idle + counters.stalled;
        let did = did.requests + did.answered + did.disconnected + did.orphaned + did.strays;
        let servers = (0..SERVERS_MAX as u8).map(|number| self.server_traffic(number));
        let servers = servers.map(|did| did.forwarded + did.answered + did.lost).sum::<u64>();
        clients + did + servers
    }

    fn clients(&self) -> usize {
        Proxy::clients(self)
    }

    fn buffers_free(&self) -> u32 {
        Proxy::buffers_free(self)
    }

    fn in_flight(&self) -> usize {
        Proxy::in_flight(self)
    }

    fn is_up(&self, number: u8) -> bool {
        Proxy::is_up(self, number)
    }

    fn is_full(&self, number: u8) -> bool {
        Proxy::is_full(self, number)
    }

    fn traffic(&self) -> Option<Traffic> {
        Some(Proxy::traffic(self))
    }
}
