//! The cipher of one file of chunks, sealed by the newest key: see [`state`](crate::state).
//!
//! The 24 bytes of each chunk's nonce are the file's 16 random bytes and the number of the chunk. No two
//! files have the same random bytes, so no nonce comes twice. The associated data begin with the magic
//! number of the file, and those of an envelope with [`FORMAT`](super::FORMAT): neither opens as the other.

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, XChaCha20Poly1305};

use super::{KEY_ID_LEN, Keys, NONCE_LEN, TAG_LEN};

/// A key for the chunks of one file. It is wiped when it is dropped.
pub(crate) struct FileKey {
    cipher: XChaCha20Poly1305,
    salt: [u8; 16],
}

impl Keys {
    /// The id of the newest key.
    pub(crate) fn newest(&self) -> [u8; KEY_ID_LEN] {
        self.0.first().map(|key| key.id).unwrap_or_default()
    }

    /// The keys with this id, for the file with these random bytes.
    pub(crate) fn for_file(
        &self,
        id: [u8; KEY_ID_LEN],
        salt: [u8; 16],
    ) -> impl Iterator<Item = FileKey> {
        let keys = self.0.iter().filter(move |key| key.id == id);
        keys.map(move |key| FileKey { cipher: key.cipher.clone(), salt })
    }
}

impl FileKey {
    /// Encrypts a chunk in place, and returns its tag.
    pub(crate) fn seal(&self, number: u64, data: &[u8], chunk: &mut [u8]) -> [u8; TAG_LEN] {
        let nonce = self.nonce(number).into();
        let sealed = self.cipher.encrypt_inout_detached(&nonce, data, InOutBuf::from(chunk));
        // It fails beyond 256 GiB only, and the tag of nothing opens nothing.
        sealed.map(Into::into).unwrap_or_default()
    }

    /// Decrypts a chunk in place; `false` if it is not authentic, and then it is unchanged.
    pub(crate) fn open(
        &self,
        number: u64,
        data: &[u8],
        chunk: &mut [u8],
        tag: [u8; TAG_LEN],
    ) -> bool {
        let (nonce, tag) = (self.nonce(number).into(), tag.into());
        self.cipher.decrypt_inout_detached(&nonce, data, InOutBuf::from(chunk), &tag).is_ok()
    }

    fn nonce(&self, number: u64) -> [u8; NONCE_LEN] {
        let mut nonce = [0; NONCE_LEN];
        if let Some((salt, counter)) = nonce.split_first_chunk_mut() {
            *salt = self.salt;
            counter.copy_from_slice(&number.to_le_bytes());
        }
        nonce
    }
}
