//! The blocking client: for whoever has a thread that may wait, but not long.
//!
//! ```no_run
//! use distcache_core::id::Id;
//! use distcache_posix::client::{Client, Flags};
//!
//! let address = "UNIX:/run/distcache/scache".parse()?;
//! let client = Client::new(&address, Flags::PERSISTENT | Flags::PIDCHECK | Flags::LATE)?;
//! let id = Id::new(b"an id of 1 to 64 bytes").expect("it has 22");
//! client.add(300_000, id, b"the session")?;
//! assert_eq!(client.get(id)?.as_deref(), Some(&b"the session"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! One client serves any number of threads. A thread takes a connection for one operation and puts
//! it back after a whole and fitting answer; it never waits for another thread. Whatever else became
//! of a connection, it is closed: so an answer that comes late reaches nobody.

mod connection;
mod failure;
mod operation;
mod pause;
mod pool;
mod process;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::ops::BitOr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use distcache_core::id::Id;
pub use distcache_core::message::Status;
use distcache_core::message::{Add, Request};
use distcache_core::wire::Op;

use crate::net::address::{Address, Target, Targets};
use connection::{Connection, Deadline, Memory};
pub use failure::{AddError, Failure, FailureKind, NewError};
use pause::Pause;
use pool::ConnectionPool;
use process::Process;

/// How many connections are kept at most: threads beyond that many at once connect anew.
pub const KEPT_MAX: usize = 32;
/// How long an operation may take on UNIX sockets and inherited descriptors, if nothing else is said.
pub const TIMEOUT_UNIX: Duration = Duration::from_millis(250);
/// How long an operation may take on TCP, if nothing else is said.
pub const TIMEOUT_TCP: Duration = Duration::from_secs(1);
/// The longest time that an operation can be given.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How a client deals with its connections. The bits are those of the C library's flags.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Flags(u32);

impl Flags {
    /// A connection for each operation; no connection before the first.
    pub const NONE: Self = Self(0);
    /// Connections are kept from one operation to the next.
    pub const PERSISTENT: Self = Self(1);
    /// Kept connections are used only by the process that made them: after a fork the child drops
    /// those of its parent, unused and not shut down. Without it both would speak on one connection. A
    /// child is told from its parent even where both have the same process id.
    pub const PIDCHECK: Self = Self(2);
    /// Where a kept connection breaks under a request, the request is sent once more on a new one. An
    /// ADD that was stored the first time is then refused as already there, and a REMOVE that removed
    /// the first time finds nothing.
    pub const RETRY: Self = Self(4);
    /// With `PERSISTENT`: connect at the first operation, not at once.
    pub const LATE: Self = Self(8);

    /// The flags whose bits are set; bits without a meaning are ignored.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & 15)
    }

    /// Whether all of `flags` are set.
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// How long an operation may take at this address, if nothing else is said.
pub const fn usual_timeout(address: &Address) -> Duration {
    match address {
        Address::Ip { .. } | Address::Sessiond { .. } => TIMEOUT_TCP,
        Address::Unix(_) | Address::Fd { .. } => TIMEOUT_UNIX,
    }
}

/// A client of one server or proxy; see the [module](self).
pub struct Client {
    address: Arc<str>,
    targets: Targets,
    /// Which target took the last connection: it is tried first.
    target: AtomicUsize,
    /// At which patch level the server has answered last.
    level: AtomicU16,
    flags: Flags,
    timeout_ms: AtomicU32,
    pause: Pause,
    kept: ConnectionPool<Connection>,
    /// Memory of connections that were closed.
    spare: ConnectionPool<Memory>,
}

impl Client {
    /// A client of `address`, which is resolved here and not again, with the usual deadline:
    /// [`TIMEOUT_UNIX`] or [`TIMEOUT_TCP`]. Connects with `PERSISTENT` and without `LATE`.
    ///
    /// # Errors
    /// [`NewError`]: an address that one cannot connect to, a host without address, or a failure to
    /// connect where that is done.
    pub fn new(address: &Address, flags: Flags) -> Result<Self, NewError> {
        Self::with_timeout(address, flags, usual_timeout(address))
    }

    /// The same with another deadline for every operation; see [`set_timeout`](Self::set_timeout).
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_timeout(
        address: &Address,
        flags: Flags,
        timeout: Duration,
    ) -> Result<Self, NewError> {
        address.connectable().map_err(NewError::Address)?;
        let targets = address.resolve().map_err(NewError::Resolve)?;
        let client = Self {
            address: address.to_string().into(),
            targets,
            target: AtomicUsize::new(0),
            level: AtomicU16::new(0),
            flags,
            timeout_ms: AtomicU32::new(0),
            pause: Pause::new(Instant::now()),
            kept: ConnectionPool::new(KEPT_MAX).ok_or(NewError::NoMemory)?,
            spare: ConnectionPool::new(KEPT_MAX).ok_or(NewError::NoMemory)?,
        };
        client.set_timeout(timeout);
        if flags.has(Flags::PERSISTENT) && !flags.has(Flags::LATE) {
            let connection = client.connect(Deadline::after(client.timeout()));
            client
                .kept
                .put(connection.map_err(|kind| NewError::Connect(client.failure(None, kind)))?);
        }
        Ok(client)
    }

    /// How long an operation may take, connecting and trying again included.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.load(Ordering::Relaxed).into())
    }

    /// Sets how long operations that begin from now on may take: whole milliseconds, at least 1, at
    /// most [`TIMEOUT_MAX`].
    pub fn set_timeout(&self, timeout: Duration) {
        let timeout = timeout.clamp(Duration::from_millis(1), TIMEOUT_MAX);
        self.timeout_ms.store(millis(timeout), Ordering::Relaxed);
    }

    /// How long the server is left alone after an operation that it did not answer in time.
    pub fn pause(&self) -> Duration {
        Duration::from_millis(self.pause.len().into())
    }

    /// Sets how long the server is left alone after an operation that it did not answer in time: whole
    /// milliseconds, at most [`TIMEOUT_MAX`]. [`Duration::ZERO`], as in a new client: not at all.
    ///
    /// In that time every operation fails at once with [`FailureKind::LeftAlone`], so a server that stands still
    /// costs one deadline in each pause, and not one for each operation. After it one operation asks
    /// again; the others go on failing until that one has its answer. A pause that is under way ends.
    pub fn set_pause(&self, pause: Duration) {
        self.pause.set(millis(pause.min(TIMEOUT_MAX)));
    }

    /// Stores a session for `ttl` milliseconds, where the id is free.
    ///
    /// # Errors
    /// [`AddError::Refused`] with the server's status, [`Status::ADD_EXISTS`] above all: what is
    /// stored under the id stays. [`AddError::TooLarge`] before anything is sent.
    pub fn add(&self, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), AddError> {
        self.store(&Request::Add(Add { ttl, id, session }))
    }

    /// Stores a session for `ttl` milliseconds, in place of what is there.
    ///
    /// With a server of old, or behind a proxy of old, the id is free for a moment between.
    ///
    /// # Errors
    /// As [`add`](Self::add), but an id that is taken is no reason.
    pub fn put(&self, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), AddError> {
        self.store(&Request::Put(Add { ttl, id, session }))
    }

    /// Fetches a session; `None` where there is none. A stored session under 5 bytes counts as none,
    /// since it cannot be told from a status.
    ///
    /// # Errors
    /// [`Failure`] where nobody could tell.
    pub fn get(&self, id: Id<'_>) -> Result<Option<Vec<u8>>, Failure> {
        self.get_with(id, <[u8]>::to_vec)
    }

    /// Fetches a session into `out`, as much of it as fits, and says how long it is, which may be more
    /// than `out` has room for; `None` where there is none.
    ///
    /// # Errors
    /// [`Failure`] where nobody could tell; `out` is unchanged.
    pub fn get_into(&self, id: Id<'_>, out: &mut [u8]) -> Result<Option<usize>, Failure> {
        self.get_with(id, |session| copy(session, out))
    }

    /// Fetches a session and lets `read` look at it where it is; `None` where there is none.
    ///
    /// # Errors
    /// [`Failure`] where nobody could tell; `read` was not called.
    pub fn get_with<T>(
        &self,
        id: Id<'_>,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Failure> {
        self.fetch(&Request::Get(id), read)
    }

    /// Forgets a session; false where there is none. Of several who remove one session, one gets true.
    ///
    /// # Errors
    /// [`Failure`] where nobody could tell.
    pub fn remove(&self, id: Id<'_>) -> Result<bool, Failure> {
        self.whether(&Request::Remove(id))
    }

    /// Fetches a session and forgets it; `None` where there is none. Of several who take one session,
    /// one gets it, whatever servers and proxies there are.
    ///
    /// # Errors
    /// [`Failure`] where nobody could tell. The session may be lost then: a server that removed it may
    /// have sent it on a connection that broke.
    pub fn take(&self, id: Id<'_>) -> Result<Option<Vec<u8>>, Failure> {
        self.take_with(id, <[u8]>::to_vec)
    }

    /// The same as [`take`](Self::take) into `out`, as [`get_into`](Self::get_into) does it: what does
    /// not fit is lost.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_into(&self, id: Id<'_>, out: &mut [u8]) -> Result<Option<usize>, Failure> {
        self.take_with(id, |session| copy(session, out))
    }

    /// The same as [`take`](Self::take), but lets `read` look at the session where it is.
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

    /// Whether there is a session of this id.
    ///
    /// # Errors
    /// [`Failure`] where nobody could tell.
    pub fn has(&self, id: Id<'_>) -> Result<bool, Failure> {
        self.whether(&Request::Have(id))
    }

    /// The deadline of an operation that begins, unless the server is left alone.
    fn begin(&self, op: Op) -> Result<Deadline, Failure> {
        if !self.pause.may_ask(self.timeout_ms.load(Ordering::Relaxed)) {
            return Err(self.failure(Some(op), FailureKind::LeftAlone));
        }
        Ok(Deadline::after(self.timeout()))
    }

    /// Makes a request. Returns the connection with the answer, for [`put_back`](Self::put_back), and
    /// why the request was sent a second time, if it was.
    fn ask(
        &self,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<(Connection, Option<FailureKind>), Failure> {
        let answered = self.answered(request, deadline);
        self.pause.ended(matches!(answered, Err(FailureKind::TimedOut)));
        let (connection, resent) =
            answered.map_err(|kind| self.failure(Some(request.op()), kind))?;
        self.level.store(connection.level(), Ordering::Relaxed);
        Ok((connection, resent))
    }

    /// The connection on which the request was answered, and what became of an earlier one on which it
    /// was sent in vain.
    fn answered(
        &self,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<(Connection, Option<FailureKind>), FailureKind> {
        // Whether the request may be made was asked before, and another thread may know better now.
        let level = self.level().max(request.op().level());
        let mut resent = None;
        while let Some(mut connection) = self.take_kept() {
            // Nothing was sent yet, so another connection is not another attempt.
            if connection.begin(request, level).is_err() {
                self.spare.put(connection.close());
                continue;
            }
            match self.finished(connection, deadline) {
                Err(kind) if kind.is_network() && self.flags.has(Flags::RETRY) => {
                    resent = Some(kind);
                    break;
                }
                done => return done.map(|connection| (connection, None)),
            }
        }
        let mut connection = self.connect(deadline)?;
        connection.begin(request, level)?;
        self.finished(connection, deadline).map(|connection| (connection, resent))
    }

    fn finished(
        &self,
        mut connection: Connection,
        deadline: Deadline,
    ) -> Result<Connection, FailureKind> {
        match connection.finish(deadline) {
            Ok(()) => Ok(connection),
            Err(kind) => {
                // It may be another server by now.
                self.level.store(0, Ordering::Relaxed);
                self.spare.put(connection.close());
                Err(kind)
            }
        }
    }

    fn take_kept(&self) -> Option<Connection> {
        let process = self.flags.has(Flags::PIDCHECK).then(Process::current);
        self.kept.take(|connection| process.is_none_or(|process| connection.is_of(process)))
    }

    fn put_back(&self, connection: Connection) {
        if self.flags.has(Flags::PERSISTENT) {
            self.kept.put(connection);
        } else {
            self.spare.put(connection.close());
        }
    }

    fn connect(&self, deadline: Deadline) -> Result<Connection, FailureKind> {
        let (first, memory) = (self.target.load(Ordering::Relaxed), self.spare.take(|_| true));
        let (connection, target) = Connection::open(&self.targets, first, deadline, memory)?;
        self.target.store(target, Ordering::Relaxed);
        Ok(connection)
    }

    fn level(&self) -> u16 {
        self.level.load(Ordering::Relaxed)
    }

    fn failure(&self, op: Option<Op>, kind: FailureKind) -> Failure {
        Failure { op, address: Arc::clone(&self.address), kind }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets: &[Target] = &self.targets;
        f.debug_struct("Client")
            .field("address", &self.address)
            .field("targets", &targets)
            .field("flags", &self.flags)
            .field("timeout", &self.timeout())
            .finish_non_exhaustive()
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn copy(session: &[u8], out: &mut [u8]) -> usize {
    let fits = session.len().min(out.len());
    out[..fits].copy_from_slice(&session[..fits]);
    session.len()
}
