//! The sessions of a load. Each is computed from its number, so none is stored.

use distcache_core::id::ID_MAX;

/// The least bytes of an id; the session repeats its first 8.
pub const ID_MIN: usize = WORD;

const WORD: usize = 8;

/// A session: its id and, derived from that, its data.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    id: [u8; ID_MAX],
    id_len: usize,
    data_len: usize,
}

impl Session {
    /// The session with this number: an id of `id_len` bytes ([`ID_MIN`] to [`ID_MAX`]), printable ASCII
    /// as some protocols require, and `data_len` bytes of data.
    pub fn new(number: u32, id_len: usize, data_len: usize) -> Self {
        let mut id = [0; ID_MAX];
        let words = id_len.div_ceil(WORD);
        for (place, word) in (0_u64..).zip(id.as_chunks_mut::<WORD>().0.iter_mut().take(words)) {
            // Six bits in each byte, from '0' to 'o'.
            let printed = (mix(u64::from(number) | place << 32) & 0x3f3f_3f3f_3f3f_3f3f)
                .wrapping_add(0x3030_3030_3030_3030);
            *word = printed.to_le_bytes();
        }
        Self { id, id_len, data_len }
    }

    /// The id.
    pub fn id(&self) -> &[u8] {
        &self.id[..self.id_len]
    }

    /// The length of the data.
    pub const fn data_len(&self) -> usize {
        self.data_len
    }

    /// Writes the data to `out`, which has its length.
    pub fn write(&self, out: &mut [u8]) {
        repeat(self.word(), out);
    }

    /// Whether `data` is the data of this session.
    pub fn is(&self, data: &[u8]) -> bool {
        let word = self.word();
        let (words, rest) = data.as_chunks::<WORD>();
        data.len() == self.data_len
            && words.iter().all(|found| *found == word)
            && word.starts_with(rest)
    }

    fn word(&self) -> [u8; WORD] {
        self.id.first_chunk().copied().unwrap_or_default()
    }
}

/// Writes a session's data: the first 8 bytes of its id, repeated. A benchmark server that stores
/// nothing uses it, too.
pub fn repeat(word: [u8; WORD], out: &mut [u8]) {
    let (words, rest) = out.as_chunks_mut::<WORD>();
    words.fill(word);
    rest.copy_from_slice(&word[..rest.len()]);
}

/// A bijective hash.
fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ (z >> 27)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_number_has_a_unique_printable_id() {
        let mut ids = HashSet::new();
        for number in 0..50_000 {
            let session = Session::new(number, 12, 0);
            assert!(session.id().iter().all(u8::is_ascii_graphic));
            assert!(ids.insert(session.id().to_vec()), "{number}");
        }
        assert_eq!(Session::new(7, ID_MAX, 0).id().len(), ID_MAX);
    }

    #[test]
    fn only_the_session_s_own_data_is_right() {
        for len in [5, 8, 199, 200] {
            let session = Session::new(3, 32, len);
            let mut data = vec![0; len];
            session.write(&mut data);
            assert!(session.is(&data));
            assert!(!session.is(&data[1..]) && !Session::new(4, 32, len).is(&data));
            data[len - 1] ^= 1;
            assert!(!session.is(&data));
        }
    }
}
