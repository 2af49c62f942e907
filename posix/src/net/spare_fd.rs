//! A descriptor kept back, to refuse connections with when there is no other left.
//!
//! A connection that cannot be accepted would wait in the backlog, be reported again and again, and
//! keep its client waiting in vain. With one descriptor given up for the moment it can be accepted
//! and closed.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::AddressFamily;

use crate::net::listener::Listener;
use crate::net::stream;

/// One descriptor, open for nothing.
#[derive(Debug)]
pub struct SpareFd {
    spare: Option<OwnedFd>,
    refused: u64,
}

impl SpareFd {
    /// Takes a descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self { spare: Some(spare()?), refused: 0 })
    }

    /// How many connections were refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether `error` means that descriptors have run out, and one is kept back for that.
    pub fn covers(&self, error: &io::Error) -> bool {
        self.spare.is_some() && out_of_descriptors(error)
    }

    /// Accepts the next connection with the descriptor kept back, and closes it.
    pub fn refuse_one(&mut self, listener: &Listener) {
        self.spare = None;
        if let Ok(Some(stream)) = listener.accept() {
            drop(stream);
            self.refused += 1;
        }
        // Should another thread be faster, listeners pause until descriptors come back.
        self.spare = spare().ok();
    }
}

/// A descriptor kept for a connection that is to come back, while clients take all others.
#[derive(Debug, Default)]
pub struct HeldFd(Option<OwnedFd>);

impl HeldFd {
    /// Takes a descriptor, if there is one: best at once when another was closed.
    pub fn keep(&mut self) {
        self.0 = self.0.take().or_else(|| spare().ok());
    }

    /// Gives it up for what it was kept for.
    pub fn give_up(&mut self) {
        self.0 = None;
    }
}

/// Whether `error` means that the process or the system has no descriptor left.
pub(crate) fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// A socket of which nothing is made: unlike a file it is there in an empty chroot, too.
fn spare() -> io::Result<OwnedFd> {
    stream::new_socket(AddressFamily::UNIX)
}
