//! The state of a table as bytes: what a server writes down before it ends, and its successor reads.
//!
//! ```text
//! file     header | chunk 0 | chunk 1 | .. | last chunk
//!
//! header   "dcstate\n" | version u32 | flags u8 | key id 3 | written u64 | salt 16            40 bytes
//! chunk    length u32, its top bit set in the last chunk | records | tag 16           at most 64 KiB
//! record   lifetime u32 | length of the data u16 | of the id u8 | class u8 | id | data
//! last     number of sessions u64
//! ```
//!
//! All numbers are little-endian. Nothing depends on the layout of the table, on the machine or on the
//! options of the server, so a table of any size can read it: what does not fit is evicted as usual.
//!
//! *Time.* `written` is the wall clock in milliseconds since 1970, and the lifetime of each session counts
//! from then on, also where writing takes long. A reader subtracts what has passed. If its clock is behind
//! `written`, it subtracts nothing, so no lifetime grows.
//!
//! *Tags.* Without keys a tag is the 128-bit SipHash-1-3 of the header, the number of the chunk, and the
//! chunk, with the random `salt` of the file as its key. It finds what was flipped, cut, left out, doubled
//! or swapped, also between files. It keeps nobody from making a file of their own: the owner and mode of
//! the file do. With keys (flag 1) records are encrypted by XChaCha20-Poly1305, and the same bytes are
//! authenticated: nobody without the key reads, changes or makes such a file. An old file of the same keys
//! is still valid until its sessions expire.
//!
//! *Bytes.* [`Encoder`] holds one chunk. Its bytes are [`pending`](Encoder::pending) once it is closed, and
//! records are added to the next one after those were [`sent`](Encoder::sent). [`Decoder`] holds one chunk,
//! too: it takes exactly as many bytes as [`space`](Decoder::space) has, verifies a chunk as a whole, and
//! only then yields its records. Both wipe their memory when they are dropped. Neither allocates.
//!
//! A decoder may refuse a file after it has yielded records. The caller then drops them all, as
//! [`Table::clear`](crate::Table::clear) does.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use core::fmt;
use core::hash::Hasher;

pub use decode::{Decoder, Record, Records};
pub use encode::Encoder;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::id::ID_MAX;
use crate::table::SESSION_MAX;

/// The bytes of the buffer that an encoder or a decoder needs: the longest chunk.
pub const CHUNK_MAX: usize = 1 << 16;

/// The version of the format.
pub const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"dcstate\n";
const SEALED: u8 = 1;
/// The bytes of the header.
pub const HEADER_LEN: usize = 40;
/// The bytes of a chunk before its records.
pub const HEAD_LEN: usize = 4;
/// What no chunk begins with: for a program that passes a state on, and abandons it.
pub const ABANDONED: [u8; HEAD_LEN] = [0xFF; HEAD_LEN];

const TAG_LEN: usize = 16;
const LAST: u32 = 1 << 31;
/// The most bytes between the head of a chunk and its tag.
const PAYLOAD_MAX: usize = CHUNK_MAX - HEAD_LEN - TAG_LEN;
const FIXED_LEN: usize = 8;
const RECORD_MAX: usize = FIXED_LEN + ID_MAX + SESSION_MAX;
/// The bytes of the last chunk.
const TOTAL_LEN: usize = 8;

const _: () = assert!(RECORD_MAX <= PAYLOAD_MAX);

/// Why a state was refused. Nothing that it yielded is to be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// It does not begin like a state.
    Foreign,
    /// Another version of the format wrote it.
    Version(u32),
    /// It is sealed, and there are no keys.
    Sealed,
    /// It is not sealed, and there are keys.
    NotSealed,
    /// None of the keys has sealed it.
    UnknownKey,
    /// A tag does not fit: something was changed, left out or swapped.
    Damaged,
    /// Its tags fit, and what it says cannot be.
    Malformed,
    /// It ends early.
    Truncated,
    /// Something follows its end.
    Trailing,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Foreign => "it is not a state file",
            Self::Version(version) => {
                return write!(f, "its format has version {version}, and not {VERSION}");
            }
            Self::Sealed => "it is sealed, and no keys were given",
            Self::NotSealed => "it is not sealed, and keys were given",
            Self::UnknownKey => "it is sealed with an unknown key",
            Self::Damaged => "it is damaged",
            Self::Malformed => "its content is invalid",
            Self::Truncated => "it ends early",
            Self::Trailing => "something follows its end",
        })
    }
}

impl core::error::Error for Refused {}

#[derive(Clone, Copy)]
struct Header {
    /// Flags, and the id of the key.
    flags: u8,
    key_id: [u8; 3],
    written: u64,
    salt: [u8; 16],
}

impl Header {
    fn encode(self) -> [u8; HEADER_LEN] {
        let [a, b, c] = self.key_id;
        let (key, mut bytes) = ([self.flags, a, b, c], [0; HEADER_LEN]);
        let mut rest = put(&mut bytes, &MAGIC);
        for field in [&VERSION.to_le_bytes()[..], &key, &self.written.to_le_bytes(), &self.salt] {
            rest = put(rest, field);
        }
        bytes
    }

    fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, Refused> {
        let (magic, rest) = bytes.split_first_chunk().ok_or(Refused::Foreign)?;
        if *magic != MAGIC {
            return Err(Refused::Foreign);
        }
        let (version, rest) = rest.split_first_chunk().ok_or(Refused::Foreign)?;
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(Refused::Version(version));
        }
        let (&[flags, a, b, c], rest) = rest.split_first_chunk().ok_or(Refused::Foreign)?;
        let (written, rest) = rest.split_first_chunk().ok_or(Refused::Foreign)?;
        let salt = rest.first_chunk().ok_or(Refused::Foreign)?;
        if flags > SEALED {
            return Err(Refused::Malformed);
        }
        let written = u64::from_le_bytes(*written);
        Ok(Self { flags, key_id: [a, b, c], written, salt: *salt })
    }
}

/// What a tag covers beside the records: the header, the number of the chunk, and its head.
fn covered(header: &[u8; HEADER_LEN], number: u64, head: u32) -> [u8; HEADER_LEN + 12] {
    let mut bytes = [0; HEADER_LEN + 12];
    let rest = put(put(&mut bytes, header), &number.to_le_bytes());
    put(rest, &head.to_le_bytes());
    bytes
}

/// The tag of a chunk that is not sealed.
fn checksum(salt: &[u8; 16], covered: &[u8], payload: &[u8]) -> [u8; TAG_LEN] {
    let mut hasher = SipHasher13::new_with_key(salt);
    hasher.write(covered);
    hasher.write(payload);
    hasher.finish128().as_bytes()
}

/// What follows the head of a chunk: the bytes of its records and tag, and whether it is the last chunk.
/// `None` if no chunk has this head.
pub fn follows(head: [u8; HEAD_LEN]) -> Option<(usize, bool)> {
    let head = u32::from_le_bytes(head);
    let (len, last) = ((head & !LAST) as usize, head & LAST > 0);
    let valid = if last { len == TOTAL_LEN } else { (1..=PAYLOAD_MAX).contains(&len) };
    valid.then_some((len.saturating_add(TAG_LEN), last))
}

/// Copies `from` to the front of `to`, if it fits, and returns the rest of `to`.
fn put<'a>(to: &'a mut [u8], from: &[u8]) -> &'a mut [u8] {
    let Some((front, rest)) = to.split_at_mut_checked(from.len()) else {
        return &mut [];
    };
    front.copy_from_slice(from);
    rest
}
