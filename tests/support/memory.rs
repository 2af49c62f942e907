//! The memory of the machines.

use std::time::Duration;

use distcache_core::Slot;
use distcache_core::proxy::{self, Config, InFlight, Proxy, Upstream};
use distcache_core::server::{self, Server, Store};
use distcache_core::wire::MESSAGE_MAX;
use distcache_core::{ClientSlot, Limits, Pool};

/// No timeouts.
pub const NO_LIMITS: Limits = Limits::NONE;

/// Returns timeouts of these milliseconds; 0 for none.
pub const fn limits(idle: u64, patience: u64) -> Limits {
    const fn limit(millis: u64) -> Option<Duration> {
        if millis == 0 { None } else { Some(Duration::from_millis(millis)) }
    }
    Limits { idle: limit(idle), patience: limit(patience) }
}

/// Returns a timeout in milliseconds; 0 for none.
pub fn millis(limit: Option<Duration>) -> u64 {
    limit.map_or(0, |limit| limit.as_millis() as u64)
}

/// Memory for one server or one proxy.
#[derive(Debug)]
pub struct Memory {
    clients: Vec<ClientSlot>,
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
    pub fn server<S: Store>(&mut self, limits: Limits, store: S) -> server::Borrowed<'_, S> {
        self.server_with(server::Config::new(limits), store)
    }

    /// Creates a server of this configuration.
    ///
    /// # Panics
    /// If the memory is too small.
    pub fn server_with<S: Store>(
        &mut self,
        config: server::Config,
        store: S,
    ) -> server::Borrowed<'_, S> {
        let pool = Pool::new(&mut self.buffers[..], MESSAGE_MAX);
        Server::new(&mut self.clients[..], pool, config, store).expect("enough memory")
    }

    /// Creates a proxy.
    ///
    /// # Panics
    /// If the memory is too small.
    pub fn proxy(&mut self, config: Config) -> proxy::Borrowed<'_> {
        let pool = Pool::new(&mut self.buffers[..], MESSAGE_MAX);
        let Self { clients, in_flight, servers, .. } = self;
        Proxy::new(&mut clients[..], &mut in_flight[..], &mut servers[..], pool, config)
            .expect("enough memory")
    }

    /// Returns the bytes of all buffers.
    pub fn buffers(&self) -> &[u8] {
        &self.buffers
    }

    /// Returns whether the machine that had this memory left nothing in its buffers. The first word of
    /// each may hold the number of another one.
    pub fn is_wiped(&self) -> bool {
        let mut buffers = self.buffers.chunks(MESSAGE_MAX);
        buffers.all(|buffer| buffer.iter().skip(4).all(|byte| *byte == 0))
    }
}
