//! What a daemon tells of what it has done: at its end, and while it runs when something became of
//! clients.

use distcache_core::conns::Counters;
use distcache_core::machine::Machine;
use distcache_core::time::Instant;

use crate::hub::Hub;
use crate::service::Running;

/// How long at least between two times, in milliseconds: strangers decide how much there is to tell.
const PAUSE: u64 = 10_000;

/// Says when it is time to tell: some clients were refused or closed, and it is a while since the
/// last time.
#[derive(Debug, Default)]
pub(crate) struct Incidents {
    told: u64,
    told_at: Option<Instant>,
    changed: bool,
}

/// A machine that has something to tell.
pub(crate) trait Tells: Machine {
    /// What became of its clients so far.
    fn counters(&self) -> Counters;

    /// Prints what it has done so far.
    fn tell(&self, running: &Running);
}

impl Incidents {
    /// Ends a turn: tells what has happened so far where it is time to, and at the end of the program,
    /// which it says whether it has come.
    pub(crate) fn end_turn<M: Tells>(
        &mut self,
        now: Instant,
        hub: &Hub<M>,
        running: &Running,
    ) -> bool {
        self.end_turn_with(now, hub, running, || ())
    }

    /// The same for a program that has more to tell: `more` is called behind what all programs print.
    pub(crate) fn end_turn_with<M: Tells>(
        &mut self,
        now: Instant,
        hub: &Hub<M>,
        running: &Running,
        more: impl Fn(),
    ) -> bool {
        let unheard = hub.refused() + hub.datagrams_in_vain();
        let over = hub.is_over(now);
        let due = self.due(now, &hub.machine.counters(), unheard);
        for _ in 0..u8::from(due) + u8::from(over) {
            tell(hub, running);
            more();
        }
        over
    }

    /// When there is something to tell even if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.told_at.filter(|_| self.changed).map(|at| at.after(PAUSE))
    }

    /// Whether to tell now, of which `unheard` clients were refused for want of descriptors.
    fn due(&mut self, now: Instant, counters: &Counters, unheard: u64) -> bool {
        let Counters { accepted: _, refused, malformed, idle, stalled } = counters;
        let all = refused + unheard + malformed + idle + stalled;
        self.changed = all != self.told;
        if !self.changed || self.deadline().is_some_and(|deadline| now < deadline) {
            return false;
        }
        *self = Self { told: all, told_at: Some(now), changed: false };
        true
    }
}

fn tell<M: Tells>(hub: &Hub<M>, running: &Running) {
    hub.machine.tell(running);
    running.note_clients(&hub.connections(hub.machine.counters()), hub.refused());
    hub.note_datagrams(running);
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
        let mut incidents = Incidents::default();
        let come = Counters { accepted: 1, ..Counters::default() };
        assert!(!incidents.due(at(5), &come, 0), "that somebody comes is none");
        assert_eq!(incidents.deadline(), None);
        assert!(incidents.due(at(10), &refused(1), 0));
        assert!(!incidents.due(at(10), &refused(1), 0));
        assert_eq!(incidents.deadline(), None);
        assert!(!incidents.due(at(11), &refused(5), 0) && !incidents.due(at(12), &refused(9), 3));
        assert_eq!(incidents.deadline(), Some(at(10 + PAUSE)));
        assert!(incidents.due(at(10 + PAUSE), &refused(9), 3));
        assert_eq!(incidents.deadline(), None);
        assert!(incidents.due(at(10 + 2 * PAUSE), &refused(9), 4));
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
            let mut incidents = Incidents::default();
            assert!(incidents.due(Instant::from_millis(1), &counters, unheard), "{counters:?}");
        }
    }
}
