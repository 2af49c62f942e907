//! What a worker counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn count(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        // Only its own worker writes it, so no other thread's increment can be lost.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The number so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// The counters of one worker. It alone writes them; any thread reads them.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])+ pub $name: Counter,)+ }

        /// The sums of all workers' counters.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct Totals { $($(#[$doc])+ pub $name: u64,)+ }

        impl Totals {
            /// Adds up the counters of all workers.
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
    /// GETs and TAKEs answered.
    gets,
    /// Those of `gets` that were answered with a session.
    hits,
    /// ADDs and PUTs answered.
    adds,
    /// Those of `adds` that the engine had no room for.
    full,
    /// ADDs of an id that is taken.
    exists,
    /// Requests answered with status 2 because no answer came within the deadline.
    timeouts,
    /// Requests answered with status 2 for any other reason.
    unavailable,
    /// Answers of the engine that are no session of ours: another type, or another size.
    foreign,
    /// Requests that a MOVED sent to another node.
    moved,
    /// Requests that an ASK sent to another node for once.
    asked,
    /// Requests for a replica, which refused to write.
    readonly,
    /// Connections to nodes that were lost or given up.
    lost,
    /// Clients accepted.
    accepted,
    /// Clients refused because `-maxconn` were connected.
    refused,
    /// Clients closed because of bytes that are not the protocol.
    malformed,
    /// Clients closed after a silence of `-idle`.
    idle,
    /// Clients closed because they left something unfinished for `-reqtimeout`.
    stalled,
    /// Datagrams that were requests.
    datagrams,
    /// Datagrams that were dropped: not sessiond's protocol, or too many at a time.
    dropped,
    /// Replies to datagrams that the system did not take.
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
