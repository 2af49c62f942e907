//! Passive decoding of a connection's bytes, one direction at a time.
//!
//! A [`Reader`] takes each piece of one direction's bytes and reports the messages in it. It stores no
//! message: it keeps the first frame's header, the lengths, and the front of the payload, up to the
//! end of the id. [`Pairs`] matches responses with their requests. Both wipe what they kept of a message
//! once it is complete or answered, and when they are dropped.

use heapless::Deque;
use zeroize::Zeroize;

use crate::id::ID_MAX;
use crate::message::{ADD_FIXED_LEN, Request, STAMP_LEN};
use crate::wire::{Direction, FRAMES_MAX, HEADER_LEN, Header, Malformed};

/// Bytes of a message's payload that are kept: a REPAIR's fixed fields, the longest id, and one byte of
/// the session.
pub const PEEK_MAX: usize = STAMP_LEN + ADD_FIXED_LEN + ID_MAX + 1;
/// Unanswered requests of a connection that are kept; one more replaces the oldest.
pub const PAIRS_MAX: usize = 64;

/// A complete message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    /// The header of its first frame.
    pub header: Header,
    /// The number of frames: 1 to 16.
    pub frames: u8,
    /// Bytes of payload, all frames together: 0 to [`PAYLOAD_MAX`](crate::wire::PAYLOAD_MAX).
    pub payload_len: usize,
    peek: heapless::Vec<u8, PEEK_MAX>,
}

impl Seen {
    /// The front of the payload: up to [`PEEK_MAX`] bytes.
    pub fn peek(&self) -> &[u8] {
        &self.peek
    }

    /// The request, with its session cut short; `None` if no server would accept it.
    pub fn request(&self) -> Option<Request<'_>> {
        Request::parse(self.header.op, &self.peek).ok()?.ok()
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.peek.as_mut_slice().zeroize();
    }
}

/// The meaning of the next bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event<'a> {
    /// Payload of the current message.
    Payload(&'a [u8]),
    /// The current message is complete.
    Message(Seen),
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum State {
    /// Between two frames, or inside a header.
    Header(heapless::Vec<u8, HEADER_LEN>),
    /// Inside a frame's data, of which this many bytes are missing.
    Data(usize),
    /// The bytes are not the protocol.
    Lost(Malformed),
}

/// A decoder of one direction of one connection.
#[derive(Clone, Debug)]
pub struct Reader {
    direction: Direction,
    state: State,
    /// The current message; `None` between two.
    message: Option<Seen>,
    /// The current frame is the last of its message.
    last: bool,
}

impl Reader {
    /// A reader of bytes in this direction.
    pub const fn new(direction: Direction) -> Self {
        Self { direction, state: State::Header(heapless::Vec::new()), message: None, last: false }
    }

    /// Reads from the front of `bytes` up to the next event, removes the bytes it has read from the
    /// slice, and returns the event; `None` once all of them are read.
    ///
    /// # Errors
    /// [`Malformed`] from the first byte on that is not the protocol. All bytes count as read then.
    pub fn read<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Event<'a>>, Malformed> {
        loop {
            match &mut self.state {
                State::Lost(malformed) => {
                    *bytes = &[];
                    return Err(*malformed);
                }
                State::Data(0) => {
                    self.state = State::Header(heapless::Vec::new());
                    if self.last
                        && let Some(message) = self.message.clone()
                    {
                        // Dropped where it is, and so wiped there.
                        self.message = None;
                        return Ok(Some(Event::Message(message)));
                    }
                }
                State::Data(left) => {
                    let (now, behind) = bytes.split_at_checked(*left).unwrap_or((bytes, &[]));
                    if now.is_empty() {
                        return Ok(None);
                    }
                    *bytes = behind;
                    *left = left.saturating_sub(now.len());
                    if let Some(message) = &mut self.message {
                        message.payload_len = message.payload_len.saturating_add(now.len());
                        message.peek.extend(now.iter().copied().take(room(&message.peek)));
                    }
                    return Ok(Some(Event::Payload(now)));
                }
                State::Header(header) => {
                    let Some((byte, behind)) = bytes.split_first() else {
                        return Ok(None);
                    };
                    *bytes = behind;
                    // A complete header is taken out at once, so there is room for a byte.
                    let _ = header.push(*byte);
                    match judge(header, self.direction, self.message.as_ref()) {
                        Ok(None) => (),
                        Ok(Some(header)) => self.begin(header),
                        Err(malformed) => self.state = State::Lost(malformed),
                    }
                }
            }
        }
    }

    /// Whether the last bytes were not the protocol.
    pub const fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost(_))
    }

    fn begin(&mut self, header: Header) {
        self.state = State::Data(header.len.into());
        self.last = header.complete;
        let message = self.message.get_or_insert(Seen {
            header,
            frames: 0,
            payload_len: 0,
            peek: heapless::Vec::new(),
        });
        message.frames = message.frames.saturating_add(1);
    }
}

/// The offset of `complete` in a header.
const COMPLETE: usize = 11;

/// Parses the first bytes of the next frame's header; `message` is the current message before it.
fn judge(
    bytes: &[u8],
    direction: Direction,
    message: Option<&Seen>,
) -> Result<Option<Header>, Malformed> {
    let Some(message) = message else {
        return Header::parse(bytes, direction);
    };
    let header = message.header.parse_next(bytes)?;
    let sixteenth = usize::from(message.frames).saturating_add(1) >= FRAMES_MAX;
    match header {
        Some(header) if sixteenth && !header.complete => Err(Malformed::TooManyFrames),
        // Each byte is checked on arrival.
        None if sixteenth && bytes.get(COMPLETE) == Some(&0) => Err(Malformed::TooManyFrames),
        header => Ok(header),
    }
}

fn room(peek: &heapless::Vec<u8, PEEK_MAX>) -> usize {
    PEEK_MAX.saturating_sub(peek.len())
}

/// A request that is not answered yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asked<T> {
    /// The request's header.
    pub header: Header,
    /// The caller's own value: its time, for example.
    pub mark: T,
    id: heapless::Vec<u8, ID_MAX>,
}

impl<T> Asked<T> {
    /// The id; empty if no server would accept the request.
    pub fn id(&self) -> &[u8] {
        &self.id
    }
}

impl<T> Drop for Asked<T> {
    fn drop(&mut self) {
        self.id.as_mut_slice().zeroize();
    }
}

/// The unanswered requests of one connection, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Pairs<T>(Deque<Asked<T>, PAIRS_MAX>);

impl<T> Pairs<T> {
    /// No requests.
    pub const fn new() -> Self {
        Self(Deque::new())
    }

    /// Adds a request. If there are [`PAIRS_MAX`] already, it replaces the oldest.
    pub fn asked(&mut self, mark: T, request: &Seen) {
        if self.0.is_full() {
            self.pop();
        }
        let id = request.request().map_or(&[][..], |request| request.id().bytes());
        // There is room for one more now, and an id always fits.
        let _ = self.0.push_back(Asked { header: request.header, mark, id: heapless::Vec::new() });
        let asked = self.0.back_mut();
        let _ = asked.map(|asked| asked.id.extend_from_slice(id));
    }

    /// Takes out the oldest request, and wipes its id where it was.
    fn pop(&mut self) -> Option<Asked<T>> {
        let oldest = self.0.front_mut()?;
        let id = oldest.id.clone();
        oldest.id.as_mut_slice().zeroize();
        let mut asked = self.0.pop_front()?;
        asked.id = id;
        Some(asked)
    }

    /// Removes and returns the request that a response answers, and drops all older ones; `None`, with
    /// nothing removed, if no request has its uid and operation.
    pub fn answered(&mut self, response: &Header) -> Option<Asked<T>> {
        let key = |header: &Header| (header.uid, header.op);
        let before = self.0.iter();
        let before = before.take_while(|asked| key(&asked.header) != key(response)).count();
        if before == self.0.len() {
            return None;
        }
        for _ in 0..before {
            self.pop();
        }
        self.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{self, Op};
    use std::vec::Vec;

    fn message(uid: u32, op: Op, payload: &[u8]) -> Vec<u8> {
        let mut out = std::vec![0; wire::wire_len(payload.len())];
        out[HEADER_LEN..][..payload.len()].copy_from_slice(payload);
        wire::frame(&mut out, &wire::Envelope::request(uid, op), payload.len()).unwrap();
        out
    }

    /// The messages, the payload and the error that a reader reports, given pieces of `piece` bytes.
    fn read(bytes: &[u8], piece: usize) -> (Vec<Seen>, Vec<u8>, Option<Malformed>) {
        let mut reader = Reader::new(Direction::Request);
        let (mut seen, mut payload) = (Vec::new(), Vec::new());
        for mut piece in bytes.chunks(piece) {
            loop {
                match reader.read(&mut piece) {
                    Ok(None) => break,
                    Ok(Some(Event::Message(message))) => seen.push(message),
                    Ok(Some(Event::Payload(bytes))) => payload.extend_from_slice(bytes),
                    Err(malformed) => return (seen, payload, Some(malformed)),
                }
            }
        }
        (seen, payload, None)
    }

    #[test]
    fn a_sixteenth_frame_that_is_not_the_last_is_malformed_at_the_byte_that_says_so() {
        let header = [0, 0x11, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 8, 0];
        let frame = [&header[..], &[7; 2048]].concat();
        let mut stream = frame.repeat(15);
        stream.extend(&header[..12]);
        let mut reader = Reader::new(Direction::Request);
        let (mut most, mut last) = stream.split_at(stream.len() - 1);
        while reader.read(&mut most).unwrap().is_some() {}
        assert_eq!(reader.read(&mut last), Err(Malformed::TooManyFrames));
    }

    #[test]
    fn each_message_is_reported_once_however_its_bytes_arrive() {
        let long: Vec<u8> = (0..5000_u32).map(|n| (n % 251) as u8).collect();
        let bytes =
            [message(1, Op::Get, b"id"), message(2, Op::Add, &long), message(3, Op::Have, b"")]
                .concat();
        for piece in [1, 2, 13, 14, 15, 2062, 2063, 10_000] {
            let (seen, payload, malformed) = read(&bytes, piece);
            let told: Vec<_> = seen
                .iter()
                .map(|seen| (seen.header.uid, seen.frames, seen.payload_len, seen.peek().len()))
                .collect();
            assert_eq!(told, [(1, 1, 2, 2), (2, 3, 5000, PEEK_MAX), (3, 1, 0, 0)]);
            assert_eq!(payload, [b"id", &long[..]].concat());
            assert_eq!(malformed, None);
        }
    }

    #[test]
    fn a_stream_that_is_not_the_protocol_is_reported_and_read_no_further() {
        let bytes = [&message(1, Op::Get, b"id")[..], b"GET / HTTP/1.1\r\n"].concat();
        for piece in [1, 7, 100] {
            let (seen, _, malformed) = read(&bytes, piece);
            assert_eq!((seen.len(), malformed), (1, Some(Malformed::Version)));
        }
        let mut frames = message(1, Op::Get, &[0; 32_768]);
        frames[15 * 2062 + 11] = 0;
        assert_eq!(read(&frames, 1).2, Some(Malformed::TooManyFrames));
    }

    #[test]
    fn a_response_finds_its_request_and_drops_the_older_ones() {
        let mut pairs = Pairs::new();
        let (seen, ..) = read(&[1, 2, 3].map(|uid| message(uid, Op::Get, b"id")).concat(), 9);
        for (at, seen) in (0..).zip(&seen) {
            pairs.asked(at, seen);
        }
        let foreign = Header { uid: 9, ..seen[0].header };
        assert_eq!(pairs.answered(&foreign), None);
        let second = pairs.answered(&seen[1].header).unwrap();
        assert_eq!((second.mark, second.id()), (1, &b"id"[..]));
        assert_eq!(pairs.answered(&seen[0].header), None);
        assert!(pairs.answered(&seen[2].header).is_some());
    }
}
