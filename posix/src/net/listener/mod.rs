//! Listening sockets: sources of streams and datagrams.

mod allowed;
#[cfg(all(feature = "daemon", target_os = "linux"))]
mod handed;
mod path;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, sockopt};

pub use self::allowed::Allowed;
use self::path::BoundPath;
pub(crate) use self::path::take_turn;
use crate::net::address::{Address, Family, ResolveError, Target, UnixName};
use crate::net::datagram;
pub use crate::net::datagram::Sender;
use crate::net::stream::{self, Stream};

/// The length of the queue of connections. The system reduces it to its own limit.
const BACKLOG: i32 = 4096;

/// Owner, group and permissions of a UNIX socket. Connecting needs write permission.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ownership {
    /// A user by name or number; `None` for the user of the process.
    pub owner: Option<String>,
    /// A group by name or number; `None` for the group of the process.
    pub group: Option<String>,
    /// Permission bits; `None` for those that the umask leaves.
    pub mode: Option<u32>,
}

/// A source of streams or datagrams.
///
/// Dropping it closes it and removes the path of its UNIX socket, if the path still names that socket
/// and the process has the permission.
#[derive(Debug)]
pub struct Listener {
    source: Source,
    /// As it was given.
    #[cfg_attr(not(all(feature = "daemon", target_os = "linux")), allow(dead_code))]
    given: String,
    address: String,
    warnings: Vec<String>,
    /// Who may connect; `None` for everyone.
    allowed: Option<Allowed>,
}

#[derive(Debug)]
enum Source {
    Socket {
        // Dropped first: while the socket is open, no other file can get its inode number.
        path: Option<BoundPath>,
        fd: OwnedFd,
        tcp: bool,
    },
    /// An inherited connected stream, until it is accepted.
    Given(RefCell<Option<Stream>>),
    /// A UDP socket.
    Datagrams(OwnedFd),
}

impl Listener {
    /// Listens on `address`; for a host with several addresses, on the first one that works.
    ///
    /// Replaces a stale UNIX socket at the path. May wait for a name server, so call it before the loop.
    ///
    /// # Errors
    /// [`ListenError`], also if another server listens there, or if the path is a file of another kind.
    pub fn open(address: &Address, ownership: &Ownership) -> Result<Self, ListenError> {
        let name = address.to_string();
        let source =
            match address {
                Address::Unix(unix) => match unix.path() {
                    Some(path) => BoundPath::open(path, ownership)
                        .map(|(fd, path)| Source::Socket { fd, tcp: false, path: Some(path) }),
                    None => open_abstract(unix),
                },
                Address::Ip { family, host, .. } => open_ip(address, |ip| {
                    // The default for a socket on all interfaces depends on the system.
                    let only = match (family, host) {
                        (Family::V6, _) => Some(true),
                        (Family::Any, None) => Some(false),
                        _ => None,
                    };
                    let fd = bind_tcp(ip, only)?;
                    Ok(Source::Socket { fd, tcp: true, path: None })
                }),
                Address::Sessiond { .. } => {
                    open_ip(address, |ip| datagram::bind(ip).map(Source::Datagrams))
                }
                Address::Fd { read, write } => open_inherited(*read, *write),
            };
        Self::of(source, name, ownership)
    }

    /// Takes the inherited descriptor `number`: a listening socket, a connection, or a UDP socket for
    /// stunnel's datagrams.
    pub(crate) fn passed(number: RawFd, ownership: &Ownership) -> Result<Self, ListenError> {
        let taken = |error| ListenErrorKind::System("take it", error);
        let source = crate::sys::inherited(number).map_err(taken).and_then(|fd| {
            if stream::is_udp(&fd) {
                return datagram::adopt(fd).map(Source::Datagrams).map_err(taken);
            }
            if sockopt::socket_type(&fd).is_err() {
                return Err(ListenErrorKind::PassedNoSocket);
            }
            take_inherited(fd)
        });
        Self::of(source, format!("FD:{number}"), ownership)
    }

    fn of(
        source: Result<Source, ListenErrorKind>,
        name: String,
        ownership: &Ownership,
    ) -> Result<Self, ListenError> {
        let source = source.map_err(|kind| ListenError { address: name.clone(), kind })?;
        let mut warnings = Vec::new();
        let has_path = matches!(source, Source::Socket { path: Some(_), .. });
        if *ownership != Ownership::default() && !has_path {
            warnings.push(format!("{name} has no owner, group or mode to set: it is no UNIX path"));
        }
        let given = name.clone();
        let address = match &source {
            Source::Socket { fd, tcp: true, .. } => bound(fd).map_or(name, |ip| written(fd, ip)),
            Source::Socket { fd, path: None, .. } => unix_path(fd).unwrap_or(name),
            Source::Datagrams(fd) => bound(fd).map_or(name, |ip| format!("SESSIOND:{ip}")),
            _ => name,
        };
        Ok(Self { source, given, address, warnings, allowed: None })
    }

    /// Settings that have no effect here, a line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The path of its UNIX socket, which is removed at the end.
    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.source {
            Source::Socket { path, .. } => path.as_ref().map(BoundPath::path),
            _ => None,
        }
    }

    /// Accepts the next stream; `None` if no connection waits.
    ///
    /// # Errors
    /// The system's error. If the process has no descriptor left, the connection stays in the queue:
    /// do not poll for connections until a descriptor is free.
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        match &self.source {
            Source::Socket { fd, tcp, .. } => accept(fd, *tcp),
            Source::Given(stream) => Ok(stream.take()),
            Source::Datagrams(_) => Ok(None),
        }
    }

    /// Restricts who may connect, if this is a UNIX socket; else returns false.
    pub fn allow(&mut self, allowed: &Allowed) -> bool {
        let is_unix = matches!(self.source, Source::Socket { tcp: false, .. });
        if is_unix {
            self.allowed = Some(allowed.clone());
        }
        is_unix
    }

    /// Whether a stream that it has accepted is served; if not, the user id of its peer, if known.
    pub(crate) fn admits(&self, stream: &Stream) -> Result<(), Option<u32>> {
        self.allowed.as_ref().map_or(Ok(()), |allowed| allowed.admits(stream))
    }

    /// Whether it receives datagrams instead of accepting streams.
    pub fn is_datagrams(&self) -> bool {
        matches!(&self.source, Source::Datagrams(_))
    }

    /// Receives a datagram into the front of `buffer`, cut to its length, and returns the datagram's
    /// length and sender; `None` if no datagram waits.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, Sender)>> {
        match &self.source {
            Source::Datagrams(fd) => datagram::receive(fd, buffer),
            _ => Ok(None),
        }
    }

    /// Sends a datagram from its own address; false if the system refuses it.
    pub fn send(&self, datagram: &[u8], to: Sender) -> bool {
        matches!(&self.source, Source::Datagrams(fd) if datagram::send(fd, datagram, to))
    }

    /// Whether it has an inherited stream, which [`accept`](Self::accept) returns without polling.
    pub fn ready(&self) -> bool {
        matches!(&self.source, Source::Given(stream) if stream.borrow().is_some())
    }

    /// Whether there will be no more streams: it had one inherited stream, now accepted.
    pub fn finished(&self) -> bool {
        match &self.source {
            Source::Socket { .. } | Source::Datagrams(_) => false,
            Source::Given(stream) => stream.borrow().is_none(),
        }
    }

    /// Its address in the form that clients connect to: with the real port instead of port 0.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// The descriptor to poll; `None` for an inherited stream.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.source {
            Source::Socket { fd, .. } | Source::Datagrams(fd) => Some(fd.as_fd()),
            Source::Given(_) => None,
        }
    }

    /// Stops listening, as dropping it does.
    pub fn close(self) {}
}

fn accept(fd: &OwnedFd, tcp: bool) -> io::Result<Option<Stream>> {
    loop {
        #[cfg(not(target_vendor = "apple"))]
        let accepted = net::accept_with(fd, net::SocketFlags::NONBLOCK | net::SocketFlags::CLOEXEC);
        #[cfg(target_vendor = "apple")]
        let accepted = net::accept(fd);
        match accepted {
            Ok(fd) => {
                #[cfg(target_vendor = "apple")]
                stream::prepare(&fd)?;
                return Ok(Some(Stream::socket(fd, tcp)));
            }
            Err(Errno::AGAIN) => return Ok(None),
            // That client has given up; the next one may still wait.
            Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO) => {}
            // Linux reports network errors of that one connection here.
            #[cfg(target_os = "linux")]
            Err(
                Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NONET
                | Errno::NOPROTOOPT,
            ) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Opens the first target of an address that `bind` can open.
fn open_ip(
    address: &Address,
    bind: impl Fn(SocketAddr) -> io::Result<Source>,
) -> Result<Source, ListenErrorKind> {
    let mut first = None;
    let everywhere = matches!(address, Address::Ip { host: None, .. });
    for target in address.resolve().map_err(ListenErrorKind::Resolve)? {
        let Target::Ip(ip) = target else { continue };
        match bind(ip) {
            Ok(source) => return Ok(source),
            // The port may be free for the other family, but all interfaces means both.
            Err(error) if everywhere && error.kind() == io::ErrorKind::AddrInUse => {
                return Err(ListenErrorKind::InUse);
            }
            Err(error) => first = first.or(Some((error, ip))),
        }
    }
    Err(match first {
        Some((error, _)) if error.kind() == io::ErrorKind::AddrInUse => ListenErrorKind::InUse,
        Some((error, ip)) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            ListenErrorKind::NotLocal(ip.ip())
        }
        Some((error, _)) => ListenErrorKind::System("listen", error),
        None => ListenErrorKind::System("listen", io::ErrorKind::AddrNotAvailable.into()),
    })
}

/// Listens on `ip`. `only` says whether an IPv6 socket on all interfaces excludes IPv4; `None` leaves
/// that to the system.
fn bind_tcp(ip: SocketAddr, only: Option<bool>) -> io::Result<OwnedFd> {
    let kind = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = stream::new_socket(kind)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if let (true, Some(only)) = (ip.is_ipv6(), only) {
        sockopt::set_ipv6_v6only(&fd, only)?;
    }
    net::bind(&fd, &ip)?;
    net::listen(&fd, BACKLOG)?;
    Ok(fd)
}

/// The address that a socket is bound to.
fn bound(fd: &OwnedFd) -> Option<SocketAddr> {
    SocketAddr::try_from(net::getsockname(fd).ok()?).ok()
}

/// The address of an inherited UNIX socket, if it has a path.
fn unix_path(fd: &OwnedFd) -> Option<String> {
    let address = net::SocketAddrUnix::try_from(net::getsockname(fd).ok()?).ok()?;
    Some(format!("UNIX:{}", address.path()?.to_string_lossy()))
}

/// The text form of a TCP socket's address.
fn written(fd: &OwnedFd, address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() && sockopt::ipv6_v6only(fd) == Ok(false) => {
            format!("IP:{address}")
        }
        IpAddr::V6(_) => format!("IPv6:{address}"),
        IpAddr::V4(_) => format!("IP:{address}"),
    }
}

fn open_inherited(read: Option<RawFd>, write: Option<RawFd>) -> Result<Source, ListenErrorKind> {
    let taken = |error| ListenErrorKind::System("take it", error);
    if let (Some(one), true) = (read, read == write) {
        return take_inherited(crate::sys::inherited(one).map_err(taken)?);
    }
    let stream = Stream::inherited(read, write).map_err(taken)?;
    Ok(Source::Given(RefCell::new(Some(stream))))
}

/// A listening socket, or a connection, which is one stream.
fn take_inherited(fd: OwnedFd) -> Result<Source, ListenErrorKind> {
    let taken = |error| ListenErrorKind::System("take it", error);
    if listens(&fd) {
        stream::prepare(&fd).map_err(taken)?;
        let (_, tcp) = stream::kind(&fd);
        return Ok(Source::Socket { fd, tcp, path: None });
    }
    let stream = Stream::adopt(fd).map_err(taken)?;
    Ok(Source::Given(RefCell::new(Some(stream))))
}

/// Whether a descriptor is a listening socket.
fn listens(fd: &OwnedFd) -> bool {
    #[cfg(not(target_vendor = "apple"))]
    return sockopt::socket_acceptconn(fd).unwrap_or(false);
    // The option does not exist there; a socket without a peer is the nearest thing.
    #[cfg(target_vendor = "apple")]
    return net::getpeername(fd).is_err_and(|error| error == Errno::NOTCONN);
}

fn open_abstract(name: &UnixName) -> Result<Source, ListenErrorKind> {
    let fd = stream::new_socket(AddressFamily::UNIX)
        .map_err(|e| ListenErrorKind::System("open it", e))?;
    let address =
        stream::unix_address(name).map_err(|e| ListenErrorKind::System("bind to it", e))?;
    match net::bind(&fd, &address) {
        Ok(()) => {}
        Err(Errno::ADDRINUSE) => return Err(ListenErrorKind::InUse),
        Err(error) => return Err(ListenErrorKind::System("bind to it", error.into())),
    }
    net::listen(&fd, BACKLOG).map_err(|e| ListenErrorKind::System("listen", e.into()))?;
    Ok(Source::Socket { fd, tcp: false, path: None })
}

/// Listening on an address failed.
#[derive(Debug)]
pub struct ListenError {
    address: String,
    kind: ListenErrorKind,
}

#[derive(Debug)]
enum ListenErrorKind {
    InUse,
    NotASocket,
    /// What a service manager passed is a file or a pipe.
    PassedNoSocket,
    /// The machine does not have this address.
    NotLocal(IpAddr),
    /// The directory of the path does not exist.
    NoDirectory(PathBuf),
    /// The user may not connect to the socket there, so it may be in use.
    Inaccessible,
    /// The owner, group or mode; the value that it cannot be set to; the reason.
    Ownership(&'static str, String, String),
    Resolve(ResolveError),
    /// The step that failed, and the system's error.
    System(&'static str, io::Error),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: ", self.address)?;
        match &self.kind {
            ListenErrorKind::InUse => f.write_str("it is in use by another server; stop that, or choose another"),
            ListenErrorKind::PassedNoSocket => {
                f.write_str("LISTEN_FDS names it, and it is no socket")
            }
            ListenErrorKind::NotASocket => {
                f.write_str("the file there is no stream socket and is left alone; remove it, or choose another")
            }
            ListenErrorKind::NotLocal(ip) => write!(f, "this machine has no address {ip}"),
            ListenErrorKind::NoDirectory(path) => {
                write!(f, "the directory {} does not exist", path.display())
            }
            ListenErrorKind::Inaccessible => f.write_str(
                "cannot find out whether it is in use: permission denied; remove it as root, or \
                 choose another",
            ),
            ListenErrorKind::Ownership(what, to, kind) => write!(f, "cannot set the socket's {what} to {to}: {kind}"),
            ListenErrorKind::Resolve(error) => error.fmt(f),
            ListenErrorKind::System("listen", error) => error.fmt(f),
            ListenErrorKind::System(doing, error) => write!(f, "cannot {doing}: {error}"),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            ListenErrorKind::Resolve(error) => Some(error),
            ListenErrorKind::System(_, error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
