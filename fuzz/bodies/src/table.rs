//! The session table does what a map with expiries does, and what leaves a full one is what would
//! have expired soonest.

use crate::input::Input;
use distcache_core::id::Id;
use distcache_core::table::{AddError, Geometry, Table};
use distcache_core::time::Instant;
use std::collections::BTreeMap;

/// How many ids there are to choose from.
const IDS: u8 = 32;

type Model = BTreeMap<Vec<u8>, (Instant, Vec<u8>)>;

/// First a byte for the table's size, then four an operation: what, on which id, how long, how
/// much.
pub fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let (sessions, blocks) = (1 + input.below(20) as u32, 1 + input.below(64) as u64);
    let bounded = blocks < 32;
    let bytes = if bounded { blocks * 256 } else { u64::MAX };
    let geometry = Geometry::new(sessions, bytes).expect("a table of a few sessions");
    let mut memory = vec![0; geometry.size()];
    let mut table = Table::new(&mut memory, geometry, [7; 16]).expect("enough memory");
    let mut model = Model::new();
    let mut now = Instant::from_millis(1);
    while !input.is_over() {
        let what = input.below(8);
        let id = id(input.byte());
        let id = Id::new(&id).expect("1 to 64 bytes");
        let amount = input.byte();
        match what {
            0..=3 => {
                let ttl = u32::from(input.byte()) * 10;
                add(&mut table, &mut model, now, (ttl, id, amount), bounded.then_some(blocks));
            }
            4 => {
                let there = model.remove(id.bytes()).is_some_and(|(due, _)| now < due);
                assert_eq!(table.remove(now, id), there);
            }
            5 => now = now.after(amount.into()),
            6 => assert!(table.expire(now, usize::from(amount % 8)) < 8),
            _ => (),
        }
        model.retain(|_, (due, _)| now < *due);
        check(&table, &model, now, sessions);
    }
}

fn id(byte: u8) -> Vec<u8> {
    let byte = byte % IDS;
    vec![byte; 1 + usize::from(byte) * 3 % 64]
}

/// Mostly small ones; a few that take many blocks.
fn size(amount: u8) -> usize {
    match usize::from(amount) {
        few @ ..240 => few * 4,
        many => (many - 239) * 2048,
    }
}

fn add(
    table: &mut Table<'_>,
    model: &mut Model,
    now: Instant,
    (ttl, id, amount): (u32, Id<'_>, u8),
    blocks: Option<u64>,
) {
    let session = vec![amount; size(amount)];
    let there = model.get(id.bytes()).is_some_and(|(due, _)| now < *due);
    let before = model.len();
    match table.add(now, ttl, id, &session) {
        Err(AddError::TooLarge) => {
            let needs = id.bytes().len() + session.len() + 16;
            assert!(session.is_empty() || blocks.is_some_and(|blocks| needs as u64 > blocks * 256));
        }
        Err(AddError::Exists) => assert!(there),
        Err(AddError::Full) => panic!("so few ids cannot fill the index"),
        Ok(()) => {
            assert!(!there);
            model.insert(id.bytes().to_vec(), (now.after(ttl.into()), session));
            let full = before as u32 >= table.capacity();
            let left = leave(table, model, now, id);
            assert!(blocks.is_some() || left == usize::from(full), "{left} left");
        }
    }
}

/// Takes from the model what has left the table, and says how many: none that expires later than
/// one that stayed.
fn leave(table: &Table<'_>, model: &mut Model, now: Instant, added: Id<'_>) -> usize {
    model.retain(|_, (due, _)| now < *due);
    let gone = |id: &Vec<u8>| id != added.bytes() && !table.has(now, Id::new(id).expect("an id"));
    let (left, stayed): (Vec<_>, Vec<_>) = model.iter().partition(|(id, _)| gone(id));
    let stayed = stayed.iter().filter(|(id, _)| *id != added.bytes()).map(|(_, (due, _))| due);
    let last = left.iter().map(|(_, (due, _))| due).max();
    assert!(stayed.min().is_none_or(|soonest| last.is_none_or(|last| last <= soonest)));
    let left: Vec<Vec<u8>> = left.into_iter().map(|(id, _)| id.clone()).collect();
    left.iter().for_each(|id| drop(model.remove(id)));
    left.len()
}

fn check(table: &Table<'_>, model: &Model, now: Instant, sessions: u32) {
    assert!(table.len() <= sessions && table.len() as usize >= model.len());
    let mut out = vec![0; 40_000];
    for byte in 0..IDS {
        let id = id(byte);
        let found = table.get(now, Id::new(&id).expect("an id"), &mut out);
        let session = model.get(&id).map(|(_, session)| &session[..]);
        assert_eq!(found.map(|len| &out[..len]), session);
        assert_eq!(table.has(now, Id::new(&id).expect("an id")), session.is_some());
    }
}
