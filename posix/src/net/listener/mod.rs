//! Where streams and datagrams come from.

mod path;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, sockopt};

use self::path::BoundPath;
pub(crate) use self::path::take_turn;
use crate::net::address::{Address, Family, ResolveError, Target, UnixName};
use crate::net::datagram;
pub use crate::net::datagram::Sender;
use crate::net::stream::{self, Stream};

/// As many waiting connections as the system allows, which cuts this down to its own limit.
const BACKLOG: i32 = 4096;

/// To whom a UNIX socket belongs and who may connect to it: write permission is what counts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ownership {
    /// A user by name or number; who creates it, if `None`.
    pub owner: Option<String>,
    /// A group by name or number.
    pub group: Option<String>,
    /// Permission bits; those that the umask leaves, if `None`.
    pub mode: Option<u32>,
}

/// Something to accept streams from, or to receive datagrams. Dropping it closes it, and removes the
/// path of a UNIX socket if that still is its own and the process still may.
#[derive(Debug)]
pub struct Listener {
    source: Source,
    address: String,
    warnings: Vec<String>,
}

#[derive(Debug)]
enum Source {
    Socket {
        // Dropped first, while the open socket still keeps its file's number from being another's.
        path: Option<BoundPath>,
        fd: OwnedFd,
        tcp: bool,
    },
    /// An inherited connected stream, until it has been handed out.
    Given(RefCell<Option<Stream>>),
    /// A socket for datagrams.
    Datagrams(OwnedFd),
}

impl Listener {
    /// Listens on `address`: of a host with several addresses on the first that works.
    ///
    /// A UNIX path that a server answers on is refused; a stale socket there is replaced; anything
    /// else there is left alone and refused. May wait for a name server: for use before the loop.
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
                    // Left to itself, what a socket on all interfaces is for depends on the system.
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

    /// Takes the inherited descriptor `number`: a listening socket, a connection, or a UDP socket,
    /// which is for stunnel's datagrams.
    pub(crate) fn handed_over(number: RawFd, ownership: &Ownership) -> Result<Self, ListenError> {
        let taken = |error| FailureKind::System("take it", error);
        let source = crate::sys::inherited(number).map_err(taken).and_then(|fd| {
            if stream::is_udp(&fd) {
                return datagram::adopt(fd).map(Source::Datagrams).map_err(taken);
            }
            take_inherited(fd)
        });
        Self::of(source, format!("FD:{number}"), ownership)
    }

    fn of(
        source: Result<Source, FailureKind>,
        name: String,
        ownership: &Ownership,
    ) -> Result<Self, ListenError> {
        let source = source.map_err(|kind| ListenError { address: name.clone(), kind })?;
        let mut warnings = Vec::new();
        let has_path = matches!(source, Source::Socket { path: Some(_), .. });
        if *ownership != Ownership::default() && !has_path {
            warnings.push(format!("{name} has no owner, group or mode to set: it is no UNIX path"));
        }
        let address = match &source {
            Source::Socket { fd, tcp: true, .. } => bound(fd).map_or(name, |ip| written(fd, ip)),
            Source::Socket { fd, path: None, .. } => unix_path(fd).unwrap_or(name),
            Source::Datagrams(fd) => bound(fd).map_or(name, |ip| format!("SESSIOND:{ip}")),
            _ => name,
        };
        Ok(Self { source, address, warnings })
    }

    /// What was asked for and does not apply, a line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The path of its UNIX socket, which is to be removed in the end.
    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.source {
            Source::Socket { path, .. } => path.as_ref().map(BoundPath::path),
            _ => None,
        }
    }

    /// The next stream; `None` when nobody waits, or it is [`finished`](Self::finished).
    ///
    /// When the process has no descriptor left, that error comes and the connection goes on waiting:
    /// do not watch for connections until one of ours has gone.
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        match &self.source {
            Source::Socket { fd, tcp, .. } => accept(fd, *tcp),
            Source::Given(stream) => Ok(stream.take()),
            Source::Datagrams(_) => Ok(None),
        }
    }

    /// Whether it is for datagrams, which have no stream to accept.
    pub fn is_datagrams(&self) -> bool {
        matches!(&self.source, Source::Datagrams(_))
    }

    /// The next datagram's length and sender, with as much of it as fits in the front of `buffer`;
    /// `None` where none is there, or where none ever comes.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, Sender)>> {
        match &self.source {
            Source::Datagrams(fd) => datagram::receive(fd, buffer),
            _ => Ok(None),
        }
    }

    /// Sends a datagram from where it listens; false where the system does not take it.
    pub fn send(&self, datagram: &[u8], to: Sender) -> bool {
        matches!(&self.source, Source::Datagrams(fd) if datagram::send(fd, datagram, to))
    }

    /// Whether [`accept`](Self::accept) has a stream without waiting for anybody: an inherited one,
    /// for which there is nothing to poll.
    pub fn ready(&self) -> bool {
        matches!(&self.source, Source::Given(stream) if stream.borrow().is_some())
    }

    /// Whether no stream will come any more: an inherited connection that was handed out.
    pub fn finished(&self) -> bool {
        match &self.source {
            Source::Socket { .. } | Source::Datagrams(_) => false,
            Source::Given(stream) => stream.borrow().is_none(),
        }
    }

    /// Where it listens, as one can connect to it: with the real port where port 0 was asked for.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// What to poll for connections; `None` where there is nothing to wait for.
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
            // Who gave up before we came: the next may still be there.
            Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO) => {}
            // Linux hands out what the network said about that one connection.
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

/// Opens the first of an address's places that `bind` can open.
fn open_ip(
    address: &Address,
    bind: impl Fn(SocketAddr) -> io::Result<Source>,
) -> Result<Source, FailureKind> {
    let mut first = None;
    let everywhere = matches!(address, Address::Ip { host: None, .. });
    for target in address.resolve().map_err(FailureKind::Resolve)? {
        let Target::Ip(ip) = target else { continue };
        match bind(ip) {
            Ok(source) => return Ok(source),
            // Half of what was asked for may be free; that half is not what was meant.
            Err(error) if everywhere && error.kind() == io::ErrorKind::AddrInUse => {
                return Err(FailureKind::InUse);
            }
            Err(error) => first = first.or(Some((error, ip))),
        }
    }
    Err(match first {
        Some((error, _)) if error.kind() == io::ErrorKind::AddrInUse => FailureKind::InUse,
        Some((error, ip)) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            FailureKind::Foreign(ip.ip())
        }
        Some((error, _)) => FailureKind::System("listen", error),
        None => FailureKind::System("listen", io::ErrorKind::AddrNotAvailable.into()),
    })
}

/// Listens on `ip`. On an IPv6 address for IPv6 `only`, or for IPv4 too where that is all interfaces;
/// `None` leaves it to the system.
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

/// Where a UNIX socket of somebody else is bound to, if it has a path.
fn unix_path(fd: &OwnedFd) -> Option<String> {
    let address = net::SocketAddrUnix::try_from(net::getsockname(fd).ok()?).ok()?;
    Some(format!("UNIX:{}", address.path()?.to_string_lossy()))
}

/// The address of a TCP socket as people write it.
fn written(fd: &OwnedFd, address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() && sockopt::ipv6_v6only(fd) == Ok(false) => {
            format!("IP:{address}")
        }
        IpAddr::V6(_) => format!("IPv6:{address}"),
        IpAddr::V4(_) => format!("IP:{address}"),
    }
}

fn open_inherited(read: Option<RawFd>, write: Option<RawFd>) -> Result<Source, FailureKind> {
    let taken = |error| FailureKind::System("take it", error);
    if let (Some(one), true) = (read, read == write) {
        return take_inherited(crate::sys::inherited(one).map_err(taken)?);
    }
    let stream = Stream::inherited(read, write).map_err(taken)?;
    Ok(Source::Given(RefCell::new(Some(stream))))
}

/// A listening socket goes on listening, whatever becomes of one that it gave; a connection is one.
fn take_inherited(fd: OwnedFd) -> Result<Source, FailureKind> {
    let taken = |error| FailureKind::System("take it", error);
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
    // There the question exists without an answer; a socket without a peer is next to it.
    #[cfg(target_vendor = "apple")]
    return net::getpeername(fd).is_err_and(|error| error == Errno::NOTCONN);
}

fn open_abstract(name: &UnixName) -> Result<Source, FailureKind> {
    let fd =
        stream::new_socket(AddressFamily::UNIX).map_err(|e| FailureKind::System("open it", e))?;
    let address = stream::unix_address(name).map_err(|e| FailureKind::System("bind to it", e))?;
    match net::bind(&fd, &address) {
        Ok(()) => {}
        Err(Errno::ADDRINUSE) => return Err(FailureKind::InUse),
        Err(error) => return Err(FailureKind::System("bind to it", error.into())),
    }
    net::listen(&fd, BACKLOG).map_err(|e| FailureKind::System("listen", e.into()))?;
    Ok(Source::Socket { fd, tcp: false, path: None })
}

/// Why one cannot listen on an address.
#[derive(Debug)]
pub struct ListenError {
    address: String,
    kind: FailureKind,
}

#[derive(Debug)]
enum FailureKind {
    InUse,
    NotASocket,
    /// An address of another machine.
    Foreign(IpAddr),
    /// The directory of the path, which does not exist.
    NoDirectory(PathBuf),
    /// A socket there that this user may not connect to.
    Unknown,
    /// The owner, group or mode cannot be set to this, and why.
    Own(&'static str, String, String),
    Resolve(ResolveError),
    /// What failed, and how.
    System(&'static str, io::Error),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: ", self.address)?;
        match &self.kind {
            FailureKind::InUse => f.write_str("it is in use by another server; stop that, or choose another"),
            FailureKind::NotASocket => {
                f.write_str("the file there is no stream socket and is left alone; remove it, or choose another")
            }
            FailureKind::Foreign(ip) => write!(f, "this machine has no address {ip}"),
            FailureKind::NoDirectory(path) => {
                write!(f, "the directory {} does not exist", path.display())
            }
            FailureKind::Unknown => f.write_str(
                "cannot find out whether it is in use: permission denied; remove it as root, or \
                 choose another",
            ),
            FailureKind::Own(what, to, kind) => write!(f, "cannot set the socket's {what} to {to}: {kind}"),
            FailureKind::Resolve(error) => error.fmt(f),
            FailureKind::System("listen", error) => error.fmt(f),
            FailureKind::System(doing, error) => write!(f, "cannot {doing}: {error}"),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            FailureKind::Resolve(error) => Some(error),
            FailureKind::System(_, error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
