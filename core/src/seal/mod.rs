//! Sealed sessions: what a cache stores without being able to read it.
//!
//! TLS servers that share a key seal a session before it leaves them and open it when it comes back. The
//! cache, and everybody on the path to it, sees an id, a lifetime, a size and random bytes.
//!
//! ```
//! use distcache_core::{Id, seal::{self, Keys, Unopened}};
//!
//! let keys = Keys::new(&[[7; 32]]).unwrap();
//! let id = Id::new(b"an id").unwrap();
//! let mut out = [0; 100];
//! let len = keys.seal([1; 24], 1_800_000_000, id, b"a session", &mut out).unwrap();
//! assert_eq!(len, seal::OVERHEAD + 9);
//!
//! let mut copy = out;
//! assert_eq!(keys.open(1_799_999_999, id, &mut copy[..len]).unwrap(), b"a session");
//! let another = Id::new(b"another id").unwrap();
//! assert_eq!(keys.open(1_799_999_999, another, &mut out[..len]), Err(Unopened::Forged));
//! ```
//!
//! # The envelope
//!
//! ```text
//!  0        1         4          8                    32
//!  ┌────────┬─────────┬──────────┬─────────────────────┬─────────────────────┬────────────┐
//!  │ format │ key id  │ expires  │ nonce               │ session, encrypted  │ tag        │
//!  │ 0xD5   │ 3 bytes │ u32, BE  │ 24 bytes            │ as long as before   │ 16 bytes   │
//!  └────────┴─────────┴──────────┴─────────────────────┴─────────────────────┴────────────┘
//!  └─ associated data, then id ──┘
//! ```
//!
//! The cipher is XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03): a nonce of 24 bytes can be random in any
//! number of processes that share a key. [`OVERHEAD`] is 48 bytes.
//!
//! - *Format.* No serialization of a TLS session in use begins with 0xD5: DER begins with 0x30 (OpenSSL,
//!   BoringSSL, LibreSSL), GnuTLS's with 0xFA, rustls's with 0, 1 or 3, mbed TLS's with its major version.
//! - *Key id.* The first 3 bytes of the tag that the key gives an empty message with empty associated data
//!   under the nonce of 24 bytes 0xFF: output of a pseudorandom function, from which nothing about the key
//!   follows. It only selects. If two keys have the same id, both are tried.
//! - *Expires.* Seconds since 1970, big-endian, the last second in which the session opens. It is
//!   authenticated and not encrypted: the cache is told the lifetime with every ADD anyway, and so the
//!   session stays at a fixed offset and keeps its length.
//! - *Associated data.* Format, key id, expires, then the bytes of the session's id. All but the id have a
//!   fixed length, and the cipher authenticates the length of the whole.
//!
//! So what was changed, cut, extended, stored under another id or given a longer lifetime does not open, and
//! nothing opens after its lifetime. A cache can still forget a session, and can return an earlier session
//! that was stored under the same id within that one's lifetime.
//!
//! # Bytes and time
//!
//! Both ways work in place: the caller's buffer has [`HEADER_LEN`] bytes before the session and [`TAG_LEN`]
//! after it. The tag is verified before anything is decrypted. The nonce and the time are arguments. The
//! machines that share sessions need clocks that agree: a machine that is ten seconds ahead loses the last
//! ten seconds of each session.

use core::fmt;

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};
use heapless::Vec;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::id::{ID_MAX, Id};

mod file;
#[cfg(test)]
mod tests;

pub(crate) use file::FileKey;

/// The bytes of a key.
pub const KEY_LEN: usize = 32;

/// The most keys that [`Keys`] holds.
pub const KEYS_MAX: usize = 8;

/// The bytes of a nonce.
pub const NONCE_LEN: usize = 24;

/// The bytes of an envelope before the session.
pub const HEADER_LEN: usize = AUTHENTICATED_LEN + NONCE_LEN;

/// The bytes of an envelope after the session.
pub const TAG_LEN: usize = 16;

/// How much longer a sealed session is: 48 bytes.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;

/// The first byte of an envelope.
pub const FORMAT: u8 = 0xD5;

const KEY_ID_LEN: usize = 3;

/// Format, key id and expiry.
const AUTHENTICATED_LEN: usize = 1 + KEY_ID_LEN + 4;

/// A reason why [`Keys::open`] did not open something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unopened {
    /// No envelope: it does not begin with [`FORMAT`], or is shorter than [`OVERHEAD`].
    NotSealed,
    /// None of the keys has the id that the envelope names.
    UnknownKey,
    /// Changed, cut, or stored under another id.
    Forged,
    /// Authentic, and past its lifetime.
    Expired,
}

impl Unopened {
    /// The reason in a few words, such as "sealed with an unknown key".
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotSealed => "not sealed",
            Self::UnknownKey => "sealed with an unknown key",
            Self::Forged => "changed, cut or stored under another id",
            Self::Expired => "past its lifetime",
        }
    }
}

/// One to eight keys, newest first. The first one seals; all of them open.
///
/// Keys are wiped when they are dropped, and `Debug` shows none of their bytes. Moving a value can leave a
/// copy behind: keep it where it is, in a box or a static.
pub struct Keys(Vec<Key, KEYS_MAX>);

struct Key {
    cipher: XChaCha20Poly1305,
    id: [u8; KEY_ID_LEN],
}

impl Keys {
    /// Takes 1 to [`KEYS_MAX`] keys, newest first; `None` for another number.
    ///
    /// The caller wipes its own copy.
    pub fn new(keys: &[[u8; KEY_LEN]]) -> Option<Self> {
        let mut all = Vec::new();
        for bytes in keys {
            all.push(Key::new(bytes)).ok()?;
        }
        (!all.is_empty()).then_some(Self(all))
    }

    /// The number of keys: 1 to [`KEYS_MAX`].
    #[expect(clippy::len_without_is_empty, reason = "there is at least one key")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Writes the sealed `session` to `out`, and returns its length: [`OVERHEAD`] more than the session's.
    ///
    /// `None` if `out` is too short; `out` is then unchanged. For `nonce` and `expires` see
    /// [`seal_in_place`](Self::seal_in_place).
    pub fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        expires: u32,
        id: Id<'_>,
        session: &[u8],
        out: &mut [u8],
    ) -> Option<usize> {
        let len = session.len().checked_add(OVERHEAD)?;
        let out = out.get_mut(..len)?;
        out.get_mut(HEADER_LEN..)?.get_mut(..session.len())?.copy_from_slice(session);
        self.seal_in_place(nonce, expires, id, out)?;
        Some(len)
    }

    /// Seals the session between the first [`HEADER_LEN`] and the last [`TAG_LEN`] bytes of `envelope`,
    /// which becomes an envelope from end to end.
    ///
    /// No nonce may ever be used twice with a key: it is random, or from [`Nonces`]. The session opens until
    /// the end of the second `expires`, in seconds since 1970. `None` if `envelope` is shorter than
    /// [`OVERHEAD`]; it is then unchanged.
    pub fn seal_in_place(
        &self,
        nonce: [u8; NONCE_LEN],
        expires: u32,
        id: Id<'_>,
        envelope: &mut [u8],
    ) -> Option<()> {
        let key = self.0.first()?;
        let (header, rest) = envelope.split_first_chunk_mut::<HEADER_LEN>()?;
        let (session, tag) = rest.split_last_chunk_mut::<TAG_LEN>()?;
        let authenticated = authenticated(key.id, expires);
        let data = AssociatedData::new(authenticated, id)?;
        let sealed = key.cipher.encrypt_inout_detached(
            &nonce.into(),
            data.bytes(),
            InOutBuf::from(&mut *session),
        );
        let Ok(made) = sealed else {
            // More than 256 GiB: no slice that this protocol carries.
            return None;
        };
        let (fixed, nonce_field) = header.split_first_chunk_mut::<AUTHENTICATED_LEN>()?;
        *fixed = authenticated;
        nonce_field.copy_from_slice(&nonce);
        *tag = made.into();
        Some(())
    }

    /// Opens `envelope` in place, and returns the session: all but its first [`HEADER_LEN`] and its last
    /// [`TAG_LEN`] bytes.
    ///
    /// `now` is in seconds since 1970, and `id` the id under which the session was found. After an error,
    /// `envelope` holds no byte of the session.
    pub fn open<'a>(
        &self,
        now: u32,
        id: Id<'_>,
        envelope: &'a mut [u8],
    ) -> Result<&'a mut [u8], Unopened> {
        let (header, rest) =
            envelope.split_first_chunk_mut::<HEADER_LEN>().ok_or(Unopened::NotSealed)?;
        let (session, tag) = rest.split_last_chunk_mut::<TAG_LEN>().ok_or(Unopened::NotSealed)?;
        let (fixed, nonce) =
            header.split_first_chunk::<AUTHENTICATED_LEN>().ok_or(Unopened::NotSealed)?;
        let nonce = <[u8; NONCE_LEN]>::try_from(nonce).map_err(|_| Unopened::NotSealed)?;
        let [format, a, b, c, expires @ ..] = *fixed;
        if format != FORMAT {
            return Err(Unopened::NotSealed);
        }
        let data = AssociatedData::new(*fixed, id).ok_or(Unopened::Forged)?;
        let mut known = false;
        for key in self.0.iter().filter(|key| key.id == [a, b, c]) {
            known = true;
            let opened = key.cipher.decrypt_inout_detached(
                &nonce.into(),
                data.bytes(),
                InOutBuf::from(&mut *session),
                &(*tag).into(),
            );
            if opened.is_err() {
                continue;
            }
            if now > u32::from_be_bytes(expires) {
                session.zeroize();
                return Err(Unopened::Expired);
            }
            return Ok(session);
        }
        Err(if known { Unopened::Forged } else { Unopened::UnknownKey })
    }
}

impl ZeroizeOnDrop for Keys {}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Key {
    fn new(bytes: &[u8; KEY_LEN]) -> Self {
        let cipher = XChaCha20Poly1305::new(bytes.into());
        let nothing = InOutBuf::from(&mut [][..]);
        let tag = cipher.encrypt_inout_detached(&[0xFF; NONCE_LEN].into(), &[], nothing);
        let [a, b, c, ..]: [u8; TAG_LEN] = tag.map(Into::into).unwrap_or_default();
        Self { cipher, id: [a, b, c] }
    }
}

/// Whether `bytes` can only be an envelope, whatever key sealed it.
pub fn is_sealed(bytes: &[u8]) -> bool {
    bytes.len() >= OVERHEAD && bytes.first() == Some(&FORMAT)
}

/// The last second in which a session opens that is stored at `now` for `ttl` milliseconds.
///
/// `now` is in seconds since 1970. Parts of a second count as a whole one; a session never loses time, and
/// gains less than two seconds.
pub const fn expires(now: u32, ttl: u32) -> u32 {
    now.saturating_add(ttl.div_ceil(1000))
}

fn authenticated(key_id: [u8; KEY_ID_LEN], expires: u32) -> [u8; AUTHENTICATED_LEN] {
    let ([a, b, c], [d, e, f, g]) = (key_id, expires.to_be_bytes());
    [FORMAT, a, b, c, d, e, f, g]
}

/// The fixed fields and an id, one after the other.
struct AssociatedData(Vec<u8, { AUTHENTICATED_LEN + ID_MAX }>);

impl AssociatedData {
    fn new(fixed: [u8; AUTHENTICATED_LEN], id: Id<'_>) -> Option<Self> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&fixed).ok()?;
        bytes.extend_from_slice(id.bytes()).ok()?;
        Some(Self(bytes))
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Nonces for one process: 16 random bytes, and a counter.
///
/// A forked child must not go on with its parent's: it takes 16 random bytes of its own.
#[derive(Debug)]
pub struct Nonces {
    random: [u8; 16],
    used: u64,
}

impl Nonces {
    /// Takes 16 bytes from the system's random number generator, drawn for this process.
    pub const fn new(random: [u8; 16]) -> Self {
        Self { random, used: 0 }
    }

    /// Returns the next nonce; `None` after 2⁶⁴ - 1.
    pub fn next_nonce(&mut self) -> Option<[u8; NONCE_LEN]> {
        self.used = self.used.checked_add(1)?;
        let mut nonce = [0; NONCE_LEN];
        let (random, counter) = nonce.split_first_chunk_mut::<16>()?;
        *random = self.random;
        counter.copy_from_slice(&self.used.to_be_bytes());
        Some(nonce)
    }
}

/// Reads a key from 64 hexadecimal digits; `None` for anything else.
pub fn parse_key(digits: &[u8]) -> Option<Zeroizing<[u8; KEY_LEN]>> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != KEY_LEN || !rest.is_empty() {
        return None;
    }
    for (byte, &[high, low]) in key.iter_mut().zip(pairs) {
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(key)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
