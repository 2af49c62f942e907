//! A pool of equal buffers.
//!
//! An idle connection has no buffer. It takes one before it receives, and gives it back when the
//! bytes are used up. The buffer given back last is lent first, so a busy loop keeps working in the
//! few buffers that are in the processor's cache:
//!
//! ```text
//! memory   | lent | free | lent | free | never used yet ...
//! free list:         1 <---------- 3          fresh = 4
//! ```
//!
//! A buffer that was never lent is never touched. On a system that provides pages on first use, a
//! pool may therefore be far larger than what is ever used of it. After a peak in demand,
//! [`Pool::trim`] sets buffers aside, and the caller may discard their contents:
//!
//! ```text
//! free list:   hot ──► hot ──► .. keep of them
//! set aside:   index [next index | how many | numbers of discarded buffers ..] ──► another index
//! ```
//!
//! The numbers of discarded buffers need memory that is not discarded: some of the buffers set aside
//! hold the numbers of the others.

use super::Fifo;
use super::window::{lines, wipe, wipe_lines};
use crate::memory::Array;

const NIL: u32 = u32::MAX;
/// The shortest buffer that can be on the free list: one word.
const LINK_LEN: usize = 4;
/// The shortest buffer that can be an index: two words.
const INDEX_LEN: usize = 8;

/// Equal buffers in one `M` of bytes: see [`Array`].
#[derive(Debug)]
pub struct Pool<M> {
    memory: M,
    buffer_len: usize,
    /// The number of buffers: `free <= count`.
    count: u32,
    free: u32,
    /// The buffer given back last; each free one holds the number of the next in its first bytes.
    head: u32,
    /// The fewest buffers that were free since [`Pool::trim`] had nothing left to do: `low <= free`.
    low: u32,
    /// Free buffers that are not on that list, because they were never lent or are set aside:
    /// `unlisted <= free`.
    unlisted: u32,
    /// The index of buffers set aside.
    aside: u32,
    /// The first buffer that was never lent: `fresh <= count`.
    fresh: u32,
}

/// The right to one buffer of a pool, until it is given back to that pool.
#[derive(Debug)]
pub(super) struct Buffer(u32);

impl<const N: usize> Pool<[u8; N]> {
    /// A pool with `N` bytes of its own, cut into buffers of `buffer_len` bytes.
    pub const fn fixed(buffer_len: usize) -> Self {
        Self::cut([0; N], N, buffer_len)
    }
}

impl<M> Pool<M> {
    const fn cut(memory: M, len: usize, buffer_len: usize) -> Self {
        let count = match len.checked_div(buffer_len) {
            Some(count) if buffer_len >= LINK_LEN => count,
            _ => 0,
        };
        let count = if count < NIL as usize { count as u32 } else { NIL - 1 };
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

    /// The bytes of each buffer.
    pub const fn buffer_len(&self) -> usize {
        self.buffer_len
    }

    /// The number of buffers that are not lent.
    pub const fn free(&self) -> u32 {
        self.free
    }

    /// The number of buffers.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The number of buffers that were lent, came back and are ready to be lent again:
    /// [`Pool::trim`] may set these aside.
    pub const fn touched(&self) -> u32 {
        self.free.saturating_sub(self.unlisted)
    }
}

impl<M: Array<u8>> Pool<M> {
    /// Cuts `memory` into buffers of `buffer_len` bytes; the remainder stays unused. A `buffer_len`
    /// below 4 makes an empty pool.
    pub fn new(memory: M, buffer_len: usize) -> Self {
        let len = memory.as_ref().len();
        Self::cut(memory, len, buffer_len)
    }

    /// Takes back the buffers that none of `held` has, wipes them whole, and returns their number. `held`
    /// must name every [`Fifo`] of this pool that still exists. A buffer is lost if its `Fifo` is
    /// dropped without [`Fifo::clear`].
    ///
    /// Takes time proportional to the buffers ever lent times the `Fifo`s.
    pub fn reclaim<'a>(&mut self, held: impl Iterator<Item = &'a Fifo> + Clone) -> u32 {
        let before = self.free;
        (self.head, self.aside) = (NIL, NIL);
        self.unlisted = self.count.saturating_sub(self.fresh);
        (self.free, self.low) = (self.unlisted, self.unlisted);
        for number in 0..self.fresh {
            let is_it = |fifo: &Fifo| fifo.buffer.as_ref().is_some_and(|buffer| buffer.0 == number);
            if !held.clone().any(is_it) {
                self.give(Buffer(number), self.buffer_len);
            }
        }
        self.free.saturating_sub(before)
    }

    /// Sets aside up to `most` buffers and returns their number. Candidates are the buffers that were
    /// not needed since the last call that had nothing left to do; the `keep` buffers that came back
    /// last stay. `discard` gets each buffer and may change its bytes in any way.
    ///
    /// Called regularly, this returns memory after a peak in demand. Takes time proportional to
    /// `keep` plus `most`.
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

    /// Takes a buffer that was set aside, or else one that was never lent.
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
            // The index is empty: lend the index itself.
            self.aside = self.word(index, 0);
            return Some(index);
        };
        self.set_word(index, 1, left);
        Some(self.word(index, left.saturating_add(2)))
    }

    /// A word of a free buffer; `NIL` if there is no such word.
    fn word(&self, buffer: u32, at: u32) -> u32 {
        let words = self.bytes(&Buffer(buffer)).as_chunks().0;
        words.get(at as usize).map_or(NIL, |word| u32::from_le_bytes(*word))
    }

    /// Sets a word of a free buffer; `false` if there is no such word.
    fn set_word(&mut self, buffer: u32, at: u32, value: u32) -> bool {
        let words = self.bytes_mut(&Buffer(buffer)).as_chunks_mut().0;
        let word = words.get_mut(at as usize);
        word.map(|word| *word = value.to_le_bytes()).is_some()
    }

    pub(super) fn take(&mut self) -> Option<Buffer> {
        let taken = match self.head {
            NIL => self.take_unlisted()?,
            head => {
                let next = self.bytes(&Buffer(head)).first_chunk();
                self.head = next.map_or(NIL, |next| u32::from_le_bytes(*next));
                head
            }
        };
        self.free = self.free.wrapping_sub(1);
        self.low = self.low.min(self.free);
        Some(Buffer(taken))
    }

    /// Takes a buffer back and wipes it: it was filled up to `end`.
    #[inline]
    pub(super) fn give(&mut self, buffer: Buffer, end: usize) {
        let head = self.head.to_le_bytes();
        let Some(bytes) = self.get_mut(&buffer) else { return };
        let Some(lines) = lines(bytes, end) else {
            return self.give_slowly(buffer, end);
        };
        wipe_lines(lines);
        if let Some(first) = bytes.first_chunk_mut() {
            *first = head;
        }
        self.head = buffer.0;
        self.free = self.free.wrapping_add(1);
    }

    /// Takes back a buffer whose last line is not whole.
    #[cold]
    #[inline(never)]
    fn give_slowly(&mut self, buffer: Buffer, end: usize) {
        wipe(self.bytes_mut(&buffer), 0, end);
        self.give(buffer, 0);
    }

    // Where these wrap, the buffer is of another pool, and there is nothing at its place.
    #[inline]
    pub(super) fn bytes(&self, buffer: &Buffer) -> &[u8] {
        let start = (buffer.0 as usize).wrapping_mul(self.buffer_len);
        let end = start.wrapping_add(self.buffer_len);
        self.memory.as_ref().get(start..end).unwrap_or_default()
    }

    #[inline]
    pub(super) fn bytes_mut(&mut self, buffer: &Buffer) -> &mut [u8] {
        self.get_mut(buffer).unwrap_or_default()
    }

    #[inline]
    fn get_mut(&mut self, buffer: &Buffer) -> Option<&mut [u8]> {
        let start = (buffer.0 as usize).wrapping_mul(self.buffer_len);
        let end = start.wrapping_add(self.buffer_len);
        self.memory.as_mut().get_mut(start..end)
    }

    /// The bytes in `from` and the room behind the bytes in `to`, to write from one to the other.
    /// `None` if either has no buffer.
    #[inline]
    pub fn between(&mut self, from: &Fifo, to: &Fifo) -> Option<(&mut [u8], &mut [u8])> {
        let (held, room) = (from.buffer.as_ref()?, to.buffer.as_ref()?);
        let held = (held.0 as usize).wrapping_mul(self.buffer_len);
        let room = (room.0 as usize).wrapping_mul(self.buffer_len);
        let held = held.wrapping_add(from.window.start)..held.wrapping_add(from.window.end);
        let room = room.wrapping_add(to.window.end)..room.wrapping_add(self.buffer_len);
        let [held, room] = self.memory.as_mut().get_disjoint_mut([held, room]).ok()?;
        Some((held, room))
    }
}

#[cfg(test)]
impl<M> Pool<M> {
    /// The number of buffers that were ever lent.
    pub(super) const fn touched_ever(&self) -> u32 {
        self.fresh
    }
}
