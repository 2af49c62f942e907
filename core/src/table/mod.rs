//! The session table: a store of fixed size, in the caller's memory.
//!
//! ```text
//! sections   buckets (index) | lines (expiry) | links | blocks (arena) | removals
//!
//! id --hash--> bucket --fingerprint, head--> head block --next, links--> more blocks
//!                                         |
//!                                    link = place in the heap of due times
//! ```
//!
//! * The index finds the head block of an id in at most two cache lines and the stash.
//! * The heap knows which session expires soonest. Expired sessions leave before any other.
//! * A full table without expired sessions evicts one. Sessions are classed by lifetime: each class
//!   loses in proportion to what it holds, and the session stored first leaves first (see `ages`).
//! * The arena stores sessions in blocks. Blocks that were never used are never touched, so on a
//!   system that provides pages on first use, unused memory costs only addresses.
//!
//! All state is little-endian integers, and indices instead of pointers. No operation allocates, loops
//! over the table or resizes it. The largest possible call, an ADD of the largest session, evicts
//! [`BLOCKS_MAX`] other sessions and moves 64 index slots.
//!
//! A session takes its id and data, 16 bytes of header, the rest of its last block, 4 bytes for each
//! block, 12.8 bytes of heap, 6.3 bytes of index and 1 byte of marks: 48 bytes more than its data for a
//! session of 232 bytes with its id.
//!
//! The table keeps the latest time that was passed to an operation that may change it, and takes an
//! earlier time for that one. So a clock that is set back prolongs no lifetime.

mod ages;
mod arena;
mod expiry;
mod index;
mod layout;
mod removals;
mod repair;
mod walk;

use crate::id::Id;
use crate::memory::Array;
use crate::message::TTL_MAX;
use crate::time::Instant;
use ages::Ages;
use arena::Arena;
use expiry::Expiry;
use index::{Index, Probe};
use layout::LINE;
pub use layout::{Layout, Line};
use removals::Removals;
pub use repair::RepairError;
use siphasher::sip::SipHasher13;
pub use walk::{ByAge, Cursor, Parts, Session, Walk};

/// The most bytes that a session has.
pub const SESSION_MAX: usize = 32_768;

/// The most blocks that one session takes.
pub const BLOCKS_MAX: u32 = arena::blocks_for(crate::id::ID_MAX, SESSION_MAX);

/// Ids that [`Table::prefetch`] looks at together.
const BATCH: usize = 16;

/// A table of sessions that expire, in five containers `M` of [`Line`]s: see [`Array`].
pub struct Table<M> {
    layout: Layout,
    index: Index<M>,
    expiry: Expiry<M>,
    ages: Ages,
    arena: Arena<M>,
    removals: Removals<M>,
    /// Repairs with an earlier stamp are refused; `None` before the first one.
    repairs_from: Option<Instant>,
    hasher: SipHasher13,
    /// The latest time that was passed.
    now: Instant,
    counters: TableCounters,
}

/// What happened to a table, counted from the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TableCounters {
    /// Sessions evicted before they expired.
    pub evicted: u64,
    /// Sessions dropped after they had expired.
    pub expired: u64,
    /// ADDs refused with [`AddError::Full`].
    pub refused: u64,
    /// Index slots moved to make room for others.
    pub moved: u64,
}

/// The memory is smaller than the layout needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MemoryTooSmall {
    /// The bytes that are needed.
    pub needed: usize,
}

/// Why a session was not added. The table has not changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AddError {
    /// A session with this id is stored. It stays.
    Exists,
    /// The index has no room for this id. This does not happen by chance, only to ids chosen by
    /// somebody who knows the key.
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

impl<'m> Table<&'m mut [Line]> {
    /// An empty table in the front of `memory`, which must be all zero. `key` is random and secret.
    ///
    /// `memory` needs [`Layout::size`] bytes, best aligned to 64. None of them is touched.
    ///
    /// # Errors
    ///
    /// [`MemoryTooSmall`] if `memory` is smaller than [`Layout::size`].
    pub fn in_memory(
        layout: Layout,
        key: [u8; 16],
        memory: &'m mut [u8],
    ) -> Result<Self, MemoryTooSmall> {
        let (mut lines, _) = memory.as_chunks_mut();
        Self::new(layout, key, |count| lines.split_off_mut(..count).unwrap_or_default())
    }
}

impl<M: Array<Line>> Table<M> {
    /// An empty table, whose sections are in five containers that `lines` makes: each call returns one
    /// of as many lines as it was asked for, all zero, such as `vec![[0; 64]; count]`. `key` is random
    /// and secret.
    ///
    /// # Errors
    ///
    /// [`MemoryTooSmall`] if a container has fewer lines than it was asked for.
    pub fn new(
        layout: Layout,
        key: [u8; 16],
        mut lines: impl FnMut(usize) -> M,
    ) -> Result<Self, MemoryTooSmall> {
        let sections = layout.sections().map(|count| lines(count as usize));
        let lengths = sections.iter().map(|section| section.as_ref().len());
        if lengths.zip(layout.sections()).any(|(len, count)| len < count as usize) {
            return Err(MemoryTooSmall { needed: layout.size() });
        }
        let [buckets, heap, links, blocks, removals] = sections;
        Ok(Self {
            layout,
            index: Index::new(buckets),
            expiry: Expiry::new(heap),
            ages: Ages::new(),
            arena: Arena::new(links, blocks, layout.blocks()),
            removals: Removals::new(removals),
            repairs_from: None,
            hasher: SipHasher13::new_with_key(&key),
            now: Instant::ORIGIN,
            counters: TableCounters::default(),
        })
    }

    /// Stores `session` under `id` for `ttl` milliseconds, at most [`TTL_MAX`]. At `now` plus `ttl` it
    /// has expired. A `ttl` of 0 stores nothing and evicts nothing.
    ///
    /// An expired session with this id is replaced. If room is short, expired sessions are dropped
    /// first. After that sessions are evicted, no more than needed: a class of lifetimes (up to 5
    /// minutes, up to an hour, up to 6 hours, longer) is chosen in proportion to what each holds, and
    /// the session of that class that was stored first is evicted.
    ///
    /// # Errors
    ///
    /// See [`AddError`]. A refused ADD evicts nothing.
    pub fn add(
        &mut self,
        now: Instant,
        ttl: u32,
        id: Id<'_>,
        session: &[u8],
    ) -> Result<(), AddError> {
        self.store(now, ttl, ages::class(ttl), id, session, false)
    }

    /// Stores `session` like [`Table::add`], and replaces a session with this id.
    ///
    /// # Errors
    ///
    /// See [`AddError`], but never [`AddError::Exists`]. A refused PUT replaces nothing.
    pub fn put(
        &mut self,
        now: Instant,
        ttl: u32,
        id: Id<'_>,
        session: &[u8],
    ) -> Result<(), AddError> {
        self.removals.mark(self.clock(now), self.hasher.hash(id.bytes()));
        self.store(now, ttl, ages::class(ttl), id, session, true)
    }

    /// Stores `session` like [`Table::put`], with `ttl` milliseconds left of a lifetime of class
    /// `class`, as [`Session::class`] says; a higher one counts as the highest.
    ///
    /// # Errors
    ///
    /// Like [`Table::put`].
    pub fn restore(
        &mut self,
        now: Instant,
        ttl: u32,
        class: u8,
        id: Id<'_>,
        session: &[u8],
    ) -> Result<(), AddError> {
        self.store(now, ttl, class.min(ages::LAST), id, session, true)
    }

    fn store(
        &mut self,
        now: Instant,
        ttl: u32,
        class: u8,
        id: Id<'_>,
        session: &[u8],
        replace: bool,
    ) -> Result<(), AddError> {
        self.now = self.clock(now);
        let need = arena::blocks_for(id.bytes().len(), session.len());
        let sizes = 1..=SESSION_MAX;
        if !sizes.contains(&session.len()) || need > self.layout.blocks() {
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
        while self.len() >= self.layout.sessions() || self.arena.free() < need {
            if !self.evict() {
                break;
            }
        }
        let head = self.arena.store(class, id.bytes(), session);
        self.ages.push(&mut self.arena, head);
        let moved = self.index.insert(probe, head) as u64;
        self.counters.moved = self.counters.moved.saturating_add(moved);
        let due = self.now.after(u64::from(ttl.min(TTL_MAX)));
        self.expiry.push(&mut self.arena.links, due, head);
        Ok(())
    }

    /// Drops all sessions, and sets the counters to 0: the table is like a new one.
    pub fn clear(&mut self) {
        while let Some(head) = self.expiry.soonest().map(|(_, head)| head) {
            self.discard(self.probe(self.arena.id(head)), head);
        }
        self.counters = TableCounters::default();
    }

    /// Copies as much of the session under `id` as fits to the front of `out`, and returns the length
    /// of the whole session; `None` if there is none.
    pub fn get(&self, now: Instant, id: Id<'_>, out: &mut [u8]) -> Option<usize> {
        self.arena.copy(self.live(now, id)?, out)
    }

    /// Whether there is a session under `id`.
    pub fn has(&self, now: Instant, id: Id<'_>) -> bool {
        self.live(now, id).is_some()
    }

    /// Drops the session under `id`; `false` where it was not there. Marks the id as removed in either
    /// case: see [`Table::repair`].
    pub fn remove(&mut self, now: Instant, id: Id<'_>) -> bool {
        self.now = self.clock(now);
        let hash = self.hasher.hash(id.bytes());
        self.removals.mark(self.now, hash);
        let probe = self.index.probe(hash);
        let Some(head) = self.find(probe, id) else {
            return false;
        };
        let live = self.is_live(self.now, head);
        self.discard(probe, head);
        live
    }

    /// Drops up to `budget` expired sessions, and returns how many it dropped.
    ///
    /// An expired session is never found, dropped or not. Dropping it early leaves less work for the
    /// ADD that needs the room.
    pub fn expire(&mut self, now: Instant, budget: usize) -> usize {
        self.now = self.clock(now);
        (0..budget).take_while(|_| self.drop_expired()).count()
    }

    /// Loads the memory that operations on `ids` read into the processor's cache.
    ///
    /// Call it with all ids of a batch of operations: the loads of sixteen ids wait for memory
    /// together. The result has no meaning, but must be used for the loads to take place.
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

    /// The time at which the next session expires, which may be in the past.
    pub fn deadline(&self) -> Option<Instant> {
        self.expiry.deadline()
    }

    /// The number of sessions stored, expired ones that were not dropped yet included.
    pub const fn len(&self) -> u32 {
        self.expiry.len()
    }

    /// Whether no session is stored.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most sessions that can be stored.
    pub const fn capacity(&self) -> u32 {
        self.layout.sessions()
    }

    /// The counters so far.
    pub const fn counters(&self) -> TableCounters {
        self.counters
    }

    /// `now`, but not before the latest time passed.
    fn clock(&self, now: Instant) -> Instant {
        now.max(self.now)
    }

    fn probe(&self, id: &[u8]) -> Probe {
        self.index.probe(self.hasher.hash(id))
    }

    /// The head block of the session under `id`, expired or not.
    fn find(&self, probe: Probe, id: Id<'_>) -> Option<u32> {
        self.index.find(probe, |head| self.arena.id(head) == id.bytes())
    }

    /// The head block of the session under `id`, unless it has expired.
    fn live(&self, now: Instant, id: Id<'_>) -> Option<u32> {
        let head = self.find(self.probe(id.bytes()), id)?;
        self.is_live(self.clock(now), head).then_some(head)
    }

    fn is_live(&self, now: Instant, head: u32) -> bool {
        // While no session has expired, there is no need to read this one's due time.
        let due = |due| now < due;
        self.deadline().is_some_and(due)
            || self.expiry.due(&self.arena.links, head).is_some_and(due)
    }

    /// Drops a session that has expired; `false` if there is none.
    fn drop_expired(&mut self) -> bool {
        let Some((_, head)) = self.expiry.soonest().filter(|(due, _)| *due <= self.now) else {
            return false;
        };
        self.discard(self.probe(self.arena.id(head)), head);
        true
    }

    /// Drops a session that has expired, or else evicts one; `false` if no session is stored.
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
