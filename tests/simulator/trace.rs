//! What happened in a run: a hash of everything, and the last events in words.
//!
//! The trace belongs to the thread, so it can be printed wherever a run fails, in the simulator or
//! in the code under test.

use distcache_core::time::Instant;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;

/// How many events are printed when a run fails.
const SHOWN: usize = 40;

/// The part of the world that acts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Actor {
    /// Chance: a fault, or time itself.
    World,
    /// A server, the faulty server, or a proxy.
    Node(usize),
    /// A client that follows the protocol.
    Client(usize),
    /// A client that does not.
    HostileClient(usize),
}

impl Actor {
    const fn code(self) -> u64 {
        match self {
            Self::World => 0,
            Self::Node(number) => 1 << 8 | number as u64,
            Self::Client(number) => 2 << 8 | number as u64,
            Self::HostileClient(number) => 3 << 8 | number as u64,
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::World => write!(out, "world"),
            Self::Node(number) => write!(out, "node {number}"),
            Self::Client(number) => write!(out, "client {number}"),
            Self::HostileClient(number) => write!(out, "hostile {number}"),
        }
    }
}

#[derive(Clone, Copy)]
struct Event {
    at: u64,
    actor: Actor,
    what: &'static str,
    numbers: [u64; 2],
}

struct Trace {
    seed: u64,
    hash: u64,
    events: u64,
    last: VecDeque<Event>,
    verbose: bool,
}

thread_local! {
    static TRACE: RefCell<Trace> = const {
        RefCell::new(Trace { seed: 0, hash: 0, events: 0, last: VecDeque::new(), verbose: false })
    };
}

/// Begins the trace of a run; `verbose` prints every event.
pub fn begin(seed: u64, verbose: bool) {
    TRACE.with_borrow_mut(|trace| {
        *trace = Trace { seed, hash: seed, events: 0, last: VecDeque::new(), verbose };
    });
}

/// Returns the number of events so far, and the hash of all.
pub fn outcome() -> (u64, u64) {
    TRACE.with_borrow(|trace| (trace.events, trace.hash))
}

/// Records one event. The meaning of the numbers follows from `what`.
pub fn record(now: Instant, actor: Actor, what: &'static str, numbers: [u64; 2]) {
    TRACE.with_borrow_mut(|trace| {
        let event = Event { at: now.as_millis(), actor, what, numbers };
        let [a, b] = numbers;
        let words = what.bytes().fold(0, |sum, byte| fold(sum, u64::from(byte)));
        trace.hash = [event.at, actor.code(), words, a, b].into_iter().fold(trace.hash, fold);
        trace.events += 1;
        if trace.verbose {
            println!("{event}");
        }
        if trace.last.len() == SHOWN {
            trace.last.pop_front();
        }
        trace.last.push_back(event);
    });
}

const fn fold(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
}

impl fmt::Display for Event {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = self.numbers;
        write!(out, "{:>14} ms  {:<10} {} {a} {b}", self.at, self.actor.to_string(), self.what)
    }
}

/// Makes every panic from now on print its seed, the last events, and how to repeat the run.
pub fn report_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        TRACE.with(|trace| {
            if let Ok(trace) = trace.try_borrow() {
                for event in &trace.last {
                    eprintln!("{event}");
                }
                let seed = trace.seed;
                eprintln!("seed {seed} fails after {} events; to repeat it:", trace.events);
                eprintln!("  cargo run --release -p distcache-simulator -- --seed {seed} --trace");
            }
        });
        before(info);
    }));
}
