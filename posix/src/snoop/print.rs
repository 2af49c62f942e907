//! The lines of `dc_snoop`.
//!
//! ```text
//! 2026-01-31T12:00:00.123Z #1 > ADD uid 1 id 8f3c0a…(32) ttl 300000 ms session 200
//! 2026-01-31T12:00:00.124Z #1 < ADD uid 1 id 8f3c0a…(32) ok 0.112 ms
//! ```
//!
//! With payloads, ids are printed whole, and each line is followed by the payload of its message.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::mem;
use std::time::Instant;

use zeroize::Zeroizing;

use distcache_core::copy::Copy;
use distcache_core::id::ID_MAX;
use distcache_core::message::{ADD_FIXED_LEN, FETCH_FIXED_LEN, Fetched, Reply, STAMP_LEN, Status};
use distcache_core::snoop::{Event, Pairs, Reader, Seen};
use distcache_core::wire::{Direction, Op, PAYLOAD_MAX};

use super::lines::Lines;
use crate::clock::Timestamp;

/// Bytes of an id that are printed without payloads.
const ID_SHOWN: usize = 6;
/// Bytes of a payload that are printed in a line.
const DUMP_WIDTH: usize = 16;

/// Prints the messages of all connections.
pub(super) struct Printer<'o> {
    out: Lines<'o>,
    /// Whether to print payloads too.
    full: bool,
    /// The reader of the lines has gone.
    done: bool,
}

/// The messages of one direction of a connection.
pub(super) struct Decoder {
    reader: Reader,
    direction: Direction,
    /// If payloads are printed: that of the current message, as far as received.
    payload: Payload,
}

/// A payload. Its memory has room for the longest from the first byte on: growing would leave copies.
#[derive(Default)]
struct Payload(Zeroizing<Vec<u8>>);

impl Payload {
    fn extend(&mut self, bytes: &[u8]) {
        // A reader reports no more than that of a message.
        let room = PAYLOAD_MAX.saturating_sub(self.0.len());
        self.0.reserve_exact(room);
        self.0.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }
}

impl Decoder {
    pub(super) fn new(direction: Direction) -> Self {
        Self { reader: Reader::new(direction), direction, payload: Payload::default() }
    }
}

impl<'o> Printer<'o> {
    pub(super) fn new(out: &'o mut dyn Write, full: bool) -> Self {
        Self { out: Lines::new(out), full, done: false }
    }

    /// Prints what happened to a connection.
    pub(super) fn event(&mut self, connection: u64, what: &str) {
        self.line(format_args!("{} #{connection} {what}", Timestamp::now()));
    }

    /// Prints the messages that the next bytes of one direction complete, a line each.
    pub(super) fn print(
        &mut self,
        connection: u64,
        decoder: &mut Decoder,
        pairs: &mut Pairs<Instant>,
        mut bytes: &[u8],
    ) {
        let was_lost = decoder.reader.is_lost();
        loop {
            match decoder.reader.read(&mut bytes) {
                Ok(None) => return,
                Ok(Some(Event::Payload(payload))) => {
                    if self.full {
                        decoder.payload.extend(payload);
                    }
                }
                Ok(Some(Event::Message(message))) => {
                    match message.header.direction {
                        Direction::Request => self.request(connection, pairs, &message),
                        Direction::Response => self.response(connection, pairs, &message),
                    }
                    self.dump(connection, &mem::take(&mut decoder.payload).0);
                }
                Err(_) if was_lost => return,
                Err(malformed) => {
                    let why = malformed.reason();
                    self.event(connection, &format!("not a distcache message: {why}"));
                    return self.print_unfinished(connection, decoder);
                }
            }
        }
    }

    /// Prints the payload received of a message that stays incomplete.
    pub(super) fn print_unfinished(&mut self, connection: u64, decoder: &mut Decoder) {
        let payload = mem::take(&mut decoder.payload).0;
        if !payload.is_empty() {
            let to = if decoder.direction == Direction::Request { '>' } else { '<' };
            self.event(connection, &format!("{to} unfinished, payload {} so far", payload.len()));
            self.dump(connection, &payload);
        }
    }

    /// Whether the reader of the lines has gone.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Records that the reader of the lines has gone.
    pub(super) fn reader_has_gone(&mut self) {
        self.done = true;
    }

    /// Writes out the lines so far.
    pub(super) fn flush(&mut self) {
        let flushed = self.out.flush();
        self.check(flushed);
    }

    fn request(&mut self, connection: u64, pairs: &mut Pairs<Instant>, message: &Seen) {
        let asked = Asked::of(message, self.id_shown());
        pairs.asked(Instant::now(), message);
        let (op, uid) = (message.header.op.name(), message.header.uid);
        self.line(format_args!("{} #{connection} > {op} uid {uid} {asked}", Timestamp::now()));
    }

    fn response(&mut self, connection: u64, pairs: &mut Pairs<Instant>, message: &Seen) {
        let (op, uid) = (message.header.op.name(), message.header.uid);
        let answer = Answer(message);
        let head = format_args!("{} #{connection} < {op} uid {uid}", Timestamp::now());
        match pairs.answered(&message.header) {
            Some(asked) => {
                let millis = asked.mark.elapsed().as_secs_f64() * 1000.0;
                if message.header.op == Op::Copy {
                    return self.line(format_args!("{head} {answer} {millis:.3} ms"));
                }
                let id = Hex { id: asked.id(), most: self.id_shown(), len: asked.id().len() };
                self.line(format_args!("{head} id {id} {answer} {millis:.3} ms"));
            }
            None => self.line(format_args!("{head} {answer} (unexpected)")),
        }
    }

    fn dump(&mut self, connection: u64, payload: &[u8]) {
        for row in payload.chunks(DUMP_WIDTH) {
            self.line(format_args!("    #{connection} {}", Row(row)));
        }
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        let written = self.out.begin().and_then(|()| writeln!(self.out, "{line}"));
        self.check(written);
    }

    /// A broken pipe means that the reader has gone. Other errors, such as a full disk, do not stop
    /// forwarding.
    fn check(&mut self, written: std::io::Result<()>) {
        self.done |= written.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe);
    }

    /// The most bytes of an id that are printed.
    fn id_shown(&self) -> usize {
        if self.full { ID_MAX } else { ID_SHOWN }
    }
}

/// Displays a request without its header.
struct Asked<'a> {
    id: Option<&'a [u8]>,
    message: &'a Seen,
    /// The most bytes of the id that are printed.
    most: usize,
}

impl<'a> Asked<'a> {
    fn of(message: &'a Seen, most: usize) -> Self {
        // The longest id of a GET is kept whole; a longer one is printed as far as it is kept.
        let op = message.header.op;
        let kept = || Some(message.peek()).filter(|_| !op.stores() && op != Op::Repair);
        let id = message.request().map(|request| request.id().bytes()).or_else(kept);
        Self { id, message, most }
    }
}

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen { header, payload_len, .. } = self.message;
        if header.op == Op::Copy {
            return match Copy::parse(self.message.peek()) {
                Ok(Copy { cursor, most }) => write!(f, "cursor {cursor} most {most}"),
                Err(_) => write!(f, "payload {payload_len} (corrupt)"),
            };
        }
        let Some(id) = self.id else {
            return write!(f, "payload {payload_len} (corrupt)");
        };
        let stamp_len = if header.op == Op::Repair { STAMP_LEN } else { 0 };
        let add = self.message.peek().get(stamp_len..).and_then(<[u8]>::first_chunk);
        match (header.op, add) {
            (Op::Add | Op::Put | Op::Repair, Some(ttl)) => {
                let session = payload_len.saturating_sub(stamp_len + ADD_FIXED_LEN + id.len());
                let ttl = u32::from_be_bytes(*ttl);
                let id = Hex { id, most: self.most, len: id.len() };
                write!(f, "id {id} ttl {ttl} ms session {session}")
            }
            _ => write!(f, "id {}", Hex { id, most: self.most, len: *payload_len }),
        }
    }
}

/// Displays a response without its header.
struct Answer<'a>(&'a Seen);

impl fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen { header, payload_len, .. } = self.0;
        // The beginning is enough to tell a status from a session.
        let payload = self.0.peek();
        match (header.op, Fetched::parse(payload), payload) {
            (Op::Fetch, Ok(Fetched::Session { ttl, .. }), _) => {
                let session = payload_len.saturating_sub(FETCH_FIXED_LEN);
                return write!(f, "session {session} ttl {ttl} ms");
            }
            (Op::Fetch, Ok(Fetched::Missing(_)), _) => return f.write_str("not found"),
            (Op::Copy, _, [n0, n1, n2, n3, ..]) => {
                let next = u32::from_be_bytes([*n0, *n1, *n2, *n3]);
                return write!(f, "payload {payload_len} next {next}");
            }
            _ => {}
        }
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

/// Displays a row of a payload, in hexadecimal and as text. Makes no copy of it.
struct Row<'a>(&'a [u8]);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, " {byte:02x}")?;
        }
        write!(f, "{:blank$}  ", "", blank = (DUMP_WIDTH - self.0.len()) * 3)?;
        let mut shown = self.0.iter().map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '.',
        });
        shown.try_for_each(|char| fmt::Write::write_char(f, char))
    }
}

/// Displays an id in hexadecimal: at most `most` bytes of it, and its length.
struct Hex<'a> {
    id: &'a [u8],
    most: usize,
    /// The length of the whole id.
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
    fn a_broken_pipe_ends_the_printing_and_a_full_disk_does_not() {
        for (kind, done) in [(ErrorKind::BrokenPipe, true), (ErrorKind::StorageFull, false)] {
            let mut broken = Broken(kind);
            let mut printer = Printer::new(&mut broken, false);
            assert!(!printer.is_done());
            printer.event(1, "opened");
            printer.flush();
            assert_eq!(printer.is_done(), done, "{kind}");
        }
    }
}
