//! A server that did not answer in time is left alone for a while.
//!
//! A process that is stopped still takes connections, so nothing but a deadline tells that it will not
//! answer. Without a pause each operation would wait for its own.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// When a client asks its server again. Times are milliseconds since it was made, and wrap around.
pub(super) struct Pause {
    made: Instant,
    /// How long a pause lasts; 0 for none.
    len: AtomicU32,
    /// The end of the pause, or the time by which the operation that asks again is over; 0 for none.
    until: AtomicU32,
}

impl Pause {
    /// None at first.
    pub(super) fn new(now: Instant) -> Self {
        Self { made: now, len: AtomicU32::new(0), until: AtomicU32::new(0) }
    }

    /// How long a pause lasts.
    pub(super) fn len(&self) -> u32 {
        self.len.load(Ordering::Relaxed)
    }

    /// Sets how long a pause lasts, and ends the one that is under way.
    pub(super) fn set(&self, len: u32) {
        self.len.store(len, Ordering::Relaxed);
        self.until.store(0, Ordering::Relaxed);
    }

    /// Whether an operation that takes `timeout` at most may ask the server. After a pause one may; what
    /// comes of that is for [`ended`](Self::ended) to hear.
    pub(super) fn may_ask(&self, timeout: u32) -> bool {
        // Nobody looks at the clock while all is well.
        self.until.load(Ordering::Relaxed) == 0 || self.may_ask_at(self.now(), timeout)
    }

    /// A request is over.
    pub(super) fn ended(&self, timed_out: bool) {
        if timed_out || self.until.load(Ordering::Relaxed) != 0 {
            self.ended_at(self.now(), timed_out);
        }
    }

    fn may_ask_at(&self, now: u32, timeout: u32) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        // More than the longest time ahead is behind: 49 days have passed without an operation.
        if until == 0 || (1..=self.len().max(timeout)).contains(&until.wrapping_sub(now)) {
            return until == 0;
        }
        let probed = after(now, timeout);
        self.until.compare_exchange(until, probed, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn ended_at(&self, now: u32, timed_out: bool) {
        let until = match self.len() {
            0 => 0,
            len if timed_out => after(now, len),
            _ => 0,
        };
        self.until.store(until, Ordering::Relaxed);
    }

    fn now(&self) -> u32 {
        // Only differences count, so the lower half is enough.
        (self.made.elapsed().as_millis() & u128::from(u32::MAX)) as u32
    }
}

/// A time that is not 0, which stands for none.
fn after(now: u32, len: u32) -> u32 {
    now.wrapping_add(len).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: u32 = 50;

    fn paused(now: u32) -> Pause {
        let pause = Pause::new(Instant::now());
        pause.set(1000);
        assert!(pause.may_ask_at(now, TIMEOUT));
        pause.ended_at(now, true);
        pause
    }

    #[test]
    fn after_a_pause_one_operation_asks_and_its_end_decides_for_the_others() {
        for start in [0, 5000, u32::MAX - 500, u32::MAX - 999] {
            let at = |ms: u32| start.wrapping_add(ms);
            let pause = paused(start);
            assert!(!pause.may_ask_at(at(1), TIMEOUT) && !pause.may_ask_at(at(999), TIMEOUT));
            assert!(pause.may_ask_at(at(1001), TIMEOUT), "the pause is over");
            assert!(!pause.may_ask_at(at(1001), TIMEOUT), "one is enough");
            pause.ended_at(at(1051), true);
            assert!(!pause.may_ask_at(at(2050), TIMEOUT));
            assert!(pause.may_ask_at(at(2052), TIMEOUT));
            pause.ended_at(at(2053), false);
            assert!(pause.may_ask_at(at(2053), TIMEOUT) && pause.may_ask_at(at(2053), TIMEOUT));
        }
    }

    #[test]
    fn where_the_operation_that_asks_again_never_ends_another_one_does() {
        let pause = paused(0);
        assert!(pause.may_ask_at(1001, TIMEOUT));
        assert!(!pause.may_ask_at(1050, TIMEOUT));
        assert!(pause.may_ask_at(1052, TIMEOUT));
    }

    #[test]
    fn without_a_pause_every_operation_asks() {
        let pause = paused(0);
        pause.set(0);
        assert!(pause.may_ask_at(1, TIMEOUT));
        pause.ended_at(1, true);
        assert!(pause.may_ask_at(2, TIMEOUT));
    }

    #[test]
    fn a_pause_of_49_days_ago_is_over() {
        let pause = paused(5000);
        assert!(pause.may_ask_at(4000, TIMEOUT));
    }
}
