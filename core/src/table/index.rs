//! The index, from ids to head blocks: two-choice buckets of 12 slots, one cache line each.
//!
//! ```text
//! bucket   twelve fingerprints u8 | 0 u32 | twelve heads u32
//! ```
//!
//! The hash of an id gives its home bucket and its fingerprint, 1 to 255. A slot with fingerprint 0 is
//! free. Home and fingerprint give the other bucket; the other bucket and the fingerprint give home
//! again, so a slot can move between its two buckets without reading anything else. If both buckets
//! are full, slots move to free one, and an entry that finds none goes to a stash of eight.

use super::arena::NIL;
use super::{LINE, Line};
use crate::memory::Array;

/// Slots of a bucket.
const SLOTS: usize = 12;
/// Displaced slots before an insertion turns to the stash.
const STEPS_MAX: usize = 64;
/// The home bucket is first choice until it holds this many.
const CROWDED: u32 = 9;
const STASH: usize = 8;
/// Words of a bucket before its heads.
const HEADS: usize = 4;

/// The number of buckets for `sessions` sessions, with which the index is at most 0.85 full.
pub(super) const fn buckets_for(sessions: u32) -> u32 {
    let buckets = (sessions as u64).saturating_mul(100).div_ceil(12 * 85) as u32;
    if buckets < 8 { 8 } else { buckets }
}

/// The place of an id: its home bucket and its fingerprint.
#[derive(Clone, Copy, Default)]
pub(super) struct Probe {
    home: u32,
    fingerprint: u8,
}

/// All buckets and the stash.
pub(super) struct Index<M> {
    buckets: M,
    stash: [Stashed; STASH],
    /// How many of `stash`, from its front, are in use.
    stashed: usize,
}

/// An entry that found no room in its buckets.
#[derive(Clone, Copy)]
struct Stashed {
    probe: Probe,
    head: u32,
}

enum Place {
    Slot { bucket: u32, slot: usize },
    Stash(usize),
}

impl<M: Array<Line>> Index<M> {
    /// An empty index over `buckets`, all zero.
    pub(super) const fn new(buckets: M) -> Self {
        let probe = Probe { home: 0, fingerprint: 0 };
        Self { buckets, stash: [Stashed { probe, head: 0 }; STASH], stashed: 0 }
    }

    /// The place of an id with this `hash`.
    pub(super) fn probe(&self, hash: u64) -> Probe {
        Probe { home: self.scaled((hash >> 32) as u32), fingerprint: (hash as u8).max(1) }
    }

    /// The head under `probe` for which `same` returns `true`.
    pub(super) fn find(&self, probe: Probe, same: impl Fn(u32) -> bool) -> Option<u32> {
        Some(self.locate(probe, same)?.1)
    }

    /// Whether [`Index::insert`] is sure to have room.
    pub(super) fn has_room(&self, probe: Probe) -> bool {
        self.stashed < STASH
            || self.used(probe.home) < SLOTS as u32
            || self.used(self.other(probe)) < SLOTS as u32
    }

    /// Inserts `head` under `probe`, for which there is room; returns how many slots moved.
    pub(super) fn insert(&mut self, probe: Probe, head: u32) -> usize {
        let other = self.other(probe);
        let (here, there) = (self.used(probe.home), self.used(other));
        let first = if here >= CROWDED && there < here { other } else { probe.home };
        if self.put(first, probe.fingerprint, head) {
            return 0;
        }
        self.relocate(Stashed { probe, head })
    }

    /// Removes `head`, which is under `probe`.
    pub(super) fn remove(&mut self, probe: Probe, head: u32) {
        match self.locate(probe, |found| found == head) {
            Some((Place::Slot { bucket, slot }, _)) => {
                self.set(bucket, slot, 0, 0);
                if self.stashed > 0 {
                    self.bring_home(bucket);
                }
            }
            Some((Place::Stash(at), _)) => self.unstash(at),
            None => {}
        }
    }

    /// Reads a byte of both buckets.
    pub(super) fn prefetch(&self, probe: Probe) -> u8 {
        [probe.home, self.other(probe)]
            .map(|bucket| {
                self.buckets
                    .as_ref()
                    .get(bucket as usize)
                    .map_or(0, |[fingerprint, ..]| *fingerprint)
            })
            .iter()
            .fold(0, |sum, byte| sum ^ byte)
    }

    /// The head that [`Index::find`] would look at first; `NIL` if there is none.
    pub(super) fn guess(&self, probe: Probe) -> u32 {
        let (cells, mut found) = self.pair(probe);
        found.next().map_or(NIL, |(at, slot)| head_of(cells, at, slot))
    }

    fn locate(&self, probe: Probe, same: impl Fn(u32) -> bool) -> Option<(Place, u32)> {
        let (cells, found) = self.pair(probe);
        for (at, slot) in found {
            let head = head_of(cells, at, slot);
            if same(head) {
                let bucket = if at == 0 { self.other(probe) } else { probe.home };
                return Some((Place::Slot { bucket, slot }, head));
            }
        }
        if self.stashed == 0 {
            return None;
        }
        let mut stash = self.stash.iter().take(self.stashed);
        let at = stash
            .position(|entry| entry.probe.fingerprint == probe.fingerprint && same(entry.head))?;
        Some((Place::Stash(at), self.stash.get(at)?.head))
    }

    /// The other bucket of `probe` and its home, and the slots in them with its fingerprint.
    ///
    /// Both at once: a branch on which of them it is would be guessed wrong too often.
    fn pair(&self, probe: Probe) -> ([&[u8; LINE]; 2], Matches) {
        let cells = [self.other(probe), probe.home]
            .map(|bucket| self.buckets.as_ref().get(bucket as usize).unwrap_or(&[0; LINE]));
        let [other, home] = cells.map(|cells| matches(cells, probe.fingerprint).0);
        (cells, Matches(home | other >> 1))
    }

    /// Finds room for `carried`, whose buckets are both full, by moving others. The last entry without
    /// room is stashed. After every step all entries but the carried one are in place.
    #[cold]
    fn relocate(&mut self, mut carried: Stashed) -> usize {
        let mut moved = 0;
        while moved < STEPS_MAX {
            let bucket = carried.probe.home;
            let mut way_out = None;
            for turn in 0..SLOTS {
                let slot = turn.wrapping_add(moved) % SLOTS;
                let (resident, other) = self.resident(bucket, slot);
                if other == bucket {
                    continue;
                }
                if self.put(other, resident.probe.fingerprint, resident.head) {
                    self.set(bucket, slot, carried.probe.fingerprint, carried.head);
                    return moved.saturating_add(1);
                }
                way_out.get_or_insert((slot, resident, other));
            }
            let Some((slot, mut resident, other)) = way_out else {
                break;
            };
            self.set(bucket, slot, carried.probe.fingerprint, carried.head);
            resident.probe.home = other;
            carried = resident;
            moved = moved.saturating_add(1);
        }
        if let Some(free) = self.stash.get_mut(self.stashed) {
            *free = carried;
            self.stashed = self.stashed.saturating_add(1);
        }
        moved
    }

    /// Moves a stashed entry to `bucket`, where a slot is free, if one belongs there.
    #[cold]
    fn bring_home(&mut self, bucket: u32) {
        let mut stash = self.stash.iter().take(self.stashed);
        let at = stash
            .position(|Stashed { probe, .. }| probe.home == bucket || self.other(*probe) == bucket);
        if let Some(at) = at
            && let Some(Stashed { probe, head }) = self.stash.get(at).copied()
            && self.put(bucket, probe.fingerprint, head)
        {
            self.unstash(at);
        }
    }

    fn unstash(&mut self, at: usize) {
        self.stashed = self.stashed.saturating_sub(1);
        if at < self.stashed {
            self.stash.swap(at, self.stashed);
        }
    }

    /// Puts an entry in a free slot of `bucket`, if there is one.
    fn put(&mut self, bucket: u32, fingerprint: u8, head: u32) -> bool {
        let free =
            self.buckets.as_ref().get(bucket as usize).and_then(|cells| matches(cells, 0).next());
        if let Some((_, slot)) = free {
            self.set(bucket, slot, fingerprint, head);
        }
        free.is_some()
    }

    fn set(&mut self, bucket: u32, slot: usize, fingerprint: u8, head: u32) {
        let Some(cells) = self.buckets.as_mut().get_mut(bucket as usize) else {
            return;
        };
        if let Some(cell) = cells.get_mut(slot) {
            *cell = fingerprint;
        }
        if let Some(cell) = heads_mut(cells).get_mut(slot) {
            *cell = head.to_le_bytes();
        }
    }

    /// The entry at `slot` of `bucket`, and its other bucket.
    fn resident(&self, bucket: u32, slot: usize) -> (Stashed, u32) {
        let (fingerprint, head) =
            self.buckets.as_ref().get(bucket as usize).map_or((0, 0), |cells| {
                (cells.get(slot).copied().unwrap_or(0), head_at(cells, slot))
            });
        let probe = Probe { home: bucket, fingerprint };
        (Stashed { probe, head }, self.other(probe))
    }

    /// The number of slots in use in `bucket`.
    fn used(&self, bucket: u32) -> u32 {
        let full = SLOTS as u32;
        let Some(cells) = self.buckets.as_ref().get(bucket as usize) else {
            return full;
        };
        full.saturating_sub(matches(cells, 0).0.count_ones())
    }

    /// The other bucket of `probe`. The other bucket of that one is `probe.home` again.
    fn other(&self, probe: Probe) -> u32 {
        let sum = self.scaled(u32::from(probe.fingerprint).wrapping_mul(0x9E37_79B9));
        let turn = if sum < probe.home { self.buckets.as_ref().len() as u32 } else { 0 };
        sum.wrapping_add(turn).wrapping_sub(probe.home)
    }

    /// A bucket for any 32 bits.
    fn scaled(&self, bits: u32) -> u32 {
        (u64::from(bits).wrapping_mul(self.buckets.as_ref().len() as u64) >> 32) as u32
    }
}

/// Slots as bits: bit 7 of byte `i` stands for slot `i`, bit 6 for slot `i` of a second bucket.
struct Matches(u128);

impl Iterator for Matches {
    type Item = (usize, usize);

    /// The next slot, after a 1 for bit 7 or a 0 for bit 6.
    fn next(&mut self) -> Option<(usize, usize)> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0.wrapping_sub(1);
        Some((bit % 2, bit / 8))
    }
}

/// The slots with this fingerprint; with fingerprint 0, the free ones.
fn matches(cells: &[u8; LINE], fingerprint: u8) -> Matches {
    const LOW: u128 = u128::from_ne_bytes([0x7F; 16]);
    const FINGERPRINTS: u128 = (1 << (8 * SLOTS)) - 1;
    let fingerprints =
        cells.first_chunk().map_or(0, |fingerprints| u128::from_le_bytes(*fingerprints));
    let differ = fingerprints ^ u128::from_ne_bytes([fingerprint; 16]);
    // Bit 7 of every byte that is not 0; no sum carries into the next byte.
    let nonzero = (differ & LOW).wrapping_add(LOW) | differ;
    Matches(!(nonzero | LOW) & FINGERPRINTS)
}

fn head_of(cells: [&[u8; LINE]; 2], at: usize, slot: usize) -> u32 {
    cells.get(at).map_or(NIL, |cells| head_at(cells, slot))
}

fn head_at(cells: &[u8; LINE], slot: usize) -> u32 {
    let (words, _) = cells.as_chunks();
    let head = words.get(slot.wrapping_add(HEADS));
    head.map_or(NIL, |head| u32::from_le_bytes(*head))
}

fn heads_mut(cells: &mut [u8; LINE]) -> &mut [[u8; 4]] {
    cells.as_chunks_mut().0.get_mut(HEADS..).unwrap_or_default()
}

#[cfg(test)]
impl<M: Array<Line>> Index<M> {
    /// How many entries the stash holds.
    pub(super) fn stashed(&self) -> usize {
        self.stashed
    }

    /// Every entry in use with the probes under which it may be found.
    pub(super) fn check(&self) -> std::vec::Vec<(u32, Probe)> {
        let buckets = 0..self.buckets.as_ref().len() as u32;
        let slots = buckets.flat_map(|bucket| (0..SLOTS).map(move |slot| (bucket, slot)));
        slots
            .map(|(bucket, slot)| self.resident(bucket, slot).0)
            .filter(|entry| entry.probe.fingerprint != 0)
            .chain(self.stash[..self.stashed].iter().copied())
            .map(|entry| (entry.head, entry.probe))
            .collect()
    }

    /// Whether two probes name the same pair of buckets and the same fingerprint.
    pub(super) fn same(&self, a: Probe, b: Probe) -> bool {
        a.fingerprint == b.fingerprint && (a.home == b.home || a.home == self.other(b))
    }

    /// The numbers of both buckets of `probe`, lower first.
    pub(super) fn both(&self, probe: Probe) -> (u32, u32) {
        let other = self.other(probe);
        (probe.home.min(other), probe.home.max(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    /// A stream of hashes; the finalizer of splitmix64 over a counter.
    fn hash(n: u64) -> u64 {
        let z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    #[test]
    fn the_other_bucket_of_the_other_bucket_is_home() {
        for count in [8, 9, 100, 4096, 65_537] {
            let index = Index::new(vec![[0; LINE]; count]);
            for n in 0..2_000 {
                let probe = index.probe(hash(n));
                let home = index.other(probe);
                assert!(probe.fingerprint > 0 && (home as usize) < count);
                assert_eq!(index.other(Probe { home, ..probe }), probe.home);
            }
        }
    }

    #[test]
    fn a_fingerprint_is_found_in_exactly_the_slots_that_have_it() {
        for n in 0..2_000 {
            let mut cells = [0xFF; LINE];
            for (slot, fingerprint) in cells.iter_mut().take(SLOTS).enumerate() {
                *fingerprint = [0, 1, 0x7F, 0x80, 0x81, 0xFF][(hash(n) >> (4 * slot)) as usize % 6];
            }
            for fingerprint in [0, 1, 2, 0x7F, 0x80, 0x81, 0xFF] {
                let expected = (0..SLOTS).filter(|slot| cells[*slot] == fingerprint);
                assert!(matches(&cells, fingerprint).map(|(_, slot)| slot).eq(expected));
            }
        }
    }

    #[test]
    fn at_a_load_of_90_percent_nothing_is_stashed_and_few_slots_move() {
        for buckets in [8_usize, 64, 1_024] {
            let mut index = Index::new(vec![[0; LINE]; buckets]);
            let load = buckets * SLOTS * 9 / 10;
            let mut longest = 0;
            for n in 0..300_000 {
                if n >= load {
                    let old = (n - load) as u32;
                    index.remove(index.probe(hash(old.into())), old);
                }
                longest = longest.max(index.insert(index.probe(hash(n as u64)), n as u32));
                assert_eq!(index.stashed(), 0);
            }
            assert!(longest <= 8, "{longest} steps at {buckets} buckets");
            assert_eq!(index.check().len(), load);
        }
    }
}
