//! The socket on which a server waits for its successor.
//!
//! Whoever can connect to it can take all sessions. So its directory must not be writable by others:
//! then nobody else can listen in its place, or remove it. Its mode is 600 from the moment it exists,
//! and each peer's user is checked as well.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::channel::Channel;
use crate::net::listener::take_turn;
use crate::net::stream;

/// Successors that may wait: one is served at a time.
const BACKLOG: i32 = 4;

/// A listening socket for successors. Dropping it removes its path, if it is still this socket.
#[derive(Debug)]
pub(crate) struct Door {
    fd: OwnedFd,
    path: PathBuf,
    file: (u64, u64),
    owned: bool,
}

/// Why there can be no door at a path.
#[derive(Debug)]
pub(crate) enum DoorError {
    /// Others can write to the directory.
    Exposed,
    /// The directory belongs to another user.
    Foreign(u32),
    /// Another server has begun to listen there meanwhile.
    InUse,
    /// The file there is no socket.
    NotASocket,
    /// The step that failed, and the system's error.
    System(&'static str, io::Error),
}

impl fmt::Display for DoorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exposed => f.write_str(
                "others can write to its directory and could take all sessions; use a directory \
                 of mode 700 or 755, such as /run/distcache",
            ),
            Self::Foreign(uid) => write!(
                f,
                "its directory belongs to user {uid}, who could take all sessions; use a \
                 directory of root's or the server's own"
            ),
            Self::InUse => f.write_str("another server has just started there; try again"),
            Self::NotASocket => f.write_str("the file there is no socket; choose another path"),
            Self::System(doing, error) => write!(f, "cannot {doing}: {error}"),
        }
    }
}

impl Door {
    /// Checks that only root, this user and `user` can write to the directory of `path`.
    pub(super) fn check_directory(path: &Path, user: Option<u32>) -> Result<(), DoorError> {
        let parent = path.parent().unwrap_or(path);
        let stat = fs::stat(parent)
            .map_err(|error| DoorError::System("look at its directory", error.into()))?;
        if Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
            return Err(DoorError::Exposed);
        }
        let trusted = [0, rustix::process::geteuid().as_raw()];
        if !trusted.contains(&stat.st_uid) && user != Some(stat.st_uid) {
            return Err(DoorError::Foreign(stat.st_uid));
        }
        Ok(())
    }

    /// Listens on `path`, which replaces a stale socket there. `path` is absolute.
    pub(crate) fn open(path: &Path) -> Result<Self, DoorError> {
        let system = |doing| move |error: Errno| DoorError::System(doing, error.into());
        let _turn = take_turn(path);
        match fs::lstat(path) {
            Err(Errno::NOENT) => {}
            Err(error) => return Err(system("look at it")(error)),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
                return Err(DoorError::NotASocket);
            }
            Ok(_) => match Channel::connect(path) {
                Ok(None) => fs::unlink(path).map_err(system("remove the stale socket there"))?,
                Ok(Some(_)) => return Err(DoorError::InUse),
                // Of another type than ours: somebody else's.
                Err(_) => return Err(DoorError::NotASocket),
            },
        }
        let fd = stream::new_socket_of(AddressFamily::UNIX, SocketType::SEQPACKET)
            .map_err(|error| DoorError::System("make a socket", error))?;
        // On Linux the file gets the mode that its socket has when it is bound.
        fs::fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(system("set its mode"))?;
        let address = SocketAddrUnix::new(path).map_err(system("bind to it"))?;
        net::bind(&fd, &address).map_err(system("bind to it"))?;
        let stat = fs::lstat(path).map_err(system("look at it"))?;
        let file = (stat.st_dev, stat.st_ino);
        let door = Self { fd, path: path.to_owned(), file, owned: true };
        net::listen(&door.fd, BACKLOG).map_err(system("listen"))?;
        Ok(door)
    }

    /// The door of a predecessor, which removes its path until it is [`owned`](Self::own) here.
    pub(super) fn of_another(fd: OwnedFd, path: &Path, file: (u64, u64)) -> Self {
        Self { fd, path: path.to_owned(), file, owned: false }
    }

    /// Says whether this process removes the path.
    pub(super) fn own(&mut self, owned: bool) {
        self.owned = owned;
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode.
    pub(super) fn file(&self) -> (u64, u64) {
        self.file
    }

    /// The next connection; `None` if none waits.
    pub(super) fn accept(&self) -> io::Result<Option<Channel>> {
        match net::accept_with(&self.fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(fd) => Ok(Some(Channel::accepted(fd))),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let same = |stat: fs::Stat| (stat.st_dev, stat.st_ino) == self.file;
        if self.owned && fs::lstat(&self.path).is_ok_and(same) {
            // If that fails, a stale socket stays behind, which the next start replaces.
            let _ = fs::unlink(&self.path);
        }
    }
}
