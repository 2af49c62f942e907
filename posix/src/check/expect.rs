//! What a server may answer about one session.

use std::time::{Duration, Instant};

/// The time before and after an expiry in which both answers are right, besides the duration of the
/// request itself: clocks count milliseconds, and a server reads its own once for many requests.
pub(super) const MARGIN: Duration = Duration::from_millis(100);

/// What is known of a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Known {
    /// Not stored.
    Absent,
    /// Stored. It expires between `earliest` and `latest`.
    Stored { earliest: Instant, latest: Instant },
}

/// Which answers are right.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Presence {
    Absent,
    There,
    Either,
}

/// The time of an operation. The server executed it at some point between.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) sent: Instant,
    pub(super) answered: Instant,
}

impl Known {
    /// A session that this operation stored for `life`.
    pub(super) fn stored(span: Span, life: Duration) -> Self {
        Self::Stored { earliest: span.sent + life, latest: span.answered + life }
    }

    /// Which answers are right for an operation at that time.
    pub(super) fn presence(self, span: Span) -> Presence {
        match self {
            Self::Stored { earliest, .. } if span.answered + MARGIN < earliest => Presence::There,
            Self::Stored { latest, .. } if span.sent <= latest + MARGIN => Presence::Either,
            Self::Stored { .. } | Self::Absent => Presence::Absent,
        }
    }
}

impl Presence {
    /// Whether this answer is right.
    pub(super) fn allows(self, there: bool) -> bool {
        match self {
            Self::Absent => !there,
            Self::There => there,
            Self::Either => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_there_until_it_expires_with_a_margin() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let span = |sent, answered| Span { sent: at(sent), answered: at(answered) };
        let known = Known::stored(span(0, 10), Duration::from_millis(1000));
        for (sent, answered, presence) in [
            (10, 20, Presence::There),
            (890, 899, Presence::There),
            (890, 900, Presence::Either),
            (20, 5000, Presence::Either),
            (1110, 1111, Presence::Either),
            (1111, 1112, Presence::Absent),
        ] {
            assert_eq!(known.presence(span(sent, answered)), presence, "{sent} to {answered}");
        }
        assert_eq!(Known::Absent.presence(span(0, 5000)), Presence::Absent);
    }

    #[test]
    fn both_answers_are_right_only_near_an_expiry() {
        for (presence, there, absent) in [
            (Presence::There, true, false),
            (Presence::Absent, false, true),
            (Presence::Either, true, true),
        ] {
            assert_eq!((presence.allows(true), presence.allows(false)), (there, absent));
        }
    }
}
