//! Listening on the path of a UNIX socket, safely.
//!
//! The socket is bound in a new directory beside the path, which only this user can enter. There it
//! gets its owner, group and mode and starts to listen. Then it is renamed to the path. Therefore:
//!
//! - No client can connect that the final mode excludes.
//! - No file of another user is ever chowned.
//! - A socket at the path is always listening. So a second server can tell a live socket from a stale
//!   one by connecting to it.
//!
//! A umask would give only the first of these, and for the whole process.
//!
//! Two servers that start at once could both find a stale socket and both replace it. So they take
//! turns, by a lock on the directory. A server waits for the lock for at most a second: any user who
//! can read the directory can hold the lock, and must not be able to prevent a start.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily};

use super::{BACKLOG, ListenErrorKind, Ownership};
use crate::net::stream;
use crate::process::accounts;

/// The path of a socket, and the file that is there.
#[derive(Debug)]
pub(super) struct BoundPath {
    path: PathBuf,
    file: (u64, u64),
    /// Whether this process removes it.
    owned: bool,
}

impl BoundPath {
    /// Listens on `path`. Makes the path absolute: a daemon leaves its working directory, and removes
    /// the path when it ends.
    pub(super) fn open(
        path: &Path,
        ownership: &Ownership,
    ) -> Result<(OwnedFd, Self), ListenErrorKind> {
        let path = std::path::absolute(path).map_err(|e| ListenErrorKind::System("find it", e))?;
        let _turn = take_turn(&path);
        let stale = probe(&path)?;
        let staging_dir = StagingDir::new(&path).map_err(|error| match path.parent() {
            Some(parent) if error.kind() == io::ErrorKind::NotFound => {
                ListenErrorKind::NoDirectory(parent.to_owned())
            }
            _ => ListenErrorKind::System("make a directory beside it", error),
        })?;
        let fd = staging_dir.bind().map_err(|e| ListenErrorKind::System("bind to it", e))?;
        staging_dir.set_ownership(ownership)?;
        net::listen(&fd, BACKLOG).map_err(|e| ListenErrorKind::System("listen", e.into()))?;
        let file = staging_dir.place(&path, stale)?;
        Ok((fd, Self { path, file, owned: true }))
    }
}

impl BoundPath {
    /// The path of a socket that another process has bound, and removes.
    #[cfg(all(feature = "daemon", target_os = "linux"))]
    pub(super) fn of_another(path: PathBuf, file: (u64, u64)) -> Self {
        Self { path, file, owned: false }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode.
    #[cfg(all(feature = "daemon", target_os = "linux"))]
    pub(super) fn file(&self) -> (u64, u64) {
        self.file
    }

    /// Says whether this process removes it.
    #[cfg(all(feature = "daemon", target_os = "linux"))]
    pub(super) fn set_owned(&mut self, owned: bool) {
        self.owned = owned;
    }
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        if self.owned && fs::lstat(&self.path).is_ok_and(|stat| file_of(&stat) == self.file) {
            // If that fails, a stale socket stays behind, which the next start replaces.
            let _ = fs::unlink(&self.path);
        }
    }
}

/// Locks the directory of `path` until the result is dropped; `None` if that fails, or takes more than
/// a second.
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

/// Returns true if there is a stale socket at `path`, false if there is nothing; refuses all else.
fn probe(path: &Path) -> Result<bool, ListenErrorKind> {
    let mode = match fs::lstat(path) {
        Ok(stat) => stat.st_mode,
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(ListenErrorKind::System("look at it", error.into())),
    };
    if FileType::from_raw_mode(mode) != FileType::Socket {
        return Err(ListenErrorKind::NotASocket);
    }
    let tried = stream::new_socket(AddressFamily::UNIX)
        .and_then(|fd| Ok(net::connect(&fd, &net::SocketAddrUnix::new(path)?)?));
    match tried.map_err(|error| Errno::from_io_error(&error)) {
        // A full backlog belongs to a live server, too.
        Ok(()) | Err(Some(Errno::AGAIN | Errno::INPROGRESS)) => Err(ListenErrorKind::InUse),
        Err(Some(Errno::CONNREFUSED)) => Ok(true),
        Err(Some(Errno::NOENT)) => Ok(false),
        Err(Some(Errno::PROTOTYPE)) => Err(ListenErrorKind::NotASocket),
        Err(Some(Errno::ACCESS)) => Err(ListenErrorKind::Inaccessible),
        Err(error) => {
            let error = error.map_or(io::ErrorKind::Other.into(), io::Error::from);
            Err(ListenErrorKind::System("find out whether it is in use", error))
        }
    }
}

/// The private directory in which a socket is prepared. Removed on drop.
struct StagingDir {
    dir: OwnedFd,
    path: PathBuf,
}

/// The name of the socket in the private directory.
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
            // In a parent that others can write to, another user may have replaced it.
            let stat = fs::fstat(&dir)?;
            let open = Mode::from_raw_mode(stat.st_mode).intersects(Mode::RWXG | Mode::RWXO);
            if stat.st_uid != rustix::process::geteuid().as_raw() || open {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            return Ok(Self { dir, path });
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Binds a socket in the directory; it does not listen yet.
    fn bind(&self) -> io::Result<OwnedFd> {
        let fd = stream::new_socket(AddressFamily::UNIX)?;
        let address = match net::SocketAddrUnix::new(self.path.join(FRESH)) {
            // The final path may fit where this longer one does not.
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

    /// Sets the group, mode and owner of the socket. The owner comes last: changing a socket of another
    /// owner needs more privileges.
    fn set_ownership(&self, ownership: &Ownership) -> Result<(), ListenErrorKind> {
        let cannot = |what, to: &str, error: &dyn fmt::Display| {
            ListenErrorKind::Ownership(what, to.to_owned(), error.to_string())
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

    fn stat(&self) -> Result<fs::Stat, ListenErrorKind> {
        fs::statat(&self.dir, FRESH, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| ListenErrorKind::System("look at it", error.into()))
    }

    /// Renames the socket to `path`, over a `stale` socket if there is one. Returns the file's identity.
    fn place(&self, path: &Path, stale: bool) -> Result<(u64, u64), ListenErrorKind> {
        let file = file_of(&self.stat()?);
        let moved = if stale {
            fs::renameat(&self.dir, FRESH, fs::CWD, path)
        } else {
            rename_new(&self.dir, FRESH, path)
        };
        match moved {
            Ok(()) => Ok(file),
            Err(Errno::EXIST) => Err(ListenErrorKind::InUse),
            Err(error) => Err(ListenErrorKind::System("put it there", error.into())),
        }
    }
}

impl Drop for StagingDir {
    fn drop(&mut self) {
        let _ = fs::unlinkat(&self.dir, FRESH, AtFlags::empty());
        let _ = fs::rmdir(&self.path);
    }
}

/// Renames `name` in `dir` to `path`; fails if `path` exists.
fn rename_new(dir: &OwnedFd, name: &str, path: &Path) -> Result<(), Errno> {
    #[cfg(target_os = "linux")]
    match fs::renameat_with(dir, name, fs::CWD, path, fs::RenameFlags::NOREPLACE) {
        // The file system or kernel does not support the flag.
        Err(Errno::INVAL | Errno::NOSYS) => {}
        result => return result,
    }
    fs::renameat(dir, name, fs::CWD, path)
}

/// The identity of a file: device and inode.
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
