//! Marks of removed ids: what was removed or replaced a moment ago must not be stored again by a repair.
//!
//! A proxy that keeps two copies of each session finds one missing at the first server, fetches it from
//! the second, and stores it at the first again. Meanwhile somebody else may remove, take or replace it:
//!
//! ```text
//!  proxy 1    FETCH first: missing, stamp s ── FETCH second: hit ──────────────── REPAIR first (s)
//!  proxy 2                 TAKE first: missing ─────────── REMOVE second
//! ```
//!
//! The stamp is the time of the miss, by this table's clock. A mark is the time of a removal. A repair
//! is refused if its id has a mark that is younger than its stamp, or older by at most [`WINDOW`]:
//!
//! * A removal after the stamp has a younger mark, however late the repair arrives.
//! * A removal before the stamp visits the second server within [`WINDOW`], so a fetch after that finds
//!   nothing. A fetch before that belongs to a stamp that this rule refuses.
//!
//! A table begins without marks, and removals before that have none. Its proxies may also need a while to
//! connect to it, and until then their removals visit the second server only. So stamps of the first
//! [`SETTLE`] milliseconds are refused: the time in which proxies connect, and after that the window, for
//! removals that are on their way to the second server alone. See `server::Config::proxy_retry`.
//!
//! An id has three marks, chosen by its hash. Other ids overwrite a mark only with a later time, so
//! nothing is forgotten; a repair is refused for nothing if all three are of other ids. Then the session
//! is only not repaired. With one removal in [`WINDOW`] for each 20 marks that happens to 0.3 % of them.
//!
//! Times are kept in steps of 2 ms in 31 bits. They wrap after 49 days, and then a mark can look young
//! for a moment, which refuses a repair and does no harm.

use super::Line;
use crate::memory::Array;
use crate::time::Instant;

/// How long a removal may take from the first server to the second, in milliseconds.
pub(super) const WINDOW: u64 = 2_000;
/// How long a table that begins refuses stamps, in milliseconds, unless it is told.
pub(super) const SETTLE: u64 = 8_000;
/// The oldest stamp that a repair may have, in milliseconds.
pub(super) const STAMP_MAX: u64 = 10_000;

/// Marks in a line.
const MARKS: u32 = 16;
/// Sessions of a table for each line.
const SESSIONS: u32 = 64;
/// The fewest lines.
const LINES_MIN: u32 = 4;
/// Bits of a hash for each mark.
const BITS: u32 = 21;
/// Distinguishes a time from no mark.
const SET: u32 = 1 << 31;

/// The number of lines for a table of `sessions` sessions.
pub(super) const fn lines(sessions: u32) -> u32 {
    let lines = sessions.div_ceil(SESSIONS);
    if lines < LINES_MIN { LINES_MIN } else { lines }
}

/// The marks of a table.
pub(super) struct Removals<M>(M);

impl<M: Array<Line>> Removals<M> {
    /// No marks, in `lines`, all zero.
    pub(super) const fn new(lines: M) -> Self {
        Self(lines)
    }

    /// Marks the id of this hash.
    #[inline]
    pub(super) fn mark(&mut self, now: Instant, hash: u64) {
        let time = time(now);
        let marks = self.0.as_mut().as_flattened_mut().as_chunks_mut::<4>().0;
        for place in places(hash, marks.len()) {
            if let Some(mark) = marks.get_mut(place) {
                *mark = time.to_le_bytes();
            }
        }
    }

    /// Whether the id of this hash may have been marked in the last `age` milliseconds.
    pub(super) fn is_marked(&self, now: Instant, hash: u64, age: u64) -> bool {
        let marks = self.0.as_ref().as_flattened().as_chunks::<4>().0;
        places(hash, marks.len()).into_iter().all(|place| {
            let mark = marks.get(place).map_or(0, |mark| u32::from_le_bytes(*mark));
            let steps = time(now).wrapping_sub(mark) & !SET;
            mark & SET != 0 && u64::from(steps) <= (age >> 1).saturating_add(1)
        })
    }
}

/// The places of an id's marks among `count`.
#[inline]
fn places(hash: u64, count: usize) -> [usize; 3] {
    let count = count as u64;
    [0, BITS, 2 * BITS].map(|at| {
        let part = (hash >> at) & ((1 << BITS) - 1);
        (part.wrapping_mul(count) >> BITS) as usize
    })
}

const fn time(now: Instant) -> u32 {
    (now.as_millis() >> 1) as u32 | SET
}

const _: () = assert!(MARKS as usize * 4 == super::LINE);

#[cfg(test)]
mod tests {
    use super::*;
    use std::{vec, vec::Vec};

    fn removals(sessions: u32) -> Removals<Vec<Line>> {
        Removals::new(vec![[0; super::super::LINE]; lines(sessions) as usize])
    }

    fn hash(n: u64) -> u64 {
        let z = n.wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    #[test]
    fn a_mark_is_found_as_long_as_was_asked_for_and_never_forgotten_for_others() {
        let mut removals = removals(64);
        let at = |millis| Instant::from_millis(5_000_000_001 + millis);
        removals.mark(at(0), hash(1));
        // Far more than there are marks.
        for n in 2..2_000 {
            removals.mark(at(n), hash(n));
        }
        for age in [1_999, 2_500] {
            assert!(removals.is_marked(at(1_999), hash(1), age));
        }
    }

    #[test]
    fn a_mark_is_too_old_after_its_age() {
        let mut removals = removals(64);
        let at = |millis| Instant::from_millis(0xffff_fffe + millis);
        assert!(!removals.is_marked(at(0), hash(1), u64::MAX), "no mark is older than all");
        removals.mark(at(0), hash(1));
        for later in [0, 1, 7, 500] {
            assert!(removals.is_marked(at(later), hash(1), later));
            assert!(!removals.is_marked(at(later + 4), hash(1), later));
        }
    }

    #[test]
    fn few_ids_are_marked_by_others() {
        let mut removals = removals(64_000);
        let now = Instant::from_millis(10);
        let marks = u64::from(lines(64_000) * MARKS);
        for n in 0..marks / 20 {
            removals.mark(now, hash(n));
        }
        let others = (marks..marks + 100_000).map(hash);
        let marked = others.filter(|hash| removals.is_marked(now, *hash, 10)).count();
        assert!((100..600).contains(&marked), "{marked} of 100,000");
    }
}
