//! Why a call failed.
//!
//! `DC_CTX_errstr` returns these texts.

use std::fmt;

use distcache_posix::client::{AddError, BuildError, Failure};
use distcache_posix::net::address::AddressError;
use distcache_posix::seal_keys::KeyFileError;

/// The reason of a failure. `Display` writes it for people.
#[derive(Debug)]
pub(crate) enum Reason {
    /// An invalid argument, no memory, or another reason without details.
    Text(&'static str),
    /// The server has no such session.
    NoSession,
    /// The target is not a valid address.
    Address(AddressError),
    /// No client could be created for the target.
    New(BuildError),
    /// This library does not accept the target.
    Target(String),
    /// The keys cannot be used.
    Keys(KeyFileError),
    /// The session was not stored.
    Add(AddError),
    /// There was no answer.
    Failed(Failure),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(why) => f.write_str(why),
            // DC_CTX_NO_SESSION in the header is the same text.
            Self::NoSession => f.write_str("no such session"),
            Self::Address(why) => why.fmt(f),
            Self::New(why) => why.fmt(f),
            Self::Target(why) => f.write_str(why),
            Self::Keys(why) => why.fmt(f),
            Self::Add(why) => why.fmt(f),
            Self::Failed(why) => why.fmt(f),
        }
    }
}

impl From<AddressError> for Reason {
    fn from(why: AddressError) -> Self {
        Self::Address(why)
    }
}

impl From<BuildError> for Reason {
    fn from(why: BuildError) -> Self {
        Self::New(why)
    }
}

impl From<KeyFileError> for Reason {
    fn from(why: KeyFileError) -> Self {
        Self::Keys(why)
    }
}

impl From<AddError> for Reason {
    fn from(why: AddError) -> Self {
        Self::Add(why)
    }
}

impl From<Failure> for Reason {
    fn from(why: Failure) -> Self {
        Self::Failed(why)
    }
}
