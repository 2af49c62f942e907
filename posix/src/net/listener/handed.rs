//! Listeners that one process hands to another.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::{Listener, Source, listens, path::BoundPath};
use crate::net::{datagram, stream};

/// What another process must know of a listener.
#[derive(Debug)]
pub(crate) struct Offer<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    /// The address as it was given.
    pub(crate) given: &'a str,
    /// The address as it is bound.
    pub(crate) bound: &'a str,
    /// Device and inode of its UNIX path; zeros for none.
    pub(crate) file: (u64, u64),
    /// The absolute path of a UNIX socket that this process removes.
    pub(crate) path: Option<&'a Path>,
}

impl Listener {
    /// What another process must know of it; `None` for an inherited stream.
    pub(crate) fn offer(&self) -> Option<Offer<'_>> {
        let file = match &self.source {
            Source::Socket { path: Some(path), .. } => path.file(),
            _ => (0, 0),
        };
        let path = self.path();
        Some(Offer { fd: self.fd()?, given: &self.given, bound: &self.address, file, path })
    }

    /// The listener that another process has offered under these addresses. Its path, if it has one, is
    /// removed by the other process, until this one [owns](Self::own_path) it.
    ///
    /// # Errors
    /// `InvalidInput` if the descriptor is no such socket, else the system's.
    pub(crate) fn handed(
        fd: OwnedFd,
        given: String,
        bound: String,
        path: Option<PathBuf>,
        file: (u64, u64),
    ) -> io::Result<Self> {
        let source = if stream::is_udp(&fd) {
            Source::Datagrams(datagram::adopt(fd)?)
        } else if listens(&fd) {
            stream::prepare(&fd)?;
            let (_, tcp) = stream::kind(&fd);
            let path = path.map(|path| BoundPath::of_another(path, file));
            Source::Socket { fd, tcp, path }
        } else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok(Self { source, given, address: bound, warnings: Vec::new(), allowed: None })
    }

    /// Says whether this process removes the path of its UNIX socket.
    pub(crate) fn own_path(&mut self, owned: bool) {
        if let Source::Socket { path: Some(path), .. } = &mut self.source {
            path.set_owned(owned);
        }
    }
}
