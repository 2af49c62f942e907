//! Errors of the client.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use distcache_core::message::Status;
use distcache_core::wire::{Malformed, Op};

use crate::net::address::{AddressError, ResolveError};
use crate::seal_keys::KeyFileError;

/// Why a client could not be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// The address is invalid, or only for listening.
    Address(AddressError),
    /// The host has no address.
    Resolve(ResolveError),
    /// Connecting failed; only with [`connect_on_build`](super::Builder::connect_on_build).
    Connect(Failure),
    /// The keys of [`seal_keys`](super::Builder::seal_keys) cannot be used.
    SealKeys(KeyFileError),
    /// There is not enough memory.
    OutOfMemory,
}

/// Why a session was not stored, by [`add`](super::Client::add) or [`put`](super::Client::put).
#[derive(Debug)]
#[non_exhaustive]
pub enum AddError {
    /// The server refused it with this status: [`Status::ADD_EXISTS`] and its neighbours.
    Refused(Status),
    /// The session is too long for one message: id and session together can have 32760 bytes.
    TooLarge,
    /// There was no answer. Whether the server stored the session is unknown, unless the kind of
    /// failure tells.
    Failed(Failure),
}

/// An operation without a usable answer: which one, at which address, and why.
#[derive(Debug)]
pub struct Failure {
    /// `None` for connecting alone.
    pub(super) op: Option<Op>,
    pub(super) address: Arc<str>,
    pub(super) kind: FailureKind,
}

impl Failure {
    /// The reason.
    pub const fn kind(&self) -> &FailureKind {
        &self.kind
    }

    /// Whether a proxy answered that it cannot reach its server.
    pub const fn is_server_unreachable(&self) -> bool {
        matches!(self.kind, FailureKind::ServerUnreachable)
    }

    /// Whether the server did not answer in time: in this operation, or in an earlier one that began
    /// a [pause](super::Client::set_pause).
    pub const fn is_timeout(&self) -> bool {
        matches!(self.kind, FailureKind::TimedOut | FailureKind::Paused)
    }
}

/// The reason of a [`Failure`].
#[derive(Debug)]
#[non_exhaustive]
pub enum FailureKind {
    /// No target of the address accepted the connection; the error of the last one.
    Connect(io::Error),
    /// The deadline passed without an answer.
    TimedOut,
    /// Nothing was sent: an earlier operation timed out and began a
    /// [pause](super::Client::set_pause).
    Paused,
    /// There is not enough memory for a connection, or for the copy of a session about to be removed.
    OutOfMemory,
    /// The connection broke.
    Io(io::Error),
    /// The server closed the connection without an answer.
    Closed,
    /// The server sent bytes that are not an answer to the request.
    Malformed(Malformed),
    /// A proxy answered that it cannot reach its server.
    ServerUnreachable,
    /// The server answered with a status that the operation does not have.
    UnexpectedStatus(Status),
    /// The session could not be sealed or opened: the system has no randomness, or other threads exchange
    /// the keys over and over.
    Seal(io::Error),
}

impl FailureKind {
    /// Whether the request may succeed on another connection.
    pub(super) const fn is_broken_connection(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Closed)
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            // DC_CTX_TIMED_OUT of the C library has these words; both messages must contain them.
            Self::TimedOut => f.write_str("no answer within the deadline"),
            Self::Paused => f.write_str("left alone: no answer within the deadline just before"),
            Self::OutOfMemory => f.write_str("no memory"),
            Self::Io(error) => write!(f, "the connection broke: {error}"),
            Self::Closed => f.write_str("the server closed the connection without an answer"),
            Self::Malformed(malformed) => write!(f, "not an answer: {}", malformed.reason()),
            Self::ServerUnreachable => f.write_str("the proxy cannot reach its server"),
            Self::UnexpectedStatus(status) => write!(f, "unexpected answer: {status}"),
            Self::Seal(error) => write!(f, "cannot seal or open the session: {error}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.op.map_or("connecting", Op::name);
        write!(f, "{what} at {} failed: {}", self.address, self.kind)
    }
}

impl fmt::Display for AddError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(status) => write!(f, "the session was refused: {}", status),
            Self::TooLarge => f.write_str("the session is too long for a message"),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(error) => error.fmt(f),
            Self::Resolve(error) => error.fmt(f),
            Self::Connect(failure) => failure.fmt(f),
            Self::SealKeys(error) => error.fmt(f),
            Self::OutOfMemory => f.write_str("no memory"),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            FailureKind::Connect(error) | FailureKind::Io(error) | FailureKind::Seal(error) => {
                Some(error)
            }
            FailureKind::Malformed(malformed) => Some(malformed),
            _ => None,
        }
    }
}

// The wrappers print as what they wrap, so they pass on its source.
impl Error for AddError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(failure) => failure.source(),
            _ => None,
        }
    }
}

impl Error for BuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Address(error) => error.source(),
            Self::Resolve(error) => error.source(),
            Self::Connect(failure) => failure.source(),
            Self::SealKeys(error) => error.source(),
            Self::OutOfMemory => None,
        }
    }
}

impl From<AddressError> for BuildError {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}

/// For [`Client::connect`](super::Client::connect) with an `Address`, which is always valid.
impl From<Infallible> for BuildError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
