//! Descriptors held in reserve for when the process has no other left.
//!
//! A connection that cannot be accepted stays in the backlog: the poller reports it again and again,
//! and its client waits. With a spare descriptor, released for a moment, it can be accepted and closed.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::net::listener::Listener;

/// One spare descriptor, to refuse connections with.
#[derive(Debug)]
pub struct SpareFd {
    spare: Option<OwnedFd>,
    refused: u64,
}

impl SpareFd {
    /// Opens the spare descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self { spare: Some(spare()?), refused: 0 })
    }

    /// The number of connections refused so far.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether `error` means that no descriptor is left, and the spare one can help.
    pub fn applies_to(&self, error: &io::Error) -> bool {
        self.spare.is_some() && out_of_descriptors(error)
    }

    /// Accepts the next connection in place of the spare descriptor, and closes it.
    pub fn refuse_one(&mut self, listener: &Listener) {
        self.spare = None;
        if let Ok(Some(stream)) = listener.accept() {
            drop(stream);
            self.refused += 1;
        }
        // If another thread takes the descriptor meanwhile, listeners pause until one is free.
        self.spare = spare().ok();
    }
}

/// A descriptor held for one connection, so that clients cannot take it.
#[derive(Debug, Default)]
pub struct HeldFd(Option<OwnedFd>);

impl HeldFd {
    /// Holds a descriptor, if there is one: best called right after another was closed.
    pub fn hold(&mut self) {
        self.0 = self.0.take().or_else(|| spare().ok());
    }

    /// Whether a descriptor is held.
    #[cfg(test)]
    pub(crate) fn is_held(&self) -> bool {
        self.0.is_some()
    }

    /// Releases the descriptor for the connection to take.
    pub fn release(&mut self) {
        self.0 = None;
    }
}

/// Whether `error` means that the process or the system has no descriptor left.
pub(crate) fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// A descriptor that leads nowhere: unlike a file, it can be opened in an empty chroot, and unlike a
/// socket, in a sandbox without connections.
#[cfg(target_os = "linux")]
fn spare() -> io::Result<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    Ok(eventfd(0, EventfdFlags::CLOEXEC)?)
}

/// An unused socket: unlike a file, it can be opened in an empty chroot.
#[cfg(not(target_os = "linux"))]
fn spare() -> io::Result<OwnedFd> {
    crate::net::stream::new_socket(rustix::net::AddressFamily::UNIX)
}
