//! The lines of `dc_snoop`.
//!
//! ```text
//! 2026-01-31T12:00:00.123Z #1 > ADD uid 1 id 8f3c0a…(32) ttl 300000 ms session 200
//! 2026-01-31T12:00:00.124Z #1 < ADD uid 1 id 8f3c0a…(32) ok 0.112 ms
//! ```
//!
//! With payloads the ids are whole, and each line is followed by its message's payload.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::mem;
use std::time;

use distcache_core::id::{ID_MAX, Id};
use distcache_core::message::{ADD_FIXED_LEN, Add, Reply, Status};
use distcache_core::snoop::{Event, Pairs, Reader, Seen};
use distcache_core::wire::{Direction, Op};

use crate::clock::Clock;

/// How many bytes of an id are printed without payloads.
const ID_SHOWN: usize = 6;
/// How many bytes of a payload are printed in a line.
const DUMP_WIDTH: usize = 16;

/// Prints what goes by.
pub(super) struct Printer<'o> {
    out: &'o mut dyn Write,
    full: bool,
    ended: bool,
}

/// What is known of one direction of a connection.
pub(super) struct Watch {
    reader: Reader,
    direction: Direction,
    /// The payload of the message that is going by, where payloads are printed: at most that of a whole
    /// message.
    payload: Vec<u8>,
}

impl Watch {
    pub(super) fn new(direction: Direction) -> Self {
        Self { reader: Reader::new(direction), direction, payload: Vec::new() }
    }
}

impl<'o> Printer<'o> {
    pub(super) fn new(out: &'o mut dyn Write, full: bool) -> Self {
        Self { out, full, ended: false }
    }

    /// What happened to a connection.
    pub(super) fn note(&mut self, connection: u64, what: &str) {
        self.line(format_args!("{} #{connection} {what}", Clock::wall()));
    }

    /// The messages of one direction's next bytes, a line each.
    pub(super) fn show(
        &mut self,
        connection: u64,
        watch: &mut Watch,
        pairs: &mut Pairs<time::Instant>,
        mut bytes: &[u8],
    ) {
        let was_lost = watch.reader.is_lost();
        loop {
            match watch.reader.read(&mut bytes) {
                Ok(None) => return,
                Ok(Some(Event::Payload(payload))) => {
                    if self.full {
                        watch.payload.extend_from_slice(payload);
                    }
                }
                Ok(Some(Event::Message(message))) => {
                    match message.header.direction {
                        Direction::Request => self.request(connection, pairs, &message),
                        Direction::Response => self.response(connection, pairs, &message),
                    }
                    self.dump(connection, &mem::take(&mut watch.payload));
                }
                Err(_) if was_lost => return,
                Err(malformed) => {
                    let why = malformed.reason();
                    self.note(connection, &format!("is not the protocol: {why}"));
                    return self.unfinished(connection, watch);
                }
            }
        }
    }

    /// The payload of a message whose end does not come.
    pub(super) fn unfinished(&mut self, connection: u64, watch: &mut Watch) {
        let payload = mem::take(&mut watch.payload);
        if !payload.is_empty() {
            let to = if watch.direction == Direction::Request { '>' } else { '<' };
            self.note(connection, &format!("{to} unfinished, payload {} so far", payload.len()));
            self.dump(connection, &payload);
        }
    }

    /// Whether nobody reads the lines any more.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Nobody reads the lines any more.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Makes the lines so far be seen.
    pub(super) fn flush(&mut self) {
        let flushed = self.out.flush();
        self.heed(flushed);
    }

    fn request(&mut self, connection: u64, pairs: &mut Pairs<time::Instant>, message: &Seen) {
        let asked = Asked::of(message, self.id_shown());
        pairs.asked(time::Instant::now(), message, asked.id.and_then(Id::new));
        let (op, uid) = (message.header.op.name(), message.header.uid);
        self.line(format_args!("{} #{connection} > {op} uid {uid} {asked}", Clock::wall()));
    }

    fn response(&mut self, connection: u64, pairs: &mut Pairs<time::Instant>, message: &Seen) {
        let (op, uid) = (message.header.op.name(), message.header.uid);
        let answer = Answer(message);
        let head = format_args!("{} #{connection} < {op} uid {uid}", Clock::wall());
        match pairs.answered(&message.header) {
            Some(asked) => {
                let millis = asked.mark.elapsed().as_secs_f64() * 1000.0;
                let id = Hex { id: asked.id(), most: self.id_shown(), len: asked.id().len() };
                self.line(format_args!("{head} id {id} {answer} {millis:.3} ms"));
            }
            None => self.line(format_args!("{head} {answer} that nobody asked for")),
        }
    }

    fn dump(&mut self, connection: u64, payload: &[u8]) {
        for row in payload.chunks(DUMP_WIDTH) {
            let mut hex = String::with_capacity(3 * DUMP_WIDTH);
            row.iter().for_each(|byte| hex.push_str(&format!(" {byte:02x}")));
            let text = row.iter().map(|byte| match byte {
                b' '..=b'~' => char::from(*byte),
                _ => '.',
            });
            let text: String = text.collect();
            let blank = (DUMP_WIDTH - row.len()) * 3;
            self.line(format_args!("    #{connection} {hex}{:blank$}  {text}", ""));
        }
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        let written = writeln!(self.out, "{line}");
        self.heed(written);
    }

    /// A full disk is no reason to stop passing bytes on; a pipe whose reader has gone is.
    fn heed(&mut self, written: std::io::Result<()>) {
        self.ended |= written.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe);
    }

    /// How many bytes of an id are printed.
    fn id_shown(&self) -> usize {
        if self.full { ID_MAX } else { ID_SHOWN }
    }
}

/// What a request says beyond its header.
struct Asked<'a> {
    id: Option<&'a [u8]>,
    message: &'a Seen,
    /// How many bytes of the id are printed.
    most: usize,
}

impl<'a> Asked<'a> {
    fn of(message: &'a Seen, most: usize) -> Self {
        let peek = message.peek();
        let id = match message.header.op {
            Op::Add | Op::Put => {
                Add::parse(peek).ok().and_then(Result::ok).map(|add| add.id.bytes())
            }
            Op::Get | Op::Have | Op::Remove | Op::Take => Some(peek),
        };
        // The longest id with no byte of its session in what was kept.
        let id = id.or_else(|| peek.get(ADD_FIXED_LEN..).filter(|_| longest_id(peek)));
        Self { id, message, most }
    }
}

fn longest_id(peek: &[u8]) -> bool {
    let len = peek.get(4..ADD_FIXED_LEN).and_then(|len| len.first_chunk());
    len.is_some_and(|len| u32::from_be_bytes(*len) == 64)
}

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen { header, payload_len, .. } = self.message;
        let Some(id) = self.id else {
            return write!(f, "payload {payload_len} (corrupt)");
        };
        match (header.op, self.message.peek().first_chunk()) {
            (Op::Add | Op::Put, Some(ttl)) => {
                let session = payload_len.saturating_sub(ADD_FIXED_LEN + id.len());
                let ttl = u32::from_be_bytes(*ttl);
                let id = Hex { id, most: self.most, len: id.len() };
                write!(f, "id {id} ttl {ttl} ms session {session}")
            }
            _ => write!(f, "id {}", Hex { id, most: self.most, len: *payload_len }),
        }
    }
}

/// What a response says.
struct Answer<'a>(&'a Seen);

impl fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen { header, payload_len, .. } = self.0;
        // Only its length counts here, and whether it is a status.
        let payload = self.0.peek();
        match Reply::parse(header.op, payload) {
            Ok(Reply::Session(_)) => write!(f, "session {payload_len}"),
            Ok(Reply::Status(Status(code))) => match Status(code).name() {
                Some(name) => f.write_str(name),
                None => write!(f, "status {code}"),
            },
            Err(_) => write!(f, "payload {payload_len} (no status)"),
        }
    }
}

/// An id in hexadecimal, shortened where it has more than `most` bytes.
struct Hex<'a> {
    id: &'a [u8],
    most: usize,
    /// How many bytes the whole id has.
    len: usize,
}

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.id.iter().take(self.most) {
            write!(f, "{byte:02x}")?;
        }
        let dots = if self.len > self.most { "…" } else { "" };
        write!(f, "{dots}({})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// A sink that fails.
    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_reader_that_is_gone_is_an_end_and_a_full_disk_is_none() {
        for (kind, ended) in [(ErrorKind::BrokenPipe, true), (ErrorKind::StorageFull, false)] {
            let mut broken = Broken(kind);
            let mut printer = Printer::new(&mut broken, false);
            assert!(!printer.ended());
            printer.note(1, "opened");
            assert_eq!(printer.ended(), ended, "{kind}");
            let mut printer = Printer::new(&mut broken, false);
            printer.flush();
            assert_eq!(printer.ended(), ended, "{kind}");
        }
    }
}
