//! A connection between two servers: packets with descriptors, and a deadline for each.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType, sockopt,
};

use super::message::{FDS_MAX, PACKET_MAX};
use crate::net::stream;

/// One end of a connection. It never blocks longer than to a deadline.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

/// The buffers for one packet, allocated once.
pub(super) struct Buffers {
    pub(super) outgoing: ArrayVec<u8, PACKET_MAX>,
    pub(super) incoming: [u8; PACKET_MAX],
    pub(super) fds: ArrayVec<OwnedFd, FDS_MAX>,
}

impl Buffers {
    pub(super) fn new() -> Box<Self> {
        Box::new(Self {
            outgoing: ArrayVec::new(),
            incoming: [0; PACKET_MAX],
            fds: ArrayVec::new(),
        })
    }
}

/// The result of [`Channel::receive`].
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Received {
    /// A packet of this length.
    Packet(usize),
    /// The peer has closed its end.
    Ended,
    /// Nothing yet.
    Nothing,
}

impl Channel {
    /// Connects to the server that listens on `path`; `None` if none does.
    pub(super) fn connect(path: &Path) -> io::Result<Option<Self>> {
        let fd = stream::new_socket_of(AddressFamily::UNIX, SocketType::SEQPACKET)?;
        match net::connect(&fd, &SocketAddrUnix::new(path)?) {
            Ok(()) => Ok(Some(Self(fd))),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn accepted(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The user that the peer was when it connected, or began to listen.
    pub(super) fn peer_uid(&self) -> io::Result<u32> {
        Ok(sockopt::socket_peercred(&self.0)?.uid.as_raw())
    }

    /// The number of the peer's process, if this process can know it.
    pub(super) fn peer_pid(&self) -> i32 {
        sockopt::socket_peercred(&self.0).map_or(0, |peer| peer.pid.as_raw_pid())
    }

    /// Sends a packet and duplicates of descriptors, waiting for room until `deadline`.
    pub(super) fn send(
        &self,
        packet: &[u8],
        fds: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FDS_MAX))];
        loop {
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let parts = [IoSlice::new(packet)];
            match net::sendmsg(&self.0, &parts, &mut control, SendFlags::NOSIGNAL) {
                Ok(len) if len == packet.len() => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait_for(self.0.as_fd(), PollFlags::OUT, deadline)?,
                // Too many descriptors of this user are on their way: the peer must receive some.
                Err(Errno::TOOMANYREFS) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Receives a packet into `buffers` if there is one. The descriptors of the last one are closed.
    ///
    /// # Errors
    /// The system's; `InvalidData` if the packet or its descriptors were too many, also for this
    /// process.
    pub(super) fn receive(&self, buffers: &mut Buffers) -> io::Result<Received> {
        let Buffers { incoming, fds, .. } = buffers;
        fds.clear();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(incoming)];
        let received = loop {
            match net::recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received,
                // The peer has closed its end without reading all that it was sent. This is reported once,
                // before what it has sent.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(error) => return Err(error.into()),
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(all) = message {
                for fd in all {
                    // One that has no room is closed; then the flag below is set, too.
                    let _ = fds.try_push(fd);
                }
            }
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            fds.clear();
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(if received.bytes == 0 { Received::Ended } else { Received::Packet(received.bytes) })
    }

    /// Receives a packet, waiting for it until `deadline`; `None` if the peer has closed its end.
    pub(super) fn receive_by(
        &self,
        buffers: &mut Buffers,
        deadline: Instant,
    ) -> io::Result<Option<usize>> {
        loop {
            match self.receive(buffers)? {
                Received::Packet(len) => return Ok(Some(len)),
                Received::Ended => return Ok(None),
                Received::Nothing => wait_for(self.0.as_fd(), PollFlags::IN, deadline)?,
            }
        }
    }

    /// Refuses all further packets: each send of the peer fails from now on. What was sent before can
    /// still be received.
    pub(super) fn stop_receiving(&self) {
        let _ = net::shutdown(&self.0, net::Shutdown::Read);
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until a descriptor is ready.
///
/// # Errors
/// `TimedOut` at `deadline`, or the system's error.
pub(super) fn wait_for(fd: BorrowedFd<'_>, flags: PollFlags, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
