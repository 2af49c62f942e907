//! The expiry heap: a 5-ary heap in which every five siblings fill one cache line.
//!
//! ```text
//! line     five due times u64, all bits flipped | five heads u32 | 0 u32
//! places   line 0: . . . . 4 (the root)   line 1: 5 6 7 8 9 (its children)   line 2: 10 .. (those of 5)
//! ```
//!
//! The children of the place `p` fill the line `p - 3`, so a step down reads one line. The link of a
//! head block has the place of its session, so removing from the middle costs no more than from the
//! top. Due times are 64-bit [`Instant`]s, which never wrap. Their bits are flipped, so that a free
//! place, all zero, reads as due at the end of time, and a step down need not check where the heap
//! ends.

use super::arena::{Links, NIL};
use super::{LINE, Line};
use crate::memory::Array;
use crate::time::Instant;

const ARITY: u32 = 5;
const ROOT: u32 = ARITY - 1;
/// Words of a line before its heads.
const HEADS: usize = 10;

/// The number of lines for a heap of `sessions` sessions.
pub(super) const fn lines(sessions: u32) -> u32 {
    sessions.saturating_add(ROOT).div_ceil(ARITY)
}

/// The heap of all stored sessions.
pub(super) struct Expiry<M> {
    lines: M,
    len: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    due: u64,
    head: u32,
}

/// The contents of a free place.
const FREE: Entry = Entry { due: u64::MAX, head: 0 };

impl<M: Array<Line>> Expiry<M> {
    /// An empty heap in `lines`, all zero.
    pub(super) const fn new(lines: M) -> Self {
        Self { lines, len: 0 }
    }

    /// The number of sessions in the heap.
    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    /// The next session to expire: when, and its head block.
    pub(super) fn soonest(&self) -> Option<(Instant, u32)> {
        if self.len == 0 {
            return None;
        }
        let Entry { due, head } = self.entry(ROOT)?;
        Some((Instant::from_millis(due), head))
    }

    /// When the next session expires.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let due = self.lines.as_ref().first().map(|line| due_at(line, ROOT as usize));
        due.filter(|_| self.len > 0).map(Instant::from_millis)
    }

    /// When the session at `head` expires.
    pub(super) fn due(&self, links: &Links<M>, head: u32) -> Option<Instant> {
        let entry = self.entry(links.get(head))?;
        Some(Instant::from_millis(entry.due))
    }

    /// When the session at `block` expires; `None` unless `block` is the head block of a session.
    pub(super) fn due_of_head(&self, links: &Links<M>, block: u32) -> Option<Instant> {
        // The link of any other block is a number of a block, so the place must name this one.
        let place = links.get(block);
        let stored = (ROOT..self.end()).contains(&place);
        let entry = self.entry(place).filter(|entry| stored && entry.head == block)?;
        Some(Instant::from_millis(entry.due))
    }

    /// Inserts the session at `head`; there must be a place for it.
    pub(super) fn push(&mut self, links: &mut Links<M>, due: Instant, head: u32) {
        let place = self.end();
        self.len = self.len.saturating_add(1);
        let due = due.as_millis();
        self.rise(links, place, Entry { due, head });
    }

    /// Removes the session at `head`, which is in the heap.
    pub(super) fn remove(&mut self, links: &mut Links<M>, head: u32) {
        let place = links.get(head);
        self.len = self.len.saturating_sub(1);
        let end = self.end();
        let Some(last) = self.entry(end) else { return };
        self.write(end, FREE);
        if place >= end {
            return;
        }
        // `last` comes from another branch, so it may be due before the parent here.
        let above = (place > ROOT).then(|| self.entry(parent(place))).flatten();
        if above.is_some_and(|above| last.due < above.due) {
            self.rise(links, place, last);
        } else {
            self.sink(links, place, last);
        }
    }

    /// Puts `entry` at `place`, or above while it is due before the parent.
    fn rise(&mut self, links: &mut Links<M>, mut place: u32, entry: Entry) {
        while place > ROOT {
            let above = parent(place);
            let Some(later) = self.entry(above).filter(|above| entry.due < above.due) else {
                break;
            };
            self.set(links, place, later);
            place = above;
        }
        self.set(links, place, entry);
    }

    /// Puts `entry` at `place`, or below while a child is due before it.
    fn sink(&mut self, links: &mut Links<M>, mut place: u32, entry: Entry) {
        while let Some((below, sooner)) = self.soonest_child(place) {
            if sooner.due >= entry.due {
                break;
            }
            self.set(links, place, sooner);
            place = below;
        }
        self.set(links, place, entry);
    }

    /// The place of the child of `place` that is due first, and the child.
    fn soonest_child(&self, place: u32) -> Option<(u32, Entry)> {
        let line = place.wrapping_sub(ROOT - 1);
        let cells = self.lines.as_ref().get(line as usize)?;
        let (mut sooner, mut due) = (0, u64::MAX);
        for slot in 0..ARITY {
            let other = due_at(cells, slot as usize);
            if other < due {
                (sooner, due) = (slot, other);
            }
        }
        let head = head_at(cells, sooner as usize);
        let place = line.wrapping_mul(ARITY).wrapping_add(sooner);
        Some((place, Entry { due, head }))
    }

    /// The place after the last one.
    const fn end(&self) -> u32 {
        self.len.saturating_add(ROOT)
    }

    fn entry(&self, place: u32) -> Option<Entry> {
        let line = self.lines.as_ref().get((place / ARITY) as usize)?;
        let slot = (place % ARITY) as usize;
        Some(Entry { due: due_at(line, slot), head: head_at(line, slot) })
    }

    fn set(&mut self, links: &mut Links<M>, place: u32, entry: Entry) {
        self.write(place, entry);
        links.set(entry.head, place);
    }

    fn write(&mut self, place: u32, entry: Entry) {
        let slot = (place % ARITY) as usize;
        let Some(line) = self.lines.as_mut().get_mut((place / ARITY) as usize) else {
            return;
        };
        if let Some(due) = line.as_chunks_mut().0.get_mut(slot) {
            *due = (!entry.due).to_le_bytes();
        }
        if let Some(head) = line.as_chunks_mut().0.get_mut(slot.wrapping_add(HEADS)) {
            *head = entry.head.to_le_bytes();
        }
    }
}

const fn parent(place: u32) -> u32 {
    (place / ARITY).wrapping_add(ROOT - 1)
}

fn due_at(line: &[u8; LINE], slot: usize) -> u64 {
    let due = line.as_chunks().0.get(slot);
    due.map_or(u64::MAX, |due| !u64::from_le_bytes(*due))
}

fn head_at(line: &[u8; LINE], slot: usize) -> u32 {
    let head = line.as_chunks().0.get(slot.wrapping_add(HEADS));
    head.map_or(NIL, |head| u32::from_le_bytes(*head))
}

#[cfg(test)]
impl<M: Array<Line>> Expiry<M> {
    /// The heads of all sessions; each knows its place and none is due before its parent.
    pub(super) fn check(&self, links: &Links<M>) -> std::vec::Vec<u32> {
        let entry = |place| self.entry(place).unwrap();
        let places = self.lines.as_ref().len() as u32 * ARITY;
        assert!((self.end()..places).all(|place| entry(place).due == u64::MAX));
        (ROOT..self.end())
            .map(|place| {
                assert_eq!(links.get(entry(place).head), place);
                assert!(place == ROOT || entry(parent(place)).due <= entry(place).due);
                entry(place).head
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::arena::Arena;
    use std::vec;

    #[test]
    fn sessions_leave_in_the_order_of_their_due_times_whatever_was_removed_between() {
        for sessions in 1..=64_u32 {
            let links = &mut Arena::new(vec![[0; LINE]; 4], vec![[0; LINE]; 256], 64).links;
            let mut heap = Expiry::new(vec![[0; LINE]; lines(sessions) as usize]);
            let due =
                |head: u32| Instant::from_millis(u64::from(head.wrapping_mul(0x9E37_79B9) >> 20));
            for head in 0..sessions {
                heap.push(links, due(head), head);
                assert_eq!(heap.check(links).len() as u32, head + 1);
            }
            for head in (0..sessions).step_by(3) {
                assert_eq!(heap.due(links, head), Some(due(head)));
                heap.remove(links, head);
                heap.check(links);
            }
            let mut last = Instant::ORIGIN;
            while let Some((soonest, head)) = heap.soonest() {
                assert!(soonest >= last && soonest == due(head) && head % 3 != 0);
                last = soonest;
                heap.remove(links, head);
                heap.check(links);
            }
        }
    }
}
