//! The payloads of COPY: many sessions, a piece at a time.
//!
//! ```text
//! request   cursor u32 | most u32                       the first cursor is 0
//! answer    next cursor u32 | record | record ..        the last cursor is 0xffffffff
//! record    lifetime left u32 | id bytes u8 | session bytes u16 | id | session
//! ```
//!
//! All integers are big-endian. `most` bounds the bytes of the answer. A session that does not even fit
//! in an answer of its own has a record of 0 session bytes: a FETCH of its id returns it. An answer
//! has at most one record of that kind, and then no other. An answer without records is lawful: the
//! server looks at a bounded number of places for each request. A cursor grows from answer to answer.

use crate::id::{ID_MAX, Id};
use crate::memory::Array;
use crate::message::TTL_MAX;
use crate::table::{Cursor, Line, Session, Table};
use crate::time::Instant;
use crate::wire::{Malformed, PAYLOAD_MAX};

/// The cursor of the last answer.
pub const END: u32 = u32::MAX;
/// Bytes of a record before its id.
const RECORD_FIXED_LEN: usize = 7;
const CURSOR_LEN: usize = 4;
/// The least bytes of an answer that a request may ask for: one record of 0 session bytes fits.
pub const MOST_MIN: usize = CURSOR_LEN + RECORD_FIXED_LEN + ID_MAX;
/// The most blocks of a table that one request looks at.
const BLOCKS: u32 = 1024;

/// The request: the payload of a COPY.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Copy {
    /// 0, or the cursor of the last answer.
    pub cursor: u32,
    /// The most bytes of the answer; fewer than [`MOST_MIN`] count as that.
    pub most: u32,
}

impl Copy {
    /// Parses the payload of a COPY.
    ///
    /// # Errors
    /// [`Malformed::Payload`] if it has not exactly 8 bytes.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let [c0, c1, c2, c3, m0, m1, m2, m3] = *payload else {
            return Err(Malformed::Payload);
        };
        let (cursor, most) = ([c0, c1, c2, c3], [m0, m1, m2, m3]);
        Ok(Self { cursor: u32::from_be_bytes(cursor), most: u32::from_be_bytes(most) })
    }

    /// The payload.
    pub const fn encode(&self) -> [u8; 8] {
        let [c0, c1, c2, c3] = self.cursor.to_be_bytes();
        let [m0, m1, m2, m3] = self.most.to_be_bytes();
        [c0, c1, c2, c3, m0, m1, m2, m3]
    }

    /// The most bytes of the answer.
    fn most(&self) -> usize {
        usize::try_from(self.most).unwrap_or(PAYLOAD_MAX).clamp(MOST_MIN, PAYLOAD_MAX)
    }
}

impl<M: Array<Line>> Table<M> {
    /// Writes the answer to a COPY to the front of `out`, and returns its length; `None` if there is no
    /// room for the answer that was asked for.
    pub fn copy(&self, now: Instant, request: Copy, out: &mut [u8]) -> Option<usize> {
        let out = out.get_mut(..request.most())?;
        let (cursor, mut room) = out.split_first_chunk_mut::<CURSOR_LEN>()?;
        let mut len = CURSOR_LEN;
        let mut walk = self.walk(now, Cursor(request.cursor), BLOCKS);
        let mut next = walk.cursor().0;
        loop {
            let Some(session) = walk.next() else {
                next = if walk.is_done() { END } else { walk.cursor().0 };
                break;
            };
            let is_first = len == CURSOR_LEN;
            let whole = write_record(&session, true, room);
            let written = match whole {
                Some(written) => written,
                None if is_first => write_record(&session, false, room)?,
                // The next answer begins with it.
                None => break,
            };
            next = walk.cursor().0;
            len = len.saturating_add(written);
            if whole.is_none() {
                break;
            }
            room = room.get_mut(written..)?;
        }
        *cursor = next.to_be_bytes();
        Some(len)
    }
}

/// Writes a record to the front of `out`, with or without the session; `None` if it does not fit.
fn write_record(session: &Session<'_>, with_data: bool, out: &mut [u8]) -> Option<usize> {
    let id = session.id.bytes();
    let id_len = u8::try_from(id.len()).ok()?;
    let data_len = if with_data { session.data.len() } else { 0 };
    let len = RECORD_FIXED_LEN.checked_add(id.len())?.checked_add(data_len)?;
    let out = out.get_mut(..len)?;
    let (ttl, out) = out.split_first_chunk_mut()?;
    let (id_room, out) = out.split_first_mut()?;
    let (data_room, out) = out.split_first_chunk_mut()?;
    let (to, mut out) = out.split_at_mut_checked(id.len())?;
    *ttl = session.ttl.to_be_bytes();
    *id_room = id_len;
    *data_room = u16::try_from(data_len).ok()?.to_be_bytes();
    to.copy_from_slice(id);
    for part in session.data.clone().filter(|_| with_data) {
        let (to, rest) = out.split_at_mut_checked(part.len())?;
        to.copy_from_slice(part);
        out = rest;
    }
    Some(len)
}

/// The answer to a COPY, unless it is a status: one byte.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Piece<'a> {
    /// The cursor of the next request, or [`END`].
    pub next: u32,
    records: &'a [u8],
}

/// A session of another server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Record<'a> {
    /// The lifetime left, in milliseconds: 0 to [`TTL_MAX`].
    pub ttl: u32,
    /// Its id.
    pub id: Id<'a>,
    /// Its data; `None` if a FETCH must get them.
    pub session: Option<&'a [u8]>,
}

impl<'a> Piece<'a> {
    /// Parses the payload of a response to COPY, and all its records.
    ///
    /// # Errors
    /// [`Malformed::Payload`] if anything in it is not as this module says.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let (next, records) = payload.split_first_chunk().ok_or(Malformed::Payload)?;
        let piece = Self { next: u32::from_be_bytes(*next), records };
        let (mut rest, mut count, mut without_data) = (records, 0_usize, false);
        while !rest.is_empty() {
            let (record, behind) = split_record(rest).ok_or(Malformed::Payload)?;
            count = count.saturating_add(1);
            without_data |= record.session.is_none();
            rest = behind;
        }
        if without_data && count > 1 { Err(Malformed::Payload) } else { Ok(piece) }
    }

    /// Its records.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let mut rest = self.records;
        core::iter::from_fn(move || {
            let (record, behind) = split_record(rest)?;
            rest = behind;
            Some(record)
        })
    }
}

fn split_record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (ttl, rest) = bytes.split_first_chunk()?;
    let ttl = u32::from_be_bytes(*ttl);
    let (id_len, rest) = rest.split_first()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (id, rest) = rest.split_at_checked(usize::from(*id_len))?;
    let (session, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    let session = (!session.is_empty()).then_some(session);
    let record = Record { ttl, id: Id::new(id)?, session };
    (ttl <= TTL_MAX).then_some((record, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Layout;
    use std::collections::BTreeMap;
    use std::{vec, vec::Vec};

    const NOW: Instant = Instant::from_millis(7);

    fn table() -> Table<Vec<Line>> {
        let layout = Layout::new(5_000, 8 << 20).unwrap();
        Table::new(layout, [7; 16], |lines| vec![[0; 64]; lines]).unwrap()
    }

    fn data(number: u16) -> Vec<u8> {
        let len = if number.is_multiple_of(100) { 32_700 } else { 5 + usize::from(number) % 400 };
        number.to_be_bytes().into_iter().cycle().take(len).collect()
    }

    /// Copies everything, and fetches what the pieces leave out. Every piece fits in `most`.
    fn copied(table: &Table<Vec<Line>>, most: u32) -> BTreeMap<Vec<u8>, (u32, Vec<u8>)> {
        let mut all = BTreeMap::new();
        let mut cursor = 0;
        while cursor != END {
            let mut out = vec![0; PAYLOAD_MAX];
            let len = table.copy(NOW, Copy { cursor, most }, &mut out).unwrap();
            assert!(len <= (most as usize).max(MOST_MIN));
            let piece = Piece::parse(&out[..len]).unwrap();
            assert!(piece.next > cursor);
            cursor = piece.next;
            for record in piece.records() {
                let mut fetched = vec![0; 40_000];
                let session = record.session.map(<[u8]>::to_vec).unwrap_or_else(|| {
                    let (len, ttl) = table.fetch(NOW, record.id, &mut fetched).unwrap();
                    assert_eq!(ttl, record.ttl);
                    fetched[..len].to_vec()
                });
                let id = record.id.bytes().to_vec();
                assert_eq!(all.insert(id, (record.ttl, session)), None, "each comes once");
            }
        }
        all
    }

    #[test]
    fn every_session_comes_once_in_pieces_of_any_size() {
        let mut table = table();
        let mut stored = BTreeMap::new();
        for number in 0..2_000_u16 {
            let mut id = vec![3; usize::from(number % 62)];
            id.extend(number.to_be_bytes());
            let ttl = 1_000 + u32::from(number);
            table.add(NOW, ttl, Id::new(&id).unwrap(), &data(number)).unwrap();
            stored.insert(id, (ttl, data(number)));
        }
        for most in [0, 75, 76, 500, 16_384, PAYLOAD_MAX as u32, u32::MAX] {
            assert!(copied(&table, most) == stored, "{most}");
        }
    }

    #[test]
    fn the_largest_session_of_an_add_is_fetched_where_no_piece_has_room_for_it() {
        let mut table = table();
        let id = [1; 64];
        let session = vec![2; PAYLOAD_MAX - 8 - id.len()];
        table.add(NOW, 60_000, Id::new(&id).unwrap(), &session).unwrap();
        let copied = copied(&table, u32::MAX);
        assert!(copied.into_iter().eq([(id.to_vec(), (60_000, session))]));
    }

    #[test]
    fn any_cursor_is_answered_with_a_bounded_piece() {
        let mut table = table();
        for number in 0..3_000_u16 {
            let id = number.to_be_bytes();
            table.add(NOW, 60_000, Id::new(&id).unwrap(), b"session").unwrap();
        }
        for number in 0..2_990_u16 {
            let id = number.to_be_bytes();
            assert!(table.remove(NOW, Id::new(&id).unwrap()));
        }
        let mut out = vec![0; PAYLOAD_MAX];
        for cursor in [0, 1, 2_000, 2_999, 3_000, 100_000, END - 1, END] {
            let len = table.copy(NOW, Copy { cursor, most: 4_096 }, &mut out).unwrap();
            let piece = Piece::parse(&out[..len]).unwrap();
            assert!(piece.next > cursor || piece.next == END);
            assert!(piece.next == END || piece.next - cursor <= BLOCKS, "bounded work");
            assert!(piece.records().count() <= 10);
        }
        assert_eq!(table.copy(NOW, Copy { cursor: 0, most: 4_096 }, &mut out[..4_095]), None);
    }

    #[test]
    fn a_piece_that_is_cut_or_absurd_is_malformed() {
        let piece = [
            &9_u32.to_be_bytes()[..],
            &[0, 0, 0, 5, 2, 0, 3],
            b"idabc",
            &[0, 0, 0, 6, 2, 0, 1],
            b"jdx",
        ]
        .concat();
        let parsed = Piece::parse(&piece).unwrap();
        let sessions: Vec<_> = parsed.records().map(|record| record.session.unwrap()).collect();
        assert_eq!((parsed.next, sessions), (9, vec![&b"abc"[..], b"x"]));
        for len in 0..piece.len() {
            let whole = len == 4 || len == 16;
            assert_eq!(Piece::parse(&piece[..len]).is_ok(), whole, "{len} bytes");
        }
        let with = |at: usize, byte: u8| {
            let mut piece = piece.clone();
            piece[at] = byte;
            Piece::parse(&piece).map(drop)
        };
        assert!(with(4, 0xff).is_err(), "a lifetime of more than 7 days");
        assert!(with(8, 0).is_err() && with(8, 65).is_err(), "no id");
        assert!(with(22, 0).is_err(), "the second has no data");
    }
}
