//! Why a machine refuses the memory that it was given.

use crate::proxy::SERVERS_MAX;
use crate::wire::MESSAGE_MAX;

/// Why a server or a proxy cannot be set up with the memory that it was given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SetupError {
    /// Each buffer needs at least [`MESSAGE_MAX`] bytes.
    BufferLen,
    /// The pool needs at least this many buffers.
    Buffers(u32),
    /// There is no slot for a connection, or none for a request in flight.
    Slots,
    /// A proxy needs a server.
    NoServers,
    /// A proxy has at most [`SERVERS_MAX`] servers.
    TooManyServers,
}

impl core::fmt::Display for SetupError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::BufferLen => write!(f, "each buffer needs at least {MESSAGE_MAX} bytes"),
            Self::Buffers(count) => write!(f, "at least {count} buffers are needed"),
            Self::Slots => f.write_str("there is no slot for a connection or for a request"),
            Self::NoServers => f.write_str("a proxy needs at least one server"),
            Self::TooManyServers => write!(f, "a proxy has at most {SERVERS_MAX} servers"),
        }
    }
}

impl core::error::Error for SetupError {}
