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
pub mod stream;
