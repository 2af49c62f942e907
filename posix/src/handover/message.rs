//! Messages of a handover: what the bytes and descriptors of one packet mean.
//!
//! ```text
//!  packet   "dcho" | kind 1 | major 1 | minor 1 | 0 | field | field ...
//!  field    tag 2 | len 2 | value                          numbers are little-endian
//! ```
//!
//! A receiver ignores fields with tags that it does not know. A tag with the highest bit set comes with
//! one descriptor, in the order of the fields; so the descriptors of unknown fields are skipped, too.
//! Packets of [`Kind::Clients`] carry further descriptors after those of their fields. These rules,
//! and the fields of [`Kind::Hello`] and [`Kind::Refused`], are the same in every major version.

use std::os::fd::{BorrowedFd, OwnedFd};

use arrayvec::{ArrayString, ArrayVec};

/// The version of everything else. Another major version is incompatible.
pub(super) const MAJOR: u8 = 1;
/// Counts additions to [`MAJOR`].
pub(super) const MINOR: u8 = 0;

/// The most bytes in a packet: 18 descriptions of listeners and then some.
pub(super) const PACKET_MAX: usize = 16 << 10;
/// The most bytes of a text that are kept.
pub(super) const REASON_MAX: usize = 96;
/// The most descriptors in a packet. The system allows 253.
pub(super) const FDS_MAX: usize = 200;

const MAGIC: [u8; 4] = *b"dcho";
const HEADER_LEN: usize = 8;
const WITH_FD: u16 = 1 << 15;

/// What a packet is for; see the picture in the [module](super).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// A successor presents itself.
    Hello,
    /// The old server presents itself, with its listeners.
    Welcome,
    /// The successor can take over, and says which listeners it takes.
    Ready,
    /// The sessions, except what changes from then on.
    Sessions,
    /// The successor has loaded them.
    Copied,
    /// The sessions that have changed, and the bytes of the clients.
    Content,
    /// Connections of clients.
    Clients,
    /// The successor has everything.
    Loaded,
    /// The successor serves from now on.
    Yours,
    /// The sender gives up, for a reason.
    Refused,
    /// A kind of a later version.
    Unknown,
}

const KINDS: [Kind; 10] = [
    Kind::Hello,
    Kind::Welcome,
    Kind::Ready,
    Kind::Sessions,
    Kind::Copied,
    Kind::Content,
    Kind::Clients,
    Kind::Loaded,
    Kind::Yours,
    Kind::Refused,
];

/// What a field means. Later minor versions add tags and append to values.
pub(super) mod tag {
    use super::WITH_FD;

    /// Text: the version of the program.
    pub(in super::super) const BUILD: u16 = 1;
    /// Text: why the sender gives up.
    pub(in super::super) const REASON: u16 = 2;
    /// A listener: device 8, inode 8, len 2, address as given, len 2, address as bound. Device and
    /// inode are those of a UNIX socket's path, else 0.
    pub(in super::super) const LISTENER: u16 = WITH_FD | 3;
    /// The listener for successors: as [`LISTENER`], with its path as the address.
    pub(in super::super) const DOOR: u16 = WITH_FD | 4;
    /// The pid file, open for writing: its path.
    pub(in super::super) const PID_FILE: u16 = WITH_FD | 5;
    /// A pidfd of the old server: its process number 4.
    pub(in super::super) const PROCESS: u16 = WITH_FD | 6;
    /// A listener that the successor takes: its place in the welcome, 2.
    pub(in super::super) const TAKEN: u16 = 7;
    /// The successor takes the pid file.
    pub(in super::super) const TAKEN_PID_FILE: u16 = 8;
    /// A sealed memory file with the clients' bytes.
    pub(in super::super) const BYTES: u16 = WITH_FD | 9;
    /// A sealed memory file with the sessions, in the format of `-state`.
    pub(in super::super) const STATE: u16 = WITH_FD | 10;
    /// A sealed memory file with the ids of the sessions that have changed since [`Kind::Sessions`]. Without
    /// this field, [`STATE`] has all sessions.
    pub(in super::super) const CHANGED: u16 = WITH_FD | 13;
    /// How much was handed over: clients 8, sessions 8.
    pub(in super::super) const COUNTS: u16 = 11;
    /// The number of the first client in this packet: 8.
    pub(in super::super) const FIRST: u16 = 12;
}

/// How much was handed over.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counts {
    pub(super) clients: u64,
    pub(super) sessions: u64,
}

/// Builds a packet in a buffer that is allocated once.
pub(super) struct Packet<'a, 'fd> {
    bytes: &'a mut ArrayVec<u8, PACKET_MAX>,
    pub(super) fds: ArrayVec<BorrowedFd<'fd>, FDS_MAX>,
    full: bool,
}

impl<'a, 'fd> Packet<'a, 'fd> {
    pub(super) fn new(buffer: &'a mut ArrayVec<u8, PACKET_MAX>, kind: Kind) -> Self {
        buffer.clear();
        let number = KINDS.iter().position(|&one| one == kind).map_or(0, |at| at as u8 + 1);
        let mut packet = Self { bytes: buffer, fds: ArrayVec::new(), full: false };
        packet.put(&MAGIC);
        packet.put(&[number, MAJOR, MINOR, 0]);
        packet
    }

    pub(super) fn field(mut self, tag: u16, parts: &[&[u8]]) -> Self {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        self.put(&tag.to_le_bytes());
        self.put(&(len as u16).to_le_bytes());
        self.full |= len > usize::from(u16::MAX);
        parts.iter().for_each(|part| self.put(part));
        self
    }

    /// A field with a descriptor.
    pub(super) fn field_fd(mut self, tag: u16, fd: BorrowedFd<'fd>, parts: &[&[u8]]) -> Self {
        self.full |= self.fds.try_push(fd).is_err();
        self.field(tag, parts)
    }

    pub(super) fn counts(self, counts: Counts) -> Self {
        let Counts { clients, sessions } = counts;
        self.field(tag::COUNTS, &[&clients.to_le_bytes(), &sessions.to_le_bytes()])
    }

    /// The bytes; `None` if there was not enough room.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        (!self.full).then_some(self.bytes)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.full |= self.bytes.try_extend_from_slice(bytes).is_err();
    }
}

/// A packet that was received.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: Kind,
    pub(super) major: u8,
    rest: &'a [u8],
}

/// The packet is no message.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Malformed;

impl<'a> Message<'a> {
    /// Reads a packet, and checks that its fields fill it.
    pub(super) fn parse(packet: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = packet.split_first_chunk::<HEADER_LEN>().ok_or(Malformed)?;
        let [m0, m1, m2, m3, kind, major, ..] = *header;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(Malformed);
        }
        let kind = usize::from(kind).checked_sub(1).and_then(|at| KINDS.get(at));
        let message = Self { kind: kind.copied().unwrap_or(Kind::Unknown), major, rest };
        let used: usize = message.fields().map(|(_, value)| value.len() + 4).sum();
        if used == rest.len() { Ok(message) } else { Err(Malformed) }
    }

    /// The tags and values, without looking for descriptors.
    pub(super) fn fields(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let mut rest = self.rest;
        std::iter::from_fn(move || {
            let (tag, behind) = rest.split_first_chunk()?;
            let (len, behind) = behind.split_first_chunk()?;
            let len = usize::from(u16::from_le_bytes(*len));
            let (value, behind) = behind.split_at_checked(len)?;
            rest = behind;
            Some((u16::from_le_bytes(*tag), value))
        })
    }

    /// Calls `each` with every field and its descriptor, and leaves in `fds` those that belong to no
    /// field.
    ///
    /// # Errors
    /// A field lacks its descriptor, or `each` fails.
    pub(super) fn read(
        &self,
        fds: &mut ArrayVec<OwnedFd, FDS_MAX>,
        mut each: impl FnMut(u16, Value<'a>, Option<OwnedFd>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        for (tag, value) in self.fields() {
            let with_fd = tag & WITH_FD != 0;
            if with_fd && fds.is_empty() {
                return Err(Malformed);
            }
            let fd = with_fd.then(|| fds.remove(0));
            each(tag, Value(value), fd)?;
        }
        Ok(())
    }

    /// The text of the first field with this tag, without anything that could confuse a terminal.
    pub(super) fn text(&self, tag: u16) -> ArrayString<REASON_MAX> {
        let value = self.fields().find(|&(found, _)| found == tag).map_or(&[][..], |(_, v)| v);
        let mut text = ArrayString::new();
        for &byte in value {
            let printable = byte == b' ' || byte.is_ascii_graphic();
            if text.try_push(if printable { byte.into() } else { '?' }).is_err() {
                break;
            }
        }
        text
    }

    /// The counts in the message.
    pub(super) fn counts(&self) -> Result<Counts, Malformed> {
        let field = self.fields().find(|&(found, _)| found == tag::COUNTS);
        let mut value = Value(field.ok_or(Malformed)?.1);
        Ok(Counts { clients: value.u64()?, sessions: value.u64()? })
    }
}

/// The value of a field, read from its front. What a later version has appended stays unread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a>(pub(super) &'a [u8]);

impl<'a> Value<'a> {
    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.chunk().map(u64::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.chunk().map(u32::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.chunk().map(u16::from_le_bytes)
    }

    /// Bytes behind their length.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::from(self.u16()?);
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (chunk, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn hello() -> Vec<u8> {
        let mut buffer = ArrayVec::new();
        let packet = Packet::new(&mut buffer, Kind::Hello).field(tag::BUILD, &[b"2.", b"0"]);
        packet.counts(Counts { clients: 3, sessions: 1 << 40 }).bytes().unwrap().to_vec()
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let bytes = hello();
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.kind, message.major), (Kind::Hello, MAJOR));
        assert_eq!(message.text(tag::BUILD).as_str(), "2.0");
        assert_eq!(message.text(tag::REASON).as_str(), "");
        assert_eq!(message.counts(), Ok(Counts { clients: 3, sessions: 1 << 40 }));
    }

    #[test]
    fn a_packet_that_is_cut_anywhere_else_than_behind_a_field_is_malformed() {
        let bytes = hello();
        let whole = [HEADER_LEN, HEADER_LEN + 4 + 3, bytes.len()];
        for len in 0..=bytes.len() {
            assert_eq!(Message::parse(&bytes[..len]).is_ok(), whole.contains(&len), "{len}");
        }
        let mut foreign = bytes;
        foreign[0] ^= 1;
        assert_eq!(Message::parse(&foreign).err(), Some(Malformed));
    }

    #[test]
    fn no_byte_of_a_packet_causes_more_than_another_message() {
        let bytes = hello();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                if let Ok(message) = Message::parse(&flipped) {
                    let _ = (message.counts(), message.text(tag::BUILD));
                    let _ = message.read(&mut ArrayVec::new(), |_, mut value, _| {
                        let _ = (value.bytes(), value.u32());
                        Ok(())
                    });
                }
            }
        }
    }

    #[test]
    fn unknown_fields_and_kinds_of_a_later_version_are_skipped_with_their_descriptors() {
        let (a, b) = std::io::pipe().unwrap();
        let mut buffer = ArrayVec::new();
        let packet = Packet::new(&mut buffer, Kind::Welcome)
            .field_fd(WITH_FD | 999, a.as_fd(), &[b"later"])
            .field(998, &[])
            .field_fd(tag::PROCESS, b.as_fd(), &[&7_u32.to_le_bytes(), b"appended later"]);
        let mut bytes = packet.bytes().unwrap().to_vec();
        bytes[6] = MINOR + 1;
        let copy = |fd: &BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
        let mut fds: ArrayVec<OwnedFd, FDS_MAX> = packet.fds.iter().map(copy).collect();
        let numbers: Vec<String> = fds.iter().map(|fd| format!("{fd:?}")).collect();
        let mut found = None;
        let read = |tag, mut value: Value<'_>, fd: Option<OwnedFd>| {
            if tag == tag::PROCESS {
                found = Some((value.u32()?, format!("{:?}", fd.unwrap())));
            }
            Ok(())
        };
        Message::parse(&bytes).unwrap().read(&mut fds, read).unwrap();
        assert_eq!(found, Some((7, numbers[1].clone())));
        assert!(fds.is_empty());
        bytes[4] = 77;
        assert_eq!(Message::parse(&bytes).unwrap().kind, Kind::Unknown);
    }

    #[test]
    fn a_field_without_its_descriptor_is_malformed() {
        let (a, _b) = std::io::pipe().unwrap();
        let mut buffer = ArrayVec::new();
        let packet = Packet::new(&mut buffer, Kind::Content).field_fd(tag::BYTES, a.as_fd(), &[]);
        let bytes = packet.bytes().unwrap().to_vec();
        let read = Message::parse(&bytes).unwrap().read(&mut ArrayVec::new(), |_, _, _| Ok(()));
        assert_eq!(read, Err(Malformed));
    }

    #[test]
    fn a_packet_that_is_too_long_is_not_sent() {
        let mut buffer = ArrayVec::new();
        let long = vec![0; PACKET_MAX];
        assert!(Packet::new(&mut buffer, Kind::Hello).field(1, &[&long]).bytes().is_none());
    }

    #[test]
    fn a_text_cannot_confuse_a_terminal_or_fill_a_log() {
        let mut buffer = ArrayVec::new();
        let text = [b"\x1b[31mno\n".as_slice(), &[b'x'; 500]];
        let packet = Packet::new(&mut buffer, Kind::Refused).field(tag::REASON, &text);
        let bytes = packet.bytes().unwrap().to_vec();
        let text = Message::parse(&bytes).unwrap().text(tag::REASON);
        assert!(text.starts_with("?[31mno?xxx") && text.len() == REASON_MAX, "{text}");
    }
}
