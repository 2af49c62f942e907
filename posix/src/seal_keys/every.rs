//! What happens at most once in a while, whichever thread is first.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// An interval. Times are milliseconds since `start`, and wrap around.
#[derive(Debug)]
pub(crate) struct Every {
    start: Instant,
    len: u32,
    next: AtomicU32,
}

impl Every {
    /// An interval of `len`, at most 24 days, that begins with a pause.
    pub(crate) fn after(len: Duration) -> Self {
        let every = Self::at_once(len);
        every.next.store(every.len, Ordering::Relaxed);
        every
    }

    /// An interval of `len`, at most 24 days, that begins without a pause.
    pub(crate) fn at_once(len: Duration) -> Self {
        Self { start: Instant::now(), len: millis(len), next: AtomicU32::new(0) }
    }

    /// Whether it is time. Of several threads that ask, one is told so.
    pub(crate) fn is_due(&self) -> bool {
        self.is_due_at(millis(self.start.elapsed()))
    }

    fn is_due_at(&self, now: u32) -> bool {
        let next = self.next.load(Ordering::Relaxed);
        // Further ahead than the interval means past: the clock has wrapped in 49 days.
        if (1..=self.len).contains(&next.wrapping_sub(now)) {
            return false;
        }
        let then = now.wrapping_add(self.len);
        self.next.compare_exchange(next, then, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Makes it time.
    #[cfg(test)]
    pub(crate) fn expire(&self) {
        self.next.store(millis(self.start.elapsed()), Ordering::Relaxed);
    }
}

fn millis(time: Duration) -> u32 {
    // Only differences count, so the lower half is enough.
    (time.as_millis() & u128::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: Duration = Duration::from_secs(10);

    #[test]
    fn it_is_time_once_in_each_interval() {
        let every = Every::at_once(LEN);
        let due = |now: u32| every.is_due_at(now);
        assert_eq!([0, 0, 1, 9_999].map(due), [true, false, false, false]);
        assert_eq!(
            [10_000, 19_999, 25_000, 34_999, 35_000].map(due),
            [true, false, true, false, true]
        );
        let every = Every::after(LEN);
        assert_eq!([0, 9_999, 10_000].map(|now| every.is_due_at(now)), [false, false, true]);
    }

    #[test]
    fn it_goes_on_when_the_clock_wraps_and_after_any_pause() {
        for now in [u32::MAX - 5_000, u32::MAX, u32::MAX / 2, u32::MAX / 2 + 10_001, 1 << 20] {
            let every = Every::at_once(LEN);
            every.next.store(now, Ordering::Relaxed);
            assert!(every.is_due_at(now), "{now}");
            let due = |later: u32| every.is_due_at(now.wrapping_add(later));
            assert_eq!([1, 9_999, 10_000, 10_001].map(due), [false, false, true, false]);
            assert_eq!([2_000_000_000, 2_000_000_001].map(due), [true, false]);
        }
    }
}
