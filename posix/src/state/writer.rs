//! The writer: the process that puts states into the file.
//!
//! ```text
//!  server ──► header, chunks, last chunk | header, chunks, ABANDONED | ..          the bytes of states
//!         ◄── result                                                               after each last chunk
//! ```
//!
//! The bytes say themselves where a state ends. A result is the step that failed and the system's error
//! number, 0 for none. The first one comes at once and says whether the directory can be written to. The
//! writer ends when the socket does.

use std::ffi::c_int;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use distcache_core::state::{ABANDONED, CHUNK_MAX, HEAD_LEN, HEADER_LEN, follows};
use rustix::fs::{self, Mode, OFlags};
use zeroize::Zeroize;

use super::file::temporary;
use crate::process::sandbox::Permit;
use crate::sys::{self, Disposition};

/// The bytes of a result.
pub(super) const RESULT_LEN: usize = 8;

/// What the writer does to write a state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Create = 1,
    Write,
    Sync,
    Rename,
}

/// A state was not written.
#[derive(Debug)]
pub(crate) struct WriteError {
    step: Step,
    error: io::Error,
}

impl WriteError {
    /// Reads a result.
    pub(super) fn check(result: [u8; RESULT_LEN]) -> Result<(), Self> {
        let [step, .., a, b, c, d] = result;
        let step = match step {
            0 => return Ok(()),
            1 => Step::Create,
            2 => Step::Write,
            3 => Step::Sync,
            _ => Step::Rename,
        };
        let error = io::Error::from_raw_os_error(i32::from_le_bytes([a, b, c, d]));
        Err(Self { step, error })
    }

    fn result(&self) -> [u8; RESULT_LEN] {
        let [a, b, c, d] = self.error.raw_os_error().unwrap_or(libc::EIO).to_le_bytes();
        [self.step as u8, 0, 0, 0, a, b, c, d]
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match self.step {
            Step::Create => "create a file beside it",
            Step::Write => "write it",
            Step::Sync => "sync it to the disk",
            Step::Rename => "put it in its place",
        };
        write!(f, "cannot {step}: {}", self.error)
    }
}

/// Starts the writer of the state file at `path`, and returns the socket to it.
///
/// The process must have one thread. If `sandboxed`, the writer can only use the directory of the file.
///
/// # Errors
/// The system's error.
pub(super) fn start(path: &Path, sandboxed: bool) -> io::Result<UnixStream> {
    let (server, writer) = UnixStream::pair()?;
    if sys::fork()? {
        drop(server);
        run(writer, path, sandboxed);
    }
    Ok(server)
}

/// The writer's life. It ends by `_exit`: nothing that it was forked from is dropped.
fn run(mut socket: UnixStream, path: &Path, sandboxed: bool) -> ! {
    // The server decides when the writer ends, whatever signal its group or service gets.
    let signals: [c_int; 6] =
        [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGQUIT];
    for signal in signals {
        let _ = sys::set_signal(signal, Disposition::Ignore);
    }
    // Listeners and pipes must close when the server closes them.
    sys::close_all_but(socket.as_raw_fd());
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    let _ = rustix::process::chdir("/");
    // It must not take the processor from the server that has just sent to it.
    sys::schedule::be_batch();
    let target = Target::new(path);
    let mut chunk = vec![0; CHUNK_MAX];
    if sandboxed {
        let mut permit = Permit::default();
        permit.write(target.dir());
        // What the kernel lacks the server says, too.
        let _ = permit.enter();
    }
    let mut open = socket.write_all(&result(&target.probe()));
    while open.is_ok() {
        open = one_state(&mut socket, &target, &mut chunk);
    }
    chunk.zeroize();
    sys::exit_now(0)
}

/// Receives a state, writes it, and answers unless it was abandoned. An error is the end of the socket.
pub(super) fn one_state(
    socket: &mut UnixStream,
    target: &Target,
    chunk: &mut [u8],
) -> io::Result<()> {
    socket.read_exact(&mut chunk[..HEADER_LEN])?;
    let mut file = target.create();
    write(&mut file, &chunk[..HEADER_LEN]);
    let complete = pass_on(socket, &mut file, chunk);
    if !matches!(complete, Ok(true)) {
        target.remove();
        return complete.map(drop);
    }
    let written = file.and_then(|file| target.put_in_place(&file));
    if written.is_err() {
        target.remove();
    }
    socket.write_all(&result(&written))
}

/// Writes chunk after chunk to the file. Returns true after the last one, and false if the state was
/// abandoned.
fn pass_on(
    socket: &mut UnixStream,
    file: &mut Result<File, WriteError>,
    chunk: &mut [u8],
) -> io::Result<bool> {
    loop {
        let mut head = [0; HEAD_LEN];
        socket.read_exact(&mut head)?;
        if head == ABANDONED {
            return Ok(false);
        }
        let (len, last) = follows(head).ok_or(io::ErrorKind::InvalidData)?;
        chunk[..HEAD_LEN].copy_from_slice(&head);
        socket.read_exact(&mut chunk[HEAD_LEN..HEAD_LEN + len])?;
        write(file, &chunk[..HEAD_LEN + len]);
        if last {
            return Ok(true);
        }
    }
}

/// Writes to the file, unless something has failed before.
fn write(file: &mut Result<File, WriteError>, bytes: &[u8]) {
    let Ok(open) = file else { return };
    if let Err(error) = open.write_all(bytes) {
        *file = Err(WriteError { step: Step::Write, error });
    }
}

fn result(written: &Result<(), WriteError>) -> [u8; RESULT_LEN] {
    written.as_ref().map_or_else(WriteError::result, |()| [0; RESULT_LEN])
}

/// The state file, and its name until it is complete.
pub(super) struct Target {
    path: PathBuf,
    temporary: PathBuf,
}

impl Target {
    pub(super) fn new(path: &Path) -> Self {
        Self { temporary: temporary(path), path: path.to_owned() }
    }

    /// Whether files can be created beside the state file. Removes what a killed writer has left.
    fn probe(&self) -> Result<(), WriteError> {
        let created = self.create().map(drop);
        self.remove();
        created
    }

    fn create(&self) -> Result<File, WriteError> {
        self.remove();
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::open(&self.temporary, flags, Mode::RUSR | Mode::WUSR);
        file.map(File::from).map_err(|error| WriteError { step: Step::Create, error: error.into() })
    }

    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    fn remove(&self) {
        let _ = fs::unlink(&self.temporary);
    }

    /// Makes a complete state the state file: on the disk first, then under its name.
    fn put_in_place(&self, file: &File) -> Result<(), WriteError> {
        let failed = |step| move |error| WriteError { step, error };
        file.sync_all().map_err(failed(Step::Sync))?;
        std::fs::rename(&self.temporary, &self.path).map_err(failed(Step::Rename))?;
        // The state is in its place; not all file systems can sync a directory.
        let _ = File::open(self.dir()).and_then(|dir| dir.sync_all());
        Ok(())
    }
}
