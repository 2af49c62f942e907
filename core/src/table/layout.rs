//! The size of a table, and of each section of its memory.

use super::arena::BLOCK;
use super::{BLOCKS_MAX, expiry, index, removals};

/// The unit of a table's memory: a cache line, all zero in a new table.
pub type Line = [u8; LINE];

pub(super) const LINE: usize = 64;

/// Lines of a block.
const BLOCK_LINES: u64 = (BLOCK / LINE) as u64;

/// Links in a line.
const LINKS: u32 = 16;

/// The size of a table.
///
/// Two bounds hold at the same time: the number of sessions, and the bytes of the blocks that hold
/// them. Whichever is reached first evicts sessions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Layout {
    sessions: u32,
    blocks: u32,
}

impl Layout {
    /// The most sessions that a table holds.
    pub const SESSIONS_MAX: u32 = 1 << 24;
    /// The fewest bytes of a table: one block, which holds a session of about 200 bytes.
    pub const BYTES_MIN: u64 = BLOCK as u64;

    /// A table of up to `sessions` sessions of usual size: 2 KiB each, 64 MiB at least. This is what
    /// `dc_server` takes without options for memory. `None` in the same cases as [`Layout::new`].
    pub const fn for_sessions(sessions: u32) -> Option<Self> {
        let bytes = (sessions as u64) << 11;
        Self::new(sessions, if bytes < 64 << 20 { 64 << 20 } else { bytes })
    }

    /// A table of up to `sessions` sessions in up to `bytes` bytes of blocks, 256 bytes each.
    ///
    /// There are never more blocks than that many sessions of the largest size fill, so [`u64::MAX`]
    /// bytes leave the number of sessions as the only bound. `None` if `sessions` is 0 or above
    /// [`Layout::SESSIONS_MAX`], if `bytes` is less than a block, or if the memory cannot be addressed.
    pub const fn new(sessions: u32, bytes: u64) -> Option<Self> {
        if sessions == 0 || sessions > Self::SESSIONS_MAX || bytes < Self::BYTES_MIN {
            return None;
        }
        let most = sessions.saturating_mul(BLOCKS_MAX);
        let blocks = bytes >> BLOCK.ilog2();
        let blocks = if blocks < most as u64 { blocks as u32 } else { most };
        let layout = Self { sessions, blocks };
        if layout.bytes() > isize::MAX as u64 {
            return None;
        }
        Some(layout)
    }

    /// The bytes of memory that a table of this layout takes.
    pub const fn size(self) -> usize {
        self.bytes() as usize
    }

    /// The most sessions in the table.
    pub const fn sessions(self) -> u32 {
        self.sessions
    }

    /// The number of blocks for sessions.
    pub const fn blocks(self) -> u32 {
        self.blocks
    }

    const fn bytes(self) -> u64 {
        let [buckets, heap, links, blocks, removals] = self.sections();
        let lines = buckets.saturating_add(heap).saturating_add(links).saturating_add(blocks);
        let lines = lines.saturating_add(removals);
        lines.saturating_mul(LINE as u64)
    }

    /// The lines of buckets, heap, links, blocks and marks of removed ids.
    pub(super) const fn sections(self) -> [u64; 5] {
        [
            index::buckets_for(self.sessions) as u64,
            expiry::lines(self.sessions) as u64,
            self.blocks.div_ceil(LINKS) as u64,
            (self.blocks as u64).saturating_mul(BLOCK_LINES),
            removals::lines(self.sessions) as u64,
        ]
    }
}
