//! Clients that never stop asking, and look at every answer: each session's bytes follow from its id.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use distcache_testing::bytes::{ADD, GET, add, get};
use distcache_testing::random::Random;
use distcache_testing::raw_client::RawClient;

/// Sessions of each shard.
const SESSIONS: u64 = 200;

/// What came of the requests for one shard.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) found: u64,
    pub(crate) stored: u64,
    pub(crate) misses: u64,
    pub(crate) away: u64,
    /// ProgramUnderTest that are not right, whatever has happened.
    pub(crate) wrong: u64,
    pub(crate) slowest: Duration,
}

/// Clients, for each shard some.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    tallies: Arc<Mutex<Vec<Tally>>>,
    threads: Vec<JoinHandle<()>>,
}

/// The id of session `number` of the shard that `tag` stands for.
pub(crate) fn id(tag: &str, number: u64) -> Vec<u8> {
    format!("{{{tag}}}{number}").into_bytes()
}

/// The bytes of the session of an id: of various lengths, some of several frames.
pub(crate) fn data(id: &[u8]) -> Vec<u8> {
    let sum = id.iter().fold(17_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let len = if sum.is_multiple_of(16) { 3000 } else { 50 + sum % 200 };
    (0..len).map(|at| (sum.rotate_left(at as u32 % 64) ^ at) as u8).collect()
}

impl Load {
    /// Begins to ask at an address: `clients` for each of the shards that have these tags.
    pub(crate) fn start(address: &str, tags: &[String], clients: usize) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let tallies = Arc::new(Mutex::new(vec![Tally::default(); tags.len()]));
        let mut threads = Vec::new();
        for (shard, tag) in tags.iter().enumerate() {
            for client in 0..clients {
                let (stop, tallies) = (stop.clone(), tallies.clone());
                let (address, tag) = (address.to_owned(), tag.clone());
                threads.push(std::thread::spawn(move || {
                    let mut random = Random::new((shard * clients + client) as u64);
                    let caller = RawClient::connect(&address);
                    while !stop.load(Ordering::Relaxed) {
                        let number = random.next() % SESSIONS;
                        let store = random.next().is_multiple_of(8);
                        one(&caller, &id(&tag, number), store, shard, &tallies);
                    }
                }));
            }
        }
        Self { stop, tallies, threads }
    }

    /// What has come of it since this was asked last.
    pub(crate) fn take(&self) -> Vec<Tally> {
        let mut tallies = self.tallies.lock().expect("nobody panics with it");
        let fresh = vec![Tally::default(); tallies.len()];
        std::mem::replace(&mut tallies, fresh)
    }

    /// Waits until the clients of each shard have had so many answers more.
    pub(crate) fn pass(&self, answers: u64) {
        let all: Vec<usize> = (0..self.counts().len()).collect();
        self.pass_at(&all, answers);
    }

    /// The same for the clients of some of the shards.
    pub(crate) fn pass_at(&self, shards: &[usize], answers: u64) {
        let before = self.counts();
        distcache_testing::process::until("more answers", || {
            let now = self.counts();
            shards.iter().all(|&shard| now[shard] >= before[shard] + answers).then_some(())
        });
    }

    /// How many answers the clients of a shard have had.
    pub(crate) fn count(&self, shard: usize) -> u64 {
        self.counts()[shard]
    }

    /// Waits until the clients of a shard have no more answers while others have hundreds, and says
    /// how many they had.
    pub(crate) fn wait_until_stuck(&self, shard: usize) -> u64 {
        let others: Vec<usize> = (0..self.counts().len()).filter(|other| *other != shard).collect();
        distcache_testing::process::until("a shard that does not answer", || {
            let before = self.count(shard);
            self.pass_at(&others, 200);
            (self.count(shard) == before).then_some(before)
        })
    }

    /// Waits until the clients of a shard find sessions, and nothing fails.
    pub(crate) fn wait_until_well(&self, shard: usize) -> Vec<Tally> {
        let mut sum = self.take();
        distcache_testing::process::until("a shard that is well again", || {
            std::thread::sleep(Duration::from_millis(50));
            let now = self.take();
            for (sum, one) in sum.iter_mut().zip(&now) {
                sum.add(one);
            }
            (now[shard].found > 0 && now[shard].away == 0).then_some(())
        });
        sum
    }

    fn counts(&self) -> Vec<u64> {
        let tallies = self.tallies.lock().expect("nobody panics with it");
        tallies.iter().map(|one| one.found + one.stored + one.misses + one.away).collect()
    }

    /// Ends all clients.
    pub(crate) fn end(mut self) -> Vec<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            thread.join().expect("a client that got every answer");
        }
        self.take()
    }
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.found += other.found;
        self.stored += other.stored;
        self.misses += other.misses;
        self.away += other.away;
        self.wrong += other.wrong;
        self.slowest = self.slowest.max(other.slowest);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn one(caller: &RawClient, id: &[u8], store: bool, shard: usize, tallies: &Mutex<Vec<Tally>>) {
    let session = data(id);
    let asked = Instant::now();
    let answer = caller.ask(&if store { add(7, id, &session) } else { get(7, id) });
    let took = asked.elapsed();
    let found = distcache_testing::bytes::session(7, &session);
    let status = |op, code| distcache_testing::bytes::status(7, op, code);
    let mut tallies = tallies.lock().expect("nobody panics with it");
    let tally = &mut tallies[shard];
    tally.slowest = tally.slowest.max(took);
    if store && (answer == status(ADD, 0) || answer == status(ADD, 101)) {
        tally.stored += 1;
    } else if !store && answer == found {
        tally.found += 1;
    } else if !store && answer == status(GET, 1) {
        tally.misses += 1;
    } else if answer == status(if store { ADD } else { GET }, 2) {
        tally.away += 1;
    } else {
        tally.wrong += 1;
    }
}
