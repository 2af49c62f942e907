//! What an engine says about itself, with all that is larger than it ever is taken out.
//!
//! The parser behind this collects a whole value, of up to 512 MB, before it looks at it. Something that
//! only claims to be an engine could have us pay for that. Here a large value becomes an error as it
//! passes, and its bytes are dropped:
//!
//! ```text
//!  engine ──► $5\r\nhello\r\n        ──► $5\r\nhello\r\n
//!         ──► $500000\r\n(500000)\r\n ──► -OVERSIZE ...\r\n
//! ```

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::parts::PAYLOAD_MAX;

const ERROR: &[u8] = b"-OVERSIZE value is longer than a session\r\n";
/// The longest line that an engine sends: an error's text, or an integer.
const LINE_MAX: usize = 4096;
/// The most elements of an array; `CLUSTER SLOTS` has one for each range of slots.
const ELEMENTS_MAX: u64 = 16_384;
/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// A stream whose reading side lets no large value through.
pub(crate) struct Guard<S> {
    inner: S,
    chunk: Box<[u8]>,
    /// The bytes of `chunk` that were read and not passed on.
    start: usize,
    end: usize,
    filter: Filter,
}

impl<S> Guard<S> {
    pub(crate) fn new(inner: S) -> Self {
        let chunk = vec![0; CHUNK].into();
        Self { inner, chunk, start: 0, end: 0, filter: Filter::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = out.filled().len();
        // What is dropped must not look like the end of the stream.
        while out.filled().len() == before && out.remaining() > 0 {
            if this.filter.held.is_empty() && this.start == this.end {
                let mut buf = ReadBuf::new(&mut this.chunk);
                ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buf))?;
                (this.start, this.end) = (0, buf.filled().len());
                if this.end == 0 {
                    return Poll::Ready(Ok(()));
                }
            }
            this.start += this.filter.pass(&this.chunk[this.start..this.end], out)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Where in the engine's answers the stream is.
#[derive(Default)]
struct Filter {
    at: At,
    /// Bytes that are to be passed on before any others: a header that was judged.
    held: Vec<u8>,
    /// The line that is being read, from its first byte.
    line: Vec<u8>,
}

#[derive(Clone, Copy, Default)]
enum At {
    /// In a line, or before one.
    #[default]
    Line,
    /// In a value that is passed on, with this many bytes to go.
    Value(u64),
    /// In a value that is dropped, with this many bytes to go.
    Dropped(u64),
}

impl Filter {
    /// Passes on what fits in `out` of `bytes`, and says how many of `bytes` it used.
    fn pass(&mut self, bytes: &[u8], out: &mut ReadBuf<'_>) -> io::Result<usize> {
        let mut used = 0;
        loop {
            if !self.held.is_empty() {
                let len = self.held.len().min(out.remaining());
                out.put_slice(&self.held[..len]);
                self.held.drain(..len);
            }
            let rest = &bytes[used..];
            if rest.is_empty() || out.remaining() == 0 {
                return Ok(used);
            }
            used += match self.at {
                At::Line => self.line(rest)?,
                At::Value(left) => {
                    let len = (rest.len().min(out.remaining()) as u64).min(left);
                    out.put_slice(&rest[..len as usize]);
                    self.at = if len == left { At::Line } else { At::Value(left - len) };
                    len as usize
                }
                At::Dropped(left) => {
                    let len = (rest.len() as u64).min(left);
                    self.at = if len == left { At::Line } else { At::Dropped(left - len) };
                    len as usize
                }
            };
        }
    }

    /// Collects a line, and judges it once it is whole.
    fn line(&mut self, rest: &[u8]) -> io::Result<usize> {
        let end = rest.iter().position(|&byte| byte == b'\n');
        let len = end.map_or(rest.len(), |at| at + 1);
        if self.line.len() + len > LINE_MAX {
            return Err(broken("a line without an end"));
        }
        self.line.extend_from_slice(&rest[..len]);
        if end.is_none() {
            return Ok(len);
        }
        std::mem::swap(&mut self.held, &mut self.line);
        self.line.clear();
        match self.held.first() {
            Some(b'$') => match length(&self.held)? {
                None => {}
                Some(len) if len <= PAYLOAD_MAX as u64 => self.at = At::Value(len + 2),
                Some(len) => {
                    self.at = At::Dropped(len + 2);
                    self.held.clear();
                    self.held.extend_from_slice(ERROR);
                }
            },
            Some(b'*') if length(&self.held)?.is_some_and(|len| len > ELEMENTS_MAX) => {
                return Err(broken("an array of so many elements"));
            }
            Some(b'*' | b'+' | b'-' | b':') => {}
            _ => return Err(broken("an answer of an unknown kind")),
        }
        Ok(len)
    }
}

/// The length in a header such as `$12\r\n`; `None` for the -1 of what is not there.
fn length(header: &[u8]) -> io::Result<Option<u64>> {
    let digits = header.get(1..).and_then(|rest| rest.strip_suffix(b"\r\n")).unwrap_or_default();
    if digits == b"-1" {
        return Ok(None);
    }
    // 10 digits are far more than the 512 MB that a value can have, and add up without overflow.
    if digits.is_empty() || digits.len() > 10 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(broken("a length that is no number"));
    }
    Ok(Some(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))))
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out of `bytes` that arrive in pieces of `step` and leave in pieces of `room`.
    fn filtered(bytes: &[u8], step: usize, room: usize) -> io::Result<Vec<u8>> {
        let (mut filter, mut all) = (Filter::default(), Vec::new());
        for mut piece in bytes.chunks(step) {
            while !piece.is_empty() || !filter.held.is_empty() {
                let mut memory = vec![0; room];
                let mut out = ReadBuf::new(&mut memory);
                let used = filter.pass(piece, &mut out)?;
                all.extend_from_slice(out.filled());
                piece = &piece[used..];
            }
        }
        Ok(all)
    }

    fn everywhere(bytes: &[u8]) -> Vec<u8> {
        let whole = filtered(bytes, bytes.len(), bytes.len() + 100).expect("lawful");
        for (step, room) in [(1, 1), (1, 7), (3, 2), (7, 1000), (4096, 5)] {
            assert!(filtered(bytes, step, room).expect("lawful") == whole, "{step} and {room}");
        }
        whole
    }

    #[test]
    fn what_is_no_larger_than_a_session_passes_as_it_is() {
        let mut bytes = b"+OK\r\n:7\r\n$-1\r\n$0\r\n\r\n*2\r\n$3\r\na\r\n\r\n*-1\r\n-ERR no\r\n$4\r\n$9\r\n\r\n".to_vec();
        bytes.extend_from_slice(format!("${PAYLOAD_MAX}\r\n").as_bytes());
        bytes.extend(std::iter::repeat_n(b'$', PAYLOAD_MAX));
        bytes.extend_from_slice(b"\r\n+PONG\r\n");
        assert!(everywhere(&bytes) == bytes);
    }

    #[test]
    fn a_larger_value_becomes_an_error_and_what_follows_it_passes() {
        let mut bytes = b":1\r\n".to_vec();
        bytes.extend_from_slice(format!("${}\r\n", PAYLOAD_MAX + 1).as_bytes());
        bytes.extend(std::iter::repeat_n(b'\n', PAYLOAD_MAX + 1));
        bytes.extend_from_slice(b"\r\n:2\r\n");
        assert_eq!(everywhere(&bytes), [b":1\r\n", ERROR, b":2\r\n"].concat());
    }

    #[test]
    fn what_is_no_answer_ends_the_stream() {
        let long = [b"+".as_slice(), &[b'x'; LINE_MAX]].concat();
        let cases: [&[u8]; 8] = [
            b"$x\r\n",
            b"$\r\n",
            b"$99999999999\r\n",
            b"$1\n",
            b"*16385\r\n",
            b"HTTP/1.1 400\r\n",
            b"\r\n",
            &long,
        ];
        for bytes in cases {
            assert!(filtered(bytes, 5, 99).is_err(), "{}", bytes.escape_ascii());
        }
    }
}
