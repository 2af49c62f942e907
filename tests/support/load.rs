//! A client that behaves well and knows every answer, and what it is made to wait by others.
//!
//! ```text
//!  Load::to(address)   a few persistent connections
//!    .quiet(rounds)        so it is when nobody disturbs
//!    .besieged(rounds, abuse)   the same while `abuse` goes on
//! ```

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::bytes::{ADD, GET, HAVE, REMOVE, add, get, have, remove, session, status};
use crate::caller::Caller;
use crate::process::{PATIENCE, until};
use crate::random::Random;

/// How many connections a load has.
pub const CONNECTIONS: usize = 4;
/// How many answers a round of one connection has.
pub const ANSWERS: usize = 9;

/// Lets one test of a program measure at a time: two at once would measure each other.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed has ended all that it had started.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A few connections that stay.
#[derive(Debug)]
pub struct Load {
    callers: Vec<Caller>,
    rounds: usize,
}

/// How long single requests took.
#[derive(Clone, Debug, Default)]
pub struct Timings {
    /// How many answers were right: all.
    pub answers: usize,
    /// Microseconds, in order.
    micros: Vec<u128>,
}

impl Timings {
    fn of(answers: usize, mut micros: Vec<u128>) -> Self {
        micros.sort_unstable();
        Self { answers, micros }
    }

    /// The time within which so many of a hundred were answered, in microseconds.
    pub fn percentile(&self, of_hundred: usize) -> u128 {
        let last = self.micros.len().saturating_sub(1);
        self.micros.get(last * of_hundred / 100).copied().unwrap_or(0)
    }
}

/// Whether an abuse is to go on, for whoever commits it.
#[derive(Debug, Default)]
pub struct Going(Mutex<Progress>, Condvar);

#[derive(Debug, Default)]
struct Progress {
    /// Rounds of all connections together.
    rounds: usize,
    over: bool,
}

impl Going {
    /// False once the load has all its answers.
    pub fn on(&self) -> bool {
        !self.progress().over
    }

    /// Waits until the load has gone through so many more rounds, or has all its answers.
    ///
    /// # Panics
    /// Where neither happens.
    pub fn sees(&self, rounds: usize) {
        let progress = self.progress();
        let wanted = progress.rounds + rounds;
        let goes_on = |progress: &mut Progress| !progress.over && progress.rounds < wanted;
        let waited = self.1.wait_timeout_while(progress, PATIENCE, goes_on);
        let timed_out = waited.unwrap_or_else(PoisonError::into_inner).1.timed_out();
        assert!(!timed_out, "the load does not get on");
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, news: impl FnOnce(&mut Progress)) {
        news(&mut self.progress());
        self.1.notify_all();
    }
}

impl Load {
    /// Connects.
    ///
    /// # Panics
    /// Where nobody listens.
    pub fn to(address: &str) -> Self {
        let callers = (0..CONNECTIONS).map(|_| Caller::to(address)).collect();
        Self { callers, rounds: 0 }
    }

    /// Goes through `rounds` on each connection, and looks at every byte of every answer.
    ///
    /// # Panics
    /// Where one is wrong, or does not come.
    pub fn quiet(&mut self, rounds: usize) -> Timings {
        self.go(rounds, &Going::default())
    }

    fn go(&mut self, rounds: usize, going: &Going) -> Timings {
        let first = self.rounds;
        self.rounds += rounds;
        let callers = &self.callers;
        let work = |number: usize| {
            let mut micros = Vec::with_capacity(rounds * 3);
            for round in first..first + rounds {
                self::round(&callers[number], number, round, &mut micros);
                going.tell(|progress| progress.rounds += 1);
            }
            micros
        };
        let micros = std::thread::scope(|scope| {
            let spawn = |number| scope.spawn(move || work(number));
            let threads: Vec<_> = (0..callers.len()).map(spawn).collect();
            let micros = threads.into_iter().map(|thread| thread.join().expect("every answer"));
            micros.flatten().collect()
        });
        Timings::of(rounds * ANSWERS * callers.len(), micros)
    }

    /// The same while an abuse goes on, which begins before and ends after, and what comes of that.
    ///
    /// # Panics
    /// Where an answer is wrong or does not come, or the abuse itself panics.
    pub fn besieged<T: Send>(
        &mut self,
        rounds: usize,
        abuse: impl FnOnce(&Going) -> T + Send,
    ) -> (Timings, T) {
        struct Stop<'a>(&'a Going);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.tell(|progress| progress.over = true);
            }
        }
        let going = Going::default();
        std::thread::scope(|scope| {
            let stop = Stop(&going);
            let abuse = scope.spawn(|| abuse(&going));
            let timings = self.go(rounds, &going);
            drop(stop);
            (timings, abuse.join().expect("the abuse itself"))
        })
    }
}

/// Stores a session, fetches it, asks for it, and forgets it: one by one, then in one go.
fn round(caller: &Caller, number: usize, round: usize, micros: &mut Vec<u128>) {
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
        let got = caller.ask(&request);
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
    caller.send(&pipeline.concat());
    for answer in answers {
        let got = caller.message();
        assert!(got == answer, "connection {number}, round {round}: {got:02x?}");
    }
}

/// The session that goes with an id: of many lengths, some of several frames.
pub fn data(id: &[u8]) -> Vec<u8> {
    let seed = id.iter().fold(7, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(*byte));
    let mut random = Random::new(seed);
    let len = 5 + random.below(5000);
    (0..len).map(|_| random.next() as u8).collect()
}

/// What came of requests of clients that expect their server to come and go.
#[derive(Debug, Default)]
pub struct Tally {
    /// Sessions that were stored and fetched again.
    pub right: AtomicU64,
    /// Requests answered that the server is away.
    pub away: AtomicU64,
    /// Connections that broke.
    pub broken: AtomicU64,
    micros: Mutex<Vec<u128>>,
}

impl Tally {
    /// Uses a cache until told otherwise; connects again where the connection breaks. Each request
    /// must be answered with what was stored, that nothing is there, or that the server is away.
    ///
    /// # Panics
    /// Where something else is answered, or nothing at all.
    pub fn use_cache(&self, address: &str, number: usize, going: &AtomicBool) {
        let mut caller = Caller::to(address);
        let mut round = 0;
        while going.load(Ordering::Relaxed) {
            round += 1;
            if self.round(&caller, number, round).is_err() {
                self.broken.fetch_add(1, Ordering::Relaxed);
                let over = || !going.load(Ordering::Relaxed);
                let again = || Caller::try_to(address).ok().map(Some).or(over().then_some(None));
                match until("a connection", again) {
                    Some(next) => caller = next,
                    None => break,
                }
            }
        }
    }

    fn round(&self, caller: &Caller, number: usize, round: u32) -> io::Result<()> {
        let id = [&[number as u8][..], &round.to_be_bytes(), b"of the shaken"].concat();
        let data = data(&id);
        let uid = round;
        let none = |op| (status(uid, op, 1), status(uid, op, 2));
        let fine = [
            (add(uid, &id, &data), status(uid, ADD, 0), ADD),
            (get(uid, &id), session(uid, &data), GET),
            (have(uid, &id), status(uid, HAVE, 0), HAVE),
            (remove(uid, &id), status(uid, REMOVE, 0), REMOVE),
        ];
        for (request, right, op) in fine {
            let before = Instant::now();
            let got = caller.try_ask(&request)?;
            let micros = before.elapsed().as_micros();
            self.micros.lock().unwrap_or_else(PoisonError::into_inner).push(micros);
            let (nothing, away) = none(op);
            if got == away {
                self.away.fetch_add(1, Ordering::Relaxed);
            } else if got == right {
                self.right.fetch_add(u64::from(op == GET), Ordering::Relaxed);
            } else {
                assert!(op != ADD && got == nothing, "{number}, round {round}: {got:02x?}");
            }
        }
        Ok(())
    }

    /// How long the requests took that were answered.
    pub fn timings(self) -> Timings {
        let micros = self.micros.into_inner().unwrap_or_else(PoisonError::into_inner);
        Timings::of(micros.len(), micros)
    }
}
