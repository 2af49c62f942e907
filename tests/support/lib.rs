//! What tests and fuzz bodies share: messages as bytes, a plain store, a network harness with
//! virtual time, real programs as processes, and the reference vectors.
//!
//! Nothing here uses the code under test to decide what is right.

pub mod bytes;
pub mod c;
pub mod chain;
pub mod daemon;
pub mod fleet;
#[cfg(target_os = "linux")]
pub mod handover;
pub mod handshake;
pub mod lan;
pub mod load;
pub mod memory;
pub mod net;
pub mod process;
pub mod random;
pub mod raw_client;
pub mod rig;
pub mod scripted;
pub mod secret;
pub mod sessiond;
pub mod start;
pub mod store;
pub mod stress;
pub mod tcp;
pub mod vectors;
