//! A store that remembers which sessions have changed, for a copy that is made while it is used.
//!
//! ```text
//!  begin ──► copy the sessions piece by piece, while clients add and remove ──► changes: ids to copy again
//! ```
//!
//! What was added, replaced or removed since [`Tracked::begin`] is in the log, once for each change. What
//! expires or is evicted is not: to keep it harms nobody.

use core::ops::{Deref, DerefMut};

use super::{Fetch, Store};
use crate::copy::Copy;
use crate::id::Id;
use crate::memory::Array;
use crate::message::Status;
use crate::time::Instant;
use zeroize::Zeroize;

/// A store `S`, and a log of ids in an `L` of bytes. Without bytes there is no log.
///
/// It derefs to its store. Changes that are made to that directly are not in the log.
#[derive(Debug)]
pub struct Tracked<S, L> {
    store: S,
    /// Length and bytes of each id that was changed.
    log: L,
    /// Bytes of the log that are in use; `None` while nothing is logged.
    used: Option<usize>,
}

impl<S, L: Array<u8>> Tracked<S, L> {
    /// A store that does not log yet.
    pub const fn new(store: S, log: L) -> Self {
        Self { store, log, used: None }
    }

    /// Begins an empty log.
    pub const fn begin(&mut self) {
        self.used = Some(0);
    }

    /// Ends the log, and wipes it.
    pub fn end(&mut self) {
        if let Some(ids) = self.used.take().and_then(|used| self.log.as_mut().get_mut(..used)) {
            ids.zeroize();
        }
    }

    /// The ids of the sessions that have changed since [`begin`](Self::begin), as the log has them: in
    /// order, each behind its length in one byte. `None` if nothing is logged, or there was no room.
    pub fn changes(&self) -> Option<&[u8]> {
        self.log.as_ref().get(..self.used?)
    }

    #[cold]
    fn note(&mut self, id: Id<'_>, used: usize) {
        let bytes = id.bytes();
        let room = self.log.as_mut().get_mut(used..).unwrap_or_default();
        self.used = match (u8::try_from(bytes.len()), room.split_first_mut()) {
            (Ok(len), Some((first, rest))) if rest.len() >= bytes.len() => {
                *first = len;
                rest.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                Some(used.saturating_add(bytes.len()).saturating_add(1))
            }
            _ => {
                self.end();
                None
            }
        };
    }

    #[inline]
    fn changed(&mut self, id: Id<'_>, changed: bool) {
        if let (Some(used), true) = (self.used, changed) {
            self.note(id, used);
        }
    }
}

/// The next id of [`Tracked::changes`], and what follows it; `None` at the end.
pub fn next_change(log: &[u8]) -> Option<(Id<'_>, &[u8])> {
    let (&len, rest) = log.split_first()?;
    let (id, rest) = rest.split_at_checked(len.into())?;
    Some((Id::new(id)?, rest))
}

impl<S, L> Deref for Tracked<S, L> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.store
    }
}

impl<S, L> DerefMut for Tracked<S, L> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.store
    }
}

impl<S: Store, L: Array<u8>> Store for Tracked<S, L> {
    fn add(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status> {
        let added = self.store.add(now, ttl, id, session);
        self.changed(id, added.is_ok());
        added
    }

    fn put(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status> {
        let stored = self.store.put(now, ttl, id, session);
        self.changed(id, stored.is_ok());
        stored
    }

    fn get(&mut self, now: Instant, id: Id<'_>, out: &mut [u8]) -> Option<usize> {
        self.store.get(now, id, out)
    }

    fn fetch(&mut self, now: Instant, id: Id<'_>, out: &mut [u8]) -> Option<Fetch> {
        self.store.fetch(now, id, out)
    }

    fn repair(
        &mut self,
        now: Instant,
        stamp: u64,
        ttl: u32,
        id: Id<'_>,
        session: &[u8],
    ) -> Result<(), Status> {
        let repaired = self.store.repair(now, stamp, ttl, id, session);
        self.changed(id, repaired.is_ok());
        repaired
    }

    fn repair_if_room(
        &mut self,
        now: Instant,
        stamp: u64,
        ttl: u32,
        id: Id<'_>,
        session: &[u8],
    ) -> Result<(), Status> {
        let repaired = self.store.repair_if_room(now, stamp, ttl, id, session);
        self.changed(id, repaired.is_ok());
        repaired
    }

    fn refuse_repairs(&mut self, until: Instant) {
        self.store.refuse_repairs(until);
    }

    fn stamp(&self, now: Instant) -> u64 {
        self.store.stamp(now)
    }

    fn copy(&self, now: Instant, request: Copy, out: &mut [u8]) -> Option<Option<usize>> {
        self.store.copy(now, request, out)
    }

    fn have(&mut self, now: Instant, id: Id<'_>) -> bool {
        self.store.have(now, id)
    }

    fn remove(&mut self, now: Instant, id: Id<'_>) -> bool {
        let removed = self.store.remove(now, id);
        self.changed(id, removed);
        removed
    }

    fn expire(&mut self, now: Instant, budget: usize) -> usize {
        self.store.expire(now, budget)
    }

    fn deadline(&self) -> Option<Instant> {
        self.store.deadline()
    }

    fn len(&self) -> usize {
        self.store.len()
    }

    fn prefetch(&self, ids: &[Id<'_>]) {
        self.store.prefetch(ids);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Layout, Table};
    use std::vec::Vec;
    use std::{format, vec};

    fn tracked(log: usize) -> Tracked<Table<Vec<[u8; 64]>>, Vec<u8>> {
        let layout = Layout::new(16, 8192).unwrap();
        let table = Table::new(layout, [0; 16], |lines| vec![[0; 64]; lines]).unwrap();
        Tracked::new(table, vec![0; log])
    }

    fn ids(store: &Tracked<Table<Vec<[u8; 64]>>, Vec<u8>>) -> Option<Vec<Vec<u8>>> {
        let (mut log, mut ids) = (store.changes()?, vec![]);
        while let Some((id, rest)) = next_change(log) {
            ids.push(id.bytes().to_vec());
            log = rest;
        }
        Some(ids)
    }

    #[test]
    fn each_change_is_in_the_log_and_nothing_else() {
        let (mut store, now) = (tracked(100), Instant::ORIGIN);
        let id = |text: &'static str| Id::new(text.as_bytes()).unwrap();
        store.add(now, 9000, id("before"), b"x").unwrap();
        assert_eq!(store.changes(), None);
        store.begin();
        assert_eq!(ids(&store), Some(vec![]));
        Store::add(&mut store, now, 9000, id("added"), b"x").unwrap();
        assert!(Store::add(&mut store, now, 9000, id("added"), b"y").is_err());
        Store::put(&mut store, now, 9000, id("before"), b"z").unwrap();
        assert!(Store::remove(&mut store, now, id("added")));
        assert!(!Store::remove(&mut store, now, id("nobody's")));
        assert!(
            store.have(now, id("before"))
                && Store::get(&mut store, now, id("added"), &mut []).is_none()
        );
        let expected: Vec<Vec<u8>> =
            [&b"added"[..], b"before", b"added"].iter().map(|id| id.to_vec()).collect();
        assert_eq!(ids(&store), Some(expected));
        store.end();
        Store::remove(&mut store, now, id("before"));
        assert_eq!(store.changes(), None);
        store.begin();
        assert_eq!(ids(&store), Some(vec![]));
    }

    #[test]
    fn a_log_without_room_says_so_until_the_next_one() {
        for room in 0..30 {
            let mut store = tracked(room);
            store.begin();
            for number in 0..10 {
                let id = format!("{number}");
                let id = Id::new(id.as_bytes()).unwrap();
                Store::add(&mut store, Instant::ORIGIN, 9000, id, b"x").unwrap();
                let fits = 2 * (number + 1) <= room;
                assert_eq!(store.changes().is_some(), fits, "{number} ids in {room} bytes");
            }
            assert_eq!(store.len(), 10, "the sessions are stored all the same");
        }
    }

    #[test]
    fn a_log_that_has_ended_or_was_too_short_is_wiped() {
        for room in [200, 40] {
            let mut store = tracked(room);
            store.begin();
            for number in 0..10 {
                let id = format!("id {number}");
                let id = Id::new(id.as_bytes()).unwrap();
                Store::add(&mut store, Instant::ORIGIN, 9000, id, b"x").unwrap();
            }
            assert_eq!(store.log.iter().any(|byte| *byte != 0), room == 200);
            store.end();
            assert!(store.log.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_log_that_is_cut_or_changed_ends() {
        for log in [&b"\x05ab"[..], b"\xff", b"\x00", b"\x01a\x09b"] {
            let (mut log, mut count) = (log, 0);
            while let Some((_, rest)) = next_change(log) {
                (log, count) = (rest, count + 1);
            }
            assert!(count < 2);
        }
    }
}
