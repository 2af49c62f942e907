//! The state file: opening it, refusing it, and keeping a refused one aside.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use distcache_core::seal::Keys;
use distcache_core::state::Refused;
use distcache_core::table::Line;
use distcache_core::{Array, Table};
use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::{Loaded, Stamp, load};

/// The most states that are kept aside.
const ASIDE_MAX: u32 = 10;

/// Why a state was not loaded.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// It is not a regular file: a symbolic link, a directory, a pipe or a device.
    NotAFile,
    /// Another user owns it.
    Owner(u32),
    /// Its mode lets others read or write it.
    Mode(Mode),
    /// Its content is refused.
    Refused(Refused),
    /// Opening or reading it failed.
    Read(io::Error),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAFile => f.write_str("it is not a regular file"),
            Self::Owner(uid) => write!(f, "it belongs to user {uid}, not to the server's own"),
            Self::Mode(mode) => {
                let mode = mode.bits();
                write!(f, "its mode {mode:03o} lets others use it; only 600 does not")
            }
            Self::Refused(refused) => refused.fmt(f),
            Self::Read(error) => write!(f, "cannot read it: {error}"),
        }
    }
}

impl std::error::Error for LoadError {}

/// What became of the state file at the start.
#[derive(Debug)]
pub(crate) enum Restored {
    /// There is none.
    None,
    /// It was loaded.
    Loaded(Loaded),
    /// It was refused. The table is empty, and the file was kept aside, or could not be.
    Refused(LoadError, Result<PathBuf, Errno>),
}

/// Loads the state file at `path` into an empty table. A file that was loaded is removed unless `keep` is
/// set, one that is refused gets the name [`aside`].
///
/// # Errors
/// The file was loaded and cannot be removed: after a crash it would be loaded again, and bring back what
/// was removed since.
pub(crate) fn restore<M: Array<Line>>(
    path: &Path,
    keep: bool,
    table: &mut Table<M>,
    stamp: Stamp,
    max_ttl: u32,
    keys: Option<&Keys>,
) -> io::Result<Restored> {
    let loaded = match open(path) {
        Ok(None) => return Ok(Restored::None),
        Ok(Some(mut file)) => load(&mut file, table, stamp, max_ttl, keys),
        Err(error) => Err(error),
    };
    match loaded {
        Ok(loaded) => {
            if !keep {
                fs::unlink(path)?;
                // After a loss of power it must not be there again.
                sync_dir(path);
            }
            Ok(Restored::Loaded(loaded))
        }
        Err(error) => {
            let aside = aside(path);
            let kept = fs::rename(path, &aside).map(|()| aside);
            Ok(Restored::Refused(error, kept))
        }
    }
}

/// Opens the state file, if there is one and only its owner, who is this user, can use it.
fn open(path: &Path) -> Result<Option<File>, LoadError> {
    // Not blocking: the open of a pipe would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        // A symbolic link, or a socket.
        Err(Errno::LOOP | Errno::MLINK | Errno::NXIO | Errno::OPNOTSUPP) => {
            return Err(LoadError::NotAFile);
        }
        Err(error) => return Err(LoadError::Read(error.into())),
    };
    let stat = fs::fstat(&file).map_err(|error| LoadError::Read(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(LoadError::NotAFile);
    }
    if stat.st_uid != geteuid().as_raw() {
        return Err(LoadError::Owner(stat.st_uid));
    }
    let mode = Mode::from_raw_mode(stat.st_mode) & (Mode::RWXU | Mode::RWXG | Mode::RWXO);
    if mode.intersects(Mode::RWXG | Mode::RWXO) {
        return Err(LoadError::Mode(mode));
    }
    Ok(Some(file.into()))
}

/// The name of a state that was refused: `.bad` at the end, and a number from the second one on. After ten
/// of them the last is replaced.
pub(super) fn aside(path: &Path) -> PathBuf {
    let first = with_suffix(path, ".bad");
    let mut names = (1..ASIDE_MAX).map(|number| with_suffix(&first, &format!(".{number}")));
    let free = |name: &PathBuf| matches!(fs::lstat(name), Err(Errno::NOENT));
    std::iter::once(first.clone())
        .chain(names.clone())
        .find(free)
        .or(names.next_back())
        .unwrap_or(first)
}

/// Has the disk know the names in the directory of `path`. Not all file systems can.
pub(super) fn sync_dir(path: &Path) {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let _ = File::open(dir).and_then(|dir| dir.sync_all());
}

/// The name of a state until it is complete: `.new` at the end.
pub(super) fn temporary(path: &Path) -> PathBuf {
    with_suffix(path, ".new")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
