//! The session table beside what the standard library offers for the same work.
//!
//! Ids of 32 bytes, sessions of 200, in random order; a table as full as it gets. `cargo bench
//! --bench table`; the ratio between the two halves says more than the nanoseconds.

use distcache_core::id::Id;
use distcache_core::table::{Layout, Line, Table};
use distcache_core::time::Instant;
use divan::{Bencher, black_box, counter::ItemsCount};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

const SIZES: [u32; 2] = [60_000, 1_000_000];
const SESSION: [u8; 200] = [0x5A; 200];
const BATCH: usize = 16;
const TTL: u32 = 600_000;

fn main() {
    divan::main();
}

/// The `n`th id: 32 bytes that look random.
fn name(n: u64) -> [u8; 32] {
    let mut name = [0; 32];
    for (word, part) in (1..).zip(name.as_chunks_mut().0) {
        let z = (n ^ word << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        *part = (z ^ (z >> 27)).to_le_bytes();
    }
    name
}

fn id(name: &[u8; 32]) -> Id<'_> {
    Id::new(name).expect("32 bytes are an id")
}

/// The names of `count` stored sessions, in an order unlike that of their ADDs, over and over.
struct Names {
    names: Vec<[u8; 32]>,
    next: usize,
}

impl Names {
    fn new(first: u64, count: u32) -> Self {
        let mut names: Vec<_> = (first..).take(count as usize).map(name).collect();
        names.sort_unstable();
        Self { names, next: 0 }
    }

    fn next(&mut self) -> &[u8; 32] {
        self.next = if self.next + 1 < self.names.len() { self.next + 1 } else { 0 };
        &self.names[self.next]
    }

    fn batch(&mut self) -> &[[u8; 32]; BATCH] {
        self.next = if self.next + 2 * BATCH < self.names.len() { self.next + BATCH } else { 0 };
        self.names[self.next..].first_chunk().expect("another batch")
    }
}

/// What is measured.
trait Cache {
    fn add(&mut self, now: u64, name: &[u8; 32]);
    fn get(&self, now: u64, name: &[u8; 32], out: &mut [u8]) -> Option<usize>;
    fn remove(&mut self, now: u64, name: &[u8; 32]) -> bool;
}

impl Cache for Table<Vec<Line>> {
    fn add(&mut self, now: u64, name: &[u8; 32]) {
        let now = Instant::from_millis(now);
        Table::add(self, now, TTL, id(name), &SESSION).expect("a new id");
    }

    fn get(&self, now: u64, name: &[u8; 32], out: &mut [u8]) -> Option<usize> {
        Table::get(self, Instant::from_millis(now), id(name), out)
    }

    fn remove(&mut self, now: u64, name: &[u8; 32]) -> bool {
        Table::remove(self, Instant::from_millis(now), id(name))
    }
}

/// A full table, filled at 20 a millisecond: few are due at the same time.
fn table(sessions: u32) -> Table<Vec<Line>> {
    let layout = Layout::new(sessions, u64::from(sessions) * 256).expect("lawful sizes");
    let table = Table::new(layout, *b"16 bytes of key.", |lines| vec![[0; 64]; lines]);
    let mut table = table.expect("enough memory");
    (0..u64::from(sessions)).for_each(|n| Cache::add(&mut table, n / 20, &name(n)));
    table
}

/// Exact expiry from the standard library: a map and an ordered set.
struct Std {
    sessions: HashMap<[u8; 32], (u64, Box<[u8]>)>,
    order: BTreeSet<(u64, [u8; 32])>,
    most: usize,
}

impl Cache for Std {
    fn add(&mut self, now: u64, name: &[u8; 32]) {
        if self.sessions.len() >= self.most
            && let Some((_, soonest)) = self.order.pop_first()
        {
            self.sessions.remove(&soonest);
        }
        let due = now + u64::from(TTL);
        self.sessions.insert(*name, (due, SESSION.into()));
        self.order.insert((due, *name));
    }

    fn get(&self, now: u64, name: &[u8; 32], out: &mut [u8]) -> Option<usize> {
        let (due, session) = self.sessions.get(name)?;
        out[..session.len()].copy_from_slice(session);
        (now < *due).then_some(session.len())
    }

    fn remove(&mut self, _: u64, name: &[u8; 32]) -> bool {
        let removed = self.sessions.remove(name);
        removed.is_some_and(|(due, _)| self.order.remove(&(due, *name)))
    }
}

fn standard(sessions: u32) -> Std {
    let (sessions, most) = (u64::from(sessions), sessions as usize);
    let mut cache = Std { sessions: HashMap::with_capacity(most), order: BTreeSet::new(), most };
    (0..sessions).for_each(|n| cache.add(n / 20, &name(n)));
    cache
}

fn hit(bencher: Bencher<'_, '_>, sessions: u32, cache: &impl Cache) {
    let mut names = Names::new(0, sessions);
    let mut out = [0; 256];
    bencher.bench_local(|| {
        let len = cache.get(1_000, names.next(), &mut out);
        assert_eq!(len, Some(200));
        black_box(&mut out);
    });
}

fn miss(bencher: Bencher<'_, '_>, sessions: u32, cache: &impl Cache) {
    let mut names = Names::new(1 << 32, sessions);
    let mut out = [0; 256];
    bencher.bench_local(|| assert_eq!(cache.get(1_000, names.next(), &mut out), None));
}

fn add(bencher: Bencher<'_, '_>, sessions: u32, cache: &mut impl Cache) {
    let mut next = u64::from(sessions);
    bencher.bench_local(|| {
        cache.add(next / 20, &name(next));
        next += 1;
    });
}

fn remove(bencher: Bencher<'_, '_>, sessions: u32, cache: impl Cache) {
    let cache = RefCell::new(cache);
    let names = RefCell::new(Names::new(0, sessions));
    let removed = RefCell::new(Vec::with_capacity(sessions as usize));
    bencher
        .with_inputs(|| {
            if let Some(name) = removed.borrow_mut().pop() {
                cache.borrow_mut().add(1_000, &name);
            }
            *names.borrow_mut().next()
        })
        .bench_local_values(|name| {
            assert!(cache.borrow_mut().remove(1_000, &name));
            removed.borrow_mut().push(name);
        });
}

#[divan::bench(args = SIZES)]
fn get_hit(bencher: Bencher<'_, '_>, sessions: u32) {
    hit(bencher, sessions, &table(sessions));
}

#[divan::bench(args = SIZES)]
fn get_hit_std(bencher: Bencher<'_, '_>, sessions: u32) {
    hit(bencher, sessions, &standard(sessions));
}

/// Sixteen at a time, touched first; the time is that of all sixteen.
#[divan::bench(args = SIZES)]
fn get_hit_batch(bencher: Bencher<'_, '_>, sessions: u32) {
    let table = table(sessions);
    let mut names = Names::new(0, sessions);
    let mut out = [0; 256];
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        let batch = names.batch();
        black_box(table.prefetch(&batch.each_ref().map(id)));
        for name in batch {
            assert_eq!(Cache::get(&table, 1_000, name, &mut out), Some(200));
            black_box(&mut out);
        }
    });
}

#[divan::bench(args = SIZES)]
fn get_miss(bencher: Bencher<'_, '_>, sessions: u32) {
    miss(bencher, sessions, &table(sessions));
}

#[divan::bench(args = SIZES)]
fn get_miss_std(bencher: Bencher<'_, '_>, sessions: u32) {
    miss(bencher, sessions, &standard(sessions));
}

#[divan::bench(args = SIZES)]
fn add_evict(bencher: Bencher<'_, '_>, sessions: u32) {
    add(bencher, sessions, &mut table(sessions));
}

#[divan::bench(args = SIZES)]
fn add_evict_std(bencher: Bencher<'_, '_>, sessions: u32) {
    add(bencher, sessions, &mut standard(sessions));
}

#[divan::bench(args = SIZES)]
fn remove_one(bencher: Bencher<'_, '_>, sessions: u32) {
    remove(bencher, sessions, table(sessions));
}

#[divan::bench(args = SIZES)]
fn remove_one_std(bencher: Bencher<'_, '_>, sessions: u32) {
    remove(bencher, sessions, standard(sessions));
}
