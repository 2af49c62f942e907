use super::*;
use crate::id::Id;
use crate::seal::Keys;
use crate::table::{Layout, Line, Table};
use crate::time::Instant;
use std::collections::BTreeMap;
use std::{vec, vec::Vec};

const WRITTEN: u64 = 1_800_000_000_000;
const SALT: [u8; 16] = *b"salt of a file..";

type Sessions = BTreeMap<Vec<u8>, (u32, Vec<u8>)>;

fn table(sessions: u32) -> Table<Vec<Line>> {
    let layout = Layout::new(sessions, u64::from(sessions) * 1_024).unwrap();
    Table::new(layout, [7; 16], |lines| vec![[0; 64]; lines]).unwrap()
}

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

fn keys(bytes: &[u8]) -> Keys {
    let keys: Vec<[u8; 32]> = bytes.iter().map(|byte| [*byte; 32]).collect();
    Keys::new(&keys).unwrap()
}

fn id(n: u32) -> Vec<u8> {
    let len = 4 + n as usize * 7 % 61;
    n.to_le_bytes().into_iter().cycle().take(len).collect()
}

/// A table with `count` sessions of all sizes, stored at 0.
fn filled(count: u32) -> Table<Vec<Line>> {
    let mut table = table(count.max(200));
    for n in 0..count {
        let len = [1, 200, 208, 209, 464, 465, 3_000][n as usize % 7] + n as usize % 3;
        let data: Vec<u8> = n.to_be_bytes().into_iter().cycle().take(len).collect();
        table.add(at(0), 10_000 + n, Id::new(&id(n)).unwrap(), &data).unwrap();
    }
    table
}

fn encode(table: &Table<Vec<Line>>, now: u64, keys: Option<&Keys>) -> Vec<u8> {
    let mut sessions = table.by_age(at(now));
    let mut encoder = Encoder::new(vec![0; CHUNK_MAX], at(now), WRITTEN, SALT, keys).unwrap();
    let mut file = vec![];
    while !encoder.is_done() {
        while encoder.has_room() {
            let Some(session) = sessions.next() else {
                encoder.finish();
                break;
            };
            assert!(encoder.push(at(now), session));
        }
        encoder.close();
        file.extend_from_slice(encoder.pending());
        encoder.sent(encoder.pending().len());
    }
    file
}

/// Decodes `file`, given in pieces of `piece` bytes, `later` milliseconds after it was written.
fn decode(file: &[u8], later: i64, keys: Option<&Keys>, piece: usize) -> Result<Sessions, Refused> {
    let unix_ms = WRITTEN.saturating_add_signed(later);
    let mut decoder = Decoder::new(vec![0; CHUNK_MAX], unix_ms, keys).unwrap();
    let (mut sessions, mut rest) = (Sessions::new(), file);
    while !rest.is_empty() {
        let space = decoder.space();
        let len = space.len().min(rest.len()).min(piece);
        assert!(len > 0, "there is always space");
        space[..len].copy_from_slice(&rest[..len]);
        decoder.filled(len);
        rest = &rest[len..];
        for record in decoder.advance()?.into_iter().flatten() {
            sessions.insert(record.id.bytes().to_vec(), (record.ttl, record.data.to_vec()));
        }
    }
    assert_eq!(decoder.end()?, sessions.len() as u64);
    Ok(sessions)
}

/// What is live in a table, with what is left of each lifetime.
fn contents(table: &Table<Vec<Line>>, now: u64) -> Sessions {
    table
        .by_age(at(now))
        .map(|session| {
            let data = session.data.flatten().copied().collect();
            (session.id.bytes().to_vec(), (session.ttl, data))
        })
        .collect()
}

fn after(sessions: &Sessions, millis: u32) -> Sessions {
    let left = sessions
        .iter()
        .map(|(id, (ttl, data))| (id.clone(), (ttl.saturating_sub(millis), data.clone())));
    left.collect()
}

#[test]
fn every_session_comes_back_with_the_lifetime_left_sealed_or_not() {
    for keys in [None, Some(keys(&[1, 2]))] {
        for count in [0, 1, 2, 700] {
            let table = filled(count);
            let file = encode(&table, 500, keys.as_ref());
            let expected = contents(&table, 500);
            assert_eq!(expected.len(), count as usize);
            for (piece, later) in [(usize::MAX, 0), (1, 9_600), (1_000, 60_000)] {
                let found = decode(&file, later, keys.as_ref(), piece).unwrap();
                assert_eq!(found, after(&expected, u32::try_from(later).unwrap()));
            }
        }
    }
}

#[test]
fn a_clock_that_went_back_prolongs_nothing() {
    let table = filled(20);
    let file = encode(&table, 500, None);
    for later in [-1, -60_000, i64::MIN] {
        assert_eq!(decode(&file, later, None, 999).unwrap(), contents(&table, 500));
    }
    let late = decode(&file, i64::MAX, None, 999).unwrap();
    assert!(late.values().all(|(ttl, _)| *ttl == 0));
}

#[test]
fn lifetimes_count_from_the_header_however_long_writing_takes() {
    let mut table = table(10);
    table.add(at(0), 10_000, Id::new(b"old").unwrap(), b"data").unwrap();
    let mut encoder = Encoder::new(vec![0; CHUNK_MAX], at(100), WRITTEN, SALT, None).unwrap();
    let mut file = encoder.pending().to_vec();
    encoder.sent(file.len());
    // Another one is stored while the state is written.
    table.add(at(5_000), 1_000, Id::new(b"new").unwrap(), b"data").unwrap();
    for session in table.by_age(at(5_100)) {
        encoder.push(at(5_100), session);
    }
    encoder.finish();
    while !encoder.is_done() {
        file.extend_from_slice(encoder.pending());
        encoder.sent(encoder.pending().len());
    }
    // At 5.2 s by the clock of the table.
    let found = decode(&file, 5_100, None, 999).unwrap();
    assert_eq!((found[&b"old"[..]].0, found[&b"new"[..]].0), (4_800, 800));
}

#[test]
fn a_chunk_that_is_taken_byte_by_byte_is_the_same() {
    let table = filled(100);
    let file = encode(&table, 0, None);
    let mut encoder = Encoder::new(vec![0; CHUNK_MAX], at(0), WRITTEN, SALT, None).unwrap();
    let (mut sessions, mut bytes): (_, Vec<u8>) = (table.by_age(at(0)), vec![]);
    while !encoder.is_done() {
        while encoder.has_room() {
            match sessions.next() {
                Some(session) => assert!(encoder.push(at(0), session)),
                None => encoder.finish(),
            }
        }
        encoder.close();
        encoder.close();
        bytes.extend(encoder.pending().first());
        encoder.sent(1);
    }
    assert_eq!(bytes, file);
}

#[test]
fn a_flip_of_any_byte_is_refused() {
    for keys in [None, Some(keys(&[1]))] {
        let mut file = encode(&filled(3), 0, keys.as_ref());
        assert!(decode(&file, 0, keys.as_ref(), usize::MAX).is_ok());
        for at in 0..file.len() {
            for flip in [1, 0x80] {
                file[at] ^= flip;
                assert!(decode(&file, 0, keys.as_ref(), usize::MAX).is_err(), "byte {at}");
                file[at] ^= flip;
            }
        }
    }
}

#[test]
fn a_cut_at_any_byte_is_refused_and_so_is_what_follows() {
    for keys in [None, Some(keys(&[1]))] {
        let mut file = encode(&filled(3), 0, keys.as_ref());
        for len in 0..file.len() {
            let found = decode(&file[..len], 0, keys.as_ref(), usize::MAX);
            assert_eq!(found, Err(Refused::Truncated), "{len} bytes");
        }
        file.push(0);
        assert_eq!(decode(&file, 0, keys.as_ref(), 7), Err(Refused::Trailing));
    }
}

/// The chunks of a file, its header first.
fn chunks(file: &[u8]) -> Vec<Vec<u8>> {
    let (header, mut rest) = file.split_at(HEADER_LEN);
    let mut chunks = vec![header.to_vec()];
    while let Some(head) = rest.first_chunk() {
        let (chunk, behind) = rest.split_at(HEAD_LEN + follows(*head).unwrap().0);
        chunks.push(chunk.to_vec());
        rest = behind;
    }
    chunks
}

#[test]
fn chunks_left_out_doubled_swapped_or_of_another_file_are_refused() {
    for keys in [None, Some(keys(&[1]))] {
        let file = chunks(&encode(&filled(500), 0, keys.as_ref()));
        let refused =
            |chunks: &[Vec<u8>]| decode(&chunks.concat(), 0, keys.as_ref(), 999).unwrap_err();
        assert!(file.len() > 5, "{} chunks", file.len());
        for at in 1..file.len() {
            let mut without = file.clone();
            without.remove(at);
            let expected = if at + 1 == file.len() { Refused::Truncated } else { Refused::Damaged };
            assert_eq!(refused(&without), expected);
            let mut doubled = file.clone();
            doubled.insert(at, file[at].clone());
            let expected = if at + 1 == file.len() { Refused::Trailing } else { Refused::Damaged };
            assert_eq!(refused(&doubled), expected);
            let mut swapped = file.clone();
            swapped.swap(at, 1);
            assert!(at == 1 || refused(&swapped) == Refused::Damaged);
        }
        // The same table, written with another salt.
        let mut other =
            Encoder::new(vec![0; CHUNK_MAX], at(0), WRITTEN, [1; 16], keys.as_ref()).unwrap();
        other.sent(HEADER_LEN);
        for session in filled(500).by_age(at(0)) {
            if !other.push(at(0), session) {
                break;
            }
        }
        other.close();
        let mut mixed = file.clone();
        mixed[1] = other.pending().to_vec();
        assert_eq!(refused(&mixed), Refused::Damaged);
    }
}

#[test]
fn keys_and_files_that_do_not_belong_together_are_refused_by_name() {
    let table = filled(9);
    let (plain, sealed) = (encode(&table, 0, None), encode(&table, 0, Some(&keys(&[1]))));
    let decode = |file: &[u8], keys: Option<Keys>| decode(file, 0, keys.as_ref(), 999);
    assert_eq!(decode(&plain, Some(keys(&[1]))), Err(Refused::NotSealed));
    assert_eq!(decode(&sealed, None), Err(Refused::Sealed));
    assert_eq!(decode(&sealed, Some(keys(&[2, 3]))), Err(Refused::UnknownKey));
    // After a rotation the old key is the second one.
    assert_eq!(decode(&sealed, Some(keys(&[2, 1]))).unwrap(), contents(&table, 0));
    assert!(!sealed.windows(4).any(|bytes| bytes == 7_u32.to_be_bytes()), "a session in clear");
    let mut other = plain;
    other[8] = 2;
    assert_eq!(decode(&other, None), Err(Refused::Version(2)));
    other[12] = 2;
    assert_eq!(decode(&other, None), Err(Refused::Version(2)));
    for foreign in
        [&b"<!DOCTYPE html><html><head><title>state</title>"[..], &[0; 100], b"DCSTATE\n"]
    {
        let refused = decode(foreign, None).unwrap_err();
        assert!(matches!(refused, Refused::Foreign | Refused::Truncated));
    }
}

/// A file whose tags fit, with these payloads, the last one in the last chunk.
fn forged(payloads: &[&[u8]]) -> Vec<u8> {
    let header = Header { flags: 0, key_id: [0; 3], written: WRITTEN, salt: SALT }.encode();
    let mut file = header.to_vec();
    for (number, payload) in payloads.iter().enumerate() {
        let last = if number + 1 == payloads.len() { LAST } else { 0 };
        let head = payload.len() as u32 | last;
        file.extend(head.to_le_bytes());
        file.extend(*payload);
        file.extend(checksum(&SALT, &covered(&header, number as u64, head), payload));
    }
    file
}

fn record(ttl: u32, data: usize, id: usize) -> Vec<u8> {
    let mut record = ttl.to_le_bytes().to_vec();
    record.extend((data as u16).to_le_bytes());
    record.extend([id as u8, 9]);
    record.resize(8 + id + data, 5);
    record
}

#[test]
fn absurd_content_with_valid_tags_is_refused() {
    let total = |sessions: u64| sessions.to_le_bytes();
    let good = [record(1_000, 5, 4), record(u32::MAX, SESSION_MAX, ID_MAX)];
    let file = forged(&[&good[0], &good[1], &total(2)]);
    let mut decoder = Decoder::new(vec![0; CHUNK_MAX], WRITTEN, None).unwrap();
    let (mut rest, mut ttls) = (&file[..], vec![]);
    while !rest.is_empty() {
        let space = decoder.space();
        let len = space.len();
        space.copy_from_slice(&rest[..len]);
        decoder.filled(len);
        rest = &rest[len..];
        ttls.extend(decoder.advance().unwrap().into_iter().flatten().map(|record| record.ttl));
    }
    assert_eq!((decoder.end(), &ttls[..]), (Ok(2), &[1_000, crate::message::TTL_MAX][..]));
    let refused = |payloads: &[&[u8]]| decode(&forged(payloads), 0, None, 999).unwrap_err();
    for bad in [record(1, 0, 4), record(1, 5, 0), record(1, 5, 65), record(1, SESSION_MAX + 1, 4)] {
        assert_eq!(refused(&[&good[0], &bad, &total(2)]), Refused::Malformed);
    }
    for cut in 1..good[0].len() {
        assert_eq!(refused(&[&good[0][..cut], &total(1)]), Refused::Malformed);
    }
    let behind = [&good[0][..], &[0]].concat();
    assert_eq!(refused(&[&behind, &total(1)]), Refused::Malformed);
    for wrong in [0, 2, u64::MAX] {
        assert_eq!(refused(&[&good[0], &total(wrong)]), Refused::Malformed);
    }
    assert_eq!(refused(&[&good[0], &total(1)[..7]]), Refused::Damaged);
    assert_eq!(refused(&[&[], &total(0)]), Refused::Damaged);
}

#[test]
fn a_refused_chunk_yields_no_session() {
    let good = record(1_000, 5, 4);
    let half = [&good[..], &good[..9]].concat();
    let file = forged(&[&half, &1_u64.to_le_bytes()]);
    let mut decoder = Decoder::new(vec![0; CHUNK_MAX], WRITTEN, None).unwrap();
    for byte in file {
        decoder.space()[0] = byte;
        decoder.filled(1);
        match decoder.advance() {
            Ok(None) => {}
            Err(Refused::Malformed) => return,
            other => panic!("{:?}", other.map(|records| records.is_some())),
        }
    }
    panic!("taken");
}

#[test]
fn a_cleared_table_is_like_a_new_one() {
    let mut table = filled(200);
    table.clear();
    table.check();
    assert!(table.is_empty() && table.deadline().is_none());
    assert_eq!(table.counters(), crate::table::TableCounters::default());
    table.add(at(0), 1, Id::new(b"id").unwrap(), b"data").unwrap();
}

#[test]
fn what_is_dropped_has_no_session_in_its_memory() {
    for keys in [None, Some(keys(&[1]))] {
        let (mut memory, mut second) = (vec![0; CHUNK_MAX], vec![0; CHUNK_MAX]);
        let file = encode(&filled(50), 0, keys.as_ref());
        let mut encoder = Encoder::new(&mut memory[..], at(0), WRITTEN, SALT, None).unwrap();
        encoder.sent(HEADER_LEN);
        let table = filled(50);
        let pushed = table.by_age(at(0)).filter(|session| encoder.push(at(0), session.clone()));
        assert!(pushed.count() > 20);
        drop(encoder);
        let mut decoder = Decoder::new(&mut second[..], WRITTEN, keys.as_ref()).unwrap();
        let mut rest = &file[..];
        while let Ok(None) = decoder.advance() {
            let len = decoder.space().len();
            decoder.space().copy_from_slice(&rest[..len]);
            decoder.filled(len);
            rest = &rest[len..];
        }
        drop(decoder);
        assert!(memory.iter().chain(&second).all(|byte| *byte == 0));
    }
}
