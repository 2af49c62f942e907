//! Addresses in text form, and the concrete targets that they resolve to.
//!
//! | written                                   | means                                            |
//! |-------------------------------------------|--------------------------------------------------|
//! | `UNIX:/path`, `UNIX:@name`                | a UNIX socket; `@`: Linux's abstract namespace    |
//! | `IP:port`, `IP::port`                     | listen on all interfaces, IPv4 and IPv6          |
//! | `IPv4:port`, `IPv6:port`                  | listen on all interfaces, one family only        |
//! | `IP:host:port`, `IP:[::1]:port`           | a TCP port of a host, by name or number          |
//! | `IPv4:host:port`, `IPv6:host:port`        | the same, of one family only                     |
//! | `FD:n`, `FD:r:w`                          | inherited descriptors; -1 for none               |
//! | `SESSIOND:host:port`                      | listen for stunnel's datagrams on a UDP port     |

mod parse;

use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use arrayvec::ArrayVec;

/// The most bytes in the name of a UNIX socket: `sun_path` without the final or leading NUL.
pub const UNIX_NAME_MAX: usize = 107;

/// The most targets of one address. Further answers of a name server are dropped.
pub const TARGETS_MAX: usize = 8;

/// The targets of an address, in the order in which to try them. Owns no heap memory.
pub type Targets = ArrayVec<Target, TARGETS_MAX>;

/// An address in text form; see the table in the [module](self).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    /// A UNIX socket.
    Unix(UnixName),
    /// A TCP port of a host, or of all interfaces.
    Ip {
        /// The address family of the host.
        family: Family,
        /// A name or a numeric address, without brackets; `None` for all interfaces.
        host: Option<String>,
        /// 0, for listening only, lets the system choose.
        port: u16,
    },
    /// Inherited descriptors; the two are often the same.
    Fd {
        /// The descriptor to read from; `None` for a stream that only writes.
        read: Option<RawFd>,
        /// The descriptor to write to; `None` for a stream that only reads.
        write: Option<RawFd>,
    },
    /// A UDP port of one host, for datagrams of stunnel's `sessiond` protocol.
    Sessiond {
        /// A name or a numeric address, without brackets.
        host: String,
        /// 0 lets the system choose.
        port: u16,
    },
}

/// IPv4, IPv6, or either.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// Either, in the resolver's order. For all interfaces: both, on one socket.
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// A concrete target to connect to or listen on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// A UNIX socket.
    Unix(UnixName),
    /// A TCP port of one host.
    Ip(SocketAddr),
    /// Inherited descriptors, as in [`Address::Fd`].
    Fd {
        /// The descriptor to read from.
        read: Option<RawFd>,
        /// The descriptor to write to.
        write: Option<RawFd>,
    },
}

impl Address {
    /// Whether it resolves without a name server.
    pub fn is_numeric(&self) -> bool {
        match self {
            Self::Ip { host: Some(host), .. } | Self::Sessiond { host, .. } => {
                host.parse::<IpAddr>().is_ok()
            }
            _ => true,
        }
    }

    /// Checks that a client can connect to it.
    ///
    /// # Errors
    /// [`AddressError`] for an address that is only for listening: all interfaces, port 0, datagrams.
    pub fn connectable(&self) -> Result<(), AddressError> {
        match self {
            Self::Ip { host: None, .. } => {
                Err(AddressError::new(&self.to_string(), "it names no host to connect to"))
            }
            Self::Ip { port: 0, .. } => {
                Err(AddressError::new(&self.to_string(), "port 0 is only for listening"))
            }
            Self::Sessiond { .. } => {
                Err(AddressError::new(&self.to_string(), "SESSIOND is only for listening"))
            }
            _ => Ok(()),
        }
    }

    /// Checks that it is for streams.
    ///
    /// # Errors
    /// [`AddressError`] for an address that is for datagrams.
    pub fn streaming(&self) -> Result<(), AddressError> {
        match self {
            Self::Sessiond { .. } => Err(AddressError::new(
                &self.to_string(),
                "only dc_server and dc_client listen on SESSIOND",
            )),
            _ => Ok(()),
        }
    }

    /// The same address with an absolute path: a daemon leaves its working directory.
    ///
    /// # Errors
    /// [`AddressError`] if the absolute path is too long, or the working directory is gone.
    pub fn absolute(self) -> Result<Self, AddressError> {
        let Self::Unix(name) = &self else { return Ok(self) };
        let Some(path) = name.path() else { return Ok(self) };
        let absolute = std::path::absolute(path)
            .map_err(|_| AddressError::new(&self.to_string(), "the working directory is gone"))?;
        UnixName::new(absolute.as_os_str().as_bytes(), false)
            .map(Self::Unix)
            .map_err(|why| AddressError::new(&format!("UNIX:{}", absolute.display()), why))
    }

    /// Resolves the address to 1 to [`TARGETS_MAX`] targets, in the resolver's order.
    ///
    /// Waits for a name server unless the address [is numeric](Self::is_numeric). The event loop uses
    /// `Resolver` instead.
    ///
    /// # Errors
    /// [`ResolveError`] if the name server does not answer, or the host has no address of the family.
    pub fn resolve(&self) -> Result<Targets, ResolveError> {
        let mut targets = Targets::new();
        match self {
            Self::Unix(name) => targets.push(Target::Unix(*name)),
            Self::Fd { read, write } => targets.push(Target::Fd { read: *read, write: *write }),
            Self::Ip { family, host: None, port } => {
                let (v4, v6) = (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into());
                // An IPv6 socket serves both families; IPv4 is for systems without IPv6.
                let ips = [v6, v4].into_iter().filter(|ip| family.has(*ip));
                targets.extend(ips.map(|ip| Target::Ip(SocketAddr::new(ip, *port))));
            }
            Self::Sessiond { host, port } => {
                targets.extend(look_up(host, *port)?.map(Target::Ip).take(TARGETS_MAX));
            }
            Self::Ip { family, host: Some(host), port } => {
                let fitting = look_up(host, *port)?
                    .filter(|address| family.has(address.ip()))
                    .map(Target::Ip);
                targets.extend(fitting.take(TARGETS_MAX));
            }
        }
        if targets.is_empty() {
            let (host, family) = match self {
                Self::Ip { family, host: Some(host), .. } => (host.clone(), *family),
                Self::Sessiond { host, .. } => (host.clone(), Family::Any),
                _ => (String::new(), Family::Any),
            };
            return Err(ResolveError { host, why: format!("it has no {family} address") });
        }
        Ok(targets)
    }
}

/// The addresses of a host; asks the system's resolver if it is a name.
fn look_up(host: &str, port: u16) -> Result<impl Iterator<Item = SocketAddr>, ResolveError> {
    (host, port)
        .to_socket_addrs()
        .map_err(|error| ResolveError { host: host.to_owned(), why: error.to_string() })
}

impl Family {
    fn has(self, ip: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => ip.is_ipv4(),
            Self::V6 => ip.is_ipv6(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(name) => write!(f, "UNIX:{name}"),
            Self::Ip { family, host, port } => {
                write!(f, "{family}:")?;
                match host {
                    Some(host) if host.contains(':') => write!(f, "[{host}]:{port}"),
                    Some(host) => write!(f, "{host}:{port}"),
                    None => write!(f, "{port}"),
                }
            }
            Self::Fd { read, write } => write_fds(f, *read, *write),
            Self::Sessiond { host, port } if host.contains(':') => {
                write!(f, "SESSIOND:[{host}]:{port}")
            }
            Self::Sessiond { host, port } => write!(f, "SESSIOND:{host}:{port}"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(name) => write!(f, "UNIX:{name}"),
            Self::Ip(address) => write!(f, "IP:{address}"),
            Self::Fd { read, write } => write_fds(f, *read, *write),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "IP",
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

fn write_fds(f: &mut fmt::Formatter<'_>, read: Option<RawFd>, write: Option<RawFd>) -> fmt::Result {
    if read == write {
        return write!(f, "FD:{}", read.unwrap_or(-1));
    }
    write!(f, "FD:{}:{}", read.unwrap_or(-1), write.unwrap_or(-1))
}

/// The name of a UNIX socket: a path, or a name in Linux's abstract namespace.
///
/// It has 1 to [`UNIX_NAME_MAX`] bytes, none of them NUL.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct UnixName {
    bytes: [u8; UNIX_NAME_MAX],
    len: u8,
    is_abstract: bool,
}

impl UnixName {
    fn new(name: &[u8], is_abstract: bool) -> Result<Self, &'static str> {
        if name.is_empty() {
            return Err("its name is empty");
        }
        if name.contains(&0) {
            return Err("its name contains a NUL");
        }
        let mut bytes = [0; UNIX_NAME_MAX];
        let len = u8::try_from(name.len()).unwrap_or(u8::MAX);
        match bytes.get_mut(..name.len()) {
            Some(room) => room.copy_from_slice(name),
            None => return Err("its name is longer than the 107 bytes that sockets allow"),
        }
        Ok(Self { bytes, len, is_abstract })
    }

    /// The path; `None` for an abstract name.
    pub fn path(&self) -> Option<&Path> {
        (!self.is_abstract).then(|| Path::new(OsStr::from_bytes(self.bytes())))
    }

    /// The abstract name without its `@`; `None` for a path.
    pub fn abstract_name(&self) -> Option<&[u8]> {
        self.is_abstract.then(|| self.bytes())
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_abstract {
            f.write_str("@")?;
        }
        write!(f, "{}", OsStr::from_bytes(self.bytes()).display())
    }
}

impl fmt::Debug for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// An invalid address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AddressError {
    text: String,
    why: &'static str,
    /// The address that was probably meant, as a suggestion.
    meant: Option<String>,
}

impl AddressError {
    fn new(text: &str, why: &'static str) -> Self {
        Self { text: text.to_owned(), why, meant: None }
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad address '{}': {}", self.text.escape_debug(), self.why)?;
        match &self.meant {
            Some(meant) => write!(f, " (did you mean {}?)", meant.escape_debug()),
            None => Ok(()),
        }
    }
}

impl std::error::Error for AddressError {}

/// A host name without an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ResolveError {
    host: String,
    why: String,
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot find host '{}': {}", self.host.escape_debug(), self.why)
    }
}

impl std::error::Error for ResolveError {}

#[cfg(test)]
mod tests;
