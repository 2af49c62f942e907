//! What a server needs to know, and the memory that it needs.

use core::time::Duration;

use crate::clients::{ClientSlot, Limits};
use crate::message::TTL_MAX;
use crate::wire::MESSAGE_MAX;

/// Server configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Config {
    /// How long clients may take.
    pub limits: Limits,
    /// The most requests of one client that are answered before the next client's turn; 0 is taken
    /// for 1.
    pub budget: u32,
    /// The shortest lifetime: sessions that ask for less are stored for this long. At most 7 days.
    pub min_lifetime: Duration,
    /// The longest lifetime: sessions that ask for more are stored for this long. A request that asks
    /// for more than 7 days ([`TTL_MAX`]) is refused. If the shortest is longer, this wins.
    pub max_lifetime: Duration,
    /// Answers COPY, so that every client can list all sessions.
    pub allow_copy: bool,
    /// The longest time between two attempts of a proxy with two copies to connect:
    /// [`proxy::Config::retry`](crate::proxy::Config::retry). For this long and 3 seconds more after the
    /// start, nothing is repaired or copied, since the server does not hear of all removals yet.
    pub proxy_retry: Duration,
}

/// How much longer than [`Config::proxy_retry`] it takes until every removal visits this server, in
/// milliseconds: a second to connect, and two in which a removal that was sent to another server before
/// arrives there.
pub(super) const SETTLE_MORE: u64 = 3_000;

impl Config {
    /// A budget of 128 requests, every lifetime that the protocol allows, no COPY, and proxies that
    /// connect again after 5 seconds.
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            budget: 128,
            min_lifetime: Duration::ZERO,
            max_lifetime: Duration::from_millis(TTL_MAX as u64),
            allow_copy: false,
            proxy_retry: Duration::from_secs(5),
        }
    }
}

impl Default for Config {
    /// [`Config::new`] with the default [`Limits`].
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

/// The memory that a server takes: see [`Server::new`](super::Server::new).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sizes {
    /// The most clients at a time.
    pub clients: usize,
    /// The number of buffers: 2 at least.
    pub buffers: usize,
    /// The bytes of each buffer: [`MESSAGE_MAX`] at least.
    pub buffer_len: usize,
}

impl Sizes {
    /// Two buffers of [`MESSAGE_MAX`] bytes for each client, so that no client waits for a buffer.
    pub const fn for_clients(clients: usize) -> Self {
        Self { clients, buffers: clients.saturating_mul(2), buffer_len: MESSAGE_MAX }
    }

    /// The bytes of all buffers.
    pub const fn bytes(&self) -> usize {
        self.buffers.saturating_mul(self.buffer_len)
    }

    /// An empty slot for each client.
    pub fn slots(&self) -> impl Iterator<Item = ClientSlot> + use<> {
        core::iter::repeat_with(ClientSlot::default).take(self.clients)
    }
}
