//! The header of a frame: its 14 bytes, and what they say.

use super::{Direction, FRAME_DATA_MAX, HEADER_LEN, LEVEL, Malformed, Op, VERSION};

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
    pub(super) const fn header(&self, len: u16) -> Header {
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
