//! The interface between the protocol and the store of sessions.

use crate::copy::Copy;
use crate::id::Id;
use crate::memory::Array;
use crate::message::Status;
use crate::table::{AddError, Line, RepairError, Table};
use crate::time::Instant;

/// A store of sessions: a [`Table`], or another implementation.
///
/// An expired session must not be found, whether it was dropped or not.
pub trait Store {
    /// Stores a session for `ttl` milliseconds (0 to [`TTL_MAX`](crate::message::TTL_MAX)) from `now`.
    /// With a `ttl` of 0 it need not be stored.
    ///
    /// # Errors
    /// The status of the answer that refuses it, with nothing changed.
    fn add(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status>;

    /// Stores a session like [`Store::add`], and replaces a session with this id.
    ///
    /// # Errors
    /// The status of the answer that refuses it, with nothing replaced.
    fn put(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status>;

    /// Copies as much of the session as fits to the front of `out`, and returns the length of the whole
    /// session; `None` if there is none.
    fn get(&mut self, now: Instant, id: Id<'_>, out: &mut [u8]) -> Option<usize>;

    /// Copies like [`Store::get`], and tells the lifetime left; otherwise returns a stamp for
    /// [`Store::repair`]. `None`, as here, if the store does not support this.
    fn fetch(&mut self, _now: Instant, _id: Id<'_>, _out: &mut [u8]) -> Option<Fetch> {
        None
    }

    /// Stores a session like [`Store::add`] that [`Store::fetch`] has missed with this stamp, unless it
    /// was removed or replaced since shortly before: see [`Table::repair`]. The `ttl` counts from the
    /// stamp on.
    ///
    /// # Errors
    /// The status of the answer; [`Status::UNSUPPORTED`], as here, if the store does not support this.
    fn repair(
        &mut self,
        _now: Instant,
        _stamp: u64,
        _ttl: u32,
        _id: Id<'_>,
        _session: &[u8],
    ) -> Result<(), Status> {
        Err(Status::UNSUPPORTED)
    }

    /// Like [`Store::repair`], but evicts nothing: [`Status::NOT_OK`] if there is no room. A store that
    /// cannot tell does the same as there.
    ///
    /// # Errors
    /// Those of [`Store::repair`].
    fn repair_if_room(
        &mut self,
        now: Instant,
        stamp: u64,
        ttl: u32,
        id: Id<'_>,
        session: &[u8],
    ) -> Result<(), Status> {
        self.repair(now, stamp, ttl, id, session)
    }

    /// Refuses repairs with stamps of before `until`: see [`Table::refuse_repairs`]. Called when the
    /// server begins to serve.
    fn refuse_repairs(&mut self, _until: Instant) {}

    /// A stamp for [`Store::repair`]; 0, which no repair is accepted with, if it is not supported.
    fn stamp(&self, _now: Instant) -> u64 {
        0
    }

    /// Writes the answer to a COPY: see [`Table::copy`]. `None`, as here, if the store does not support
    /// this; an inner `None` if the answer has no room.
    fn copy(&self, _now: Instant, _request: Copy, _out: &mut [u8]) -> Option<Option<usize>> {
        None
    }

    /// Whether there is a session with this id.
    fn have(&mut self, now: Instant, id: Id<'_>) -> bool;

    /// Removes the session with this id; `false` if there is none.
    fn remove(&mut self, now: Instant, id: Id<'_>) -> bool;

    /// Drops up to `budget` expired sessions, and returns how many it dropped.
    fn expire(&mut self, now: Instant, budget: usize) -> usize;

    /// The time at which the next session expires, which may be in the past; `None` if there is no
    /// session. The server then calls [`Store::expire`]. A store that has nothing to drop may always
    /// return `None`; the server also calls [`Store::expire`] about once a second while it has work.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// The number of sessions stored, expired ones that were not dropped yet included.
    fn len(&self) -> usize;

    /// Whether no session is stored.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Announces requests for these ids, so that a store can load the memory for all of them at once.
    fn prefetch(&self, _ids: &[Id<'_>]) {}
}

/// The result of [`Store::fetch`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fetch {
    /// The length of the session, and its lifetime left in milliseconds.
    Session(usize, u32),
    /// It is missing; a stamp.
    Missing(u64),
}

impl<M: Array<Line>> Store for Table<M> {
    fn add(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status> {
        Self::add(self, now, ttl, id, session).map_err(refusal)
    }

    fn put(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status> {
        Self::put(self, now, ttl, id, session).map_err(refusal)
    }

    fn get(&mut self, now: Instant, id: Id<'_>, out: &mut [u8]) -> Option<usize> {
        Self::get(self, now, id, out)
    }

    fn fetch(&mut self, now: Instant, id: Id<'_>, out: &mut [u8]) -> Option<Fetch> {
        Some(match Self::fetch(self, now, id, out) {
            Some((len, ttl)) => Fetch::Session(len, ttl),
            None => Fetch::Missing(Self::stamp(self, now)),
        })
    }

    fn repair(
        &mut self,
        now: Instant,
        stamp: u64,
        ttl: u32,
        id: Id<'_>,
        session: &[u8],
    ) -> Result<(), Status> {
        Self::repair(self, now, stamp, ttl, id, session).map_err(repair_refusal)
    }

    fn repair_if_room(
        &mut self,
        now: Instant,
        stamp: u64,
        ttl: u32,
        id: Id<'_>,
        session: &[u8],
    ) -> Result<(), Status> {
        Self::repair_if_room(self, now, stamp, ttl, id, session).map_err(repair_refusal)
    }

    fn refuse_repairs(&mut self, until: Instant) {
        Self::refuse_repairs(self, until);
    }

    fn stamp(&self, now: Instant) -> u64 {
        Self::stamp(self, now)
    }

    fn copy(&self, now: Instant, request: Copy, out: &mut [u8]) -> Option<Option<usize>> {
        Some(Self::copy(self, now, request, out))
    }

    fn have(&mut self, now: Instant, id: Id<'_>) -> bool {
        self.has(now, id)
    }

    fn remove(&mut self, now: Instant, id: Id<'_>) -> bool {
        Self::remove(self, now, id)
    }

    fn expire(&mut self, now: Instant, budget: usize) -> usize {
        Self::expire(self, now, budget)
    }

    fn deadline(&self) -> Option<Instant> {
        Self::deadline(self)
    }

    fn len(&self) -> usize {
        Self::len(self) as usize
    }

    fn prefetch(&self, ids: &[Id<'_>]) {
        core::hint::black_box(Self::prefetch(self, ids));
    }
}

const fn repair_refusal(error: RepairError) -> Status {
    match error {
        RepairError::Removed => Status::REMOVED,
        RepairError::Add(error) => refusal(error),
    }
}

const fn refusal(error: AddError) -> Status {
    match error {
        AddError::Exists => Status::ADD_EXISTS,
        AddError::Full => Status::NOT_OK,
        AddError::TooLarge => Status::ADD_DATA,
    }
}
