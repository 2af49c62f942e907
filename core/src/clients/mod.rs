//! The clients' connections of a server or a proxy: their bytes, their buffers, their time.
//!
//! A connection without bytes holds no buffer. The queues that a client can be in, one per lane:
//!
//! ```text
//!  work lane   work                     bytes came, or a buffer for answers: `advance` looks at it
//!              awaiting_output_buffer   has a whole request; the pool has no buffer for the answer
//!              awaiting_input_buffer    has bytes to send; the pool has no buffer to receive them
//!  time lane   idle      between requests                        since the last request or answer
//!              stalled   in the middle of a request or an answer since it last moved on
//!              hung_up   has hung up and waits for an answer     since both are true
//! ```
//!
//! A client that has hung up may be gone, or may still wait for its answer: the two look the same.
//! It keeps its place until places are short.
//!
//! A client that has just sent something changes its time queue once `advance` has looked at it. A
//! queue without a limit stays empty. All clients in a time queue have the same limit, so each queue
//! is in the order of its deadlines.
//!
//! The last buffer of the pool is lent only for answers: requests that have already arrived can then
//! be answered, and give their buffers back.

mod check;
mod setup;
#[cfg(test)]
mod tests;
mod timing;
mod transfer;

pub use setup::SetupError;
pub use timing::Limits;

use crate::buffer::{Fifo, Pool};
use crate::machine::Wants;
use crate::memory::Array;
use crate::slots::{Key, Lane, Queue, QueueId, Slot, Slots};
use crate::time::Instant;
use crate::wire::MESSAGE_MAX;

/// What happened to connections, counted from the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Clients accepted.
    pub accepted: u64,
    /// Clients refused because all places were taken.
    pub refused: u64,
    /// Clients closed because they sent something malformed.
    pub malformed: u64,
    /// Clients closed because they reached [`Limits::idle`].
    pub idle: u64,
    /// Clients closed because they reached [`Limits::patience`], and those evicted after they had
    /// hung up.
    pub stalled: u64,
}

/// One client's connection.
#[derive(Debug)]
pub struct Client {
    pub(crate) inbox: Fifo,
    pub(crate) outbox: Fifo,
    /// The request that a server behind this machine is to answer.
    pub(crate) in_flight: Option<Key>,
    input_over: bool,
    aborted: bool,
    since: Instant,
}

impl Client {
    /// What to do with its socket. `waits` says that it is in a queue of the work lane.
    #[inline]
    const fn wants(&self, waits: bool, buffer_len: usize) -> Wants {
        if self.aborted {
            return Wants::CLOSE;
        }
        let answered = self.in_flight.is_none();
        let write = answered && !self.outbox.is_empty();
        // A slow reader is not read from while its answers wait.
        let settled = !write && !waits;
        Wants {
            read: settled && !self.input_over && self.inbox.len() < buffer_len,
            write,
            close: settled && self.input_over && answered,
        }
    }
}

/// Memory for one client's connection.
pub type ClientSlot = Slot<Client>;

#[derive(Debug)]
pub(crate) struct Clients<C, B> {
    pub(crate) pool: Pool<B>,
    pub(crate) counters: Counters,
    slots: Slots<Client, C>,
    /// Milliseconds; 0 for no limit.
    idle_limit: u64,
    /// Milliseconds; 0 for no limit.
    patience: u64,
    /// The last time at which no client had reached a limit.
    judged_at: Instant,
    work: Queue,
    awaiting_output_buffer: Queue,
    awaiting_input_buffer: Queue,
    idle: Queue,
    stalled: Queue,
    hung_up: Queue,
    /// The client evicted last: the next one follows once it is closed.
    evicted: Option<Key>,
}

/// What a client waits for that the pool has no buffer for.
#[derive(Clone, Copy)]
pub(crate) enum Blocked {
    Input,
    Output,
}

impl<C, B> Clients<C, B> {
    pub(crate) const fn with(slots: Slots<Client, C>, pool: Pool<B>, limits: Limits) -> Self {
        Self {
            pool,
            counters: Counters { accepted: 0, refused: 0, malformed: 0, idle: 0, stalled: 0 },
            slots,
            idle_limit: limits.idle_millis(),
            patience: limits.patience_millis(),
            judged_at: Instant::ORIGIN,
            work: Queue::new(Lane::Work, QueueId(0)),
            awaiting_output_buffer: Queue::new(Lane::Work, QueueId(1)),
            awaiting_input_buffer: Queue::new(Lane::Work, QueueId(2)),
            idle: Queue::new(Lane::Time, QueueId(0)),
            stalled: Queue::new(Lane::Time, QueueId(1)),
            hung_up: Queue::new(Lane::Time, QueueId(2)),
            evicted: None,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.slots.len()
    }
}

impl<C: Array<ClientSlot>, B: Array<u8>> Clients<C, B> {
    pub(crate) fn new(
        slots: C,
        pool: Pool<B>,
        buffers: u32,
        limits: Limits,
    ) -> Result<Self, SetupError> {
        if pool.buffer_len() < MESSAGE_MAX {
            return Err(SetupError::BufferLen);
        }
        if pool.count() < buffers {
            return Err(SetupError::Buffers(buffers));
        }
        let slots = Slots::new(slots);
        if slots.capacity() == 0 {
            return Err(SetupError::Slots);
        }
        Ok(Self::with(slots, pool, limits))
    }

    pub(crate) fn open(&mut self, now: Instant) -> Option<Key> {
        let Some(key) = self.insert(now) else {
            self.counters.refused = self.counters.refused.saturating_add(1);
            return None;
        };
        self.counters.accepted = self.counters.accepted.saturating_add(1);
        Some(key)
    }

    /// Adds a client that is not counted as accepted; `None` if all places are taken.
    fn insert(&mut self, now: Instant) -> Option<Key> {
        let client = Client {
            inbox: Fifo::new(),
            outbox: Fifo::new(),
            in_flight: None,
            input_over: false,
            aborted: false,
            since: now,
        };
        let key = self.slots.insert(client).ok()?;
        if self.idle_limit > 0 {
            self.slots.enqueue(&mut self.idle, key);
        }
        if !self.hung_up.is_empty() {
            // Places may be short now.
            self.judged_at = Instant::ORIGIN;
        }
        Some(key)
    }

    /// The client, and the pool that its bytes are in.
    #[inline]
    pub(crate) fn get(&mut self, key: Key) -> Option<(&mut Client, &mut Pool<B>)> {
        Some((self.slots.get_mut(key)?, &mut self.pool))
    }

    pub(crate) fn space(&mut self, key: Key) -> &mut [u8] {
        let Some((client, work)) = self.slots.get_standing_mut(Lane::Work, key) else {
            return Default::default();
        };
        if !client.wants(work.is_some(), self.pool.buffer_len()).read {
            return Default::default();
        }
        if !client.inbox.has_buffer() && self.pool.free() < 2 {
            self.slots.enqueue(&mut self.awaiting_input_buffer, key);
            return Default::default();
        }
        client.inbox.space(&mut self.pool)
    }

    pub(crate) fn filled(&mut self, key: Key, len: usize) {
        let Some(client) = self.slots.get_mut(key) else {
            return;
        };
        client.inbox.filled(&mut self.pool, len);
        if len > 0 {
            self.slots.enqueue(&mut self.work, key);
        }
    }

    pub(crate) fn ended(&mut self, now: Instant, key: Key) {
        if let Some(client) = self.slots.get_mut(key) {
            client.input_over = true;
            let waits = client.in_flight.is_some();
            self.requeue(key);
            if waits {
                self.retime(now, key, false);
            }
        }
    }

    pub(crate) fn pending(&self, key: Key) -> &[u8] {
        // While a request is in flight, the outbox may hold only a part of the answer.
        let ready = |client: &&Client| !client.aborted && client.in_flight.is_none();
        self.slots.get(key).filter(ready).map_or(&[], |client| client.outbox.bytes(&self.pool))
    }

    pub(crate) fn sent(&mut self, now: Instant, key: Key, len: usize) {
        let Some(client) = self.slots.get_mut(key) else {
            return;
        };
        if len == 0 || client.outbox.is_empty() {
            return;
        }
        client.outbox.consume(&mut self.pool, len);
        if client.outbox.is_empty() && !client.inbox.is_empty() {
            self.slots.enqueue(&mut self.work, key);
        }
        self.retime(now, key, true);
    }

    pub(crate) fn wants(&self, key: Key) -> Wants {
        let Some((client, work)) = self.slots.get_standing(Lane::Work, key) else {
            return Wants::CLOSE;
        };
        client.wants(work.is_some(), self.pool.buffer_len())
    }

    pub(crate) fn closed(&mut self, key: Key) -> Option<Client> {
        let Self {
            work,
            awaiting_output_buffer,
            awaiting_input_buffer,
            idle,
            stalled,
            hung_up,
            ..
        } = self;
        for queue in [work, awaiting_output_buffer, awaiting_input_buffer, idle, stalled] {
            self.slots.unlink(queue, key);
        }
        if !hung_up.is_empty() {
            self.slots.unlink(hung_up, key);
        }
        if self.evicted == Some(key) {
            (self.evicted, self.judged_at) = (None, Instant::ORIGIN);
        }
        let mut client = self.slots.remove(key)?;
        client.inbox.clear(&mut self.pool);
        client.outbox.clear(&mut self.pool);
        Some(client)
    }

    /// Stops reading from a client that sent something malformed. It is closed once it has its answers.
    pub(crate) fn malformed(&mut self, key: Key) {
        let Some(client) = self.slots.get_mut(key) else {
            return;
        };
        client.inbox.clear(&mut self.pool);
        client.input_over = true;
        self.counters.malformed = self.counters.malformed.saturating_add(1);
    }

    /// The request of this client that a server behind this machine is to answer.
    pub(crate) fn in_flight(&self, key: Key) -> Option<Key> {
        self.slots.get(key)?.in_flight
    }

    /// The first client in the work queue. It stays there until [`Clients::take`] takes it out.
    #[inline]
    pub(crate) fn first(&self) -> Option<Key> {
        self.slots.front(&self.work)
    }

    /// Whether a client is in the work queue.
    pub(crate) const fn has_work(&self) -> bool {
        !self.work.is_empty()
    }

    /// Takes the first client out of the work queue.
    #[inline]
    pub(crate) fn take_first(&mut self) -> Option<Key> {
        self.slots.dequeue(&mut self.work)
    }

    /// Takes the client out of the work queue.
    pub(crate) fn take(&mut self, key: Key) {
        self.slots.unlink(&mut self.work, key);
    }

    /// Appends the client to the work queue, whatever it waits for.
    pub(crate) fn requeue(&mut self, key: Key) {
        self.slots.unlink(&mut self.awaiting_input_buffer, key);
        self.slots.unlink(&mut self.awaiting_output_buffer, key);
        self.slots.enqueue(&mut self.work, key);
    }

    /// Takes a client out of the work queue until the pool has a buffer for its answers.
    pub(crate) fn wait_for_room(&mut self, key: Key) {
        self.slots.unlink(&mut self.work, key);
        self.slots.enqueue(&mut self.awaiting_output_buffer, key);
    }

    /// Returns a client that waited for a buffer and can have it now.
    pub(crate) fn next_unblocked(&mut self) -> Option<Key> {
        self.unblock(self.unblocked()?)
    }

    /// Ends the longest such wait for a buffer, and returns the client.
    pub(crate) fn unblock(&mut self, wait: Blocked) -> Option<Key> {
        match wait {
            Blocked::Output => {
                let key = self.slots.dequeue(&mut self.awaiting_output_buffer)?;
                self.slots.enqueue(&mut self.work, key);
                Some(key)
            }
            Blocked::Input => self.slots.dequeue(&mut self.awaiting_input_buffer),
        }
    }

    /// The next wait for a buffer that is over.
    #[inline]
    pub(crate) fn unblocked(&self) -> Option<Blocked> {
        if !self.awaiting_output_buffer.is_empty() && self.pool.free() >= 1 {
            return Some(Blocked::Output);
        }
        (!self.awaiting_input_buffer.is_empty() && self.pool.free() >= 2).then_some(Blocked::Input)
    }

    /// The queues of both lanes.
    const fn queues(&self) -> ([&Queue; 3], [&Queue; 3]) {
        (
            [&self.work, &self.awaiting_output_buffer, &self.awaiting_input_buffer],
            [&self.idle, &self.stalled, &self.hung_up],
        )
    }
}
