//! Sessions that come from another server: a table takes them in unless they were removed here.

use super::removals::{SETTLE, STAMP_MAX, WINDOW};
use super::{AddError, Line, Table, arena};
use crate::id::Id;
use crate::memory::Array;
use crate::message::TTL_MAX;
use crate::time::Instant;

/// Why a session was not taken in. The table has not changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RepairError {
    /// The id may have been removed or replaced here since shortly before the stamp; or the stamp is
    /// too old, of another table, or of a time at which this table did not hear of all removals.
    Removed,
    /// It cannot be added.
    Add(AddError),
}

impl core::fmt::Display for RepairError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Removed => f.write_str("the session was removed"),
            Self::Add(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for RepairError {}

impl<M: Array<Line>> Table<M> {
    /// Copies the session under `id` like [`Table::get`], and returns its length and the milliseconds
    /// for which it lives; `None` if there is none.
    #[inline(never)]
    pub fn fetch(&self, now: Instant, id: Id<'_>, out: &mut [u8]) -> Option<(usize, u32)> {
        let head = self.live(now, id)?;
        let due = self.expiry.due(&self.arena.links, head)?;
        let ttl = u32::try_from(due.since(self.clock(now))).unwrap_or(TTL_MAX);
        Some((self.arena.copy(head, out)?, ttl))
    }

    /// A stamp for [`Table::repair`]: the time now, as this table alone can read it.
    #[inline(never)]
    pub fn stamp(&self, now: Instant) -> u64 {
        self.clock(now).as_millis() ^ self.stamp_key()
    }

    /// Refuses repairs whose stamp is of a time before `until`: what was removed before is not all marked
    /// here. Call this when the table begins to serve, also with sessions that came from another one. A
    /// call with an earlier time than one before changes nothing. A table for which it was never called
    /// begins with its first repair, and refuses stamps of the next 8 seconds.
    #[inline(never)]
    pub fn refuse_repairs(&mut self, until: Instant) {
        self.repairs_from = self.repairs_from.max(Some(until));
    }

    /// Adds a session that another server has, like [`Table::add`], and that was not here at the time
    /// of `stamp`: see [`Table::stamp`]. `ttl` counts from then on.
    ///
    /// A session that was removed or replaced here since then, or up to 2 seconds before, is refused,
    /// however late the repair comes. A stamp is good for 10 seconds, and not at the beginning: see
    /// [`Table::refuse_repairs`].
    ///
    /// # Errors
    /// [`RepairError`].
    #[inline(never)]
    pub fn repair(
        &mut self,
        now: Instant,
        stamp: u64,
        ttl: u32,
        id: Id<'_>,
        session: &[u8],
    ) -> Result<(), RepairError> {
        self.now = self.clock(now);
        let stamped = Instant::from_millis(stamp ^ self.stamp_key());
        let age = self.now.since(stamped);
        let from = *self.repairs_from.get_or_insert(self.now.after(SETTLE));
        let old = stamped > self.now || age > STAMP_MAX || stamped < from;
        let hash = self.hasher.hash(id.bytes());
        if self.has(self.now, id) {
            return Err(RepairError::Add(AddError::Exists));
        }
        if old || self.removals.is_marked(self.now, hash, age.saturating_add(WINDOW)) {
            return Err(RepairError::Removed);
        }
        let left = u64::from(ttl).saturating_sub(age);
        let left = u32::try_from(left).unwrap_or(TTL_MAX);
        self.add(now, left, id, session).map_err(RepairError::Add)
    }

    /// Like [`Table::repair`], but evicts nothing. Expired sessions are dropped.
    ///
    /// # Errors
    /// [`RepairError`]; [`AddError::Full`] also if other sessions would have to be evicted.
    #[inline(never)]
    pub fn repair_if_room(
        &mut self,
        now: Instant,
        stamp: u64,
        ttl: u32,
        id: Id<'_>,
        session: &[u8],
    ) -> Result<(), RepairError> {
        self.now = self.clock(now);
        let need = arena::blocks_for(id.bytes().len(), session.len());
        if need <= self.layout.blocks() && !self.has(self.now, id) {
            while self.len() >= self.layout.sessions() || self.arena.free() < need {
                if !self.drop_expired() {
                    return Err(RepairError::Add(AddError::Full));
                }
            }
        }
        self.repair(now, stamp, ttl, id, session)
    }

    fn stamp_key(&self) -> u64 {
        self.hasher.hash(b"the key of the stamps of this table")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Layout;
    use std::{vec, vec::Vec};

    fn table(key: u8) -> Table<Vec<Line>> {
        let layout = Layout::new(64, 1 << 16).unwrap();
        let mut table = Table::new(layout, [key; 16], |lines| vec![[0; 64]; lines]).unwrap();
        table.refuse_repairs(at(0));
        table
    }

    const fn at(millis: u64) -> Instant {
        Instant::from_millis(1_000_000 + millis)
    }

    fn id(id: &[u8]) -> Id<'_> {
        Id::new(id).unwrap()
    }

    #[test]
    fn a_repair_stores_what_is_missing_and_replaces_nothing() {
        let mut table = table(1);
        let stamp = table.stamp(at(0));
        assert_eq!(table.repair(at(5), stamp, 1_000, id(b"a"), b"one"), Ok(()));
        let exists = Err(RepairError::Add(AddError::Exists));
        assert_eq!(table.repair(at(5), stamp, 1_000, id(b"a"), b"two"), exists);
        let mut out = [0; 8];
        assert_eq!(table.fetch(at(5), id(b"a"), &mut out), Some((3, 995)));
        assert_eq!(&out[..3], b"one");
        assert_eq!(table.fetch(at(1_000), id(b"a"), &mut out), None, "no lifetime is prolonged");
    }

    #[test]
    fn what_was_removed_or_replaced_since_the_miss_or_shortly_before_is_not_repaired() {
        let removed = Err(RepairError::Removed);
        for replaces in [false, true] {
            for (removed_at, stamped_at, repaired_at, result) in [
                (10, 0, 20, removed),
                (10, 0, 9_999, removed),
                (10, 10, 20, removed),
                (10, 10 + WINDOW, 10 + WINDOW, removed),
                (10, 14 + WINDOW, 14 + WINDOW, Ok(())),
                (10, 14 + WINDOW, 9_000 + WINDOW, Ok(())),
            ] {
                let mut table = table(1);
                let stamp = table.stamp(at(stamped_at));
                if replaces {
                    table.put(at(removed_at), 1, id(b"a"), b"newer").unwrap();
                } else {
                    assert!(!table.remove(at(removed_at), id(b"a")), "it was not there");
                }
                let repaired = table.repair(at(repaired_at), stamp, 60_000, id(b"a"), b"one");
                assert_eq!(repaired, result, "{removed_at} {stamped_at} {repaired_at}");
            }
        }
    }

    #[test]
    fn a_table_that_begins_refuses_stamps_until_it_hears_of_all_removals() {
        let removed = Err(RepairError::Removed);
        let layout = Layout::new(64, 1 << 16).unwrap();
        let lines = |lines| vec![[0; 64]; lines];
        for (stamped, repaired, result) in [
            (0, 1, removed),
            (0, 6_000, removed),
            (4_999, 9_000, removed),
            (5_000, 5_000, Ok(())),
            (5_001, 9_000, Ok(())),
        ] {
            let mut table = Table::new(layout, [1; 16], lines).unwrap();
            table.refuse_repairs(at(5_000));
            table.refuse_repairs(at(3_000));
            let stamp = table.stamp(at(stamped));
            assert_eq!(table.repair(at(repaired), stamp, 60_000, id(b"a"), b"one"), result);
        }
        let mut untold = Table::new(layout, [1; 16], lines).unwrap();
        for (stamped, repaired, result) in [
            (0, 9_999, removed),
            (9_999 + SETTLE - 1, 10_000 + SETTLE, removed),
            (9_999 + SETTLE, 10_000 + SETTLE, Ok(())),
        ] {
            let stamp = untold.stamp(at(stamped));
            assert_eq!(untold.repair(at(repaired), stamp, 60_000, id(b"a"), b"one"), result);
        }
    }

    #[test]
    fn a_repair_into_a_full_table_evicts_if_it_may_and_drops_what_has_expired_in_any_case() {
        let mut table = table(1);
        let ids: Vec<_> = (0..64_u8).map(|number| [number; 8]).collect();
        for key in &ids {
            table.add(at(0), 60_000, id(key), b"own").unwrap();
        }
        let stamp = table.stamp(at(1));
        let full = Err(RepairError::Add(AddError::Full));
        let exists = Err(RepairError::Add(AddError::Exists));
        assert_eq!(table.repair_if_room(at(1), stamp, 9_000, id(b"more"), b"x"), full);
        assert_eq!(table.repair_if_room(at(1), stamp, 9_000, id(&ids[0]), b"x"), exists);
        let large = vec![1; 1 << 15];
        let refused = table.repair_if_room(at(1), stamp, 9_000, id(b"large"), &large);
        assert_eq!(refused, full, "the blocks are short as well");
        assert_eq!((table.len(), table.counters().evicted), (64, 0));
        assert!(ids.iter().all(|key| table.has(at(1), id(key))));
        assert!(table.remove(at(1), id(&ids[0])));
        table.add(at(1), 5, id(b"short"), b"own").unwrap();
        let stamp = table.stamp(at(6));
        assert_eq!(table.repair_if_room(at(6), stamp, 9_000, id(b"more"), b"x"), Ok(()));
        assert_eq!((table.len(), table.counters().evicted), (64, 0));
        assert_eq!(table.repair(at(6), stamp, 9_000, id(b"again"), b"x"), Ok(()));
        assert_eq!((table.len(), table.counters().evicted), (64, 1));
    }

    #[test]
    fn a_stamp_is_good_for_a_while_and_at_its_own_table_only() {
        let mut table = table(1);
        let (stamp, other) = (table.stamp(at(0)), self::table(2).stamp(at(0)));
        let late = table.repair(at(STAMP_MAX + 1), stamp, 60_000, id(b"a"), b"one");
        assert_eq!(late, Err(RepairError::Removed));
        let future = table.stamp(at(60_000));
        for stamp in [other, 0, u64::MAX, future] {
            let refused = table.repair(at(STAMP_MAX + 1), stamp, 60_000, id(b"a"), b"one");
            assert_eq!(refused, Err(RepairError::Removed), "{stamp}");
        }
        assert!(table.is_empty());
    }
}
