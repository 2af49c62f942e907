//! What can be asked of a machine under test, whichever it is.

use distcache_core::proxy::Mux;
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
    fn flights(&self) -> usize;
    /// Whether it is connected to a server of its own.
    fn is_up(&self, _number: u8) -> bool {
        false
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

    fn flights(&self) -> usize {
        0
    }
}

impl Subject for Mux<'_> {
    fn work(&self) -> u64 {
        let (counters, did) = (self.counters(), self.traffic());
        let clients = counters.malformed + counters.idle + counters.stalled;
        clients + did.forwarded + did.answered + did.disconnected + did.orphaned + did.strays
    }

    fn clients(&self) -> usize {
        Mux::clients(self)
    }

    fn buffers_free(&self) -> u32 {
        Mux::buffers_free(self)
    }

    fn flights(&self) -> usize {
        Mux::flights(self)
    }

    fn is_up(&self, number: u8) -> bool {
        Mux::is_up(self, number)
    }
}
