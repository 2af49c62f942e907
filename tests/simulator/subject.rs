//! What checks ask of a machine under test.

use crate::cluster::SERVERS_MAX;
use distcache_core::proxy::{self, Proxy, Traffic};
use distcache_core::server::{self, Server, Store};
use distcache_core::time::Instant;
use distcache_testing::net::TestMachine;

/// A machine under test.
pub trait Subject: TestMachine {
    /// Returns how much it has done. For each unit, `advance` may name a peer.
    fn work(&self) -> u64;
    /// Returns how many clients it counts.
    fn clients(&self) -> usize;
    /// Returns how many of its buffers are free.
    fn buffers_free(&self) -> u32;
    /// Returns how many requests it counts as in flight.
    fn in_flight(&self) -> usize;
    /// Returns whether it is connected to the server of this number.
    fn is_up(&self, _number: u8) -> bool {
        false
    }
    /// Returns whether the server of this number has as many requests as it may have.
    fn is_full(&self, _number: u8) -> bool {
        false
    }
    /// Returns when the next of its sessions expires, or has expired without being dropped.
    fn session_due(&self) -> Option<Instant> {
        None
    }
    /// Returns its counters of requests, if it is a proxy.
    fn traffic(&self) -> Option<Traffic> {
        None
    }
}

impl<S: Store> Subject for server::Borrowed<'_, S> {
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

    fn session_due(&self) -> Option<Instant> {
        self.store().deadline()
    }
}

impl Subject for proxy::Borrowed<'_> {
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
