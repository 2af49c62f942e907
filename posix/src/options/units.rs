//! Numbers with units.

use std::fmt;

/// The units of a kind of number: the largest first, and of equal ones the shortest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Units {
    /// The kind of number, for the error "needs ...".
    what: &'static str,
    units: &'static [(&'static str, u64)],
    /// Whether the case of a unit is ignored.
    any_case: bool,
}

/// A number without units.
pub(super) const PLAIN: Units = Units { what: "a number", units: &[], any_case: false };

/// A count.
pub(super) const COUNT: Units = Units {
    what: "a number",
    units: &[("M", 1_000_000), ("k", 1000), ("K", 1000)],
    any_case: false,
};

/// A number of bytes.
pub(super) const BYTES: Units = Units {
    what: "a number of bytes",
    units: &[
        ("T", 1 << 40),
        ("TB", 1 << 40),
        ("TiB", 1 << 40),
        ("G", 1 << 30),
        ("GB", 1 << 30),
        ("GiB", 1 << 30),
        ("M", 1 << 20),
        ("MB", 1 << 20),
        ("MiB", 1 << 20),
        ("K", 1 << 10),
        ("KB", 1 << 10),
        ("KiB", 1 << 10),
    ],
    any_case: true,
};

/// A time, in milliseconds by default.
pub(super) const MILLIS: Units = Units {
    what: "a time",
    units: &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)],
    any_case: false,
};

/// A time, in seconds by default.
pub(super) const SECONDS: Units = Units {
    what: "a time",
    units: &[("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)],
    any_case: false,
};

impl Units {
    /// Parses a number with a unit; `None` if it is invalid or too large.
    pub(super) fn parse(&self, text: &str) -> Option<u64> {
        let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(at);
        let same = |known: &str| match self.any_case {
            true => known.eq_ignore_ascii_case(unit),
            false => known == unit,
        };
        let factor = match unit {
            "" => Some(1),
            _ => self.units.iter().find(|(known, _)| same(known)).map(|(_, factor)| *factor),
        };
        // The split leaves only digits: `parse` would accept a sign.
        number.parse::<u64>().ok()?.checked_mul(factor?)
    }

    /// The valid values in words: "a number from 1 to 60".
    pub(super) fn needed(&self, low: u64, high: u64) -> String {
        format!("{} from {} to {}", self.what, self.written(low), self.written(high))
    }

    /// A number in the largest unit that divides it.
    fn written(&self, number: u64) -> impl fmt::Display {
        // Counts are easier to compare without units.
        let units = if self.what == PLAIN.what { &[] } else { self.units };
        let whole = |(_, factor): &&(&str, u64)| number > 0 && number.is_multiple_of(*factor);
        match units.iter().find(whole) {
            Some((unit, factor)) => format!("{}{unit}", number / factor),
            None => number.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_number_accepts_its_units_only() {
        for (units, text, number) in [
            (PLAIN, "7", Some(7)),
            (PLAIN, "007", Some(7)),
            (PLAIN, "7k", None),
            (COUNT, "64k", Some(64_000)),
            (COUNT, "64K", Some(64_000)),
            (COUNT, "2M", Some(2_000_000)),
            (COUNT, "2m", None),
            (COUNT, "2 k", None),
            (BYTES, "7", Some(7)),
            (BYTES, "2K", Some(2048)),
            (BYTES, "2kb", Some(2048)),
            (BYTES, "64M", Some(64 << 20)),
            (BYTES, "3g", Some(3 << 30)),
            (BYTES, "2GB", Some(2 << 30)),
            (BYTES, "2GiB", Some(2 << 30)),
            (BYTES, "1T", Some(1 << 40)),
            (BYTES, "1.5M", None),
            (BYTES, "K", None),
            (BYTES, "18014398509481984K", None),
            (MILLIS, "250", Some(250)),
            (MILLIS, "250ms", Some(250)),
            (MILLIS, "5s", Some(5000)),
            (MILLIS, "2m", Some(120_000)),
            (MILLIS, "1h", Some(3_600_000)),
            (MILLIS, "7d", Some(604_800_000)),
            (MILLIS, "5 s", None),
            (MILLIS, "5S", None),
            (MILLIS, "-5s", None),
            (MILLIS, "+5s", None),
            (SECONDS, "60", Some(60)),
            (SECONDS, "60s", Some(60)),
            (SECONDS, "7d", Some(604_800)),
            (SECONDS, "60ms", None),
            (PLAIN, "", None),
            (PLAIN, "٣", None),
            (PLAIN, "99999999999999999999", None),
        ] {
            assert_eq!(units.parse(text), number, "{text:?} as {}", units.what);
        }
    }

    #[test]
    fn the_valid_values_are_in_the_largest_units_that_divide_them() {
        for (units, low, high, text) in [
            (PLAIN, 3, 60, "a number from 3 to 60"),
            (COUNT, 1, 1_000_000, "a number from 1 to 1000000"),
            (BYTES, 256, 1 << 40, "a number of bytes from 256 to 1T"),
            (MILLIS, 1, 3_600_000, "a time from 1ms to 1h"),
            (MILLIS, 0, 604_800_000, "a time from 0 to 7d"),
            (SECONDS, 1, 90, "a time from 1s to 90s"),
        ] {
            assert_eq!(units.needed(low, high), text);
        }
    }
}
