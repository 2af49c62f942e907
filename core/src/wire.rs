//! Frames and messages on the wire.
//!
//! All integers are big-endian. A frame is a header of 14 bytes and up to 2048 bytes of data; a
//! message is 1 to 16 frames that agree in uid, operation and direction, of which all but the last
//! are full:
//!
//! ```text
//!  0       2       4   5               9   10  11  12      14
//! +-------+-------+---+---------------+---+---+---+-------+----------------+
//! |version| patch |dir|      uid      |cls|op |end|  len  | len bytes      |
//! +-------+-------+---+---------------+---+---+---+-------+----------------+
//!   0x0011   any   0/1       any        0  0-5 0/1 0-2048   (2048 if end=0)
//! ```
//!
//! The patch level is what its sender can do. A server answers at the lower of its own and the
//! request's, so that who asks at level 0 gets what it always got. Operations 4 and 5 exist from
//! level 1 on.
//!
//! Each byte of a header is judged as soon as it is there: what can no longer become a lawful
//! message is [`Malformed`] at once, and what still can is waited for.

/// The protocol version: the high half of a header's first field.
pub const VERSION: u16 = 0x0011;
/// Our patch level: the low half of the first field of all that we send of ourselves.
pub const LEVEL: u16 = 1;
/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 14;
/// The most data that one frame carries, and exactly what every frame but a message's last carries.
pub const FRAME_DATA_MAX: usize = 2048;
/// The most frames that one message has.
pub const FRAMES_MAX: usize = 16;
/// The most payload that one message carries.
pub const PAYLOAD_MAX: usize = FRAMES_MAX * FRAME_DATA_MAX;
/// The most bytes that one message takes on the wire.
pub const MESSAGE_MAX: usize = FRAMES_MAX * FRAME_MAX;

/// Where a header says whether its frame is the last one.
const COMPLETE_AT: usize = 11;
const FRAME_MAX: usize = HEADER_LEN + FRAME_DATA_MAX;

/// Which way a message goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Direction {
    /// From a client to a server.
    Request = 0,
    /// From a server to a client.
    Response = 1,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Op {
    /// Store a session under an id that is not taken.
    Add = 0,
    /// Fetch a session.
    Get = 1,
    /// Forget a session.
    Remove = 2,
    /// Ask whether a session is there.
    Have = 3,
    /// Store a session in place of what is there. From patch level 1 on.
    Put = 4,
    /// Fetch a session and forget it. From patch level 1 on.
    Take = 5,
}

impl Op {
    /// All operations, in the order of their codes.
    pub const ALL: [Self; 6] =
        [Self::Add, Self::Get, Self::Remove, Self::Have, Self::Put, Self::Take];

    /// The operation of this code, where there is one at this patch level.
    const fn from_code(code: u8, level: u16) -> Option<Self> {
        match (code, level) {
            (0, _) => Some(Self::Add),
            (1, _) => Some(Self::Get),
            (2, _) => Some(Self::Remove),
            (3, _) => Some(Self::Have),
            (4, 1..) => Some(Self::Put),
            (5, 1..) => Some(Self::Take),
            _ => None,
        }
    }

    /// The least patch level at which there is this operation.
    pub const fn level(self) -> u16 {
        match self {
            Self::Add | Self::Get | Self::Remove | Self::Have => 0,
            Self::Put | Self::Take => 1,
        }
    }

    /// Whether a request carries a session: [`crate::message::Add`] is its payload.
    pub const fn stores(self) -> bool {
        matches!(self, Self::Add | Self::Put)
    }

    /// The operation's name in capitals, as the protocol's documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Get => "GET",
            Self::Remove => "REMOVE",
            Self::Have => "HAVE",
            Self::Put => "PUT",
            Self::Take => "TAKE",
        }
    }
}

/// What the peer sent is not, and cannot become, a lawful message: its connection is to be closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// The frames of one message disagree in uid or operation.
    Fragments,
    /// The message has more than [`FRAMES_MAX`] frames.
    Frames,
    /// `op_class` is not 0.
    Class,
    /// `complete` is neither 0 nor 1.
    Complete,
    /// `is_response` is not what this direction carries.
    Direction,
    /// `data_len` is over 2048, or not 2048 in a frame that is not the last.
    Length,
    /// `operation` is none that there is at the frame's patch level.
    Operation,
    /// An ADD or PUT is too short for its fixed fields, or a response answers another operation than asked.
    Payload,
    /// The protocol version is not ours.
    Version,
}

impl Malformed {
    /// Why, in a few words for a log line.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Fragments => "frames of one message disagree",
            Self::Frames => "a message of more than 16 frames",
            Self::Class => "unknown operation class",
            Self::Complete => "unlawful completion flag",
            Self::Direction => "wrong direction",
            Self::Length => "unlawful data length",
            Self::Operation => "unknown operation",
            Self::Payload => "payload does not fit the operation",
            Self::Version => "foreign protocol version",
        }
    }
}

/// What all frames of one message agree in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Envelope {
    /// The sender's patch level.
    pub level: u16,
    /// Which way the message goes.
    pub direction: Direction,
    /// The requester's mark.
    pub uid: u32,
    /// What is asked for.
    pub op: Op,
}

impl Envelope {
    /// That of a request of ours.
    pub const fn request(uid: u32, op: Op) -> Self {
        Self { level: LEVEL, direction: Direction::Request, uid, op }
    }

    /// That of the answer to a request, from who is at patch level `level`.
    #[inline]
    pub const fn answer(request: &Header, level: u16) -> Self {
        let level = if level < request.patch { level } else { request.patch };
        Self { level, direction: Direction::Response, uid: request.uid, op: request.op }
    }

    /// The header of a last, or only, frame with `len` bytes of data.
    #[inline]
    const fn header(&self, len: u16) -> Header {
        let Self { level, direction, uid, op } = *self;
        Header { patch: level, direction, uid, op, complete: true, len }
    }
}

/// The header of one frame, checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// The sender's patch level; any value is lawful.
    pub patch: u16,
    /// Which way the frame goes.
    pub direction: Direction,
    /// The requester's mark, echoed in the response.
    pub uid: u32,
    /// What is asked for.
    pub op: Op,
    /// Whether this is the last frame of its message.
    pub complete: bool,
    /// Bytes of data that follow: 0 to 2048, exactly 2048 where `complete` is false.
    pub len: u16,
}

impl Header {
    /// Reads the header that `bytes` begin with, from a peer that may only send `direction`.
    ///
    /// `None` where fewer than 14 bytes are there and those are lawful.
    ///
    /// # Errors
    /// [`Malformed`] as soon as one byte that is there is unlawful.
    #[inline(always)] // Else its fields go through memory, byte by byte, and are waited for there.
    pub fn parse(bytes: &[u8], direction: Direction) -> Result<Option<Self>, Malformed> {
        match bytes.first_chunk() {
            Some(whole) => Self::judge(whole, direction).map(Some),
            None => Self::judge_part(bytes, direction).map(|()| None),
        }
    }

    /// Judges what is there of a header.
    #[cold]
    fn judge_part(bytes: &[u8], direction: Direction) -> Result<(), Malformed> {
        // Any uid, and ADD as the operation: lawful whatever the other bytes say.
        let lenient = Envelope { direction, ..Envelope::request(0, Op::Add) }.header(0).encode();
        Self::judge(&completed(bytes, lenient), direction).map(drop)
    }

    /// Reads the header of a message's second or later frame, of which `self` is the first.
    pub(crate) fn parse_next(&self, bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let (whole, all) = match bytes.first_chunk() {
            Some(whole) => (*whole, true),
            None => {
                // Any level that is not there yet may still be one that has the operation.
                let lenient = Self { patch: u16::MAX, len: 0, complete: true, ..*self }.encode();
                (completed(bytes, lenient), false)
            }
        };
        let next = Self::judge(&whole, self.direction)?;
        if (next.uid, next.op) != (self.uid, self.op) {
            return Err(Malformed::Fragments);
        }
        Ok(all.then_some(next))
    }

    #[inline(always)]
    fn judge(bytes: &[u8; HEADER_LEN], direction: Direction) -> Result<Self, Malformed> {
        let [v0, v1, p0, p1, response, u0, u1, u2, u3, class, op, complete, l0, l1] = *bytes;
        if u16::from_be_bytes([v0, v1]) != VERSION {
            return Err(Malformed::Version);
        }
        if response != direction as u8 {
            return Err(Malformed::Direction);
        }
        if class != 0 {
            return Err(Malformed::Class);
        }
        let patch = u16::from_be_bytes([p0, p1]);
        let op = Op::from_code(op, patch).ok_or(Malformed::Operation)?;
        if complete > 1 {
            return Err(Malformed::Complete);
        }
        let (complete, len) = (complete == 1, u16::from_be_bytes([l0, l1]));
        let full = usize::from(len) == FRAME_DATA_MAX;
        if usize::from(len) > FRAME_DATA_MAX || (!complete && !full) {
            return Err(Malformed::Length);
        }
        Ok(Self { patch, direction, uid: u32::from_be_bytes([u0, u1, u2, u3]), op, complete, len })
    }

    /// The header as its 14 bytes.
    #[inline]
    pub const fn encode(&self) -> [u8; HEADER_LEN] {
        let [v0, v1] = VERSION.to_be_bytes();
        let [p0, p1] = self.patch.to_be_bytes();
        let [u0, u1, u2, u3] = self.uid.to_be_bytes();
        let [l0, l1] = self.len.to_be_bytes();
        let (op, complete) = (self.op as u8, self.complete as u8);
        [v0, v1, p0, p1, self.direction as u8, u0, u1, u2, u3, 0, op, complete, l0, l1]
    }
}

/// The header that `bytes` are the beginning of, if all that is still missing turns out lawful.
fn completed(bytes: &[u8], lenient: [u8; HEADER_LEN]) -> [u8; HEADER_LEN] {
    let mut whole = lenient;
    for (to, from) in whole.iter_mut().zip(bytes) {
        *to = *from;
    }
    // A frame that is not the last must be full: 2048, of which the low byte is 0 either way.
    if let ([.., 0, high, _], ..=12) = (&mut whole, bytes.len()) {
        *high = 8;
    }
    whole
}

/// One whole message at the front of a run of bytes: where it ends and what it carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Message {
    /// The header of the first frame.
    pub header: Header,
    /// Bytes that the message takes on the wire: 14 to [`MESSAGE_MAX`].
    pub wire_len: usize,
    /// Bytes of payload, all frames together: 0 to [`PAYLOAD_MAX`].
    pub payload_len: usize,
}

impl Message {
    /// Measures the message that `bytes` begin with; `None` where it is lawful so far, but not whole.
    ///
    /// Looks at no more than 16 headers, however often it is called for a message that grows.
    ///
    /// # Errors
    /// [`Malformed`] as soon as one byte that is there is unlawful.
    #[inline(always)] // As Header::parse.
    pub fn measure(bytes: &[u8], direction: Direction) -> Result<Option<Self>, Malformed> {
        let Some(header) = Header::parse(bytes, direction)? else {
            return Ok(None);
        };
        if !header.complete {
            return Self::measure_frames(bytes, header);
        }
        let payload_len = usize::from(header.len);
        let wire_len = HEADER_LEN.saturating_add(payload_len);
        Ok((bytes.len() >= wire_len).then_some(Self { header, wire_len, payload_len }))
    }

    fn measure_frames(bytes: &[u8], first: Header) -> Result<Option<Self>, Malformed> {
        let mut rest = bytes;
        let (mut wire_len, mut payload_len) = (0_usize, 0_usize);
        for number in 1..=FRAMES_MAX {
            if number == FRAMES_MAX && rest.get(COMPLETE_AT) == Some(&0) {
                return Err(Malformed::Frames);
            }
            let Some(header) = first.parse_next(rest)? else {
                return Ok(None);
            };
            let len = usize::from(header.len);
            let Some((_, behind)) = rest.split_at_checked(HEADER_LEN.saturating_add(len)) else {
                return Ok(None);
            };
            rest = behind;
            payload_len = payload_len.saturating_add(len);
            wire_len = wire_len.saturating_add(HEADER_LEN.saturating_add(len));
            if header.complete {
                let message = Self { header: first, wire_len, payload_len };
                return Ok(Some(message));
            }
        }
        Err(Malformed::Frames)
    }

    /// The payload as one run of bytes, where `wire` is the whole message as it was measured.
    ///
    /// Closes the gaps that the inner headers make by moving data over them: `wire` is not a
    /// message any more afterwards, unless it was a single frame.
    #[inline]
    pub fn payload<'a>(&self, wire: &'a mut [u8]) -> &'a mut [u8] {
        if !self.header.complete {
            let (mut from, mut to) = (FRAME_MAX, FRAME_MAX);
            while from < self.wire_len {
                from = from.saturating_add(HEADER_LEN);
                let len = self.wire_len.saturating_sub(from).min(FRAME_DATA_MAX);
                shift(wire, from, to, len);
                from = from.saturating_add(len);
                to = to.saturating_add(len);
            }
        }
        let end = HEADER_LEN.saturating_add(self.payload_len);
        wire.get_mut(HEADER_LEN..end).unwrap_or_default()
    }

    /// Copies the whole message `wire` to the front of `out` in another envelope, and says how long it
    /// is; `None` where `out` has no room for it.
    pub fn relabel(&self, wire: &[u8], envelope: &Envelope, out: &mut [u8]) -> Option<usize> {
        let wire = wire.get(..self.wire_len)?;
        let out = out.get_mut(..self.wire_len)?;
        out.copy_from_slice(wire);
        for frame in out.chunks_mut(FRAME_MAX) {
            let [_, _, p0, p1, to, u0, u1, u2, u3, _, op, ..] =
                frame.first_chunk_mut::<HEADER_LEN>()?;
            [*p0, *p1] = envelope.level.to_be_bytes();
            [*u0, *u1, *u2, *u3] = envelope.uid.to_be_bytes();
            (*to, *op) = (envelope.direction as u8, envelope.op as u8);
        }
        Some(self.wire_len)
    }
}

/// Bytes on the wire of a message with `payload_len` bytes of payload.
pub const fn wire_len(payload_len: usize) -> usize {
    let frames = payload_len.div_ceil(FRAME_DATA_MAX);
    let frames = if frames == 0 { 1 } else { frames };
    payload_len.saturating_add(frames.saturating_mul(HEADER_LEN))
}

/// Makes a message of the payload that lies at `out[14..14 + payload_len]`, in place, and says how
/// long it is; `None`, and nothing changed, where `out` is too short or the payload too long.
#[inline]
pub fn frame(out: &mut [u8], envelope: &Envelope, payload_len: usize) -> Option<usize> {
    let total = wire_len(payload_len);
    if payload_len > PAYLOAD_MAX || out.len() < total {
        return None;
    }
    if let (Some(header), ..=FRAME_DATA_MAX) = (out.first_chunk_mut(), payload_len) {
        *header = envelope.header(u16::try_from(payload_len).ok()?).encode();
        return Some(total);
    }
    // From the last frame to the first, so that no data is overwritten before it has moved.
    let frames = payload_len.div_ceil(FRAME_DATA_MAX);
    for number in (0..frames).rev() {
        let at = number.saturating_mul(FRAME_DATA_MAX);
        let len = payload_len.saturating_sub(at).min(FRAME_DATA_MAX);
        let start = number.saturating_mul(FRAME_MAX);
        let from = HEADER_LEN.saturating_add(at);
        shift(out, from, start.saturating_add(HEADER_LEN), len);
        let header = Header {
            complete: number.saturating_add(1) == frames,
            ..envelope.header(u16::try_from(len).ok()?)
        };
        *out.get_mut(start..)?.first_chunk_mut()? = header.encode();
    }
    Some(total)
}

/// Moves `len` bytes within `bytes`; does nothing where either end lies outside.
fn shift(bytes: &mut [u8], from: usize, to: usize, len: usize) {
    let end = from.max(to).saturating_add(len);
    if from != to && end <= bytes.len() {
        bytes.copy_within(from..from.saturating_add(len), to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const GET: [u8; 16] = [0, 0x11, 0, 5, 0, 0xde, 0xad, 0xbe, 0xef, 0, 1, 1, 0, 2, b'i', b'd'];

    #[test]
    fn a_header_is_the_bytes_that_the_protocol_says() {
        let header = Header::parse(&GET, Direction::Request).unwrap().unwrap();
        let read = Header {
            patch: 5,
            direction: Direction::Request,
            uid: 0xdead_beef,
            op: Op::Get,
            complete: true,
            len: 2,
        };
        assert_eq!(header, read);
        assert_eq!(header.encode(), GET[..14]);
    }

    #[test]
    fn each_unlawful_byte_is_named() {
        let cases = [
            (0, 1, Malformed::Version),
            (1, 0x12, Malformed::Version),
            (4, 1, Malformed::Direction),
            (9, 1, Malformed::Class),
            (10, 6, Malformed::Operation),
            (11, 2, Malformed::Complete),
            (11, 0, Malformed::Length),
            (12, 9, Malformed::Length),
        ];
        for (at, value, malformed) in cases {
            let mut bytes = GET;
            bytes[at] = value;
            assert_eq!(Message::measure(&bytes, Direction::Request), Err(malformed), "byte {at}");
        }
    }

    #[test]
    fn the_new_operations_are_there_from_level_1_on() {
        for op in [Op::Put, Op::Take] {
            let mut bytes = Envelope::request(1, op).header(0).encode();
            let judged = Header::parse(&bytes, Direction::Request).unwrap().unwrap();
            assert_eq!((judged.op, judged.patch), (op, LEVEL));
            bytes[3] = 0;
            let judged = Header::parse(&bytes[..11], Direction::Request);
            assert_eq!(judged, Err(Malformed::Operation));
        }
    }

    #[test]
    fn an_answer_is_at_the_lower_of_both_levels() {
        for (asked, ours, level) in [(0, 1, 0), (1, 1, 1), (5, 1, 1), (5, 0, 0)] {
            let request = Header { patch: asked, ..Envelope::request(1, Op::Get).header(0) };
            assert_eq!(Envelope::answer(&request, ours).level, level);
        }
    }

    #[test]
    fn every_beginning_of_a_lawful_header_waits() {
        for len in 0..GET.len() {
            assert_eq!(Message::measure(&GET[..len], Direction::Request), Ok(None), "{len} bytes");
        }
        let full = Header { complete: false, ..response(1, Op::Get).header(2048) };
        for len in 0..HEADER_LEN {
            let measured = Message::measure(&full.encode()[..len], Direction::Response);
            assert_eq!(measured, Ok(None), "{len} bytes");
        }
    }

    fn response(uid: u32, op: Op) -> Envelope {
        Envelope { direction: Direction::Response, ..Envelope::request(uid, op) }
    }

    #[test]
    fn a_payload_of_any_length_comes_out_as_it_went_in() {
        let ends = [0, 1, 2047, 2048, 2049, 4096, 4097, 4100, PAYLOAD_MAX - 1, PAYLOAD_MAX];
        for len in ends {
            let payload: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let mut wire = [0; MESSAGE_MAX];
            wire[HEADER_LEN..][..len].copy_from_slice(&payload);
            let written = frame(&mut wire, &response(9, Op::Get), len).unwrap();
            assert_eq!(written, wire_len(len));
            let short = Message::measure(&wire[..written - 1], Direction::Response);
            assert_eq!(short, Ok(None), "{len} bytes");
            let message = Message::measure(&wire, Direction::Response).unwrap().unwrap();
            assert_eq!((message.wire_len, message.payload_len), (written, len));
            assert!(message.payload(&mut wire[..written]) == payload, "{len} bytes");
        }
    }

    #[test]
    fn what_does_not_fit_is_not_framed() {
        let mut wire = [7; MESSAGE_MAX + 20];
        let mut framed =
            |room: usize, len| frame(&mut wire[..room], &Envelope::request(1, Op::Get), len);
        assert_eq!(framed(13, 0), None);
        assert_eq!(framed(2075, 2048 - 1 + 15), None);
        assert_eq!(framed(MESSAGE_MAX + 20, PAYLOAD_MAX + 1), None);
        assert_eq!(wire, [7; MESSAGE_MAX + 20]);
    }

    #[test]
    fn a_17th_frame_is_one_too_many_and_a_16th_must_be_the_last() {
        let header = Envelope::request(3, Op::Get).header(2048);
        let mut full = [0; FRAME_MAX];
        full[..HEADER_LEN].copy_from_slice(&Header { complete: false, ..header }.encode());
        let bytes = full.repeat(FRAMES_MAX);
        let measure = |len: usize| Message::measure(&bytes[..len], Direction::Request);
        assert_eq!(measure(15 * FRAME_MAX + COMPLETE_AT), Ok(None));
        assert_eq!(measure(15 * FRAME_MAX + COMPLETE_AT + 1), Err(Malformed::Frames));
    }

    #[test]
    fn half_a_level_of_a_later_frame_is_waited_for() {
        let mut wire = [5; MESSAGE_MAX];
        let envelope = Envelope { level: 0x0100, ..Envelope::request(9, Op::Put) };
        let len = frame(&mut wire, &envelope, 3000).unwrap();
        let measure = |wire: &[u8]| Message::measure(wire, Direction::Request);
        wire[FRAME_MAX + 2..][..2].copy_from_slice(&[0, 1]);
        assert_eq!(measure(&wire[..FRAME_MAX + 3]), Ok(None));
        assert_eq!(measure(&wire[..len]).unwrap().unwrap().wire_len, len);
        wire[FRAME_MAX + 3] = 0;
        assert_eq!(measure(&wire[..FRAME_MAX + 4]), Err(Malformed::Operation));
    }

    #[test]
    fn relabeling_changes_the_envelope_of_every_frame() {
        let mut wire = [5; MESSAGE_MAX];
        let len = frame(&mut wire, &response(9, Op::Get), 5000).unwrap();
        wire[3] = 7;
        let message = Message::measure(&wire, Direction::Response).unwrap().unwrap();
        let mut out = [0; MESSAGE_MAX];
        let other = Envelope { level: 3, ..Envelope::request(77, Op::Take) };
        assert_eq!(message.relabel(&wire, &other, &mut out), Some(len));
        let relabeled = Message::measure(&out, Direction::Request).unwrap().unwrap();
        let Header { uid, patch, op, .. } = relabeled.header;
        assert_eq!((uid, patch, op), (77, 3, Op::Take));
        assert_eq!((relabeled.wire_len, relabeled.payload_len), (len, 5000));
        assert_eq!(message.relabel(&wire, &other, &mut out[..len - 1]), None);
    }
}
