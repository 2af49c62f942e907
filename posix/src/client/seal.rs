//! Sealing: sessions are encrypted before they leave the client and opened when they come back.
//!
//! ```text
//!  add, put  ──► a copy with room ──► sealed in place ──► request      the connection never has plaintext
//!  get, take ──► a copy of the answer ──► opened in place ──► read     wiped afterwards
//! ```
//!
//! Each session gets 24 random bytes from the system as its nonce: a forked child draws its own. A session
//! that does not open counts as none. The key file is looked at once in ten seconds, by an operation.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use distcache_core::id::Id;
use distcache_core::message::{ADD_FIXED_LEN, Add, Request};
use distcache_core::seal::{self, NONCE_LEN, OVERHEAD, Unopened};
use distcache_core::wire::PAYLOAD_MAX;
use zeroize::Zeroize;

use super::Client;
use super::failure::{AddError, Failure, FailureKind};
use crate::seal_keys::every::Every;
use crate::seal_keys::{KeyFile, KeyFileError, SealKeys, unix_now};
use crate::sys;

/// The least time between two calls of a [`Report`].
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// What a builder knows about sealing.
#[derive(Debug, Default)]
pub(super) struct SealSettings {
    pub(super) file: Option<KeyFile>,
    pub(super) mixed: bool,
    pub(super) report: Report,
}

/// Where lines about sessions that do not open go.
#[derive(Clone, Default)]
pub(super) struct Report(pub(super) Option<Arc<ReportLine>>);

type ReportLine = dyn Fn(&str) + Send + Sync;

/// The sealing of a client.
pub(super) struct Seal {
    keys: SealKeys,
    mixed: bool,
    report: Report,
    unopened: [AtomicUsize; 4],
    reports: Every,
    /// The number of unopened sessions that the last report counted.
    reported: AtomicUsize,
}

/// How many sessions of a client did not open since it was made, by reason.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct UnopenedCount {
    /// Stored by somebody who does not seal.
    pub not_sealed: u64,
    /// Sealed by a key that is not in the file.
    pub unknown_key: u64,
    /// Changed, cut, or stored under another id.
    pub forged: u64,
    /// Past their lifetime.
    pub expired: u64,
}

impl UnopenedCount {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.not_sealed
            .saturating_add(self.unknown_key)
            .saturating_add(self.forged)
            .saturating_add(self.expired)
    }
}

/// Why there is nothing to read.
enum NotRead {
    Unopened,
    OutOfMemory,
    Busy,
}

impl Client {
    /// How many sessions did not open; zeros without keys.
    pub fn unopened(&self) -> UnopenedCount {
        self.seal.as_ref().map(Seal::unopened).unwrap_or_default()
    }

    /// Whether sessions are sealed.
    pub const fn is_sealing(&self) -> bool {
        self.seal.is_some()
    }

    /// Seals sessions with the keys in `file` from now on; `None` stores them as they are. With `mixed`,
    /// what was found unsealed is returned. See [`Builder::seal_keys`](super::Builder::seal_keys).
    ///
    /// # Errors
    /// [`KeyFileError`] if anything about the file is wrong; nothing has changed then.
    pub fn set_seal_keys(&mut self, file: Option<&Path>, mixed: bool) -> Result<(), KeyFileError> {
        let report = self.seal.as_ref().map(|seal| seal.report.clone()).unwrap_or_default();
        let seal = file.map(|file| Seal::new(KeyFile::new(file), mixed, report));
        self.seal = seal.transpose()?;
        Ok(())
    }

    /// ADD or PUT of the sealed session.
    pub(super) fn store_sealed(&self, seal: &Seal, request: &Request<'_>) -> Result<(), AddError> {
        let (Request::Add(add) | Request::Put(add)) = request else {
            return self.store_as_is(request);
        };
        // The server refuses it, and says so.
        if add.session.is_empty() {
            return self.store_as_is(request);
        }
        let len = add.session.len() + OVERHEAD;
        // `store_as_is` would refuse it, too, but only after the work.
        if ADD_FIXED_LEN + add.id.bytes().len() + len > PAYLOAD_MAX {
            return Err(AddError::TooLarge);
        }
        let failed = |kind| AddError::Failed(self.failure(Some(request.op()), kind));
        let mut envelope = Vec::new();
        if envelope.try_reserve_exact(len).is_err() {
            return Err(failed(FailureKind::OutOfMemory));
        }
        envelope.resize(len, 0);
        seal.follow(self);
        seal.seal(add, &mut envelope).map_err(|error| failed(FailureKind::Seal(error)))?;
        let sealed = Add { session: &envelope, ..*add };
        self.store_as_is(&match request {
            Request::Put(_) => Request::Put(sealed),
            _ => Request::Add(sealed),
        })
    }

    /// GET or TAKE of a sealed session.
    pub(super) fn fetch_sealed<T>(
        &self,
        seal: &Seal,
        request: &Request<'_>,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Failure> {
        let (Request::Get(id) | Request::Take(id)) = *request else {
            return self.fetch_as_is(request, read);
        };
        let failed = |kind| self.failure(Some(request.op()), kind);
        let mut copy = Wiped::default();
        // A session that could not be copied stays on the server.
        if let Request::Take(_) = request
            && !copy.reserve(PAYLOAD_MAX)
        {
            return Err(failed(FailureKind::OutOfMemory));
        }
        seal.follow(self);
        let found =
            self.fetch_as_is(request, |envelope| seal.open(id, envelope, &mut copy, read))?;
        match found {
            None => Ok(None),
            Some(Ok(read)) => Ok(Some(read)),
            Some(Err(NotRead::OutOfMemory)) => Err(failed(FailureKind::OutOfMemory)),
            Some(Err(NotRead::Busy)) => Err(failed(FailureKind::Seal(busy()))),
            Some(Err(NotRead::Unopened)) => {
                seal.report(self, None);
                Ok(None)
            }
        }
    }
}

impl Seal {
    pub(super) fn new(file: KeyFile, mixed: bool, report: Report) -> Result<Self, KeyFileError> {
        let keys = SealKeys::open(file)?;
        Ok(Self {
            keys,
            mixed,
            report,
            unopened: Default::default(),
            reports: Every::at_once(REPORT_EVERY),
            reported: AtomicUsize::new(0),
        })
    }

    fn unopened(&self) -> UnopenedCount {
        let [not_sealed, unknown_key, forged, expired] =
            self.unopened.each_ref().map(|count| count.load(Ordering::Relaxed) as u64);
        UnopenedCount { not_sealed, unknown_key, forged, expired }
    }

    /// Reads the key file again when it is time and it has changed.
    fn follow(&self, client: &Client) {
        if let Some(Err(error)) = self.keys.follow() {
            self.report(client, Some(&error));
        }
    }

    fn seal(&self, add: &Add<'_>, envelope: &mut [u8]) -> std::io::Result<()> {
        let mut nonce = [0; NONCE_LEN];
        sys::random(&mut nonce)?;
        let expires = seal::expires(unix_now(), add.ttl);
        let sealed =
            self.keys.with(|keys| keys.seal(nonce, expires, add.id, add.session, envelope));
        sealed.flatten().map(|_| ()).ok_or_else(busy)
    }

    fn open<T>(
        &self,
        id: Id<'_>,
        envelope: &[u8],
        copy: &mut Wiped,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, NotRead> {
        if !copy.reserve(envelope.len()) {
            return Err(NotRead::OutOfMemory);
        }
        copy.0.extend_from_slice(envelope);
        match self.keys.with(|keys| keys.open(unix_now(), id, &mut copy.0)) {
            Some(Ok(session)) => Ok(read(session)),
            Some(Err(Unopened::NotSealed)) if self.mixed => Ok(read(envelope)),
            Some(Err(why)) => {
                let [not_sealed, unknown_key, forged, expired] = &self.unopened;
                let count = match why {
                    Unopened::NotSealed => not_sealed,
                    Unopened::UnknownKey => unknown_key,
                    Unopened::Forged => forged,
                    Unopened::Expired => expired,
                };
                count.fetch_add(1, Ordering::Relaxed);
                Err(NotRead::Unopened)
            }
            None => Err(NotRead::Busy),
        }
    }

    /// Reports, at most once in ten seconds, what did not open since the last report, or a bad key file.
    fn report(&self, client: &Client, bad_file: Option<&KeyFileError>) {
        let Some(report) = &self.report.0 else { return };
        if !self.reports.is_due() {
            return;
        }
        if let Some(error) = bad_file {
            return report(&format!("{error}; the old keys stay in use"));
        }
        let count = self.unopened();
        let total = count.total() as usize;
        let new = total.wrapping_sub(self.reported.swap(total, Ordering::Relaxed));
        report(&format!(
            "sessions from {} that do not open count as not found: {new} more; in all {} not sealed, \
             {} sealed with unknown keys, {} changed or swapped, {} too old",
            client.address, count.not_sealed, count.unknown_key, count.forged, count.expired
        ));
    }
}

/// Nothing but an exchange of keys in another thread comes to that, over and over.
fn busy() -> std::io::Error {
    std::io::ErrorKind::ResourceBusy.into()
}

/// A copy that is wiped when it is dropped. It never grows, since that would leave bytes behind.
#[derive(Default)]
struct Wiped(Vec<u8>);

impl Wiped {
    fn reserve(&mut self, len: usize) -> bool {
        self.0.capacity() >= len || self.0.try_reserve_exact(len).is_ok()
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.as_mut_slice().zeroize();
    }
}

#[cfg(test)]
impl Client {
    /// Lets the next report through, as if ten seconds had passed.
    pub(super) fn expire_report_pause(&self) {
        self.seal.iter().for_each(|seal| seal.reports.expire());
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Some(..)" } else { "None" })
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal")
            .field("file", self.keys.file())
            .field("mixed", &self.mixed)
            .field("unopened", &self.unopened())
            .finish_non_exhaustive()
    }
}
