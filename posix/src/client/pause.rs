//! The pause after a timeout, in which the client sends nothing.
//!
//! A stopped process still accepts connections, so only a timeout shows that it does not answer.
//! Without a pause every operation would wait for its own timeout.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// When a client may send again. Times are milliseconds since `start`, and wrap around.
pub(super) struct Pause {
    start: Instant,
    /// The length of a pause; 0 for no pauses.
    len: AtomicU32,
    /// The end of the current pause, or the deadline of the operation that tries the server again; 0
    /// for neither.
    until: AtomicU32,
}

impl Pause {
    /// No pauses until [`set`](Self::set) sets a length.
    pub(super) fn new(now: Instant) -> Self {
        Self { start: now, len: AtomicU32::new(0), until: AtomicU32::new(0) }
    }

    /// The length of a pause.
    pub(super) fn len(&self) -> u32 {
        self.len.load(Ordering::Relaxed)
    }

    /// Sets the length of a pause and ends the current one.
    pub(super) fn set(&self, len: u32) {
        self.len.store(len, Ordering::Relaxed);
        self.until.store(0, Ordering::Relaxed);
    }

    /// Whether an operation with this `timeout` may send a request. After a pause one operation may, and
    /// reports its outcome to [`ended`](Self::ended).
    pub(super) fn allows(&self, timeout: u32) -> bool {
        // Without a pause the clock is not read.
        self.until.load(Ordering::Relaxed) == 0 || self.allows_at(self.now(), timeout)
    }

    /// Reports the end of a request.
    pub(super) fn ended(&self, timed_out: bool) {
        if timed_out || self.until.load(Ordering::Relaxed) != 0 {
            self.ended_at(self.now(), timed_out);
        }
    }

    fn allows_at(&self, now: u32, timeout: u32) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        // Further ahead than any pause or timeout means past: the clock has wrapped in 49 days.
        if until == 0 || (1..=self.len().max(timeout)).contains(&until.wrapping_sub(now)) {
            return until == 0;
        }
        let deadline = after(now, timeout);
        self.until.compare_exchange(until, deadline, Ordering::Relaxed, Ordering::Relaxed).is_ok()
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
        (self.start.elapsed().as_millis() & u128::from(u32::MAX)) as u32
    }
}

/// The time `len` after `now`, but not 0, which has a meaning of its own.
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
        assert!(pause.allows_at(now, TIMEOUT));
        pause.ended_at(now, true);
        pause
    }

    #[test]
    fn after_a_pause_one_operation_tries_the_server_and_decides_for_the_others() {
        for start in [0, 5000, u32::MAX - 500, u32::MAX - 999] {
            let at = |ms: u32| start.wrapping_add(ms);
            let pause = paused(start);
            assert!(!pause.allows_at(at(1), TIMEOUT) && !pause.allows_at(at(999), TIMEOUT));
            assert!(pause.allows_at(at(1001), TIMEOUT), "the pause is over");
            assert!(!pause.allows_at(at(1001), TIMEOUT), "one is enough");
            pause.ended_at(at(1051), true);
            assert!(!pause.allows_at(at(2050), TIMEOUT));
            assert!(pause.allows_at(at(2052), TIMEOUT));
            pause.ended_at(at(2053), false);
            assert!(pause.allows_at(at(2053), TIMEOUT) && pause.allows_at(at(2053), TIMEOUT));
        }
    }

    #[test]
    fn another_operation_tries_the_server_if_the_first_one_never_ends() {
        let pause = paused(0);
        assert!(pause.allows_at(1001, TIMEOUT));
        assert!(!pause.allows_at(1050, TIMEOUT));
        assert!(pause.allows_at(1052, TIMEOUT));
    }

    #[test]
    fn without_a_pause_every_operation_may_send() {
        let pause = paused(0);
        pause.set(0);
        assert!(pause.allows_at(1, TIMEOUT));
        pause.ended_at(1, true);
        assert!(pause.allows_at(2, TIMEOUT));
    }

    #[test]
    fn a_pause_49_days_ago_is_over() {
        let pause = paused(5000);
        assert!(pause.allows_at(4000, TIMEOUT));
    }
}
