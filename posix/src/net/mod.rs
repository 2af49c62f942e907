//! Sockets: addresses, what they resolve to, streams, listeners, datagrams, and the poller.

pub mod address;
pub(crate) mod datagram;
pub mod listener;
pub mod poller;
pub mod resolver;
pub mod spare_fd;
pub mod stream;
