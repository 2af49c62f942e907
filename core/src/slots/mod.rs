//! A store of fixed size whose keys go stale, with queues threaded through it.
//!
//! A [`Key`] finds an item: it is the slot's index and the era in which the slot was filled. Each
//! removal begins a new era, so the key of a removed item finds nothing, even if its slot has been
//! filled again. Unless documented otherwise, every operation takes constant time.

#[cfg(test)]
mod tests;

use core::marker::PhantomData;

use crate::memory::Array;

const NIL: u32 = u32::MAX;

/// How many queues an item can be in at once: one per lane.
const LANES: usize = 2;

/// Names one item of one [`Slots`], until the item is removed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Key {
    index: u32,
    era: u32,
}

impl Key {
    /// The index of the slot: less than the capacity, and unique among the items stored.
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

/// Memory for one item.
#[derive(Clone, Debug)]
pub struct Slot<T> {
    item: Option<T>,
    era: u32,
    next_free: u32,
    links: [Link; LANES],
}

#[derive(Clone, Copy, Debug)]
struct Link {
    queue: Option<QueueId>,
    prev: u32,
    next: u32,
}

impl<T> Slot<T> {
    /// A slot that holds nothing.
    pub const EMPTY: Self =
        Self { item: None, era: 0, next_free: NIL, links: [Link::LOOSE; LANES] };
}

impl Link {
    const LOOSE: Self = Self { queue: None, prev: NIL, next: NIL };
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// A store of up to as many items as it has slots, which lie in a `C`: see [`Array`].
#[derive(Debug)]
pub struct Slots<T, C> {
    memory: C,
    len: u32,
    /// The slot emptied last; each names the one emptied before it.
    free: u32,
    /// The first slot that was never filled: `len <= fresh <= capacity`.
    fresh: u32,
    items: PhantomData<T>,
}

impl<T, const N: usize> Slots<T, [Slot<T>; N]> {
    /// An empty store with `N` slots of its own.
    pub const fn fixed() -> Self {
        Self::in_memory([const { Slot::EMPTY }; N])
    }
}

impl<T, C> Slots<T, C> {
    /// An empty store in `memory`, whose slots are empty.
    const fn in_memory(memory: C) -> Self {
        Self { memory, len: 0, free: NIL, fresh: 0, items: PhantomData }
    }

    /// The number of items stored.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no item is stored.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T, C: Array<Slot<T>>> Slots<T, C> {
    /// An empty store in `memory`, whose slots are emptied. At most `u32::MAX` of them are used.
    pub fn new(mut memory: C) -> Self {
        for slot in memory.as_mut() {
            *slot = Slot::EMPTY;
        }
        Self::in_memory(memory)
    }

    /// The most items that can be stored.
    pub fn capacity(&self) -> usize {
        self.slots().len().min(NIL as usize)
    }

    #[inline]
    fn slots(&self) -> &[Slot<T>] {
        self.memory.as_ref()
    }

    #[inline]
    fn slots_mut(&mut self) -> &mut [Slot<T>] {
        self.memory.as_mut()
    }

    /// Stores an item.
    ///
    /// # Errors
    /// The item itself where no slot is free.
    pub fn insert(&mut self, item: T) -> Result<Key, T> {
        let index = match self.free {
            NIL if (self.fresh as usize) < self.capacity() => self.fresh,
            NIL => return Err(item),
            free => free,
        };
        let Some(slot) = self.memory.as_mut().get_mut(index as usize) else {
            return Err(item);
        };
        if self.free == NIL {
            self.fresh = self.fresh.saturating_add(1);
        }
        self.free = slot.next_free;
        slot.next_free = NIL;
        slot.item = Some(item);
        self.len = self.len.saturating_add(1);
        Ok(Key { index, era: slot.era })
    }

    /// Removes an item. It must be in no queue: [`Slots::unlink`] it first.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let free = self.free;
        let slot = self.slot_mut(key)?;
        debug_assert!(slot.links.iter().all(|link| link.queue.is_none()));
        let item = slot.item.take()?;
        slot.era = slot.era.wrapping_add(1);
        slot.next_free = free;
        self.free = key.index;
        self.len = self.len.saturating_sub(1);
        Some(item)
    }

    /// The item of this key; `None` if it was removed.
    #[inline]
    pub fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots().get(key.index as usize)?;
        slot.item.as_ref().filter(|_| slot.era == key.era)
    }

    /// The item of this key; `None` if it was removed.
    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slot_mut(key)?.item.as_mut()
    }

    #[inline]
    fn slot_mut(&mut self, key: Key) -> Option<&mut Slot<T>> {
        let slot = self.slots_mut().get_mut(key.index as usize)?;
        (slot.era == key.era).then_some(slot)
    }

    /// The key as one number: the index, and as much of the era as fits beside it.
    pub fn ticket(&self, key: Key) -> u32 {
        key.era.checked_shl(self.index_bits()).unwrap_or(0) | key.index
    }

    /// The key whose [`Slots::ticket`] this is; `None` if its item was removed.
    ///
    /// A stale ticket is mistaken for a new one only if its slot has meanwhile been emptied an exact
    /// multiple of 2^(32 - index bits) times.
    pub fn by_ticket(&self, ticket: u32) -> Option<Key> {
        let mask = 1_u32.checked_shl(self.index_bits()).map_or(NIL, |bit| bit.wrapping_sub(1));
        let index = ticket & mask;
        let slot = self.slots().get(index as usize)?;
        let key = Key { index, era: slot.era };
        (slot.item.is_some() && self.ticket(key) == ticket).then_some(key)
    }

    fn index_bits(&self) -> u32 {
        let last = self.slots().len().saturating_sub(1);
        usize::BITS.saturating_sub(last.leading_zeros())
    }

    #[inline]
    fn link_mut(&mut self, index: u32, lane: Lane) -> Option<&mut Link> {
        self.slots_mut().get_mut(index as usize)?.links.get_mut(lane as usize)
    }

    /// Whether the item is in this queue.
    #[inline]
    pub fn is_queued(&self, queue: &Queue, key: Key) -> bool {
        self.standing(queue.lane, key) == Some(queue.id)
    }

    /// The item of this key, and the queue of a lane that it is in.
    #[inline]
    pub fn get_standing(&self, lane: Lane, key: Key) -> Option<(&T, Option<QueueId>)> {
        let slot = self.slots().get(key.index as usize)?;
        let item = slot.item.as_ref().filter(|_| slot.era == key.era)?;
        Some((item, slot.links.get(lane as usize)?.queue))
    }

    /// The item of this key, and the queue of a lane that it is in.
    #[inline]
    pub fn get_standing_mut(&mut self, lane: Lane, key: Key) -> Option<(&mut T, Option<QueueId>)> {
        let slot = self.slot_mut(key)?;
        Some((slot.item.as_mut()?, slot.links.get(lane as usize)?.queue))
    }

    /// The queue of a lane that the item is in.
    #[inline]
    pub fn standing(&self, lane: Lane, key: Key) -> Option<QueueId> {
        let slot = self.slots().get(key.index as usize)?;
        // An empty slot is in no queue: its item was unlinked before it was removed.
        slot.links.get(lane as usize)?.queue.filter(|_| slot.era == key.era)
    }

    /// Appends an item to a queue. Does nothing if it is in a queue of that lane already, or was
    /// removed.
    pub fn enqueue(&mut self, queue: &mut Queue, key: Key) {
        let (tail, id) = (queue.tail, queue.id);
        let Some(slot) = self.slot_mut(key) else {
            return;
        };
        let Some(link) = slot.links.get_mut(queue.lane as usize) else {
            return;
        };
        if slot.item.is_none() || link.queue.is_some() {
            return;
        }
        *link = Link { queue: Some(id), prev: tail, next: NIL };
        self.append(queue, key.index);
    }

    /// Takes an item out of a queue, from any place in it. Does nothing if it is not in it.
    pub fn unlink(&mut self, queue: &mut Queue, key: Key) {
        let link = self.slot_mut(key).and_then(|slot| slot.links.get_mut(queue.lane as usize));
        let Some(link) = link.filter(|link| link.queue == Some(queue.id)) else {
            return;
        };
        let Link { prev, next, .. } = core::mem::replace(link, Link::LOOSE);
        self.close_gap(queue, prev, next);
    }

    /// The item that has been in the queue longest.
    #[inline]
    pub fn front(&self, queue: &Queue) -> Option<Key> {
        let slot = self.slots().get(queue.head as usize)?;
        Some(Key { index: queue.head, era: slot.era })
    }

    /// The keys of all items, in the order of their slots. Takes time proportional to the capacity.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        let filled = (0..NIL).zip(self.slots()).filter(|(_, slot)| slot.item.is_some());
        filled.map(|(index, slot)| Key { index, era: slot.era })
    }

    /// Checks that every queue is intact, and that items are in no other queues. Takes time
    /// proportional to the capacity.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check<'q>(&self, queues: impl Iterator<Item = &'q Queue>) -> Result<(), &'static str> {
        if self.keys().count() != self.len() {
            return Err("items are miscounted");
        }
        let mut standing = 0_usize;
        for queue in queues {
            standing = standing.saturating_add(self.check_queue(queue)?);
        }
        let links = self.slots().iter().flat_map(|slot| &slot.links);
        if links.filter(|link| link.queue.is_some()).count() != standing {
            return Err("an item is in a queue that was not named");
        }
        Ok(())
    }

    fn check_queue(&self, queue: &Queue) -> Result<usize, &'static str> {
        let (mut at, mut before, mut len) = (queue.head, NIL, 0_usize);
        while let Some(slot) = self.slots().get(at as usize) {
            let link = slot.links.get(queue.lane as usize);
            let link = link.filter(|link| link.queue == Some(queue.id) && link.prev == before);
            let Some(link) = link.filter(|_| slot.item.is_some() && len < queue.len()) else {
                return Err("a queue is broken");
            };
            (before, at, len) = (at, link.next, len.saturating_add(1));
        }
        let whole = at == NIL && queue.tail == before && queue.len() == len;
        if whole { Ok(len) } else { Err("a queue is cut off") }
    }

    /// Takes out the item that has been in the queue longest.
    pub fn dequeue(&mut self, queue: &mut Queue) -> Option<Key> {
        let index = queue.head;
        let slot = self.slots_mut().get_mut(index as usize)?;
        let era = slot.era;
        let link = slot.links.get_mut(queue.lane as usize)?;
        let Link { prev, next, .. } = core::mem::replace(link, Link::LOOSE);
        self.close_gap(queue, prev, next);
        Some(Key { index, era })
    }

    /// Moves an item from one queue to the end of another of the same lane. Does nothing if it is not
    /// in `from`.
    pub fn transfer(&mut self, from: &mut Queue, to: &mut Queue, key: Key) {
        let (tail, id) = (to.tail, to.id);
        let link = self.slot_mut(key).and_then(|slot| slot.links.get_mut(from.lane as usize));
        let Some(link) = link.filter(|link| link.queue == Some(from.id)) else {
            return;
        };
        let moved = Link { queue: Some(id), prev: tail, next: NIL };
        let Link { prev, next, .. } = core::mem::replace(link, moved);
        self.close_gap(from, prev, next);
        self.append(to, key.index);
    }

    /// Joins the neighbours of an item that has left the queue.
    #[inline]
    fn close_gap(&mut self, queue: &mut Queue, prev: u32, next: u32) {
        match self.link_mut(prev, queue.lane) {
            Some(before) => before.next = next,
            None => queue.head = next,
        }
        match self.link_mut(next, queue.lane) {
            Some(after) => after.prev = prev,
            None => queue.tail = prev,
        }
        queue.len = queue.len.wrapping_sub(1);
    }

    /// Makes an item that is linked to the tail of a queue its new tail.
    #[inline]
    fn append(&mut self, queue: &mut Queue, index: u32) {
        match self.link_mut(queue.tail, queue.lane) {
            Some(last) => last.next = index,
            None => queue.head = index,
        }
        queue.tail = index;
        queue.len = queue.len.wrapping_add(1);
    }
}

/// A kind of queue. An item is in at most one queue of each lane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lane {
    /// Items that need work, or wait for something that lets it go on.
    Work = 0,
    /// Items with a deadline.
    Time = 1,
}

/// Names one of the queues of a lane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct QueueId(pub u8);

/// A queue of items of one [`Slots`].
#[derive(Debug)]
pub struct Queue {
    lane: Lane,
    id: QueueId,
    head: u32,
    tail: u32,
    len: u32,
}

impl Queue {
    /// An empty queue. No two queues of a store may have the same lane and id.
    pub const fn new(lane: Lane, id: QueueId) -> Self {
        Self { lane, id, head: NIL, tail: NIL, len: 0 }
    }

    /// Its name among the queues of its lane.
    pub const fn id(&self) -> QueueId {
        self.id
    }

    /// The number of items in it.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no item is in it.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}
