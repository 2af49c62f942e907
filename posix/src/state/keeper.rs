//! The server's side: which piece of the state is written when.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use distcache_core::seal::Keys;
use distcache_core::state::{ABANDONED, CHUNK_MAX, Encoder};
use distcache_core::table::{Cursor, Line};
use distcache_core::{Array, Instant, Table};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::writer::{self, RESULT_LEN, WriteError};
use super::{Config, Stamp, salt, write};
use crate::memory::Memory;

/// Blocks of the table looked at in a piece: 8 KiB of it, which the processor's cache mostly does not have. A
/// request that comes meanwhile waits that long.
const PIECE: u32 = 32;
/// Bytes of records after which a chunk is closed.
const CHUNK: usize = 4 << 10;
/// The least time between two pieces, and until the writer is asked again, in milliseconds.
const PAUSE: u64 = 1;
/// The same while the writer syncs the file.
const SYNC_PAUSE: u64 = 50;
/// How long the end of the server waits for the writer to take or sync what it has.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Writes the state of a server, piece by piece while it runs, and as a whole at the end.
pub(crate) struct Keeper {
    socket: UnixStream,
    encoder: Encoder<Memory>,
    every: Option<u64>,
    stage: Stage,
    /// When there is something to do next; `None` for never.
    at: Option<Instant>,
    /// When writing began last.
    began: Instant,
}

#[derive(Clone, Copy)]
enum Stage {
    Idle,
    /// The next piece begins here.
    Writing(Cursor),
    /// The last chunk was encoded; its bytes or the writer's result are outstanding.
    Ending,
    /// The writer is gone.
    Dead,
}

/// The state was not written.
#[derive(Debug)]
pub(crate) enum KeepError {
    /// The writer could not write it.
    Write(WriteError),
    /// The writer is gone, or does not answer.
    Writer(io::Error),
}

impl fmt::Display for KeepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(error) => error.fmt(f),
            Self::Writer(error) => write!(f, "the process that writes it is gone: {error}"),
        }
    }
}

impl std::error::Error for KeepError {}

impl From<io::Error> for KeepError {
    fn from(error: io::Error) -> Self {
        Self::Writer(error)
    }
}

impl Keeper {
    /// Starts the writer and waits until it has shown that it can create files. The process must have one
    /// thread, and should have little memory yet.
    ///
    /// # Errors
    /// [`KeepError`].
    pub(crate) fn start(config: &Config, sandboxed: bool) -> Result<Self, KeepError> {
        let mut socket = writer::start(&config.path, sandboxed)?;
        // Nothing but reads, writes and polls from here on: the sandbox allows no other calls.
        socket.set_nonblocking(true)?;
        wait(&socket, PollFlags::IN)?;
        receive(&mut socket)?;
        let buffer = Memory::zeroed(CHUNK_MAX)?;
        let encoder = Encoder::new(buffer, Instant::ORIGIN, 0, [0; 16], None);
        let encoder = encoder.ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let every = config.every.map(|every| u64::try_from(every.as_millis()).unwrap_or(u64::MAX));
        let (stage, at) = (Stage::Idle, every.map(|every| Instant::ORIGIN.after(every)));
        Ok(Self { socket, encoder, every, stage, at, began: Instant::ORIGIN })
    }

    /// When [`turn`](Self::turn) has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.at
    }

    /// Does what is due, a bounded piece. Never blocks.
    ///
    /// # Errors
    /// [`KeepError`]: this state was not written. The next one is tried as usual, unless the writer is gone.
    pub(crate) fn turn<M: Array<Line>>(
        &mut self,
        now: Instant,
        table: &Table<M>,
        keys: Option<&Keys>,
    ) -> Result<(), KeepError> {
        if self.at.is_none_or(|at| now < at) {
            return Ok(());
        }
        let done = self.step(now, table, keys);
        if let Err(KeepError::Writer(_)) = done {
            (self.stage, self.at) = (Stage::Dead, None);
        }
        done
    }

    fn step<M: Array<Line>>(
        &mut self,
        now: Instant,
        table: &Table<M>,
        keys: Option<&Keys>,
    ) -> Result<(), KeepError> {
        if let Stage::Idle = self.stage {
            let stamp = Stamp::at(now);
            self.encoder.restart(now, stamp.unix_ms, salt()?, keys);
            (self.stage, self.began) = (Stage::Writing(Cursor::default()), now);
        }
        self.at = Some(now.after(PAUSE));
        if !self.send()? {
            return Ok(());
        }
        match self.stage {
            Stage::Idle | Stage::Dead => Ok(()),
            Stage::Writing(cursor) => {
                self.encode(now, table, cursor);
                self.send().map(drop).map_err(KeepError::Writer)
            }
            Stage::Ending => self.conclude(now),
        }
    }

    /// Encodes the next piece.
    fn encode<M: Array<Line>>(&mut self, now: Instant, table: &Table<M>, cursor: Cursor) {
        let mut walk = table.walk(now, cursor, PIECE);
        while self.encoder.has_room() {
            let Some(session) = walk.next() else { break };
            self.encoder.push(now, session);
        }
        self.stage = Stage::Writing(walk.cursor());
        if walk.is_done() {
            self.encoder.finish();
            self.stage = Stage::Ending;
        } else if self.encoder.open() >= CHUNK || !self.encoder.has_room() {
            self.encoder.close();
        }
    }

    /// Sends what is pending, and returns whether that is everything.
    fn send(&mut self) -> io::Result<bool> {
        while !self.encoder.pending().is_empty() {
            match self.socket.write(self.encoder.pending()) {
                Ok(count) => self.encoder.sent(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Takes the writer's result, if it is there.
    fn conclude(&mut self, now: Instant) -> Result<(), KeepError> {
        match receive(&mut self.socket) {
            Err(KeepError::Writer(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.at = Some(now.after(SYNC_PAUSE));
                Ok(())
            }
            result => {
                self.stage = Stage::Idle;
                self.at = self.every.map(|every| self.began.after(every).max(now.after(PAUSE)));
                result
            }
        }
    }

    /// Writes all sessions, waits until they are on the disk, and returns their number.
    ///
    /// # Errors
    /// [`KeepError`]; the state file is as it was.
    pub(crate) fn finish<M: Array<Line>>(
        mut self,
        now: Instant,
        table: &Table<M>,
        keys: Option<&Keys>,
    ) -> Result<u64, KeepError> {
        let Self { socket, encoder, stage, .. } = &mut self;
        match *stage {
            Stage::Dead => return Err(KeepError::Writer(io::ErrorKind::BrokenPipe.into())),
            Stage::Idle => {}
            Stage::Writing(_) => {
                send_all(socket, encoder.pending())?;
                send_all(socket, &ABANDONED)?;
            }
            Stage::Ending => {
                send_all(socket, encoder.pending())?;
                wait(socket, PollFlags::IN)?;
                // The state that is written now counts, whatever became of this one.
                let _ = receive(socket);
            }
        }
        let sessions = write(table, Stamp::at(now), keys, |bytes| send_all(socket, bytes))?;
        wait(socket, PollFlags::IN)?;
        receive(socket)?;
        Ok(sessions)
    }
}

/// Sends all of `bytes`, and waits for the writer where it has to.
fn send_all(socket: &mut UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(socket, PollFlags::OUT)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until the writer has taken something, or has answered.
fn wait(socket: &UnixStream, flags: PollFlags) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(socket, flags)], Some(&PATIENCE)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives the writer's result.
fn receive(socket: &mut UnixStream) -> Result<(), KeepError> {
    let mut result = [0; RESULT_LEN];
    // A result is a single write of a few bytes, so it is there as a whole or not at all.
    socket.read_exact(&mut result)?;
    WriteError::check(result).map_err(KeepError::Write)
}
