//! The identity of the current process: a child must not use the connections of its parent.
//!
//! The process id is not enough: a child in a new namespace can have the id of its parent, as process 1
//! of a container can. Memory that the system clears in a child tells them apart. Where the system has
//! no such memory, the id and a count of forks do.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sys;

/// The identity of a process, different from that of every ancestor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Process {
    /// Greater than that of every ancestor; 0 if the system has no memory that is cleared on fork.
    number: usize,
    /// The number of forks so far.
    forks: usize,
    /// The process id if `number` is 0, else 0.
    id: u32,
}

impl Process {
    /// The calling process.
    pub(super) fn current() -> Self {
        let number = sys::wiped_on_fork().map_or(0, number);
        let id = if number == 0 { std::process::id() } else { 0 };
        Self { number, forks: sys::forks(), id }
    }
}

/// The number in `page`; chosen now if it is 0.
fn number(page: &AtomicUsize) -> usize {
    /// The last number that this process or an ancestor chose. Ordinary memory, so a child continues
    /// from there.
    static LAST: AtomicUsize = AtomicUsize::new(0);
    match page.load(Ordering::Relaxed) {
        0 => {
            let next = LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            // If several threads choose at once, one of them wins.
            match page.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => next,
                Err(chosen) => chosen,
            }
        }
        number => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_see_the_same_process() {
        let here = Process::current();
        let threads = [(); 4].map(|()| std::thread::spawn(Process::current));
        assert!(threads.into_iter().all(|thread| thread.join().unwrap() == here));
    }

    #[test]
    fn a_cleared_page_gets_a_greater_number() {
        let page = AtomicUsize::new(0);
        let parent = number(&page);
        assert_eq!(number(&page), parent);
        page.store(0, Ordering::Relaxed);
        assert!(number(&page) > parent);
    }
}
