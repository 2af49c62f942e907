//! Datagrams, one at a time, that never block.

use std::io;
use std::net::{IpAddr, SocketAddr};
#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use rustix::net::{self, AddressFamily, SendFlags, SocketType, sockopt};

use crate::net::stream;
#[cfg(target_os = "linux")]
use crate::sys;

/// Bytes of datagrams that may wait, where the system allows it: the burst of a restart's handshakes.
const BACKLOG: usize = 1 << 20;

/// Who has sent a datagram, and what a reply to it has to come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sender {
    /// Where a reply goes to.
    pub(crate) address: SocketAddr,
    /// The address of this host that the datagram was sent to, where the socket is bound to all of
    /// them. The sender knows a reply by that; the system would choose one by the route.
    asked: Option<IpAddr>,
}

/// A UDP socket on `ip`, alone on its port.
pub(crate) fn bind(ip: SocketAddr) -> io::Result<OwnedFd> {
    let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = stream::new_socket_of(family, SocketType::DGRAM)?;
    // The system cuts it down to its own limit; some refuse, and then it stays as it is.
    let _ = sockopt::set_socket_recv_buffer_size(&fd, BACKLOG);
    if ip.ip().is_unspecified() {
        tell_destination(&fd)?;
    }
    net::bind(&fd, &ip)?;
    Ok(fd)
}

/// Prepares a bound UDP socket that somebody else has opened.
pub(crate) fn adopt(fd: OwnedFd) -> io::Result<OwnedFd> {
    stream::prepare(&fd)?;
    let bound = SocketAddr::try_from(net::getsockname(&fd)?)?;
    if bound.ip().is_unspecified() {
        tell_destination(&fd)?;
    }
    Ok(fd)
}

/// Has the socket tell with each datagram which address it was sent to. Elsewhere than on Linux a
/// reply comes from the address that the system chooses.
fn tell_destination(fd: &OwnedFd) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    sys::datagram::tell_destination(
        fd.as_fd(),
        net::getsockname(fd)?.address_family() == AddressFamily::INET6,
    )?;
    let _ = fd;
    Ok(())
}

/// The next datagram's length and sender, with as much of it as fits in the front of `buffer`; `None`
/// where none is there. An empty one is one.
pub(crate) fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<(usize, Sender)>> {
    loop {
        return match receive_one(fd, buffer) {
            Ok((len, address, asked)) => Ok(Some((len, Sender { address, asked }))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
    }
}

#[cfg(target_os = "linux")]
fn receive_one(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, Option<IpAddr>)> {
    let (len, from, asked) = sys::datagram::receive(fd.as_fd(), buffer)?;
    // What was sent to a group of hosts can't be answered from that address.
    Ok((len, from, asked.filter(|asked| !asked.is_multicast())))
}

#[cfg(not(target_os = "linux"))]
fn receive_one(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, Option<IpAddr>)> {
    match net::recvfrom(fd, buffer, net::RecvFlags::empty())? {
        (len, _, Some(from)) => Ok((len, SocketAddr::try_from(from)?, None)),
        (_, _, None) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends one datagram; false where the system has no room for it now, or does not take it at all.
pub(crate) fn send(fd: &OwnedFd, datagram: &[u8], to: Sender) -> bool {
    #[cfg(target_os = "linux")]
    if let Some(from) = to.asked {
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
        Sender { address, asked: None }
    }

    #[test]
    fn datagrams_come_one_by_one_with_their_senders() {
        let ((a, a_at), (b, b_at)) = (bound(), bound());
        let mut buffer = [0; 4];
        assert_eq!(receive(&b, &mut buffer).unwrap(), None);
        assert!(
            send(&a, b"one", to(b_at)) && send(&a, b"", to(b_at)) && send(&a, b"three", to(b_at))
        );
        for len in [3, 0, 4] {
            // On the loopback what was sent is there.
            assert_eq!(receive(&b, &mut buffer).unwrap(), Some((len, to(a_at))));
        }
        assert_eq!((receive(&b, &mut buffer).unwrap(), &buffer), (None, b"thre"));
    }

    #[test]
    fn what_cannot_be_sent_is_no_error_that_stays() {
        let ((a, _), (b, b_at)) = (bound(), bound());
        assert!(!send(&a, &[0; 1 << 17], to(b_at)), "longer than any datagram");
        assert!(!send(&a, b"x", to(([127, 0, 0, 1], 0).into())), "no port");
        assert!(send(&a, b"x", to(b_at)));
        assert!(matches!(receive(&b, &mut [0; 2]), Ok(Some((1, _)))));
    }

    #[test]
    fn a_port_that_is_taken_is_not_shared() {
        let (_a, taken) = bound();
        assert_eq!(bind(taken).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    /// Which address a reply comes from where a datagram was sent to `asked`.
    #[cfg(target_os = "linux")]
    fn replies_from(wildcard: &str, asked: &str) -> IpAddr {
        let fd = bind(wildcard.parse().unwrap()).unwrap();
        let port = SocketAddr::try_from(net::getsockname(&fd).unwrap()).unwrap().port();
        let asked: IpAddr = asked.parse().unwrap();
        let any = if asked.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let (a, _) = (bind(any.parse().unwrap()).unwrap(), ());
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
    fn a_reply_comes_from_the_address_that_was_asked() {
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
