//! The clients' connections, of a server or of a proxy: bytes held, room, time.
//!
//! A connection without bytes holds no buffer. What stands in whose queue:
//!
//! ```text
//!  work lane   work      bytes came, or room for answers: `advance` looks at it
//!              awaiting_output_buffer   has a whole request, but the pool has no buffer for the answer
//!              awaiting_input_buffer    has something to say, but the pool has no buffer to read it into
//!  time lane   idle      owes nothing and is owed nothing         since the last request or answer
//!              stalled   in the middle of a request or an answer  since that last moved on
//!              left      has hung up and waits for an answer      since both is so
//! ```
//!
//! A client that has hung up may be gone or may wait for its answer: that can't be told. It keeps its
//! place until there is hardly any left for others.
//!
//! Who has just sent something changes its time queue once `advance` has looked at it. A queue whose
//! wait has no end stays empty.
//! All waits in one time queue are equally long, so each queue is in the order of its deadlines.
//! The last buffer of the pool is only lent for answers: with it, requests that are already here
//! can be answered, and then their buffers come back.

use crate::buffer::{Fifo, Pool};
use crate::machine::Wants;
use crate::slots::{Key, Lane, Queue, QueueId, Slot, Slots};
use crate::time::Instant;
use crate::wire::MESSAGE_MAX;

/// How long a client that has hung up waits for its answer in any case, in milliseconds.
const LEFT_GRACE: u64 = 1000;

/// How long a client may keep its connection without using it as it should; 0 is for ever.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Milliseconds that a client may be silent between requests.
    pub idle: u64,
    /// Milliseconds that a client may take for the rest of a request, or to read from its answers.
    pub patience: u64,
}

/// What happened to connections, counted from the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Clients taken.
    pub accepted: u64,
    /// Clients refused because all places were taken.
    pub refused: u64,
    /// Clients closed for what they sent.
    pub malformed: u64,
    /// Clients closed after `idle`.
    pub idle: u64,
    /// Clients closed after `patience`, and those that had hung up and made room for others.
    pub stalled: u64,
}

/// Why a server or a proxy cannot be set up with what it was given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SetupError {
    /// Each buffer needs at least [`MESSAGE_MAX`] bytes.
    BufferLen,
    /// The pool needs at least this many buffers.
    Buffers(u32),
    /// There is no slot for a connection, or for a request in request in flight.
    Slots,
    /// A proxy needs a server.
    NoServers,
    /// A proxy has [`SERVERS_MAX`](crate::proxy::SERVERS_MAX) servers at most.
    TooManyServers,
}

impl core::fmt::Display for SetupError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::BufferLen => write!(f, "each buffer needs at least {MESSAGE_MAX} bytes"),
            Self::Buffers(count) => write!(f, "at least {count} buffers are needed"),
            Self::Slots => f.write_str("there is no slot for a connection or for a request"),
            Self::NoServers => f.write_str("a proxy needs at least one server"),
            Self::TooManyServers => {
                write!(f, "a proxy has at most {} servers", crate::proxy::SERVERS_MAX)
            }
        }
    }
}

impl core::error::Error for SetupError {}

/// One client's connection.
#[derive(Debug)]
pub struct Client {
    pub(crate) inbox: Fifo,
    pub(crate) outbox: Fifo,
    /// The request that is being answered elsewhere.
    pub(crate) in_flight: Option<Key>,
    input_over: bool,
    aborted: bool,
    since: Instant,
}

#[derive(Debug)]
pub(crate) struct Clients<'m> {
    pub(crate) pool: Pool<'m>,
    pub(crate) counters: Counters,
    slots: Slots<'m, Client>,
    limits: Limits,
    /// The time at which nobody was overdue.
    judged_at: Instant,
    work: Queue,
    awaiting_output_buffer: Queue,
    awaiting_input_buffer: Queue,
    idle: Queue,
    stalled: Queue,
    left: Queue,
    /// The last one that was closed to make room: the next follows once it is gone.
    made_room: Option<Key>,
}

impl<'m> Clients<'m> {
    pub(crate) fn new(
        slots: &'m mut [Slot<Client>],
        pool: Pool<'m>,
        buffers: u32,
        limits: Limits,
    ) -> Result<Self, SetupError> {
        if pool.buffer_len() < MESSAGE_MAX {
            return Err(SetupError::BufferLen);
        }
        if pool.count() < buffers {
            return Err(SetupError::Buffers(buffers));
        }
        if slots.is_empty() {
            return Err(SetupError::Slots);
        }
        Ok(Self {
            pool,
            counters: Counters::default(),
            slots: Slots::new(slots),
            limits,
            judged_at: Instant::ORIGIN,
            work: Queue::new(Lane::Work, QueueId(0)),
            awaiting_output_buffer: Queue::new(Lane::Work, QueueId(1)),
            awaiting_input_buffer: Queue::new(Lane::Work, QueueId(2)),
            idle: Queue::new(Lane::Time, QueueId(0)),
            stalled: Queue::new(Lane::Time, QueueId(1)),
            left: Queue::new(Lane::Time, QueueId(2)),
            made_room: None,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn open(&mut self, now: Instant) -> Option<Key> {
        let conn = Client {
            inbox: Fifo::new(),
            outbox: Fifo::new(),
            in_flight: None,
            input_over: false,
            aborted: false,
            since: now,
        };
        let Ok(key) = self.slots.insert(conn) else {
            self.counters.refused = self.counters.refused.saturating_add(1);
            return None;
        };
        self.counters.accepted = self.counters.accepted.saturating_add(1);
        if self.limits.idle > 0 {
            self.slots.enqueue(&mut self.idle, key);
        }
        if !self.left.is_empty() {
            // Now there may be hardly any room for others.
            self.judged_at = Instant::ORIGIN;
        }
        Some(key)
    }

    /// The connection and the pool that its bytes lie in.
    #[inline]
    pub(crate) fn get(&mut self, key: Key) -> Option<(&mut Client, &mut Pool<'m>)> {
        Some((self.slots.get_mut(key)?, &mut self.pool))
    }

    pub(crate) fn space(&mut self, key: Key) -> &mut [u8] {
        if !self.wants(key).read {
            return Default::default();
        }
        let Some(conn) = self.slots.get_mut(key) else {
            return Default::default();
        };
        if !conn.inbox.has_buffer() && self.pool.free() < 2 {
            self.slots.enqueue(&mut self.awaiting_input_buffer, key);
            return Default::default();
        }
        conn.inbox.space(&mut self.pool)
    }

    pub(crate) fn filled(&mut self, key: Key, len: usize) {
        let Some(conn) = self.slots.get_mut(key) else {
            return;
        };
        conn.inbox.filled(&mut self.pool, len);
        if len > 0 {
            self.slots.enqueue(&mut self.work, key);
        }
    }

    pub(crate) fn ended(&mut self, now: Instant, key: Key) {
        if let Some(conn) = self.slots.get_mut(key) {
            conn.input_over = true;
            let waits = conn.in_flight.is_some();
            self.requeue(key);
            if waits {
                self.retime(now, key, false);
            }
        }
    }

    pub(crate) fn pending(&self, key: Key) -> &[u8] {
        // Before the request is answered in full, what is there may still be waiting for the rest.
        let conn = self.slots.get(key).filter(|conn| !conn.aborted && conn.in_flight.is_none());
        conn.map_or(&[], |conn| conn.outbox.bytes(&self.pool))
    }

    pub(crate) fn sent(&mut self, now: Instant, key: Key, len: usize) {
        let Some(conn) = self.slots.get_mut(key) else {
            return;
        };
        if len == 0 || conn.outbox.is_empty() {
            return;
        }
        conn.outbox.consume(&mut self.pool, len);
        if conn.outbox.is_empty() && !conn.inbox.is_empty() {
            self.slots.enqueue(&mut self.work, key);
        }
        self.retime(now, key, true);
    }

    /// The request of this client that is being answered elsewhere.
    pub(crate) fn in_flight(&self, key: Key) -> Option<Key> {
        self.slots.get(key)?.in_flight
    }

    /// Checks that all queues are whole and that each client stands where the table above says.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let Self {
            slots,
            work,
            awaiting_output_buffer,
            awaiting_input_buffer,
            idle,
            stalled,
            left,
            ..
        } = self;
        slots.check(
            [work, awaiting_output_buffer, awaiting_input_buffer, idle, stalled, left].into_iter(),
        )?;
        for key in slots.keys() {
            let Some(conn) = slots.get(key) else {
                return Err("a key finds nothing");
            };
            let quiet = conn.inbox.is_empty() && conn.outbox.is_empty();
            let busy = conn.in_flight.is_some() || conn.aborted;
            let left = slots.is_queued(left, key);
            if left != (conn.input_over && conn.in_flight.is_some() && !conn.aborted) {
                return Err("a client that has hung up is not known as such, or another is");
            }
            if busy && !left && slots.standing(Lane::Time, key).is_some() {
                return Err("a client is timed that waits for us, or is to be closed");
            }
            if slots.is_queued(awaiting_input_buffer, key) && conn.inbox.has_buffer() {
                return Err("a client waits for a buffer that it has");
            }
            // What has come since the last look is timed at the next one.
            let looked_at = slots.standing(Lane::Work, key).is_none() && !busy;
            let limit = if quiet { self.limits.idle } else { self.limits.patience };
            let right = slots.is_queued(if quiet { idle } else { stalled }, key);
            if looked_at && right != (limit > 0) {
                return Err("a client is not timed as it should be");
            }
        }
        Ok(())
    }

    pub(crate) fn closed(&mut self, key: Key) -> Option<Client> {
        let Self {
            work, awaiting_output_buffer, awaiting_input_buffer, idle, stalled, left, ..
        } = self;
        for queue in [work, awaiting_output_buffer, awaiting_input_buffer, idle, stalled] {
            self.slots.unlink(queue, key);
        }
        if !left.is_empty() {
            self.slots.unlink(left, key);
        }
        if self.made_room == Some(key) {
            (self.made_room, self.judged_at) = (None, Instant::ORIGIN);
        }
        let mut conn = self.slots.remove(key)?;
        conn.inbox.clear(&mut self.pool);
        conn.outbox.clear(&mut self.pool);
        Some(conn)
    }

    pub(crate) fn wants(&self, key: Key) -> Wants {
        let Some(conn) = self.slots.get(key) else {
            return Wants::CLOSE;
        };
        if conn.aborted {
            return Wants::CLOSE;
        }
        let waits = self.slots.standing(Lane::Work, key).is_some();
        let write = !conn.outbox.is_empty() && conn.in_flight.is_none();
        Wants {
            // A slow reader is not read from while its answers wait.
            read: !conn.input_over && !write && !waits && conn.inbox.len() < self.pool.buffer_len(),
            write,
            close: conn.input_over && !write && !waits && conn.in_flight.is_none(),
        }
    }

    /// The client's fault: nothing more is read from it, and once it has its answers it is closed.
    pub(crate) fn malformed(&mut self, key: Key) {
        let Some(conn) = self.slots.get_mut(key) else {
            return;
        };
        conn.inbox.clear(&mut self.pool);
        conn.input_over = true;
        self.counters.malformed = self.counters.malformed.saturating_add(1);
    }

    /// The client whose turn it is, first come, first served; it stays first until it is taken.
    pub(crate) fn first(&self) -> Option<Key> {
        self.slots.front(&self.work)
    }

    /// Takes the client out of the work queue.
    pub(crate) fn take(&mut self, key: Key) {
        self.slots.unlink(&mut self.work, key);
    }

    /// Puts the client at the end of the work queue.
    pub(crate) fn requeue(&mut self, key: Key) {
        self.slots.unlink(&mut self.awaiting_input_buffer, key);
        self.slots.unlink(&mut self.awaiting_output_buffer, key);
        self.slots.enqueue(&mut self.work, key);
    }

    /// Sets a client aside until the pool has a buffer for its answers.
    pub(crate) fn wait_for_room(&mut self, key: Key) {
        self.slots.unlink(&mut self.work, key);
        self.slots.enqueue(&mut self.awaiting_output_buffer, key);
    }

    /// A client that waited for a buffer that is there now.
    pub(crate) fn next_unblocked(&mut self) -> Option<Key> {
        let queue = self.unblocked()?;
        let key = match queue {
            Dry::Out => self.slots.dequeue(&mut self.awaiting_output_buffer)?,
            Dry::In => self.slots.dequeue(&mut self.awaiting_input_buffer)?,
        };
        if let Dry::Out = queue {
            self.slots.enqueue(&mut self.work, key);
        }
        Some(key)
    }

    fn unblocked(&self) -> Option<Dry> {
        if !self.awaiting_output_buffer.is_empty() && self.pool.free() >= 1 {
            return Some(Dry::Out);
        }
        (!self.awaiting_input_buffer.is_empty() && self.pool.free() >= 2).then_some(Dry::In)
    }

    /// A client whose time is over: it is to be closed at once, unless it is for us that it waits.
    /// With `blocked`, that is so for all in the work queue.
    #[inline]
    pub(crate) fn expire_next(&mut self, now: Instant, blocked: bool) -> Option<Key> {
        if now == self.judged_at {
            return None;
        }
        let key = self.overdue_first(now, blocked);
        if key.is_none() {
            self.judged_at = now;
        }
        key
    }

    fn overdue_first(&mut self, now: Instant, blocked: bool) -> Option<Key> {
        let stalled = self.expiry(&self.stalled, self.limits.patience);
        let idle = self.expiry(&self.idle, self.limits.idle);
        let key = if stalled.is_some_and(|due| due <= now) {
            let key = self.slots.front(&self.stalled)?;
            let in_work = self.slots.is_queued(&self.work, key);
            if (in_work && blocked) || self.slots.is_queued(&self.awaiting_output_buffer, key) {
                self.retime(now, key, true);
                return Some(key);
            }
            self.counters.stalled = self.counters.stalled.saturating_add(1);
            self.slots.dequeue(&mut self.stalled)?
        } else if idle.is_some_and(|due| due <= now) {
            let key = self.slots.front(&self.idle)?;
            if self.slots.standing(Lane::Work, key).is_some() {
                self.retime(now, key, true);
                return Some(key);
            }
            self.counters.idle = self.counters.idle.saturating_add(1);
            self.slots.dequeue(&mut self.idle)?
        } else if self.room_at().is_some_and(|due| due <= now) {
            self.counters.stalled = self.counters.stalled.saturating_add(1);
            self.made_room = self.slots.dequeue(&mut self.left);
            self.made_room?
        } else {
            return None;
        };
        self.slots.get_mut(key)?.aborted = true;
        Some(key)
    }

    /// When a client is next overdue, or at once where a buffer has come back for one that waits.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.unblocked().is_some() {
            return Some(Instant::ORIGIN);
        }
        let stalled = self.expiry(&self.stalled, self.limits.patience);
        let idle = self.expiry(&self.idle, self.limits.idle);
        let due = earlier(stalled, idle);
        if self.left.is_empty() { due } else { earlier(due, self.room_at()) }
    }

    /// When a client that has hung up makes room for others: where there is hardly any.
    #[inline]
    fn room_at(&self) -> Option<Instant> {
        if self.left.is_empty() { None } else { self.first_room_at() }
    }

    #[cold]
    fn first_room_at(&self) -> Option<Instant> {
        if self.made_room.is_some() {
            return None;
        }
        let capacity = self.slots.capacity();
        let crowded = self.slots.len().saturating_add(capacity.checked_div(8)?) >= capacity;
        self.expiry(&self.left, LEFT_GRACE).filter(|_| crowded)
    }

    fn expiry(&self, queue: &Queue, limit: u64) -> Option<Instant> {
        let first = self.slots.get(self.slots.front(queue)?)?;
        (limit > 0).then(|| first.since.after(limit))
    }

    /// Puts the client into the time queue where it belongs now. With `moved_on`, or where that is
    /// another than before, its wait begins anew.
    #[inline]
    pub(crate) fn retime(&mut self, now: Instant, key: Key, moved_on: bool) {
        if self.slots.get(key).is_some_and(|conn| conn.input_over) && self.leave(now, key) {
            return;
        }
        self.retime_here(now, key, moved_on);
    }

    fn retime_here(&mut self, now: Instant, key: Key, moved_on: bool) {
        let Some(conn) = self.slots.get_mut(key) else {
            return;
        };
        let quiet = conn.inbox.is_empty() && conn.outbox.is_empty();
        let since = conn.since;
        let (right, wrong, limit) = match quiet {
            true => (&mut self.idle, &mut self.stalled, self.limits.idle),
            false => (&mut self.stalled, &mut self.idle, self.limits.patience),
        };
        if conn.in_flight.is_some() || conn.aborted || limit == 0 {
            self.slots.unlink(right, key);
            self.slots.unlink(wrong, key);
            return;
        }
        if self.slots.is_queued(right, key) {
            // Within a millisecond it stands where it would come to stand again.
            if !moved_on || since == now {
                return;
            }
            self.slots.unlink(right, key);
        } else {
            self.slots.unlink(wrong, key);
        }
        self.slots.enqueue(right, key);
        if let Some(conn) = self.slots.get_mut(key) {
            conn.since = now;
        }
    }

    /// The client has hung up: where it is owed an answer, that is all it waits for.
    #[cold]
    fn leave(&mut self, now: Instant, key: Key) -> bool {
        let Some(conn) = self.slots.get_mut(key) else {
            return false;
        };
        if conn.in_flight.is_none() || conn.aborted {
            self.slots.unlink(&mut self.left, key);
            return false;
        }
        if self.slots.is_queued(&self.left, key) {
            return true;
        }
        self.slots.unlink(&mut self.idle, key);
        self.slots.unlink(&mut self.stalled, key);
        self.slots.enqueue(&mut self.left, key);
        if let Some(conn) = self.slots.get_mut(key) {
            conn.since = now;
        }
        true
    }
}

#[derive(Clone, Copy)]
enum Dry {
    In,
    Out,
}

/// The earlier of two deadlines.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn space_asked_for_twice_is_the_same_space() {
        let mut slots = [const { Slot::EMPTY }; 2];
        let mut memory = vec![0; 2 * MESSAGE_MAX];
        let pool = Pool::new(&mut memory, MESSAGE_MAX);
        let limits = Limits { idle: 0, patience: 0 };
        let mut clients = Clients::new(&mut slots, pool, 2, limits).unwrap();
        let key = clients.open(Instant::ORIGIN).unwrap();
        assert_eq!(clients.space(key).len(), MESSAGE_MAX);
        assert_eq!(clients.space(key).len(), MESSAGE_MAX);
        clients.filled(key, 1);
        assert_eq!(clients.first(), Some(key));
        clients.closed(key);
        assert_eq!(clients.pool.free(), 2);
    }

    #[test]
    fn a_client_that_waits_for_a_buffer_is_not_idle() {
        let mut slots = [const { Slot::EMPTY }; 2];
        let mut memory = vec![0; 2 * MESSAGE_MAX];
        let pool = Pool::new(&mut memory, MESSAGE_MAX);
        let limits = Limits { idle: 10, patience: 0 };
        let mut clients = Clients::new(&mut slots, pool, 2, limits).unwrap();
        let at = Instant::from_millis;
        let (first, second) = (clients.open(at(0)).unwrap(), clients.open(at(0)).unwrap());
        clients.space(first);
        clients.filled(first, 1);
        assert!(clients.space(second).is_empty(), "the last buffer is for answers");
        // So it is for one whose bytes nobody has looked at yet.
        for waits in [first, second] {
            assert_eq!(clients.expire_next(at(12), false), Some(waits));
            assert!(!clients.wants(waits).close);
        }
        assert_eq!((clients.expire_next(at(12), false), clients.counters.idle), (None, 0));
        assert_eq!(clients.deadline(), Some(at(22)));
    }
}
