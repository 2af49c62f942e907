//! Time, as the caller tells it.
//!
//! No machine reads a clock. The caller passes `now`, measured from any origin, as long as the origin
//! is the same for every call: the start of the program, for example.

use core::ops::Add;
use core::time::Duration;

/// A point in time: milliseconds since an origin of the caller's choice.
///
/// All arithmetic saturates, so a time never wraps into the past.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Instant(u64);

impl Instant {
    /// The origin itself: no time lies before it.
    pub const ORIGIN: Self = Self(0);

    /// The point `elapsed` after the origin, such as `start.elapsed()` of a [`std::time::Instant`];
    /// what is over a whole millisecond is cut off.
    ///
    /// [`std::time::Instant`]: https://doc.rust-lang.org/std/time/struct.Instant.html
    pub const fn from_elapsed(elapsed: Duration) -> Self {
        Self(saturate(elapsed.as_millis()))
    }

    /// The point `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The milliseconds since the origin.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The point `millis` milliseconds later.
    pub const fn after(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// The milliseconds from `earlier` to this point; 0 if `earlier` is in fact later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The time from `earlier` to this point; zero if `earlier` is in fact later.
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.since(earlier))
    }
}

/// Adds `later`, rounded up to a whole millisecond.
impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        self.after(millis(later))
    }
}

/// The earlier of two deadlines.
#[inline]
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// A time in milliseconds, rounded up.
pub(crate) const fn millis(time: Duration) -> u64 {
    saturate(time.as_nanos().div_ceil(1_000_000))
}

const fn saturate(millis: u128) -> u64 {
    if millis > u64::MAX as u128 { u64::MAX } else { millis as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_wraps_into_the_past() {
        let late = Instant::from_millis(u64::MAX);
        assert_eq!((late.after(1), late + Duration::MAX), (late, late));
        assert_eq!(Instant::from_elapsed(Duration::MAX), late);
        assert_eq!(Instant::ORIGIN.since(late), 0);
        assert_eq!(Instant::from_millis(7).since(Instant::from_millis(3)), 4);
    }

    #[test]
    fn a_deadline_is_rounded_up_and_a_clock_is_rounded_down() {
        let micros = Duration::from_micros(1_001);
        assert_eq!(Instant::ORIGIN + micros, Instant::from_millis(2));
        assert_eq!(Instant::from_elapsed(micros), Instant::from_millis(1));
        let (two, seven) = (Instant::from_millis(2), Instant::from_millis(7));
        assert_eq!(seven.saturating_duration_since(two), Duration::from_millis(5));
    }
}
