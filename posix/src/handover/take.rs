//! The successor's side of a handover.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant as Moment};

use rustix::event::PollFlags;

use super::bytes::Reader;
use super::channel::{Buffers, Channel, Received, wait_for};
use super::door::{Door, DoorError};
use super::give::Handover;
use super::message::{Counts, Kind, MAJOR, Malformed, Message, Packet, Value, tag};
use super::sessions::{read, remove_changed};
use super::{Failure, Movable};
use crate::event_loop::EventLoop;
use crate::memory::BUFFER_LEN;
use crate::net::address::Address;
use crate::net::listener::Listener;
use crate::net::stream::Stream;
use crate::process::PidFile;
use crate::process::start::Started;
use crate::program::LISTENERS_MAX;

/// How long the old server may take for its welcome. It may be busy.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to copy its sessions, which it does beside its other work.
const SESSIONS_TIMEOUT: Duration = Duration::from_secs(600);
/// How long it may take to write out the rest, and then for each packet.
const CONTENT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to decide. Longer than it takes itself, so that it is the one that gives up.
const YOURS_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a process that has closed its sockets may take to be dead.
const DEATH_TIMEOUT: Duration = Duration::from_secs(2);

/// The server that runs already, from the welcome to the commit.
#[derive(Debug)]
pub(crate) struct Predecessor {
    channel: Channel,
    path: PathBuf,
    /// In the order of the welcome; `None` once taken.
    listeners: Vec<Option<Offered>>,
    pid_file: Option<(PathBuf, OwnedFd)>,
    door: Option<Door>,
    /// A pidfd of it.
    process: Option<OwnedFd>,
    pid: u32,
    taken: Vec<u16>,
    taken_pid_file: bool,
}

#[derive(Debug)]
struct Offered {
    fd: OwnedFd,
    given: Vec<u8>,
    bound: Vec<u8>,
    file: (u64, u64),
}

/// What a successor has got.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct TakenOver {
    sessions: u64,
    clients: u64,
    /// Clients that had no place here, and are closed.
    refused: u64,
    /// Whether the old server died after it had passed everything on.
    died: bool,
}

/// Takes over from the server that the start has found, if there is one, and returns once this server
/// is the one that serves. Everything else that can fail must have happened before. No session lives
/// longer than `max_ttl` milliseconds from now on.
///
/// # Errors
/// [`TakeError`]: the old server goes on, unless it has died.
pub(crate) fn take_over<M: Movable>(
    started: &mut Started,
    event_loop: &mut EventLoop<M>,
    handover: &mut Handover,
    max_ttl: u32,
) -> Result<(), TakeError> {
    let Some(predecessor) = started.take_predecessor() else { return Ok(()) };
    let TakenOver { sessions, clients, refused, died } =
        predecessor.take_over(event_loop, max_ttl)?;
    // From here on it is this server that removes these at the end.
    event_loop.listeners_mut().for_each(|listener| listener.own_path(true));
    handover.own_door();
    if let Some(Err(error)) = started.pid_file_mut().map(PidFile::own) {
        started.warn(&format!("the pid file has another process's number: {error}"));
    }
    let pid = predecessor.pid;
    let died = if died { ", which has died" } else { "" };
    started.info(format_args!(
        "took over from process {pid}{died}: {sessions} sessions, {clients} clients"
    ));
    if refused > 0 {
        started
            .info(format_args!("warning: closed {refused} of these clients: they exceed -maxconn"));
    }
    Ok(())
}

/// Why a server cannot take over, or cannot be taken over from.
#[derive(Debug)]
pub struct TakeError {
    path: PathBuf,
    kind: Box<TakeErrorKind>,
}

#[derive(Debug)]
enum TakeErrorKind {
    Door(DoorError),
    Failure(Failure),
}

impl fmt::Display for TakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &*self.kind {
            TakeErrorKind::Door(error) => write!(f, "cannot use -handover {path}: {error}"),
            TakeErrorKind::Failure(failure @ Failure::Version(..)) => write!(
                f,
                "cannot take over at {path}: {failure}; stop that server, then start this one"
            ),
            TakeErrorKind::Failure(failure) => {
                write!(f, "cannot take over at {path}: {failure}; the server there goes on")
            }
        }
    }
}

impl std::error::Error for TakeError {}

impl TakeError {
    pub(crate) fn door(path: &Path, error: DoorError) -> Self {
        Self { path: path.to_owned(), kind: Box::new(TakeErrorKind::Door(error)) }
    }

    fn of(path: &Path) -> impl Fn(Failure) -> Self + use<> {
        let path = path.to_owned();
        move |failure| Self { path: path.clone(), kind: Box::new(TakeErrorKind::Failure(failure)) }
    }
}

impl Predecessor {
    /// Greets the server that listens on `path`; `None` if none does. `user` is the user that this
    /// process will be.
    ///
    /// # Errors
    /// [`TakeError`], also if others can write to the directory of `path`.
    pub(crate) fn find(path: &Path, user: Option<u32>) -> Result<Option<Self>, TakeError> {
        Door::check_directory(path, user).map_err(|error| TakeError::door(path, error))?;
        let channel = Channel::connect(path)
            .map_err(|error| TakeError::of(path)(Failure::System("connect", error)))?;
        let greet = |channel| Self::greet(channel, path, user).map_err(TakeError::of(path));
        channel.map(greet).transpose()
    }

    fn greet(channel: Channel, path: &Path, user: Option<u32>) -> Result<Self, Failure> {
        const STEP: &str = "answer the hello";
        let uid = channel.peer_uid().map_err(|error| Failure::System("identify it", error))?;
        let own = rustix::process::geteuid().as_raw();
        if uid != 0 && uid != own && user != Some(uid) {
            return Err(Failure::User(uid));
        }
        let mut buffers = Buffers::new();
        let deadline = Moment::now() + WELCOME_TIMEOUT;
        let hello = Packet::new(&mut buffers.outgoing, Kind::Hello)
            .field(tag::BUILD, &[env!("CARGO_PKG_VERSION").as_bytes()]);
        // If that fails because it has refused already, it says why.
        let sent = channel.send(hello.bytes().unwrap_or_default(), &[], deadline);
        match sent.map_err(Failure::of(STEP)) {
            Ok(()) | Err(Failure::Ended(_)) => {}
            Err(failure) => return Err(failure),
        }
        let len = receive(&channel, &mut buffers, deadline, STEP)?;
        let Buffers { incoming, fds, .. } = &mut *buffers;
        let message = parse(&incoming[..len], Kind::Welcome, STEP)?;
        let mut predecessor = Self {
            channel,
            path: path.to_owned(),
            listeners: Vec::new(),
            pid_file: None,
            door: None,
            process: None,
            pid: 0,
            taken: Vec::new(),
            taken_pid_file: false,
        };
        let read = |tag, value, fd| predecessor.read_field(tag, value, fd);
        message.read(fds, read).map_err(|Malformed| Failure::Unexpected(STEP))?;
        let complete = predecessor.door.is_some() && predecessor.listeners.len() <= LISTENERS_MAX;
        if complete { Ok(predecessor) } else { Err(Failure::Unexpected(STEP)) }
    }

    fn read_field(
        &mut self,
        tag: u16,
        mut value: Value<'_>,
        fd: Option<OwnedFd>,
    ) -> Result<(), Malformed> {
        let Some(fd) = fd else { return Ok(()) };
        match tag {
            tag::LISTENER | tag::DOOR => {
                let file = (value.u64()?, value.u64()?);
                let (given, bound) = (value.bytes()?.to_vec(), value.bytes()?.to_vec());
                if tag == tag::LISTENER {
                    self.listeners.push(Some(Offered { fd, given, bound, file }));
                } else {
                    self.door = Some(Door::of_another(fd, &path(&given), file));
                }
            }
            tag::PID_FILE => self.pid_file = Some((path(value.0), fd)),
            tag::PROCESS => (self.process, self.pid) = (Some(fd), value.u32()?),
            _ => {}
        }
        Ok(())
    }

    /// Takes the listener for `address`, if the old server has it: as it was given there, or as it is
    /// bound. It is this server's only after [`take_over`](Self::take_over).
    pub(crate) fn listener(&mut self, address: &Address) -> Option<Listener> {
        let path_of = |address: &Address| match address {
            Address::Unix(name) => std::path::absolute(name.path()?).ok(),
            _ => None,
        };
        let wanted = match (address, path_of(address)) {
            (Address::Fd { .. }, _) => return None,
            (_, Some(path)) => [b"UNIX:", path.as_os_str().as_bytes()].concat(),
            _ => address.to_string().into_bytes(),
        };
        let matches = |offered: &Offered| offered.given == wanted || offered.bound == wanted;
        let mut numbered = self.listeners.iter_mut().enumerate();
        let (number, slot) = numbered.find(|(_, slot)| slot.as_ref().is_some_and(matches))?;
        let Offered { fd, given, bound, file } = slot.take()?;
        let path = (file != (0, 0)).then(|| given.strip_prefix(b"UNIX:").map(path)).flatten();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let listener = Listener::handed(fd, text(given), text(bound), path, file).ok()?;
        self.taken.push(number as u16);
        Some(listener)
    }

    /// Takes the pid file, if the old server has the one at `path`. It is this server's only after
    /// [`take_over`](Self::take_over).
    pub(crate) fn pid_file(&mut self, path: &Path) -> Option<PidFile> {
        let (_, fd) = self.pid_file.take_if(|(offered, _)| offered == path)?;
        let pid_file = PidFile::of_another(path, fd.into())?;
        self.taken_pid_file = true;
        Some(pid_file)
    }

    /// Takes the door for further successors. It is this server's only after
    /// [`take_over`](Self::take_over).
    pub(crate) fn door(&mut self) -> Option<Door> {
        self.door.take()
    }

    /// Takes over clients and sessions, and returns once this server is the one that serves.
    ///
    /// # Errors
    /// [`TakeError`]: the old server goes on, unless it has died.
    fn take_over<M: Movable>(
        &self,
        event_loop: &mut EventLoop<M>,
        max_ttl: u32,
    ) -> Result<TakenOver, TakeError> {
        let failed = TakeError::of(&self.path);
        let mut buffers = Buffers::new();
        let result = self.receive_all(event_loop, &mut buffers, max_ttl);
        let taken = result.inspect_err(|failure| self.refuse(&mut buffers, failure));
        taken.map_err(failed)
    }

    fn receive_all<M: Movable>(
        &self,
        event_loop: &mut EventLoop<M>,
        buffers: &mut Buffers,
        max_ttl: u32,
    ) -> Result<TakenOver, Failure> {
        const STEP: &str = "pass everything on";
        let mut ready = Packet::new(&mut buffers.outgoing, Kind::Ready);
        for number in &self.taken {
            ready = ready.field(tag::TAKEN, &[&number.to_le_bytes()]);
        }
        if self.taken_pid_file {
            ready = ready.field(tag::TAKEN_PID_FILE, &[]);
        }
        let deadline = Moment::now() + CONTENT_TIMEOUT;
        let bytes = ready.bytes().unwrap_or_default();
        self.channel.send(bytes, &[], deadline).map_err(Failure::of(STEP))?;

        self.receive_sessions(event_loop, buffers, max_ttl)?;
        let (mut clients, changed, state, counts) = self.receive_content(buffers)?;
        let now = event_loop.now();
        let table = event_loop.machine.table_mut();
        let sessions = match changed {
            Some(changed) => remove_changed(table, now, changed),
            None => {
                table.clear();
                Ok(())
            }
        };
        let sessions = sessions.and_then(|()| read(table, now, state, max_ttl));
        let sessions = sessions.map_err(|error| Failure::System("load the sessions", error))?;
        let mut taken = TakenOver { sessions: table.len().into(), ..TakenOver::default() };
        while taken.clients < counts.clients {
            self.receive_clients(event_loop, buffers, &mut clients, &mut taken)?;
        }
        if taken.clients != counts.clients || sessions != counts.sessions {
            return Err(Failure::Unexpected(STEP));
        }
        let loaded = Packet::new(&mut buffers.outgoing, Kind::Loaded).counts(counts);
        let bytes = loaded.bytes().unwrap_or_default();
        let deadline = Moment::now() + YOURS_TIMEOUT;
        self.channel.send(bytes, &[], deadline).map_err(Failure::of(STEP))?;
        taken.died = self.await_commit(buffers, deadline)?;
        Ok(taken)
    }

    /// Loads the sessions while the old server serves on.
    fn receive_sessions<M: Movable>(
        &self,
        event_loop: &mut EventLoop<M>,
        buffers: &mut Buffers,
        max_ttl: u32,
    ) -> Result<(), Failure> {
        const STEP: &str = "pass on its sessions";
        let invalid = |Malformed| Failure::Unexpected(STEP);
        let deadline = Moment::now() + SESSIONS_TIMEOUT;
        let len = receive(&self.channel, buffers, deadline, STEP)?;
        let Buffers { incoming, fds, .. } = buffers;
        let message = parse(&incoming[..len], Kind::Sessions, STEP)?;
        let mut state = None;
        let found = |tag, _: Value<'_>, fd| {
            if tag == tag::STATE {
                state = fd;
            }
            Ok(())
        };
        message.read(fds, found).map_err(invalid)?;
        let counts = message.counts().map_err(invalid)?;
        let state = state.ok_or(Failure::Unexpected(STEP))?;
        let now = event_loop.now();
        let loaded = read(event_loop.machine.table_mut(), now, state.into(), max_ttl);
        if loaded.map_err(|error| Failure::System("load the sessions", error))? != counts.sessions {
            return Err(Failure::Unexpected(STEP));
        }
        let copied = Packet::new(&mut buffers.outgoing, Kind::Copied).counts(counts);
        let bytes = copied.bytes().unwrap_or_default();
        self.channel.send(bytes, &[], deadline).map_err(Failure::of(STEP))
    }

    /// Receives the clients' bytes, the ids of sessions that have changed, the sessions, and how many
    /// there are.
    fn receive_content(
        &self,
        buffers: &mut Buffers,
    ) -> Result<(Reader, Option<File>, File, Counts), Failure> {
        const STEP: &str = "pass on its sessions";
        let deadline = Moment::now() + CONTENT_TIMEOUT;
        let len = receive(&self.channel, buffers, deadline, STEP)?;
        let Buffers { incoming, fds, .. } = buffers;
        let message = parse(&incoming[..len], Kind::Content, STEP)?;
        let (mut bytes, mut changed, mut state) = (None, None, None);
        let read = |tag, _: Value<'_>, fd| {
            match tag {
                tag::BYTES => bytes = fd,
                tag::CHANGED => changed = fd,
                tag::STATE => state = fd,
                _ => {}
            }
            Ok(())
        };
        let invalid = |_| Failure::Unexpected(STEP);
        message.read(fds, read).map_err(invalid)?;
        let counts = message.counts().map_err(invalid)?;
        let (Some(bytes), Some(state)) = (bytes, state) else {
            return Err(Failure::Unexpected(STEP));
        };
        let unreadable = |error| Failure::System("read what it passes on", error);
        let bytes = Reader::new(bytes, BUFFER_LEN).map_err(unreadable)?;
        Ok((bytes, changed.map(File::from), state.into(), counts))
    }

    /// Receives some connections of clients.
    fn receive_clients<M: Movable>(
        &self,
        event_loop: &mut EventLoop<M>,
        buffers: &mut Buffers,
        clients: &mut Reader,
        taken: &mut TakenOver,
    ) -> Result<(), Failure> {
        const STEP: &str = "pass on its clients";
        let unreadable = |error| Failure::System("read the clients' bytes", error);
        let deadline = Moment::now() + CONTENT_TIMEOUT;
        let len = receive(&self.channel, buffers, deadline, STEP)?;
        let Buffers { incoming, fds, .. } = buffers;
        let message = parse(&incoming[..len], Kind::Clients, STEP)?;
        let mut first = None;
        let read = |tag, mut value: Value<'_>, _| {
            if tag == tag::FIRST {
                first = Some(value.u64()?);
            }
            Ok(())
        };
        message.read(fds, read).map_err(|_| Failure::Unexpected(STEP))?;
        if first != Some(taken.clients) || fds.is_empty() {
            return Err(Failure::Unexpected(STEP));
        }
        let now = event_loop.now();
        for fd in fds.drain(..) {
            let record = clients.next().map_err(unreadable)?;
            let stream = Stream::adopt(fd).map_err(unreadable)?;
            taken.clients += 1;
            let client = record.client.filter(|_| event_loop.has_place());
            match client.and_then(|client| event_loop.machine.import(now, client)) {
                Some(key) => event_loop.adopt(key, stream, record.ended),
                None => taken.refused += 1,
            }
        }
        Ok(())
    }

    /// Waits for the old server's decision. Returns whether it died instead of making one.
    fn await_commit(&self, buffers: &mut Buffers, deadline: Moment) -> Result<bool, Failure> {
        const STEP: &str = "give up its place";
        let len = match self.channel.receive_by(buffers, deadline) {
            Ok(Some(len)) => len,
            Ok(None) if self.is_dead() => return Ok(true),
            Ok(None) => return Err(Failure::Ended(STEP)),
            Err(error) => {
                // From here on the old server cannot give up its place any more, unless it already has.
                self.channel.stop_receiving();
                match self.channel.receive(buffers) {
                    Ok(Received::Packet(len)) => len,
                    _ => return Err(Failure::of(STEP)(error)),
                }
            }
        };
        parse(&buffers.incoming[..len], Kind::Yours, STEP)?;
        Ok(false)
    }

    /// Whether the old server, which has closed its connection, is dead.
    fn is_dead(&self) -> bool {
        let deadline = Moment::now() + DEATH_TIMEOUT;
        let process = self.process.as_ref();
        process.is_some_and(|pidfd| wait_for(pidfd.as_fd(), PollFlags::IN, deadline).is_ok())
    }

    fn refuse(&self, buffers: &mut Buffers, failure: &Failure) {
        let reason = failure.to_string();
        let packet = Packet::new(&mut buffers.outgoing, Kind::Refused)
            .field(tag::REASON, &[reason.as_bytes()]);
        if let Some(bytes) = packet.bytes() {
            let _ = self.channel.send(bytes, &[], Moment::now());
        }
    }
}

fn path(bytes: &[u8]) -> PathBuf {
    OsStr::from_bytes(bytes).into()
}

fn receive(
    channel: &Channel,
    buffers: &mut Buffers,
    deadline: Moment,
    step: &'static str,
) -> Result<usize, Failure> {
    let len = channel.receive_by(buffers, deadline).map_err(Failure::of(step))?;
    len.ok_or(Failure::Ended(step))
}

/// Reads a packet that must be of one kind and of this major version.
fn parse<'a>(packet: &'a [u8], kind: Kind, step: &'static str) -> Result<Message<'a>, Failure> {
    let message = Message::parse(packet).map_err(|Malformed| Failure::Unexpected(step))?;
    match message.kind {
        _ if message.major != MAJOR => {
            Err(Failure::Version(message.major, message.text(tag::BUILD)))
        }
        Kind::Refused => Err(Failure::Refused(message.text(tag::REASON))),
        found if found == kind => Ok(message),
        _ => Err(Failure::Unexpected(step)),
    }
}
