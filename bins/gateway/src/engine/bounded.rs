//! A stream of replies whose large values are dropped.
//!
//! The parser of the `redis` crate collects a complete value, of up to 512 MB, before it returns it. A
//! hostile engine could make the gateway hold that much. Here a large value is replaced by an error while
//! it arrives:
//!
//! ```text
//!  engine ──► $5\r\nhello\r\n        ──► $5\r\nhello\r\n
//!         ──► $500000\r\n(500000)\r\n ──► -OVERSIZE ...\r\n
//! ```

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use distcache_core::wire::PAYLOAD_MAX;

const ERROR: &[u8] = b"-OVERSIZE value is longer than a session\r\n";
/// The longest line, such as an error or a number.
const LINE_MAX: usize = 4096;
/// The most elements of an array; `CLUSTER SLOTS` has one for each range of slots.
const ELEMENTS_MAX: u64 = 16_384;
/// The most bytes read at a time.
const CHUNK: usize = 64 << 10;

/// A stream whose input contains no large values.
pub(crate) struct BoundedStream<S> {
    inner: S,
    chunk: Box<[u8]>,
    /// The bytes of `chunk` that were read and not passed on begin here.
    start: usize,
    end: usize,
    filter: Filter,
}

impl<S> BoundedStream<S> {
    pub(crate) fn new(inner: S) -> Self {
        let chunk = vec![0; CHUNK].into();
        Self { inner, chunk, start: 0, end: 0, filter: Filter::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BoundedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = out.filled().len();
        // A read of 0 bytes would mean the end of the stream.
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

impl<S: AsyncWrite + Unpin> AsyncWrite for BoundedStream<S> {
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

/// The position in the stream of replies.
#[derive(Default)]
struct Filter {
    at: At,
    /// Bytes to pass on before any others: a checked line.
    held: Vec<u8>,
    /// The incomplete line.
    line: Vec<u8>,
}

#[derive(Clone, Copy, Default)]
enum At {
    /// In a line, or before one.
    #[default]
    Line,
    /// In a value that is passed on, with this many bytes left.
    Value(u64),
    /// In a value that is dropped, with this many bytes left.
    Dropped(u64),
}

impl Filter {
    /// Passes on as many of `bytes` as fit in `out`, and returns how many it used.
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

    /// Collects a line, and checks it once it is complete.
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
                return Err(broken("too long an array"));
            }
            Some(b'*' | b'+' | b'-' | b':') => {}
            _ => return Err(broken("a reply of an unknown kind")),
        }
        Ok(len)
    }
}

/// The length in a line such as `$12\r\n`; `None` for -1, which stands for no value.
fn length(header: &[u8]) -> io::Result<Option<u64>> {
    let digits = header.get(1..).and_then(|rest| rest.strip_suffix(b"\r\n")).unwrap_or_default();
    if digits == b"-1" {
        return Ok(None);
    }
    // 10 digits are far more than the 512 MB of the longest value, and cannot overflow.
    if digits.is_empty() || digits.len() > 10 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(broken("an invalid length"));
    }
    Ok(Some(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))))
}

fn broken(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes `bytes` in pieces of `step` to reads of `room` bytes.
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
        let whole = filtered(bytes, bytes.len(), bytes.len() + 100).expect("valid");
        for (step, room) in [(1, 1), (1, 7), (3, 2), (7, 1000), (4096, 5)] {
            assert!(filtered(bytes, step, room).expect("valid") == whole, "{step} and {room}");
        }
        whole
    }

    #[test]
    fn values_no_larger_than_a_session_pass_unchanged() {
        let mut bytes = b"+OK\r\n:7\r\n$-1\r\n$0\r\n\r\n*2\r\n$3\r\na\r\n\r\n*-1\r\n-ERR no\r\n$4\r\n$9\r\n\r\n".to_vec();
        bytes.extend_from_slice(format!("${PAYLOAD_MAX}\r\n").as_bytes());
        bytes.extend(std::iter::repeat_n(b'$', PAYLOAD_MAX));
        bytes.extend_from_slice(b"\r\n+PONG\r\n");
        assert!(everywhere(&bytes) == bytes);
    }

    #[test]
    fn a_larger_value_becomes_an_error_and_later_ones_pass() {
        let mut bytes = b":1\r\n".to_vec();
        bytes.extend_from_slice(format!("${}\r\n", PAYLOAD_MAX + 1).as_bytes());
        bytes.extend(std::iter::repeat_n(b'\n', PAYLOAD_MAX + 1));
        bytes.extend_from_slice(b"\r\n:2\r\n");
        assert_eq!(everywhere(&bytes), [b":1\r\n", ERROR, b":2\r\n"].concat());
    }

    #[test]
    fn bytes_that_are_not_a_reply_end_the_stream() {
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
