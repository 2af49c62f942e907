//! Messages about failed connections, in words that fit sockets.

use std::fmt;
use std::io;

use crate::net::address::Address;

/// Prints why connecting failed; the system's own messages are about files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unreachable(pub(crate) io::ErrorKind);

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            io::ErrorKind::NotFound => f.write_str("no such socket"),
            io::ErrorKind::WouldBlock => f.write_str("its backlog is full"),
            kind => kind.fmt(f),
        }
    }
}

/// Prints that connecting to an address failed, and which program may be missing.
pub(crate) struct NotConnected<'a>(pub(crate) &'a Address, pub(crate) io::ErrorKind);

impl fmt::Display for NotConnected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(address, kind) = self;
        write!(f, "cannot connect to {address}: {}", Unreachable(*kind))?;
        match (kind, address) {
            (io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused, Address::Unix(_)) => {
                f.write_str(". Is dc_client running?")
            }
            (io::ErrorKind::ConnectionRefused, Address::Ip { .. }) => {
                f.write_str(". Is dc_server running?")
            }
            _ => Ok(()),
        }
    }
}

/// Displays that a connection was closed before its first answer.
pub(crate) struct Refused<'a>(pub(crate) &'a Address);

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} refused the connection: it was closed at once, ", self.0)?;
        f.write_str("as a server does beyond its -maxconn, and to users that -allowuid leaves out")
    }
}

/// Whether an error means that the peer has closed the connection.
pub(crate) fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
