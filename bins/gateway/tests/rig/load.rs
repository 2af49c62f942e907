//! Clients that send requests all the time and check every answer: the bytes of a session follow from its id.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use distcache_testing::bytes::{ADD, FETCH, GET, add, at_level, get, message};
use distcache_testing::random::Random;
use distcache_testing::raw_client::RawClient;

/// Sessions of each shard.
const SESSIONS: u64 = 200;

/// The answers to the requests for one shard.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) found: u64,
    pub(crate) stored: u64,
    pub(crate) misses: u64,
    pub(crate) unreachable: u64,
    /// Answers that are wrong whatever has failed.
    pub(crate) wrong: u64,
    pub(crate) slowest: Duration,
}

/// Some clients for each shard.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    tallies: Arc<Mutex<Vec<Tally>>>,
    threads: Vec<JoinHandle<()>>,
}

/// The id of session `number` of the shard of `tag`.
pub(crate) fn id(tag: &str, number: u64) -> Vec<u8> {
    format!("{{{tag}}}{number}").into_bytes()
}

/// The session of an id. Lengths vary; some take several frames.
pub(crate) fn data(id: &[u8]) -> Vec<u8> {
    let sum = id.iter().fold(17_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let len = if sum.is_multiple_of(16) { 3000 } else { 50 + sum % 200 };
    (0..len).map(|at| (sum.rotate_left(at as u32 % 64) ^ at) as u8).collect()
}

impl Load {
    /// Starts `clients` for the shard of each tag.
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
                    let client = RawClient::connect(&address);
                    while !stop.load(Ordering::Relaxed) {
                        let number = random.next() % SESSIONS;
                        let store = random.next().is_multiple_of(8);
                        request(&client, &id(&tag, number), store, shard, &tallies);
                    }
                }));
            }
        }
        Self { stop, tallies, threads }
    }

    /// The answers since the last call.
    pub(crate) fn take(&self) -> Vec<Tally> {
        let mut tallies = self.tallies.lock().expect("no thread panics with it");
        let fresh = vec![Tally::default(); tallies.len()];
        std::mem::replace(&mut tallies, fresh)
    }

    /// Waits until the clients of each shard have got so many more answers.
    pub(crate) fn wait_for(&self, answers: u64) {
        let all: Vec<usize> = (0..self.counts().len()).collect();
        self.wait_for_shards(&all, answers);
    }

    /// Waits until the clients of these shards have got so many more answers.
    pub(crate) fn wait_for_shards(&self, shards: &[usize], answers: u64) {
        let before = self.counts();
        distcache_testing::process::until("more answers", || {
            let now = self.counts();
            shards.iter().all(|&shard| now[shard] >= before[shard] + answers).then_some(())
        });
    }

    /// The number of answers that the clients of a shard have got.
    pub(crate) fn count(&self, shard: usize) -> u64 {
        self.counts()[shard]
    }

    /// Waits until the clients of a shard get no answer while others get hundreds. Returns how many they
    /// have got.
    pub(crate) fn wait_until_blocked(&self, shard: usize) -> u64 {
        let others: Vec<usize> = (0..self.counts().len()).filter(|other| *other != shard).collect();
        distcache_testing::process::until("a shard that does not answer", || {
            let before = self.count(shard);
            self.wait_for_shards(&others, 200);
            (self.count(shard) == before).then_some(before)
        })
    }

    /// Waits until the clients of a shard find sessions and nothing fails. Returns all answers until then.
    pub(crate) fn wait_until_recovered(&self, shard: usize) -> Vec<Tally> {
        let mut sum = self.take();
        distcache_testing::process::until("a shard that has recovered", || {
            std::thread::sleep(Duration::from_millis(50));
            let now = self.take();
            for (sum, one) in sum.iter_mut().zip(&now) {
                sum.add(one);
            }
            (now[shard].found > 0 && now[shard].unreachable == 0).then_some(())
        });
        sum
    }

    fn counts(&self) -> Vec<u64> {
        let tallies = self.tallies.lock().expect("no thread panics with it");
        tallies.iter().map(|one| one.found + one.stored + one.misses + one.unreachable).collect()
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
        self.unreachable += other.unreachable;
        self.wrong += other.wrong;
        self.slowest = self.slowest.max(other.slowest);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The answer to a FETCH as that to a GET would be. The lifetime is left out.
fn as_get(answer: &[u8]) -> Vec<u8> {
    let frames = answer.chunks(14 + 2048);
    let payload: Vec<u8> = frames.flat_map(|frame| &frame[14..]).copied().collect();
    match payload.as_slice() {
        [0, _, _, _, _, session @ ..] => distcache_testing::bytes::session(7, session),
        [1, 0, 0, 0, 0, 0, 0, 0, 0] => distcache_testing::bytes::status(7, GET, 1),
        [code] => distcache_testing::bytes::status(7, GET, *code),
        _ => answer.to_vec(),
    }
}

fn request(client: &RawClient, id: &[u8], store: bool, shard: usize, tallies: &Mutex<Vec<Tally>>) {
    let session = data(id);
    let start = Instant::now();
    // Some of the requests that read are FETCHes, which take two commands each.
    let fetch = !store && session.len().is_multiple_of(4);
    let answer = client.ask(&match (store, fetch) {
        (true, _) => add(7, id, &session),
        (false, true) => at_level(2, message(0, 7, FETCH, id)),
        (false, false) => get(7, id),
    });
    let answer = if fetch { as_get(&answer) } else { answer };
    let took = start.elapsed();
    let found = distcache_testing::bytes::session(7, &session);
    let status = |op, code| distcache_testing::bytes::status(7, op, code);
    let mut tallies = tallies.lock().expect("no thread panics with it");
    let tally = &mut tallies[shard];
    tally.slowest = tally.slowest.max(took);
    if store && (answer == status(ADD, 0) || answer == status(ADD, 101)) {
        tally.stored += 1;
    } else if !store && answer == found {
        tally.found += 1;
    } else if !store && answer == status(GET, 1) {
        tally.misses += 1;
    } else if answer == status(if store { ADD } else { GET }, 2) {
        tally.unreachable += 1;
    } else {
        tally.wrong += 1;
    }
}
