//! A client accepts the answer to its request and nothing else, however the bytes arrive, and leaves
//! nothing in its memory.

use crate::input::Input;
use crate::measure::{Verdict, slow};
use distcache_core::client::{Connection, MEMORY, RequestError};
use distcache_core::id::Id;
use distcache_core::message::{Add, Reply, Request, Status};
use distcache_core::wire::{Malformed, Op};

/// Input: a byte for the operation and the level that the server is known to have, 8 for the
/// pieces, then what the server sends.
pub fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let first = input.byte();
    // A COPY is no request of a client.
    let wanted = usize::from(first & 0x3f) % (Op::ALL.len() - 1);
    let pieces = input.word();
    let mut client = Connection::new(vec![0; MEMORY]).expect("enough memory");
    client.set_level(u16::from(first >> 6).min(2));
    converse(&mut client, wanted, pieces, input.rest());
    assert!(client.into_memory().iter().all(|byte| *byte == 0), "bytes stay behind");
}

fn converse(client: &mut Connection<Vec<u8>>, wanted: usize, mut pieces: u64, mut answers: &[u8]) {
    for uid in 1..=3 {
        let op = ask(client, wanted);
        let begun = answers;
        let verdict = loop {
            match client.advance() {
                Ok(false) if answers.is_empty() => break Ok(None),
                Ok(false) => {
                    pieces = pieces.rotate_left(7);
                    let space = client.space();
                    let len = answers.len().min(space.len()).min(1 + (pieces as usize & 0xff));
                    space[..len].copy_from_slice(&answers[..len]);
                    client.filled(len);
                    answers = &answers[len..];
                }
                Ok(true) => break Ok(client.reply()),
                Err(malformed) => break Err(malformed),
            }
        };
        // From the second request on, the first bytes of the next answer have already arrived.
        if uid == 1 {
            check(begun, op, &verdict);
        }
        if !matches!(verdict, Ok(Some(_))) {
            return;
        }
        // Only the first answer is compared byte for byte, and so is its level.
        let parsed = begun.get(2..4).filter(|_| uid == 1).and_then(|parsed| parsed.first_chunk());
        assert!(parsed.is_none_or(|parsed| client.level() == u16::from_be_bytes(*parsed)));
        assert!(client.space().is_empty(), "bytes behind the answer wait");
    }
}

/// Requests `wanted`, or another operation if the server is not known to have it.
fn ask(client: &mut Connection<Vec<u8>>, wanted: usize) -> usize {
    let id = Id::new(b"id").expect("two bytes");
    let add = Add { ttl: 1000, id, session: b"session" };
    let requests = [
        Request::Add(add),
        Request::Get(id),
        Request::Remove(id),
        Request::Have(id),
        Request::Put(add),
        Request::Take(id),
        Request::Fetch(id),
        Request::Repair(7, add),
    ];
    let known = wanted < 4 || client.level() > u16::from(wanted >= 6);
    if !known {
        assert_eq!(client.request(&requests[wanted]), Err(RequestError::Unsupported));
    }
    let op = if known { wanted } else { 1 };
    assert_eq!(client.request(&requests[op]), Ok(()));
    let len = client.pending().len();
    client.sent(len);
    op
}

fn check(answers: &[u8], op: usize, verdict: &Result<Option<Reply<'_>>, Malformed>) {
    let expected = match slow(answers, 1) {
        Verdict::Incomplete => Ok(None),
        Verdict::Whole(parsed) if parsed.uid == 1 && usize::from(parsed.op) == op => {
            match (op, &parsed.payload[..]) {
                (_, []) => Ok(Some(Reply::Status(Status::DISCONNECTED))),
                (_, [code]) => Ok(Some(Reply::Status(Status(*code)))),
                (1 | 5, [_, _] | [_, _, _] | [_, _, _, _]) => {
                    Ok(Some(Reply::Status(Status::NOT_OK)))
                }
                (1 | 5, session) => return assert_eq!(*verdict, Ok(Some(Reply::Session(session)))),
                _ => Err(()),
            }
        }
        Verdict::Whole(_) | Verdict::Invalid => Err(()),
    };
    assert_eq!(verdict.map_err(drop), expected);
}
