//! How copying from a server ends, and what comes next.

use super::{Asked, Copier, Link, NOTHING, PASSES, PAUSE, RETRY, TRIES};
use crate::time::Instant;

/// Why sessions were not copied from a server, or not all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CopyFailure {
    /// No connection.
    Unreachable,
    /// The connection broke.
    Lost,
    /// No answer for this many milliseconds.
    Silent(u64),
    /// The server does not support COPY.
    OldLevel,
    /// The server does not allow COPY.
    Refused,
    /// An answer is malformed, or the answers do not end.
    Malformed,
    /// The answers came too slowly, or took too long in all.
    Slow,
    /// There is no room for more sessions. Those that were added stay.
    Full,
}

/// The result of copying from one server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Copied {
    /// The number of the server.
    pub source: u8,
    /// Sessions added.
    pub sessions: u64,
    /// Sessions that the last pass left out, because they may have been removed here meanwhile.
    pub removed: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// Why it ended before the end.
    pub failure: Option<CopyFailure>,
}

impl Copier {
    pub(super) fn end_pass(&mut self, now: Instant) {
        if self.copied.removed == 0 || self.pass.saturating_add(1) >= PASSES {
            return self.conclude(now, None);
        }
        self.pass = self.pass.saturating_add(1);
        self.copied.removed = 0;
        (self.cursor, self.seen, self.empty) = (0, 0, 0);
        self.asked = Asked::Nothing(now.after(PAUSE));
    }

    /// Ends the connection because of a failure.
    pub(super) fn fail(&mut self, now: Instant, failure: CopyFailure) {
        match failure {
            CopyFailure::OldLevel
            | CopyFailure::Refused
            | CopyFailure::Malformed
            | CopyFailure::Slow
            | CopyFailure::Full => {
                self.conclude(now, Some(failure));
            }
            CopyFailure::Unreachable | CopyFailure::Lost | CopyFailure::Silent(_) => {
                self.count_try(now, failure);
                self.link = Link::Closing;
            }
        }
    }

    /// The attempt has ended without a connection to close.
    pub(super) fn end_try(&mut self, now: Instant, failure: CopyFailure) {
        self.count_try(now, failure);
        self.leave(now);
    }

    fn count_try(&mut self, now: Instant, failure: CopyFailure) {
        self.tries = self.tries.saturating_add(1);
        if self.tries >= TRIES {
            self.conclude(now, Some(failure));
        }
    }

    /// Notes the result for this server. Its connection must be closed.
    fn conclude(&mut self, now: Instant, failure: Option<CopyFailure>) {
        let millis = now.since(self.began);
        self.result = Some(Copied { source: self.number, millis, failure, ..self.copied });
        self.link = Link::Closing;
    }

    /// Goes on after the end of a connection or an attempt: with the next server, or another attempt.
    pub(super) fn leave(&mut self, now: Instant) {
        self.era = self.era.wrapping_add(1);
        self.wanted.clear();
        (self.cursor, self.seen, self.empty) = (0, 0, 0);
        self.copied.removed = 0;
        if self.result.is_none_or(|result| result.source != self.number) {
            self.link = Link::Due(now.after(RETRY));
            return;
        }
        self.number = self.number.saturating_add(1);
        (self.tries, self.pass, self.copied, self.began) = (0, 0, NOTHING, now);
        let more = usize::from(self.number) < self.sources.len();
        self.link = if more { Link::Due(now) } else { Link::Off };
    }
}
