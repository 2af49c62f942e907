//! distcache, the TLS session cache, on POSIX systems: a blocking client and a session store for rustls
//! servers.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use distcache_posix::{Client, Id};
//!
//! let client = Client::connect("UNIX:/run/distcache/scache")?;
//! let id = Id::new(b"an id of 1 to 64 bytes").expect("22 bytes");
//! client.put(id, b"the session", Duration::from_secs(300))?;
//! assert_eq!(client.get(id)?.as_deref(), Some(&b"the session"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`client`] describes deadlines, threads and forks, and [`net::address`] the syntax of addresses.
//! With the feature `rustls`, the module `rustls` stores the sessions of a rustls server; its
//! documentation has an example, and `examples/tls_server.rs` is a complete server.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `client` (default) | [`client`]: the blocking client |
//! | `rustls` | `rustls`: a session store for rustls servers |
//! | `daemon` | what the programs `dc_server`, `dc_client`, `dc_test` and `dc_snoop` run |
//!
//! The rest of this page is about `daemon`.
//!
//! # Layers
//!
//! The protocol is in `distcache-core`: machines that take bytes, time and memory as arguments. This
//! crate has the sockets, the clock and the memory, and moves bytes between the two:
//!
//! ```text
//!   descriptors ── recv ──> space()/filled() ┐           ┌ pending()/sent() ── send ──> descriptors
//!                                            └ advance() ┘
//!          poller: which descriptor            clock: now, once a turn
//! ```
//!
//! - `net`: addresses, streams, listeners, datagrams, the poller, and a resolver that does not block the
//!   event loop.
//! - `process`: starting, detaching, pid file, user, signals, limits, logging.
//! - `options`, `program`, `programs`: command lines, and the tables that `-h` is printed from.
//! - `server`, `proxy`, `snoop`, `check`, `load`: one module for what each program runs.
//! - `memory`: one mapping that the machines divide among themselves. `clock`: read once a turn.
//! - `sys`: the only file with `unsafe`, for what neither `std` nor `rustix` offers.
//!
//! # The event loop
//!
//! Each program is one thread around one level-triggered poller: input that is not read now is
//! reported again, so a turn can stop at its budget and lose nothing. Every turn has the same order:
//! wait, read the clock, signals, writes, reads, accepts. Writes come before reads because they free
//! buffers; accepts come last because connected clients take precedence over new ones.
//!
//! A machine whose `space()` is empty is not polled for input. There is no other backpressure.
//!
//! # Before the event loop
//!
//! Everything that can fail happens first, in this order: read the options, close inherited descriptors
//! that no option names, listen with the owner and mode of the socket, detach, write the pid file,
//! change the user, start the resolver. All memory is allocated before the loop. A program that has
//! reached its loop does not fail for reasons of its own.
#![deny(unsafe_code)]
// The client needs only parts of `net` and `sys`.
#![cfg_attr(not(feature = "daemon"), allow(dead_code))]

#[cfg(feature = "daemon")]
pub mod check;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "daemon")]
pub mod clock;
#[cfg(feature = "daemon")]
mod event_loop;
#[cfg(feature = "daemon")]
pub mod load;
#[cfg(feature = "daemon")]
pub mod memory;
pub mod net;
#[cfg(feature = "daemon")]
pub mod options;
#[cfg(feature = "daemon")]
pub mod process;
#[cfg(feature = "daemon")]
pub mod program;
#[cfg(feature = "daemon")]
pub mod programs;
#[cfg(feature = "daemon")]
pub mod proxy;
#[cfg(feature = "daemon")]
mod reason;
#[cfg(feature = "rustls")]
pub mod rustls;
#[cfg(feature = "daemon")]
pub mod server;
#[cfg(feature = "daemon")]
pub mod snoop;
#[allow(unsafe_code, reason = "it has what neither `std` nor `rustix` offers as safe")]
mod sys;
#[cfg(test)]
mod testing;
#[cfg(feature = "daemon")]
mod trim;

use std::time::Duration;

#[cfg(feature = "client")]
pub use client::Client;
pub use distcache_core::id::Id;
pub use distcache_core::message::Status;
pub use net::address::Address;

/// The longest lifetime of a session: 7 days.
pub const TTL_MAX: Duration = Duration::from_millis(distcache_core::message::TTL_MAX as u64);

/// Compiles the example in `README.md`.
#[cfg(all(doctest, feature = "client"))]
#[doc = include_str!("../README.md")]
mod readme {}
