//! What this crate takes from the other crates of distcache: one place to change when they do.

pub(crate) use distcache_core::id::{ID_MAX, Id};
pub(crate) use distcache_core::message::{ADD_FIXED_LEN, Add, Status, raise_ttl};
pub(crate) use distcache_core::sessiond::{Exchange, PACKET_MAX, REQUEST_MAX, Received as Heard};
pub(crate) use distcache_core::wire::{
    self, Direction, Envelope, HEADER_LEN, Header, LEVEL, MESSAGE_MAX, Message, Op, PAYLOAD_MAX,
};
pub(crate) use distcache_posix::net::listener::Listener;
pub(crate) use distcache_posix::net::listener::Sender;
pub(crate) use distcache_posix::net::stream::{Received, Stream};
pub(crate) use distcache_posix::process::signals::{Signal, Signals};
pub(crate) use distcache_posix::process::start::Started;
