//! What holds between any two calls, for tests and simulators to check.

use super::{ClientSlot, Clients};
use crate::memory::Array;
use crate::slots::Lane;

impl<C: Array<ClientSlot>, B: Array<u8>> Clients<C, B> {
    /// Checks that all queues are intact, and that each client is in the queues that the table in
    /// [`clients`](super) says.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let (work, time) = self.queues();
        self.slots.check(work.into_iter().chain(time))?;
        let Self { slots, idle, stalled, hung_up, .. } = self;
        for key in slots.keys() {
            let Some(client) = slots.get(key) else {
                return Err("a key finds nothing");
            };
            let quiet = client.inbox.is_empty() && client.outbox.is_empty();
            let busy = client.in_flight.is_some() || client.aborted;
            let has_hung_up = slots.is_queued(hung_up, key);
            if has_hung_up != (client.input_over && client.in_flight.is_some() && !client.aborted) {
                return Err("a client that has hung up is not known as such, or another is");
            }
            if busy && !has_hung_up && slots.standing(Lane::Time, key).is_some() {
                return Err("a client is timed that waits for us, or is aborted");
            }
            if slots.is_queued(&self.awaiting_input_buffer, key) && client.inbox.has_buffer() {
                return Err("a client waits for a buffer that it has");
            }
            // Bytes that have come since the last look are timed at the next one.
            let looked_at = slots.standing(Lane::Work, key).is_none() && !busy;
            let limit = if quiet { self.idle_limit } else { self.patience };
            let right = slots.is_queued(if quiet { idle } else { stalled }, key);
            if looked_at && right != (limit > 0) {
                return Err("a client is in the wrong time queue, or in none");
            }
        }
        Ok(())
    }
}
