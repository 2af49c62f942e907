//! `dc_gateway`: distcache on the one side, a Valkey or Redis Cluster on the other.
//!
//! ```text
//!  dc_client ─┐                                   ┌─ node a
//!  dc_client ─┼─ distcache ─► dc_gateway ─ RESP ──┼─ node b
//!  stunnel ───┘                                   └─ node c
//! ```
//!
//! A gateway is stateless. The cluster holds the sessions, their lifetimes and their copies, so any number
//! of gateways can run, and each can be stopped at any time.
//!
//! # Which part of the core it uses
//!
//! `distcache_core::server` calls its store and needs the answer at once: one call takes requests from one
//! buffer and writes answers to another. Here an answer arrives later, or never, and answers of different
//! nodes arrive out of order. An asynchronous store in that machine would need a queue of incomplete
//! answers for each client, with a fixed size, and every embedded server would pay for it. So the gateway
//! uses the layers below: `wire` measures requests and frames answers, `message` parses them, `sessiond`
//! turns datagrams into them. The gateway adds that queue (`answers`) and the commands of the engine
//! (`command`), on tokio, and may allocate.
//!
//! # The engine's client
//!
//! The `redis` crate asks nodes about the topology. Requests use connections of the gateway's own
//! (`engine`), for two reasons: neither that crate's cluster client nor `fred` isolates a stopped node
//! from the others, and both cost several times as much for each request. docs/scale-out.md has the
//! figures.
//!
//! # Threads
//!
//! Each worker is one thread with its own clients and its own connections to all nodes. Threads share no
//! data on the path of a request.
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
mod options;
mod watch;
mod worker;

pub use counters::{Counter, Counters, Totals};
pub use credentials::{Credentials, Login};
pub use endpoint::{Endpoint, HostPort};
pub use engine::TlsOptions;
pub use gateway::{Config, Gateway, GatewayError};
pub use options::DC_GATEWAY;
