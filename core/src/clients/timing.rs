//! How long clients may take, and which of them has taken too long.

use core::time::Duration;

use super::{ClientSlot, Clients};
use crate::memory::Array;
use crate::slots::{Key, Lane, Queue};
use crate::time::{Instant, earlier, millis};

/// How long a client that has hung up waits for its answer before it can be evicted, in milliseconds.
const HUNG_UP_GRACE: u64 = 1000;

/// How long a client may keep its connection. `None` sets no limit. Limits are rounded up to whole
/// milliseconds, and to at least one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// The time that a client may be silent between requests.
    pub idle: Option<Duration>,
    /// The time that a client may take for the rest of a request, or to read some of its answers.
    pub patience: Option<Duration>,
}

impl Limits {
    /// No limits: suits tests, and clients that are all trusted.
    pub const NONE: Self = Self { idle: None, patience: None };

    pub(super) const fn idle_millis(&self) -> u64 {
        millis_or_never(self.idle)
    }

    /// The patience in milliseconds; 0 for no limit.
    pub(crate) const fn patience_millis(&self) -> u64 {
        millis_or_never(self.patience)
    }
}

impl Default for Limits {
    /// Silence between requests is not limited; the patience is 10 seconds.
    fn default() -> Self {
        Self { idle: None, patience: Some(Duration::from_secs(10)) }
    }
}

/// A limit in milliseconds; 0 for none.
const fn millis_or_never(limit: Option<Duration>) -> u64 {
    match limit {
        Some(limit) if limit.is_zero() => 1,
        Some(limit) => millis(limit),
        None => 0,
    }
}

/// The limit that a client has reached.
#[derive(Clone, Copy, Debug)]
enum Reached {
    Patience,
    Idle,
    /// It has hung up, and others need its place.
    HungUp,
}

impl<C: Array<ClientSlot>, B: Array<u8>> Clients<C, B> {
    /// The next time at which a client reaches each limit, most urgent limit first. Both
    /// [`Clients::expire_next`] and [`Clients::deadline`] follow from this.
    #[inline]
    fn limits_reached(&self) -> [(Reached, Option<Instant>); 3] {
        [
            (Reached::Patience, self.expiry(&self.stalled, self.patience)),
            (Reached::Idle, self.expiry(&self.idle, self.idle_limit)),
            (Reached::HungUp, self.eviction()),
        ]
    }

    /// Returns a client that has reached a limit. It is aborted, unless it waits for this machine and
    /// not the machine for it: then its time starts again. `blocked` says that clients in the work
    /// queue wait for the machine.
    #[inline]
    pub(crate) fn expire_next(&mut self, now: Instant, blocked: bool) -> Option<Key> {
        if now == self.judged_at {
            return None;
        }
        let reached = self.limits_reached().into_iter();
        let mut reached = reached.filter(|(_, at)| at.is_some_and(|at| at <= now));
        let Some((limit, _)) = reached.next() else {
            self.judged_at = now;
            return None;
        };
        self.expire(now, limit, blocked)
    }

    #[cold]
    fn expire(&mut self, now: Instant, limit: Reached, blocked: bool) -> Option<Key> {
        let queue = match limit {
            Reached::Patience => &mut self.stalled,
            Reached::Idle => &mut self.idle,
            Reached::HungUp => &mut self.hung_up,
        };
        let key = self.slots.front(queue)?;
        let waits_for_us = match limit {
            Reached::Patience => {
                (blocked && self.slots.is_queued(&self.work, key))
                    || self.slots.is_queued(&self.awaiting_output_buffer, key)
            }
            Reached::Idle => self.slots.standing(Lane::Work, key).is_some(),
            Reached::HungUp => false,
        };
        if waits_for_us {
            self.retime(now, key, true);
            return Some(key);
        }
        self.slots.unlink(queue, key);
        let counter = match limit {
            Reached::Idle => &mut self.counters.idle,
            Reached::Patience | Reached::HungUp => &mut self.counters.stalled,
        };
        *counter = counter.saturating_add(1);
        if let Reached::HungUp = limit {
            self.evicted = Some(key);
        }
        self.slots.get_mut(key)?.aborted = true;
        Some(key)
    }

    /// When a client next reaches a limit.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let [patience, idle, hung_up] = self.limits_reached().map(|(_, at)| at);
        earlier(earlier(patience, idle), hung_up)
    }

    #[inline]
    fn expiry(&self, queue: &Queue, limit: u64) -> Option<Instant> {
        // A queue whose limit is 0 is empty.
        let first = self.slots.get(self.slots.front(queue)?)?;
        Some(first.since.after(limit))
    }

    /// When a client that has hung up is evicted; `None` while there are places for others.
    #[inline]
    fn eviction(&self) -> Option<Instant> {
        if self.hung_up.is_empty() { None } else { self.next_eviction() }
    }

    #[cold]
    fn next_eviction(&self) -> Option<Instant> {
        if self.evicted.is_some() {
            return None;
        }
        let capacity = self.slots.capacity();
        let crowded = self.slots.len().saturating_add(capacity.checked_div(8)?) >= capacity;
        self.expiry(&self.hung_up, HUNG_UP_GRACE).filter(|_| crowded)
    }

    /// Moves the client to the time queue that it belongs to now. Its time starts again if that is
    /// another queue than before, or if it has `moved_on`.
    #[inline]
    pub(crate) fn retime(&mut self, now: Instant, key: Key, moved_on: bool) {
        let hung_up = self.slots.get(key).is_some_and(|client| client.input_over);
        if !(hung_up && self.await_last_answer(now, key)) {
            self.requeue_by_time(now, key, moved_on);
        }
    }

    fn requeue_by_time(&mut self, now: Instant, key: Key, moved_on: bool) {
        let Some((client, standing)) = self.slots.get_standing_mut(Lane::Time, key) else {
            return;
        };
        let quiet = client.inbox.is_empty() && client.outbox.is_empty();
        let (right, wrong, limit) = match quiet {
            true => (&mut self.idle, &mut self.stalled, self.idle_limit),
            false => (&mut self.stalled, &mut self.idle, self.patience),
        };
        if client.in_flight.is_some() || client.aborted || limit == 0 {
            self.slots.unlink(right, key);
            self.slots.unlink(wrong, key);
            return;
        }
        if standing == Some(right.id()) {
            // Within a millisecond it would return to the same place.
            if moved_on && client.since != now {
                client.since = now;
                self.slots.unlink(right, key);
                self.slots.enqueue(right, key);
            }
            return;
        }
        client.since = now;
        match standing {
            Some(_) => self.slots.transfer(wrong, right, key),
            None => self.slots.enqueue(right, key),
        }
    }

    /// Times a client that has hung up; `false` if it is owed no answer, so that the other time
    /// queues are right for it.
    #[cold]
    fn await_last_answer(&mut self, now: Instant, key: Key) -> bool {
        let Some(client) = self.slots.get_mut(key) else {
            return false;
        };
        if client.in_flight.is_none() || client.aborted {
            self.slots.unlink(&mut self.hung_up, key);
            return false;
        }
        if self.slots.is_queued(&self.hung_up, key) {
            return true;
        }
        self.slots.unlink(&mut self.idle, key);
        self.slots.unlink(&mut self.stalled, key);
        self.slots.enqueue(&mut self.hung_up, key);
        if let Some(client) = self.slots.get_mut(key) {
            client.since = now;
        }
        true
    }
}
