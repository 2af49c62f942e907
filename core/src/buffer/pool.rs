//! Equal buffers lent to whoever has bytes to hold.
//!
//! A connection that is idle has no buffer at all. It takes one when its peer's bytes are about to
//! arrive and gives it back when they are used up; the buffer given back last is lent out first, so
//! a busy loop keeps working in the same few that are in the processor's cache:
//!
//! ```text
//! memory   | lent | free | lent | free | never used yet ...
//! free list:         1 <---------- 3          fresh = 4
//! ```
//!
//! A buffer that was never lent is never touched, so a pool may be made far larger than what is
//! ever used of it: untouched pages cost nothing. A crowd that has left leaves touched buffers behind;
//! [`Pool::trim`] sets them aside, and the caller may discard what is in them:
//!
//! ```text
//! free list:   hot ──► hot ──► .. keep of them
//! set aside:   index [next index | how many | numbers of discarded buffers ..] ──► another index
//! ```
//!
//! The numbers of discarded buffers need memory that is not discarded: some of the buffers set aside
//! hold the numbers of the others.

use super::window::Window;

const NIL: u32 = u32::MAX;
/// The shortest buffer that can be an index: two words.
const INDEX_LEN: usize = 8;

/// Equal buffers cut from one slice of the caller's.
#[derive(Debug)]
pub struct Pool<'m> {
    memory: &'m mut [u8],
    buffer_len: usize,
    /// How many buffers there are: `free <= count`.
    count: u32,
    free: u32,
    /// The buffer given back last; each free one holds the number of the next in its first bytes.
    head: u32,
    /// The fewest that were free since [`Pool::trim`] had nothing left to do: `low <= free`.
    low: u32,
    /// How many are free and not on that list, never lent or set aside: `unlisted <= free`.
    unlisted: u32,
    /// The index of buffers set aside.
    aside: u32,
    /// The first buffer that was never lent: `fresh <= count`.
    fresh: u32,
}

/// The right to one buffer of a pool: whoever holds it gives it back to that pool.
#[derive(Debug)]
struct Buffer(u32);

impl<'m> Pool<'m> {
    /// Cuts `memory` into buffers of `buffer_len` bytes; what is left over stays unused. A
    /// `buffer_len` of under 4 makes an empty pool.
    pub fn new(memory: &'m mut [u8], buffer_len: usize) -> Self {
        let count = match buffer_len {
            ..4 => 0,
            _ => memory.len().checked_div(buffer_len).unwrap_or(0),
        };
        let count = u32::try_from(count).unwrap_or(NIL).min(NIL - 1);
        Self {
            memory,
            buffer_len,
            count,
            free: count,
            head: NIL,
            low: count,
            unlisted: count,
            aside: NIL,
            fresh: 0,
        }
    }

    /// Bytes of each buffer.
    pub const fn buffer_len(&self) -> usize {
        self.buffer_len
    }

    /// How many buffers are not lent.
    pub const fn free(&self) -> u32 {
        self.free
    }

    /// How many buffers there are.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Takes back the buffers that are lent to none of `held`, which must be all runs of this pool that
    /// are left, and gives how many: those of runs that were dropped without [`Fifo::clear`].
    ///
    /// Takes time for the buffers ever lent times the runs: it mends, and is not for a busy loop.
    pub fn reclaim<'a>(&mut self, held: impl Iterator<Item = &'a Fifo> + Clone) -> u32 {
        let before = self.free;
        (self.head, self.aside) = (NIL, NIL);
        self.unlisted = self.count.saturating_sub(self.fresh);
        (self.free, self.low) = (self.unlisted, self.unlisted);
        for number in 0..self.fresh {
            let is_it = |fifo: &Fifo| fifo.buffer.as_ref().is_some_and(|buffer| buffer.0 == number);
            if !held.clone().any(is_it) {
                self.give(Buffer(number));
            }
        }
        self.free.saturating_sub(before)
    }

    /// How many buffers that were lent and came back are ready to be lent again: what
    /// [`Pool::trim`] may set aside.
    pub const fn touched(&self) -> u32 {
        self.free.saturating_sub(self.unlisted)
    }

    /// Sets aside up to `most` buffers that were not needed since this had nothing left to do, and
    /// gives how many; `keep` of those that came back last stay. Each is given to `discard`, which may
    /// change its bytes at will: nothing is held in it.
    ///
    /// Called now and then, this returns memory that a crowd has needed and nobody needs any more. It
    /// takes time for `keep` and `most`, and for nothing else.
    pub fn trim(&mut self, keep: u32, most: u32, mut discard: impl FnMut(&mut [u8])) -> u32 {
        let keep = keep.max(1);
        let idle = self.low.saturating_sub(self.unlisted);
        let count = idle.saturating_sub(keep).min(most);
        if count < most {
            self.low = self.free;
        }
        if count == 0 || self.buffer_len < INDEX_LEN {
            return 0;
        }
        let last = (1..keep).fold(self.head, |at, _| self.word(at, 0));
        for _ in 0..count {
            let buffer = self.word(last, 0);
            let next = self.word(buffer, 0);
            self.set_word(last, 0, next);
            discard(self.bytes_mut(&Buffer(buffer)));
            self.set_aside(buffer);
        }
        self.unlisted = self.unlisted.saturating_add(count);
        count
    }

    fn set_aside(&mut self, buffer: u32) {
        let index = self.aside;
        let at = self.word(index, 1).saturating_add(2);
        if index != NIL && self.set_word(index, at, buffer) {
            self.set_word(index, 1, at.saturating_sub(1));
            return;
        }
        self.set_word(buffer, 0, index);
        self.set_word(buffer, 1, 0);
        self.aside = buffer;
    }

    /// Takes a buffer that was set aside or, where there is none, one that was never lent.
    #[cold]
    fn take_unlisted(&mut self) -> Option<u32> {
        self.unlisted = self.unlisted.checked_sub(1)?;
        let index = self.aside;
        if index == NIL {
            let fresh = self.fresh;
            self.fresh = fresh.saturating_add(1);
            return Some(fresh);
        }
        let Some(left) = self.word(index, 1).checked_sub(1) else {
            // It holds no number any more.
            self.aside = self.word(index, 0);
            return Some(index);
        };
        self.set_word(index, 1, left);
        Some(self.word(index, left.saturating_add(2)))
    }

    /// A word of a free buffer; `NIL` where there is none.
    fn word(&self, buffer: u32, at: u32) -> u32 {
        let words = self.bytes(&Buffer(buffer)).as_chunks().0;
        words.get(at as usize).map_or(NIL, |word| u32::from_le_bytes(*word))
    }

    /// Sets a word of a free buffer; false where there is none.
    fn set_word(&mut self, buffer: u32, at: u32, value: u32) -> bool {
        let words = self.bytes_mut(&Buffer(buffer)).as_chunks_mut().0;
        let word = words.get_mut(at as usize);
        word.map(|word| *word = value.to_le_bytes()).is_some()
    }

    fn take(&mut self) -> Option<Buffer> {
        let taken = match self.head {
            NIL => self.take_unlisted()?,
            head => {
                let next = self.bytes(&Buffer(head)).first_chunk();
                self.head = next.map_or(NIL, |next| u32::from_le_bytes(*next));
                head
            }
        };
        self.free = self.free.saturating_sub(1);
        self.low = self.low.min(self.free);
        Some(Buffer(taken))
    }

    fn give(&mut self, buffer: Buffer) {
        let head = self.head.to_le_bytes();
        if let Some(first) = self.bytes_mut(&buffer).first_chunk_mut() {
            *first = head;
        }
        self.head = buffer.0;
        self.free = self.free.saturating_add(1);
    }

    #[inline]
    fn bytes(&self, buffer: &Buffer) -> &[u8] {
        let start = (buffer.0 as usize).saturating_mul(self.buffer_len);
        let end = start.saturating_add(self.buffer_len);
        self.memory.get(start..end).unwrap_or_default()
    }

    #[inline]
    fn bytes_mut(&mut self, buffer: &Buffer) -> &mut [u8] {
        let start = (buffer.0 as usize).saturating_mul(self.buffer_len);
        let end = start.saturating_add(self.buffer_len);
        self.memory.get_mut(start..end).unwrap_or_default()
    }

    /// What `from` holds and the room behind what `to` holds, for work from the one to the other;
    /// `None` where either has no buffer.
    #[inline]
    pub fn between(&mut self, from: &Fifo, to: &Fifo) -> Option<(&mut [u8], &mut [u8])> {
        let (held, room) = (from.buffer.as_ref()?, to.buffer.as_ref()?);
        let held = (held.0 as usize).saturating_mul(self.buffer_len);
        let room = (room.0 as usize).saturating_mul(self.buffer_len);
        let held = held.saturating_add(from.window.start)..held.saturating_add(from.window.end);
        let room = room.saturating_add(to.window.end)..room.saturating_add(self.buffer_len);
        let [held, room] = self.memory.get_disjoint_mut([held, room]).ok()?;
        Some((held, room))
    }
}

/// A window of bytes, first in first out, that has a pooled buffer only while it needs one.
///
/// It belongs to one pool: all calls take that one. It cannot give its buffer back when it is dropped:
/// call [`Fifo::clear`] first, or [`Pool::reclaim`] later.
#[derive(Debug, Default)]
pub struct Fifo {
    buffer: Option<Buffer>,
    kept: bool,
    /// Empty without a buffer.
    window: Window,
}

impl Fifo {
    /// A window without bytes and without a buffer.
    pub const fn new() -> Self {
        Self { buffer: None, kept: false, window: Window::new() }
    }

    /// Whether no bytes are held.
    pub const fn is_empty(&self) -> bool {
        self.window.is_empty()
    }

    /// How many bytes are held.
    pub const fn len(&self) -> usize {
        self.window.len()
    }

    /// The bytes held, oldest first.
    #[inline]
    pub fn bytes<'a>(&self, pool: &'a Pool<'_>) -> &'a [u8] {
        self.buffer.as_ref().map_or(&[], |buffer| self.window.bytes(pool.bytes(buffer)))
    }

    /// The bytes held, oldest first.
    #[inline]
    pub fn bytes_mut<'a>(&self, pool: &'a mut Pool<'_>) -> &'a mut [u8] {
        match &self.buffer {
            Some(buffer) => self.window.bytes_mut(pool.bytes_mut(buffer)),
            None => Default::default(),
        }
    }

    /// Whether it has a buffer, empty or not.
    pub const fn has_buffer(&self) -> bool {
        self.buffer.is_some()
    }

    /// Makes sure of a buffer, empty or not; false where the pool has none left.
    pub fn reserve(&mut self, pool: &mut Pool<'_>) -> bool {
        if self.buffer.is_none() {
            self.buffer = pool.take();
        }
        self.buffer.is_some()
    }

    /// Takes a buffer for good: it stays here, bytes or not. False where the pool has none left.
    pub fn keep(&mut self, pool: &mut Pool<'_>) -> bool {
        self.kept = self.reserve(pool);
        self.kept
    }

    /// The room behind what is held, with all that is held moved to the front of the buffer first.
    /// Empty where the buffer is full, or where the pool has none left.
    #[inline]
    pub fn space<'a>(&mut self, pool: &'a mut Pool<'_>) -> &'a mut [u8] {
        if !self.reserve(pool) {
            return Default::default();
        }
        match &self.buffer {
            Some(buffer) => self.window.space(pool.bytes_mut(buffer)),
            None => Default::default(),
        }
    }

    /// Takes in the first `len` bytes that were written to the room that is there. Without any, a
    /// buffer that holds nothing goes back to the pool.
    pub fn filled(&mut self, pool: &mut Pool<'_>, len: usize) {
        if self.buffer.is_some() {
            self.window.filled(len, pool.buffer_len);
        }
        self.release(pool);
    }

    /// Drops the `len` oldest bytes; the buffer goes back to the pool with the last of them.
    pub fn consume(&mut self, pool: &mut Pool<'_>, len: usize) {
        self.window.consume(len);
        self.release(pool);
    }

    /// Drops all bytes.
    pub fn clear(&mut self, pool: &mut Pool<'_>) {
        self.window = Window::new();
        self.release(pool);
    }

    fn release(&mut self, pool: &mut Pool<'_>) {
        if !self.is_empty() {
            return;
        }
        if let Some(buffer) = self.buffer.take_if(|_| !self.kept) {
            pool.give(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(fifo: &mut Fifo, pool: &mut Pool<'_>, bytes: &[u8]) {
        fifo.space(pool)[..bytes.len()].copy_from_slice(bytes);
        fifo.filled(pool, bytes.len());
    }

    #[test]
    fn a_run_without_bytes_has_no_buffer() {
        let mut memory = [0; 16];
        let mut pool = Pool::new(&mut memory, 8);
        let mut fifo = Fifo::new();
        assert_eq!(fifo.space(&mut pool).len(), 8);
        assert_eq!(pool.free(), 1);
        fifo.filled(&mut pool, 0);
        assert_eq!(pool.free(), 2);
        put(&mut fifo, &mut pool, b"abc");
        fifo.consume(&mut pool, 2);
        assert_eq!((fifo.bytes(&pool), pool.free()), (&b"c"[..], 1));
        fifo.consume(&mut pool, 1);
        assert_eq!(pool.free(), 2);
    }

    #[test]
    fn what_is_held_moves_to_the_front_when_room_is_asked_for() {
        let mut memory = [0; 8];
        let mut pool = Pool::new(&mut memory, 8);
        let mut fifo = Fifo::new();
        put(&mut fifo, &mut pool, b"abcdefgh");
        assert!(fifo.space(&mut pool).is_empty());
        fifo.consume(&mut pool, 5);
        assert_eq!(fifo.space(&mut pool).len(), 5);
        put(&mut fifo, &mut pool, b"ijklm");
        assert_eq!(fifo.bytes(&pool), b"fghijklm");
    }

    #[test]
    fn a_buffer_that_is_kept_stays_without_bytes() {
        let mut memory = [0; 8];
        let mut pool = Pool::new(&mut memory, 8);
        let mut fifo = Fifo::new();
        assert!(fifo.keep(&mut pool));
        put(&mut fifo, &mut pool, b"abc");
        fifo.clear(&mut pool);
        assert_eq!((fifo.len(), pool.free()), (0, 0));
        assert!(!Fifo::new().keep(&mut pool));
    }

    #[test]
    fn a_pool_that_is_dry_lends_nothing_and_takes_back_everything() {
        let mut memory = [0; 17];
        let mut pool = Pool::new(&mut memory, 8);
        let (mut a, mut b, mut c) = (Fifo::new(), Fifo::new(), Fifo::new());
        put(&mut a, &mut pool, b"a");
        put(&mut b, &mut pool, b"b");
        assert!(c.space(&mut pool).is_empty() && !c.reserve(&mut pool));
        a.clear(&mut pool);
        b.clear(&mut pool);
        assert_eq!(pool.free(), 2);
        assert!(c.reserve(&mut pool) && a.reserve(&mut pool) && !b.reserve(&mut pool));
    }

    #[test]
    fn what_a_crowd_has_needed_is_set_aside_once_nobody_needs_it() {
        for len in [8, 12, 16, 64] {
            let mut memory = std::vec![0; 200 * len];
            let mut pool = Pool::new(&mut memory, len);
            let mut crowd: std::vec::Vec<_> = (0..100).map(|_| Fifo::new()).collect();
            crowd.iter_mut().for_each(|fifo| put(fifo, &mut pool, b"a"));
            let mut discarded = 0;
            let mut trim = |pool: &mut Pool<'_>, most| {
                pool.trim(10, most, |bytes| {
                    bytes.fill(0xEE);
                    discarded += 1;
                })
            };
            assert_eq!(trim(&mut pool, 99), 0, "all are in use");
            crowd.iter_mut().for_each(|fifo| fifo.clear(&mut pool));
            assert_eq!((pool.touched(), pool.free()), (100, 200));
            assert_eq!(trim(&mut pool, 99), 0, "they were in use a moment ago");
            // Thirty of them are needed again, so seventy are not.
            crowd[..30].iter_mut().for_each(|fifo| put(fifo, &mut pool, b"b"));
            crowd[..30].iter_mut().for_each(|fifo| fifo.clear(&mut pool));
            assert_eq!((trim(&mut pool, 40), trim(&mut pool, 40)), (40, 20));
            assert_eq!((pool.touched(), pool.free()), (40, 200));
            assert_eq!((trim(&mut pool, 40), trim(&mut pool, 40)), (30, 0));
            assert_eq!((discarded, pool.touched(), pool.free()), (90, 10, 200));

            // All are lent again, each once, those set aside before those never used.
            let mut everybody: std::vec::Vec<_> = (0..200).map(|_| Fifo::new()).collect();
            for (n, fifo) in (0..).zip(&mut everybody) {
                assert_eq!(pool.fresh, 100.max(u32::from(n)));
                put(fifo, &mut pool, &[n; 4]);
            }
            assert!(!Fifo::new().reserve(&mut pool));
            for (n, fifo) in (0..).zip(&everybody) {
                assert_eq!(fifo.bytes(&pool), [n; 4]);
            }
        }
    }

    #[test]
    fn buffers_of_dropped_runs_can_be_reclaimed_and_those_in_use_stay() {
        let mut memory = [0; 64];
        let mut pool = Pool::new(&mut memory, 8);
        let mut runs: std::vec::Vec<_> = (0..6).map(|_| Fifo::new()).collect();
        for (n, fifo) in (0..).zip(&mut runs) {
            put(fifo, &mut pool, &[n; 3]);
        }
        runs[1].clear(&mut pool);
        runs.truncate(4);
        assert_eq!(pool.free(), 3, "two are lost");
        assert_eq!(pool.reclaim(runs.iter()), 2);
        assert_eq!((pool.free(), pool.reclaim(runs.iter())), (5, 0));
        let mut others: std::vec::Vec<_> = (0..5).map(|_| Fifo::new()).collect();
        others.iter_mut().for_each(|fifo| put(fifo, &mut pool, &[9; 8]));
        assert!(!Fifo::new().reserve(&mut pool));
        for (n, fifo) in (0..).zip(&runs).filter(|(n, _)| *n != 1) {
            assert_eq!(fifo.bytes(&pool), [n; 3]);
        }
    }

    #[test]
    fn work_goes_from_one_run_to_another_but_never_within_one() {
        let mut memory = [0; 16];
        let mut pool = Pool::new(&mut memory, 8);
        let (mut a, mut b) = (Fifo::new(), Fifo::new());
        put(&mut a, &mut pool, b"abc");
        assert!(pool.between(&a, &b).is_none());
        assert!(b.reserve(&mut pool));
        let (held, room) = pool.between(&a, &b).expect("both have buffers");
        assert_eq!((&*held, room.len()), (&b"abc"[..], 8));
        assert!(pool.between(&a, &a).is_some(), "the room behind is disjoint");
    }
}
