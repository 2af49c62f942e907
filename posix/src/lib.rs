//! distcache on POSIX: the layer that owns every system call.
//!
//! The protocol lives in `distcache-core` as machines that take bytes, time and memory as arguments
//! and know of no socket. This crate has the sockets, the clock and the memory, and moves bytes
//! between the two:
//!
//! ```text
//!   descriptors ── recv ──> space()/filled() ┐           ┌ pending()/sent() ── send ──> descriptors
//!                                            └ advance() ┘
//!          poller: which descriptor            clock: now, once a turn
//! ```
//!
//! # The parts
//!
//! - Names and what they lead to: [`net::address`], [`net::resolver`] (asks name servers beside the loop).
//! - Bytes: [`net::stream`] (one connected stream), `datagram` (no connection), [`net::listener`] (where either
//!   comes from), [`net::poller`].
//! - Time: [`clock`], read once a turn and passed down.
//! - The process: [`options`], [`process`] (detach, pid file, user, signals, limits).
//! - Room: [`memory`], one mapping that the core's machines divide among themselves.
//! - `sys`, the one file with `unsafe` in it: what neither `std` nor `rustix` offers as safe.
//!
//! # One poll loop
//!
//! Each program is one thread around one [`net::poller::Poller`], level-triggered: what is not read now
//! is reported again, so a turn may stop at its budget without losing anything. A turn has a fixed
//! order: wait, read the clock, signals, writes, reads, accepts. Writes come before reads because
//! they make room, accepts last because who is here goes before who is not.
//!
//! A machine whose `space()` is empty is not polled for input: that is all the backpressure there is.
//!
//! # Before the loop
//!
//! Whatever can fail happens first, and in this order: read the options, close what was inherited
//! and no option names, bind and listen with the owner and mode of the socket, detach, write the pid file, change the user, start the resolver.
//! Memory is taken before the loop and not in it. A program that reached its loop does not fail for
//! reasons of its own.
#![deny(unsafe_code)]

pub mod check;
pub mod client;
pub mod clock;
mod event_loop;
pub mod load;
pub mod memory;
pub mod net;
pub mod options;
pub mod process;
pub mod program;
pub mod programs;
pub mod proxy;
mod reason;
#[cfg(feature = "rustls")]
pub mod rustls;
pub mod server;
pub mod snoop;
#[allow(unsafe_code, reason = "it has what neither `std` nor `rustix` offers as safe")]
mod sys;
#[cfg(test)]
mod testing;
mod trim;
