//! How a proxy is configured, and what it counts.

use core::time::Duration;

use super::Rejected;
use crate::clients::Limits;
use crate::time::millis;

/// The patience with servers that [`Config::new`] sets.
pub const SERVER_PATIENCE: Duration = Duration::from_millis(250);

/// Proxy configuration. All times count in whole milliseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Config {
    /// Limits for clients. `patience` also bounds how long a server may leave one request unanswered
    /// while it answers others, and how long an attempt to connect may take.
    pub limits: Limits,
    /// How long a server may send no answer at all while a request waits for it; `None` for no limit.
    pub server_patience: Option<Duration>,
    /// The time between the starts of two attempts to connect to one server.
    pub retry: Duration,
    /// The number of servers that hold each session: 1 or more; 0 counts as 1.
    pub copies: u8,
    /// Whether any server can answer for any id, because they share a store: each request goes to the
    /// server with the fewest requests. A GET, HAVE or FETCH that is lost with its server is sent to
    /// another one.
    pub anycast: bool,
    /// The shortest lifetime of a session: shorter ones are raised to it. `None` leaves all as they are.
    pub min_lifetime: Option<Duration>,
}

impl Config {
    /// One copy of each session, no shortest lifetime, and [`SERVER_PATIENCE`].
    pub const fn new(limits: Limits, retry: Duration) -> Self {
        Self {
            limits,
            server_patience: Some(SERVER_PATIENCE),
            retry,
            copies: 1,
            anycast: false,
            min_lifetime: None,
        }
    }

    pub(super) fn terms(&self) -> Terms {
        let patience = self.limits.patience.map(millis);
        let server_patience = self.server_patience.map(millis);
        Terms {
            patience,
            server_patience,
            probe_patience: server_patience.or(patience),
            retry: millis(self.retry),
            copies: self.copies.max(1),
            anycast: self.anycast,
            min_ttl: self
                .min_lifetime
                .map_or(0, |lifetime| u32::try_from(millis(lifetime)).unwrap_or(u32::MAX)),
        }
    }
}

/// A configuration in milliseconds, as the proxy uses it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) patience: Option<u64>,
    pub(super) server_patience: Option<u64>,
    /// How long a server may take to answer the probe.
    pub(super) probe_patience: Option<u64>,
    pub(super) retry: u64,
    pub(super) copies: u8,
    pub(super) anycast: bool,
    /// 0 for none.
    pub(super) min_ttl: u32,
}

/// Counters of requests since the start. Each request of a client counts once, however many servers it
/// visits: `requests` is the sum of `answered`, `disconnected`, `orphaned` and the requests in flight.
/// The other fields are sums over all servers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Requests of clients.
    pub requests: u64,
    /// Requests answered by a server, or with
    /// [`Status::UNSUPPORTED`](crate::message::Status::UNSUPPORTED), or refused because their session
    /// cannot be sealed.
    pub answered: u64,
    /// Requests answered with [`Status::DISCONNECTED`](crate::message::Status::DISCONNECTED), because
    /// no server was reachable.
    pub disconnected: u64,
    /// Requests whose client left before the answer.
    pub orphaned: u64,
    /// Answers without a request.
    pub strays: u64,
    /// Connections made to servers.
    pub connects: u64,
    /// Connections to servers that ended.
    pub losses: u64,
    /// Connections to servers that the proxy gave up; see [`GivenUp`](super::GivenUp).
    pub given_up: u64,
    /// Sessions that servers returned and that do not open.
    pub rejected: Rejected,
    /// Sessions that one server had lost, and another still had, stored at the first again.
    pub repaired: u64,
}
