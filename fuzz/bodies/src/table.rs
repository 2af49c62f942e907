//! The session table does what a map with expiry times does, evicts the oldest session of a lifetime
//! class, and leaves nothing of a session that it dropped.

use crate::input::Input;
use distcache_core::id::Id;
use distcache_core::table::{AddError, Layout, Line, SESSION_MAX, Table};
use distcache_core::time::Instant;
use std::collections::VecDeque;

/// How many ids there are: far more than the 96 slots of the smallest index. A table of 81 sessions
/// fills 0.84 of those, and moves slots to make room.
const IDS: u8 = 240;

/// The longest lifetime of each class but the last, in milliseconds.
const CLASSES: [u32; 3] = [300_000, 3_600_000, 21_600_000];

/// What is stored under an id.
struct Stored {
    due: Instant,
    /// The number of the operation that stored it.
    number: u64,
    /// The value of each of its bytes, and how many there are.
    byte: u8,
    len: usize,
}

/// A table and its model.
struct Harness<'m> {
    table: Table<&'m mut [Line]>,
    model: [Option<Stored>; IDS as usize],
    /// What was stored in each class, oldest first, including what has been removed since.
    classes: [VecDeque<(u8, u64)>; CLASSES.len() + 1],
    now: Instant,
    blocks: u32,
    count: u64,
    out: Vec<u8>,
}

/// Input: two bytes for the table's size, then some for each operation: its kind, id, lifetime and
/// length.
pub fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let sessions = [1, 2, 5, 20, 81, 81][input.below(6)];
    let blocks = [1, 2, sessions / 2 + 1, sessions, 2 * sessions, 129 * sessions][input.below(6)];
    // 129 times 81 blocks are too many to allocate for each input.
    let blocks = blocks.min(700);
    let layout = Layout::new(sessions, u64::from(blocks) * 256).expect("valid sizes");
    let mut memory = vec![0; layout.size()];
    let table = Table::in_memory(layout, [7; 16], &mut memory).expect("enough memory");
    let mut harness = Harness {
        table,
        model: [const { None }; IDS as usize],
        classes: Default::default(),
        now: Instant::from_millis(1),
        blocks: layout.blocks(),
        count: 0,
        out: vec![0; SESSION_MAX],
    };
    while !input.is_over() {
        harness.step(&mut input);
    }
    (0..IDS).for_each(|name| harness.look(name));
    harness.drop_all(data.len().is_multiple_of(2));
    // Blocks are the last section of a table.
    let (_, blocks) = memory.split_at(layout.size() - 256 * layout.blocks() as usize);
    assert!(blocks.iter().all(|byte| *byte == 0), "a session stays behind");
}

/// Returns an id of 1 to 64 bytes.
fn bytes(name: u8) -> ([u8; 64], usize) {
    ([name; 64], 1 + usize::from(name) * 3 % 64)
}

fn blocks(name: u8, len: usize) -> u32 {
    1 + (bytes(name).1 + len).saturating_sub(240).div_ceil(256) as u32
}

impl Harness<'_> {
    fn step(&mut self, input: &mut Input<'_>) {
        let (what, name, amount) = (input.below(16), input.byte() % IDS, input.byte());
        let (id, len) = bytes(name);
        let id = Id::new(&id[..len]).expect("1 to 64 bytes");
        match what {
            0..6 => self.store(name, id, amount, input, false),
            6..8 => self.store(name, id, amount, input, true),
            8 | 9 => {
                let there = self.model[usize::from(name)].take().is_some();
                assert_eq!(self.table.remove(self.now, id), there);
            }
            10 => {
                self.now = self.now.after(u64::from(amount));
                self.forget();
            }
            11 => {
                self.now = self.now.after(u64::from(amount) * 60_000);
                self.forget();
            }
            12 => {
                let budget = usize::from(amount % 8);
                let before = self.table.len() as usize;
                let expired = before - self.live().count();
                assert_eq!(self.table.expire(self.now, budget), expired.min(budget));
            }
            13 => {
                let names = [name, amount % IDS, amount / 2, 0].map(bytes);
                let ids = names.each_ref().map(|(id, len)| Id::new(&id[..*len]).expect("an id"));
                let ids = ids.repeat(1 + usize::from(amount) % 9);
                std::hint::black_box(self.table.prefetch(&ids[..usize::from(amount) % ids.len()]));
            }
            // Many small sessions.
            _ => {
                for number in 0..amount % 64 {
                    let name = name.wrapping_add(number) % IDS;
                    let (id, len) = bytes(name);
                    let id = Id::new(&id[..len]).expect("1 to 64 bytes");
                    self.store(name, id, 1, &mut input.clone(), false);
                }
            }
        }
        self.look(name);
        self.look(amount % IDS);
        assert!(self.table.len() <= self.table.capacity());
        assert!(self.table.len() as usize >= self.live().count());
        let soonest = self.live().map(|stored| stored.due).min();
        assert!(soonest.is_none_or(|due| self.table.deadline().is_some_and(|first| first <= due)));
    }

    /// Empties the table: by REMOVE, or by expiry.
    fn drop_all(&mut self, remove: bool) {
        for name in (0..IDS).filter(|_| remove) {
            let (id, len) = bytes(name);
            self.table.remove(self.now, Id::new(&id[..len]).expect("1 to 64 bytes"));
        }
        self.table.expire(self.now.after(1 << 40), usize::MAX);
        assert!(self.table.is_empty());
    }

    fn live(&self) -> impl Iterator<Item = &Stored> {
        self.model.iter().flatten()
    }

    /// Removes expired sessions from the model.
    fn forget(&mut self) {
        for place in &mut self.model {
            place.take_if(|stored| stored.due <= self.now);
        }
    }

    fn look(&mut self, name: u8) {
        let (id, len) = bytes(name);
        let id = Id::new(&id[..len]).expect("1 to 64 bytes");
        let stored = self.model[usize::from(name)].as_ref();
        let found = self.table.get(self.now, id, &mut self.out);
        assert_eq!(found, stored.map(|stored| stored.len), "{name}");
        assert_eq!(self.table.has(self.now, id), found.is_some());
        if let Some(stored) = stored {
            // Blocks begin every 256 bytes, so no block is missed.
            let mut seen = self.out[..stored.len].iter().step_by(97);
            assert!(seen.all(|byte| *byte == stored.byte));
        }
    }

    fn store(&mut self, name: u8, id: Id<'_>, amount: u8, input: &mut Input<'_>, replace: bool) {
        let (life, byte) = (input.byte(), input.byte());
        let ttl = match life % 8 {
            0 => 0,
            1..5 => u32::from(life) * 10,
            5 => CLASSES[usize::from(life / 8) % 3] + u32::from(life / 128),
            _ => u32::from(life) * 3_000_000,
        };
        // Mostly small ones; a few that take many blocks, or too many.
        let len = match usize::from(amount) {
            few @ ..240 => few * 4,
            many => (many - 239) * 2_048 + usize::from(many == 255),
        };
        let session = &vec![byte; len][..];
        let there = self.model[usize::from(name)].is_some();
        let (before, held) = (self.table.counters(), self.table.len());
        let result = if replace {
            self.table.put(self.now, ttl, id, session)
        } else {
            self.table.add(self.now, ttl, id, session)
        };
        let after = self.table.counters();
        let fits = (1..=SESSION_MAX).contains(&len) && blocks(name, len) <= self.blocks;
        match result {
            Err(AddError::TooLarge) => assert!(!fits),
            Err(AddError::Exists) => assert!(!replace && there),
            // Both buckets of 12 and the stash of 8 are in use.
            Err(AddError::Full) => assert!(ttl > 0 && held >= 20),
            Ok(()) => {
                assert!(fits && (replace || !there));
                self.model[usize::from(name)] = None;
                let due = self.now.after(ttl.into());
                let evicted = (after.evicted - before.evicted) as usize;
                self.follow(evicted, ttl, blocks(name, len));
                let class = CLASSES.iter().filter(|longest| ttl > **longest).count();
                self.count += 1;
                let number = self.count;
                if ttl > 0 {
                    self.model[usize::from(name)] = Some(Stored { due, number, byte, len });
                    self.classes[class].push_back((name, number));
                }
                return;
            }
        }
        assert_eq!(after.evicted, before.evicted, "a refused ADD evicts nothing");
    }

    /// Removes from the model what was evicted for a session of `need` blocks: of each class the
    /// oldest, and no more than needed.
    fn follow(&mut self, evicted: usize, ttl: u32, need: u32) {
        if evicted == 0 {
            return;
        }
        assert!(ttl > 0, "nothing is evicted for what is not stored");
        let taken: u32 =
            (0..IDS).filter_map(|name| Some(blocks(name, self.stored(name)?.len))).sum();
        let live = self.live().count();
        // The last one evicted of each class, and how many blocks it took.
        let mut last = Vec::new();
        let (mut left, mut freed) = (0, 0);
        for class in 0..self.classes.len() {
            let mut latest = None;
            while let Some(&(name, number)) = self.classes[class].front() {
                let len = match self.stored(name) {
                    Some(stored) if stored.number == number => stored.len,
                    // It was removed or has expired.
                    _ => {
                        self.classes[class].pop_front();
                        continue;
                    }
                };
                let (id, id_len) = bytes(name);
                if self.table.has(self.now, Id::new(&id[..id_len]).expect("an id")) {
                    break;
                }
                self.classes[class].pop_front();
                self.model[usize::from(name)] = None;
                left += 1;
                freed += blocks(name, len);
                latest = Some(blocks(name, len));
            }
            last.extend(latest);
        }
        assert_eq!(left, evicted, "an evicted session was not the oldest of its class");
        let full = live - left + 1 >= self.table.capacity() as usize;
        let short = |last: &u32| full || taken - freed + last + need > self.blocks;
        assert!(last.iter().any(short), "a session was evicted although there was room");
    }

    fn stored(&self, name: u8) -> Option<&Stored> {
        self.model[usize::from(name)].as_ref()
    }
}
