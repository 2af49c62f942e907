//! The packets of the old server, and everything that it passes on in one go.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant as Moment;

use arrayvec::ArrayVec;

use super::bytes::{Writer, memory_file, seal};
use super::channel::{Buffers, Channel, Received};
use super::message::{Counts, FDS_MAX, Kind, Message, Packet, Value, tag};
use super::sessions::{write_all, write_changed};
use super::{Failure, Movable};
use crate::event_loop::EventLoop;
use crate::program::LISTENERS_MAX;

/// What a successor takes, from its ready.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) listeners: [bool; LISTENERS_MAX],
    pub(super) pid_file: bool,
}

/// Receives a packet without waiting.
pub(super) fn receive(
    channel: &Channel,
    buffers: &mut Buffers,
    step: &'static str,
) -> Result<Option<usize>, Failure> {
    match channel.receive(buffers).map_err(Failure::of(step))? {
        Received::Packet(len) => Ok(Some(len)),
        Received::Ended => Err(Failure::Ended(step)),
        Received::Nothing => Ok(None),
    }
}

pub(super) fn send(
    channel: &Channel,
    packet: &Packet<'_, '_>,
    step: &'static str,
    deadline: Moment,
) -> Result<(), Failure> {
    let too_long = || Failure::System(step, io::ErrorKind::FileTooLarge.into());
    let bytes = packet.bytes().ok_or_else(too_long)?;
    channel.send(bytes, &packet.fds, deadline).map_err(Failure::of(step))
}

/// A field that describes a listener.
pub(super) fn listener<'a, 'fd>(
    packet: Packet<'a, 'fd>,
    tag: u16,
    fd: BorrowedFd<'fd>,
    (device, inode): (u64, u64),
    given: [&[u8]; 2],
    bound: &[u8],
) -> Packet<'a, 'fd> {
    let [start, end] = given;
    let given_len = ((start.len() + end.len()) as u16).to_le_bytes();
    let bound_len = (bound.len() as u16).to_le_bytes();
    let (device, inode) = (device.to_le_bytes(), inode.to_le_bytes());
    packet.field_fd(tag, fd, &[&device, &inode, &given_len, start, end, &bound_len, bound])
}

pub(super) fn parse_ready(packet: &[u8]) -> Result<Taken, Failure> {
    const INVALID: Failure = Failure::Unexpected("get ready");
    let message = Message::parse(packet).map_err(|_| INVALID)?;
    match message.kind {
        Kind::Ready => {}
        Kind::Refused => return Err(Failure::Refused(message.text(tag::REASON))),
        _ => return Err(INVALID),
    }
    let mut taken = Taken::default();
    for (tag, value) in message.fields() {
        match tag {
            tag::TAKEN => {
                let number = Value(value).u16().map_err(|_| INVALID)?;
                *taken.listeners.get_mut(usize::from(number)).ok_or(INVALID)? = true;
            }
            tag::TAKEN_PID_FILE => taken.pid_file = true,
            _ => {}
        }
    }
    Ok(taken)
}

/// Passes everything on, up to the commit.
pub(super) fn give<M: Movable>(
    channel: &Channel,
    buffers: &mut Buffers,
    staging: &mut [u8],
    event_loop: &EventLoop<M>,
    deadline: Moment,
) -> Result<Counts, Failure> {
    let file = |name: &CStr| {
        memory_file(name).map_err(|error| Failure::System("make a memory file", error))
    };
    let (bytes, sessions) = (file(c"distcache-bytes")?, file(c"distcache-state")?);
    let clients = write_clients(&bytes, staging, event_loop)?;
    let (now, table) = (event_loop.now(), event_loop.machine.table());
    let cannot = |error| Failure::System("write the sessions", error);
    let changed = event_loop.machine.changes();
    let changed = changed.map(|log| Ok((log, file(c"distcache-changed")?))).transpose()?;
    let count = match &changed {
        Some((log, file)) => {
            let mut out: &File = file;
            out.write_all(log).map_err(cannot)?;
            seal(file).map_err(cannot)?;
            write_changed(table, now, log, &sessions)
        }
        None => write_all(table, now, &sessions),
    };
    let count = count.map_err(cannot)?;
    for file in [&bytes, &sessions] {
        seal(file).map_err(cannot)?;
    }
    let counts = Counts { clients, sessions: count };
    let mut packet = Packet::new(&mut buffers.outgoing, Kind::Content)
        .field_fd(tag::BYTES, bytes.as_fd(), &[])
        .field_fd(tag::STATE, sessions.as_fd(), &[])
        .counts(counts);
    if let Some((_, file)) = &changed {
        packet = packet.field_fd(tag::CHANGED, file.as_fd(), &[]);
    }
    send(channel, &packet, "receive the sessions", deadline)?;
    send_clients(channel, buffers, event_loop, deadline)?;

    const STEP: &str = "load everything";
    let len = channel.receive_by(buffers, deadline).map_err(Failure::of(STEP))?;
    let packet = &buffers.incoming[..len.ok_or(Failure::Ended(STEP))?];
    check_counts(packet, Kind::Loaded, counts, STEP)?;
    // The commit. It needs no room to wait for: the successor has received everything.
    let packet = Packet::new(&mut buffers.outgoing, Kind::Yours);
    send(channel, &packet, "take over", deadline)?;
    Ok(counts)
}

/// Checks a packet of the successor that says what it has.
pub(super) fn check_counts(
    packet: &[u8],
    kind: Kind,
    counts: Counts,
    step: &'static str,
) -> Result<(), Failure> {
    let message = Message::parse(packet).map_err(|_| Failure::Unexpected(step))?;
    match message.kind {
        found if found == kind && message.counts() == Ok(counts) => Ok(()),
        Kind::Refused => Err(Failure::Refused(message.text(tag::REASON))),
        _ => Err(Failure::Unexpected(step)),
    }
}

/// Writes the bytes of all clients, and returns the number of clients.
fn write_clients<M: Movable>(
    file: &File,
    staging: &mut [u8],
    event_loop: &EventLoop<M>,
) -> Result<u64, Failure> {
    let cannot = |error| Failure::System("write the clients' bytes", error);
    let mut writer = Writer::new(file, staging);
    let mut clients = 0;
    for connection in event_loop.client_connections() {
        let Some(client) = event_loop.machine.export(connection.key) else { continue };
        if connection.fd.is_none() {
            return Err(cannot(io::ErrorKind::Unsupported.into()));
        }
        writer.client(client, connection.ended).map_err(cannot)?;
        clients += 1;
    }
    writer.finish().map_err(cannot)?;
    Ok(clients)
}

/// Sends the connections of the clients whose bytes were written, in the same order.
fn send_clients<M: Movable>(
    channel: &Channel,
    buffers: &mut Buffers,
    event_loop: &EventLoop<M>,
    deadline: Moment,
) -> Result<(), Failure> {
    let machine = &event_loop.machine;
    let connections = event_loop.client_connections();
    let mut fds =
        connections.filter(|one| machine.export(one.key).is_some()).filter_map(|one| one.fd);
    let mut first = 0_u64;
    loop {
        let batch: ArrayVec<BorrowedFd<'_>, FDS_MAX> = fds.by_ref().take(FDS_MAX).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let mut packet = Packet::new(&mut buffers.outgoing, Kind::Clients)
            .field(tag::FIRST, &[&first.to_le_bytes()]);
        first += batch.len() as u64;
        packet.fds = batch;
        send(channel, &packet, "receive the clients", deadline)?;
    }
}
