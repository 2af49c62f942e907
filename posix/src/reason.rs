//! Why the other side can't be reached, in the words of people.

use std::fmt;
use std::io;

/// Prints the reason of a failed attempt to connect; the system's words speak of files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unreachable(pub(crate) io::ErrorKind);

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            io::ErrorKind::NotFound => f.write_str("no such socket"),
            io::ErrorKind::WouldBlock => f.write_str("too many connections wait there"),
            kind => kind.fmt(f),
        }
    }
}
