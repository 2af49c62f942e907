//! How many requests a worker has on their way, and who waits for there to be fewer.

use std::cell::{Cell, RefCell};
use std::task::Waker;

/// A count with a limit.
pub(crate) struct Load {
    open: Cell<usize>,
    limit: usize,
    waiting: RefCell<Vec<Waker>>,
}

impl Load {
    /// Nothing is on its way; at most `limit` requests may be.
    pub(crate) fn new(limit: usize) -> Self {
        Self { open: Cell::new(0), limit, waiting: RefCell::default() }
    }

    /// The most requests on their way.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether there may be no more.
    pub(crate) fn is_full(&self) -> bool {
        self.open.get() >= self.limit
    }

    /// Has a task called once there are fewer.
    pub(crate) fn wait(&self, waker: &Waker) {
        self.waiting.borrow_mut().push(waker.clone());
    }

    /// One more.
    pub(crate) fn add(&self) {
        self.open.set(self.open.get() + 1);
    }

    /// One less.
    pub(crate) fn remove(&self) {
        self.open.set(self.open.get() - 1);
        // Not for each one: they would wake to do one request each.
        if self.open.get().is_multiple_of(64) || self.open.get() + 64 < self.limit {
            for waker in self.waiting.borrow_mut().drain(..) {
                waker.wake();
            }
        }
    }
}
