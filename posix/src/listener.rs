//! Where streams and datagrams come from.

mod path;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, sockopt};

use self::path::Placed;
use crate::address::{Address, Family, ResolveError, Target, UnixName};
use crate::datagram;
use crate::socket::{self, Stream};

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
        path: Option<Placed>,
        fd: OwnedFd,
        tcp: bool,
    },
    /// An inherited listening socket, good for one stream.
    Once { fd: OwnedFd, tcp: bool, accepted: Cell<bool> },
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
        let mut warnings = Vec::new();
        let source = match address {
            Address::Unix(unix) => match unix.path() {
                Some(path) => Placed::open(path, ownership, &mut warnings)
                    .map(|(fd, path)| Source::Socket { fd, tcp: false, path: Some(path) }),
                None => open_abstract(unix),
            },
            Address::Ip { family, .. } => open_ip(address, |ip| {
                let fd = bind_tcp(ip, *family)?;
                Ok(Source::Socket { fd, tcp: true, path: None })
            }),
            Address::Sessiond { .. } => {
                open_ip(address, |ip| datagram::bind(ip).map(Source::Datagrams))
            }
            Address::Fd { read, write } => open_inherited(*read, *write),
        };
        let source = source.map_err(|why| ListenError { address: name.clone(), why })?;
        let has_path = matches!(source, Source::Socket { path: Some(_), .. });
        if *ownership != Ownership::default() && !has_path {
            warnings.push(format!("{name} has no owner, group or mode to set: it is no UNIX path"));
        }
        let address = match &source {
            Source::Socket { fd, tcp: true, .. } => bound(fd).map_or(name, written),
            Source::Datagrams(fd) => bound(fd).map_or(name, |ip| format!("SESSIOND:{ip}")),
            _ => name,
        };
        Ok(Self { source, address, warnings })
    }

    /// What could not be done as asked, a line each. A socket whose owner, group or mode could not be
    /// set lets in no more than was asked for.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The next stream; `None` when nobody waits, or it is [`finished`](Self::finished).
    ///
    /// When the process has no descriptor left, that error comes and the connection goes on waiting:
    /// do not watch for connections until one of ours has gone.
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        match &self.source {
            Source::Socket { fd, tcp, .. } => accept(fd, *tcp),
            Source::Once { accepted, .. } if accepted.get() => Ok(None),
            Source::Once { fd, tcp, accepted } => {
                let stream = accept(fd, *tcp)?;
                accepted.set(stream.is_some());
                Ok(stream)
            }
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
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
        match &self.source {
            Source::Datagrams(fd) => datagram::receive(fd, buffer),
            _ => Ok(None),
        }
    }

    /// Sends a datagram from where it listens; false where the system does not take it.
    pub fn send(&self, datagram: &[u8], to: SocketAddr) -> bool {
        matches!(&self.source, Source::Datagrams(fd) if datagram::send(fd, datagram, to))
    }

    /// Whether [`accept`](Self::accept) has a stream without waiting for anybody: an inherited one,
    /// for which there is nothing to poll.
    pub fn ready(&self) -> bool {
        matches!(&self.source, Source::Given(stream) if stream.borrow().is_some())
    }

    /// Whether no stream will come any more: an `FD:` listener that gave its one.
    pub fn finished(&self) -> bool {
        match &self.source {
            Source::Socket { .. } | Source::Datagrams(_) => false,
            Source::Once { accepted, .. } => accepted.get(),
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
            Source::Socket { fd, .. } | Source::Once { fd, .. } | Source::Datagrams(fd) => {
                Some(fd.as_fd())
            }
            Source::Given(_) => None,
        }
    }

    /// Stops listening, as dropping it does.
    pub fn close(self) {}
}

fn accept(fd: &OwnedFd, tcp: bool) -> io::Result<Option<Stream>> {
    loop {
        #[cfg(not(target_vendor = "apple"))]
        let accepted = net::accept_with(fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC);
        #[cfg(target_vendor = "apple")]
        let accepted = net::accept(fd);
        match accepted {
            Ok(fd) => {
                #[cfg(target_vendor = "apple")]
                socket::prepare(&fd)?;
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
) -> Result<Source, Why> {
    let mut first = None;
    for target in address.resolve().map_err(Why::Resolve)? {
        let Target::Ip(ip) = target else { continue };
        match bind(ip) {
            Ok(source) => return Ok(source),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(match first {
        Some(error) if error.kind() == io::ErrorKind::AddrInUse => Why::InUse,
        Some(error) => Why::System("listen", error),
        None => Why::System("listen", io::ErrorKind::AddrNotAvailable.into()),
    })
}

fn bind_tcp(ip: SocketAddr, family: Family) -> io::Result<OwnedFd> {
    let kind = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket::new_socket(kind)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if ip.is_ipv6() && family == Family::V6 {
        // Else [::] takes the IPv4 port too on some systems, and not on others.
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    net::bind(&fd, &ip)?;
    net::listen(&fd, BACKLOG)?;
    Ok(fd)
}

/// The address that a socket is bound to.
fn bound(fd: &OwnedFd) -> Option<SocketAddr> {
    SocketAddr::try_from(net::getsockname(fd).ok()?).ok()
}

/// The address of a TCP socket as people write it.
fn written(address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V6(_) => format!("IPv6:{address}"),
        IpAddr::V4(_) => format!("IP:{address}"),
    }
}

fn open_inherited(read: Option<RawFd>, write: Option<RawFd>) -> Result<Source, Why> {
    let taken = |error| Why::System("take it", error);
    if let (Some(one), true) = (read, read == write) {
        let fd = crate::sys::inherited(one).map_err(taken)?;
        if listens(&fd) {
            socket::prepare(&fd).map_err(taken)?;
            let (_, tcp) = socket::kind(&fd);
            return Ok(Source::Once { fd, tcp, accepted: Cell::new(false) });
        }
        let stream = Stream::adopt(fd).map_err(taken)?;
        return Ok(Source::Given(RefCell::new(Some(stream))));
    }
    let stream = Stream::inherited(read, write).map_err(taken)?;
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

fn open_abstract(name: &UnixName) -> Result<Source, Why> {
    let fd = socket::new_socket(AddressFamily::UNIX).map_err(|e| Why::System("open it", e))?;
    let address = socket::unix_address(name).map_err(|e| Why::System("bind to it", e))?;
    match net::bind(&fd, &address) {
        Ok(()) => {}
        Err(Errno::ADDRINUSE) => return Err(Why::InUse),
        Err(error) => return Err(Why::System("bind to it", error.into())),
    }
    net::listen(&fd, BACKLOG).map_err(|e| Why::System("listen", e.into()))?;
    Ok(Source::Socket { fd, tcp: false, path: None })
}

/// Why one cannot listen on an address.
#[derive(Debug)]
pub struct ListenError {
    address: String,
    why: Why,
}

#[derive(Debug)]
enum Why {
    InUse,
    NotASocket,
    Resolve(ResolveError),
    /// What failed, and how.
    System(&'static str, io::Error),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: ", self.address)?;
        match &self.why {
            Why::InUse => f.write_str("it is in use by another server; stop that, or choose another"),
            Why::NotASocket => {
                f.write_str("the file there is no stream socket and is left alone; remove it, or choose another")
            }
            Why::Resolve(error) => error.fmt(f),
            Why::System(doing, error) => write!(f, "cannot {doing}: {error}"),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.why {
            Why::Resolve(error) => Some(error),
            Why::System(_, error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
