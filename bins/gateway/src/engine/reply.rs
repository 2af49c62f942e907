//! What a node answers, as it arrives.
//!
//! Answers are looked at in the buffer that they were read into. A value that is longer than any session
//! is dropped as it passes: an engine that is shared with others may hold 512 MB under one of our keys,
//! and that must not be paid for in memory, once for each request.

use std::io;

use crate::parts::PAYLOAD_MAX;

/// The longest line that an engine sends: an error's text, or an integer.
const LINE_MAX: usize = 4096;
/// The most elements of an array, all that is in it together. Nothing that is asked here has one.
const ELEMENTS_MAX: u64 = 16_384;
/// Bytes of buffer that are enough for every answer.
pub(crate) const BUFFER_LEN: usize = 64 << 10;

/// One answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Answer<'a> {
    /// A string that may be a session.
    Bulk(&'a [u8]),
    /// An error: its code, and more words.
    Error(&'a str),
    /// A number.
    Int(i64),
    /// There is nothing.
    Nil,
    /// Done.
    Okay,
    /// A string that is longer than any session.
    Oversize,
    /// Anything else.
    Other,
}

/// Finds answers in a stream of bytes.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    /// Bytes of a string that are to be dropped.
    skip: u64,
    /// Elements of an array that are still to come.
    elements: u64,
}

impl Parser {
    /// The first answer in `bytes` if it is whole, and how many bytes are done with either way.
    ///
    /// # Errors
    /// What is there is no answer.
    pub(crate) fn next<'a>(&mut self, bytes: &'a [u8]) -> io::Result<(usize, Option<Answer<'a>>)> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let answer = if self.skip > 0 {
                let len = self.skip.min(rest.len() as u64);
                self.skip -= len;
                used += len as usize;
                if self.skip > 0 {
                    return Ok((used, None));
                }
                Answer::Oversize
            } else {
                let Some(line) = line(rest)? else { return Ok((used, None)) };
                let header = line.len() + 2;
                match line.split_first() {
                    Some((b'$', digits)) => match length(digits)? {
                        None => {
                            used += header;
                            Answer::Nil
                        }
                        Some(len) if len > PAYLOAD_MAX as u64 => {
                            used += header;
                            self.skip = len + 2;
                            continue;
                        }
                        Some(len) => {
                            let end = header + len as usize;
                            let Some(whole) = rest.get(..end + 2) else {
                                return Ok((used, None));
                            };
                            used += end + 2;
                            Answer::Bulk(&whole[header..end])
                        }
                    },
                    Some((b'*', digits)) => {
                        used += header;
                        let more = length(digits)?.unwrap_or(0);
                        self.elements = self.elements.saturating_sub(1) + more;
                        if self.elements > ELEMENTS_MAX {
                            return Err(broken("an array of so many elements"));
                        }
                        if self.elements > 0 {
                            continue;
                        }
                        return Ok((used, Some(Answer::Other)));
                    }
                    Some((kind, text)) => {
                        used += header;
                        simple(*kind, text)?
                    }
                    None => return Err(broken("an empty line")),
                }
            };
            match self.elements {
                0 => return Ok((used, Some(answer))),
                1 => {
                    self.elements = 0;
                    return Ok((used, Some(Answer::Other)));
                }
                _ => self.elements -= 1,
            }
        }
    }
}

/// The line that `bytes` begin with, without its end; `None` where it is not whole.
fn line(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    let near = &bytes[..bytes.len().min(LINE_MAX)];
    match near.iter().position(|&byte| byte == b'\n') {
        Some(end) => match bytes[..end].strip_suffix(b"\r") {
            Some(line) => Ok(Some(line)),
            None => Err(broken("a line with another end")),
        },
        None if near.len() == LINE_MAX => Err(broken("a line without an end")),
        None => Ok(None),
    }
}

/// What a line of one of the kinds that are only a line says.
fn simple(kind: u8, text: &[u8]) -> io::Result<Answer<'_>> {
    let text = std::str::from_utf8(text).map_err(|_| broken("a line that is no text"));
    match kind {
        b'+' => Ok(if text? == "OK" { Answer::Okay } else { Answer::Other }),
        b'-' => text.map(Answer::Error),
        b':' => text?.parse().map(Answer::Int).map_err(|_| broken("a number that is none")),
        _ => Err(broken("an answer of an unknown kind")),
    }
}

/// A length; `None` for the -1 of what is not there.
fn length(digits: &[u8]) -> io::Result<Option<u64>> {
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

    /// All answers in bytes that arrive in pieces of `step`, written as text.
    fn answers(bytes: &[u8], step: usize) -> io::Result<Vec<String>> {
        let (mut parser, mut held, mut all) = (Parser::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            held.extend_from_slice(piece);
            loop {
                let (used, answer) = parser.next(&held)?;
                let text = answer.map(|answer| match answer {
                    Answer::Bulk(bytes) if bytes.len() > 20 => format!("{} bytes", bytes.len()),
                    Answer::Bulk(bytes) => format!("'{}'", bytes.escape_ascii()),
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
    fn answers_are_found_however_they_arrive() {
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
        // The array of two with a nested empty one, then one that is not there, then an empty one.
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
            assert_eq!(answers(&bytes, step).expect("lawful"), expected, "{step}");
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
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
            assert!(answers(bytes, 5).is_err(), "{}", bytes.escape_ascii());
        }
    }
}
