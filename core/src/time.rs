//! Time as the caller tells it.
//!
//! Nothing here reads a clock. Whoever drives a machine passes `now`, from any origin it likes, as
//! long as it is the same one for every call: milliseconds since start is as good as any other.

/// A point in time: milliseconds since an origin of the caller's choice.
///
/// All arithmetic saturates: a time cannot overflow into the past.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Instant(u64);

impl Instant {
    /// The origin itself: no time lies before it.
    pub const ORIGIN: Self = Self(0);

    /// The point `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the origin.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The point `millis` milliseconds later.
    pub const fn after(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to here; 0 where `earlier` is in truth later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_wraps_into_the_past() {
        let late = Instant::from_millis(u64::MAX);
        assert_eq!(late.after(1), late);
        assert_eq!(Instant::ORIGIN.since(late), 0);
        assert_eq!(Instant::from_millis(7).since(Instant::from_millis(3)), 4);
    }
}
