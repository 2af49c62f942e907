//! What a daemon tells of what it has done: at its end, and while it runs when something became of
//! clients.

use distcache_core::Counters;
use distcache_core::machine::Machine;
use distcache_core::time::Instant;

use crate::event_loop::EventLoop;
use crate::process::start::Started;

/// How long at least between two times, in milliseconds: strangers decide how much there is to tell.
const PAUSE: u64 = 10_000;

/// Says when it is time to tell: some clients were refused or closed, and it is a while since the
/// last time.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    reported: u64,
    reported_at: Option<Instant>,
    changed: bool,
}

/// A machine that has something to tell.
pub(crate) trait Report: Machine {
    /// What became of its clients so far.
    fn counters(&self) -> Counters;

    /// Prints what it has done so far.
    fn report(&self, started: &Started);
}

impl Reporter {
    /// Ends a turn: tells what has happened so far where it is time to, and at the end of the program,
    /// which it says whether it has come.
    pub(crate) fn end_turn<M: Report>(
        &mut self,
        now: Instant,
        event_loop: &EventLoop<M>,
        started: &Started,
    ) -> bool {
        self.end_turn_with(now, event_loop, started, || ())
    }

    /// The same for a program that has more to tell: `more` is called behind what all programs print.
    pub(crate) fn end_turn_with<M: Report>(
        &mut self,
        now: Instant,
        event_loop: &EventLoop<M>,
        started: &Started,
        more: impl Fn(),
    ) -> bool {
        let unheard = event_loop.refused() + event_loop.datagrams_in_vain();
        let over = event_loop.is_over(now);
        let due = self.due(now, &event_loop.machine.counters(), unheard);
        for _ in 0..u8::from(due) + u8::from(over) {
            report(event_loop, started);
            more();
        }
        over
    }

    /// When there is something to tell even if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.reported_at.filter(|_| self.changed).map(|at| at.after(PAUSE))
    }

    /// Whether to tell now, of which `unheard` clients were refused for want of descriptors.
    fn due(&mut self, now: Instant, counters: &Counters, unheard: u64) -> bool {
        let Counters { accepted: _, refused, malformed, idle, stalled } = counters;
        let all = refused + unheard + malformed + idle + stalled;
        self.changed = all != self.reported;
        if !self.changed || self.deadline().is_some_and(|deadline| now < deadline) {
            return false;
        }
        *self = Self { reported: all, reported_at: Some(now), changed: false };
        true
    }
}

fn report<M: Report>(event_loop: &EventLoop<M>, started: &Started) {
    event_loop.machine.report(started);
    started.report_clients(
        &event_loop.connections(event_loop.machine.counters()),
        event_loop.refused(),
    );
    event_loop.report_datagrams(started);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(refused: u64) -> Counters {
        Counters { refused, ..Counters::default() }
    }

    #[test]
    fn the_first_incident_is_told_at_once_and_the_others_together() {
        let at = Instant::from_millis;
        let mut reporter = Reporter::default();
        let come = Counters { accepted: 1, ..Counters::default() };
        assert!(!reporter.due(at(5), &come, 0), "that somebody comes is none");
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
    fn whatever_becomes_of_clients_is_an_incident() {
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
