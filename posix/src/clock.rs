//! The time of the loop, and the time of day for log lines.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use distcache_core::time::Instant;

/// A monotonic clock in milliseconds since its start. Setting the time of day does not affect it.
#[derive(Clone, Copy, Debug)]
pub struct Clock(std::time::Instant);

impl Clock {
    /// A clock that starts at [`Instant::ORIGIN`] now.
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// The time now. Loops read it once a turn, so that all of a turn happens at one time.
    pub fn now(&self) -> Instant {
        Instant::from_millis(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// The time of day in milliseconds since 1970; 0 before.
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How long to wait at `now` for `deadline`, as [`Poller::wait`](crate::net::poller::Poller::wait)
/// takes it: zero for a deadline that has passed, `None` for none.
pub fn timeout(now: Instant, deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|deadline| Duration::from_millis(deadline.since(now)))
}

/// A time of day. Displays as UTC in RFC 3339 form, `2026-01-31T12:00:00.123Z`, without allocating.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timestamp(SystemTime);

impl Timestamp {
    /// The time of day now.
    pub fn now() -> Self {
        Self(SystemTime::now())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A clock before 1970 was never set; its time means nothing.
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute) = (second / 3600, second / 60 % 60);
        let (second, milli) = (second % 60, since.subsec_millis());
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

/// The year, month and day `days` days after 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    // Years begin on March 1st here, so that a leap day ends its year and its cycle of 400 years.
    let days = days.saturating_add(719_468);
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (year * 365 + year / 4 - year / 100);
    // From March on, every five months have 153 days.
    let month = (day * 5 + 2) / 153;
    let day = day - (month * 153 + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (cycle * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_starts_at_the_origin_and_never_goes_backwards() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(first.as_millis() < 60_000);
        assert!(clock.now() >= first);
    }

    #[test]
    fn a_deadline_that_has_passed_is_not_waited_for() {
        let at = Instant::from_millis;
        assert_eq!(timeout(at(5), None), None);
        assert_eq!(timeout(at(5), Some(at(3))), Some(Duration::ZERO));
        assert_eq!(timeout(at(5), Some(at(8))), Some(Duration::from_millis(3)));
    }

    #[test]
    fn a_timestamp_is_written_in_utc() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_769_860_800_123, "2026-01-31T12:00:00.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Timestamp(UNIX_EPOCH + Duration::from_millis(millis)).to_string(), text);
        }
        assert_eq!(
            Timestamp(UNIX_EPOCH - Duration::from_secs(9)).to_string(),
            "1970-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn days_follow_one_another_through_four_centuries() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..146_097 * 2 {
            assert_eq!(date(days), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            day += 1;
            if day > length[month as usize - 1] {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }
}
