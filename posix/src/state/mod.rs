//! Warm restart: `-state` keeps the sessions of a server in a file while it does not run.
//!
//! ```text
//!  start    file ── load ──► table                    then the file is removed, unless -statewrite keeps it
//!  loop     table ── a piece a millisecond ──┐        with -statewrite
//!  TERM     table ── all of it, by age ──────┴─► writer (a process) ──► file.new ── fsync, rename ──► file
//! ```
//!
//! The format is that of [`distcache_core::state`].
//!
//! *The writer* is a process of its own, forked before the table exists. It takes the bytes of a state
//! over a socket, writes them to a temporary file beside the state file, and then renames that. So no
//! write, `fsync` or full disk ever keeps the loop from its clients, and the server itself opens no file
//! once it runs. If the server dies, the writer sees the end of the socket and removes the temporary
//! file. If the writer dies, the server goes on and says that the state is not written any more. A kill of
//! either leaves the file as it was, or the new one, whole.
//!
//! *Time.* While it runs, a turn writes at most one piece and at most one a millisecond, and a piece is
//! skipped while the writer has not taken the one before. Nothing is written between two states. At the end
//! the server waits for the writer: it is the last thing that it does.
//!
//! *What a crash means.* The file that was loaded is removed before the first client is served, so what
//! was removed or taken since never comes back, and a crash loses everything. With `-statewrite` the file
//! stays, and is at most as old as the interval and the time of writing: after a crash sessions that were
//! removed or taken since then come back.
//!
//! A file that is refused is kept as `file.bad`, the next ones as `file.bad.1` to `file.bad.9`.

mod file;
mod keeper;
mod keeping;
#[cfg(test)]
mod tests;
mod writer;

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use distcache_core::seal::Keys;
use distcache_core::state::{CHUNK_MAX, Decoder, Encoder};
use distcache_core::table::Line;
use distcache_core::{Array, Instant, Table};

use crate::clock;
use crate::memory::Memory;
use crate::sys;

pub(crate) use file::LoadError;
pub(crate) use keeping::Keeping;
#[cfg(test)]
use writer::WriteError;

/// Where and when the state of a server is written.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file, as an absolute path.
    pub path: PathBuf,
    /// How often it is written while the server runs; `None` for only at the end.
    pub every: Option<Duration>,
    /// The file of the keys that seal it; `None` for plain sessions.
    pub seal_keys: Option<PathBuf>,
}

/// The two clocks at the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) now: Instant,
    /// Milliseconds since 1970.
    pub(crate) unix_ms: u64,
}

impl Stamp {
    /// The time by the wall clock, which is `now` by the event loop's.
    pub(crate) fn at(now: Instant) -> Self {
        Self { now, unix_ms: clock::unix_millis() }
    }
}

/// Writes all sessions to `sink`, the oldest first, and returns their number. The table does not change
/// meanwhile.
///
/// # Errors
/// Those of `sink`, and of the system's random number generator and memory.
pub(crate) fn write<M: Array<Line>>(
    table: &Table<M>,
    stamp: Stamp,
    keys: Option<&Keys>,
    mut sink: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    let (now, buffer) = (stamp.now, Memory::zeroed(CHUNK_MAX)?);
    let encoder = Encoder::new(buffer, now, stamp.unix_ms, salt()?, keys);
    let mut encoder = encoder.ok_or(io::ErrorKind::OutOfMemory)?;
    let mut sessions = table.by_age(now);
    loop {
        sink(encoder.pending())?;
        encoder.sent(encoder.pending().len());
        if encoder.is_done() {
            return Ok(encoder.sessions());
        }
        while encoder.has_room() {
            let Some(session) = sessions.next() else {
                encoder.finish();
                break;
            };
            encoder.push(now, session);
        }
        encoder.close();
    }
}

/// How many sessions were loaded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Loaded {
    /// Sessions in the state.
    pub(crate) read: u64,
    /// Sessions in the table afterwards: the others have expired, or did not fit.
    pub(crate) stored: u32,
}

/// Reads a state from `source` to its end, into an empty table. No lifetime is longer than `max_ttl`
/// milliseconds.
///
/// # Errors
/// [`LoadError::Refused`] and [`LoadError::Read`]; the table is empty again.
pub(crate) fn load<M: Array<Line>>(
    source: &mut impl Read,
    table: &mut Table<M>,
    stamp: Stamp,
    max_ttl: u32,
    keys: Option<&Keys>,
) -> Result<Loaded, LoadError> {
    let loaded = load_all(source, table, stamp, max_ttl, keys);
    if loaded.is_err() {
        table.clear();
    }
    loaded
}

fn load_all<M: Array<Line>>(
    source: &mut impl Read,
    table: &mut Table<M>,
    stamp: Stamp,
    max_ttl: u32,
    keys: Option<&Keys>,
) -> Result<Loaded, LoadError> {
    let buffer = Memory::zeroed(CHUNK_MAX).map_err(LoadError::Read)?;
    let decoder = Decoder::new(buffer, stamp.unix_ms, keys);
    let mut decoder = decoder.ok_or_else(|| LoadError::Read(io::ErrorKind::OutOfMemory.into()))?;
    loop {
        match source.read(decoder.space()) {
            Ok(0) => break,
            Ok(count) => decoder.filled(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(LoadError::Read(error)),
        }
        for record in decoder.advance().map_err(LoadError::Refused)?.into_iter().flatten() {
            let ttl = record.ttl.min(max_ttl);
            // What does not fit in this table is as if it had been evicted.
            let _ = table.restore(stamp.now, ttl, record.class, record.id, record.data);
        }
    }
    let read = decoder.end().map_err(LoadError::Refused)?;
    Ok(Loaded { read, stored: table.len() })
}

fn salt() -> io::Result<[u8; 16]> {
    let mut salt = [0; 16];
    sys::random(&mut salt)?;
    Ok(salt)
}
