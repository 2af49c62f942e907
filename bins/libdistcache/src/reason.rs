//! Why a call failed.

use std::fmt;

use distcache_posix::client::{AddError, BuildError, Failure};
use distcache_posix::net::address::AddressError;

/// The reason, for people.
#[derive(Debug)]
pub(crate) enum Reason {
    /// The caller's mistake, or a rule of this library.
    Said(&'static str),
    /// The server knows of no such session.
    NotThere,
    /// The target is misspelt.
    Address(AddressError),
    /// There is no client of the target.
    New(BuildError),
    /// The target is not one for this library.
    Target(String),
    /// The session was not stored.
    Add(AddError),
    /// There was no answer.
    Failed(Failure),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(why) => f.write_str(why),
            // The header has these words, too.
            Self::NotThere => f.write_str("no such session"),
            Self::Address(why) => why.fmt(f),
            Self::New(why) => why.fmt(f),
            Self::Target(why) => f.write_str(why),
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
