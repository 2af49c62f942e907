//! The key file of sealed sessions.
//!
//! ```text
//! # newest first; the first key seals, all of them open
//! 5f0c…64 hexadecimal digits…91
//! a77b…64 hexadecimal digits…02
//! ```
//!
//! One key a line, at most [`KEYS_MAX`]. Empty lines and lines that begin with `#` are skipped, and so is
//! space around a key. The file has at most [`FILE_MAX`] bytes, mode 600 or less, and belongs to root or to
//! the user that reads it. If one line is wrong, the whole file is refused: with some of the keys only,
//! sessions would be lost and nobody would learn why.
//!
//! [`KeyFile::read`] looks at owner and mode through the descriptor that it reads from, so the file cannot be
//! exchanged in between. It allocates nothing if the path has fewer than 256 bytes, and wipes what it read.
//! A daemon reads the file at its start and on SIGHUP. [`SealKeys`] is for a library in another program's
//! process, which has no signal of its own: it looks once in ten seconds whether the file has changed.

pub(crate) mod every;
mod watched;

use std::fmt::{self, Write};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use distcache_core::seal::{KEY_LEN, KEYS_MAX, Keys, parse_key};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use zeroize::Zeroizing;

use crate::sys;
pub use watched::SealKeys;

/// The most bytes of a key file.
pub const FILE_MAX: usize = 8192;

/// A key file: its path, which is read again and again.
#[derive(Clone, Debug)]
pub struct KeyFile {
    path: Arc<Path>,
}

/// Why a key file was refused, in one line that names the file and says what to do.
#[derive(Debug)]
pub struct KeyFileError {
    path: Arc<Path>,
    kind: KeyFileErrorKind,
}

/// The reason of a [`KeyFileError`]. Lines count from 1.
#[derive(Debug)]
#[non_exhaustive]
pub enum KeyFileErrorKind {
    /// It cannot be opened or read.
    System(io::Error),
    /// A directory, a device or something else without lines.
    NotAFile,
    /// It belongs to this user, who is neither root nor the reader.
    Owner(u32),
    /// Others can read or change it: its mode.
    TooOpen(u16),
    /// It has more than [`FILE_MAX`] bytes.
    TooLong,
    /// It has no key.
    Empty,
    /// This line is not a key.
    Malformed(usize),
    /// This line has the same key as an earlier one.
    Repeated(usize),
    /// This line has one key too many.
    TooMany(usize),
}

impl KeyFile {
    /// The key file at `path`. Does not look at it.
    pub fn new(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// The path that it was made with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the keys. Allocates nothing if the path has fewer than 256 bytes.
    ///
    /// # Errors
    /// [`KeyFileError`] if anything about the file is wrong.
    pub fn read(&self) -> Result<Keys, KeyFileError> {
        self.read_with_stat().map(|(keys, _)| keys)
    }

    fn read_with_stat(&self) -> Result<(Keys, Stat), KeyFileError> {
        let failed = |kind| KeyFileError { path: Arc::clone(&self.path), kind };
        let system = |errno: rustix::io::Errno| failed(KeyFileErrorKind::System(errno.into()));
        // A FIFO must not hold up the reader, nor a terminal become its own.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::open(&*self.path, flags, Mode::empty()).map_err(system)?;
        let stat = rustix::fs::fstat(&file).map_err(system)?;
        inspect(&stat, rustix::process::geteuid().as_raw()).map_err(failed)?;
        let mut text = Zeroizing::new([0; FILE_MAX + 1]);
        let len = fill(&file, &mut *text).map_err(system)?;
        let text = text.get(..len).unwrap_or_default();
        Ok((parse(text).map_err(failed)?, stat))
    }
}

/// Checks what the file is, whose it is, and who else can read it.
fn inspect(stat: &Stat, own: u32) -> Result<(), KeyFileErrorKind> {
    let mode = stat.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Err(KeyFileErrorKind::NotAFile);
    }
    if stat.st_uid != 0 && stat.st_uid != own {
        return Err(KeyFileErrorKind::Owner(stat.st_uid));
    }
    let permissions = Mode::from_raw_mode(mode) & Mode::from_raw_mode(0o7777);
    if !(Mode::RUSR | Mode::WUSR).contains(permissions) {
        return Err(KeyFileErrorKind::TooOpen(permissions.bits().try_into().unwrap_or(0o7777)));
    }
    Ok(())
}

/// Reads until the end or until `text` is full; returns how much was read.
fn fill(file: impl AsFd, text: &mut [u8]) -> rustix::io::Result<usize> {
    let mut len = 0;
    while let Some(space) = text.get_mut(len..)
        && !space.is_empty()
    {
        match rustix::io::read(&file, space) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

fn parse(text: &[u8]) -> Result<Keys, KeyFileErrorKind> {
    if text.len() > FILE_MAX {
        return Err(KeyFileErrorKind::TooLong);
    }
    let mut keys = Zeroizing::new([[0; KEY_LEN]; KEYS_MAX]);
    let mut count = 0;
    for (line, number) in text.split(|&byte| byte == b'\n').zip(1..) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let key = parse_key(line).ok_or(KeyFileErrorKind::Malformed(number))?;
        let (earlier, free) = keys.split_at_mut(count);
        if earlier.contains(&key) {
            return Err(KeyFileErrorKind::Repeated(number));
        }
        *free.first_mut().ok_or(KeyFileErrorKind::TooMany(number))? = *key;
        count += 1;
    }
    Keys::new(&keys[..count]).ok_or(KeyFileErrorKind::Empty)
}

/// A new random key as a line of a key file, with its end of line.
///
/// # Errors
/// The system's, if it has no randomness.
pub fn new_key() -> io::Result<Zeroizing<String>> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    sys::random(&mut *key)?;
    // All of it at once: a string that grows leaves copies behind.
    let mut line = Zeroizing::new(String::with_capacity(2 * KEY_LEN + 1));
    for byte in *key {
        // Writing to a string cannot fail.
        let _ = write!(line, "{byte:02x}");
    }
    line.push('\n');
    Ok(line)
}

/// Seconds since 1970, as [`Keys`] take them; 0 before, the greatest number after 2106.
pub fn unix_now() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

impl KeyFileError {
    /// The reason.
    pub const fn kind(&self) -> &KeyFileErrorKind {
        &self.kind
    }
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        write!(f, "cannot use the keys in {path}: ")?;
        match &self.kind {
            KeyFileErrorKind::System(error) if error.kind() == io::ErrorKind::NotFound => {
                f.write_str("there is no such file: create it with `dc_client -newkey`, mode 600")
            }
            KeyFileErrorKind::System(error) => error.fmt(f),
            KeyFileErrorKind::NotAFile => f.write_str("not a regular file"),
            KeyFileErrorKind::Owner(owner) => {
                let own = rustix::process::geteuid().as_raw();
                write!(f, "it belongs to user {owner}: it must belong to root or to user {own}")
            }
            KeyFileErrorKind::TooOpen(mode) => {
                write!(f, "its mode is {mode:o}: only its owner may read it: chmod 600 {path}")
            }
            KeyFileErrorKind::TooLong => write!(f, "more than {FILE_MAX} bytes: not a key file"),
            KeyFileErrorKind::Empty => {
                f.write_str("there is no key: add one with `dc_client -newkey`")
            }
            KeyFileErrorKind::Malformed(line) => {
                write!(f, "line {line} is not a key: a key is {} hexadecimal digits", 2 * KEY_LEN)
            }
            KeyFileErrorKind::Repeated(line) => {
                write!(f, "line {line} has the same key as an earlier line: remove one of them")
            }
            KeyFileErrorKind::TooMany(line) => {
                write!(
                    f,
                    "line {line} has key number {}: remove the oldest, the last ones",
                    KEYS_MAX + 1
                )
            }
        }
    }
}

impl std::error::Error for KeyFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            KeyFileErrorKind::System(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
