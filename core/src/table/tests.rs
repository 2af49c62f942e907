use super::*;
use arena::BLOCK;
use std::collections::{BTreeMap, BTreeSet};
use std::{vec, vec::Vec};

const KEY: [u8; 16] = *b"a key for tests.";
const DAY: u64 = 86_400_000;

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

fn id(bytes: &[u8]) -> Id<'_> {
    Id::new(bytes).unwrap()
}

/// Memory for a table of `sessions` in `blocks`.
fn memory(sessions: u32, blocks: u32) -> (Vec<u8>, Layout) {
    let layout = Layout::new(sessions, u64::from(blocks) * BLOCK as u64).unwrap();
    (vec![0; layout.size()], layout)
}

impl<M: Array<Line>> Table<M> {
    /// What holds between any two calls.
    pub(crate) fn check(&self) {
        let heads = self.expiry.check(&self.arena.links);
        assert!(heads.len() as u32 <= self.layout.sessions());
        let entries = self.index.check();
        assert_eq!(entries.len(), heads.len());
        let probes: BTreeMap<u32, Probe> = entries.into_iter().collect();
        assert_eq!(probes.len(), heads.len(), "a head twice in the index");
        let classes = self.ages.check(&self.arena);
        let mut in_classes = classes.concat();
        in_classes.sort_unstable();
        let mut sorted = heads.clone();
        sorted.sort_unstable();
        assert_eq!(in_classes, sorted);
        let mut seen = vec![false; self.layout.blocks() as usize];
        for head in heads {
            let expected = self.probe(self.arena.id(head));
            assert!(self.index.same(probes[&head], expected));
            assert!(
                self.expiry.due(&self.arena.links, head).unwrap() <= self.now.after(TTL_MAX.into())
            );
            self.arena.check(head, &mut seen);
        }
        self.arena.check_free(&mut seen);
    }
}

/// A session as the model has it.
struct Stored {
    due: Instant,
    session: Vec<u8>,
    class: u8,
    /// Its number among all that were stored.
    number: u64,
}

/// What a table must do, done the plain way.
#[derive(Default)]
struct Model {
    now: Instant,
    sessions: BTreeMap<Vec<u8>, Stored>,
    order: BTreeSet<(Instant, Vec<u8>)>,
    blocks: u32,
    stored: u64,
}

impl Model {
    fn live(&self, now: Instant, id: &[u8]) -> Option<&[u8]> {
        let stored = self.sessions.get(id)?;
        (now.max(self.now) < stored.due).then_some(&stored.session)
    }

    fn insert(&mut self, ttl: u32, id: &[u8], session: &[u8]) {
        let due = self.now.after(ttl.into());
        self.blocks += arena::blocks_for(id.len(), session.len());
        self.order.insert((due, id.to_vec()));
        self.stored += 1;
        let (class, number) = (ages::class(ttl), self.stored);
        self.sessions.insert(id.to_vec(), Stored { due, session: session.to_vec(), class, number });
    }

    /// Drops a session; gives it and its blocks.
    fn drop(&mut self, id: &[u8]) -> Option<(Stored, u32)> {
        let stored = self.sessions.remove(id)?;
        self.order.remove(&(stored.due, id.to_vec()));
        let blocks = arena::blocks_for(id.len(), stored.session.len());
        self.blocks -= blocks;
        Some((stored, blocks))
    }

    /// Drops what the table has dropped: `count` sessions. Expired ones leave first, soonest due
    /// first; then those of each class that were stored first. Gives the blocks of each that may
    /// have been the last to leave.
    fn follow(&mut self, table: &Table<&mut [Line]>, count: usize) -> Vec<u32> {
        let gone = |name: &[u8]| table.find(table.probe(name), id(name)).is_none();
        let victims: Vec<_> = self.sessions.keys().filter(|name| gone(name)).cloned().collect();
        assert_eq!(victims.len(), count);
        let dropped: Vec<_> = victims.iter().map(|name| self.drop(name).unwrap()).collect();
        let (expired, evicted): (Vec<_>, Vec<_>) =
            dropped.into_iter().partition(|(stored, _)| stored.due <= self.now);
        let soonest = self.order.first().map(|(due, _)| *due);
        let last = expired.iter().map(|(stored, _)| stored.due).max();
        assert!(last.zip(soonest).is_none_or(|(last, soonest)| last <= soonest));
        if evicted.is_empty() {
            let ties = expired.iter().filter(|(stored, _)| Some(stored.due) == last);
            return ties.map(|(_, blocks)| *blocks).collect();
        }
        assert!(soonest.is_none_or(|soonest| soonest > self.now), "an expired one stayed");
        let mut last = Vec::new();
        for class in 0..ages::CLASSES as u8 {
            let of_class = |stored: &Stored| stored.class == class;
            let stayed = self.sessions.values().filter(|stored| of_class(stored));
            let oldest = stayed.map(|stored| stored.number).min();
            let left = evicted.iter().filter(|(stored, _)| of_class(stored));
            if let Some((stored, blocks)) = left.max_by_key(|(stored, _)| stored.number) {
                assert!(oldest.is_none_or(|oldest| stored.number < oldest), "a later one left");
                last.push(*blocks);
            }
        }
        last
    }
}

/// Bytes that steer a run; zeros when they have run out.
struct Steps<'a>(&'a [u8]);

impl Steps<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }
}

/// A table and its model, side by side, through what `data` says; gives the operations done.
fn drive(data: &[u8]) -> usize {
    let mut steps = Steps(data);
    let sessions = [1, 2, 7, 40, 81, 300][usize::from(steps.byte()) % 6];
    let blocks =
        [1, 2, sessions / 2 + 1, sessions, 129, 4 * sessions + 129][usize::from(steps.byte()) % 6];
    let (mut bytes, layout) = memory(sessions, blocks);
    let mut table = Table::in_memory(layout, KEY, &mut bytes).unwrap();
    let mut model = Model::default();
    let mut out = vec![0; SESSION_MAX];
    let mut now = at(u64::from(steps.word()));
    let mut operations = 0;
    while !steps.0.is_empty() {
        operations += 1;
        now = match steps.byte() {
            0 => now.after(u64::from(steps.byte()) * DAY),
            1 => at(now.as_millis().saturating_sub(u64::from(steps.word()))),
            2..60 => now.after(u64::from(steps.byte())),
            _ => now,
        };
        let names = 2 * sessions;
        let n = (u32::from(steps.byte()) << 8 | u32::from(steps.byte())) % names;
        let mut name = [0x5A; 64];
        name[..4].copy_from_slice(&n.to_le_bytes());
        let name = &name[..if n == 0 { 1 } else { 4 + n as usize * 7 % 61 }];
        match steps.byte() % 16 {
            0..8 => add(&mut table, &mut model, now, name, &mut steps),
            8..12 => get(&table, &model, now, name, &mut out, steps.byte()),
            12 => assert_eq!(table.has(now, id(name)), model.live(now, name).is_some()),
            13 | 14 => {
                let live = model.live(now, name).is_some();
                assert_eq!(table.remove(now, id(name)), live);
                model.now = model.now.max(now);
                model.drop(name);
            }
            _ => {
                let budget = usize::from(steps.byte() % 8);
                let count = table.expire(now, budget);
                model.now = model.now.max(now);
                let due = model.order.range(..=(model.now, vec![0xFF; 65])).count();
                assert_eq!(count, due.min(budget));
                model.follow(&table, count);
            }
        }
        assert_eq!(table.len() as usize, model.sessions.len());
        assert_eq!(table.deadline(), model.order.first().map(|(due, _)| *due));
        assert_eq!(table.arena.free(), table.layout.blocks() - model.blocks);
        if operations % 512 == 0 {
            table.check();
        }
    }
    table.check();
    operations
}

fn add(
    table: &mut Table<&mut [Line]>,
    model: &mut Model,
    now: Instant,
    name: &[u8],
    steps: &mut Steps<'_>,
) {
    let ttl = match steps.byte() {
        0..16 => 0,
        16..32 => TTL_MAX,
        32..48 => 300_000 << (steps.byte() % 8),
        48..64 => steps.word() % (TTL_MAX + 1),
        _ => u32::from(steps.byte()) * 16,
    };
    let len = match steps.byte() {
        0 => SESSION_MAX,
        1 => steps.word() as usize % (SESSION_MAX + 2),
        2..100 => usize::from(steps.byte()) * 4,
        _ => 1 + usize::from(steps.byte()),
    };
    let seed = steps.byte();
    let session: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_add(seed)).collect();
    let before = table.counters();
    let result = table.add(now, ttl, id(name), &session);
    let left = |table: &Table<&mut [Line]>| {
        let TableCounters { evicted, expired, .. } = table.counters();
        (evicted + expired - before.evicted - before.expired) as usize
    };
    model.now = model.now.max(now);
    let need = arena::blocks_for(name.len(), len);
    if len == 0 || len > SESSION_MAX || need > table.layout.blocks() {
        assert_eq!(result, Err(AddError::TooLarge));
        assert_eq!(left(table), 0);
        return;
    }
    if model.live(now, name).is_some() {
        assert_eq!(result, Err(AddError::Exists));
        assert_eq!(left(table), 0);
        return;
    }
    assert_eq!(result, Ok(()));
    let replaced = usize::from(model.drop(name).is_some());
    let count = left(table) - replaced;
    if ttl == 0 {
        assert_eq!(count, 0, "one left for nothing");
        return;
    }
    assert!(count <= BLOCKS_MAX as usize);
    let last = model.follow(table, count);
    let (held, free) = (model.sessions.len() as u32, table.layout.blocks() - model.blocks);
    let short =
        |more: u32, blocks: u32| held + more >= table.layout.sessions() || free - blocks < need;
    assert!(!short(0, 0));
    assert!(count == 0 || last.iter().any(|blocks| short(1, *blocks)), "one left for nothing");
    model.insert(ttl, name, &session);
}

fn get(
    table: &Table<&mut [Line]>,
    model: &Model,
    now: Instant,
    name: &[u8],
    out: &mut [u8],
    room: u8,
) {
    let room = if room < 128 { out.len() } else { usize::from(room) };
    let expected = model.live(now, name);
    assert_eq!(table.get(now, id(name), &mut out[..room]), expected.map(<[u8]>::len));
    if let Some(session) = expected {
        let fits = session.len().min(room);
        assert_eq!(out[..fits], session[..fits]);
    }
}

/// Random bytes, the same for the same seed.
fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn a_table_does_what_the_plain_model_does() {
    let mut operations = 0;
    for sessions in 0..6 {
        for blocks in 0..6 {
            let mut data = random(sessions * 6 + blocks + 1, 80_000);
            data[0] = sessions as u8;
            data[1] = blocks as u8;
            operations += drive(&data);
        }
    }
    assert!(operations >= 300_000, "{operations}");
}

#[test]
fn from_its_due_time_on_a_session_is_not_there() {
    let (mut bytes, layout) = memory(4, 4);
    let mut table = Table::in_memory(layout, KEY, &mut bytes).unwrap();
    table.add(at(100), 50, id(b"a"), b"data").unwrap();
    assert!(table.has(at(149), id(b"a")));
    assert!(!table.has(at(150), id(b"a")));
    assert_eq!(table.get(at(150), id(b"a"), &mut []), None);
    assert_eq!(table.add(at(149), 1, id(b"a"), b"new"), Err(AddError::Exists));
    assert_eq!(table.add(at(150), 1, id(b"a"), b"new"), Ok(()));
    assert_eq!(table.len(), 1);
    assert!(!table.remove(at(151), id(b"a")));
    assert!(table.is_empty());
    assert_eq!(table.counters().expired, 2);
}

#[test]
fn a_session_with_no_time_to_live_is_not_stored_and_evicts_nothing() {
    let (mut bytes, layout) = memory(2, 4);
    let mut table = Table::in_memory(layout, KEY, &mut bytes).unwrap();
    table.add(at(0), 1_000, id(b"a"), b"data").unwrap();
    table.add(at(0), 1_000, id(b"b"), b"data").unwrap();
    assert_eq!(table.add(at(1), 0, id(b"a"), b"data"), Err(AddError::Exists));
    assert_eq!(table.add(at(1), 0, id(b"c"), b""), Err(AddError::TooLarge));
    assert_eq!(table.add(at(1), 0, id(b"c"), b"data"), Ok(()));
    assert!(!table.has(at(1), id(b"c")) && table.has(at(1), id(b"a")));
    assert_eq!((table.len(), table.counters()), (2, TableCounters::default()));
    // A PUT takes the place of what is there, by nothing in this case.
    assert_eq!(table.put(at(1), 0, id(b"b"), b"data"), Ok(()));
    assert!(!table.has(at(1), id(b"b")));
    assert_eq!((table.len(), table.counters().evicted), (1, 0));
    table.check();
}

#[test]
fn a_time_to_live_above_7_days_counts_as_7_days() {
    let (mut bytes, layout) = memory(4, 4);
    let mut table = Table::in_memory(layout, KEY, &mut bytes).unwrap();
    table.add(at(1), u32::MAX, id(b"a"), b"data").unwrap();
    assert_eq!(table.deadline(), Some(at(1 + 7 * DAY)));
}

#[test]
fn a_clock_set_back_prolongs_no_life() {
    let (mut bytes, layout) = memory(4, 4);
    let mut table = Table::in_memory(layout, KEY, &mut bytes).unwrap();
    table.add(at(1_000), 10, id(b"a"), b"data").unwrap();
    table.expire(at(1_010), 0);
    assert!(!table.has(at(5), id(b"a")));
    table.add(at(5), 10, id(b"b"), b"data").unwrap();
    assert!(!table.has(at(1_020), id(b"b")));
}

#[test]
fn no_silence_brings_a_session_back() {
    let (mut bytes, layout) = memory(4, 4);
    let mut table = Table::in_memory(layout, KEY, &mut bytes).unwrap();
    table.add(at(0), 1, id(b"a"), b"data").unwrap();
    for days in (1..200).chain([100_000, u64::MAX / DAY]) {
        assert!(!table.has(at(days * DAY), id(b"a")));
        table.remove(at(days * DAY), id(b"b"));
        assert_eq!(table.deadline(), Some(at(1)));
    }
}

#[test]
fn at_the_end_of_time_nothing_lives_and_nothing_breaks() {
    let (mut bytes, layout) = memory(2, 4);
    let mut table = Table::in_memory(layout, KEY, &mut bytes).unwrap();
    for name in [b"a", b"b", b"c"] {
        table.add(at(u64::MAX), 1_000, id(name), b"data").unwrap();
        assert!(!table.has(at(u64::MAX), id(name)));
    }
    assert_eq!(table.expire(at(u64::MAX), 9), 2);
    table.check();
}

#[test]
fn a_refused_add_evicts_nothing() {
    let (mut bytes, layout) = memory(2, 100);
    let mut table = Table::in_memory(layout, KEY, &mut bytes).unwrap();
    table.add(at(0), 1_000, id(b"a"), &[1; 9_000]).unwrap();
    table.add(at(0), 2_000, id(b"b"), &[2; 9_000]).unwrap();
    let largest = vec![3; SESSION_MAX + 1];
    let add =
        |table: &mut Table<&mut [Line]>, name, len| table.add(at(1), 1, id(name), &largest[..len]);
    assert_eq!(add(&mut table, b"a", 20_000), Err(AddError::Exists));
    for len in [0, 25_600, SESSION_MAX, SESSION_MAX + 1] {
        assert_eq!(add(&mut table, b"c", len), Err(AddError::TooLarge));
    }
    assert_eq!(table.counters(), TableCounters::default());
    assert_eq!(add(&mut table, b"c", 25_583), Ok(()));
    assert_eq!((table.len(), table.counters().evicted), (1, 2));
}

#[test]
fn the_largest_session_evicts_at_most_129_others() {
    let (mut bytes, layout) = memory(1_000, 1_000);
    let mut table = Table::in_memory(layout, KEY, &mut bytes).unwrap();
    for n in 0..1_000_u32 {
        table.add(at(0), 1_000 + n, id(&n.to_le_bytes()), &[1; 200]).unwrap();
    }
    table.add(at(1), 1, id(&[7; 64]), &[1; SESSION_MAX]).unwrap();
    assert_eq!(table.counters().evicted, 129);
    for n in 0..1_000_u32 {
        assert_eq!(table.has(at(1), id(&n.to_le_bytes())), n >= 129);
    }
    table.check();
}

#[test]
fn ids_that_all_collide_go_to_the_stash_and_then_are_refused() {
    let (mut bytes, layout) = memory(81, 81);
    let mut table = Table::in_memory(layout, KEY, &mut bytes).unwrap();
    let pair = (2, 5);
    let mut mined = (0_u32..).map(u32::to_le_bytes).filter(|name| {
        let (index, hash) = (&table.index, table.hasher.hash(name));
        index.both(index.probe(hash)) == pair
    });
    // Two buckets of 12, a stash of 8, and some to refuse.
    let names: Vec<_> = mined.by_ref().take(36).collect();
    let mut moved = 0;
    for (n, name) in names.iter().enumerate() {
        let result = table.add(at(0), 1_000 + n as u32, id(name), b"data");
        assert_eq!(result.is_ok(), n < 32, "{n}");
        assert!(result.is_ok() || result == Err(AddError::Full));
        assert!(table.counters().moved - moved <= 64);
        moved = table.counters().moved;
        assert_eq!(table.index.stashed(), n.saturating_sub(23).min(8));
        table.check();
    }
    assert_eq!(table.counters().refused, 4);
    assert!(names[..32].iter().all(|name| table.has(at(1), id(name))));
    assert!(!names[32..].iter().any(|name| table.has(at(1), id(name))));

    // Whatever leaves a bucket makes room for what is stashed.
    for (n, name) in names[..32].iter().enumerate() {
        assert!(table.remove(at(1), id(name)));
        table.check();
        assert!(names[n + 1..32].iter().all(|name| table.has(at(1), id(name))));
    }
    assert_eq!((table.index.stashed(), table.len()), (0, 0));
}

#[test]
fn an_expired_session_in_a_full_index_is_replaced() {
    let (mut bytes, layout) = memory(81, 81);
    let mut table = Table::in_memory(layout, KEY, &mut bytes).unwrap();
    let mined = (0_u32..).map(u32::to_le_bytes).filter(|name| {
        let (index, hash) = (&table.index, table.hasher.hash(name));
        index.both(index.probe(hash)) == (2, 5)
    });
    let names: Vec<_> = mined.take(32).collect();
    for round in 0..3 {
        for name in &names {
            table.add(at(round), 1, id(name), b"data").unwrap();
            table.check();
        }
        assert_eq!(table.len(), 32);
    }
}

#[test]
fn memory_that_is_not_zero_breaks_nothing_but_the_answers() {
    for seed in 1..40 {
        let (mut bytes, layout) = memory(20, 60);
        let noise = random(seed, bytes.len());
        bytes.copy_from_slice(&noise);
        let mut table = Table::in_memory(layout, KEY, &mut bytes).unwrap();
        let mut out = vec![0; SESSION_MAX];
        for n in 0..2_000_u32 {
            let name = (n % 50).to_le_bytes();
            let _ = table.add(at(n.into()), 500, id(&name), &noise[..1 + n as usize * 7 % 4_000]);
            table.get(at(n.into()), id(&name), &mut out);
            table.remove(at(n.into()), id(&(n % 13).to_le_bytes()));
            table.prefetch(&[id(&name); 33][..n as usize % 34]);
        }
        table.expire(at(u64::MAX), usize::MAX);
    }
}

#[test]
fn a_layout_is_refused_or_fits_its_own_size() {
    assert_eq!(Layout::new(0, 1 << 20), None);
    assert_eq!(Layout::new(Layout::SESSIONS_MAX + 1, 1 << 20), None);
    assert_eq!(Layout::new(1, 255), None);
    for sessions in [1, 2, 5, 6, 7, 100] {
        for blocks in [1, 15, 16, 17, 300] {
            let (mut bytes, layout) = memory(sessions, blocks);
            assert_eq!(layout.blocks(), blocks.min(129 * sessions));
            let needed = layout.size();
            let short = Table::in_memory(layout, KEY, &mut bytes[1..]);
            assert_eq!(short.err(), Some(MemoryTooSmall { needed }));
            assert!(Table::in_memory(layout, KEY, &mut bytes).is_ok());
        }
    }
}

#[test]
fn the_largest_table_has_a_size() {
    let sessions = Layout::SESSIONS_MAX;
    let layout = Layout::new(sessions, u64::MAX).unwrap();
    assert_eq!(layout.blocks(), 129 * sessions);
    let blocks = 129 * (sessions as usize) * (BLOCK + 4);
    assert!(layout.size() > blocks && layout.size() < blocks + 21 * sessions as usize);
}

#[test]
fn a_session_of_232_bytes_costs_less_than_49_more() {
    for sessions in [60_000, 1_000_000] {
        let (blocks, session) = (arena::blocks_for(32, 200), 232.0);
        let layout = Layout::new(sessions, u64::from(sessions * blocks) * 256).unwrap();
        let overhead = layout.size() as f64 / f64::from(sessions) - session;
        assert!(overhead < 48.2, "{overhead}");
    }
}
