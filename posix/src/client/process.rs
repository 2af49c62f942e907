//! Which process this is: a child must not use the connections that it inherited.
//!
//! A process id does not tell: a child in a new namespace can have the number of its parent, as process 1
//! of a container has. What tells is memory that the system clears in a child, and, where there is none,
//! the id together with a count of forks.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sys;

/// A mark of a process: another one than all of its ancestors have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Process {
    /// Above 0, and above that of every ancestor; 0 where there is no memory that is wiped.
    number: usize,
    /// How many forks are counted so far.
    forks: usize,
    /// The process id, where `number` is 0.
    id: u32,
}

impl Process {
    /// The process that calls.
    pub(super) fn current() -> Self {
        let number = sys::wiped_on_fork().map_or(0, number);
        let id = if number == 0 { std::process::id() } else { 0 };
        Self { number, forks: sys::forks(), id }
    }
}

/// The number in `page`, which this process chooses if it has none yet.
fn number(page: &AtomicUsize) -> usize {
    /// The last number that this process or an ancestor has chosen: ordinary memory, so a child goes on
    /// from there.
    static LAST: AtomicUsize = AtomicUsize::new(0);
    match page.load(Ordering::Relaxed) {
        0 => {
            let next = LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            // Of several threads that choose, one is right.
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
    fn a_process_is_itself_whichever_thread_asks() {
        let here = Process::current();
        let threads = [(); 4].map(|()| std::thread::spawn(Process::current));
        assert!(threads.into_iter().all(|thread| thread.join().unwrap() == here));
    }

    #[test]
    fn a_page_that_was_wiped_gets_a_number_that_no_process_had() {
        let page = AtomicUsize::new(0);
        let parent = number(&page);
        assert_eq!(number(&page), parent);
        page.store(0, Ordering::Relaxed);
        assert!(number(&page) > parent);
    }
}
