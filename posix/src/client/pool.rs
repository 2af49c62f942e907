//! A bounded place for things that several threads take, use and put back.

use std::sync::{Mutex, TryLockError};

/// Up to a fixed number of things, in no order that can be relied on.
///
/// Nobody ever waits: a slot that another thread is at is passed by. So the worst that a thread that
/// held a slot when its process forked can do to the child is that this one slot stays out of reach.
pub(super) struct ConnectionPool<T>(Box<[Mutex<Option<T>>]>);

impl<T> ConnectionPool<T> {
    /// An empty pool of `len` slots; `None` where there is no memory for it.
    pub(super) fn new(len: usize) -> Option<Self> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(len).ok()?;
        slots.extend((0..len).map(|_| Mutex::new(None)));
        Some(Self(slots.into_boxed_slice()))
    }

    /// Takes one thing that `wanted` accepts; those that it does not accept on the way are dropped.
    pub(super) fn take(&self, wanted: impl Fn(&T) -> bool) -> Option<T> {
        self.0.iter().find_map(|slot| enter(slot, Option::take).flatten().filter(&wanted))
    }

    /// Puts one thing back; drops it where every slot is taken.
    pub(super) fn put(&self, thing: T) {
        let mut thing = Some(thing);
        for slot in &self.0 {
            enter(slot, |slot| {
                if slot.is_none() {
                    *slot = thing.take();
                }
            });
            if thing.is_none() {
                return;
            }
        }
    }

    /// How many things there are at the moment.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.iter().filter(|slot| enter(slot, |slot| slot.is_some()) == Some(true)).count()
    }
}

fn enter<T, R>(slot: &Mutex<T>, work: impl FnOnce(&mut T) -> R) -> Option<R> {
    match slot.try_lock() {
        Ok(mut slot) => Some(work(&mut slot)),
        // Nothing that can panic runs under the lock, so poison has nothing to tell.
        Err(TryLockError::Poisoned(slot)) => Some(work(&mut slot.into_inner())),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_back_is_taken_again_and_the_surplus_is_dropped() {
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
    fn what_nobody_wants_is_dropped_on_the_way() {
        let pool = ConnectionPool::new(4).unwrap();
        for number in 0..4 {
            pool.put(number);
        }
        assert_eq!(pool.take(|&number| number >= 2), Some(2));
        assert_eq!(pool.len(), 1);
    }

    #[test]
    fn a_slot_that_somebody_holds_is_passed_by() {
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
