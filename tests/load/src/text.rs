//! What text protocols have in common.

use std::io::{Cursor, Write};

use distcache_posix::load::protocol::Answer;
use distcache_posix::load::session::Session;

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

/// Reads the data of a session at `at`, with `end_mark` behind it. `None` if it is not whole.
pub(crate) fn data(
    bytes: &[u8],
    at: usize,
    session: &Session,
    end_mark: &[u8],
) -> Result<Option<Answer>, &'static str> {
    let len = at + session.data_len() + end_mark.len();
    let Some(found) = bytes.get(at..len) else { return Ok(None) };
    let (data, end) = found.split_at(session.data_len());
    if !session.is(data) || end != end_mark {
        return Err("it is another session");
    }
    Ok(Some(Answer { len, done: true }))
}
