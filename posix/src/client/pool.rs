//! A bounded pool of items that threads take, use and put back.

use std::sync::{Mutex, TryLockError};

/// Up to a fixed number of items, in no particular order.
///
/// No call waits: a slot locked by another thread is skipped. If a thread holds a slot while its
/// process forks, the child loses that slot and nothing else.
pub(super) struct ConnectionPool<T>(Box<[Mutex<Option<T>>]>);

impl<T> ConnectionPool<T> {
    /// An empty pool of `len` slots; `None` without memory for it.
    pub(super) fn new(len: usize) -> Option<Self> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(len).ok()?;
        slots.extend((0..len).map(|_| Mutex::new(None)));
        Some(Self(slots.into_boxed_slice()))
    }

    /// Takes an item that `wanted` accepts. Drops the items that it rejects before that one.
    pub(super) fn take(&self, wanted: impl Fn(&T) -> bool) -> Option<T> {
        self.0.iter().find_map(|slot| with_lock(slot, Option::take).flatten().filter(&wanted))
    }

    /// Puts an item back; drops it if every slot is taken.
    pub(super) fn put(&self, item: T) {
        let mut item = Some(item);
        for slot in &self.0 {
            with_lock(slot, |slot| {
                if slot.is_none() {
                    *slot = item.take();
                }
            });
            if item.is_none() {
                return;
            }
        }
    }

    /// The current number of items.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.iter().filter(|slot| with_lock(slot, |slot| slot.is_some()) == Some(true)).count()
    }
}

fn with_lock<T, R>(slot: &Mutex<T>, work: impl FnOnce(&mut T) -> R) -> Option<R> {
    match slot.try_lock() {
        Ok(mut slot) => Some(work(&mut slot)),
        // Nothing that can panic runs under the lock, so the item is intact.
        Err(TryLockError::Poisoned(slot)) => Some(work(&mut slot.into_inner())),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_put_back_are_taken_again_and_surplus_items_are_dropped() {
        let pool = ConnectionPool::new(2).unwrap();
        assert!(pool.take(|_| true).is_none());
        for number in 0..3 {
            pool.put(number);
        }
        assert_eq!(
            (pool.take(|_| true), pool.take(|_| true), pool.take(|_| true)),
            (Some(0), Some(1), None)
        );
    }

    #[test]
    fn rejected_items_are_dropped() {
        let pool = ConnectionPool::new(4).unwrap();
        for number in 0..4 {
            pool.put(number);
        }
        assert_eq!(pool.take(|&number| number >= 2), Some(2));
        assert_eq!(pool.len(), 1);
    }

    #[test]
    fn a_locked_slot_is_skipped() {
        let pool = ConnectionPool::new(2).unwrap();
        pool.put('a');
        pool.put('b');
        let held = pool.0[0].lock().unwrap();
        assert_eq!(pool.take(|_| true), Some('b'));
        assert_eq!(pool.take(|_| true), None);
        pool.put('c');
        pool.put('d');
        drop(held);
        assert_eq!((pool.take(|_| true), pool.take(|_| true)), (Some('a'), Some('c')));
    }
}
