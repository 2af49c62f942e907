//! Clients that move to another machine or come from one: see [`crate::server::Transfer`].

use super::{ClientSlot, Clients};
use crate::buffer::{Fifo, Pool};
use crate::memory::Array;
use crate::server::Transfer;
use crate::slots::Key;
use crate::time::Instant;

impl<C: Array<ClientSlot>, B: Array<u8>> Clients<C, B> {
    pub(crate) fn export(&self, key: Key) -> Option<Transfer<'_>> {
        let client = self.slots.get(key).filter(|client| !client.aborted)?;
        Some(Transfer {
            input: client.inbox.bytes(&self.pool),
            output: client.outbox.bytes(&self.pool),
            input_over: client.input_over,
        })
    }

    pub(crate) fn import(&mut self, now: Instant, transfer: Transfer<'_>) -> Option<Key> {
        let Transfer { input, output, input_over } = transfer;
        let key = self.insert(now)?;
        let client = self.slots.get_mut(key)?;
        client.input_over = input_over;
        // The last buffer is for answers.
        let room = input.is_empty() || self.pool.free() >= 2;
        let taken = room
            && put(&mut client.inbox, &mut self.pool, input)
            && put(&mut client.outbox, &mut self.pool, output);
        if !taken {
            self.closed(key);
            return None;
        }
        // Whatever it waits for, the next `advance` looks at it.
        self.slots.enqueue(&mut self.work, key);
        self.retime(now, key, false);
        Some(key)
    }
}

/// Fills an empty queue; false if there is no buffer, or it is too short.
fn put(fifo: &mut Fifo, pool: &mut Pool<impl Array<u8>>, bytes: &[u8]) -> bool {
    if bytes.is_empty() {
        return true;
    }
    match fifo.space(pool).get_mut(..bytes.len()) {
        Some(room) => room.copy_from_slice(bytes),
        None => return false,
    }
    fifo.filled(pool, bytes.len());
    true
}
