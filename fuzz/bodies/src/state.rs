//! A state yields exactly the sessions that were written, or is refused, whatever happens to its bytes.
//!
//! The format is written here a second time, from its description: so the input can also say what a state
//! contains, with tags that fit.

use std::collections::BTreeMap;
use std::hash::Hasher;

use distcache_core::seal::Keys;
use distcache_core::state::{CHUNK_MAX, Decoder, Encoder, Refused};
use distcache_core::table::{Cursor, Layout, Line, SESSION_MAX, Table};
use distcache_core::{Id, Instant};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::input::Input;

const WRITTEN: u64 = 1_800_000_000_000;
const SALT: [u8; 16] = *b"salt of a state.";
const HEADER_LEN: usize = 40;
const TAG_LEN: usize = 16;
const LAST: u32 = 1 << 31;

/// Lifetime and data by id.
type Sessions = BTreeMap<Vec<u8>, (u32, Vec<u8>)>;

/// Input: one byte for what to do, then the bytes of a state, what its chunks contain, or the sessions of a
/// table and the changes of the bytes that it becomes.
pub fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    let keys = (kind & 4 > 0).then(|| Keys::new(&[[7; 32]]).expect("a key"));
    match kind % 4 {
        0 => drop(decode(input.rest(), 0, keys.as_ref())),
        1 => with_valid_tags(input),
        _ => changed(input, keys.as_ref()),
    }
}

/// Chunks whose tags fit, and whose content is what the input says.
fn with_valid_tags(mut input: Input<'_>) {
    let mut header = [b"dcstate\n" as &[u8], &1_u32.to_le_bytes(), &[0; 4]].concat();
    header.extend(WRITTEN.to_le_bytes());
    header.extend(SALT);
    let (mut file, mut expected, mut valid, mut number) =
        (header.clone(), Sessions::new(), true, 0);
    let mut count = 0_u64;
    for _ in 0..1 + input.below(3) {
        let mut payload = vec![];
        for _ in 0..1 + input.below(8) {
            let ttl = (input.word() >> 32) as u32;
            let (id_len, class) = (input.byte(), input.byte());
            let len = match input.byte() {
                0 => 0,
                255 => SESSION_MAX + usize::from(id_len % 2),
                few => usize::from(few),
            };
            let id = vec![input.byte(); usize::from(id_len)];
            let session = vec![id_len; len];
            if payload.len() + 8 + id.len() + len > CHUNK_MAX - 20 {
                break;
            }
            payload.extend(ttl.to_le_bytes());
            payload.extend((len as u16).to_le_bytes());
            payload.extend([id_len, class]);
            payload.extend(&id);
            payload.extend(&session);
            valid &= (1..=64).contains(&id_len) && (1..=SESSION_MAX).contains(&len);
            expected.insert(id, (ttl.min(604_800_000), session));
            count += 1;
        }
        if input.byte() == 77 {
            let cut = input.below(200) + 1;
            payload.truncate(payload.len().saturating_sub(cut));
            valid = false;
        }
        if !payload.is_empty() {
            push_chunk(&mut file, &header, number, 0, &payload);
            number += 1;
        }
    }
    let total = if input.byte() == 99 { input.word() } else { count };
    valid &= total == count;
    push_chunk(&mut file, &header, number, LAST, &total.to_le_bytes());
    match decode(&file, 0, None) {
        Ok(found) => assert!(valid && found == expected),
        Err(refused) => assert!(!valid, "{refused}"),
    }
}

fn push_chunk(file: &mut Vec<u8>, header: &[u8], number: u64, last: u32, payload: &[u8]) {
    let head = (payload.len() as u32 | last).to_le_bytes();
    let mut hasher = SipHasher13::new_with_key(&SALT);
    hasher.write(&[header, &number.to_le_bytes(), &head, payload].concat());
    file.extend(head);
    file.extend(payload);
    file.extend(hasher.finish128().as_bytes());
}

/// The state of a table, whose bytes change on the way.
fn changed(mut input: Input<'_>, keys: Option<&Keys>) {
    let now = Instant::from_millis(5);
    let table = table(&mut input, now);
    let (mut file, pieces) = (encode(&table, now, keys, input.byte().max(1)), input.below(5));
    let original = file.clone();
    let later = input.word() % 100_000;
    for _ in 0..pieces {
        change(&mut file, &mut input);
    }
    let found = decode(&file, later, keys);
    if file != original {
        // Bytes that were changed back are the original; all others are refused.
        assert!(found.is_err(), "a changed state was taken");
        return;
    }
    let expected: Sessions = table
        .by_age(now)
        .map(|session| {
            let ttl = u64::from(session.ttl).saturating_sub(later) as u32;
            (session.id.bytes().to_vec(), (ttl, session.data.flatten().copied().collect()))
        })
        .collect();
    assert_eq!(found, Ok(expected));
}

fn table(input: &mut Input<'_>, now: Instant) -> Table<Vec<Line>> {
    let layout = Layout::new(40, 200 * 256).expect("valid sizes");
    let table = Table::new(layout, [3; 16], |lines| vec![[0; 64]; lines]);
    let mut table = table.expect("enough memory");
    for _ in 0..input.below(60) {
        let (name, len, life) = (input.byte(), input.byte(), input.byte());
        let len = if len == 255 { 20_000 } else { 1 + usize::from(len) * 3 };
        let id = vec![name; 1 + usize::from(name) % 64];
        let id = Id::new(&id).expect("1 to 64 bytes");
        let _ = table.put(now, u32::from(life) * 1_000, id, &vec![life; len]);
        if len.is_multiple_of(5) {
            table.remove(now, id);
        }
    }
    table
}

/// Encodes by a walk, in pieces of so many blocks.
fn encode(table: &Table<Vec<Line>>, now: Instant, keys: Option<&Keys>, blocks: u8) -> Vec<u8> {
    let encoder = Encoder::new(vec![0; CHUNK_MAX], now, WRITTEN, SALT, keys);
    let mut encoder = encoder.expect("enough memory");
    let (mut file, mut cursor) = (vec![], Cursor::default());
    while !encoder.is_done() {
        file.extend_from_slice(encoder.pending());
        encoder.sent(encoder.pending().len());
        let mut walk = table.walk(now, cursor, blocks.into());
        while encoder.has_room() {
            let Some(session) = walk.next() else { break };
            assert!(encoder.push(now, session));
        }
        cursor = walk.cursor();
        if walk.is_done() {
            encoder.finish();
        } else {
            encoder.close();
        }
    }
    file
}

fn change(file: &mut Vec<u8>, input: &mut Input<'_>) {
    let at = input.word() as usize % (file.len() + 1);
    match input.below(6) {
        0 if at < file.len() => file[at] ^= input.byte(),
        1 => file.truncate(at),
        2 => file.insert(at, input.byte()),
        3 if at < file.len() => drop(file.remove(at)),
        4 => {
            // A chunk comes twice, or leaves.
            let Some(start) = chunk(file, input.byte()) else { return };
            let len = 4 + TAG_LEN + (head(file, start) & !LAST) as usize;
            let chunk = file[start..start + len].to_vec();
            if input.byte().is_multiple_of(2) {
                file.splice(start..start, chunk);
            } else {
                file.drain(start..start + len);
            }
        }
        _ => file.extend(file.clone()),
    }
}

fn head(file: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(file[at..at + 4].try_into().expect("4 bytes"))
}

/// Where a chunk begins; `None` if the file is changed too much to tell.
fn chunk(file: &[u8], number: u8) -> Option<usize> {
    let mut at = HEADER_LEN;
    for _ in 0..=number % 8 {
        let bytes = file.get(at..)?;
        let len = 4 + TAG_LEN + (u32::from_le_bytes(*bytes.first_chunk()?) & !LAST) as usize;
        if bytes.len() < len {
            return None;
        }
        if number.is_multiple_of(8) || bytes.len() == len {
            return Some(at);
        }
        at += len;
    }
    Some(at).filter(|at| {
        let bytes = file.get(*at..).and_then(|bytes| bytes.first_chunk());
        bytes.is_some_and(|head| {
            let len = 4 + TAG_LEN + (u32::from_le_bytes(*head) & !LAST) as usize;
            at + len <= file.len()
        })
    })
}

fn decode(file: &[u8], later: u64, keys: Option<&Keys>) -> Result<Sessions, Refused> {
    let decoder = Decoder::new(vec![0; CHUNK_MAX], WRITTEN + later, keys);
    let mut decoder = decoder.expect("enough memory");
    let (mut sessions, mut rest) = (Sessions::new(), file);
    while !rest.is_empty() {
        let space = decoder.space();
        let len = space.len().min(rest.len());
        assert!(len > 0, "there is always space");
        space[..len].copy_from_slice(&rest[..len]);
        decoder.filled(len);
        rest = &rest[len..];
        for record in decoder.advance()?.into_iter().flatten() {
            assert!((1..=SESSION_MAX).contains(&record.data.len()));
            sessions.insert(record.id.bytes().to_vec(), (record.ttl, record.data.to_vec()));
        }
    }
    decoder.end()?;
    Ok(sessions)
}
