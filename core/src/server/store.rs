//! The interface between the protocol and the store of sessions.

use crate::id::Id;
use crate::memory::Array;
use crate::message::Status;
use crate::table::{AddError, Line, Table};
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

const fn refusal(error: AddError) -> Status {
    match error {
        AddError::Exists => Status::ADD_EXISTS,
        AddError::Full => Status::NOT_OK,
        AddError::TooLarge => Status::ADD_DATA,
    }
}
