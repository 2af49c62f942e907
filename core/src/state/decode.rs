//! The decoder.

use zeroize::Zeroize;

use super::{
    CHUNK_MAX, FIXED_LEN, HEAD_LEN, HEADER_LEN, Header, LAST, Refused, SEALED, TAG_LEN, checksum,
    covered, follows,
};
use crate::id::Id;
use crate::memory::Array;
use crate::message::TTL_MAX;
use crate::seal::Keys;
use crate::table::SESSION_MAX;

/// Reads a state, chunk by chunk: see [`Encoder`](super::Encoder) for an example.
pub struct Decoder<'k, B: Array<u8>> {
    buffer: B,
    keys: Option<&'k Keys>,
    /// The wall clock, in milliseconds since 1970.
    unix_ms: u64,
    stage: Stage,
    filled: usize,
    header: [u8; HEADER_LEN],
    salt: [u8; 16],
    /// What has passed since the state was written, in milliseconds.
    age: u64,
    number: u64,
    sessions: u64,
}

/// What the buffer is filled with.
#[derive(Clone, Copy)]
enum Stage {
    Header,
    Head,
    /// The payload of a chunk with this head, and the tag.
    Body(u32),
    /// Nothing: the last chunk was read.
    End,
}

/// A session of a state.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// The lifetime left, in milliseconds: at most [`TTL_MAX`], and 0 if it has expired.
    pub ttl: u32,
    /// Its class, for [`Table::restore`](crate::Table::restore).
    pub class: u8,
    /// Its id.
    pub id: Id<'a>,
    /// Its data: 1 to [`SESSION_MAX`] bytes.
    pub data: &'a [u8],
}

/// The sessions of a chunk.
#[derive(Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
    age: u64,
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let (fixed, rest) = self.rest.split_first_chunk::<FIXED_LEN>()?;
        let words = u64::from_le_bytes(*fixed);
        let (id, rest) = rest.split_at_checked(usize::from((words >> 48) as u8))?;
        let (data, rest) = rest.split_at_checked(usize::from((words >> 32) as u16))?;
        let id = Id::new(id).filter(|_| (1..=SESSION_MAX).contains(&data.len()))?;
        self.rest = rest;
        let left = u64::from(words as u32).saturating_sub(self.age);
        let ttl = u32::try_from(left).unwrap_or(TTL_MAX).min(TTL_MAX);
        Some(Record { ttl, class: (words >> 56) as u8, id, data })
    }
}

impl<'k, B: Array<u8>> Decoder<'k, B> {
    /// A decoder in `buffer`, which has [`CHUNK_MAX`] bytes; `None` if it has fewer.
    ///
    /// `unix_ms` is the wall clock in milliseconds since 1970. With `keys` only a sealed state is read,
    /// without them only one that is not.
    pub fn new(buffer: B, unix_ms: u64, keys: Option<&'k Keys>) -> Option<Self> {
        (buffer.as_ref().len() >= CHUNK_MAX).then_some(Self {
            buffer,
            keys,
            unix_ms,
            stage: Stage::Header,
            filled: 0,
            header: [0; HEADER_LEN],
            salt: [0; 16],
            age: 0,
            number: 0,
            sessions: 0,
        })
    }

    /// Where the next bytes of the state go: no more than belong to the header, head or body that comes
    /// next. One byte after the last chunk, to notice what follows.
    pub fn space(&mut self) -> &mut [u8] {
        let wanted = self.wanted();
        let wanted = self.buffer.as_mut().get_mut(..wanted).unwrap_or_default();
        wanted.get_mut(self.filled..).unwrap_or_default()
    }

    /// Says that the first `count` bytes of the space were filled.
    pub fn filled(&mut self, count: usize) {
        self.filled = self.filled.saturating_add(count).min(self.wanted());
    }

    /// Reads what was filled. Returns the sessions of a chunk that is complete and verified; `None` if more
    /// bytes are needed.
    ///
    /// # Errors
    ///
    /// See [`Refused`]. It stays refused.
    pub fn advance(&mut self) -> Result<Option<Records<'_>>, Refused> {
        while self.filled >= self.wanted() {
            match self.stage {
                Stage::Header => self.header()?,
                Stage::Head => self.head()?,
                Stage::Body(head) if head & LAST > 0 => self.last(head)?,
                Stage::Body(head) => return self.body(head).map(Some),
                Stage::End => return Err(Refused::Trailing),
            }
        }
        Ok(None)
    }

    /// Ends the state: no more bytes follow. Returns the number of its sessions, expired ones included.
    ///
    /// # Errors
    ///
    /// See [`Refused`].
    pub const fn end(&self) -> Result<u64, Refused> {
        match self.stage {
            Stage::End if self.filled == 0 => Ok(self.sessions),
            Stage::End => Err(Refused::Trailing),
            _ => Err(Refused::Truncated),
        }
    }

    const fn wanted(&self) -> usize {
        match self.stage {
            Stage::Header => HEADER_LEN,
            Stage::Head => HEAD_LEN,
            Stage::Body(head) => ((head & !LAST) as usize).saturating_add(TAG_LEN),
            Stage::End => 1,
        }
    }

    fn header(&mut self) -> Result<(), Refused> {
        let bytes = self.buffer.as_ref().first_chunk().ok_or(Refused::Foreign)?;
        let header = Header::decode(bytes)?;
        let unknown = |keys: &Keys| keys.for_file(header.key_id, header.salt).next().is_none();
        match self.keys {
            None if header.flags == SEALED => return Err(Refused::Sealed),
            Some(_) if header.flags != SEALED => return Err(Refused::NotSealed),
            Some(keys) if unknown(keys) => return Err(Refused::UnknownKey),
            _ => {}
        }
        (self.header, self.salt) = (*bytes, header.salt);
        self.age = self.unix_ms.saturating_sub(header.written);
        (self.stage, self.filled) = (Stage::Head, 0);
        Ok(())
    }

    fn head(&mut self) -> Result<(), Refused> {
        let head = self.buffer.as_ref().first_chunk().ok_or(Refused::Truncated)?;
        // Lengths are not verified before the chunk is there, so an invalid one is mostly a flip.
        follows(*head).ok_or(Refused::Damaged)?;
        let head = u32::from_le_bytes(*head);
        (self.stage, self.filled) = (Stage::Body(head), 0);
        Ok(())
    }

    fn body(&mut self, head: u32) -> Result<Records<'_>, Refused> {
        let len = self.verify(head)?;
        (self.stage, self.filled) = (Stage::Head, 0);
        let payload = self.buffer.as_ref().get(..len).unwrap_or_default();
        let records = Records { rest: payload, age: self.age };
        // All of the chunk is looked at first, so what is invalid yields nothing.
        let mut checked = records.clone();
        let count = checked.by_ref().count() as u64;
        if !checked.rest.is_empty() {
            return Err(Refused::Malformed);
        }
        self.sessions = self.sessions.saturating_add(count);
        Ok(records)
    }

    fn last(&mut self, head: u32) -> Result<(), Refused> {
        self.verify(head)?;
        let total = self.buffer.as_ref().first_chunk().ok_or(Refused::Truncated)?;
        if u64::from_le_bytes(*total) != self.sessions {
            return Err(Refused::Malformed);
        }
        (self.stage, self.filled) = (Stage::End, 0);
        Ok(())
    }

    /// Verifies the payload, opens it if it is sealed, and returns its length.
    fn verify(&mut self, head: u32) -> Result<usize, Refused> {
        let len = (head & !LAST) as usize;
        let (number, covered) = (self.number, covered(&self.header, self.number, head));
        self.number = self.number.saturating_add(1);
        let body = self.buffer.as_mut().split_at_mut_checked(len);
        let (payload, rest) = body.ok_or(Refused::Truncated)?;
        let tag = *rest.first_chunk().ok_or(Refused::Truncated)?;
        let valid = match self.keys {
            None => checksum(&self.salt, &covered, payload) == tag,
            Some(keys) => {
                let header = Header::decode(&self.header)?;
                let mut keys = keys.for_file(header.key_id, self.salt);
                keys.any(|key| key.open(number, &covered, payload, tag))
            }
        };
        if valid { Ok(len) } else { Err(Refused::Damaged) }
    }
}

impl<B: Array<u8>> Drop for Decoder<'_, B> {
    fn drop(&mut self) {
        self.buffer.as_mut().zeroize();
    }
}
