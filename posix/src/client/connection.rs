//! One connection to a server: one request at a time, each with a deadline.

use std::io;
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::{Duration, Instant};

use distcache_core::client::{self, MEMORY};
use distcache_core::message::{Reply, Request};
use distcache_core::wire::Malformed;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::failure::FailureKind;
use super::process::Process;
use crate::net::address::Target;
use crate::net::stream::{Received, Stream};

/// The first and the longest wait before connecting again to a UNIX socket whose backlog is full.
const BACKLOG_WAITS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(16)];

/// The waits for room in a full backlog, each longer than the last.
pub(super) struct BacklogWaits(Duration);

impl BacklogWaits {
    pub(super) fn new() -> Self {
        Self(BACKLOG_WAITS[0])
    }

    /// The next wait, no longer than the time that is `left`; `None` if no time is left.
    pub(super) fn next(&mut self, left: Duration) -> Option<Duration> {
        let wait = self.0.min(left);
        self.0 = (self.0 * 2).min(BACKLOG_WAITS[1]);
        (!wait.is_zero()).then_some(wait)
    }
}

/// The memory of a connection: [`MEMORY`] bytes.
pub(super) type Memory = Box<[u8]>;

/// The protocol side. It lives as long as the connection: it numbers the requests, and so tells a late
/// answer from the expected one.
type Machine = client::Connection<Memory>;

/// The time at which an operation ends, done or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    pub(super) fn after(timeout: Duration) -> Self {
        Self(Instant::now() + timeout)
    }

    pub(super) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// The deadline of the first of `count` attempts, which share the time left.
    pub(super) fn share(self, count: usize) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        Self(self.0.min(Instant::now() + self.left() / count))
    }
}

/// A stream and the protocol on it. Dropping it closes the stream.
pub(super) struct Connection {
    stream: Stream,
    machine: Machine,
    /// The process that opened it. After a fork another process has the descriptor, too.
    process: Process,
}

impl Connection {
    /// Connects to the first of `targets` that accepts, beginning with number `first`. Returns the
    /// number of that target, or the error of the last one.
    pub(super) fn open(
        targets: &[Target],
        first: usize,
        deadline: Deadline,
        memory: Option<Memory>,
    ) -> Result<(Self, usize), FailureKind> {
        let mut kind = FailureKind::TimedOut;
        for tried in 0..targets.len() {
            let number = (first + tried) % targets.len();
            match connect(&targets[number], deadline.share(targets.len() - tried)) {
                Ok(stream) => return Ok((Self::new(stream, memory)?, number)),
                Err(error) => kind = error,
            }
        }
        Err(kind)
    }

    fn new(stream: Stream, memory: Option<Memory>) -> Result<Self, FailureKind> {
        let memory = match memory {
            Some(memory) => memory,
            None => new_memory().ok_or(FailureKind::OutOfMemory)?,
        };
        // Cannot fail: the memory has the needed size.
        let machine = Machine::new(memory).ok_or(FailureKind::OutOfMemory)?;
        Ok(Self { stream, machine, process: Process::current() })
    }

    /// Whether `process` opened this connection.
    pub(super) fn is_of(&self, process: Process) -> bool {
        self.process == process
    }

    /// The server's patch level, from this connection or an earlier one; 0 if unknown.
    pub(super) fn level(&self) -> u16 {
        self.machine.level()
    }

    /// Accepts a request without sending it. Fails if the connection is unusable: the server has closed
    /// it meanwhile, or has sent bytes that belong to no request.
    pub(super) fn begin(&mut self, request: &Request<'_>, level: u16) -> Result<(), FailureKind> {
        let Self { stream, machine, .. } = self;
        machine.set_level(level);
        // Cannot fail: long requests were refused before, and an unanswered one closes its connection.
        machine.request(request).map_err(|_| FailureKind::Malformed(Malformed::Payload))?;
        // Bytes received with the last answer, behind it.
        if machine.advance().map_err(FailureKind::Malformed)? {
            return Err(FailureKind::Malformed(Malformed::Payload));
        }
        match stream.recv(machine.space()).map_err(FailureKind::Io)? {
            Received::Nothing => Ok(()),
            Received::Bytes(_) => Err(FailureKind::Malformed(Malformed::Payload)),
            Received::Ended => Err(FailureKind::Closed),
        }
    }

    /// Sends the request and waits for its answer.
    pub(super) fn finish(&mut self, deadline: Deadline) -> Result<(), FailureKind> {
        exchange(&self.stream, &mut self.machine, deadline)
    }

    /// The answer, after [`finish`](Self::finish).
    pub(super) fn reply(&self) -> Option<Reply<'_>> {
        self.machine.reply()
    }

    /// Wipes the answer, once it has been used.
    pub(super) fn clear_reply(&mut self) {
        self.machine.clear_reply();
    }

    /// Closes the connection and returns its memory, wiped.
    pub(super) fn close(self) -> Memory {
        self.machine.into_memory()
    }
}

/// Fallible, since callers may be servers that must survive running out of memory.
fn new_memory() -> Option<Memory> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(MEMORY).ok()?;
    memory.resize(MEMORY, 0);
    Some(memory.into_boxed_slice())
}

fn exchange(stream: &Stream, machine: &mut Machine, deadline: Deadline) -> Result<(), FailureKind> {
    while !machine.pending().is_empty() {
        match stream.send(machine.pending()).map_err(FailureKind::Io)? {
            0 => wait(stream.write_fd(), PollFlags::OUT, deadline)?,
            sent => machine.sent(sent),
        }
    }
    while !machine.advance().map_err(FailureKind::Malformed)? {
        wait(stream.read_fd(), PollFlags::IN, deadline)?;
        match stream.recv(machine.space()).map_err(FailureKind::Io)? {
            Received::Bytes(len) => machine.filled(len),
            Received::Ended => return Err(FailureKind::Closed),
            Received::Nothing => {}
        }
    }
    Ok(())
}

fn connect(target: &Target, deadline: Deadline) -> Result<Stream, FailureKind> {
    let mut waits = BacklogWaits::new();
    loop {
        match Stream::connect(target) {
            Ok((stream, false)) => return Ok(stream),
            Ok((stream, true)) => {
                wait(stream.write_fd(), PollFlags::OUT, deadline)?;
                stream.connected().map_err(FailureKind::Connect)?;
                return Ok(stream);
            }
            // The backlog of a UNIX socket is full. No event tells when there is room again.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(waits.next(deadline.left()).ok_or(FailureKind::TimedOut)?);
            }
            Err(error) => return Err(FailureKind::Connect(error)),
        }
    }
}

/// Waits until `fd` is ready for `what` or has failed; the next call on it tells which.
fn wait(
    fd: Option<BorrowedFd<'_>>,
    what: PollFlags,
    deadline: Deadline,
) -> Result<(), FailureKind> {
    let Some(fd) = fd else {
        return Err(FailureKind::Io(io::ErrorKind::Unsupported.into()));
    };
    loop {
        let left = Timespec::try_from(deadline.left()).map_err(|_| FailureKind::TimedOut)?;
        match poll(&mut [PollFd::from_borrowed_fd(fd, what)], Some(&left)) {
            Ok(0) => return Err(FailureKind::TimedOut),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(FailureKind::Io(error.into())),
        }
    }
}
