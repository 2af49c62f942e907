//! The encoder.

use zeroize::Zeroize;

use super::{
    CHUNK_MAX, FIXED_LEN, HEAD_LEN, HEADER_LEN, Header, LAST, PAYLOAD_MAX, RECORD_MAX, SEALED,
    checksum, covered, put,
};
use crate::memory::Array;
use crate::seal::{FileKey, Keys};
use crate::table::Session;
use crate::time::Instant;

/// Turns sessions into the bytes of a state, chunk by chunk.
///
/// ```
/// use distcache_core::{Id, Instant, Layout, Table, state};
///
/// let layout = Layout::for_sessions(10).unwrap();
/// let mut table = Table::new(layout, [7; 16], |lines| vec![[0; 64]; lines]).unwrap();
/// let (now, id) = (Instant::ORIGIN, Id::new(b"an id").unwrap());
/// table.add(now, 60_000, id, b"a session").unwrap();
///
/// // Written at 1,800,000,000 seconds since 1970.
/// let buffer = vec![0; state::CHUNK_MAX];
/// let mut encoder = state::Encoder::new(buffer, now, 1_800_000_000_000, [9; 16], None).unwrap();
/// let (mut sessions, mut file) = (table.by_age(now), vec![]);
/// while !encoder.is_done() {
///     while encoder.has_room() {
///         let Some(session) = sessions.next() else {
///             encoder.finish();
///             break;
///         };
///         encoder.push(now, session);
///     }
///     encoder.close();
///     file.extend_from_slice(encoder.pending());
///     encoder.sent(encoder.pending().len());
/// }
///
/// // Read a second later.
/// let mut copy = Table::new(layout, [8; 16], |lines| vec![[0; 64]; lines]).unwrap();
/// let mut decoder = state::Decoder::new(vec![0; state::CHUNK_MAX], 1_800_000_001_000, None).unwrap();
/// let mut rest = &file[..];
/// while !rest.is_empty() {
///     let space = decoder.space();
///     let len = space.len().min(rest.len());
///     space[..len].copy_from_slice(&rest[..len]);
///     decoder.filled(len);
///     rest = &rest[len..];
///     for record in decoder.advance().unwrap().into_iter().flatten() {
///         copy.restore(now, record.ttl, record.class, record.id, record.data).unwrap();
///     }
/// }
/// assert_eq!(decoder.end(), Ok(1));
/// assert!(copy.has(Instant::from_millis(58_999), id));
/// assert!(!copy.has(Instant::from_millis(59_000), id));
/// ```
pub struct Encoder<B: Array<u8>> {
    buffer: B,
    header: [u8; HEADER_LEN],
    salt: [u8; 16],
    key: Option<FileKey>,
    /// When writing began.
    origin: Instant,
    /// The number of the open chunk.
    number: u64,
    sessions: u64,
    /// Bytes of records in the open chunk.
    records: usize,
    /// The pending bytes are those from `sent` to `ready`.
    sent: usize,
    ready: usize,
    last: Last,
}

/// How far the last chunk is.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Last {
    NotYet,
    /// Pending after the chunk before it.
    Due,
    Pending,
}

impl<B: Array<u8>> Encoder<B> {
    /// An encoder in `buffer`, which has [`CHUNK_MAX`] bytes; `None` if it has fewer.
    ///
    /// `now` and `unix_ms`, the wall clock in milliseconds since 1970, are the same point in time. `salt`
    /// is random, different for each state. The newest of `keys` seals. The header is pending at once.
    pub fn new(
        buffer: B,
        now: Instant,
        unix_ms: u64,
        salt: [u8; 16],
        keys: Option<&Keys>,
    ) -> Option<Self> {
        let mut encoder = Self {
            buffer,
            header: [0; HEADER_LEN],
            salt: [0; 16],
            key: None,
            origin: now,
            number: 0,
            sessions: 0,
            records: 0,
            sent: 0,
            ready: 0,
            last: Last::NotYet,
        };
        if encoder.buffer.as_ref().len() < CHUNK_MAX {
            return None;
        }
        encoder.restart(now, unix_ms, salt, keys);
        Some(encoder)
    }

    /// Begins another state in the same buffer, as [`new`](Self::new) does. What is pending of the one
    /// before is lost.
    pub fn restart(&mut self, now: Instant, unix_ms: u64, salt: [u8; 16], keys: Option<&Keys>) {
        let key_id = keys.map(Keys::newest);
        let header = Header {
            flags: if keys.is_some() { SEALED } else { 0 },
            key_id: key_id.unwrap_or_default(),
            written: unix_ms,
            salt,
        };
        self.header = header.encode();
        self.key = keys.zip(key_id).and_then(|(keys, id)| keys.for_file(id, salt).next());
        (self.salt, self.origin, self.last) = (salt, now, Last::NotYet);
        (self.number, self.sessions, self.records, self.sent) = (0, 0, 0, 0);
        put(self.buffer.as_mut(), &self.header);
        self.ready = HEADER_LEN;
    }

    /// Whether [`push`](Self::push) takes any session: nothing is pending, and the open chunk has room for
    /// the largest one.
    pub fn has_room(&self) -> bool {
        let room = PAYLOAD_MAX.saturating_sub(self.records);
        self.ready == 0 && self.last == Last::NotYet && room >= RECORD_MAX
    }

    /// Bytes of records in the open chunk.
    pub const fn open(&self) -> usize {
        self.records
    }

    /// Adds a session to the open chunk; `false`, and nothing is added, unless it
    /// [`has_room`](Self::has_room).
    pub fn push(&mut self, now: Instant, session: Session<'_>) -> bool {
        if !self.has_room() {
            return false;
        }
        // Counted from the time in the header, however long writing has taken.
        let passed = u32::try_from(now.since(self.origin)).unwrap_or(u32::MAX);
        let (id, len) = (session.id.bytes(), session.data.len());
        let words = u64::from(session.ttl.saturating_add(passed))
            | (len as u64) << 32
            | (id.len() as u64) << 48
            | u64::from(session.class) << 56;
        let start = HEAD_LEN.saturating_add(self.records);
        let mut rest = self.buffer.as_mut().get_mut(start..).unwrap_or_default();
        rest = put(put(rest, &words.to_le_bytes()), id);
        for part in session.data {
            rest = put(rest, part);
        }
        let added = FIXED_LEN.saturating_add(id.len()).saturating_add(len);
        self.records = self.records.saturating_add(added);
        self.sessions = self.sessions.saturating_add(1);
        true
    }

    /// Closes the open chunk, if it has records and nothing is pending. It is pending then.
    pub fn close(&mut self) {
        if self.ready == 0 && self.records > 0 {
            self.seal(self.records as u32);
        }
    }

    /// Ends the state: what is open is closed, and the last chunk follows.
    pub fn finish(&mut self) {
        if self.last != Last::NotYet {
            return;
        }
        self.last = Last::Due;
        self.close();
        self.end();
    }

    /// The bytes to write next.
    pub fn pending(&self) -> &[u8] {
        let ready = self.buffer.as_ref().get(..self.ready).unwrap_or_default();
        ready.get(self.sent..).unwrap_or_default()
    }

    /// Says that the first `count` pending bytes were written.
    pub fn sent(&mut self, count: usize) {
        self.sent = self.sent.saturating_add(count);
        if self.sent >= self.ready {
            (self.sent, self.ready) = (0, 0);
            self.end();
        }
    }

    /// Whether everything was written, the last chunk included.
    pub fn is_done(&self) -> bool {
        self.last == Last::Pending && self.ready == 0
    }

    /// The sessions written so far.
    pub const fn sessions(&self) -> u64 {
        self.sessions
    }

    /// Makes the last chunk pending once it is due and nothing is before it.
    fn end(&mut self) {
        if self.last != Last::Due || self.ready > 0 {
            return;
        }
        let total = self.sessions.to_le_bytes();
        let payload = self.buffer.as_mut().get_mut(HEAD_LEN..);
        if let Some(place) = payload.and_then(<[u8]>::first_chunk_mut) {
            *place = total;
        }
        self.last = Last::Pending;
        self.seal(total.len() as u32 | LAST);
    }

    /// Puts head and tag around the payload, whose length is in `head`, and makes it all pending.
    fn seal(&mut self, head: u32) {
        let len = (head & !LAST) as usize;
        let covered = covered(&self.header, self.number, head);
        let Some((place, rest)) = self.buffer.as_mut().split_first_chunk_mut() else { return };
        *place = head.to_le_bytes();
        let Some((payload, rest)) = rest.split_at_mut_checked(len) else { return };
        let Some(tag) = rest.first_chunk_mut() else { return };
        *tag = match &self.key {
            Some(key) => key.seal(self.number, &covered, payload),
            None => checksum(&self.salt, &covered, payload),
        };
        self.ready = HEAD_LEN.saturating_add(len).saturating_add(tag.len());
        self.number = self.number.saturating_add(1);
        self.records = 0;
    }
}

impl<B: Array<u8>> Drop for Encoder<B> {
    fn drop(&mut self) {
        self.buffer.as_mut().zeroize();
    }
}
