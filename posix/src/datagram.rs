//! Datagrams, one at a time, that never block.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketType, sockopt};

use crate::socket;

/// Bytes of datagrams that may wait, where the system allows it: the burst of a restart's handshakes.
const BACKLOG: usize = 1 << 20;

/// A UDP socket on `ip`, alone on its port.
pub(crate) fn bind(ip: SocketAddr) -> io::Result<OwnedFd> {
    let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket::new_socket_of(family, SocketType::DGRAM)?;
    // The system cuts it down to its own limit; some refuse, and then it stays as it is.
    let _ = sockopt::set_socket_recv_buffer_size(&fd, BACKLOG);
    net::bind(&fd, &ip)?;
    Ok(fd)
}

/// The next datagram's length and sender, with as much of it as fits in the front of `buffer`; `None`
/// where none is there. An empty one is one.
pub(crate) fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
    loop {
        return match net::recvfrom(fd, &mut *buffer, RecvFlags::empty()) {
            Ok((len, _, Some(from))) => Ok(Some((len, SocketAddr::try_from(from)?))),
            Ok((_, _, None)) => Err(io::ErrorKind::InvalidData.into()),
            Err(Errno::AGAIN) => Ok(None),
            Err(Errno::INTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

/// Sends one datagram; false where the system has no room for it now, or does not take it at all.
pub(crate) fn send(fd: &OwnedFd, datagram: &[u8], to: SocketAddr) -> bool {
    net::sendto(fd, datagram, SendFlags::empty(), &to).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound() -> (OwnedFd, SocketAddr) {
        let fd = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = net::getsockname(&fd).unwrap().try_into().unwrap();
        (fd, address)
    }

    #[test]
    fn datagrams_come_one_by_one_with_their_senders() {
        let ((a, from), (b, to)) = (bound(), bound());
        let mut buffer = [0; 4];
        assert_eq!(receive(&b, &mut buffer).unwrap(), None);
        assert!(send(&a, b"one", to) && send(&a, b"", to) && send(&a, b"three", to));
        for len in [3, 0, 4] {
            // On the loopback what was sent is there.
            assert_eq!(receive(&b, &mut buffer).unwrap(), Some((len, from)));
        }
        assert_eq!((receive(&b, &mut buffer).unwrap(), &buffer), (None, b"thre"));
    }

    #[test]
    fn what_cannot_be_sent_is_no_error_that_stays() {
        let ((a, _), (b, to)) = (bound(), bound());
        assert!(!send(&a, &[0; 1 << 17], to), "longer than any datagram");
        assert!(!send(&a, b"x", ([127, 0, 0, 1], 0).into()), "no port");
        assert!(send(&a, b"x", to));
        assert!(matches!(receive(&b, &mut [0; 2]), Ok(Some((1, _)))));
    }

    #[test]
    fn a_port_that_is_taken_is_not_shared() {
        let (_a, taken) = bound();
        assert_eq!(bind(taken).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
