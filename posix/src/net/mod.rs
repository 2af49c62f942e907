//! Sockets: addresses, what they resolve to, streams, listeners, datagrams, and the poller.

pub mod address;
#[cfg(feature = "daemon")]
pub(crate) mod datagram;
#[cfg(feature = "daemon")]
pub mod listener;
#[cfg(feature = "daemon")]
pub mod poller;
#[cfg(feature = "daemon")]
pub mod resolver;
#[cfg(feature = "daemon")]
pub mod spare_fd;
#[cfg(feature = "daemon")]
pub mod stream;
#[cfg(not(feature = "daemon"))]
#[allow(dead_code, unreachable_pub, reason = "the client needs a part of what the daemons use")]
pub(crate) mod stream;
