//! The distcache protocol without I/O: a session cache server, its proxy and its clients as state
//! machines that anyone can embed.
//!
//! `no_std`, no allocation, no `unsafe`, no clock, no randomness, no logging. Bytes, time and memory
//! are arguments; nothing here knows that sockets exist.
//!
//! # The parts
//!
//! ```text
//!  client  server  proxy  snoop  sessiond     who speaks and listens
//!            │       │
//!           clients ◄──┘              many clients' connections: bytes held, room, time
//!            │
//!  table    pool  slots             where sessions, bytes and connections are kept
//!
//!  message  wire                    what is said, and how it looks
//!  id  time                         the words for it
//! ```
//!
//! - [`wire`]: frames and messages; what is malformed. [`message`]: requests, replies, statuses.
//! - [`server::Server`]: many clients and one [`server::Store`]. [`table::Table`]: the store that is
//!   meant, of fixed size, in which no operation takes longer for there being more sessions.
//! - [`proxy::Proxy`]: many clients on one connection to each of a few servers.
//! - [`client::Connection`]: one request at a time. [`snoop::Reader`]: looking on.
//! - [`sessiond::Exchange`]: stunnel's protocol, told in this one's requests.
//!
//! # How bytes and time move
//!
//! Server and proxy are a [`machine::Machine`]: the same verbs for both, and a poll loop, threads or a
//! simulator drives them all alike. Bytes come in through `space` and `filled` and go out through
//! `pending` and `sent`; `advance` thinks, a bounded piece at a time; `deadline` says when it has to
//! think again though nothing came. There is no required order, and no verb blocks.
//!
//! Memory comes from the caller as slices: slots for connections, one stretch for buffers, one for
//! sessions. A connection that is idle costs its slot and no buffer. Where memory runs out, `space`
//! is empty: whoever has no room is not read from, and nothing is lost.
//!
//! # Failures, by whose fault
//!
//! The peer's: [`wire::Malformed`], which ends its own connection and nothing else. Nobody's (no
//! room): `None` or an empty slice, with nothing changed. The caller's: a stale [`slots::Key`] finds
//! nothing and harms nothing.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

#[cfg(test)]
extern crate std;

pub mod buffer;
pub mod client;
pub mod clients;
pub mod id;
pub mod machine;
pub mod message;
pub mod proxy;
pub mod server;
pub mod sessiond;
pub mod slots;
pub mod snoop;
pub mod table;
pub mod time;
pub mod wire;
