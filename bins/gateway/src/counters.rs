//! The counters of a worker.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn count(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        // Only its own worker writes it, so no increment is lost.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The number so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// The counters of one worker. Only that worker writes them; any thread may read them.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])+ pub $name: Counter,)+ }

        /// The sums of all workers' counters.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct Totals { $($(#[$doc])+ pub $name: u64,)+ }

        impl Totals {
            /// Sums the counters of all workers.
            pub fn sum<'a>(all: impl Iterator<Item = &'a Counters>) -> Self {
                all.fold(Self::default(), |sum, one| Self {
                    $($name: sum.$name.wrapping_add(one.$name.get()),)+
                })
            }
        }
    };
}

counters! {
    /// Requests received.
    requests,
    /// GETs, TAKEs and FETCHes answered.
    gets,
    /// GETs, TAKEs and FETCHes answered with a session.
    hits,
    /// ADDs and PUTs answered.
    adds,
    /// ADDs and PUTs refused because the engine is full.
    full,
    /// ADDs refused because a session is stored under the id.
    exists,
    /// Requests answered with status 2 because the engine did not reply within the deadline.
    timeouts,
    /// Requests answered with status 2 for any other reason.
    unavailable,
    /// Replies of the engine that cannot be a session: another type or size.
    foreign,
    /// MOVED redirections.
    moved,
    /// ASK redirections.
    asked,
    /// Requests that a replica refused to write.
    readonly,
    /// Connections to nodes that were lost or abandoned.
    lost,
    /// Clients accepted.
    accepted,
    /// Clients refused because of `-maxconn`.
    refused,
    /// Clients closed because of malformed input.
    malformed,
    /// Clients closed because of `-idle`.
    idle,
    /// Clients closed because of `-reqtimeout`.
    stalled,
    /// Datagrams with a request.
    datagrams,
    /// Datagrams dropped: malformed, or too many at a time.
    dropped,
    /// Replies to datagrams that the system refused.
    unsent,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_the_sums_of_all_workers() {
        let (a, b) = (Counters::default(), Counters::default());
        a.hits.count();
        b.hits.add(4);
        b.lost.count();
        let totals = Totals::sum([&a, &b].into_iter());
        assert_eq!(totals, Totals { hits: 5, lost: 1, ..Totals::default() });
    }
}
