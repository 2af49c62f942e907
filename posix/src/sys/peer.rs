//! Who is at the other end of a UNIX socket.

use std::io;
use std::os::fd::BorrowedFd;

/// The user and primary group of the process that connected to the other end, at that moment.
#[cfg(target_os = "linux")]
pub(crate) fn peer_user(socket: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let peer = rustix::net::sockopt::socket_peercred(socket)?;
    Ok((peer.uid.as_raw(), peer.gid.as_raw()))
}

/// The user and group of the process that connected to the other end, at that moment.
#[cfg(not(target_os = "linux"))]
pub(crate) fn peer_user(socket: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    use std::os::fd::AsRawFd;
    let (mut uid, mut gid) = (u32::MAX, u32::MAX);
    // SAFETY: both pointers are to numbers that are ours for the call.
    super::check(unsafe { libc::getpeereid(socket.as_raw_fd(), &mut uid, &mut gid) })?;
    Ok((uid, gid))
}

/// The other groups of that process, in `room`; an error if there are more.
#[cfg(target_os = "linux")]
pub(crate) fn peer_groups<'r>(
    socket: BorrowedFd<'_>,
    room: &'r mut [u32],
) -> io::Result<&'r [u32]> {
    use std::os::fd::AsRawFd;
    let mut bytes = libc::socklen_t::try_from(size_of_val(room)).unwrap_or(0);
    // SAFETY: the pointers are to `bytes` bytes and to a number, both ours for the call. Any bytes are
    // valid numbers.
    super::check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            room.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    })?;
    Ok(room.get(..bytes as usize / size_of::<u32>()).unwrap_or_default())
}

/// As above: other systems do not tell.
#[cfg(not(target_os = "linux"))]
pub(crate) fn peer_groups<'r>(_: BorrowedFd<'_>, _: &'r mut [u32]) -> io::Result<&'r [u32]> {
    Ok(&[])
}
