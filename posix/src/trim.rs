//! When a machine's buffers that nobody needs any more go back to the system.

use distcache_core::server::{ClientSlot, Store};
use distcache_core::{Array, Instant, Proxy, Server, proxy};

use crate::memory::discard;

/// Buffers that stay ready: 4 MiB of them.
const KEEP: u32 = 64;
/// The most that a turn gives back: each is a call of the system.
const PIECE: u32 = 64;
/// Milliseconds for which a buffer must not have been needed.
const PERIOD: u64 = 1000;

/// A machine with buffers to give back.
pub(crate) trait Buffered {
    /// How many buffers that were in use are ready to be used again.
    fn touched(&self) -> u32;

    /// Gives back some that were not needed since this had nothing left to do, and says how many.
    fn give_back(&mut self) -> u32;
}

impl<S: Store, C: Array<ClientSlot>, B: Array<u8>> Buffered for Server<S, C, B> {
    fn touched(&self) -> u32 {
        self.buffers_touched()
    }

    fn give_back(&mut self) -> u32 {
        self.trim(KEEP, PIECE, discard)
    }
}

impl<M: proxy::Memory> Buffered for Proxy<M> {
    fn touched(&self) -> u32 {
        self.buffers_touched()
    }

    fn give_back(&mut self) -> u32 {
        self.trim(KEEP, PIECE, discard)
    }
}

/// Has a machine give back what a crowd has needed. As long as no more buffers than those that stay
/// were ever needed, it has nothing to do and wakes nobody.
#[derive(Debug, Default)]
pub(crate) struct Trim {
    at: Option<Instant>,
}

impl Trim {
    /// When there is something to do even if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.at
    }

    /// Ends a turn.
    pub(crate) fn end_turn(&mut self, now: Instant, machine: &mut impl Buffered) {
        if self.at.is_some_and(|at| now < at) {
            return;
        }
        if self.at.is_some() && machine.give_back() == PIECE {
            self.at = Some(now);
            return;
        }
        self.at = (machine.touched() > KEEP).then(|| now.after(PERIOD));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crowd that comes and goes, in buffers.
    #[derive(Default)]
    struct Crowd {
        touched: u32,
        idle: u32,
        calls: u32,
    }

    impl Buffered for Crowd {
        fn touched(&self) -> u32 {
            self.touched
        }

        fn give_back(&mut self) -> u32 {
            self.calls += 1;
            let count = self.idle.saturating_sub(KEEP).min(PIECE);
            self.touched -= count;
            self.idle = if count < PIECE { self.touched } else { self.idle - count };
            count
        }
    }

    #[test]
    fn what_a_crowd_has_left_is_given_back_in_pieces_and_then_there_is_peace() {
        let at = Instant::from_millis;
        let (mut trim, mut crowd) = (Trim::default(), Crowd { touched: KEEP, ..Crowd::default() });
        trim.end_turn(at(5), &mut crowd);
        assert_eq!((trim.deadline(), crowd.calls), (None, 0), "so many stay");
        crowd.touched = KEEP + 2 * PIECE + 1;
        let mut turns = 0;
        let mut now = at(10);
        trim.end_turn(now, &mut crowd);
        while let Some(deadline) = trim.deadline() {
            turns += 1;
            now = now.max(deadline);
            trim.end_turn(now, &mut crowd);
        }
        assert_eq!(crowd.touched, KEEP);
        assert_eq!(now, at(10 + 2 * PERIOD), "one period to see what is needed, one to be sure");
        assert_eq!((turns, crowd.calls), (4, 4));
    }
}
