//! A histogram of durations with a fixed number of buckets.

use std::time::Duration;

/// The significant bits of a value that select its bucket, so buckets are within 1/32 of the value.
const BITS: u32 = 5;
const LINEAR: usize = 1 << BITS;
/// One row of buckets for small values and one for each further power of two, up to 64 bits.
const BUCKETS: usize = LINEAR * (65 - BITS as usize);

/// Durations, each rounded up by less than 1/32.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    max: u64,
}

impl Histogram {
    /// An empty histogram.
    pub fn new() -> Self {
        Self { buckets: vec![0; BUCKETS].into_boxed_slice(), count: 0, max: 0 }
    }

    /// Counts a duration. Those of more than 584 years count as 584 years.
    pub fn record(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    /// The number of durations.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The longest duration, exactly; zero if there is none.
    pub const fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// The duration that `per_mille` of a thousand did not exceed; zero if there is none.
    pub fn quantile(&self, per_mille: u32) -> Duration {
        let rank = (u128::from(self.count) * u128::from(per_mille)).div_ceil(1000);
        let mut seen = 0_u128;
        for (number, &count) in self.buckets.iter().enumerate() {
            seen += u128::from(count);
            if count > 0 && seen >= rank {
                return Duration::from_nanos(longest(number).min(self.max));
            }
        }
        self.max()
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

fn bucket(nanos: u64) -> usize {
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(BITS + 1);
    // The highest bit of a shifted value is set, which skips the row below: rows do not overlap.
    LINEAR * shift as usize + (nanos >> shift) as usize
}

fn longest(bucket: usize) -> u64 {
    let shift = (bucket / LINEAR).saturating_sub(1);
    let first = (bucket - LINEAR * shift) as u64;
    // The last bucket ends at u64::MAX, so adding 1 first would overflow.
    (first << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_bucket_is_within_a_32nd_of_its_values() {
        let mut last = 0;
        for shift in 0..64 {
            for value in [
                (1_u64 << shift) - 1,
                1 << shift,
                (1 << shift) + (1 << shift) / 3,
                u64::MAX >> (63 - shift),
            ] {
                let number = bucket(value);
                assert!(number < BUCKETS && number >= last.min(number), "{value}");
                let end = longest(number);
                assert!(end >= value && end - value <= value / 32, "{value} is counted as {end}");
                assert_eq!(bucket(end), number, "{value}");
                last = number;
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn there_is_no_gap_between_buckets() {
        for number in 1..BUCKETS {
            assert_eq!(bucket(longest(number - 1) + 1), number);
        }
    }

    #[test]
    fn quantiles_are_those_of_the_counted_durations() {
        let mut histogram = Histogram::new();
        assert_eq!((histogram.quantile(500), histogram.max()), (Duration::ZERO, Duration::ZERO));
        for micros in 1..=1000 {
            histogram.record(Duration::from_micros(micros));
        }
        for (per_mille, micros) in
            [(1, 1), (500, 500), (900, 900), (990, 990), (999, 999), (1000, 1000)]
        {
            let (found, exact) = (histogram.quantile(per_mille), Duration::from_micros(micros));
            assert!(found >= exact && found - exact <= exact / 32, "{per_mille}: {found:?}");
        }
        assert_eq!((histogram.count(), histogram.max()), (1000, Duration::from_micros(1000)));
    }

    #[test]
    fn no_duration_is_too_long() {
        let mut histogram = Histogram::new();
        histogram.record(Duration::MAX);
        assert_eq!(histogram.quantile(1000), Duration::from_nanos(u64::MAX));
    }
}
