//! The whole system in one process, over a virtual network and virtual time, driven by one seed.
//!
//! ```text
//!  callers ─┐                  ┌─► proxy 1 ──┐ ┌──► 1 to 4 servers ──► table ∥ plain map
//!           ├── wires, time ───┤     ▲       ├─┤    of level 1 or 0,
//!  villains ┘    (faults)      └─► proxy 2 ──┘ └──► or a liar alone
//!      └──────────── ledger: who asked what, what was executed, which answers came ────────┘
//! ```
//!
//! The machines are the real ones: [`Server`] over the real [`Table`], [`Proxy`], [`Connection`].
//! Around them everything is made up, and decided by the seed: who there is and who talks to whom
//! (clients at a server, at one or several proxies, proxies behind proxies, one copy of each session
//! or two, at which patch levels), how much memory
//! and patience each has, what is asked for, how bytes travel, and what goes wrong.
//! [`plan::Plan`] is all that is decided beforehand; each kind of trouble is there or not in a
//! given run, so that none hides another, and in one run of five nothing goes wrong at all.
//!
//! # What goes wrong
//!
//! - Bytes travel in pieces of any size, late, through pipes that hold as little as one byte.
//! - Connections end at any byte: reset, swallowed without a word (one way or both), or half
//!   closed.
//! - Attempts to connect are refused or never decided.
//! - Servers and proxies stop for a while, die and come back with nothing, and do nothing for
//!   many rounds or no more than one piece of work a turn.
//! - Clients vanish in the middle of a request, hang up and wait for the rest, lose patience,
//!   never read, say nothing, flood, or send what is no message: noise, HTTP, one bit changed, 17
//!   frames, answers, frames that disagree.
//! - The server lies: answers out of order, twice, for nobody, with another operation, not at
//!   all.
//! - Servers of old answer at level 0, and hang up on who asks for more ([`framing::FrameScanner::clear_level`]).
//! - One server alone dies, loses connections or stops for good, with all else well ([`cluster`]).
//! - Tables of one session or one block; pools of the fewest buffers; one request in flight; few slots.
//! - Time jumps: a little, by minutes, by 8 days, and to where a session is just about to expire.
//!
//! # What must hold
//!
//! - A request ends exactly once: with an answer in its turn, under its own uid and operation, or
//!   with its connection ([`client`]).
//! - An answer is what a store said to that very request after it was made, and every execution
//!   answers once; or a proxy's word that its server is away, and not even that where nothing
//!   goes wrong. What a store executes somebody has asked for, byte for byte and no more often
//!   ([`oracle`]).
//! - A request leaves a proxy for the best of its servers that are up, in the id's own order, which
//!   is the same in all proxies and is worked out here without the core; it visits each once, asks
//!   there for what the table in the core's `request in flight` says, and for nothing that the server has not
//!   shown that it has ([`routing`], [`rank`]).
//! - A session that was stored is there until it expires or somebody has it taken away, where there
//!   is no reason for anything else: where nothing goes wrong, and with two copies where only one
//!   server is in trouble. One that is taken is taken once, with two copies as long as no proxy has
//!   been without a server ([`guarantees`]).
//! - Where one server is stuck, whoever asks for what it does not hold is answered within 10 ms, even
//!   where clients leave it unanswered requests by the dozen.
//! - A GET or HAVE goes to a second server only when the first has had 50 ms; a proxy counts each
//!   request of a client once, and all queues are whole whenever a machine rests.
//! - An answer is at the lower of the request's level and the server's.
//! - A session's bytes follow from its id and a version that is its own: bytes of another
//!   session, or of memory used before, are seen wherever they turn up ([`request`]).
//! - The table agrees with a plain map at every operation. A session is missing only because it
//!   was removed, has expired, or was the oldest of its class of lives when room was short and needed
//!   ([`checked_table`]).
//! - A machine closes a connection only for a reason; who hangs up is answered first. It says
//!   what it has to: it is woken only after events and at its deadline, and watched only as it
//!   asked to be when it last named the peer. It rests when it has nothing to do, does a bounded
//!   number of steps for each thing done, never dials more often than it may, has never more than
//!   one buffer pending, and stale keys find nothing and change nothing ([`event_loop`]).
//! - Once faults cease, every request ends within the patience and retries on its way; then, with
//!   all clients gone, no slot, request in flight or buffer is still held, every proxy is back at its
//!   server, and a new client of every node gets real answers, to each operation what it is for. With all connections lost, nothing
//!   is kept at all (`finish`).
//!
//! # How to run it
//!
//! ```text
//! cargo run --release -p distcache-simulator -- --minutes 120
//! cargo run --release -p distcache-simulator -- --seeds 5000 --from 100000
//! cargo run --release -p distcache-simulator -- --seed 17 --trace
//! ```
//!
//! A run that fails prints its last events, its seed, and the third of these lines. The same seed
//! is the same run, event for event. To run with the core's own assertions as well, give cargo
//! `--config profile.release.debug-assertions=true`; `cargo test` has them on.
//!
//! # That it can fail
//!
//! Faults planted in the core by hand, one at a time, and how many seeds it took to find each,
//! beginning with seed 0:
//!
//! | fault | where | seeds |
//! |---|---|---|
//! | tag without the era: uids of old requests in request in flight come again | `slots` | 80 |
//! | the era of a client's key is not looked at | `slots` | 1 |
//! | a frame of 2048 bytes is refused | `wire` | 2 |
//! | an empty frame is counted after a full last one | `wire` | 2 |
//! | a full last frame is not marked as the last | `wire` | 2 |
//! | frames of a message are gathered a byte too near each other | `wire` | 2 |
//! | a session is still there at its due time | `table` | 1 |
//! | a session due now is not dropped | `table` | 4 |
//! | the heap sinks the wrong way: what has expired is still there | `table/expiry` | 3 |
//! | the heap is not mended upwards when something is removed | `table/expiry` | 55 |
//! | one session more than needed leaves | `table` | 19 |
//! | an ADD replaces a live session | `table` | 1 |
//! | a request in flight is not ended by its answer: a second one is delivered | `proxy` | 2 |
//! | an answer goes back under the request in flight's uid | `proxy` | 2 |
//! | the answer to a client that left stays at the front | `proxy` | 5 |
//! | the request in flight of a client that left never ends | `proxy` | 25 |
//! | requests in request in flight are not failed when the connection is lost | `proxy` | 4 |
//! | the outbox to the server is not cleared with the connection | `proxy` | 6 |
//! | the inbox from the server is not cleared with the connection | `proxy` | 5 |
//! | patience with the server never ends | `proxy` | 16 |
//! | `retry` is ignored | `proxy` | 4 |
//! | what waits for room at the server is not tried again | `proxy` | 5 |
//! | a request is dropped when the pool is dry | `server` | 110 |
//! | a client without a buffer for its answer is forgotten | `clients` | 110 |
//! | a client's outbox is not cleared when it leaves | `clients` | 4 |
//! | a reader's progress does not begin its patience anew | `clients` | 29 |
//! | a request does not end a client's idleness | `clients` | 4 |
//! | who has hung up is closed before its answer is there | `clients` | 2 |
//! | a client's next request is forgotten when its answer is sent | `clients` | 6 |
//! | a client that waits for a buffer is closed as idle | `clients` | 4 |
//! | the second copy is not written | `proxy/request in flight` | 110 |
//! | TAKE leaves the copy | `proxy/request in flight` | 26 |
//! | REMOVE: the miss of a server that may have forgotten is final | `proxy/request in flight` | 476 |
//! | GET: the first miss is final | `proxy/request in flight` | 476 |
//! | a server is visited again | `proxy/request in flight` | 5 |
//! | what is new is sent to a server of level 0 | `proxy/request in flight` | 4 |
//! | the level of the last connection is kept | `proxy` | 8 |
//! | a held session is sent before the end | `clients` | 5 |
//! | a request waiting for a server is lost with it | `proxy/journey` | 1143 |
//! | a request with copies is not consumed at the end | `proxy/journey` | 5 |
//! | a request without copies is consumed twice | `proxy/journey` | 1 |
//! | the worst server comes first | `proxy/journey` | 1 |
//! | the rank depends on the order of the servers | `proxy/upstream` | 3 |
//! | the proxy ignores the minimum lifetime | `proxy/journey` | 11 |
//! | the server ignores the minimum lifetime | `server` | 6 |
//! | TAKE does not remove | `server` | 1 |
//! | REMOVE of one copy only | `proxy/request in flight` | 5 |
//! | PUT is refused where something is there | `table` | 1 |
//! | who waits for a full server is not sent after a reconnect | `proxy` | 2012 |
//! | a deadline that has passed while all requests in request in flight are taken | `proxy` | 1831 |
//! | a server has no share of the requests in request in flight: one that hangs takes all | `proxy` | 306 |
//! | a server is up before it has answered the probe | `proxy/probe` | 1 |
//! | the client does not look at an answer's uid | `client` | 23 |
//! | the client keeps bytes of the last answer | `client` | 2 |
//!
//! One was not found, in 6000 seeds: not to clear `Proxy::blocked`. It changes nothing that anybody
//! sees: every event makes `advance` look again.
//!
//! Two more were not found in 1500: the first miss of a hedged GET taken for the answer, and an
//! operation of level 1 that waited for a lost connection and is sent on the next. `tests/hedged.rs`
//! and `tests/hung.rs` tell both.
//!
//! Three more, of the proxy's copies, were not found in 4000: TAKE's miss taken for final where the
//! server may have forgotten; a lost request that is not tried elsewhere; a further copy that is not
//! put in the place of an old one. `tests/replicas.rs` tells all three. No server here answers under
//! the uids of another: the fuzz body `replicas` does that.
//!
//! What it does not see: who comes before whom among clients that all get their answers; how long
//! anything takes in real time; what the shell around the machines does with sockets; and wrong
//! answers that are right by chance, such as two to the same question that change places.
//!
//! [`Connection`]: distcache_core::client::Connection
//! [`Proxy`]: distcache_core::proxy::Proxy
//! [`Server`]: distcache_core::server::Server
//! [`Table`]: distcache_core::table::Table

pub mod checked_table;
pub mod client;
pub mod cluster;
pub mod event_loop;
pub mod faulty_server;
mod finish;
pub mod framing;
pub mod guarantees;
pub mod hostile_client;
pub mod network;
pub mod oracle;
pub mod pipe;
pub mod plan;
pub mod rank;
pub mod request;
pub mod routing;
pub mod subject;
pub mod trace;
mod verify;
pub mod world;

use distcache_testing::random::Random;
use plan::Plan;
use world::{Arena, World};

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// Things that happened.
    pub events: u64,
    /// A hash of all of them, in their order: the same seed has the same.
    pub hash: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Those of them that were answered that the server is away.
    pub unreachable: u64,
    /// Those of them that were answered that the server may not have the operation.
    pub unsupported: u64,
    /// Requests that ended with their connection.
    pub lost: u64,
}

/// Runs one seed; `verbose` prints every event.
///
/// # Panics
/// Where a property does not hold; [`trace::report_panics`] says more about it.
pub fn run(seed: u64, verbose: bool) -> Outcome {
    trace::begin(seed, verbose);
    let mut random = Random::new(seed);
    let plan = Plan::draw(&mut random);
    if verbose {
        println!("{plan:#?}");
    }
    let mut arena = Arena::new(&plan);
    let mut world = World::new(&plan, &mut arena, random);
    world.run_with_faults();
    world.finish();
    let (events, hash) = trace::outcome();
    let oracle = world.oracle.borrow();
    Outcome {
        events,
        hash,
        answered: oracle.answered,
        unreachable: oracle.unreachable,
        unsupported: oracle.unsupported,
        lost: oracle.lost,
    }
}

#[cfg(test)]
mod tests;
