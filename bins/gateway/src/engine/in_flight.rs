//! The requests in flight of a worker, and the tasks that wait for there to be fewer.

use std::cell::{Cell, RefCell};
use std::task::Waker;

/// A count with a limit.
pub(crate) struct InFlight {
    open: Cell<usize>,
    limit: usize,
    waiting: RefCell<Vec<Waker>>,
}

impl InFlight {
    /// No requests, of which there can be `limit`.
    pub(crate) fn new(limit: usize) -> Self {
        Self { open: Cell::new(0), limit, waiting: RefCell::default() }
    }

    /// The most requests in flight.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether the limit is reached.
    pub(crate) fn is_full(&self) -> bool {
        self.open.get() >= self.limit
    }

    /// Registers a task, to be woken once there are fewer.
    pub(crate) fn wait(&self, waker: &Waker) {
        self.waiting.borrow_mut().push(waker.clone());
    }

    /// Adds a request.
    pub(crate) fn add(&self) {
        self.open.set(self.open.get() + 1);
    }

    /// Removes a request.
    pub(crate) fn remove(&self) {
        self.open.set(self.open.get() - 1);
        // Waking for each request would make each task start one request.
        if self.open.get().is_multiple_of(64) || self.open.get() + 64 < self.limit {
            for waker in self.waiting.borrow_mut().drain(..) {
                waker.wake();
            }
        }
    }
}
