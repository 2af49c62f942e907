//! Settings of a client, before it exists.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicUsize};
use std::time::{Duration, Instant};

use super::connection::Deadline;
use super::failure::BuildError;
use super::pause::Pause;
use super::pool::ConnectionPool;
use super::seal::{Seal, SealSettings};
use super::{Client, KEPT_MAX, TIMEOUT_TCP, TIMEOUT_UNIX};
use crate::net::address::Address;
use crate::seal_keys::KeyFile;

/// Settings of a [`Client`]; made by [`Client::builder`].
///
/// ```no_run
/// use std::time::Duration;
///
/// use distcache_posix::Client;
///
/// let client = Client::builder("IP:cachehost:9001")
///     .timeout(Duration::from_millis(100))
///     .pause(Duration::from_secs(1))
///     .build()?;
/// # Ok::<(), distcache_posix::client::BuildError>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder {
    address: Result<Address, BuildError>,
    timeout: Option<Duration>,
    pause: Duration,
    pub(super) settings: Settings,
    seal: SealSettings,
}

/// How a client uses its connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// Whether connections are kept from one operation to the next.
    pub(super) keep: bool,
    /// Whether `build` connects.
    pub(super) connect: bool,
    /// Whether a request is sent again after a kept connection broke under it.
    pub(super) retry: bool,
}

impl Builder {
    pub(super) fn new(address: Result<Address, BuildError>) -> Self {
        let settings = Settings { keep: true, connect: false, retry: false };
        Self {
            address,
            timeout: None,
            pause: Duration::ZERO,
            settings,
            seal: SealSettings::default(),
        }
    }

    /// Sets the deadline of every operation; see [`Client::set_timeout`]. Default: [`TIMEOUT_UNIX`]
    /// or [`TIMEOUT_TCP`], by the kind of address.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets how long the client sends nothing after a timeout; see [`Client::set_pause`]. Default:
    /// [`Duration::ZERO`], no pause.
    pub const fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Opens a connection for each operation and closes it afterwards. Default: connections are kept.
    pub const fn connection_per_operation(mut self) -> Self {
        self.settings.keep = false;
        self
    }

    /// Connects in [`build`](Self::build), which fails if that fails. Default: the first operation
    /// connects. Has no effect with [`connection_per_operation`](Self::connection_per_operation).
    pub const fn connect_on_build(mut self) -> Self {
        self.settings.connect = true;
        self
    }

    /// Sends a request once more, on a new connection, if a kept connection breaks under it. Default:
    /// the operation fails.
    ///
    /// The first attempt may have succeeded. Then the second ADD is refused with
    /// [`Status::ADD_EXISTS`](crate::Status::ADD_EXISTS), and the second REMOVE finds nothing.
    pub const fn retry(mut self) -> Self {
        self.settings.retry = true;
        self
    }

    /// Seals sessions with the keys in this [file](crate::seal_keys): they are encrypted before they are
    /// sent, and opened when they come back. Default: sessions are stored as they are.
    ///
    /// A sealed session is 48 bytes longer. One that fits without the seal and not with it is too large. What
    /// does not open counts as not found, and is [counted](Client::unopened): changed, cut or swapped
    /// sessions, those past their lifetime by this machine's clock, and those that are not sealed. All that
    /// use a cache must do the same: see `docs/security.md`.
    ///
    /// An operation looks whether the file has changed, once in ten seconds at most. A bad file leaves the
    /// old keys in use.
    pub fn seal_keys(mut self, file: impl AsRef<Path>) -> Self {
        self.seal.file = Some(KeyFile::new(file.as_ref()));
        self
    }

    /// Returns sessions that were found unsealed. Default: they count as not found. For the time in which
    /// machines begin to seal one after the other; without [`seal_keys`](Self::seal_keys) it means nothing.
    pub const fn seal_mixed(mut self) -> Self {
        self.seal.mixed = true;
        self
    }

    /// Calls `report` with a line of text, at most once in ten seconds, if sessions do not open or if the
    /// key file has become a bad one. The operation waits for it.
    pub fn seal_report(mut self, report: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.seal.report.0 = Some(Arc::new(report));
        self
    }

    /// Makes the client. Resolves the host name, which may wait for a name server.
    ///
    /// # Errors
    /// [`BuildError`] if the address is invalid or only for listening, if the host has no address,
    /// if connecting fails where [`connect_on_build`](Self::connect_on_build) asks for it, or if anything
    /// about the key file is wrong.
    pub fn build(self) -> Result<Client, BuildError> {
        let address = self.address?;
        address.connectable().map_err(BuildError::Address)?;
        let SealSettings { file, mixed, report } = self.seal;
        let seal = file.map(|file| Seal::new(file, mixed, report)).transpose();
        let seal = seal.map_err(BuildError::SealKeys)?;
        let targets = address.resolve().map_err(BuildError::Resolve)?;
        let client = Client {
            address: address.to_string().into(),
            targets,
            target: AtomicUsize::new(0),
            level: AtomicU16::new(0),
            settings: self.settings,
            timeout_ms: AtomicU32::new(0),
            pause: Pause::new(Instant::now()),
            kept: ConnectionPool::new(KEPT_MAX).ok_or(BuildError::OutOfMemory)?,
            spare: ConnectionPool::new(KEPT_MAX).ok_or(BuildError::OutOfMemory)?,
            seal,
        };
        client.set_timeout(self.timeout.unwrap_or_else(|| default_timeout(&address)));
        client.set_pause(self.pause);
        if self.settings.keep && self.settings.connect {
            let connection = client.open(Deadline::after(client.timeout()));
            let failed = |kind| BuildError::Connect(client.failure(None, kind));
            client.kept.put(connection.map_err(failed)?);
        }
        Ok(client)
    }
}

/// The deadline of operations at this address if none is set.
const fn default_timeout(address: &Address) -> Duration {
    match address {
        Address::Ip { .. } | Address::Sessiond { .. } => TIMEOUT_TCP,
        Address::Unix(_) | Address::Fd { .. } => TIMEOUT_UNIX,
    }
}
