//! The seam between the protocol and what keeps sessions.

use crate::id::Id;
use crate::message::Status;
use crate::table::{AddError, Table};
use crate::time::Instant;

/// Where sessions are kept: the seam for a store other than [`crate::table::Table`].
pub trait Store {
    /// Stores a session for `ttl` milliseconds (0 to [`crate::message::TTL_MAX`]) from `now`. One
    /// that lives for 0 need not be stored.
    ///
    /// # Errors
    /// The status that refuses it; then nothing has changed.
    fn add(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status>;

    /// Stores a session as [`Store::add`] does, in place of what is there.
    ///
    /// # Errors
    /// The status that refuses it; then what is there stays.
    fn put(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status>;

    /// Copies as much of the session as fits to the front of `out`, and says how long it is; `None`
    /// where there is none.
    fn get(&mut self, now: Instant, id: Id<'_>, out: &mut [u8]) -> Option<usize>;

    /// Whether there is a session of this id.
    fn have(&mut self, now: Instant, id: Id<'_>) -> bool;

    /// Forgets the session of this id; false where there is none.
    fn remove(&mut self, now: Instant, id: Id<'_>) -> bool;

    /// Drops up to `budget` sessions that have expired, and says how many it dropped.
    fn expire(&mut self, now: Instant, budget: usize) -> usize;

    /// When the session expires that expires soonest, dropped or not; `None` where nothing is stored.
    /// The server wakes for it, and calls [`Store::expire`]. A store that has nothing to drop, or
    /// cannot tell, may always say `None`: it is asked to drop what has expired now and then anyway.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// How many sessions are stored, expired ones that were not dropped yet among them.
    fn len(&self) -> usize;

    /// Whether nothing is stored.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says that these ids are about to be asked for, so that a store whose memory is far away can
    /// send for all of them at once.
    fn prefetch(&self, _ids: &[Id<'_>]) {}
}

impl Store for Table<'_> {
    fn add(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status> {
        Table::add(self, now, ttl, id, session).map_err(refusal)
    }

    fn put(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status> {
        Table::put(self, now, ttl, id, session).map_err(refusal)
    }

    fn get(&mut self, now: Instant, id: Id<'_>, out: &mut [u8]) -> Option<usize> {
        Table::get(self, now, id, out)
    }

    fn have(&mut self, now: Instant, id: Id<'_>) -> bool {
        self.has(now, id)
    }

    fn remove(&mut self, now: Instant, id: Id<'_>) -> bool {
        Table::remove(self, now, id)
    }

    fn expire(&mut self, now: Instant, budget: usize) -> usize {
        Table::expire(self, now, budget)
    }

    fn deadline(&self) -> Option<Instant> {
        Table::deadline(self)
    }

    fn len(&self) -> usize {
        Table::len(self) as usize
    }

    fn prefetch(&self, ids: &[Id<'_>]) {
        core::hint::black_box(Table::prefetch(self, ids));
    }
}

const fn refusal(error: AddError) -> Status {
    match error {
        AddError::Exists => Status::ADD_EXISTS,
        AddError::Full => Status::NOT_OK,
        AddError::TooLarge => Status::ADD_DATA,
    }
}
