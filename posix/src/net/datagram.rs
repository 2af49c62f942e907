//! UDP sockets: one datagram at a time, never blocking.

use std::io;
use std::net::{IpAddr, SocketAddr};
#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use rustix::net::{self, AddressFamily, SendFlags, SocketType, sockopt};

use crate::net::stream;
#[cfg(target_os = "linux")]
use crate::sys;

/// The receive buffer asked for, in bytes: enough for the handshakes after a restart.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Where a datagram came from, and where a reply goes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sender {
    /// The sender's address.
    pub(crate) address: SocketAddr,
    /// The address of this host that the datagram was sent to, if the socket is bound to all of them.
    /// A reply must come from it; left to itself, the system chooses an address by the route.
    local: Option<IpAddr>,
}

/// Binds a UDP socket to `ip`, without sharing the port.
pub(crate) fn bind(ip: SocketAddr) -> io::Result<OwnedFd> {
    let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = stream::new_socket_of(family, SocketType::DGRAM)?;
    // Most systems cut the value down to their limit; where one refuses, the default stays.
    let _ = sockopt::set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER);
    if ip.ip().is_unspecified() {
        report_destination(&fd)?;
    }
    net::bind(&fd, &ip)?;
    Ok(fd)
}

/// Prepares a bound UDP socket that was inherited.
pub(crate) fn adopt(fd: OwnedFd) -> io::Result<OwnedFd> {
    stream::prepare(&fd)?;
    let bound = SocketAddr::try_from(net::getsockname(&fd)?)?;
    if bound.ip().is_unspecified() {
        report_destination(&fd)?;
    }
    Ok(fd)
}

/// Lets the socket report the address that each datagram was sent to. Linux only: elsewhere replies
/// come from the address that the system chooses.
fn report_destination(fd: &OwnedFd) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    sys::datagram::report_destination(
        fd.as_fd(),
        net::getsockname(fd)?.address_family() == AddressFamily::INET6,
    )?;
    let _ = fd;
    Ok(())
}

/// Receives the next datagram into `buffer`, truncated to its length. Returns the number of bytes,
/// which may be 0, and the sender; `None` if no datagram waits.
pub(crate) fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<(usize, Sender)>> {
    loop {
        return match receive_one(fd, buffer) {
            Ok((len, address, local)) => Ok(Some((len, Sender { address, local }))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
    }
}

#[cfg(target_os = "linux")]
fn receive_one(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, Option<IpAddr>)> {
    let (len, from, local) = sys::datagram::receive(fd.as_fd(), buffer)?;
    // A multicast address cannot be a source address.
    Ok((len, from, local.filter(|local| !local.is_multicast())))
}

#[cfg(not(target_os = "linux"))]
fn receive_one(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, Option<IpAddr>)> {
    match net::recvfrom(fd, buffer, net::RecvFlags::empty())? {
        (len, _, Some(from)) => Ok((len, SocketAddr::try_from(from)?, None)),
        (_, _, None) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends one datagram. Returns whether the system took it: its buffer may be full, or the datagram may
/// be refused.
pub(crate) fn send(fd: &OwnedFd, datagram: &[u8], to: Sender) -> bool {
    #[cfg(target_os = "linux")]
    if let Some(from) = to.local {
        return sys::datagram::send(fd.as_fd(), datagram, to.address, from).is_ok();
    }
    net::sendto(fd, datagram, SendFlags::empty(), &to.address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound() -> (OwnedFd, SocketAddr) {
        let fd = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = net::getsockname(&fd).unwrap().try_into().unwrap();
        (fd, address)
    }

    fn to(address: SocketAddr) -> Sender {
        Sender { address, local: None }
    }

    #[test]
    fn each_datagram_is_received_with_its_sender() {
        let ((a, a_at), (b, b_at)) = (bound(), bound());
        let mut buffer = [0; 4];
        assert_eq!(receive(&b, &mut buffer).unwrap(), None);
        assert!(
            send(&a, b"one", to(b_at)) && send(&a, b"", to(b_at)) && send(&a, b"three", to(b_at))
        );
        for len in [3, 0, 4] {
            // On the loopback interface a datagram arrives at once.
            assert_eq!(receive(&b, &mut buffer).unwrap(), Some((len, to(a_at))));
        }
        assert_eq!((receive(&b, &mut buffer).unwrap(), &buffer), (None, b"thre"));
    }

    #[test]
    fn a_datagram_that_cannot_be_sent_does_not_affect_the_next() {
        let ((a, _), (b, b_at)) = (bound(), bound());
        assert!(!send(&a, &[0; 1 << 17], to(b_at)), "longer than any datagram");
        assert!(!send(&a, b"x", to(([127, 0, 0, 1], 0).into())), "no port");
        assert!(send(&a, b"x", to(b_at)));
        assert!(matches!(receive(&b, &mut [0; 2]), Ok(Some((1, _)))));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_burst_finds_as_much_room_as_the_system_allows() {
        let room = |fd: &OwnedFd| sockopt::socket_recv_buffer_size(fd).unwrap();
        let limit = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap();
        let (fd, _) = bound();
        // The system doubles it for its own part.
        assert_eq!(room(&fd), 2 * RECEIVE_BUFFER.min(limit.trim().parse().unwrap()));
    }

    #[test]
    fn a_port_in_use_is_not_shared() {
        let (_a, taken) = bound();
        assert_eq!(bind(taken).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    /// The source address of a reply to a datagram that was sent to `asked`.
    #[cfg(target_os = "linux")]
    fn replies_from(wildcard: &str, asked: &str) -> IpAddr {
        let fd = bind(wildcard.parse().unwrap()).unwrap();
        let port = SocketAddr::try_from(net::getsockname(&fd).unwrap()).unwrap().port();
        let asked: IpAddr = asked.parse().unwrap();
        let any = if asked.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let a = bind(any.parse().unwrap()).unwrap();
        let asked = SocketAddr::new(asked, port);
        assert!(send(&a, b"ask", to(asked)));
        let (len, sender) = receive(&fd, &mut [0; 9]).unwrap().unwrap();
        assert!(send(&fd, b"reply", sender));
        let (reply, from) = receive(&a, &mut [0; 9]).unwrap().unwrap();
        assert_eq!((len, reply, from.address.port()), (3, 5, port));
        from.address.ip()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_reply_comes_from_the_address_that_the_request_was_sent_to() {
        for asked in ["127.0.0.1", "127.0.0.2", "127.1.2.3"] {
            assert_eq!(replies_from("0.0.0.0:0", asked).to_string(), asked);
        }
        if std::net::UdpSocket::bind("[::1]:0").is_err() {
            return crate::testing::skipped("this machine has no IPv6");
        }
        for asked in ["::1", "127.0.0.1", "127.0.0.2"] {
            assert_eq!(replies_from("[::]:0", asked).to_string(), asked);
        }
    }
}
