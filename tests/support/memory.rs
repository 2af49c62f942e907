//! The memory of the machines.

use distcache_core::buffer::Pool;
use distcache_core::clients::{Client, Limits};
use distcache_core::proxy::{Config, InFlight, Proxy, Upstream};
use distcache_core::server::{Server, Store};
use distcache_core::slots::Slot;
use distcache_core::wire::MESSAGE_MAX;

/// No timeouts.
pub const NO_LIMITS: Limits = Limits { idle: 0, patience: 0 };

/// Memory for one server or one proxy.
#[derive(Debug)]
pub struct Memory {
    clients: Vec<Slot<Client>>,
    in_flight: Vec<Slot<InFlight>>,
    servers: Vec<Upstream>,
    buffers: Vec<u8>,
}

impl Memory {
    /// Allocates for `clients` clients, with as many buffers as they can use.
    pub fn of(clients: usize) -> Self {
        Self::with_buffers(clients, 2 * clients + 2)
    }

    /// Allocates for `clients` clients and `buffers` buffers.
    pub fn with_buffers(clients: usize, buffers: usize) -> Self {
        Self {
            clients: (0..clients).map(|_| Slot::EMPTY).collect(),
            in_flight: (0..2 * clients).map(|_| Slot::EMPTY).collect(),
            servers: vec![Upstream::new(b"server 0")],
            buffers: vec![0; buffers * MESSAGE_MAX],
        }
    }

    /// Adds room for a proxy of this many servers, called `server 0`, `server 1` and so on.
    #[must_use]
    pub fn with_servers(mut self, servers: usize) -> Self {
        let name = |number| Upstream::new(format!("server {number}").as_bytes());
        self.buffers.resize(self.buffers.len() + (servers - 1) * 2 * MESSAGE_MAX, 0);
        self.servers = (0..servers).map(name).collect();
        self.in_flight.resize_with(self.clients.len() * (servers + 1), || Slot::EMPTY);
        self
    }

    /// Sets the servers of a proxy by the numbers in their names. `buffers` must be enough for all
    /// of them.
    #[must_use]
    pub fn with_servers_named(mut self, numbers: impl Iterator<Item = usize>) -> Self {
        let name = |number| Upstream::new(format!("server {number}").as_bytes());
        self.servers = numbers.map(name).collect();
        self
    }

    /// Limits the requests in flight.
    #[must_use]
    pub fn with_in_flight(mut self, in_flight: usize) -> Self {
        self.in_flight = (0..in_flight).map(|_| Slot::EMPTY).collect();
        self
    }

    /// Creates a server.
    ///
    /// # Panics
    /// If the memory is too small.
    pub fn server<S: Store>(&mut self, limits: Limits, store: S) -> Server<'_, S> {
        let pool = Pool::new(&mut self.buffers, MESSAGE_MAX);
        Server::new(&mut self.clients, pool, limits, store).expect("enough memory")
    }

    /// Creates a proxy.
    ///
    /// # Panics
    /// If the memory is too small.
    pub fn proxy(&mut self, config: Config) -> Proxy<'_> {
        let pool = Pool::new(&mut self.buffers, MESSAGE_MAX);
        let Self { clients, in_flight, servers, .. } = self;
        Proxy::new(clients, in_flight, servers, pool, config).expect("enough memory")
    }
}
