//! What text protocols have in common.

use std::io::{Cursor, Write};

/// Bytes that are appended to a buffer known to have room.
pub(crate) struct Text<'a>(Cursor<&'a mut [u8]>);

impl<'a> Text<'a> {
    pub(crate) fn new(out: &'a mut [u8]) -> Self {
        Self(Cursor::new(out))
    }

    pub(crate) fn put(mut self, bytes: &[u8]) -> Self {
        self.0.write_all(bytes).expect("room for the longest request");
        self
    }

    pub(crate) fn number(mut self, number: impl Into<u64>) -> Self {
        write!(self.0, "{}", number.into()).expect("room for the longest request");
        self
    }

    /// Lets `write` fill the next `len` bytes.
    pub(crate) fn fill(mut self, len: usize, write: impl FnOnce(&mut [u8])) -> Self {
        let at = self.0.position() as usize;
        write(&mut self.0.get_mut()[at..at + len]);
        self.0.set_position((at + len) as u64);
        self
    }

    pub(crate) fn len(self) -> usize {
        self.0.position() as usize
    }
}

/// Returns the first line of `bytes`, without its end; `None` if it is not whole.
pub(crate) fn line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    Some(&bytes[..end])
}
