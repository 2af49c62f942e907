//! The memory that machines live in.

use distcache_core::conns::{Conn, Limits};
use distcache_core::pool::Pool;
use distcache_core::proxy::{Config, Flight, Mux, Upstream};
use distcache_core::server::{Server, Store};
use distcache_core::slots::Slot;
use distcache_core::wire::MESSAGE_MAX;

/// Nobody is ever closed for being slow.
pub const NO_LIMITS: Limits = Limits { idle: 0, patience: 0 };

/// Slots and buffers for one server or one proxy.
#[derive(Debug)]
pub struct Memory {
    conns: Vec<Slot<Conn>>,
    flights: Vec<Slot<Flight>>,
    servers: Vec<Upstream>,
    buffers: Vec<u8>,
}

impl Memory {
    /// Places for `clients`, and as many buffers as they can ever use.
    pub fn of(clients: usize) -> Self {
        Self::with_buffers(clients, 2 * clients + 2)
    }

    /// Places for `clients`, and `buffers` buffers.
    pub fn with_buffers(clients: usize, buffers: usize) -> Self {
        Self {
            conns: (0..clients).map(|_| Slot::EMPTY).collect(),
            flights: (0..2 * clients).map(|_| Slot::EMPTY).collect(),
            servers: vec![Upstream::new(b"server 0")],
            buffers: vec![0; buffers * MESSAGE_MAX],
        }
    }

    /// The same for a proxy of so many servers, called `server 0`, `server 1` and so on.
    #[must_use]
    pub fn with_servers(mut self, servers: usize) -> Self {
        let name = |number| Upstream::new(format!("server {number}").as_bytes());
        self.buffers.resize(self.buffers.len() + (servers - 1) * 2 * MESSAGE_MAX, 0);
        self.servers = (0..servers).map(name).collect();
        self.flights.resize_with(self.conns.len() * (servers + 1), || Slot::EMPTY);
        self
    }

    /// The same for a proxy of these servers, by the numbers in their names; its own buffers are to be
    /// enough for all of them.
    #[must_use]
    pub fn with_servers_called(mut self, numbers: impl Iterator<Item = usize>) -> Self {
        let name = |number| Upstream::new(format!("server {number}").as_bytes());
        self.servers = numbers.map(name).collect();
        self
    }

    /// The same with room for no more than `flights` requests on their way.
    #[must_use]
    pub fn with_flights(mut self, flights: usize) -> Self {
        self.flights = (0..flights).map(|_| Slot::EMPTY).collect();
        self
    }

    /// A server.
    ///
    /// # Panics
    /// Where it finds this memory too small.
    pub fn server<S: Store>(&mut self, limits: Limits, store: S) -> Server<'_, S> {
        let pool = Pool::new(&mut self.buffers, MESSAGE_MAX);
        Server::new(&mut self.conns, pool, limits, store).expect("enough memory")
    }

    /// A proxy.
    ///
    /// # Panics
    /// Where it finds this memory too small.
    pub fn proxy(&mut self, config: Config) -> Mux<'_> {
        let pool = Pool::new(&mut self.buffers, MESSAGE_MAX);
        let Self { conns, flights, servers, .. } = self;
        Mux::new(conns, flights, servers, pool, config).expect("enough memory")
    }
}
