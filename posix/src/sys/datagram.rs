//! Datagrams with the address of this host that they were sent to, or are to come from.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{c_int, c_void};

use super::check;

/// Room for one control message with either structure, aligned as such messages have to be.
type Control = [u64; 8];

/// Lets the socket report the address that each datagram was sent to.
pub(crate) fn report_destination(fd: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    let (level, option) = match v6 {
        true => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        false => (libc::IPPROTO_IP, libc::IP_PKTINFO),
    };
    let on: c_int = 1;
    let len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the pointer is to a number of the length that is told, which the call only reads.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const on).cast::<c_void>(), len)
    })
}

/// Receives a datagram into the front of `buffer`: its length, its sender, and the address that it was
/// sent to, where the socket [reports](report_destination).
pub(crate) fn receive(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddr, Option<IpAddr>)> {
    // SAFETY: all of these are plain numbers and pointers, for which zeros are valid values.
    let mut from: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: as above.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut control: Control = [0; 8];
    let mut room =
        libc::iovec { iov_base: buffer.as_mut_ptr().cast::<c_void>(), iov_len: buffer.len() };
    message.msg_name = (&raw mut from).cast::<c_void>();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_iov = &raw mut room;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast::<c_void>();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: every pointer is to memory of the length beside it, which is ours for the call.
    let len = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, 0) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    let from = sender(&from).ok_or(io::ErrorKind::InvalidData)?;
    Ok((len, from, destination(&message)))
}

/// The address in what the system has filled in.
fn sender(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let start = ptr::from_ref(storage);
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: a storage is as long as any address, aligned for all, and has one of this kind.
            let address = unsafe { &*start.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { &*start.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            let (flow, scope) = (address.sin6_flowinfo, address.sin6_scope_id);
            Some(SocketAddrV6::new(ip, u16::from_be(address.sin6_port), flow, scope).into())
        }
        _ => None,
    }
}

/// The address that a received datagram was sent to.
fn destination(message: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the system has filled in the control messages of `message`, whose buffer still is there.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: where it is not null it points to a header in that buffer.
    while let Some(found) = unsafe { header.as_ref() } {
        // SAFETY: what is behind the header lies in the buffer.
        let data = unsafe { libc::CMSG_DATA(header) };
        match (found.cmsg_level, found.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: that is what a message of this type has, at any alignment.
                let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
                return Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: as above.
                let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
                return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
            }
            // SAFETY: both belong to the same message.
            _ => header = unsafe { libc::CMSG_NXTHDR(message, header) },
        }
    }
    None
}

/// Sends a datagram from the address `from` of this host.
pub(crate) fn send(
    fd: BorrowedFd<'_>,
    datagram: &[u8],
    to: SocketAddr,
    from: IpAddr,
) -> io::Result<()> {
    // SAFETY: all of these are plain numbers and pointers, for which zeros are valid values.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: as above.
    let mut place: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut control: Control = [0; 8];
    // The system only reads it.
    let start = datagram.as_ptr().cast_mut().cast::<c_void>();
    let mut bytes = libc::iovec { iov_base: start, iov_len: datagram.len() };
    message.msg_name = (&raw mut place).cast::<c_void>();
    message.msg_namelen = write_address(&mut place, to);
    message.msg_iov = &raw mut bytes;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast::<c_void>();
    message.msg_controllen = size_of::<Control>() as _;
    match from {
        IpAddr::V4(ip) => {
            let address = libc::in_addr { s_addr: u32::from(ip).to_be() };
            let none = libc::in_addr { s_addr: 0 };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: none };
            write_control(&mut message, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        IpAddr::V6(ip) => {
            let address = libc::in6_addr { s6_addr: ip.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: 0 };
            write_control(&mut message, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
    }
    // SAFETY: every pointer is to memory of the length beside it, which the call only reads.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes an address as the system has it, and gives its length.
fn write_address(place: &mut libc::sockaddr_storage, address: SocketAddr) -> libc::socklen_t {
    let start = ptr::from_mut(place);
    match address {
        SocketAddr::V4(address) => {
            // SAFETY: a storage is as long as any address and aligned for all; zeros are a valid one.
            let written = unsafe { &mut *start.cast::<libc::sockaddr_in>() };
            written.sin_family = libc::AF_INET as libc::sa_family_t;
            written.sin_port = address.port().to_be();
            written.sin_addr.s_addr = u32::from(*address.ip()).to_be();
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(address) => {
            // SAFETY: as above.
            let written = unsafe { &mut *start.cast::<libc::sockaddr_in6>() };
            written.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            written.sin6_port = address.port().to_be();
            written.sin6_addr.s6_addr = address.ip().octets();
            written.sin6_flowinfo = address.flowinfo();
            written.sin6_scope_id = address.scope_id();
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

/// Makes `info` the only control message of `message`, which has a whole [`Control`].
fn write_control<T>(message: &mut libc::msghdr, level: c_int, kind: c_int, info: T) {
    let len = size_of::<T>() as libc::c_uint;
    // SAFETY: it only calculates.
    let (space, whole) = unsafe { (libc::CMSG_SPACE(len), libc::CMSG_LEN(len)) };
    assert!(space as usize <= size_of::<Control>(), "one message of either kind fits");
    // SAFETY: the buffer has room for a header, so that there is a first one.
    let header = unsafe { &mut *libc::CMSG_FIRSTHDR(message) };
    header.cmsg_level = level;
    header.cmsg_type = kind;
    header.cmsg_len = whole as _;
    // SAFETY: the buffer has room for the message as a whole, at any alignment.
    unsafe { libc::CMSG_DATA(header).cast::<T>().write_unaligned(info) };
    message.msg_controllen = space as _;
}
