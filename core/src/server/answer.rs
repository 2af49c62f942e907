//! The answer to one request.

use super::{Fetch, Store};
use crate::copy::Copy;
use crate::message::{Add, FETCH_FIXED_LEN, Request, STAMP_LEN, Status};
use crate::time::Instant;
use crate::wire::{self, Envelope, HEADER_LEN, Malformed, Message, Op, PAYLOAD_MAX};
use zeroize::Zeroize;

/// The answer to one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answered {
    /// The bytes of the answer on the wire.
    pub len: usize,
    /// [`Status::OK`] if the session was found or the operation done, else the reason why not.
    pub status: Status,
}

/// Writes the answer to one whole request to the front of `out`. `None`, with nothing changed, if `out`
/// has no room for it; [`wire::MESSAGE_MAX`] bytes are always enough. No part of a session is left in
/// `out` outside of the answer.
///
/// `wire` is the request as it was measured. Its bytes are overwritten.
///
/// # Errors
/// [`Malformed`] if the payload is too short for the operation.
pub fn answer(
    now: Instant,
    store: &mut impl Store,
    message: &Message,
    wire: &mut [u8],
    out: &mut [u8],
) -> Result<Option<Answered>, Malformed> {
    if message.header.op.is_internal() {
        return answer_level_2(now, store, message, wire, out);
    }
    answer_client(now, store, message, wire, out)
}

/// The same, for the operations that clients use.
#[inline]
pub(super) fn answer_client(
    now: Instant,
    store: &mut impl Store,
    message: &Message,
    wire: &mut [u8],
    out: &mut [u8],
) -> Result<Option<Answered>, Malformed> {
    let op = message.header.op;
    let Some((_, room @ [_, ..])) = out.split_at_mut_checked(HEADER_LEN) else {
        return Ok(None);
    };
    let status = match Request::parse_client(op, message.payload(wire))? {
        Err(status) => status,
        Ok(Request::Get(id) | Request::Take(id)) => match store.get(now, id, room) {
            Some(len @ 0..=PAYLOAD_MAX) => {
                let answered = reply(message, out, len, Status::OK);
                match answered {
                    None => wipe(out.get_mut(HEADER_LEN..).unwrap_or_default(), len),
                    Some(_) if op == Op::Take => drop(store.remove(now, id)),
                    Some(_) => {}
                }
                return Ok(answered);
            }
            Some(len) => {
                wipe(room, len);
                Status::NOT_OK
            }
            None => {
                if op == Op::Take {
                    // The attempt counts: no repair may store the session after it.
                    store.remove(now, id);
                }
                Status::NOT_OK
            }
        },
        Ok(Request::Add(Add { ttl, id, session })) => status(store.add(now, ttl, id, session)),
        Ok(Request::Put(Add { ttl, id, session })) => status(store.put(now, ttl, id, session)),
        Ok(Request::Remove(id)) if store.remove(now, id) => Status::OK,
        Ok(Request::Have(id)) if store.have(now, id) => Status::OK,
        Ok(Request::Remove(_) | Request::Have(_)) => Status::NOT_OK,
        Ok(Request::Fetch(_) | Request::Repair(..)) => Status::UNSUPPORTED,
    };
    if let Some(first) = room.first_mut() {
        *first = status.0;
    }
    Ok(reply(message, out, 1, status))
}

/// Like [`answer`], for the operations that servers have among themselves; a COPY is refused. They are
/// rare, and keep out of the way of the others.
#[cold]
#[inline(never)]
pub(super) fn answer_level_2(
    now: Instant,
    store: &mut impl Store,
    message: &Message,
    wire: &mut [u8],
    out: &mut [u8],
) -> Result<Option<Answered>, Malformed> {
    let Some((_, room @ [_, ..])) = out.split_at_mut_checked(HEADER_LEN) else {
        return Ok(None);
    };
    let status = match Request::parse(message.header.op, message.payload(wire))? {
        Err(status) => status,
        Ok(Request::Fetch(id)) => match fetch(now, store, id, room) {
            Some((len, status)) => {
                let answered = reply(message, out, len, status);
                if answered.is_none() {
                    wipe(out.get_mut(HEADER_LEN..).unwrap_or_default(), len);
                }
                return Ok(answered);
            }
            None => Status::UNSUPPORTED,
        },
        Ok(Request::Repair(stamp, Add { ttl, id, session })) => {
            status(store.repair(now, stamp, ttl, id, session))
        }
        Ok(_) => Status::UNSUPPORTED,
    };
    if let Some(first) = room.first_mut() {
        *first = status.0;
    }
    Ok(reply(message, out, 1, status))
}

/// Writes the answer to a COPY, like [`answer`] for all other operations.
///
/// # Errors
/// [`Malformed`] if the payload is not that of a COPY.
pub(super) fn answer_copy(
    now: Instant,
    store: &impl Store,
    message: &Message,
    wire: &[u8],
    out: &mut [u8],
) -> Result<Option<Answered>, Malformed> {
    if message.payload_len != message.first_frame(wire).len() {
        return Err(Malformed::Payload);
    }
    let request = Copy::parse(message.first_frame(wire))?;
    let Some((_, room @ [_, ..])) = out.split_at_mut_checked(HEADER_LEN) else {
        return Ok(None);
    };
    match store.copy(now, request, room) {
        Some(len) => Ok(len.and_then(|len| reply(message, out, len, Status::OK))),
        None => {
            if let Some(first) = room.first_mut() {
                *first = Status::UNSUPPORTED.0;
            }
            Ok(reply(message, out, 1, Status::UNSUPPORTED))
        }
    }
}

/// Writes the payload of the answer to a FETCH, and returns its length. One that does not fit is longer
/// than `room`. `None` if the store does not support it, or has a session too long for an answer.
fn fetch(
    now: Instant,
    store: &mut impl Store,
    id: crate::id::Id<'_>,
    room: &mut [u8],
) -> Option<(usize, Status)> {
    // Without this much room there is none for the frame either.
    let Some((fixed, data)) = room.split_first_chunk_mut::<FETCH_FIXED_LEN>() else {
        return Some((STAMP_LEN.saturating_add(1), Status::NOT_OK));
    };
    let [status, ttl_room @ ..] = fixed;
    match store.fetch(now, id, data)? {
        Fetch::Session(len, ttl) => {
            *status = Status::OK.0;
            *ttl_room = ttl.to_be_bytes();
            let len = len.saturating_add(FETCH_FIXED_LEN);
            (len <= PAYLOAD_MAX).then_some((len, Status::OK))
        }
        Fetch::Missing(stamp) => {
            let len = STAMP_LEN.saturating_add(1);
            if let Some([status, stamp_room @ ..]) = room.first_chunk_mut::<{ STAMP_LEN + 1 }>() {
                *status = Status::NOT_OK.0;
                *stamp_room = stamp.to_be_bytes();
            }
            Some((len, Status::NOT_OK))
        }
    }
}

fn status(stored: Result<(), Status>) -> Status {
    stored.err().unwrap_or(Status::OK)
}

/// Wipes what a session of `len` bytes that is not sent has left in `room`.
#[cold]
fn wipe(room: &mut [u8], len: usize) {
    let len = len.min(room.len());
    room.get_mut(..len).unwrap_or_default().zeroize();
}

#[inline]
fn reply(
    message: &Message,
    out: &mut [u8],
    payload_len: usize,
    status: Status,
) -> Option<Answered> {
    let envelope = Envelope::answer(&message.header, wire::LEVEL);
    let len = wire::frame(out, &envelope, payload_len)?;
    Some(Answered { len, status })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;
    use crate::table::{Layout, Table};
    use crate::wire::Direction;
    use std::vec;

    #[test]
    fn an_answer_without_room_changes_nothing() {
        let layout = Layout::new(4, 4096).unwrap();
        let mut sessions = vec![0; layout.size()];
        let mut table = Table::in_memory(layout, [0; 16], &mut sessions).unwrap();
        let id = Id::new(b"id").unwrap();
        let mut ask = |op, payload: &[u8], room| {
            let mut wire = [0; 64];
            wire[HEADER_LEN..][..payload.len()].copy_from_slice(payload);
            wire::frame(&mut wire, &Envelope::request(1, op), payload.len()).unwrap();
            let message = Message::measure(&wire, Direction::Request).unwrap().unwrap();
            let mut out = [0; 64];
            let answer =
                answer(Instant::ORIGIN, &mut table, &message, &mut wire, &mut out[..room]).unwrap();
            (answer.map(|answered| answered.len), Store::len(&table))
        };
        let add =
            [&100_u32.to_be_bytes()[..], &2_u32.to_be_bytes(), id.bytes(), b"session"].concat();
        assert_eq!(ask(Op::Add, &add, 14), (None, 0));
        assert_eq!(ask(Op::Add, &add, 15), (Some(15), 1));
        assert_eq!(ask(Op::Get, id.bytes(), 20), (None, 1));
        assert_eq!(ask(Op::Get, id.bytes(), 21), (Some(21), 1));
        assert_eq!(ask(Op::Remove, id.bytes(), 14), (None, 1));
        assert_eq!(ask(Op::Remove, id.bytes(), 15), (Some(15), 0));
    }
}
