//! Replies of a node, parsed in the buffer that they arrive in.
//!
//! A value that is longer than any session is dropped while it arrives. An engine may hold 512 MB under a
//! key, and the gateway must not need that much memory for each request.

use std::io;

use distcache_core::wire::PAYLOAD_MAX;

/// The longest line, such as an error or a number.
const LINE_MAX: usize = 4096;
/// The most elements of an array, nested ones included. No command of a request has an array as its reply.
const ELEMENTS_MAX: u64 = 16_384;
/// The length of a buffer that has room for every reply.
pub(crate) const BUFFER_LEN: usize = 64 << 10;

/// One reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum RespValue<'a> {
    /// A string no longer than a payload.
    Bulk(&'a [u8]),
    /// An error: its code and more words.
    Error(&'a str),
    /// A number.
    Int(i64),
    /// No value.
    Nil,
    /// `+OK`.
    Okay,
    /// A string longer than a payload. Its bytes were dropped.
    Oversize,
    /// Anything else.
    Other,
}

/// Finds replies in a stream of bytes.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    /// The number of bytes of a string to drop.
    skip: u64,
    /// The number of elements of an array to come.
    elements: u64,
}

impl Parser {
    /// Returns the first reply in `bytes` if it is complete, and the number of bytes that are done with.
    ///
    /// # Errors
    /// The bytes are not RESP2.
    pub(crate) fn next<'a>(
        &mut self,
        bytes: &'a [u8],
    ) -> io::Result<(usize, Option<RespValue<'a>>)> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let value = if self.skip > 0 {
                let len = self.skip.min(rest.len() as u64);
                self.skip -= len;
                used += len as usize;
                if self.skip > 0 {
                    return Ok((used, None));
                }
                RespValue::Oversize
            } else {
                let Some(line) = line(rest)? else { return Ok((used, None)) };
                let header = line.len() + 2;
                match line.split_first() {
                    Some((b'$', digits)) => match length(digits)? {
                        None => {
                            used += header;
                            RespValue::Nil
                        }
                        Some(len) if len > PAYLOAD_MAX as u64 => {
                            used += header;
                            self.skip = len + 2;
                            continue;
                        }
                        Some(len) => {
                            let end = header + len as usize;
                            let Some(complete) = rest.get(..end + 2) else {
                                return Ok((used, None));
                            };
                            used += end + 2;
                            RespValue::Bulk(&complete[header..end])
                        }
                    },
                    Some((b'*', digits)) => {
                        used += header;
                        let more = length(digits)?.unwrap_or(0);
                        self.elements = self.elements.saturating_sub(1) + more;
                        if self.elements > ELEMENTS_MAX {
                            return Err(broken("too long an array"));
                        }
                        if self.elements > 0 {
                            continue;
                        }
                        return Ok((used, Some(RespValue::Other)));
                    }
                    Some((kind, text)) => {
                        used += header;
                        simple(*kind, text)?
                    }
                    None => return Err(broken("an empty line")),
                }
            };
            match self.elements {
                0 => return Ok((used, Some(value))),
                1 => {
                    self.elements = 0;
                    return Ok((used, Some(RespValue::Other)));
                }
                _ => self.elements -= 1,
            }
        }
    }
}

/// The line that `bytes` begin with, without its end; `None` if it is incomplete.
fn line(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    let near = &bytes[..bytes.len().min(LINE_MAX)];
    match near.iter().position(|&byte| byte == b'\n') {
        Some(end) => match bytes[..end].strip_suffix(b"\r") {
            Some(line) => Ok(Some(line)),
            None => Err(broken("a line without CR")),
        },
        None if near.len() == LINE_MAX => Err(broken("a line without an end")),
        None => Ok(None),
    }
}

/// The value of a kind that consists of one line.
fn simple(kind: u8, text: &[u8]) -> io::Result<RespValue<'_>> {
    let text = std::str::from_utf8(text).map_err(|_| broken("a line that is not UTF-8"));
    match kind {
        b'+' => Ok(if text? == "OK" { RespValue::Okay } else { RespValue::Other }),
        b'-' => text.map(RespValue::Error),
        b':' => text?.parse().map(RespValue::Int).map_err(|_| broken("an invalid number")),
        _ => Err(broken("a reply of an unknown kind")),
    }
}

/// A length; `None` for -1, which stands for no value.
fn length(digits: &[u8]) -> io::Result<Option<u64>> {
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

    /// All replies in bytes that arrive in pieces of `step`, as text.
    fn replies(bytes: &[u8], step: usize) -> io::Result<Vec<String>> {
        let (mut parser, mut held, mut all) = (Parser::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            held.extend_from_slice(piece);
            loop {
                let (used, value) = parser.next(&held)?;
                let text = value.map(|value| match value {
                    RespValue::Bulk(bytes) if bytes.len() > 20 => format!("{} bytes", bytes.len()),
                    RespValue::Bulk(bytes) => format!("'{}'", bytes.escape_ascii()),
                    other => format!("{other:?}"),
                });
                held.drain(..used);
                match text {
                    Some(text) => all.push(text),
                    None => break,
                }
            }
            assert!(held.len() < BUFFER_LEN);
        }
        assert!(held.is_empty());
        Ok(all)
    }

    #[test]
    fn replies_are_found_however_they_arrive() {
        let mut bytes =
            b"+OK\r\n+PONG\r\n:-7\r\n$-1\r\n$0\r\n\r\n$4\r\n\r\n$1\r\n-ERR no\r\n".to_vec();
        bytes.extend_from_slice(b"*2\r\n$3\r\na\r\n\r\n*2\r\n:1\r\n*0\r\n*-1\r\n*0\r\n");
        bytes.extend_from_slice(format!("${PAYLOAD_MAX}\r\n").as_bytes());
        bytes.extend(std::iter::repeat_n(b'$', PAYLOAD_MAX));
        bytes.extend_from_slice(format!("\r\n${}\r\n", PAYLOAD_MAX + 1).as_bytes());
        bytes.extend(std::iter::repeat_n(b'\n', PAYLOAD_MAX + 1));
        bytes.extend_from_slice(b"\r\n:2\r\n*1\r\n$40000\r\n");
        bytes.extend(std::iter::repeat_n(b'-', 40_000));
        bytes.extend_from_slice(b"\r\n:3\r\n");
        // The array of two with a nested empty one, then a missing one, then an empty one.
        let expected = [
            "Okay",
            "Other",
            "Int(-7)",
            "Nil",
            "''",
            "'\\r\\n$1'",
            "Error(\"ERR no\")",
            "Other",
            "Other",
            "Other",
            "32768 bytes",
            "Oversize",
            "Int(2)",
            "Other",
            "Int(3)",
        ];
        for step in [1, 2, 3, 7, 4096, bytes.len()] {
            assert_eq!(replies(&bytes, step).expect("valid"), expected, "{step}");
        }
    }

    #[test]
    fn bytes_that_are_not_a_reply_are_an_error() {
        let long = [b"+".as_slice(), &[b'x'; LINE_MAX]].concat();
        let cases: [&[u8]; 12] = [
            b"$x\r\n",
            b"$\r\n",
            b"$-2\r\n",
            b"$99999999999\r\n",
            b"$1\n",
            b"*16385\r\n",
            b"*16384\r\n*2\r\n",
            b":x\r\n",
            b"-\xff\r\n",
            b"HTTP/1.1 400\r\n",
            b"\r\n",
            &long,
        ];
        for bytes in cases {
            assert!(replies(bytes, 5).is_err(), "{}", bytes.escape_ascii());
        }
    }
}
