//! Which session leaves a full table: the oldest one of a class of lives.
//!
//! ```text
//! class     0: up to 5 minutes    1: up to an hour    2: up to 6 hours    3: longer
//! each      oldest ── newer ──► head block ── newer ──► .. ──► newest
//! ```
//!
//! Within a class the session that was stored first leaves first. So equal lives leave in the
//! order in which they expire, and a longer life buys nothing. Each class loses sessions in
//! proportion to how many it has, and so blocks in proportion to how many those take. A class that
//! is filled quickly pays mostly for itself: the others shrink by their share, and are never emptied.

use super::arena::{Arena, NIL};

/// The longest life of each class but the last, in milliseconds.
const BOUNDS: [u32; 3] = [300_000, 3_600_000, 21_600_000];

/// How many classes there are.
pub(super) const CLASSES: usize = BOUNDS.len() + 1;

/// The golden ratio as a fraction of 2^32: its multiples fall evenly, wherever they are cut off.
const STEP: u32 = 0x9E37_79B9;

/// The class of a session that was stored for `ttl` milliseconds.
pub(super) fn class(ttl: u32) -> u8 {
    BOUNDS.iter().filter(|bound| ttl > **bound).count() as u8
}

/// All stored sessions by class, each class in the order in which they were stored.
pub(super) struct Ages {
    lists: [List; CLASSES],
    /// Where the next turn falls, as a fraction of 2^32.
    turn: u32,
}

#[derive(Clone, Copy)]
struct List {
    /// The head blocks at both ends; `NIL` where the list is empty.
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

    /// Takes in the session at `head`, the newest of its class.
    pub(super) fn push(&mut self, arena: &mut Arena<'_>, head: u32) {
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

    /// Takes out the session at `head`.
    pub(super) fn remove(&mut self, arena: &mut Arena<'_>, head: u32) {
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

    /// The session whose turn it is to leave, by its head block; `None` where there is none.
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
}

#[cfg(test)]
impl Ages {
    /// The heads of each class, oldest first; every one is linked both ways and of that class.
    pub(super) fn check(&self, arena: &Arena<'_>) -> [std::vec::Vec<u32>; CLASSES] {
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
