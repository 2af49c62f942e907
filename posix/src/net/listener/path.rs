//! How a UNIX socket comes to its path.
//!
//! It is bound inside a fresh directory beside the path which only this user can enter, gets its
//! owner, group and mode there, starts to listen, and only then is renamed to the path. So there is
//! no moment at which somebody can connect whom its final mode keeps out, nothing that others might
//! put in the way is ever chowned, and whoever finds a socket at the path finds it listening. That
//! last point is what lets a second server tell a live socket from a stale one by connecting to it.
//! A umask would do only the first, for the whole process, and leaves the socket refusing everybody
//! between bind and listen, when it looks stale.
//!
//! Between finding a stale socket and replacing it, others could do the same, and each would think
//! itself the server. So all that start beside one another take turns, by a lock on the directory.
//! A lock that somebody keeps is waited for a second, and no longer: any user who can read the
//! directory could keep it, and shall not keep a server from starting.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily};

use super::{BACKLOG, FailureKind, Ownership};
use crate::net::stream;
use crate::process::accounts;

/// A socket at its path, and which file that is.
#[derive(Debug)]
pub(super) struct BoundPath {
    path: PathBuf,
    file: (u64, u64),
}

impl BoundPath {
    /// Listens at `path`, which becomes absolute: a daemon leaves its working directory, and has to
    /// find the path again when it ends.
    pub(super) fn open(path: &Path, ownership: &Ownership) -> Result<(OwnedFd, Self), FailureKind> {
        let path = std::path::absolute(path).map_err(|e| FailureKind::System("find it", e))?;
        let _turn = take_turn(&path);
        let stale = probe(&path)?;
        let staging_dir = StagingDir::new(&path).map_err(|error| match path.parent() {
            Some(parent) if error.kind() == io::ErrorKind::NotFound => {
                FailureKind::NoDirectory(parent.to_owned())
            }
            _ => FailureKind::System("make a directory beside it", error),
        })?;
        let fd = staging_dir.bind().map_err(|e| FailureKind::System("bind to it", e))?;
        staging_dir.own(ownership)?;
        net::listen(&fd, BACKLOG).map_err(|e| FailureKind::System("listen", e.into()))?;
        let file = staging_dir.place(&path, stale)?;
        Ok((fd, Self { path, file }))
    }
}

impl BoundPath {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        if fs::lstat(&self.path).is_ok_and(|stat| file_of(&stat) == self.file) {
            // Without the right to, it stays behind as a stale socket, which the next start replaces.
            let _ = fs::unlink(&self.path);
        }
    }
}

/// Locks the directory of `path` until what is returned is dropped; `None` where that cannot be had.
pub(crate) fn take_turn(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = fs::open(path.parent()?, flags, Mode::empty()).ok()?;
    for _ in 0..100 {
        match fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(dir),
            Err(Errno::WOULDBLOCK | Errno::INTR) => thread::sleep(Duration::from_millis(10)),
            Err(_) => break,
        }
    }
    None
}

/// Finds out whether there is a stale socket at `path`, or nothing. All else is refused.
fn probe(path: &Path) -> Result<bool, FailureKind> {
    let mode = match fs::lstat(path) {
        Ok(stat) => stat.st_mode,
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(FailureKind::System("look at it", error.into())),
    };
    if FileType::from_raw_mode(mode) != FileType::Socket {
        return Err(FailureKind::NotASocket);
    }
    let tried = stream::new_socket(AddressFamily::UNIX)
        .and_then(|fd| Ok(net::connect(&fd, &net::SocketAddrUnix::new(path)?)?));
    match tried.map_err(|error| Errno::from_io_error(&error)) {
        // A full backlog is somebody's, too.
        Ok(()) | Err(Some(Errno::AGAIN | Errno::INPROGRESS)) => Err(FailureKind::InUse),
        Err(Some(Errno::CONNREFUSED)) => Ok(true),
        Err(Some(Errno::NOENT)) => Ok(false),
        Err(Some(Errno::PROTOTYPE)) => Err(FailureKind::NotASocket),
        Err(Some(Errno::ACCESS)) => Err(FailureKind::Unknown),
        Err(error) => {
            let error = error.map_or(io::ErrorKind::Other.into(), io::Error::from);
            Err(FailureKind::System("find out whether it is in use", error))
        }
    }
}

/// The private directory in which a socket becomes what it shall be. Removed on drop.
struct StagingDir {
    dir: OwnedFd,
    path: PathBuf,
}

/// The name of the socket in there.
const FRESH: &str = "s";

impl StagingDir {
    fn new(beside: &Path) -> io::Result<Self> {
        let parent = beside.parent().ok_or(io::ErrorKind::InvalidInput)?;
        for attempt in 0..100 {
            let path = parent.join(format!(".dc{}.{attempt}", std::process::id()));
            match fs::mkdir(&path, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(error.into()),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = fs::open(&path, flags, Mode::empty())?;
            // Where the parent is everybody's, somebody may have put another in its place.
            let stat = fs::fstat(&dir)?;
            let open = Mode::from_raw_mode(stat.st_mode).intersects(Mode::RWXG | Mode::RWXO);
            if stat.st_uid != rustix::process::geteuid().as_raw() || open {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            return Ok(Self { dir, path });
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// A socket bound in the directory, and not listening yet.
    fn bind(&self) -> io::Result<OwnedFd> {
        let fd = stream::new_socket(AddressFamily::UNIX)?;
        let address = match net::SocketAddrUnix::new(self.path.join(FRESH)) {
            // The path itself may be shorter than one through here, and fit where this does not.
            #[cfg(target_os = "linux")]
            Err(Errno::NAMETOOLONG) => {
                use std::os::fd::AsRawFd;
                let number = self.dir.as_raw_fd();
                net::SocketAddrUnix::new(format!("/proc/self/fd/{number}/{FRESH}"))?
            }
            address => address?,
        };
        net::bind(&fd, &address)?;
        Ok(fd)
    }

    /// Gives the socket its group, mode and owner; the owner last, since it takes more rights to
    /// change another's.
    fn own(&self, ownership: &Ownership) -> Result<(), FailureKind> {
        let cannot = |what, to: &str, error: &dyn fmt::Display| {
            FailureKind::Own(what, to.to_owned(), error.to_string())
        };
        if let Some(name) = &ownership.group {
            let gid = accounts::group(name).map_err(|error| cannot("group", name, &error))?;
            self.chown(None, Some(gid)).map_err(|error| cannot("group", name, &error))?;
        }
        if let Some(bits) = ownership.mode {
            let mode = Mode::from_raw_mode(bits as fs::RawMode);
            fs::chmodat(&self.dir, FRESH, mode, AtFlags::empty())
                .map_err(|error| cannot("mode", &format!("{bits:o}"), &error))?;
        }
        if let Some(name) = &ownership.owner {
            let uid = accounts::owner(name).map_err(|error| cannot("owner", name, &error))?;
            self.chown(Some(uid), None).map_err(|error| cannot("owner", name, &error))?;
        }
        Ok(())
    }

    fn chown(&self, owner: Option<u32>, group: Option<u32>) -> Result<(), Errno> {
        let owner = owner.map(fs::Uid::from_raw);
        let group = group.map(fs::Gid::from_raw);
        fs::chownat(&self.dir, FRESH, owner, group, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn stat(&self) -> Result<fs::Stat, FailureKind> {
        fs::statat(&self.dir, FRESH, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| FailureKind::System("look at it", error.into()))
    }

    /// Moves the socket to `path`, over a `stale` one or where nothing is; says which file it is.
    fn place(&self, path: &Path, stale: bool) -> Result<(u64, u64), FailureKind> {
        let file = file_of(&self.stat()?);
        let moved = if stale {
            fs::renameat(&self.dir, FRESH, fs::CWD, path)
        } else {
            rename_new(&self.dir, FRESH, path)
        };
        match moved {
            Ok(()) => Ok(file),
            Err(Errno::EXIST) => Err(FailureKind::InUse),
            Err(error) => Err(FailureKind::System("put it there", error.into())),
        }
    }
}

impl Drop for StagingDir {
    fn drop(&mut self) {
        let _ = fs::unlinkat(&self.dir, FRESH, AtFlags::empty());
        let _ = fs::rmdir(&self.path);
    }
}

/// Renames `name` in `dir` to `path`, where nothing must be.
fn rename_new(dir: &OwnedFd, name: &str, path: &Path) -> Result<(), Errno> {
    #[cfg(target_os = "linux")]
    match fs::renameat_with(dir, name, fs::CWD, path, fs::RenameFlags::NOREPLACE) {
        // File systems and kernels that do not know the flag.
        Err(Errno::INVAL | Errno::NOSYS) => {}
        result => return result,
    }
    fs::renameat(dir, name, fs::CWD, path)
}

/// What tells one file from all others.
#[allow(
    clippy::cast_sign_loss,
    clippy::unnecessary_cast,
    reason = "some systems have other types for both, and signed ones"
)]
fn file_of(stat: &fs::Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

#[cfg(test)]
mod tests;
