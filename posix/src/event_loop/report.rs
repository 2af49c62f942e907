//! The counters that a daemon prints: at its end, and while it runs after clients were refused or
//! closed.

use distcache_core::Counters;
use distcache_core::machine::Machine;
use distcache_core::time::Instant;

use crate::event_loop::{Denied, EventLoop};
use crate::process::start::Started;

/// The least time between two reports, in milliseconds: clients decide how often there is a reason.
const PAUSE: u64 = 10_000;

/// Decides when to report: some clients were refused or closed, and the last report is a while ago.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    /// The number of refused and closed clients in the last report, and its time.
    reported: u64,
    reported_at: Option<Instant>,
    /// The number has changed since.
    changed: bool,
}

/// A machine with counters.
pub(crate) trait Report: Machine {
    /// What happened to its clients so far.
    fn counters(&self) -> Counters;

    /// Prints its other counters.
    fn report(&self, started: &Started);
}

impl Reporter {
    /// Ends a turn: reports if that is due, and at the end of the program. Returns whether the program
    /// is at its end.
    pub(crate) fn end_turn<M: Report>(
        &mut self,
        now: Instant,
        event_loop: &EventLoop<M>,
        started: &Started,
    ) -> bool {
        self.end_turn_with(now, event_loop, started, || ())
    }

    /// The same for a program with more counters: `more` prints them, after those of all programs.
    pub(crate) fn end_turn_with<M: Report>(
        &mut self,
        now: Instant,
        event_loop: &EventLoop<M>,
        started: &Started,
        more: impl Fn(),
    ) -> bool {
        let others = event_loop.refused() + event_loop.failed_datagrams();
        let done = event_loop.is_done(now);
        let due = self.due(now, &event_loop.machine.counters(), others);
        if due || done {
            report(event_loop, started);
            more();
        }
        done
    }

    /// When a report is due even if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.reported_at.filter(|_| self.changed).map(|at| at.after(PAUSE))
    }

    /// Whether to report now. `others` counts those that the machine does not know of.
    fn due(&mut self, now: Instant, counters: &Counters, others: u64) -> bool {
        let Counters { accepted: _, refused, malformed, idle, stalled } = counters;
        let all = refused + others + malformed + idle + stalled;
        self.changed = all != self.reported;
        if !self.changed || self.deadline().is_some_and(|deadline| now < deadline) {
            return false;
        }
        *self = Self { reported: all, reported_at: Some(now), changed: false };
        true
    }
}

/// Prints all counters.
pub(crate) fn report<M: Report>(event_loop: &EventLoop<M>, started: &Started) {
    event_loop.machine.report(started);
    let counters = event_loop.connections(event_loop.machine.counters());
    let Counters { accepted, refused, malformed, idle, stalled } = counters;
    let refused = refused + event_loop.refused();
    started.info(format_args!(
        "{accepted} clients accepted, {refused} refused; closed: {malformed} malformed, {idle} idle, \
         {stalled} stalled"
    ));
    let Denied { count, uid } = event_loop.denied();
    if count > 0 {
        let what = "of these refused by -allowuid and -allowgid";
        match uid {
            Some(uid) => started.info(format_args!("{count} {what}; the last one was user {uid}")),
            None => started.info(format_args!("{count} {what}")),
        }
    }
    event_loop.report_datagrams(started);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(refused: u64) -> Counters {
        Counters { refused, ..Counters::default() }
    }

    #[test]
    fn the_first_incident_is_reported_at_once_and_the_next_ones_together() {
        let at = Instant::from_millis;
        let mut reporter = Reporter::default();
        let accepted = Counters { accepted: 1, ..Counters::default() };
        assert!(!reporter.due(at(5), &accepted, 0), "a new client is no incident");
        assert_eq!(reporter.deadline(), None);
        assert!(reporter.due(at(10), &refused(1), 0));
        assert!(!reporter.due(at(10), &refused(1), 0));
        assert_eq!(reporter.deadline(), None);
        assert!(!reporter.due(at(11), &refused(5), 0) && !reporter.due(at(12), &refused(9), 3));
        assert_eq!(reporter.deadline(), Some(at(10 + PAUSE)));
        assert!(reporter.due(at(10 + PAUSE), &refused(9), 3));
        assert_eq!(reporter.deadline(), None);
        assert!(reporter.due(at(10 + 2 * PAUSE), &refused(9), 4));
    }

    #[test]
    fn clients_that_are_closed_or_refused_are_incidents() {
        let none = Counters::default();
        let kinds = [
            (Counters { malformed: 1, ..none }, 0),
            (Counters { idle: 1, ..none }, 0),
            (Counters { stalled: 1, ..none }, 0),
            (Counters { refused: 1, ..none }, 0),
            (none, 1),
        ];
        for (counters, unheard) in kinds {
            let mut reporter = Reporter::default();
            assert!(reporter.due(Instant::from_millis(1), &counters, unheard), "{counters:?}");
        }
    }
}
