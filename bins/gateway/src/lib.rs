//! `dc_gateway`: distcache on the one side, a Valkey or Redis Cluster on the other.
//!
//! ```text
//!  dc_client ─┐                                   ┌─ node a
//!  dc_client ─┼─ distcache ─► dc_gateway ─ RESP ──┼─ node b
//!  stunnel ───┘                                   └─ node c
//! ```
//!
//! A gateway keeps nothing. Sessions, their lifetimes and their copies are the cluster's, so there can
//! be any number of gateways, and any of them can be ended at any time.
//!
//! # The seam
//!
//! `distcache_core::server` asks its store and needs the answer at once: it takes requests out of a
//! buffer and writes answers into another one, in one call. Here an answer comes later, or never, and
//! those of different nodes come out of order. To put an asynchronous store into that machine each
//! client would need a queue of unfinished answers, sized in advance, which costs every embedded server
//! that does not want it. So the gateway takes the layers below: `wire` measures requests and frames
//! answers, `message` reads them, `sessiond` turns datagrams into them. What it adds is that queue
//! (`answers`) and the commands of the engine (`command`), on tokio, which may allocate.
//!
//! # The engine's client
//!
//! One connection to one node is the `redis` crate's: RESP, AUTH, pipelines. The cluster is followed
//! here (`engine`), because neither that crate's cluster client nor `fred` keeps a node that has
//! stopped away from the others: docs/scale-out.md has the figures.
//!
//! # Threads
//!
//! Each worker is one thread with its own clients and its own connections to all nodes. Nothing that a
//! request touches is shared between threads.
#![forbid(unsafe_code)]

mod answers;
mod client;
mod command;
mod counters;
mod credentials;
mod datagrams;
mod endpoint;
mod engine;
mod gateway;
mod parts;
mod watch;
mod worker;

pub use counters::{Counter, Counters, Totals};
pub use credentials::{Credentials, Login};
pub use endpoint::{Endpoint, Place};
pub use engine::TlsOptions;
pub use gateway::{Config, Gateway, GatewayError};
