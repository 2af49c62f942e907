//! The header of a frame: parsed from 14 bytes and encoded to them.

use super::{Direction, FRAME_DATA_MAX, HEADER_LEN, LEVEL, Malformed, Op, VERSION};

/// The header fields that all frames of one message share.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Envelope {
    /// The sender's patch level.
    pub level: u16,
    /// The direction of the message.
    pub direction: Direction,
    /// The number by which the requester recognizes the response.
    pub uid: u32,
    /// The requested operation.
    pub op: Op,
}

impl Envelope {
    /// The envelope of a request of our own, at [`LEVEL`].
    pub const fn request(uid: u32, op: Op) -> Self {
        Self { level: LEVEL, direction: Direction::Request, uid, op }
    }

    /// The envelope of the response to `request`, from a sender at patch level `level`.
    #[inline]
    pub const fn answer(request: &Header, level: u16) -> Self {
        let level = if level < request.patch { level } else { request.patch };
        Self { level, direction: Direction::Response, uid: request.uid, op: request.op }
    }

    /// The header of a last, or only, frame with `len` bytes of data.
    #[inline]
    pub(super) const fn header(&self, len: u16) -> Header {
        let Self { level, direction, uid, op } = *self;
        Header { patch: level, direction, uid, op, complete: true, len }
    }
}

/// The header of one frame, checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// The sender's patch level; any value is valid.
    pub patch: u16,
    /// The direction of the frame.
    pub direction: Direction,
    /// The requester's number, repeated in the response.
    pub uid: u32,
    /// The requested operation.
    pub op: Op,
    /// Whether this is the last frame of its message.
    pub complete: bool,
    /// Bytes of data that follow: 0 to 2048, exactly 2048 where `complete` is false.
    pub len: u16,
}

impl Header {
    /// Parses the header at the front of `bytes`, from a peer that may only send `direction`; `None`
    /// if fewer than 14 bytes are there, and all of those are valid.
    ///
    /// # Errors
    /// [`Malformed`] as soon as one received byte is invalid.
    #[inline(always)] // Otherwise its fields are passed through memory byte by byte.
    pub fn parse(bytes: &[u8], direction: Direction) -> Result<Option<Self>, Malformed> {
        match bytes.first_chunk() {
            Some(whole) => Self::judge(whole, direction).map(Some),
            None => Self::judge_part(bytes, direction).map(|()| None),
        }
    }

    /// Checks the first bytes of an incomplete header.
    #[cold]
    fn judge_part(bytes: &[u8], direction: Direction) -> Result<(), Malformed> {
        // The missing bytes are filled in with values that are valid whatever the others are.
        let lenient = Envelope { direction, ..Envelope::request(0, Op::Add) }.header(0).encode();
        Self::judge(&completed(bytes, lenient), direction).map(drop)
    }

    /// Parses the header of a later frame of the message that begins with `self`.
    pub(crate) fn parse_next(&self, bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let (whole, all) = match bytes.first_chunk() {
            Some(whole) => (*whole, true),
            None => {
                // The missing bytes of the level may still make one that has the operation.
                let lenient = Self { patch: u16::MAX, len: 0, complete: true, ..*self }.encode();
                (completed(bytes, lenient), false)
            }
        };
        let next = Self::judge(&whole, self.direction)?;
        if (next.uid, next.op) != (self.uid, self.op) {
            return Err(Malformed::MixedFrames);
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

    /// Encodes the header.
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

/// Completes `bytes`, the beginning of a header, with the bytes of `lenient`.
fn completed(bytes: &[u8], lenient: [u8; HEADER_LEN]) -> [u8; HEADER_LEN] {
    let mut whole = lenient;
    for (to, from) in whole.iter_mut().zip(bytes) {
        *to = *from;
    }
    // A frame that is not the last must be full: 2048 is 0x0800.
    if let ([.., 0, high, _], ..=12) = (&mut whole, bytes.len()) {
        *high = 8;
    }
    whole
}
