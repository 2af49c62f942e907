//! A correct client with known answers, and how long they take while something else disturbs.
//!
//! ```text
//!  Load::connect(address)            a few persistent connections
//!    .run(rounds)                    times without disturbance
//!    .run_during(rounds, attack)     the same while `attack` runs
//! ```

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::bytes::{ADD, GET, HAVE, REMOVE, add, get, have, remove, session, status};
use crate::process::{TIMEOUT, until};
use crate::random::Random;
use crate::raw_client::RawClient;

/// How many connections a load has.
pub const CONNECTIONS: usize = 4;
/// How many answers a round of one connection has.
pub const ANSWERS: usize = 9;

/// Lets one test of this binary measure at a time, so they do not disturb each other.
pub fn measure_alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A failed test has ended all that it started.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A few persistent connections.
#[derive(Debug)]
pub struct Load {
    clients: Vec<RawClient>,
    rounds: usize,
}

/// How long requests took.
#[derive(Clone, Debug, Default)]
pub struct Timings {
    /// How many answers there were, all of them right.
    pub answers: usize,
    /// Microseconds, sorted.
    micros: Vec<u128>,
}

impl Timings {
    fn of(answers: usize, mut micros: Vec<u128>) -> Self {
        micros.sort_unstable();
        Self { answers, micros }
    }

    /// Returns the time in microseconds within which `of_hundred` percent of the requests were
    /// answered.
    pub fn percentile(&self, of_hundred: usize) -> u128 {
        let last = self.micros.len().saturating_sub(1);
        self.micros.get(last * of_hundred / 100).copied().unwrap_or(0)
    }
}

/// The progress of a load, for the attack that runs beside it.
#[derive(Debug, Default)]
pub struct LoadState(Mutex<Progress>, Condvar);

#[derive(Debug, Default)]
struct Progress {
    /// Rounds of all connections together.
    rounds: usize,
    over: bool,
}

impl LoadState {
    /// Returns whether the load still runs.
    pub fn is_running(&self) -> bool {
        !self.progress().over
    }

    /// Waits until the load has gone through `rounds` more rounds, or ends.
    ///
    /// # Panics
    /// If neither happens.
    pub fn wait_rounds(&self, rounds: usize) {
        let progress = self.progress();
        let wanted = progress.rounds + rounds;
        let goes_on = |progress: &mut Progress| !progress.over && progress.rounds < wanted;
        let waited = self.1.wait_timeout_while(progress, TIMEOUT, goes_on);
        let timed_out = waited.unwrap_or_else(PoisonError::into_inner).1.timed_out();
        assert!(!timed_out, "the load makes no progress");
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress());
        self.1.notify_all();
    }
}

impl Load {
    /// Connects.
    ///
    /// # Panics
    /// If nothing listens.
    pub fn connect(address: &str) -> Self {
        let clients = (0..CONNECTIONS).map(|_| RawClient::connect(address)).collect();
        Self { clients, rounds: 0 }
    }

    /// Runs `rounds` on each connection, and compares every byte of every answer.
    ///
    /// # Panics
    /// If one is wrong, or does not come.
    pub fn run(&mut self, rounds: usize) -> Timings {
        self.go(rounds, &LoadState::default())
    }

    fn go(&mut self, rounds: usize, state: &LoadState) -> Timings {
        let first = self.rounds;
        self.rounds += rounds;
        let clients = &self.clients;
        let work = |number: usize| {
            let mut micros = Vec::with_capacity(rounds * 3);
            for round in first..first + rounds {
                self::round(&clients[number], number, round, &mut micros);
                state.update(|progress| progress.rounds += 1);
            }
            micros
        };
        let micros = std::thread::scope(|scope| {
            let spawn = |number| scope.spawn(move || work(number));
            let threads: Vec<_> = (0..clients.len()).map(spawn).collect();
            let micros = threads.into_iter().map(|thread| thread.join().expect("every answer"));
            micros.flatten().collect()
        });
        Timings::of(rounds * ANSWERS * clients.len(), micros)
    }

    /// Runs the load while `attack` runs, which starts before it and ends after it. Returns the
    /// times, and what the attack returns.
    ///
    /// # Panics
    /// If an answer is wrong or does not come, or the attack panics.
    pub fn run_during<T: Send>(
        &mut self,
        rounds: usize,
        attack: impl FnOnce(&LoadState) -> T + Send,
    ) -> (Timings, T) {
        struct Stop<'a>(&'a LoadState);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.update(|progress| progress.over = true);
            }
        }
        let state = LoadState::default();
        std::thread::scope(|scope| {
            let stop = Stop(&state);
            let attack = scope.spawn(|| attack(&state));
            let timings = self.go(rounds, &state);
            drop(stop);
            (timings, attack.join().expect("the attack"))
        })
    }
}

/// Stores, fetches, asks for and removes a session: one by one, then pipelined.
fn round(client: &RawClient, number: usize, round: usize, micros: &mut Vec<u128>) {
    let id = [&[number as u8][..], &round.to_be_bytes(), b"of the load"].concat();
    let data = data(&id);
    let uid = round as u32;
    let singles = [
        (add(uid, &id, &data), status(uid, ADD, 0)),
        (get(uid, &id), session(uid, &data)),
        (have(uid, &id), status(uid, HAVE, 0)),
    ];
    for (request, answer) in singles {
        let before = Instant::now();
        let got = client.ask(&request);
        micros.push(before.elapsed().as_micros());
        assert!(got == answer, "connection {number}, round {round}: {got:02x?}");
    }
    let pipeline = [
        get(1, &id),
        add(2, &id, b"another"),
        get(3, &id),
        remove(4, &id),
        remove(5, &id),
        get(6, &id),
    ];
    let answers = [
        session(1, &data),
        status(2, ADD, 101),
        session(3, &data),
        status(4, REMOVE, 0),
        status(5, REMOVE, 1),
        status(6, GET, 1),
    ];
    client.send(&pipeline.concat());
    for answer in answers {
        let got = client.message();
        assert!(got == answer, "connection {number}, round {round}: {got:02x?}");
    }
}

/// Returns the session that belongs to an id. Lengths vary, up to several frames.
pub fn data(id: &[u8]) -> Vec<u8> {
    let seed = id.iter().fold(7, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(*byte));
    let mut random = Random::new(seed);
    let len = 5 + random.below(5000);
    (0..len).map(|_| random.next() as u8).collect()
}

/// Counts for clients whose server comes and goes.
#[derive(Debug, Default)]
pub struct Tally {
    /// Sessions that were stored and fetched again.
    pub correct: AtomicU64,
    /// Requests answered with DISCONNECTED.
    pub unreachable: AtomicU64,
    /// Connections that broke.
    pub broken: AtomicU64,
    micros: Mutex<Vec<u128>>,
}

impl Tally {
    /// Uses a cache as long as `running` is set, and reconnects if the connection breaks. Each
    /// request must be answered with what was stored, with a miss, or with DISCONNECTED.
    ///
    /// # Panics
    /// If there is another answer, or none at all.
    pub fn use_cache(&self, address: &str, number: usize, running: &AtomicBool) {
        let mut client = RawClient::connect(address);
        let mut round = 0;
        while running.load(Ordering::Relaxed) {
            round += 1;
            if self.round(&client, number, round).is_err() {
                self.broken.fetch_add(1, Ordering::Relaxed);
                let over = || !running.load(Ordering::Relaxed);
                let again =
                    || RawClient::try_connect(address).ok().map(Some).or(over().then_some(None));
                match until("a connection", again) {
                    Some(next) => client = next,
                    None => break,
                }
            }
        }
    }

    fn round(&self, client: &RawClient, number: usize, round: u32) -> io::Result<()> {
        let id = [&[number as u8][..], &round.to_be_bytes(), b"of the tally"].concat();
        let data = data(&id);
        let uid = round;
        let failures = |op| (status(uid, op, 1), status(uid, op, 2));
        let requests = [
            (add(uid, &id, &data), status(uid, ADD, 0), ADD),
            (get(uid, &id), session(uid, &data), GET),
            (have(uid, &id), status(uid, HAVE, 0), HAVE),
            (remove(uid, &id), status(uid, REMOVE, 0), REMOVE),
        ];
        for (request, right, op) in requests {
            let before = Instant::now();
            let got = client.try_ask(&request)?;
            let micros = before.elapsed().as_micros();
            self.micros.lock().unwrap_or_else(PoisonError::into_inner).push(micros);
            let (miss, unreachable) = failures(op);
            if got == unreachable {
                self.unreachable.fetch_add(1, Ordering::Relaxed);
            } else if got == right {
                self.correct.fetch_add(u64::from(op == GET), Ordering::Relaxed);
            } else {
                assert!(op != ADD && got == miss, "{number}, round {round}: {got:02x?}");
            }
        }
        Ok(())
    }

    /// Returns how long the answered requests took.
    pub fn timings(self) -> Timings {
        let micros = self.micros.into_inner().unwrap_or_else(PoisonError::into_inner);
        Timings::of(micros.len(), micros)
    }
}
