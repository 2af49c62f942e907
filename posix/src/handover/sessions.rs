//! The sessions of a handover: in pieces while clients go on, and then what has changed since.
//!
//! ```text
//!  old server   copy: a piece a turn ──► file 1         changes logged ──► file 2: ids, file 3: sessions
//!  successor                             loads 1                            removes 2, then loads 3
//! ```
//!
//! A table that is small is not worth a copy: file 3 has all of it then, in the order of age. It also has
//! all if the log of changes was too short.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use distcache_core::server::next_change;
use distcache_core::state::{CHUNK_MAX, Encoder};
use distcache_core::table::{Cursor, Line, Session};
use distcache_core::{Array, Instant, Table};

use super::bytes::memory_file;
use crate::memory::Memory;
use crate::state::{self, Stamp};
use crate::sys;
use zeroize::Zeroizing;

/// The most sessions that are not worth a copy beforehand: they take some milliseconds.
pub(super) const SMALL: usize = 4096;
/// Blocks of the table in a piece: 512 KiB of it.
const PIECE: u32 = 2048;
/// The most bytes of a log of changes. What was never used takes no memory.
pub(crate) const LOG_LEN: usize = 64 << 20;

/// A copy that is being made.
pub(super) struct Copying {
    pub(super) file: File,
    encoder: Encoder<Memory>,
    cursor: Cursor,
}

impl Copying {
    pub(super) fn begin(now: Instant) -> io::Result<Self> {
        Ok(Self {
            file: memory_file(c"distcache-state")?,
            encoder: encoder(now)?,
            cursor: Cursor::default(),
        })
    }

    /// Copies a piece, and returns whether it was the last one.
    pub(super) fn piece<M: Array<Line>>(
        &mut self,
        now: Instant,
        table: &Table<M>,
    ) -> io::Result<bool> {
        let mut walk = table.walk(now, self.cursor, PIECE);
        push_all(&mut self.encoder, now, walk.by_ref(), &self.file)?;
        self.cursor = walk.cursor();
        let done = walk.is_done();
        if done {
            self.end()?;
        }
        Ok(done)
    }

    /// Ends the copy where it is.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.encoder.finish();
        drain(&mut self.encoder, &self.file)
    }

    /// The number of sessions so far.
    pub(super) fn sessions(&self) -> u64 {
        self.encoder.sessions()
    }
}

/// Writes all sessions, the oldest first, and returns their number.
pub(super) fn write_all<M: Array<Line>>(
    table: &Table<M>,
    now: Instant,
    mut file: &File,
) -> io::Result<u64> {
    state::write(table, Stamp::at(now), None, |bytes| file.write_all(bytes))
}

/// Writes the sessions that are there under the ids in a log of changes, and returns their number.
pub(super) fn write_changed<M: Array<Line>>(
    table: &Table<M>,
    now: Instant,
    changes: &[u8],
    file: &File,
) -> io::Result<u64> {
    let mut log = changes;
    let ids = std::iter::from_fn(|| {
        let (id, rest) = next_change(log)?;
        log = rest;
        Some(id)
    });
    let mut encoder = encoder(now)?;
    push_all(&mut encoder, now, ids.filter_map(|id| table.session_of(now, id)), file)?;
    encoder.finish();
    drain(&mut encoder, file)?;
    Ok(encoder.sessions())
}

/// Removes the sessions under the ids in a log of changes.
///
/// # Errors
/// `InvalidData` if it is no log, else the system's.
pub(super) fn remove_changed<M: Array<Line>>(
    table: &mut Table<M>,
    now: Instant,
    mut file: File,
) -> io::Result<()> {
    // All that it will hold, so that it does not leave copies where it was before it grew.
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(LOG_LEN).min(LOG_LEN);
    let mut bytes = Zeroizing::new(Vec::with_capacity(len + 1));
    file.seek(SeekFrom::Start(0))?;
    file.take(LOG_LEN as u64 + 1).read_to_end(&mut bytes)?;
    let mut log = &bytes[..];
    while let Some((id, rest)) = next_change(log) {
        table.remove(now, id);
        log = rest;
    }
    if log.is_empty() { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Loads sessions from a file, and returns their number, also of those that have expired or do not fit. No
/// lifetime is longer than `max_ttl` milliseconds.
pub(super) fn read<M: Array<Line>>(
    table: &mut Table<M>,
    now: Instant,
    mut file: File,
    max_ttl: u32,
) -> io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let loaded = state::load(&mut file, table, Stamp::at(now), max_ttl, None);
    loaded.map(|loaded| loaded.read).map_err(|error| io::Error::other(error.to_string()))
}

fn encoder(now: Instant) -> io::Result<Encoder<Memory>> {
    let mut salt = [0; 16];
    sys::random(&mut salt)?;
    let buffer = Memory::zeroed(CHUNK_MAX)?;
    let encoder = Encoder::new(buffer, now, Stamp::at(now).unix_ms, salt, None);
    encoder.ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

fn push_all<'a>(
    encoder: &mut Encoder<Memory>,
    now: Instant,
    sessions: impl Iterator<Item = Session<'a>>,
    file: &File,
) -> io::Result<()> {
    for session in sessions {
        drain(encoder, file)?;
        if !encoder.has_room() {
            encoder.close();
            drain(encoder, file)?;
        }
        encoder.push(now, session);
    }
    Ok(())
}

fn drain(encoder: &mut Encoder<Memory>, mut file: &File) -> io::Result<()> {
    while !encoder.pending().is_empty() {
        let pending = encoder.pending();
        let len = pending.len();
        file.write_all(pending)?;
        encoder.sent(len);
    }
    Ok(())
}
