//! The server: many clients and one store.
//!
//! ```text
//!            space/filled                                     pending/sent
//!  client ──────────────► inbox ──► measure, answer ──► outbox ──────────► client
//!                                        │  ▲
//!                                        ▼  │
//!                                        Store
//! ```
//!
//! One call of `advance` answers the whole requests of one client, in their order: as many as are
//! there, as there is room for and as [`Config::budget`] allows. All answers go into one buffer, for
//! one send. Clients take turns.
//!
//! Expired sessions are dropped, and so wiped, though nobody asks for them: `deadline` leads to a call of
//! `advance` when one is due, but at most once a second. If many expire at once, each call drops some of
//! them while clients wait, and `deadline` leads to the next millisecond for the rest.
//!
//! A server that starts empty may copy the sessions of others while it serves: see
//! [`Server::copy_from`]. Only then does it connect to anybody.
//!
//! A server begins to serve with the first call of `advance`. It does not hear of all removals then: its
//! proxies have to connect first. So repairs and copies wait for [`Config::proxy_retry`] and 3 seconds.

mod answer;
mod batch;
mod config;
mod copier;
mod operations;
mod store;
#[cfg(test)]
mod tests;
mod tracked;
mod transfer;

pub use answer::{Answered, answer};
use config::SETTLE_MORE;
pub use config::{Config, Sizes};
pub use copier::{Copied, CopyFailure, SOURCES_MAX};
pub use operations::Operations;
pub use store::{Fetch, Store};
pub use tracked::{Tracked, next_change};
pub use transfer::Transfer;

pub use crate::clients::ClientSlot;

use crate::buffer::Pool;
use crate::clients::{Blocked, Clients, Counters, SetupError};
use crate::machine::{Machine, Peer, ServerKey, Wants};
use crate::memory::Array;
use crate::proxy::Dial;
use crate::slots::{Key, Slots};
use crate::time::{Instant, earlier};
use crate::wire::MESSAGE_MAX;
use batch::{Batch, End, Lifetimes};
use copier::Copier;
use core::time::Duration;

/// The most expired sessions that one call of `advance` drops while clients wait.
const EXPIRE_BUDGET: usize = 64;
/// The most expired sessions that are dropped in a row: about a millisecond of work.
const EXPIRE_ROUND: usize = 1024;
/// Milliseconds between two rounds of dropping expired sessions.
const EXPIRE_EVERY: u64 = 1000;

/// A cache server without its sockets: a store `S`, clients in a `C`, buffers in a `B`.
///
/// `C` and `B` are containers, borrowed or owned: see [`Array`].
#[derive(Debug)]
pub struct Server<S, C, B> {
    clients: Clients<C, B>,
    store: S,
    operations: Operations,
    budget: u32,
    lifetimes: Lifetimes,
    allow_copy: bool,
    copier: Copier,
    /// [`Config::proxy_retry`], and what comes on top of it.
    proxy_retry: Duration,
    /// Whether `advance` was called.
    begun: bool,
    /// When expired sessions are dropped next.
    expire_at: Instant,
    /// How many were dropped in this round: less than [`EXPIRE_ROUND`].
    dropped: usize,
}

/// A server in borrowed memory.
pub type Borrowed<'m, S> = Server<S, &'m mut [ClientSlot], &'m mut [u8]>;

/// A server in memory of its own, of a size that is known when it is compiled: see
/// [`Server::fixed`].
pub type Fixed<S, const CLIENTS: usize, const BYTES: usize> =
    Server<S, [ClientSlot; CLIENTS], [u8; BYTES]>;

impl<S, const CLIENTS: usize, const BYTES: usize> Fixed<S, CLIENTS, BYTES> {
    /// A server for `CLIENTS` clients with `BYTES` bytes for buffers, both without an allocator. Sizes
    /// that are too small do not compile.
    ///
    /// ```
    /// use distcache_core::{Layout, Table, server};
    ///
    /// const SIZES: server::Sizes = server::Sizes::for_clients(2);
    /// const LAYOUT: Layout = Layout::new(64, 64 << 10).unwrap();
    ///
    /// let config = server::Config::default();
    /// let mut sessions = [0; LAYOUT.size()];
    /// let table = Table::in_memory(LAYOUT, *b"16 random bytes.", &mut sessions).unwrap();
    /// let server = server::Fixed::<_, { SIZES.clients }, { SIZES.bytes() }>::fixed(config, table);
    /// assert_eq!(server.buffers_free(), 4);
    /// ```
    pub const fn fixed(config: Config, store: S) -> Self {
        const {
            assert!(CLIENTS > 0, "a server needs a slot");
            assert!(BYTES >= 2 * MESSAGE_MAX, "a server needs two buffers");
        }
        Self::with(
            Clients::with(Slots::fixed(), Pool::fixed(MESSAGE_MAX), config.limits),
            config,
            store,
        )
    }
}

impl<S, C, B> Server<S, C, B> {
    const fn with(clients: Clients<C, B>, config: Config, store: S) -> Self {
        Self {
            clients,
            store,
            operations: Operations::NONE,
            budget: if config.budget == 0 { 1 } else { config.budget },
            lifetimes: Lifetimes::new(config.min_lifetime, config.max_lifetime),
            allow_copy: config.allow_copy,
            copier: Copier::new(),
            proxy_retry: config.proxy_retry,
            begun: false,
            expire_at: Instant::ORIGIN,
            dropped: 0,
        }
    }

    /// The store.
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// The requests answered so far.
    pub const fn operations(&self) -> Operations {
        self.operations
    }

    /// What happened to connections so far.
    pub const fn counters(&self) -> Counters {
        self.clients.counters
    }

    /// The number of clients connected.
    pub const fn clients(&self) -> usize {
        self.clients.len()
    }

    /// The number of buffers that are not lent: all, while no client has bytes waiting.
    pub const fn buffers_free(&self) -> u32 {
        self.clients.pool.free()
    }

    /// The number of buffers that were in use and can be used again: see [`Pool::touched`].
    pub const fn buffers_touched(&self) -> u32 {
        self.clients.pool.touched()
    }
}

impl<S: Store, C: Array<ClientSlot>, B: Array<u8>> Server<S, C, B> {
    /// A server for as many clients as there are `slots`. With two buffers for each client, as
    /// [`Sizes::for_clients`] has it, no client waits for a buffer. With fewer (2 at least, of
    /// [`MESSAGE_MAX`] bytes at least) clients may have to wait for each other.
    ///
    /// ```
    /// use distcache_core::{Layout, Pool, Server, Table, server};
    ///
    /// let sizes = server::Sizes::for_clients(100);
    /// let layout = Layout::for_sessions(1000).unwrap();
    /// let table = Table::new(layout, *b"16 random bytes.", |lines| vec![[0; 64]; lines]).unwrap();
    /// let slots: Vec<server::ClientSlot> = sizes.slots().collect();
    /// let pool = Pool::new(vec![0; sizes.bytes()], sizes.buffer_len);
    /// let server = Server::new(slots, pool, server::Config::default(), table).unwrap();
    /// assert_eq!((server.clients(), server.buffers_free()), (0, 200));
    /// ```
    ///
    /// # Errors
    /// [`SetupError`] says which memory is too small.
    pub fn new(slots: C, pool: Pool<B>, config: Config, store: S) -> Result<Self, SetupError> {
        Ok(Self::with(Clients::new(slots, pool, 2, config.limits)?, config, store))
    }

    /// Sets aside buffers that are not needed any more: see [`Pool::trim`].
    pub fn trim(&mut self, keep: u32, most: u32, discard: impl FnMut(&mut [u8])) -> u32 {
        self.clients.pool.trim(keep, most, discard)
    }

    /// Adds a server, by its name, to copy the sessions of once proxies have connected here. The caller makes the connections, as those
    /// of a [proxy](crate::proxy); they are numbered from 0 on, in the order of these calls. Two more
    /// buffers are needed. Beyond [`SOURCES_MAX`] servers the call does nothing.
    pub fn copy_from(&mut self, name: &[u8]) {
        self.copier.add_source(name);
    }

    /// Copies only the sessions that proxies with two copies keep here, where this server is called
    /// `name` and the others as in [`Server::copy_from`].
    pub fn copy_share(&mut self, name: &[u8]) {
        self.copier.set_share(name);
    }

    /// Returns the result of copying from one server, once.
    pub const fn copied(&mut self) -> Option<Copied> {
        self.copier.take_result()
    }

    /// Whether there is nothing left to copy.
    pub fn copy_is_done(&self) -> bool {
        self.copier.is_done()
    }

    /// Returns an attempt to connect that must be started or cancelled now: see
    /// [`Proxy::dial`](crate::Proxy::dial).
    pub fn dial(&mut self, now: Instant) -> Option<Dial> {
        self.copier.dial(now)
    }

    /// Reports that the connection to a server is made.
    pub fn connected(&mut self, now: Instant, key: ServerKey) {
        self.copier.connected(now, key, &mut self.clients.pool, &self.store);
    }

    /// Checks all queues of clients. Takes time proportional to their slots.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        self.clients.check()
    }

    /// The work that needs no time to pass: both `advance` and `deadline` follow from this.
    #[inline]
    fn ready(&self) -> Option<Ready> {
        if self.clients.has_work() {
            return Some(Ready::Serve);
        }
        self.clients.unblocked().map(Ready::Unblock)
    }

    fn serve(&mut self, now: Instant, key: Key) {
        let Some((client, pool)) = self.clients.get(key) else {
            return;
        };
        if !client.outbox.is_empty() || client.inbox.is_empty() {
            return;
        }
        if !client.outbox.reserve(pool) {
            self.clients.wait_for_room(key);
            return;
        }
        let Some((input, output)) = pool.between(&client.inbox, &client.outbox) else {
            return;
        };
        let mut batch = Batch {
            now,
            store: &mut self.store,
            operations: &mut self.operations,
            lifetimes: self.lifetimes,
            allow_copy: self.allow_copy,
            used: 0,
            written: 0,
        };
        let end = batch.run(input, output, self.budget);
        let (used, written) = (batch.used, batch.written);
        client.outbox.filled(pool, written);
        client.inbox.consume(pool, used);
        if end == End::Malformed {
            self.clients.malformed(key);
        }
        // If the budget or the room ended the batch, there are answers now. The rest is answered once
        // they are sent: `sent` queues the client then.
        self.clients.retime(now, key, used > 0);
    }

    /// Serves from now on. Until its proxies have connected it does not hear of all removals.
    fn begin(&mut self, now: Instant) {
        let retry = u64::try_from(self.proxy_retry.as_millis()).unwrap_or(u64::MAX);
        let settled = now.after(retry.saturating_add(SETTLE_MORE));
        self.store.refuse_repairs(settled);
        self.copier.begin(settled);
        self.begun = true;
    }

    /// Drops expired sessions until a client has work, or this round is over.
    #[cold]
    fn expire_sessions(&mut self, now: Instant) {
        if !self.begun {
            self.begin(now);
        }
        loop {
            let dropped = self.store.expire(now, EXPIRE_BUDGET);
            self.dropped = self.dropped.saturating_add(dropped);
            let all = dropped < EXPIRE_BUDGET;
            if all || self.dropped >= EXPIRE_ROUND {
                self.expire_at = now.after(if all { EXPIRE_EVERY } else { 1 });
                self.dropped = 0;
                return;
            }
            if self.ready().is_some() {
                return;
            }
        }
    }
}

/// Work that can be done at once.
#[derive(Clone, Copy)]
enum Ready {
    /// The first client in the work queue may have whole requests.
    Serve,
    /// A buffer that a client waits for is free.
    Unblock(Blocked),
}

impl<S: Store, C: Array<ClientSlot>, B: Array<u8>> Machine for Server<S, C, B> {
    fn open(&mut self, now: Instant) -> Option<Key> {
        self.clients.open(now)
    }

    fn space(&mut self, peer: Peer) -> &mut [u8] {
        match peer {
            Peer::Client(key) => self.clients.space(key),
            Peer::Server(key) => self.copier.space(key, &mut self.clients.pool),
        }
    }

    fn filled(&mut self, peer: Peer, len: usize) {
        match peer {
            Peer::Client(key) => self.clients.filled(key, len),
            Peer::Server(key) => self.copier.filled(key, &mut self.clients.pool, len),
        }
    }

    fn ended(&mut self, now: Instant, peer: Peer) {
        match peer {
            Peer::Client(key) => self.clients.ended(now, key),
            Peer::Server(key) => self.copier.ended(key),
        }
    }

    fn advance(&mut self, now: Instant) -> Option<Peer> {
        if let Some(key) = self.clients.expire_next(now, false) {
            return Some(Peer::Client(key));
        }
        if now >= self.expire_at {
            self.expire_sessions(now);
        }
        if !self.copier.is_done() {
            let (pool, max) = (&mut self.clients.pool, self.lifetimes.max());
            if let Some(key) = self.copier.advance(now, pool, &mut self.store, max) {
                return Some(Peer::Server(key));
            }
        }
        let key = match self.ready()? {
            Ready::Serve => {
                let key = self.clients.take_first()?;
                self.serve(now, key);
                key
            }
            Ready::Unblock(wait) => self.clients.unblock(wait)?,
        };
        Some(Peer::Client(key))
    }

    fn pending(&self, peer: Peer) -> &[u8] {
        match peer {
            Peer::Client(key) => self.clients.pending(key),
            Peer::Server(key) => self.copier.pending(key, &self.clients.pool),
        }
    }

    fn sent(&mut self, now: Instant, peer: Peer, len: usize) {
        match peer {
            Peer::Client(key) => self.clients.sent(now, key, len),
            Peer::Server(key) => self.copier.sent(key, &mut self.clients.pool, len),
        }
    }

    fn wants(&self, peer: Peer) -> Wants {
        match peer {
            Peer::Client(key) => self.clients.wants(key),
            Peer::Server(key) => self.copier.wants(key),
        }
    }

    fn closed(&mut self, peer: Peer) {
        match peer {
            Peer::Client(key) => drop(self.clients.closed(key)),
            Peer::Server(key) => self.copier.closed(key, &mut self.clients.pool),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.ready().is_some() {
            return Some(Instant::ORIGIN);
        }
        let sessions = self.store.deadline().map(|due| due.max(self.expire_at));
        let own = earlier(self.clients.deadline(), sessions);
        if self.copier.is_done() { own } else { earlier(own, self.copier.deadline()) }
    }
}
