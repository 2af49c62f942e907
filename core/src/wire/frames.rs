//! Messages and their frames: measured, joined, split and relabeled in place.

use super::{
    COMPLETE_AT, Direction, Envelope, FRAME_DATA_MAX, FRAME_MAX, FRAMES_MAX, HEADER_LEN, Header,
    Malformed, PAYLOAD_MAX,
};

/// The measure of one whole message: its header and its lengths. The bytes stay where they are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Message {
    /// The header of the first frame.
    pub header: Header,
    /// Bytes on the wire: 14 to [`MESSAGE_MAX`](super::MESSAGE_MAX).
    pub wire_len: usize,
    /// Bytes of payload, all frames together: 0 to [`PAYLOAD_MAX`].
    pub payload_len: usize,
}

impl Message {
    /// Measures the message at the front of `bytes`; `None` if it is incomplete, but valid so far.
    ///
    /// Each call reads 16 headers at most.
    ///
    /// # Errors
    /// [`Malformed`] as soon as one received byte is invalid.
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
                return Err(Malformed::TooManyFrames);
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
        Err(Malformed::TooManyFrames)
    }

    /// Returns the payload as one slice; `wire` begins with the message as it was measured.
    ///
    /// Moves the data of later frames over their headers, so `wire` no longer holds a message
    /// afterwards, unless it was a single frame.
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

    /// Returns the data of the first frame: the front of the payload, 0 to 2048 bytes. `wire` begins
    /// with the message as it was measured.
    #[inline]
    pub fn first_frame<'a>(&self, wire: &'a [u8]) -> &'a [u8] {
        let end = HEADER_LEN.saturating_add(usize::from(self.header.len));
        wire.get(HEADER_LEN..end).unwrap_or_default()
    }

    /// Copies the payload of the message at the front of `wire`: as much as fits to `front`, and the rest to
    /// `back`; `None` if the two together are not as long as the payload, or `front` is longer than the
    /// data of the first frame.
    pub fn copy_payload(&self, wire: &[u8], front: &mut [u8], back: &mut [u8]) -> Option<()> {
        if front.len().checked_add(back.len()) != Some(self.payload_len) {
            return None;
        }
        let (first, mut data) = self.first_frame(wire).split_at_checked(front.len())?;
        front.copy_from_slice(first);
        let mut frames = wire.get(..self.wire_len)?.chunks(FRAME_MAX).skip(1);
        let mut back = back;
        loop {
            let (room, behind) = back.split_at_mut_checked(data.len())?;
            room.copy_from_slice(data);
            back = behind;
            let Some(frame) = frames.next() else {
                return Some(());
            };
            data = frame.get(HEADER_LEN..)?;
        }
    }

    /// Copies the message at the front of `wire` to the front of `out` in another envelope, and returns
    /// its length; `None` if it does not fit.
    pub fn relabel(&self, wire: &[u8], envelope: &Envelope, out: &mut [u8]) -> Option<usize> {
        let wire = wire.get(..self.wire_len)?;
        let out = out.get_mut(..self.wire_len)?;
        if self.header.complete {
            let (header, data) = out.split_first_chunk_mut()?;
            *header = envelope.header(self.header.len).encode();
            data.copy_from_slice(wire.get(HEADER_LEN..)?);
            return Some(self.wire_len);
        }
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

/// The length on the wire of a message with `payload_len` bytes of payload.
pub const fn wire_len(payload_len: usize) -> usize {
    let frames = payload_len.div_ceil(FRAME_DATA_MAX);
    let frames = if frames == 0 { 1 } else { frames };
    payload_len.saturating_add(frames.saturating_mul(HEADER_LEN))
}

/// Turns the payload at `out[14..14 + payload_len]` into a message, in place, and returns its length;
/// `None`, with nothing changed, if `out` is too short or the payload exceeds [`PAYLOAD_MAX`].
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
    // From the last frame to the first: no data is overwritten before it has moved.
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

/// Moves `len` bytes within `bytes`; does nothing if either range is out of bounds.
fn shift(bytes: &mut [u8], from: usize, to: usize, len: usize) {
    let end = from.max(to).saturating_add(len);
    if from != to && end <= bytes.len() {
        bytes.copy_within(from..from.saturating_add(len), to);
    }
}
