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

mod frames;
mod header;

pub use frames::{Message, frame, wire_len};
pub use header::{Envelope, Header};

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
    MixedFrames,
    /// The message has more than [`FRAMES_MAX`] frames.
    TooManyFrames,
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
            Self::MixedFrames => "frames of one message disagree",
            Self::TooManyFrames => "a message of more than 16 frames",
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

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.reason())
    }
}

impl core::error::Error for Malformed {}

#[cfg(test)]
mod tests;
