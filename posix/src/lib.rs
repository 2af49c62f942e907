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
//!
//! # Features
//!
//! | feature | adds | for |
//! |---|---|---|
//! | `client` (default) | [`client`], [`net::address`] | applications that use a session cache |
//! | `rustls` | `rustls` | rustls servers that share their sessions |
//! | `daemon` | everything else | `dc_server`, `dc_client`, `dc_snoop` and `dc_test` |
//!
//! What `daemon` adds is the inside of the programs. It follows their needs, without promises of
//! compatibility. The rest of this page is about it.
//!
//! # How bytes and time move
//!
//! The core's machines know no sockets and no clock: bytes, time and memory are arguments. Each daemon
//! is one thread that runs an event loop between one machine and its sockets:
//!
//! ```text
//!   sockets ──► poller ──► event_loop ◄── clock
//!                           │      ▲
//!                      recv │      │ send
//!                           ▼      │
//!               space / filled     pending / sent
//!                           │      ▲
//!                           └ advance
//!                        machine (core)
//! ```
//!
//! A turn waits until a socket is ready or a deadline passes, reads the clock once, and then handles
//! signals, writes and reads, the machine's own work, and new connections. Writes come before reads
//! because they free buffers. New connections come last because established clients go first. Polling
//! is level-triggered, so a turn may stop at its budget and lose nothing.
//!
//! Backpressure is an empty `space()`: a connection without room for input is not polled for input.
//!
//! # Before the loop
//!
//! Everything that can fail happens before the first turn, in this order: parse the options, close
//! inherited descriptors that no option names, bind and listen, set owner and mode of UNIX sockets,
//! detach, write the pid file, change the user, start the resolvers, allocate, enter the sandbox. The
//! loop itself allocates nothing.
//!
//! # The parts
//!
//! With `client`:
//! - [`client`]: the blocking client, with kept connections, deadlines and fork safety.
//! - [`net::address`]: addresses as the command lines write them, and what they resolve to.
//! - [`seal_keys`]: the key file of sealed sessions.
//!
//! With `daemon`:
//! - `net`: `stream`, `listener`, `datagram`, `poller`, `resolver` (asks name servers in another
//!   process), `spare_fd` (descriptors kept in reserve).
//! - `event_loop`: sockets, datagrams, connections to servers and the turn, for every machine alike.
//! - `server`, `proxy`, `snoop`, `check`, `load`: what each program runs. `dc_server` runs `server`,
//!   `dc_client` runs `proxy`, `dc_snoop` runs `snoop`, `dc_test` runs `check` and `load`.
//! - `process`: start, detach, pid file, user, sandbox, signals, limits, log lines.
//! - `state`: the sessions of a server in a file, and the process that writes it.
//! - `options`, `programs`, `program`: command lines, their tables, and exit codes.
//! - `handover`: one server takes the place of another, with its sockets, clients and sessions.
//! - `memory`, `secret`, `clock`: one mapping that a machine divides among its parts; wiping; the time of
//!   a turn.
//!
//! `sys` holds all `unsafe` code: system calls that neither `std` nor `rustix` offers as safe
//! functions.
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
#[cfg_attr(not(target_os = "linux"), path = "handover/unsupported.rs")]
mod handover;
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
pub mod seal_keys;
#[cfg(feature = "daemon")]
mod secret;
#[cfg(feature = "daemon")]
pub mod server;
#[cfg(feature = "daemon")]
pub mod snoop;
#[cfg(feature = "daemon")]
pub mod state;
#[allow(unsafe_code, reason = "system calls that neither `std` nor `rustix` offers as safe")]
#[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "the daemons use the rest"))]
mod sys;
#[cfg(test)]
#[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "the daemons' tests use the rest"))]
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
