//! What the tests and the fuzz bodies have in common: bytes as the protocol's text has them, a plain
//! store, a small world of wires and virtual time, and the reference vectors.
//!
//! Nothing here uses the code under test to say what is right.

pub mod bytes;
pub mod c;
pub mod caller;
pub mod chain;
pub mod daemon;
pub mod handshake;
pub mod lan;
pub mod load;
pub mod memory;
pub mod net;
pub mod process;
pub mod random;
pub mod rig;
pub mod sessiond;
pub mod siege;
pub mod start;
pub mod store;
pub mod stranger;
pub mod vectors;
