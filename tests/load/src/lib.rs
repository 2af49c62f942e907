//! What the benchmark needs beside `dc_test`, and no user does: the protocols of other caches for the
//! same load, a server that stores nothing, and the benchmark itself.
//!
//! The load is [`distcache_posix::load`], that of `dc_test`: every cache is asked by the same loop,
//! so that whatever the asking costs, it costs the same with each.

pub mod bench;
#[cfg(test)]
mod case;
pub mod floor;
pub mod memcached;
pub mod resp;
mod text;
