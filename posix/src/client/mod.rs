//! The blocking client of a server or proxy.
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
//! Every operation ends by its deadline, connecting and retrying included: [`TIMEOUT_UNIX`] or
//! [`TIMEOUT_TCP`] unless [`Builder::timeout`] sets another.
//!
//! Any number of threads can share a client, and none waits for another. A thread takes a connection
//! for one operation and puts it back after a complete, matching answer; otherwise the connection is
//! closed, so a late answer cannot be mistaken for the answer to another request.
//!
//! A client can be used on both sides of a fork: the child opens its own connections and leaves those
//! of its parent alone.
//!
//! With [`seal_keys`](Builder::seal_keys) a client encrypts sessions before it sends them, and opens what
//! comes back: the server and the network learn ids, sizes and lifetimes, and no session.

mod builder;
mod connection;
mod failure;
mod operation;
mod pause;
mod pool;
mod process;
mod request;
mod seal;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use distcache_core::id::Id;
use distcache_core::message::{Add, Request};

use crate::net::address::{Address, Target, Targets};
pub use builder::Builder;
use builder::Settings;
use connection::{Connection, Memory};
pub use failure::{AddError, BuildError, Failure, FailureKind};
use pause::Pause;
use pool::ConnectionPool;
use seal::Seal;
pub use seal::UnopenedCount;

/// The most connections that a client keeps. More threads at once open connections of their own and
/// close them again.
pub const KEPT_MAX: usize = 32;
/// The default deadline of an operation on UNIX sockets and inherited descriptors.
pub const TIMEOUT_UNIX: Duration = Duration::from_millis(250);
/// The default deadline of an operation on TCP.
pub const TIMEOUT_TCP: Duration = Duration::from_secs(1);
/// The longest deadline of an operation, and the longest pause.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A client of one server or proxy; see the [module](self).
pub struct Client {
    address: Arc<str>,
    targets: Targets,
    /// The target that accepted the last connection. It is tried first.
    target: AtomicUsize,
    /// The patch level of the server's last answer; 0 if unknown.
    level: AtomicU16,
    settings: Settings,
    timeout_ms: AtomicU32,
    pause: Pause,
    kept: ConnectionPool<Connection>,
    /// Memory of closed connections, for the next ones.
    spare: ConnectionPool<Memory>,
    seal: Option<Seal>,
}

impl Client {
    /// Makes a client with the default settings: kept connections, the default deadline.
    ///
    /// Resolves the host name, once, and sends nothing: the first operation connects. So a TLS server
    /// can start before its cache. See [`builder`](Self::builder) for other settings.
    ///
    /// `address` is an [`Address`] or its text: `UNIX:/path`, `IP:host:port` and so on.
    ///
    /// # Errors
    /// [`BuildError`] if the address is invalid or only for listening, or if the host has no address.
    pub fn connect<A: TryInto<Address>>(address: A) -> Result<Self, BuildError>
    where
        BuildError: From<A::Error>,
    {
        Self::builder(address).build()
    }

    /// Starts with the default settings of a client of `address`, as in [`connect`](Self::connect).
    pub fn builder<A: TryInto<Address>>(address: A) -> Builder
    where
        BuildError: From<A::Error>,
    {
        Builder::new(address.try_into().map_err(BuildError::from))
    }

    /// The deadline of an operation, connecting and retrying included.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.load(Ordering::Relaxed).into())
    }

    /// Sets the deadline of operations that begin from now on: whole milliseconds, from 1 to
    /// [`TIMEOUT_MAX`].
    pub fn set_timeout(&self, timeout: Duration) {
        let timeout = timeout.clamp(Duration::from_millis(1), TIMEOUT_MAX);
        self.timeout_ms.store(millis(timeout), Ordering::Relaxed);
    }

    /// How long the client sends nothing after a timeout.
    pub fn pause(&self) -> Duration {
        Duration::from_millis(self.pause.len().into())
    }

    /// Sets how long the client sends nothing after a timeout: whole milliseconds, up to
    /// [`TIMEOUT_MAX`]; [`Duration::ZERO`] for no pause. Ends the current pause.
    ///
    /// During a pause every operation fails at once with [`FailureKind::Paused`], so a server that
    /// hangs costs one deadline a pause instead of one an operation. After the pause one operation
    /// tries the server; the others keep failing until it has an answer.
    pub fn set_pause(&self, pause: Duration) {
        self.pause.set(millis(pause.min(TIMEOUT_MAX)));
    }

    /// Stores a session for `ttl` unless the id is taken. `ttl` counts in whole milliseconds, up to
    /// 7 days ([`TTL_MAX`](crate::TTL_MAX)).
    ///
    /// # Errors
    /// [`AddError::Refused`] with the server's status; [`Status::ADD_EXISTS`](crate::Status::ADD_EXISTS) if the id is taken.
    /// [`AddError::TooLarge`] before anything is sent. [`AddError::Failed`] without an answer.
    pub fn add(&self, id: Id<'_>, session: &[u8], ttl: Duration) -> Result<(), AddError> {
        self.store(&Request::Add(Add { ttl: millis(ttl), id, session }))
    }

    /// Stores a session for `ttl`, in place of the one stored under the id.
    ///
    /// A server or proxy of version 1 has no such request. Behind one, this removes the old session
    /// and adds the new one, and the id is free for a moment between.
    ///
    /// # Errors
    /// As [`add`](Self::add), but a taken id is no error.
    pub fn put(&self, id: Id<'_>, session: &[u8], ttl: Duration) -> Result<(), AddError> {
        self.store(&Request::Put(Add { ttl: millis(ttl), id, session }))
    }

    /// Fetches a session; `None` if there is none.
    ///
    /// A session of fewer than 5 bytes counts as none: on the wire it looks like a status.
    ///
    /// # Errors
    /// [`Failure`] without an answer.
    pub fn get(&self, id: Id<'_>) -> Result<Option<Vec<u8>>, Failure> {
        self.get_with(id, <[u8]>::to_vec)
    }

    /// Fetches a session and calls `read` on it, without a copy; `None` if there is none.
    ///
    /// # Errors
    /// [`Failure`] without an answer; `read` was not called.
    pub fn get_with<T>(
        &self,
        id: Id<'_>,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Failure> {
        self.fetch(&Request::Get(id), read)
    }

    /// Removes a session; false if there is none. Of several clients that remove one session, one gets
    /// true.
    ///
    /// # Errors
    /// [`Failure`] without an answer.
    pub fn remove(&self, id: Id<'_>) -> Result<bool, Failure> {
        self.whether(&Request::Remove(id))
    }

    /// Fetches a session and removes it; `None` if there is none. Of several clients that take one
    /// session, one gets it, whatever the versions of servers and proxies.
    ///
    /// # Errors
    /// [`Failure`] without an answer. The session may then be lost: the server may have removed it and
    /// sent it on a connection that broke.
    pub fn take(&self, id: Id<'_>) -> Result<Option<Vec<u8>>, Failure> {
        self.take_with(id, <[u8]>::to_vec)
    }

    /// [Takes](Self::take) a session and calls `read` on it, without a copy.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_with<T>(
        &self,
        id: Id<'_>,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Failure> {
        self.fetch(&Request::Take(id), read)
    }

    /// Whether there is a session under this id.
    ///
    /// # Errors
    /// [`Failure`] without an answer.
    pub fn has(&self, id: Id<'_>) -> Result<bool, Failure> {
        self.whether(&Request::Have(id))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets: &[Target] = &self.targets;
        f.debug_struct("Client")
            .field("address", &self.address)
            .field("targets", &targets)
            .field("settings", &self.settings)
            .field("timeout", &self.timeout())
            .field("pause", &self.pause())
            .field("seal", &self.seal)
            .finish_non_exhaustive()
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
