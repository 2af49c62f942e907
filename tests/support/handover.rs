//! The other side of a handover, written apart from the programs: packets as they are, and a relay
//! between two servers that can change, hold back and count them.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with,
    bind, connect, listen, recvmsg, sendmsg, socket_with,
};

use crate::process::TIMEOUT;

/// Kinds of packets.
pub const HELLO: u8 = 1;
/// The old server presents itself.
pub const WELCOME: u8 = 2;
/// The successor can take over.
pub const READY: u8 = 3;
/// The sessions, except what changes from then on.
pub const SESSIONS: u8 = 4;
/// The successor has loaded them.
pub const COPIED: u8 = 5;
/// What has changed, and bytes of clients.
pub const CONTENT: u8 = 6;
/// Connections of clients.
pub const CLIENTS: u8 = 7;
/// The successor has everything.
pub const LOADED: u8 = 8;
/// The commit.
pub const YOURS: u8 = 9;
/// One side gives up.
pub const REFUSED: u8 = 10;

/// The tag of a reason.
pub const REASON: u16 = 2;
/// The tag of a listener that is taken.
pub const TAKEN: u16 = 7;
/// The tag of what was handed over.
pub const COUNTS: u16 = 11;
/// The bit of tags with a descriptor.
pub const WITH_FD: u16 = 1 << 15;

/// A packet and its descriptors.
#[derive(Debug)]
pub struct Packet {
    /// What it is for.
    pub kind: u8,
    /// The major version of its sender.
    pub major: u8,
    /// The minor version of its sender.
    pub minor: u8,
    /// Tags and values.
    pub fields: Vec<(u16, Vec<u8>)>,
    /// Descriptors, in the order of the fields that have one.
    pub fds: Vec<OwnedFd>,
}

impl Packet {
    /// A packet of version 1.0.
    pub fn new(kind: u8, fields: &[(u16, &[u8])]) -> Self {
        let fields = fields.iter().map(|&(tag, value)| (tag, value.to_vec())).collect();
        Self { kind, major: 1, minor: 0, fields, fds: Vec::new() }
    }

    /// Returns the value of a field; empty if there is none.
    pub fn value(&self, tag: u16) -> Vec<u8> {
        let found = self.fields.iter().find(|(one, _)| *one == tag);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = [&b"dcho"[..], &[self.kind, self.major, self.minor, 0]].concat();
        for (tag, value) in &self.fields {
            bytes.extend(tag.to_le_bytes());
            bytes.extend((value.len() as u16).to_le_bytes());
            bytes.extend(value);
        }
        bytes
    }

    fn parse(bytes: &[u8], fds: Vec<OwnedFd>) -> Self {
        assert_eq!(&bytes[..4], b"dcho");
        let (mut rest, mut fields) = (&bytes[8..], Vec::new());
        while let Some((&[t0, t1, l0, l1], behind)) = rest.split_first_chunk() {
            let (value, behind) = behind.split_at(u16::from_le_bytes([l0, l1]).into());
            fields.push((u16::from_le_bytes([t0, t1]), value.to_vec()));
            rest = behind;
        }
        Self { kind: bytes[4], major: bytes[5], minor: bytes[6], fields, fds }
    }
}

/// One end of a connection for a handover.
#[derive(Debug)]
pub struct Peer(OwnedFd);

fn new_socket() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a socket")
}

impl Peer {
    /// Connects to a server's door.
    ///
    /// # Panics
    /// If nothing listens there.
    pub fn connect(path: &Path) -> Self {
        let fd = new_socket();
        connect(&fd, &SocketAddrUnix::new(path).expect("a path")).expect("a door");
        Self(fd).patient()
    }

    fn patient(self) -> Self {
        for timeout in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&self.0, timeout, Some(TIMEOUT)).expect("a timeout");
        }
        self
    }

    /// Sends a packet; false if the peer has closed its end.
    ///
    /// # Panics
    /// If the peer takes nothing.
    pub fn send(&self, packet: &Packet) -> bool {
        self.send_bytes(&packet.bytes(), &packet.fds)
    }

    /// Sends any bytes and descriptors; false if the peer has closed its end.
    ///
    /// # Panics
    /// If the peer takes nothing.
    pub fn send_bytes(&self, bytes: &[u8], fds: &[OwnedFd]) -> bool {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
        let sent = sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
        match sent {
            Ok(_) => true,
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => false,
            Err(error) => panic!("send: {error}"),
        }
    }

    /// Receives a packet; `None` if the peer has closed its end.
    ///
    /// # Panics
    /// If nothing comes.
    pub fn receive(&self) -> Option<Packet> {
        let mut bytes = vec![0; 1 << 16];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received = match recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => received,
            Err(rustix::io::Errno::CONNRESET) => return None,
            Err(error) => panic!("receive: {error}"),
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(all) = message {
                fds.extend(all);
            }
        }
        (received.bytes > 0).then(|| Packet::parse(&bytes[..received.bytes], fds))
    }

    /// Receives a packet of a kind.
    ///
    /// # Panics
    /// If another one comes, or none.
    pub fn expect(&self, kind: u8) -> Packet {
        let packet = self.receive();
        let packet = packet.unwrap_or_else(|| panic!("the end instead of packet {kind}"));
        let reason = String::from_utf8_lossy(&packet.value(REASON)).into_owned();
        assert_eq!(packet.kind, kind, "{reason}");
        packet
    }

    /// Waits until the peer has closed its end, and returns the reason that it gave before.
    ///
    /// # Panics
    /// If it does not.
    pub fn refusal(&self) -> String {
        let mut reason = String::new();
        while let Some(packet) = self.receive() {
            reason = String::from_utf8_lossy(&packet.value(REASON)).into_owned();
        }
        reason
    }
}

/// A door that is not a server's.
#[derive(Debug)]
pub struct FakeDoor(OwnedFd);

impl FakeDoor {
    /// Listens on a path.
    ///
    /// # Panics
    /// If that fails.
    pub fn listen(path: &Path) -> Self {
        let fd = new_socket();
        bind(&fd, &SocketAddrUnix::new(path).expect("a path")).expect("a free path");
        listen(&fd, 4).expect("a listening socket");
        let timeout = Some(TIMEOUT + Duration::from_secs(1));
        set_socket_timeout(&fd, Timeout::Recv, timeout).expect("a timeout");
        Self(fd)
    }

    /// Accepts a successor.
    ///
    /// # Panics
    /// If none comes.
    pub fn accept(&self) -> Peer {
        let (fd, _) = acceptfrom_with(&self.0, SocketFlags::CLOEXEC).expect("a successor");
        Peer(fd).patient()
    }
}

/// What a relay does with a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Then {
    /// Passes it on.
    Pass,
    /// Drops it, and closes both connections.
    Cut,
}

/// Which of the two sends packets of this kind.
const fn from_successor(kind: u8) -> bool {
    matches!(kind, HELLO | READY | COPIED | LOADED)
}

/// Connects a successor to an old server, and passes packets both ways until one of them closes.
/// `each` sees every packet first, and may change it.
///
/// # Panics
/// If nothing comes, or not in the order of the protocol.
pub fn relay(door: &FakeDoor, old: &Path, mut each: impl FnMut(&mut Packet) -> Then) {
    let successor = door.accept();
    let old = Peer::connect(old);
    let mut clients = 0;
    let mut next = HELLO;
    loop {
        let (from, to) = if from_successor(next) { (&successor, &old) } else { (&old, &successor) };
        let Some(mut packet) = from.receive() else { return };
        if packet.kind == CONTENT {
            let counts = packet.value(COUNTS);
            clients = counts[..8].try_into().map_or(0, u64::from_le_bytes);
        } else if packet.kind == CLIENTS {
            clients = clients.saturating_sub(packet.fds.len() as u64);
        }
        let kind = packet.kind;
        if each(&mut packet) == Then::Cut || !to.send(&packet) || kind == REFUSED {
            return;
        }
        next = match kind {
            CONTENT | CLIENTS if clients > 0 => CLIENTS,
            CONTENT | CLIENTS => LOADED,
            YOURS => return,
            kind => kind + 1,
        };
    }
}
