//! What a server must answer about one session.

use std::time::{Duration, Instant};

/// How near an expiry either answer is right: clocks count milliseconds, and a server reads its own
/// once for many requests. This much on either side of the time that the request itself took.
pub(super) const MARGIN: Duration = Duration::from_millis(100);

/// What is known about a session at the server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Known {
    /// Not there.
    Absent,
    /// There, until some time from `earliest` to `latest`.
    Stored { earliest: Instant, latest: Instant },
}

/// What an answer may say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Presence {
    Absent,
    There,
    Either,
}

/// When an operation was: sent, and answered. The server did it somewhere between.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) sent: Instant,
    pub(super) answered: Instant,
}

impl Known {
    /// What is known after the session was stored for `life`.
    pub(super) fn stored(span: Span, life: Duration) -> Self {
        Self::Stored { earliest: span.sent + life, latest: span.answered + life }
    }

    /// What an operation at that time is to find.
    pub(super) fn presence(self, span: Span) -> Presence {
        match self {
            Self::Stored { earliest, .. } if span.answered + MARGIN < earliest => Presence::There,
            Self::Stored { latest, .. } if span.sent <= latest + MARGIN => Presence::Either,
            Self::Stored { .. } | Self::Absent => Presence::Absent,
        }
    }
}

impl Presence {
    /// Whether an answer that says so is right.
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
    fn a_session_is_there_then_either_then_gone() {
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
    fn only_near_an_expiry_both_answers_are_right() {
        for (presence, there, absent) in [
            (Presence::There, true, false),
            (Presence::Absent, false, true),
            (Presence::Either, true, true),
        ] {
            assert_eq!((presence.allows(true), presence.allows(false)), (there, absent));
        }
    }
}
