//! The session table: sessions by id, over one flat block of the caller's memory.
//!
//! ```text
//! memory   buckets (index) | lines (expiry) | links | blocks (arena)
//!
//! id --hash--> bucket --fingerprint, head--> head block --next, links--> more blocks
//!                                         |
//!                                    link = place in the heap of due times
//! ```
//!
//! * The index finds the head block of an id in two cache lines at most, and the stash.
//! * The heap knows which session expires soonest. What has expired leaves before anything else.
//! * A full table of sessions that are all there evicts the one of its class of lives that was stored
//!   first; each class of lives loses in proportion to what it holds (see `ages`).
//! * The arena cuts sessions into blocks. Blocks never used are never touched, so memory may be
//!   generous: what nobody used costs nothing but addresses.
//!
//! Everything is a number in little-endian bytes, nothing a pointer. No operation allocates, loops
//! over the table or resizes it. The most that one call does: an ADD of the largest session evicts
//! [`BLOCKS_MAX`] others and moves 64 index slots.
//!
//! A session costs its id and data, 16 bytes of header, what is left of its last block, 4 bytes for
//! each block, 12.8 bytes of heap and 6.3 bytes of index: 47 bytes over a session of 232.
//!
//! Time is what the caller says it is. The table remembers the latest time an operation that may
//! change it was told, and takes anything earlier for that; a clock set back prolongs no life.

mod ages;
mod arena;
mod expiry;
mod index;

use crate::id::Id;
use crate::message::TTL_MAX;
use crate::time::Instant;
use ages::Ages;
use arena::{Arena, BLOCK};
use expiry::Expiry;
use index::{Index, Probe};
use siphasher::sip::SipHasher13;

/// The most bytes that a session has.
pub const SESSION_MAX: usize = 32_768;

/// The most blocks that one session takes.
pub const BLOCKS_MAX: u32 = arena::blocks_for(crate::id::ID_MAX, SESSION_MAX);

/// Bytes of a cache line; every array in the table's memory starts at a multiple of it.
const LINE: usize = 64;

/// Ids that [`Table::prefetch`] looks at together.
const BATCH: usize = 16;

/// Links in a line.
const LINKS: u32 = 16;

/// How large a table is.
///
/// Two bounds hold at the same time: the number of sessions, and the bytes of the blocks they lie
/// in. Whichever is reached first makes sessions leave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Layout {
    sessions: u32,
    blocks: u32,
}

impl Layout {
    /// The most sessions that a table holds.
    pub const SESSIONS_MAX: u32 = 1 << 24;
    /// The least bytes of a table: a block, which holds a session of some 200 bytes.
    pub const BYTES_MIN: u64 = BLOCK as u64;

    /// A table of at most `sessions` sessions in at most `bytes` bytes of blocks, 256 each.
    ///
    /// More blocks than that many largest sessions fill are never asked for: [`u64::MAX`] bytes
    /// leave the number of sessions the only bound. `None` where `sessions` is 0 or above
    /// [`Layout::SESSIONS_MAX`], where `bytes` is less than a block, and where this machine
    /// cannot address that much.
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

    /// The bytes of memory that a table of this layout needs.
    pub const fn size(self) -> usize {
        self.bytes() as usize
    }

    /// The most sessions in the table.
    pub const fn sessions(self) -> u32 {
        self.sessions
    }

    /// The blocks that sessions lie in.
    pub const fn blocks(self) -> u32 {
        self.blocks
    }

    const fn bytes(self) -> u64 {
        let [buckets, heap, links] = self.sections();
        let lines = (buckets as u64).saturating_add(heap as u64).saturating_add(links as u64);
        let blocks = (self.blocks as u64).saturating_mul(BLOCK as u64);
        lines.saturating_mul(LINE as u64).saturating_add(blocks)
    }

    /// The lines of buckets, heap and links; what follows is blocks.
    const fn sections(self) -> [u32; 3] {
        [
            index::buckets_for(self.sessions),
            expiry::lines(self.sessions),
            self.blocks.div_ceil(LINKS),
        ]
    }
}

/// A table of sessions that expire.
pub struct Table<'m> {
    layout: Layout,
    index: Index<'m>,
    expiry: Expiry<'m>,
    ages: Ages,
    arena: Arena<'m>,
    hasher: SipHasher13,
    /// The latest time heard of.
    now: Instant,
    counters: TableCounters,
}

/// What has happened to a table so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TableCounters {
    /// Sessions that made room for others before they expired.
    pub evicted: u64,
    /// Sessions dropped after they had expired.
    pub expired: u64,
    /// ADDs refused with [`AddError::Full`].
    pub refused: u64,
    /// Index slots moved to make room for others.
    pub moved: u64,
}

/// The memory is too small for the layout.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MemoryTooSmall {
    /// The bytes that are needed.
    pub needed: usize,
}

/// Why a session was not added. The table is as it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AddError {
    /// A session with this id is there; it stays.
    Exists,
    /// The index has no room for this id. By chance that does not happen; whoever can make it
    /// happen knows the key.
    Full,
    /// The data is empty, longer than [`SESSION_MAX`], or needs more blocks than the table has.
    TooLarge,
}

impl core::fmt::Display for MemoryTooSmall {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "the table needs {} bytes of memory", self.needed)
    }
}

impl core::error::Error for MemoryTooSmall {}

impl core::fmt::Display for AddError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Exists => "a session with this id is stored",
            Self::Full => "the index has no room for this id",
            Self::TooLarge => "the session is empty, or too large for the table",
        })
    }
}

impl core::error::Error for AddError {}

impl<'m> Table<'m> {
    /// An empty table over `memory`, which must be all zero; `key` is random and kept secret.
    ///
    /// Nothing of the memory is touched. It is best aligned to 64 bytes; more of it than
    /// [`Layout::size`] is left alone.
    ///
    /// # Errors
    ///
    /// [`MemoryTooSmall`] where `memory` is smaller than [`Layout::size`].
    pub fn new(
        memory: &'m mut [u8],
        layout: Layout,
        key: [u8; 16],
    ) -> Result<Self, MemoryTooSmall> {
        let too_small = MemoryTooSmall { needed: layout.size() };
        let (mut lines, _) = memory.as_chunks_mut::<LINE>();
        let mut section = |count: usize| lines.split_off_mut(..count).ok_or(too_small);
        let [buckets, heap, links] = layout.sections().map(|count| section(count as usize));
        let (buckets, heap, links) = (buckets?, heap?, links?);
        let links = links.as_flattened_mut().as_chunks_mut().0;
        let blocks = lines.as_flattened_mut().as_chunks_mut().0;
        let count = layout.blocks as usize;
        let links = links.get_mut(..count).ok_or(too_small)?;
        let blocks = blocks.get_mut(..count).ok_or(too_small)?;
        Ok(Self {
            layout,
            index: Index::new(buckets),
            expiry: Expiry::new(heap),
            ages: Ages::new(),
            arena: Arena::new(links, blocks),
            hasher: SipHasher13::new_with_key(&key),
            now: Instant::ORIGIN,
            counters: TableCounters::default(),
        })
    }

    /// Stores `session` under `id` for `ttl` milliseconds, at most [`TTL_MAX`] of them: at `now`
    /// plus `ttl` it is not there any more. With a `ttl` of 0 nothing is stored, and nothing leaves
    /// for it.
    ///
    /// An expired session with this id is replaced. Where room is short, expired sessions leave
    /// first. Then a class of lives (up to 5 minutes, up to an hour, up to 6 hours, longer) is chosen
    /// in proportion to what each holds, and of that class the session stored first leaves; no more
    /// of them than needed.
    ///
    /// # Errors
    ///
    /// See [`AddError`]. A refused ADD makes no session leave.
    pub fn add(
        &mut self,
        now: Instant,
        ttl: u32,
        id: Id<'_>,
        session: &[u8],
    ) -> Result<(), AddError> {
        self.store(now, ttl, id, session, false)
    }

    /// Stores `session` as [`Table::add`] does, in place of what is there.
    ///
    /// # Errors
    ///
    /// See [`AddError`], but never [`AddError::Exists`]. A refused PUT leaves what is there.
    pub fn put(
        &mut self,
        now: Instant,
        ttl: u32,
        id: Id<'_>,
        session: &[u8],
    ) -> Result<(), AddError> {
        self.store(now, ttl, id, session, true)
    }

    fn store(
        &mut self,
        now: Instant,
        ttl: u32,
        id: Id<'_>,
        session: &[u8],
        replace: bool,
    ) -> Result<(), AddError> {
        self.now = self.clock(now);
        let need = arena::blocks_for(id.bytes().len(), session.len());
        let sizes = 1..=SESSION_MAX;
        if !sizes.contains(&session.len()) || need > self.layout.blocks {
            return Err(AddError::TooLarge);
        }
        let probe = self.probe(id.bytes());
        match self.find(probe, id) {
            Some(head) if !replace && self.is_live(self.now, head) => {
                return Err(AddError::Exists);
            }
            Some(replaced) => self.discard(probe, replaced),
            None if ttl > 0 && !self.index.has_room(probe) => {
                self.counters.refused = self.counters.refused.saturating_add(1);
                return Err(AddError::Full);
            }
            None => {}
        }
        if ttl == 0 {
            return Ok(());
        }
        while self.len() >= self.layout.sessions || self.arena.free() < need {
            if !self.evict() {
                break;
            }
        }
        let head = self.arena.store(ages::class(ttl), id.bytes(), session);
        self.ages.push(&mut self.arena, head);
        let moved = self.index.insert(probe, head) as u64;
        self.counters.moved = self.counters.moved.saturating_add(moved);
        let due = self.now.after(u64::from(ttl.min(TTL_MAX)));
        self.expiry.push(&mut self.arena.links, due, head);
        Ok(())
    }

    /// Copies as much of the session under `id` as fits to the front of `out`, and gives the bytes
    /// of the whole; `None` where it is not there.
    pub fn get(&self, now: Instant, id: Id<'_>, out: &mut [u8]) -> Option<usize> {
        self.arena.copy(self.live(now, id)?, out)
    }

    /// Whether there is a session under `id`.
    pub fn has(&self, now: Instant, id: Id<'_>) -> bool {
        self.live(now, id).is_some()
    }

    /// Drops the session under `id`; `false` where it was not there.
    pub fn remove(&mut self, now: Instant, id: Id<'_>) -> bool {
        self.now = self.clock(now);
        let probe = self.probe(id.bytes());
        let Some(head) = self.find(probe, id) else {
            return false;
        };
        let live = self.is_live(self.now, head);
        self.discard(probe, head);
        live
    }

    /// Drops up to `budget` expired sessions, and gives how many it dropped.
    ///
    /// What has expired is not there, dropped or not; dropping it early leaves less to do for the
    /// ADD that needs the room.
    pub fn expire(&mut self, now: Instant, budget: usize) -> usize {
        self.now = self.clock(now);
        (0..budget).take_while(|_| self.drop_expired()).count()
    }

    /// Reads what operations on `ids` are going to read, so that it is in the cache by then.
    ///
    /// Before a batch of operations, touch all their ids at once: the loads of sixteen ids wait for
    /// memory together. The value means nothing, but must be used for the loads to take place.
    pub fn prefetch(&self, ids: &[Id<'_>]) -> u8 {
        let mut sum = 0;
        for ids in ids.chunks(BATCH) {
            let mut probes = [(Probe::default(), 0); BATCH];
            let (probes, _) = probes.split_at_mut_checked(ids.len()).unwrap_or_default();
            for ((probe, _), id) in probes.iter_mut().zip(ids) {
                *probe = self.probe(id.bytes());
            }
            for (probe, _) in &*probes {
                sum ^= self.index.prefetch(*probe);
            }
            for (probe, head) in &mut *probes {
                *head = self.index.guess(*probe);
            }
            for (_, head) in probes {
                sum ^= self.arena.prefetch(*head);
            }
        }
        sum
    }

    /// When the session expires that expires soonest; it may lie in the past.
    pub fn deadline(&self) -> Option<Instant> {
        self.expiry.deadline()
    }

    /// How many sessions are stored: those that are there, and expired ones not dropped yet.
    pub const fn len(&self) -> u32 {
        self.expiry.len()
    }

    /// Whether no session is stored.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most sessions that can be stored.
    pub const fn capacity(&self) -> u32 {
        self.layout.sessions
    }

    /// What has happened so far.
    pub const fn counters(&self) -> TableCounters {
        self.counters
    }

    /// `now`, but not before what was heard earlier.
    fn clock(&self, now: Instant) -> Instant {
        now.max(self.now)
    }

    fn probe(&self, id: &[u8]) -> Probe {
        self.index.probe(self.hasher.hash(id))
    }

    /// The head block of what is stored under `id`, expired or not.
    fn find(&self, probe: Probe, id: Id<'_>) -> Option<u32> {
        self.index.find(probe, |head| self.arena.id(head) == id.bytes())
    }

    /// The head block of the session that is there under `id`.
    fn live(&self, now: Instant, id: Id<'_>) -> Option<u32> {
        let head = self.find(self.probe(id.bytes()), id)?;
        self.is_live(self.clock(now), head).then_some(head)
    }

    fn is_live(&self, now: Instant, head: u32) -> bool {
        // As long as nothing at all has expired, the session's own due time need not be read.
        let due = |due| now < due;
        self.deadline().is_some_and(due)
            || self.expiry.due(&self.arena.links, head).is_some_and(due)
    }

    /// Drops a session that has expired; `false` where there is none.
    fn drop_expired(&mut self) -> bool {
        let Some((_, head)) = self.expiry.soonest().filter(|(due, _)| *due <= self.now) else {
            return false;
        };
        self.discard(self.probe(self.arena.id(head)), head);
        true
    }

    /// Drops one that has expired or, where there is none, the one whose turn it is; `false` where
    /// nothing is stored.
    fn evict(&mut self) -> bool {
        if self.drop_expired() {
            return true;
        }
        let Some(head) = self.ages.next() else {
            return false;
        };
        self.counters.evicted = self.counters.evicted.saturating_add(1);
        self.discard(self.probe(self.arena.id(head)), head);
        true
    }

    /// Drops the session at `head`, whose id belongs to `probe`.
    fn discard(&mut self, probe: Probe, head: u32) {
        if !self.is_live(self.now, head) {
            self.counters.expired = self.counters.expired.saturating_add(1);
        }
        self.index.remove(probe, head);
        self.expiry.remove(&mut self.arena.links, head);
        self.ages.remove(&mut self.arena, head);
        self.arena.release(head);
    }
}

#[cfg(test)]
mod fairness;
#[cfg(test)]
mod tests;
