//! Why an operation of the client failed.

use std::fmt;
use std::io;
use std::sync::Arc;

use distcache_core::message::Status;
use distcache_core::wire::{Malformed, Op};

use crate::net::address::{AddressError, ResolveError};

/// Why no client could be made.
#[derive(Debug)]
pub enum NewError {
    /// One cannot connect to such an address.
    Address(AddressError),
    /// The host has no address.
    Resolve(ResolveError),
    /// The connection that was to be kept could not be made.
    Connect(Failure),
    /// There is no memory for it.
    NoMemory,
}

/// Why a session was not stored, by an ADD or a PUT.
#[derive(Debug)]
pub enum AddError {
    /// The server refused it: [`Status::ADD_EXISTS`] and its neighbours.
    Refused(Status),
    /// The session is too long for one message: id and session may have 32760 bytes together.
    TooLarge,
    /// The server could not be asked. Whether it stored the session is not known, unless `why` tells.
    Failed(Failure),
}

/// An operation that got no answer, or none that says anything.
#[derive(Debug)]
pub struct Failure {
    pub(super) op: Option<Op>,
    pub(super) address: Arc<str>,
    pub(super) kind: FailureKind,
}

impl Failure {
    /// Why it failed.
    pub const fn kind(&self) -> &FailureKind {
        &self.kind
    }

    /// Whether a proxy was reached and said that the server behind it is away.
    pub const fn is_unavailable(&self) -> bool {
        matches!(self.kind, FailureKind::Unavailable)
    }

    /// Whether the server did not answer in time: this operation, or one shortly before it, after which
    /// the server is left alone.
    pub const fn is_timeout(&self) -> bool {
        matches!(self.kind, FailureKind::TimedOut | FailureKind::LeftAlone)
    }
}

/// The reason of a [`Failure`].
#[derive(Debug)]
pub enum FailureKind {
    /// None of the places that the address leads to took the connection; the last one's reason.
    NotConnected(io::Error),
    /// The deadline came before the answer.
    TimedOut,
    /// Nothing was sent: the deadline of an operation shortly before came without an answer.
    LeftAlone,
    /// There is no memory for a connection, or for the copy of a session that is to be removed.
    NoMemory,
    /// The connection broke.
    Lost(io::Error),
    /// The server closed the connection before it answered.
    Closed,
    /// What came is not an answer to what was asked.
    Malformed(Malformed),
    /// A proxy's word: the server is away.
    Unavailable,
    /// A whole answer, but one that the operation does not have.
    Unexpected(Status),
}

impl FailureKind {
    /// Whether the same request on another connection may fare better.
    pub(super) const fn is_network(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Closed)
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected(error) => write!(f, "cannot connect: {error}"),
            Self::TimedOut => f.write_str("no answer within the deadline"),
            // The same words are in it, for those that look for them.
            Self::LeftAlone => f.write_str("left alone: no answer within the deadline just before"),
            Self::NoMemory => f.write_str("no memory"),
            Self::Lost(error) => write!(f, "the connection broke: {error}"),
            Self::Closed => f.write_str("the server closed the connection without an answer"),
            Self::Malformed(malformed) => write!(f, "not an answer: {}", malformed.reason()),
            Self::Unavailable => f.write_str("the proxy says that the server is away"),
            Self::Unexpected(status) => write!(f, "unexpected answer: {}", status),
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

impl fmt::Display for NewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(error) => error.fmt(f),
            Self::Resolve(error) => error.fmt(f),
            Self::Connect(failure) => failure.fmt(f),
            Self::NoMemory => f.write_str("no memory"),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            FailureKind::NotConnected(error) | FailureKind::Lost(error) => Some(error),
            FailureKind::Malformed(malformed) => Some(malformed),
            _ => None,
        }
    }
}
impl std::error::Error for AddError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(failure) => failure.source(),
            _ => None,
        }
    }
}
impl std::error::Error for NewError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Address(_) | Self::Resolve(_) | Self::NoMemory => None,
            Self::Connect(failure) => failure.source(),
        }
    }
}
