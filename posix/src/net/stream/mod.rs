//! A connected byte stream that never blocks and never raises a signal.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::{Errno, FdFlags};
use rustix::net::{
    self, AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

use crate::net::address::{Target, UnixName};
use crate::sys;

/// A connected byte stream: one descriptor for both directions, or one for each.
///
/// Its descriptors are non-blocking and closed on exec; on TCP, Nagle's algorithm is off. Dropping it
/// closes them. An inherited stream must be removed from the poller before.
#[derive(Debug)]
pub struct Stream {
    ends: Ends,
    /// Whether the write end is a socket: only `send` has a flag against SIGPIPE.
    socket: bool,
    tcp: bool,
    /// Whether another process may have the same file open, too.
    shared: bool,
}

/// The result of [`Stream::recv`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// This many bytes, at least 1.
    Bytes(usize),
    /// End of the stream: the peer has closed its side.
    Ended,
    /// Nothing at present: poll, then try again.
    Nothing,
}

#[derive(Debug)]
enum Ends {
    One(OwnedFd),
    Two { read: Option<OwnedFd>, write: Option<OwnedFd> },
}

impl Stream {
    /// Starts connecting to `target`. If the flag is true, the outcome is still open: wait until the
    /// stream is writable, then call [`connected`](Self::connected).
    ///
    /// # Errors
    /// `WouldBlock` if the backlog of a UNIX socket is full; no event tells when it has room again.
    /// `InvalidInput` for a descriptor that was not inherited, or is taken already. Otherwise the
    /// system's error.
    pub fn connect(target: &Target) -> io::Result<(Self, bool)> {
        match target {
            Target::Unix(name) => {
                let fd = new_socket(AddressFamily::UNIX)?;
                let open = connect_open(net::connect(&fd, &unix_address(name)?))?;
                Ok((Self::socket(fd, false), open))
            }
            Target::Ip(address) => {
                let family =
                    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let stream = Self::socket(new_socket(family)?, true);
                let open = connect_open(net::connect(stream.one(), address))?;
                if !open {
                    stream.connected()?;
                }
                Ok((stream, open))
            }
            Target::Fd { read, write } => Ok((Self::inherited(*read, *write)?, false)),
        }
    }

    /// Makes a stream of a connected descriptor, and the descriptor non-blocking and closed on exec.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        prepare(&fd)?;
        let (socket, tcp) = kind(&fd);
        if tcp {
            sockopt::set_tcp_nodelay(&fd, true)?;
        }
        Ok(Self { ends: Ends::One(fd), socket, tcp, shared: true })
    }

    /// Two streams connected to each other.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = std::os::unix::net::UnixStream::pair()?;
        Ok((Self::adopt(a.into())?, Self::adopt(b.into())?))
    }

    /// The outcome of connecting. Call it once the stream is writable.
    pub fn connected(&self) -> io::Result<()> {
        if !self.socket {
            return Ok(());
        }
        let Some(fd) = self.write_fd() else { return Ok(()) };
        sockopt::socket_error(fd)??;
        // If nothing listens on a port of the ephemeral range, the system can choose it as our own
        // source port. TCP then connects the socket to itself.
        if self.tcp && net::getpeername(fd)? == Some(net::getsockname(fd)?) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(())
    }

    /// Receives into `buffer`. [`Received::Nothing`] also for an empty buffer or without a read end.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let Some(fd) = self.read_fd() else { return Ok(Received::Nothing) };
        if buffer.is_empty() {
            return Ok(Received::Nothing);
        }
        loop {
            return match rustix::io::read(fd, &mut *buffer) {
                Ok(0) => Ok(Received::Ended),
                Ok(n) => Ok(Received::Bytes(n)),
                Err(Errno::AGAIN) => Ok(Received::Nothing),
                Err(Errno::INTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Sends as many of `bytes` as the system takes now, and returns how many; possibly 0.
    ///
    /// # Errors
    /// `BrokenPipe` or `ConnectionReset` if the peer has closed. A socket raises no SIGPIPE; with pipes
    /// the process must ignore it, as every Rust program does unless told otherwise.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let Some(fd) = self.write_fd() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            let sent = if self.socket {
                net::send(fd, bytes, NO_SIGNAL)
            } else {
                rustix::io::write(fd, bytes)
            };
            return match sent {
                Ok(n) => Ok(n),
                Err(Errno::AGAIN) => Ok(0),
                Err(Errno::INTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Tells the peer that nothing more will be sent. Receiving continues.
    ///
    /// A separate write end is closed, so it must no longer be registered for writing.
    pub fn shutdown_write(&mut self) -> io::Result<()> {
        match &mut self.ends {
            Ends::One(fd) if self.socket => Ok(net::shutdown(fd, net::Shutdown::Write)?),
            Ends::One(_) => Ok(()),
            Ends::Two { write, .. } => {
                if let Some(fd) = write.take().filter(|_| self.socket) {
                    // If another process has the socket open, closing alone tells the peer nothing.
                    net::shutdown(fd, net::Shutdown::Write)?;
                }
                Ok(())
            }
        }
    }

    /// Turns on TCP keepalive: after `idle` the system probes a silent peer every `interval`, and closes
    /// the connection after `count` unanswered probes. On Linux, data unacknowledged for as long closes
    /// it, too. Times are whole seconds, at least 1. No effect on other streams than TCP.
    pub fn keepalive(&self, idle: Duration, interval: Duration, count: u32) -> io::Result<()> {
        if !self.tcp {
            return Ok(());
        }
        let fd = self.one();
        sockopt::set_socket_keepalive(fd, true)?;
        // These systems have one setting for all sockets.
        #[cfg(any(target_os = "openbsd", target_os = "haiku", target_os = "nto"))]
        let _ = (idle, interval, count);
        #[cfg(not(any(target_os = "openbsd", target_os = "haiku", target_os = "nto")))]
        {
            sockopt::set_tcp_keepidle(fd, idle)?;
            sockopt::set_tcp_keepintvl(fd, interval)?;
            sockopt::set_tcp_keepcnt(fd, count)?;
        }
        #[cfg(target_os = "linux")]
        {
            let patience = idle.saturating_add(interval.saturating_mul(count)).as_millis();
            sockopt::set_tcp_user_timeout(fd, u32::try_from(patience).unwrap_or(u32::MAX))?;
        }
        Ok(())
    }

    /// The read end.
    pub fn read_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.ends {
            Ends::One(fd) => Some(fd.as_fd()),
            Ends::Two { read, .. } => read.as_ref().map(AsFd::as_fd),
        }
    }

    /// The write end; the same as [`read_fd`](Self::read_fd) except for `FD:r:w`.
    pub fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.ends {
            Ends::One(fd) => Some(fd.as_fd()),
            Ends::Two { write, .. } => write.as_ref().map(AsFd::as_fd),
        }
    }

    /// Whether another process may have it open, too. Then closing it does not remove it from the
    /// poller.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    /// Whether the two directions have a descriptor each.
    pub(crate) fn is_split(&self) -> bool {
        matches!(self.ends, Ends::Two { .. })
    }

    /// Takes the inherited descriptors `read` and `write`; each can be taken once.
    pub(crate) fn inherited(read: Option<i32>, write: Option<i32>) -> io::Result<Self> {
        if let (Some(one), true) = (read, read == write) {
            return Self::adopt(sys::inherited(one)?);
        }
        let read = read.map(sys::inherited).transpose()?;
        let write = write.map(sys::inherited).transpose()?;
        for fd in read.iter().chain(&write) {
            prepare(fd)?;
        }
        let (socket, _) = write.as_ref().map_or((false, false), kind);
        Ok(Self { ends: Ends::Two { read, write }, socket, tcp: false, shared: true })
    }

    /// Wraps a new socket that is already non-blocking and closed on exec.
    pub(crate) fn socket(fd: OwnedFd, tcp: bool) -> Self {
        if tcp {
            // On some systems this fails if the peer has already reset the connection; the first read
            // reports that.
            let _ = sockopt::set_tcp_nodelay(&fd, true);
        }
        quiet(&fd);
        Self { ends: Ends::One(fd), socket: true, tcp, shared: false }
    }

    /// The only descriptor of a socket.
    fn one(&self) -> BorrowedFd<'_> {
        match &self.ends {
            Ends::One(fd) => fd.as_fd(),
            Ends::Two { .. } => unreachable!("a socket has one descriptor"),
        }
    }
}

#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: SendFlags = SendFlags::empty();

/// Prevents SIGPIPE on systems where `send` has no flag for that.
#[cfg(not(target_vendor = "apple"))]
fn quiet(_: &OwnedFd) {}
#[cfg(target_vendor = "apple")]
fn quiet(fd: &OwnedFd) {
    let _ = sockopt::set_socket_nosigpipe(fd, true);
}

/// A new stream socket, non-blocking and closed on exec.
pub(crate) fn new_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    new_socket_of(family, SocketType::STREAM)
}

/// A new socket of any type, non-blocking and closed on exec.
pub(crate) fn new_socket_of(family: AddressFamily, kind: SocketType) -> io::Result<OwnedFd> {
    #[cfg(not(target_vendor = "apple"))]
    let fd = {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        net::socket_with(family, kind, flags, None)?
    };
    #[cfg(target_vendor = "apple")]
    let fd = {
        let fd = net::socket_with(family, kind, SocketFlags::empty(), None)?;
        prepare(&fd)?;
        fd
    };
    Ok(fd)
}

/// The system's form of a UNIX socket's address.
pub(crate) fn unix_address(name: &UnixName) -> io::Result<SocketAddrUnix> {
    #[cfg(target_os = "linux")]
    if let Some(name) = name.abstract_name() {
        return Ok(SocketAddrUnix::new_abstract_name(name)?);
    }
    match name.path() {
        Some(path) => Ok(SocketAddrUnix::new(path)?),
        None => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Makes a descriptor non-blocking and closed on exec.
pub(crate) fn prepare(fd: &OwnedFd) -> io::Result<()> {
    rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
    let flags = rustix::fs::fcntl_getfl(fd)?;
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
    quiet(fd);
    Ok(())
}

/// Whether a descriptor is a socket, and whether it is a TCP socket.
pub(crate) fn kind(fd: &OwnedFd) -> (bool, bool) {
    match net::getsockname(fd).map(|address| address.address_family()) {
        Ok(AddressFamily::INET | AddressFamily::INET6) => (true, true),
        Ok(_) => (true, false),
        Err(_) => (false, false),
    }
}

/// Whether a descriptor is a UDP socket.
pub(crate) fn is_udp(fd: &OwnedFd) -> bool {
    sockopt::socket_type(fd) == Ok(SocketType::DGRAM) && kind(fd) == (true, true)
}

/// Whether connecting is in progress. An interrupted `connect` continues in the background.
fn connect_open(result: Result<(), Errno>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(false),
        Err(Errno::INPROGRESS | Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

// They wait with the poller.
#[cfg(all(test, feature = "daemon"))]
mod tests;
