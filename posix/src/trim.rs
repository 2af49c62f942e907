//! Returns buffers that a machine no longer needs to the system.

use distcache_core::server::{ClientSlot, Store};
use distcache_core::{Array, Instant, Proxy, Server, proxy};

use crate::memory::discard;

/// Buffers that are never returned: 4 MiB.
const KEEP: u32 = 64;
/// The most buffers returned in a turn: each takes a system call.
const PER_TURN: u32 = 64;
/// How long a buffer must have been unused, in milliseconds.
const PERIOD: u64 = 1000;

/// A machine whose unused buffers can be returned.
pub(crate) trait Buffered {
    /// The number of free buffers that have been used, and take memory.
    fn touched(&self) -> u32;

    /// Gives up to [`PER_TURN`] buffers that were free for a whole period back to the system, and returns
    /// how many. Fewer than `PER_TURN` means that a new period begins.
    fn give_back(&mut self) -> u32;
}

impl<S: Store, C: Array<ClientSlot>, B: Array<u8>> Buffered for Server<S, C, B> {
    fn touched(&self) -> u32 {
        self.buffers_touched()
    }

    fn give_back(&mut self) -> u32 {
        self.trim(KEEP, PER_TURN, discard)
    }
}

impl<M: proxy::Memory> Buffered for Proxy<M> {
    fn touched(&self) -> u32 {
        self.buffers_touched()
    }

    fn give_back(&mut self) -> u32 {
        self.trim(KEEP, PER_TURN, discard)
    }
}

/// Decides when a machine returns buffers. While it has used no more than [`KEEP`], there is nothing to
/// do and no deadline.
#[derive(Debug, Default)]
pub(crate) struct Trim {
    at: Option<Instant>,
}

impl Trim {
    /// When there is work even if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.at
    }

    /// Ends a turn: returns buffers if that is due.
    pub(crate) fn end_turn(&mut self, now: Instant, machine: &mut impl Buffered) {
        if self.at.is_some_and(|at| now < at) {
            return;
        }
        if self.at.is_some() && machine.give_back() == PER_TURN {
            self.at = Some(now);
            return;
        }
        self.at = (machine.touched() > KEEP).then(|| now.after(PERIOD));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose clients come and go.
    #[derive(Default)]
    struct Buffers {
        touched: u32,
        idle: u32,
        calls: u32,
    }

    impl Buffered for Buffers {
        fn touched(&self) -> u32 {
            self.touched
        }

        fn give_back(&mut self) -> u32 {
            self.calls += 1;
            let count = self.idle.saturating_sub(KEEP).min(PER_TURN);
            self.touched -= count;
            self.idle = if count < PER_TURN { self.touched } else { self.idle - count };
            count
        }
    }

    #[test]
    fn unused_buffers_are_returned_a_part_each_turn_and_then_nothing_is_due() {
        let at = Instant::from_millis;
        let (mut trim, mut buffers) =
            (Trim::default(), Buffers { touched: KEEP, ..Buffers::default() });
        trim.end_turn(at(5), &mut buffers);
        assert_eq!((trim.deadline(), buffers.calls), (None, 0), "so many are kept");
        buffers.touched = KEEP + 2 * PER_TURN + 1;
        let mut turns = 0;
        let mut now = at(10);
        trim.end_turn(now, &mut buffers);
        while let Some(deadline) = trim.deadline() {
            turns += 1;
            now = now.max(deadline);
            trim.end_turn(now, &mut buffers);
        }
        assert_eq!(buffers.touched, KEEP);
        assert_eq!(now, at(10 + 2 * PERIOD), "one period to see what is unused, one to be sure");
        assert_eq!((turns, buffers.calls), (4, 4));
    }
}
