//! What the benchmark needs beside `dc_test`: the protocols of other caches for the same load, a server
//! that stores nothing, and the benchmark itself.
//!
//! The load is [`distcache_posix::load`], that of `dc_test`. The same loop asks every cache, so its own cost
//! is the same for each.

pub mod bench;
#[cfg(test)]
mod case;
pub mod floor;
pub mod memcached;
pub mod resp;
mod text;
