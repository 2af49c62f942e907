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
//!   0x0011   any   0/1       any        0  0-8 0/1 0-2048   (2048 if end=0)
//! ```
//!
//! The patch level says what its sender supports. A server answers at the lower of its own level and
//! the request's, so level-0 clients see no change. Operations 4 and 5 exist from level 1 on, 6 to 8
//! from level 2 on.
//!
//! Each byte of a header is checked on arrival: bytes that can no longer become a valid message are
//! [`Malformed`] at once.

mod frames;
mod header;

pub use frames::{Message, frame, wire_len};
pub use header::{Envelope, Header};

/// The protocol version: the high half of a header's first field.
pub const VERSION: u16 = 0x0011;
/// Our patch level: the low half of the first field of every message that we originate.
pub const LEVEL: u16 = 2;
/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 14;
/// The most data in one frame. Every frame but a message's last carries exactly this much.
pub const FRAME_DATA_MAX: usize = 2048;
/// The most frames in one message.
pub const FRAMES_MAX: usize = 16;
/// The most payload in one message.
pub const PAYLOAD_MAX: usize = FRAMES_MAX * FRAME_DATA_MAX;
/// The most bytes of one message on the wire.
pub const MESSAGE_MAX: usize = FRAMES_MAX * FRAME_MAX;

/// The offset of `complete` in a header.
const COMPLETE_AT: usize = 11;
const FRAME_MAX: usize = HEADER_LEN + FRAME_DATA_MAX;

/// The direction of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Direction {
    /// From a client to a server.
    Request = 0,
    /// From a server to a client.
    Response = 1,
}

/// An operation.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Op {
    /// Stores a session under a free id.
    Add = 0,
    /// Fetches a session.
    Get = 1,
    /// Removes a session.
    Remove = 2,
    /// Asks whether a session is stored.
    Have = 3,
    /// Stores a session, in place of any that is stored under its id. From patch level 1 on.
    Put = 4,
    /// Fetches a session and removes it. From patch level 1 on.
    Take = 5,
    /// Fetches a session with its lifetime left. From patch level 2 on.
    Fetch = 6,
    /// Stores a session that a [`Op::Fetch`] has missed. From patch level 2 on.
    Repair = 7,
    /// Fetches many sessions, a piece at a time. From patch level 2 on.
    Copy = 8,
}

impl Op {
    /// All operations, in the order of their codes.
    pub const ALL: [Self; 9] = [
        Self::Add,
        Self::Get,
        Self::Remove,
        Self::Have,
        Self::Put,
        Self::Take,
        Self::Fetch,
        Self::Repair,
        Self::Copy,
    ];

    /// The operation of this code, if it exists at this patch level.
    #[inline]
    const fn from_code(code: u8, level: u16) -> Option<Self> {
        match code {
            0 => Some(Self::Add),
            1 => Some(Self::Get),
            2 => Some(Self::Remove),
            3 => Some(Self::Have),
            _ => Self::from_new_code(code, level),
        }
    }

    /// The same for codes that level 0 has not.
    #[inline(never)]
    const fn from_new_code(code: u8, level: u16) -> Option<Self> {
        match (code, level) {
            (4, 1..) => Some(Self::Put),
            (5, 1..) => Some(Self::Take),
            (6, 2..) => Some(Self::Fetch),
            (7, 2..) => Some(Self::Repair),
            (8, 2..) => Some(Self::Copy),
            _ => None,
        }
    }

    /// The lowest patch level that has this operation.
    pub const fn level(self) -> u16 {
        match self {
            Self::Add | Self::Get | Self::Remove | Self::Have => 0,
            Self::Put | Self::Take => 1,
            Self::Fetch | Self::Repair | Self::Copy => 2,
        }
    }

    /// Whether only proxies and servers ask for this: the operations of level 2.
    #[inline]
    pub(crate) const fn is_internal(self) -> bool {
        self as u8 >= Self::Fetch as u8
    }

    /// Whether a request carries a session: its payload is an [`Add`](crate::message::Add).
    pub const fn stores(self) -> bool {
        matches!(self, Self::Add | Self::Put)
    }

    /// Whether a server that misses a request lacks something that others have.
    pub(crate) const fn changes(self) -> bool {
        matches!(self, Self::Add | Self::Put | Self::Remove | Self::Take)
    }

    /// The name in capitals, as the protocol's documentation writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Get => "GET",
            Self::Remove => "REMOVE",
            Self::Have => "HAVE",
            Self::Put => "PUT",
            Self::Take => "TAKE",
            Self::Fetch => "FETCH",
            Self::Repair => "REPAIR",
            Self::Copy => "COPY",
        }
    }
}

/// The peer sent bytes that are not, and cannot become, a valid message. Close its connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// The frames of one message disagree in uid or operation.
    MixedFrames,
    /// The message has more than [`FRAMES_MAX`] frames.
    TooManyFrames,
    /// `class` is not 0.
    Class,
    /// `complete` is neither 0 nor 1.
    Complete,
    /// The frame goes in the other direction.
    Direction,
    /// `len` is over 2048, or not 2048 in a frame that is not the last.
    Length,
    /// `operation` does not exist at the frame's patch level.
    Operation,
    /// A request is too short for its fixed fields, or a response does not fit its request.
    Payload,
    /// Another protocol version.
    Version,
}

impl Malformed {
    /// The reason in a few words, for a log line.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::MixedFrames => "frames of one message disagree",
            Self::TooManyFrames => "a message has more than 16 frames",
            Self::Class => "unknown operation class",
            Self::Complete => "invalid completion flag",
            Self::Direction => "wrong direction",
            Self::Length => "invalid data length",
            Self::Operation => "unknown operation",
            Self::Payload => "payload does not fit the operation",
            Self::Version => "unknown protocol version",
        }
    }
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.reason())
    }
}

impl core::error::Error for Malformed {}

#[cfg(test)]
mod tests;
