//! Eviction: a full table evicts the session of a class of lifetimes that was stored first.
//!
//! ```text
//! class     0: up to 5 minutes    1: up to an hour    2: up to 6 hours    3: longer
//! each      oldest ── newer ──► head block ── newer ──► .. ──► newest
//! ```
//!
//! Within a class the session that was stored first is evicted first. So sessions of equal lifetime
//! leave in the order in which they expire, and a longer lifetime gives no advantage. Each class loses
//! sessions in proportion to how many it has, and therefore blocks in proportion to how many those
//! take. A class that fills quickly mostly evicts its own sessions: the others shrink by their share,
//! and never become empty.

use super::Line;
use super::arena::{Arena, NIL};
use crate::memory::Array;

/// The longest lifetime of each class but the last, in milliseconds.
const BOUNDS: [u32; 3] = [300_000, 3_600_000, 21_600_000];

/// The number of classes.
pub(super) const CLASSES: usize = BOUNDS.len() + 1;

/// The class of the longest lifetimes.
pub(super) const LAST: u8 = BOUNDS.len() as u8;

/// The golden ratio as a fraction of 2^32: any first few of its multiples are spread evenly.
const STEP: u32 = 0x9E37_79B9;

/// The class of a session stored for `ttl` milliseconds.
pub(super) fn class(ttl: u32) -> u8 {
    BOUNDS.iter().filter(|bound| ttl > **bound).count() as u8
}

/// All stored sessions by class, each class in the order in which they were stored.
pub(super) struct Ages {
    lists: [List; CLASSES],
    /// The position of the next eviction among all sessions, as a fraction of 2^32.
    turn: u32,
}

#[derive(Clone, Copy)]
struct List {
    /// The head blocks at both ends; `NIL` if the list is empty.
    oldest: u32,
    newest: u32,
    sessions: u32,
}

impl Ages {
    /// No sessions.
    pub(super) const fn new() -> Self {
        let empty = List { oldest: NIL, newest: NIL, sessions: 0 };
        Self { lists: [empty; CLASSES], turn: 0 }
    }

    /// Adds the session at `head`, the newest of its class.
    pub(super) fn push(&mut self, arena: &mut Arena<impl Array<Line>>, head: u32) {
        let Some(stored) = arena.stored(head) else { return };
        let Some(list) = self.lists.get_mut(usize::from(stored.class)) else { return };
        arena.set_older(head, list.newest);
        match list.newest {
            NIL => list.oldest = head,
            newest => arena.set_newer(newest, head),
        }
        list.newest = head;
        list.sessions = list.sessions.saturating_add(1);
    }

    /// Removes the session at `head`.
    pub(super) fn remove(&mut self, arena: &mut Arena<impl Array<Line>>, head: u32) {
        let Some(stored) = arena.stored(head) else { return };
        let Some(list) = self.lists.get_mut(usize::from(stored.class)) else { return };
        match stored.older {
            NIL => list.oldest = stored.newer,
            older => arena.set_newer(older, stored.newer),
        }
        match stored.newer {
            NIL => list.newest = stored.older,
            newer => arena.set_older(newer, stored.older),
        }
        list.sessions = list.sessions.saturating_sub(1);
    }

    /// The head block of the session to evict next; `None` if there is no session.
    pub(super) fn next(&mut self) -> Option<u32> {
        let sessions = self.lists.iter().map(|list| u64::from(list.sessions));
        let all = sessions.fold(0, u64::saturating_add);
        self.turn = self.turn.wrapping_add(STEP);
        let mut point = u64::from(self.turn).saturating_mul(all) >> 32;
        for list in &self.lists {
            let sessions = u64::from(list.sessions);
            if point < sessions {
                return Some(list.oldest);
            }
            point = point.saturating_sub(sessions);
        }
        None
    }

    /// The oldest session of each class, or `NIL`, and the number of its sessions.
    pub(super) fn oldest(&self) -> [(u32, u32); CLASSES] {
        self.lists.map(|list| (list.oldest, list.sessions))
    }
}

#[cfg(test)]
impl Ages {
    /// The heads of each class, oldest first; every one is linked both ways and of that class.
    pub(super) fn check(&self, arena: &Arena<impl Array<Line>>) -> [std::vec::Vec<u32>; CLASSES] {
        core::array::from_fn(|class| {
            let list = self.lists[class];
            let (mut heads, mut older, mut head) = (std::vec![], NIL, list.oldest);
            while head != NIL {
                let stored = arena.stored(head).unwrap();
                assert_eq!((usize::from(stored.class), stored.older), (class, older));
                heads.push(head);
                (older, head) = (head, stored.newer);
            }
            assert_eq!((list.newest, list.sessions as usize), (older, heads.len()));
            heads
        })
    }
}
