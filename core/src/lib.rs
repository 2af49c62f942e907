//! The distcache protocol without I/O: a session cache server, its proxy and its clients as state
//! machines to embed. `no_std`, no allocation, no `unsafe`, no clock, no randomness, no logging: bytes,
//! time and memory are arguments.
//!
//! # A server and its client
//!
//! ```
//! use distcache_core::{Add, Id, Instant, Layout, Machine, Next, Peer, Pool, Reply, Request, Server};
//! use distcache_core::{Status, Table, client, server};
//!
//! // A server for ten clients and a thousand sessions.
//! let layout = Layout::for_sessions(1000).unwrap();
//! let table = Table::new(layout, *b"16 random bytes.", |lines| vec![[0; 64]; lines]).unwrap();
//! let sizes = server::Sizes::for_clients(10);
//! let slots: Vec<_> = sizes.slots().collect();
//! let pool = Pool::new(vec![0; sizes.bytes()], sizes.buffer_len);
//! let mut server = Server::new(slots, pool, server::Config::default(), table).unwrap();
//!
//! // A client connects, and stores a session for a minute.
//! let now = Instant::ORIGIN;
//! let peer = Peer::Client(server.open(now).unwrap());
//! let mut client = client::Connection::new(vec![0; client::MEMORY]).unwrap();
//! let id = Id::new(b"an id").unwrap();
//! client.request(&Request::Add(Add { ttl: 60_000, id, session: b"a session" })).unwrap();
//!
//! // Its bytes go to the server, and the server's bytes come back.
//! let request = client.pending().to_vec();
//! let done = server.exchange(now, peer, &request, client.space());
//! client.sent(done.taken);
//! client.filled(done.written);
//! assert!(client.advance().unwrap(), "the answer is complete");
//! assert_eq!(client.reply(), Some(Reply::Status(Status::OK)));
//! assert_eq!((server.store().len(), done.next), (1, Next::Receive));
//! ```
//!
//! # A proxy between the two
//!
//! ```
//! use distcache_core::{Id, Instant, Limits, Machine, Peer, Pool, Proxy, Reply, Request, Status};
//! use distcache_core::{MESSAGE_MAX, client, proxy};
//! use std::time::Duration;
//! # use distcache_core::{Layout, Server, Table, server};
//! # let table = Table::new(Layout::for_sessions(9).unwrap(), [0; 16], |lines| vec![[0; 64]; lines]);
//! # let pool = Pool::new(vec![0; 2 * MESSAGE_MAX], MESSAGE_MAX);
//! # let slots = [server::ClientSlot::EMPTY];
//! # let config = server::Config::default();
//! # let mut server = Server::new(slots, pool, config, table.unwrap()).unwrap();
//!
//! // A proxy for ten clients and one server, which it connects to again after five seconds.
//! let sizes = proxy::Sizes::new(10, 1);
//! let (slots, in_flight) = (sizes.client_slots(), sizes.in_flight_slots());
//! let pool = Pool::new(vec![0; sizes.bytes()], sizes.buffer_len);
//! let servers = [proxy::Upstream::new(b"IP:192.0.2.1:9001")];
//! let config = proxy::Config::new(Limits::default(), Duration::from_secs(5));
//! let (slots, in_flight): (Vec<_>, Vec<_>) = (slots.collect(), in_flight.collect());
//! let mut proxy = Proxy::new(slots, in_flight, servers, pool, config).unwrap();
//!
//! // The caller connects when the proxy says so. The server sees one more client.
//! let now = Instant::ORIGIN;
//! let Some(proxy::Dial::Connect(key)) = proxy.dial(now) else { panic!("it is time to connect") };
//! proxy.connected(now, key);
//! let (upstream, link) = (Peer::Server(key), Peer::Client(server.open(now).unwrap()));
//!
//! // A client of the proxy asks for a session.
//! let peer = Peer::Client(proxy.open(now).unwrap());
//! let mut client = client::Connection::new(vec![0; client::MEMORY]).unwrap();
//! client.request(&Request::Get(Id::new(b"an id").unwrap())).unwrap();
//! let sent = proxy.exchange(now, peer, client.pending(), &mut []).taken;
//! client.sent(sent);
//!
//! // Proxy and server first exchange the proxy's probe, then the request and its answer.
//! let (mut there, mut back) = ([0; MESSAGE_MAX], [0; MESSAGE_MAX]);
//! for _ in 0..2 {
//!     let len = proxy.exchange(now, upstream, &[], &mut there).written;
//!     let len = server.exchange(now, link, &there[..len], &mut back).written;
//!     proxy.exchange(now, upstream, &back[..len], &mut []);
//! }
//! let len = proxy.exchange(now, peer, &[], client.space()).written;
//! client.filled(len);
//! assert!(client.advance().unwrap(), "the answer is complete");
//! assert_eq!(client.reply(), Some(Reply::Status(Status::NOT_OK)), "there is no such session");
//! ```
//!
//! `examples/` has servers on real sockets: with threads, with `mio` and with `tokio`.
//!
//! # The modules
//!
//! ```text
//!  client  server  proxy  snoop  sessiond     the roles
//!            │       │
//!            └───┬───┘
//!             machine                         the verbs of both
//!
//!  table    buffer  slots  memory             sessions, bytes and connections in fixed memory
//!
//!  seal                                       sessions that a cache cannot read
//!
//!  message  wire                              requests and answers, and their bytes
//!  id  time
//! ```
//!
//! - [`wire`]: frames, messages and what is malformed. [`message`]: requests, replies, statuses.
//! - [`server`]: a [`Server`] has many clients and one [`Store`](server::Store). [`table`]: a [`Table`]
//!   is the usual store, of fixed size; no operation takes longer if it has more sessions.
//! - [`copy`]: the answers that carry many sessions.
//! - [`proxy`]: a [`Proxy`] has many clients and one connection to each of a few servers.
//! - [`client`]: a [`Connection`](client::Connection) makes one request at a time. [`snoop`]: reads
//!   along. [`sessiond`]: stunnel's protocol in terms of this one's requests.
//! - [`seal`]: encrypts sessions, so that caches store what they cannot read.
//!
//! # Bytes, time and memory
//!
//! Server and proxy implement [`Machine`]: the same verbs for both, for a poll loop, for threads or for
//! a simulator. Bytes come in through `space` and `filled`, and go out through `pending` and `sent`;
//! `advance` does the work, a bounded piece at a time; `deadline` says when there is more to do even if
//! nothing arrives. There is no required order, and no verb blocks. [`Machine::exchange`] is one call
//! for all of them.
//!
//! Memory comes from the caller in containers, borrowed or owned: see [`Array`]. [`server::Sizes`],
//! [`proxy::Sizes`] and [`Layout`] say how much. An idle connection has a slot and no buffer. When
//! buffers run out, `space` is empty: a peer without room is not read from, and nothing is lost.
//!
//! # Errors
//!
//! If a peer is at fault, the result is [`Malformed`], and only the peer's own connection is closed.
//! Without room, the result is `None` or an empty slice, and nothing has changed. A caller's stale
//! [`Key`] finds nothing and does no harm.
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
mod clients;
pub mod copy;
pub mod id;
pub mod machine;
pub mod memory;
pub mod message;
pub mod proxy;
pub mod seal;
pub mod server;
pub mod sessiond;
pub mod slots;
pub mod snoop;
pub mod state;
pub mod table;
pub mod time;
pub mod wire;

pub use buffer::Pool;
pub use clients::{Client, ClientSlot, Counters, Limits, SetupError};
pub use id::Id;
pub use machine::{Exchanged, Machine, Next, Peer, ServerKey, Wants};
pub use memory::Array;
pub use message::{Add, Reply, Request, Status};
pub use proxy::Proxy;
pub use server::Server;
pub use slots::{Key, Slot};
pub use table::{Layout, Table};
pub use time::Instant;
pub use wire::{MESSAGE_MAX, Malformed};
