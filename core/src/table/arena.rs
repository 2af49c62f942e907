//! The arena: ids and sessions in blocks.
//!
//! ```text
//! head block   next u32 | session bytes u16 | id bytes u8 | class u8 | older u32 | newer u32 | id .. session ..
//! other block  session ..
//! ```
//!
//! The number of its head block names a session. Every block has a link, in an array of its own. The
//! link of a head block is the session's place in the expiry heap; that of another block of a session
//! is the next block or `NIL`; that of a free block is the next free one. Blocks that were never used
//! begin at `fresh`: they are on no list, and nothing has touched them. A block is wiped when it is
//! freed, so every free block is all zero.
//!
//! The head block also has what [`Ages`](super::ages::Ages) needs: the class of the session, and the
//! sessions of that class that were stored before and after it.

use super::Line;
use super::walk::Parts;
use crate::memory::Array;
use zeroize::Zeroize;

/// The bytes of a block.
pub(super) const BLOCK: usize = 256;

/// No block: above every block's number.
pub(super) const NIL: u32 = u32::MAX;

const HEADER: usize = 16;
/// Words of a head block before `older` and `newer`.
const OLDER: usize = 2;
const NEWER: usize = 3;
const ROOM: usize = BLOCK - HEADER;

// The longest id lies whole in the head block, so that finding a session reads no second one.
const _: () =
    assert!(BLOCK >= 128 && BLOCK.is_multiple_of(super::LINE) && ROOM >= crate::id::ID_MAX);

/// The number of blocks for an id and a session of these lengths.
pub(super) const fn blocks_for(id: usize, session: usize) -> u32 {
    let beyond = id.saturating_add(session).saturating_sub(ROOM);
    (beyond.div_ceil(BLOCK) as u32).saturating_add(1)
}

/// The links of all blocks. Out of range, `get` returns `NIL` and `set` does nothing.
pub(super) struct Links<M>(M);

impl<M: Array<Line>> Links<M> {
    pub(super) fn get(&self, block: u32) -> u32 {
        let links = self.0.as_ref().as_flattened().as_chunks().0;
        links.get(block as usize).map_or(NIL, |link| u32::from_le_bytes(*link))
    }

    pub(super) fn set(&mut self, block: u32, value: u32) {
        let links = self.0.as_mut().as_flattened_mut().as_chunks_mut().0;
        if let Some(link) = links.get_mut(block as usize) {
            *link = value.to_le_bytes();
        }
    }
}

/// All blocks, and which of them are free.
pub(super) struct Arena<M> {
    pub(super) links: Links<M>,
    blocks: M,
    /// The number of blocks.
    count: u32,
    /// The first block of the free list; meaningless while `listed` is 0.
    free_head: u32,
    /// Blocks on the free list.
    listed: u32,
    /// Blocks at and above this number were never used.
    fresh: u32,
}

impl<M: Array<Line>> Arena<M> {
    /// An arena with `count` free blocks, fewer than `NIL`; `links` and `blocks` have lines for them.
    pub(super) const fn new(links: M, blocks: M, count: u32) -> Self {
        Self { links: Links(links), blocks, count, free_head: NIL, listed: 0, fresh: 0 }
    }

    /// The number of free blocks.
    pub(super) const fn free(&self) -> u32 {
        self.listed.saturating_add(self.count.saturating_sub(self.fresh))
    }

    #[inline]
    fn block(&self, block: u32) -> Option<&[u8; BLOCK]> {
        self.blocks.as_ref().as_flattened().as_chunks().0.get(block as usize)
    }

    #[inline]
    fn block_mut(&mut self, block: u32) -> Option<&mut [u8; BLOCK]> {
        self.blocks.as_mut().as_flattened_mut().as_chunks_mut().0.get_mut(block as usize)
    }

    /// Stores a session and returns its head block; [`blocks_for`] blocks must be free.
    pub(super) fn store(&mut self, class: u8, id: &[u8], session: &[u8]) -> u32 {
        let head = self.take();
        let (start, rest) =
            session.split_at_checked(ROOM.saturating_sub(id.len())).unwrap_or((session, &[]));
        let (mut second, mut last) = (NIL, NIL);
        for part in rest.chunks(BLOCK) {
            let block = self.take();
            if let Some(to) = self.block_mut(block) {
                put(to, part);
            }
            if last == NIL {
                second = block;
            } else {
                self.links.set(last, block);
            }
            last = block;
        }
        self.links.set(last, NIL);
        if let Some((header, room)) =
            self.block_mut(head).and_then(|block| block.split_first_chunk_mut::<HEADER>())
        {
            let lengths = (session.len() as u64) | (id.len() as u64) << 16;
            let words = u64::from(second) | lengths << 32 | u64::from(class) << 56;
            let neither = u128::from(u64::MAX) << 64;
            *header = (u128::from(words) | neither).to_le_bytes();
            put(put(room, id), start);
        }
        head
    }

    /// The id of the session at `head`; empty if there is no such block.
    pub(super) fn id(&self, head: u32) -> &[u8] {
        self.head(head).map_or(&[], |head| head.id)
    }

    /// The session at `head` as one of its class.
    pub(super) fn stored(&self, head: u32) -> Option<Stored> {
        let (header, _) = self.block(head)?.split_first_chunk::<HEADER>()?;
        let header = u128::from_le_bytes(*header);
        Some(Stored {
            class: (header >> 56) as u8,
            older: (header >> 64) as u32,
            newer: (header >> 96) as u32,
        })
    }

    /// Sets the session of its class that was stored before the one at `head`.
    pub(super) fn set_older(&mut self, head: u32, older: u32) {
        self.set_word(head, OLDER, older);
    }

    /// Sets the session of its class that was stored after the one at `head`.
    pub(super) fn set_newer(&mut self, head: u32, newer: u32) {
        self.set_word(head, NEWER, newer);
    }

    fn set_word(&mut self, head: u32, word: usize, value: u32) {
        let block = self.block_mut(head);
        if let Some(word) = block.and_then(|block| block.as_chunks_mut().0.get_mut(word)) {
            *word = value.to_le_bytes();
        }
    }

    /// Copies as much of the session at `head` as fits to the front of `out`; returns its length.
    pub(super) fn copy(&self, head: u32, out: &mut [u8]) -> Option<usize> {
        let head = self.head(head)?;
        let mut room = put(out, head.start);
        let mut left = head.session.saturating_sub(head.start.len());
        let mut block = head.next;
        while left > 0 && !room.is_empty() {
            let part = self.block(block)?;
            let part = part.get(..left).unwrap_or(part);
            room = put(room, part);
            left = left.saturating_sub(part.len());
            block = self.links.get(block);
        }
        Some(head.session)
    }

    /// The id and the bytes of the session at `head`.
    pub(super) fn parts(&self, head: u32) -> Option<(&[u8], Parts<'_>)> {
        let Head { next, session, id, start } = self.head(head)?;
        let blocks = self.blocks.as_ref().as_flattened().as_chunks().0;
        let links = self.links.0.as_ref().as_flattened().as_chunks().0;
        Some((id, Parts::new(blocks, links, start, next, session)))
    }

    /// The number of blocks that were ever used: those with lower numbers.
    pub(super) const fn used(&self) -> u32 {
        self.fresh
    }

    /// Wipes and frees the blocks of the session at `head`.
    pub(super) fn release(&mut self, head: u32) {
        let Some(Head { next, id, session, .. }) = self.head(head) else {
            return;
        };
        let count = blocks_for(id.len(), session);
        self.links.set(head, next);
        self.wipe(head);
        let mut last = head;
        for _ in 1..count {
            last = self.links.get(last);
            self.wipe(last);
        }
        self.links.set(last, self.free_head);
        self.free_head = head;
        self.listed = self.listed.saturating_add(count);
    }

    /// Wipes a block, whatever it holds: its length is known when this is compiled, and its memory was
    /// in use before.
    fn wipe(&mut self, block: u32) {
        if let Some(block) = self.block_mut(block) {
            block.as_mut_slice().zeroize();
        }
    }

    /// Reads a byte of every cache line of the block `head`.
    pub(super) fn prefetch(&self, head: u32) -> u8 {
        self.block(head).map_or(0, |block| {
            let lines = block.as_chunks::<{ super::LINE }>().0;
            lines.iter().fold(0, |sum, [byte, ..]| sum ^ byte)
        })
    }

    /// Takes a block off the free list, or else one that was never used.
    fn take(&mut self) -> u32 {
        if self.listed == 0 {
            let block = self.fresh;
            self.fresh = self.fresh.saturating_add(1);
            return block;
        }
        let block = self.free_head;
        self.free_head = self.links.get(block);
        self.listed = self.listed.saturating_sub(1);
        block
    }

    fn head(&self, head: u32) -> Option<Head<'_>> {
        let (header, room) = self.block(head)?.split_first_chunk::<HEADER>()?;
        let header = u128::from_le_bytes(*header) as u64;
        let session = usize::from((header >> 32) as u16);
        let (id, room) = room.split_at_checked(usize::from((header >> 48) as u8))?;
        Some(Head { next: header as u32, session, id, start: room.get(..session).unwrap_or(room) })
    }
}

/// A session as one of its class, from its head block.
pub(super) struct Stored {
    pub(super) class: u8,
    /// The head blocks of the sessions of its class stored before and after it, or `NIL`.
    pub(super) older: u32,
    pub(super) newer: u32,
}

/// The contents of a head block.
struct Head<'a> {
    /// The second block, or `NIL`.
    next: u32,
    /// Bytes of the whole session.
    session: usize,
    id: &'a [u8],
    /// The session's bytes that lie in the head block.
    start: &'a [u8],
}

/// Copies as much of `from` as fits to the front of `to`; returns the rest of `to`.
fn put<'a>(to: &'a mut [u8], from: &[u8]) -> &'a mut [u8] {
    let len = to.len().min(from.len());
    let Some((front, rest)) = to.split_at_mut_checked(len) else {
        return &mut [];
    };
    if let Some(from) = from.get(..len) {
        front.copy_from_slice(from);
    }
    rest
}

#[cfg(test)]
impl<M: Array<Line>> Arena<M> {
    /// Marks every block of the session at `head` in `seen`; they were unmarked, and linked right.
    pub(super) fn check(&self, head: u32, seen: &mut [bool]) {
        let Head { next, id, session, .. } = self.head(head).unwrap();
        assert!((1..=crate::id::ID_MAX).contains(&id.len()));
        assert!((1..=super::SESSION_MAX).contains(&session));
        let (mut block, mut following) = (head, next);
        for left in (0..blocks_for(id.len(), session)).rev() {
            assert!(block < self.fresh);
            assert!(!core::mem::replace(&mut seen[block as usize], true));
            assert_eq!(following == NIL, left == 0);
            (block, following) = (following, self.links.get(following));
        }
    }

    fn is_wiped(&self, block: u32) -> bool {
        self.block(block) == Some(&[0; BLOCK])
    }

    /// Marks every free block in `seen`; all are marked then, none twice. All are wiped.
    pub(super) fn check_free(&self, seen: &mut [bool]) {
        assert_eq!(self.count as usize, seen.len());
        let mut block = self.free_head;
        for _ in 0..self.listed {
            assert!(block < self.fresh);
            assert!(!core::mem::replace(&mut seen[block as usize], true));
            assert!(self.is_wiped(block), "block {block} was freed");
            block = self.links.get(block);
        }
        for free in (0..).zip(&*seen).filter(|(_, seen)| !**seen).map(|(block, _)| block) {
            assert!(self.is_wiped(free), "block {free} was never used");
        }
        let (used, unused) = seen.split_at(self.fresh as usize);
        assert!(used.iter().all(|seen| *seen));
        assert!(unused.iter().all(|seen| !*seen));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{vec, vec::Vec};

    #[test]
    fn a_session_comes_back_whole_at_every_length_around_a_block_edge() {
        let mut arena = Arena::new(vec![[0; 64]; 10], vec![[0; 64]; 640], 160);
        let bytes: Vec<u8> = (0..super::super::SESSION_MAX).map(|i| (i % 251) as u8).collect();
        let id = [9; 40];
        let edges = [ROOM - id.len(), ROOM - id.len() + BLOCK, ROOM - id.len() + 2 * BLOCK];
        let around = edges.iter().flat_map(|edge| [edge - 1, *edge, edge + 1]);
        for len in around.chain([1, bytes.len()]) {
            let before = arena.free();
            let head = arena.store(0, &id, &bytes[..len]);
            assert_eq!(arena.free(), before - blocks_for(id.len(), len));
            assert_eq!(arena.id(head), id);
            let mut out = vec![0; len];
            assert_eq!(arena.copy(head, &mut out), Some(len));
            assert_eq!(out, bytes[..len], "{len} bytes");
            arena.release(head);
            assert_eq!(arena.free(), before);
        }
    }

    #[test]
    fn the_largest_session_takes_129_blocks() {
        assert_eq!(
            blocks_for(crate::id::ID_MAX, super::super::SESSION_MAX),
            super::super::BLOCKS_MAX
        );
        assert_eq!(blocks_for(32, 208), 1);
        assert_eq!(blocks_for(32, 209), 2);
    }
}
