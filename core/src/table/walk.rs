//! Walks over all sessions of a table, for what copies or writes them down.
//!
//! ```text
//! walk     blocks 0 .. 1023 | blocks 1024 .. | ..     pieces; the table may change between two
//! by_age   oldest ── .. ──► newest                    one go; in the order of eviction
//! ```
//!
//! [`Table::walk`] goes by the numbers of blocks. A session never moves while it is stored, so one that
//! stays for the whole walk is yielded exactly once, and one that is stored or removed meanwhile at most
//! once. An id that is stored again meanwhile may be yielded twice; the later session is the newer one.
//! A piece looks at a bounded number of blocks, whether or not sessions begin in them.
//!
//! [`Table::by_age`] goes from the oldest session to the newest of each class, all classes side by side,
//! so that a table of any size that stores them in this order evicts as this one would have.
//!
//! Neither copies a session: its data are slices of the table's memory.

use super::Line;
use super::Table;
use super::ages::CLASSES;
use super::arena::{BLOCK, NIL};
use crate::id::Id;
use crate::memory::Array;
use crate::time::Instant;

/// A position between two pieces of a walk. [`Cursor::default`] is the start.
///
/// It is the number of the block at which the walk goes on. Every number is valid: one beyond the last
/// block is the end.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Cursor(pub u32);

/// A stored session, as a walk yields it.
#[derive(Clone, Debug)]
pub struct Session<'a> {
    /// The lifetime left, in milliseconds: 1 to [`TTL_MAX`](crate::message::TTL_MAX).
    pub ttl: u32,
    /// The class of the lifetime that the session was stored with: see [`Table::restore`].
    pub class: u8,
    /// Its id.
    pub id: Id<'a>,
    /// Its data: 1 to [`SESSION_MAX`](super::SESSION_MAX) bytes.
    pub data: Parts<'a>,
}

/// The bytes of a session, in slices of the table's memory.
#[derive(Clone)]
pub struct Parts<'a> {
    blocks: &'a [[u8; BLOCK]],
    links: &'a [[u8; 4]],
    /// What lies in the head block, until it is yielded.
    start: &'a [u8],
    next: u32,
    left: usize,
}

impl<'a> Parts<'a> {
    /// `left` bytes: `start`, and the rest in `next` and the blocks that follow it.
    pub(super) const fn new(
        blocks: &'a [[u8; BLOCK]],
        links: &'a [[u8; 4]],
        start: &'a [u8],
        next: u32,
        left: usize,
    ) -> Self {
        Self { blocks, links, start, next, left }
    }

    /// The bytes that are left to yield.
    pub const fn len(&self) -> usize {
        self.left
    }

    /// Whether everything was yielded.
    pub const fn is_empty(&self) -> bool {
        self.left == 0
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 {
            return None;
        }
        let mut part = core::mem::take(&mut self.start);
        if part.is_empty() {
            let block = self.next as usize;
            part = self.blocks.get(block)?;
            self.next = self.links.get(block).map_or(NIL, |link| u32::from_le_bytes(*link));
        }
        let part = part.get(..self.left).unwrap_or(part);
        self.left = self.left.saturating_sub(part.len());
        Some(part)
    }
}

/// Shows the length only, since the content is secret.
impl core::fmt::Debug for Parts<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Parts({} bytes)", self.left)
    }
}

/// One piece of a walk: see [`Table::walk`].
pub struct Walk<'a, M> {
    table: &'a Table<M>,
    now: Instant,
    next: u32,
    /// The block at which the piece ends.
    end: u32,
}

impl<M: Array<Line>> Walk<'_, M> {
    /// Where the walk goes on: after the session yielded last, or after the piece once
    /// [`Iterator::next`] has returned `None`. What was not yielded yet is not passed over.
    pub const fn cursor(&self) -> Cursor {
        Cursor(self.next)
    }

    /// Whether the walk has come to the end of the table, so that no other piece follows.
    pub const fn is_done(&self) -> bool {
        self.next >= self.table.arena.used()
    }
}

impl<'a, M: Array<Line>> Iterator for Walk<'a, M> {
    type Item = Session<'a>;

    fn next(&mut self) -> Option<Session<'a>> {
        while self.next < self.end {
            let block = self.next;
            self.next = block.saturating_add(1);
            let session = self.table.session(self.now, block);
            if session.is_some() {
                return session;
            }
        }
        None
    }
}

/// All sessions of a table in the order in which they were stored: see [`Table::by_age`].
pub struct ByAge<'a, M> {
    table: &'a Table<M>,
    now: Instant,
    classes: [Class; CLASSES],
    /// Steps left; bounds the walk whatever the memory contains.
    left: u32,
}

#[derive(Clone, Copy, Default)]
struct Class {
    /// The next session.
    head: u32,
    sessions: u32,
    passed: u32,
}

impl<M: Array<Line>> ByAge<'_, M> {
    /// The class of which the smallest share was passed.
    fn class(&mut self) -> Option<&mut Class> {
        let left = self.classes.iter_mut().filter(|class| class.passed < class.sessions);
        left.min_by_key(|class| {
            (u64::from(class.passed) << 32).checked_div(class.sessions.into()).unwrap_or(u64::MAX)
        })
    }
}

impl<'a, M: Array<Line>> Iterator for ByAge<'a, M> {
    type Item = Session<'a>;

    fn next(&mut self) -> Option<Session<'a>> {
        while let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            let table = self.table;
            let class = self.class()?;
            let head = class.head;
            class.passed = class.passed.saturating_add(1);
            class.head = table.arena.stored(head).map_or(NIL, |stored| stored.newer);
            let session = table.session(self.now, head);
            if session.is_some() {
                return session;
            }
        }
        None
    }
}

impl<M: Array<Line>> Table<M> {
    /// Yields the live sessions among the next `blocks` blocks from `from` on.
    ///
    /// Begin at [`Cursor::default`], and go on at [`Walk::cursor`] until [`Walk::is_done`]. The table may
    /// change between two pieces. No piece takes longer than its number of blocks says: a session takes
    /// as many as its size needs, and free ones are looked at, too.
    pub fn walk(&self, now: Instant, from: Cursor, blocks: u32) -> Walk<'_, M> {
        let end = from.0.saturating_add(blocks).min(self.arena.used());
        Walk { table: self, now: self.clock(now), next: from.0, end }
    }

    /// Yields all live sessions, each class from its oldest to its newest, and all classes at the same
    /// pace.
    pub fn by_age(&self, now: Instant) -> ByAge<'_, M> {
        let classes =
            self.ages.oldest().map(|(head, sessions)| Class { head, sessions, passed: 0 });
        ByAge { table: self, now: self.clock(now), classes, left: self.len() }
    }

    /// The live session under `id`.
    pub fn session_of(&self, now: Instant, id: Id<'_>) -> Option<Session<'_>> {
        let now = self.clock(now);
        self.session(now, self.live(now, id)?)
    }

    /// The live session whose head block is `block`.
    fn session(&self, now: Instant, block: u32) -> Option<Session<'_>> {
        let due = self.expiry.due_of_head(&self.arena.links, block)?;
        let ttl = u32::try_from(due.since(now)).ok().filter(|ttl| *ttl > 0)?;
        let (id, data) = self.arena.parts(block)?;
        let class = self.arena.stored(block)?.class;
        Some(Session { ttl, class, id: Id::new(id)?, data })
    }
}

#[cfg(test)]
mod tests {
    use super::super::AddError;
    use super::*;
    use crate::table::{Layout, SESSION_MAX};
    use std::collections::BTreeMap;
    use std::{vec, vec::Vec};

    fn table(sessions: u32, bytes: u64) -> Table<Vec<Line>> {
        let layout = Layout::new(sessions, bytes).unwrap();
        Table::new(layout, [7; 16], |lines| vec![[0; 64]; lines]).unwrap()
    }

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    /// A session whose data say which one it is.
    fn data(n: u32) -> Vec<u8> {
        let len =
            1 + (n as usize).wrapping_mul(7_919) % if n.is_multiple_of(50) { 9_000 } else { 600 };
        n.to_le_bytes().into_iter().cycle().take(len).collect()
    }

    fn add(table: &mut Table<Vec<Line>>, now: u64, ttl: u32, n: u32) -> Result<(), AddError> {
        table.add(at(now), ttl, Id::new(&n.to_le_bytes()).unwrap(), &data(n))
    }

    fn remove(table: &mut Table<Vec<Line>>, now: u64, n: u32) -> bool {
        table.remove(at(now), Id::new(&n.to_le_bytes()).unwrap())
    }

    fn number(session: &Session<'_>) -> u32 {
        u32::from_le_bytes(session.id.bytes().try_into().unwrap())
    }

    fn bytes(session: Session<'_>) -> Vec<u8> {
        let len = session.data.len();
        let bytes: Vec<u8> = session.data.flatten().copied().collect();
        assert_eq!(bytes.len(), len);
        bytes
    }

    /// Walks in pieces of `blocks`, and does `between` after each.
    fn walk(
        table: &mut Table<Vec<Line>>,
        now: u64,
        blocks: u32,
        mut between: impl FnMut(&mut Table<Vec<Line>>),
    ) -> Vec<(u32, u32, Vec<u8>)> {
        let (mut cursor, mut found) = (Cursor::default(), vec![]);
        loop {
            let mut piece = table.walk(at(now), cursor, blocks);
            found.extend(
                piece.by_ref().map(|session| (number(&session), session.ttl, bytes(session))),
            );
            let last = cursor;
            cursor = piece.cursor();
            if piece.is_done() {
                return found;
            }
            assert_eq!(cursor.0 - last.0, blocks, "a piece is as long as it was to be");
            between(table);
        }
    }

    #[test]
    fn a_walk_yields_each_live_session_once_with_its_data_and_the_lifetime_left() {
        let mut table = table(3_000, 4 << 20);
        for n in 0..2_000 {
            add(&mut table, n.into(), 10_000 + n % 7, n).unwrap();
        }
        for n in (0..2_000).step_by(3) {
            assert!(remove(&mut table, 2_000, n));
        }
        for blocks in [1, 7, 1_024, u32::MAX] {
            let found = walk(&mut table, 11_000, blocks, |_| {});
            let live: Vec<_> = (0..2_000).filter(|n| n % 3 > 0 && n + n % 7 > 1_000).collect();
            assert_eq!(found.len(), live.len(), "pieces of {blocks}");
            let found: BTreeMap<u32, (u32, Vec<u8>)> =
                found.into_iter().map(|(n, ttl, data)| (n, (ttl, data))).collect();
            for n in live {
                assert_eq!(found[&n], (n + n % 7 - 1_000, data(n)));
                let one = table.session_of(at(11_000), Id::new(&n.to_le_bytes()).unwrap()).unwrap();
                assert_eq!((number(&one), one.ttl), (n, n + n % 7 - 1_000));
                assert_eq!(bytes(one), data(n));
            }
            assert!(table.session_of(at(11_000), Id::new(&0_u32.to_le_bytes()).unwrap()).is_none());
        }
    }

    #[test]
    fn what_stays_during_a_walk_is_yielded_once_whatever_comes_and_goes() {
        for blocks in [1, 5, 64] {
            let mut table = table(4_000, 8 << 20);
            for n in 0..1_000 {
                add(&mut table, 0, 10_000, n).unwrap();
            }
            let (mut turn, mut next) = (0_u32, 1_000);
            let found = walk(&mut table, 1, blocks, |table| {
                turn += 1;
                // Every second session leaves, in no order, and others come in its blocks.
                let n = turn.wrapping_mul(0x9E37_79B9) % 500 * 2;
                if remove(table, 1, n) && next < 3_000 {
                    add(table, 1, 10_000, next).unwrap();
                    next += 1;
                }
            });
            assert!(next > 1_020, "{next}");
            let mut times = BTreeMap::new();
            for (n, _, bytes) in found {
                assert_eq!(bytes, data(n));
                *times.entry(n).or_insert(0) += 1;
            }
            assert!(times.values().all(|times| *times == 1));
            assert!((1..1_000).step_by(2).all(|n| times.contains_key(&n)));
        }
    }

    #[test]
    fn a_piece_that_is_left_early_goes_on_at_the_session_after() {
        let mut table = table(100, 1 << 20);
        for n in 0..50 {
            add(&mut table, 0, 10_000, n).unwrap();
        }
        let (mut cursor, mut found) = (Cursor::default(), vec![]);
        loop {
            let mut piece = table.walk(at(0), cursor, u32::MAX);
            found.extend(piece.next().map(|session| number(&session)));
            cursor = piece.cursor();
            if piece.is_done() {
                break;
            }
        }
        found.sort_unstable();
        assert_eq!(found, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn every_cursor_is_valid() {
        let mut table = table(100, 1 << 20);
        add(&mut table, 0, 10_000, 1).unwrap();
        for from in [1, 2, 4_095, 4_096, 5_000, u32::MAX] {
            let mut piece = table.walk(at(0), Cursor(from), u32::MAX);
            assert!(piece.next().is_none() || from < 4);
            assert!(piece.is_done());
        }
    }

    #[test]
    fn a_free_block_is_no_session_whatever_its_link_is() {
        // Links of free blocks are numbers of blocks, which are also numbers of places in the heap.
        let mut table = table(64, 1 << 20);
        for round in 0..200_u32 {
            for n in 0..40 {
                let _ = table.add(at(0), 10_000, Id::new(&n_id(round, n)).unwrap(), &[1; 100]);
            }
            for n in 0..40 {
                if round.wrapping_add(n).wrapping_mul(0x9E37_79B9) >> 31 == 0 {
                    table.remove(at(0), Id::new(&n_id(round, n)).unwrap());
                }
            }
            assert_eq!(
                table.walk(at(0), Cursor::default(), u32::MAX).count(),
                table.len() as usize
            );
            table.check();
        }
    }

    #[test]
    fn a_free_first_block_linked_to_a_free_place_is_no_session() {
        let mut table = table(8, 1 << 20);
        for n in 50..58 {
            table.add(at(0), 10_000, Id::new(&n_id(0, n)).unwrap(), b"data").unwrap();
        }
        for n in [51, 52, 53, 54, 55, 57, 50] {
            table.remove(at(0), Id::new(&n_id(0, n)).unwrap());
        }
        assert_eq!(table.expiry.due_of_head(&table.arena.links, 0), None);
        assert!(table.expiry.due_of_head(&table.arena.links, 6).is_some());
    }

    fn n_id(round: u32, n: u32) -> [u8; 8] {
        (u64::from(round) << 32 | u64::from(n)).to_le_bytes()
    }

    #[test]
    fn by_age_yields_each_class_in_the_order_of_storing() {
        let mut table = table(3_000, 4 << 20);
        let ttls = [60_000, 3_000_000, 20_000_000, 90_000_000];
        for n in 0..2_000 {
            add(&mut table, 0, ttls[n as usize % 4], n).unwrap();
        }
        for n in (0..2_000).filter(|n| n % 5 == 0 || n % 4 == 3 && n % 16 != 3) {
            remove(&mut table, 1, n);
        }
        let found: Vec<_> = table.by_age(at(1)).map(|session| number(&session)).collect();
        assert_eq!(found.len(), table.len() as usize);
        for class in 0..4 {
            let of_class: Vec<_> = found.iter().copied().filter(|n| n % 4 == class).collect();
            assert!(of_class.is_sorted());
            // The classes keep pace: after half of all, half of each was yielded.
            let half = found[..found.len() / 2].iter().filter(|n| *n % 4 == class).count();
            assert!(half.abs_diff(of_class.len() / 2) <= 1, "{half} of {}", of_class.len());
        }
        let late = table.by_age(at(60_000)).map(|session| number(&session));
        assert!(late.eq(found.iter().copied().filter(|n| n % 4 > 0)));
    }

    #[test]
    fn a_restored_table_evicts_in_the_same_order() {
        let mut old = table(400, 4 << 20);
        let ttls = [60_000, 3_000_000, 20_000_000, 90_000_000];
        for n in 0..400 {
            add(&mut old, 0, ttls[(n / 3) as usize % 4], n).unwrap();
        }
        let mut new = table(400, 4 << 20);
        // Half an hour later the sessions of the two longest classes have short lifetimes left.
        let now = at(50_000);
        for session in old.by_age(now) {
            let (ttl, class, id) = (session.ttl, session.class, session.id);
            new.restore(now, ttl, class, id, &bytes(session)).unwrap();
        }
        new.check();
        for n in 1_000..1_300 {
            add(&mut old, 50_000, 60_000, n).unwrap();
            add(&mut new, 50_000, 60_000, n).unwrap();
            let left = |table: &Table<Vec<Line>>| -> Vec<u32> {
                let mut left: Vec<_> = table.by_age(now).map(|session| number(&session)).collect();
                left.sort_unstable();
                left
            };
            assert_eq!(left(&old), left(&new));
        }
        // What was stored again replaces what was restored first.
        new.restore(now, 1_000, u8::MAX, Id::new(b"id").unwrap(), b"first").unwrap();
        new.restore(now, 1_000, 0, Id::new(b"id").unwrap(), b"second").unwrap();
        let mut out = [0; SESSION_MAX];
        assert_eq!(new.get(now, Id::new(b"id").unwrap(), &mut out), Some(6));
        new.check();
    }

    #[test]
    fn memory_that_is_not_zero_ends_every_walk() {
        for seed in 1..20_u32 {
            let mut state = seed;
            let mut table = Table::new(Layout::new(20, 60 * 256).unwrap(), [7; 16], |lines| {
                let mut lines = vec![[0; 64]; lines];
                for byte in lines.as_flattened_mut() {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *byte = (state >> 24) as u8;
                }
                lines
            })
            .unwrap();
            for n in 0..200 {
                let _ = add(&mut table, n.into(), 500, n);
                remove(&mut table, n.into(), n / 2);
                let walked = table.walk(at(0), Cursor::default(), u32::MAX).map(bytes);
                assert!(walked.count() <= 60);
                assert!(table.by_age(at(0)).map(bytes).count() <= table.len() as usize);
            }
        }
    }
}
