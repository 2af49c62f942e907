//! The old server's side of a handover.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant as Moment};

use distcache_core::time::Instant;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::bytes::seal;
use super::channel::{Buffers, Channel};
use super::door::Door;
use super::message::{Counts, Kind, MAJOR, Message, Packet, REASON_MAX, tag};
use super::pass::{Taken, check_counts, give, listener, parse_ready, receive, send};
use super::sessions::{Copying, SMALL};
use super::{Failure, Movable};
use crate::event_loop::EventLoop;
use crate::net::listener::Listener;
use crate::net::poller::{Events, Interest};
use crate::process::start::Started;

// Keys of the poller, larger than those of clients.
const DOOR_KEY: usize = usize::MAX - 1;
const CHANNEL_KEY: usize = usize::MAX - 2;

/// How long a successor may take for its hello, in milliseconds.
const HELLO_TIMEOUT: u64 = 10_000;
/// How long it may take until it is ready, in milliseconds. Nobody waits for that.
const READY_TIMEOUT: u64 = 60_000;
/// How long it may take for everything from then on, while all clients wait.
const GIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long no successor is accepted after accepting has failed, in milliseconds.
const ACCEPT_PAUSE: u64 = 1000;
/// The least time between two lines about failed handovers, in milliseconds.
const WARN_PAUSE: u64 = 10_000;
/// The bytes of the buffer through which the clients' bytes are written.
const STAGING_LEN: usize = 64 << 10;

/// What a server does for a successor. Without `-handover` it does nothing.
pub(crate) struct Handover(Option<Waiting>);

/// What a server needs to be replaced by a successor. It is allocated at the start.
struct Waiting {
    door: Door,
    /// This process, for the successor to see whether it is dead.
    process: Option<OwnedFd>,
    buffers: Box<Buffers>,
    staging: Box<[u8]>,
    stage: Stage,
    /// When the successor has taken too long, or when to accept again.
    deadline: Option<Instant>,
    warned_at: Option<Instant>,
}

/// What the server waits for.
enum Stage {
    Successor,
    Hello(Channel),
    Ready(Channel),
    /// Copies the sessions.
    Copying(Channel, Taken, Copying),
    /// The successor loads them.
    Copied(Channel, Taken, u64),
}

impl Handover {
    /// Waits for successors at the door that the start has opened, if there is one.
    pub(crate) fn start<M: Movable>(
        started: &mut Started,
        event_loop: &EventLoop<M>,
    ) -> io::Result<Self> {
        let Some(door) = started.take_door() else { return Ok(Self(None)) };
        event_loop.poller().add_fd(door.as_fd(), DOOR_KEY, Interest::READ)?;
        let own = i32::try_from(std::process::id()).ok().and_then(Pid::from_raw);
        Ok(Self(Some(Waiting {
            door,
            // Not in old kernels; then a successor cannot serve after the death of this process.
            process: own.and_then(|own| pidfd_open(own, PidfdFlags::empty()).ok()),
            buffers: Buffers::new(),
            staging: vec![0; STAGING_LEN].into(),
            stage: Stage::Successor,
            deadline: None,
            warned_at: None,
        })))
    }

    /// Says that this process removes the door's path at its end.
    pub(super) fn own_door(&mut self) {
        if let Some(waiting) = &mut self.0 {
            waiting.door.own(true);
        }
    }

    /// When there is something to do even if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.0.as_ref()?.deadline
    }

    /// Ends a turn: does the next step if there is one. Returns whether a successor serves now; then
    /// this process must end without touching anything that it has handed over.
    pub(crate) fn end_turn<M: Movable>(
        &mut self,
        now: Instant,
        events: &Events,
        event_loop: &mut EventLoop<M>,
        started: &mut Started,
    ) -> bool {
        let Some(waiting) = &mut self.0 else { return false };
        match waiting.step(now, events, event_loop, started) {
            Ok(done) => done,
            Err(failure) => {
                waiting.give_up(event_loop, started, &failure);
                false
            }
        }
    }
}

impl Waiting {
    /// Does the next step if there is one. Returns whether a successor serves now.
    fn step<M: Movable>(
        &mut self,
        now: Instant,
        events: &Events,
        event_loop: &mut EventLoop<M>,
        started: &mut Started,
    ) -> Result<bool, Failure> {
        let late = self.deadline.is_some_and(|deadline| deadline <= now);
        let has_event = |wanted| events.iter().any(|event| event.key == wanted);
        match &self.stage {
            Stage::Successor if late || has_event(DOOR_KEY) => self.accept(now, event_loop)?,
            Stage::Hello(_) if late => return Err(Failure::Late("say hello")),
            Stage::Ready(_) if late => return Err(Failure::Late("get ready")),
            Stage::Hello(_) if has_event(CHANNEL_KEY) => self.greet(now, event_loop, started)?,
            Stage::Ready(_) if has_event(CHANNEL_KEY) => self.begin_copy(now, event_loop)?,
            Stage::Copying(..) => self.copy_piece(now, event_loop)?,
            Stage::Copied(..) if late => return Err(Failure::Late("load the sessions")),
            Stage::Copied(..) if has_event(CHANNEL_KEY) => {
                return self.hand_over(now, event_loop, started);
            }
            _ => {}
        }
        Ok(false)
    }

    fn accept<M: Movable>(
        &mut self,
        now: Instant,
        event_loop: &EventLoop<M>,
    ) -> Result<(), Failure> {
        self.deadline = None;
        let poller = event_loop.poller();
        let cannot = |error| Failure::System("watch for a successor", error);
        let channel = match self.door.accept() {
            Ok(Some(channel)) => channel,
            Ok(None) => {
                return poller
                    .modify_fd(self.door.as_fd(), DOOR_KEY, Interest::READ)
                    .map_err(cannot);
            }
            Err(error) => {
                let _ = poller.modify_fd(self.door.as_fd(), DOOR_KEY, Interest::NONE);
                self.deadline = Some(now.after(ACCEPT_PAUSE));
                return Err(Failure::System("accept a successor", error));
            }
        };
        let uid = channel.peer_uid();
        let watched = poller.add_fd(channel.as_fd(), CHANNEL_KEY, Interest::READ);
        // From here on it gets the reason if it is refused.
        self.stage = Stage::Hello(channel);
        watched.map_err(cannot)?;
        let uid = uid.map_err(|error| Failure::System("identify it", error))?;
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            return Err(Failure::User(uid));
        }
        // One at a time: others wait in the queue.
        let _ = poller.modify_fd(self.door.as_fd(), DOOR_KEY, Interest::NONE);
        self.deadline = Some(now.after(HELLO_TIMEOUT));
        Ok(())
    }

    /// Receives the hello, and sends the welcome.
    fn greet<M: Movable>(
        &mut self,
        now: Instant,
        event_loop: &EventLoop<M>,
        started: &Started,
    ) -> Result<(), Failure> {
        const STEP: &str = "say hello";
        let Stage::Hello(channel) = &self.stage else { return Ok(()) };
        let Some(message) = receive(channel, &mut self.buffers, STEP)? else { return Ok(()) };
        let message = Message::parse(&self.buffers.incoming[..message]);
        match message.map_err(|_| Failure::Unexpected(STEP))? {
            Message { kind: Kind::Hello, major: MAJOR, .. } => {}
            message @ Message { kind: Kind::Hello, major, .. } => {
                return Err(Failure::Version(major, message.text(tag::BUILD)));
            }
            _ => return Err(Failure::Unexpected(STEP)),
        }
        if event_loop.is_draining() {
            return Err(Failure::System("hand over", io::ErrorKind::Interrupted.into()));
        }
        let build = env!("CARGO_PKG_VERSION").as_bytes();
        let mut packet = Packet::new(&mut self.buffers.outgoing, Kind::Welcome);
        packet = packet.field(tag::BUILD, &[build]);
        for offer in event_loop.listeners().filter_map(Listener::offer) {
            let path = offer.path.map(|path| path.as_os_str().as_bytes());
            let given = match path {
                Some(path) => [b"UNIX:", path],
                None => [offer.given.as_bytes(), b""],
            };
            let bound = offer.bound.as_bytes();
            packet = listener(packet, tag::LISTENER, offer.fd, offer.file, given, bound);
        }
        let path = self.door.path().as_os_str().as_bytes();
        let (fd, file) = (self.door.as_fd(), self.door.file());
        packet = listener(packet, tag::DOOR, fd, file, [path, b""], b"");
        if let Some(pid_file) = started.pid_file() {
            let path = pid_file.path().as_os_str().as_bytes();
            packet = packet.field_fd(tag::PID_FILE, pid_file.fd(), &[path]);
        }
        if let Some(process) = &self.process {
            let pid = std::process::id().to_le_bytes();
            packet = packet.field_fd(tag::PROCESS, process.as_fd(), &[&pid]);
        }
        send(channel, &packet, "receive the listeners", Moment::now())?;
        self.deadline = Some(now.after(READY_TIMEOUT));
        if let Stage::Hello(channel) = std::mem::replace(&mut self.stage, Stage::Successor) {
            self.stage = Stage::Ready(channel);
        }
        Ok(())
    }

    /// Receives the ready, and begins to copy the sessions.
    fn begin_copy<M: Movable>(
        &mut self,
        now: Instant,
        event_loop: &mut EventLoop<M>,
    ) -> Result<(), Failure> {
        let Stage::Ready(channel) = &self.stage else { return Ok(()) };
        let Some(len) = receive(channel, &mut self.buffers, "get ready")? else { return Ok(()) };
        let taken = parse_ready(&self.buffers.incoming[..len])?;
        let copying = Copying::begin(now);
        let copying = copying.map_err(|error| Failure::System("make a memory file", error))?;
        if event_loop.machine.table().len() as usize > SMALL {
            event_loop.machine.log_changes(true);
        }
        if let Stage::Ready(channel) = std::mem::replace(&mut self.stage, Stage::Successor) {
            self.stage = Stage::Copying(channel, taken, copying);
        }
        // The next piece is due at once, after what clients have sent.
        self.deadline = Some(Instant::ORIGIN);
        Ok(())
    }

    /// Copies some sessions, and passes the copy on at its end.
    fn copy_piece<M: Movable>(
        &mut self,
        now: Instant,
        event_loop: &mut EventLoop<M>,
    ) -> Result<(), Failure> {
        let cannot = |error| Failure::System("write the sessions", error);
        let Stage::Copying(channel, _, copying) = &mut self.stage else { return Ok(()) };
        let worth = event_loop.machine.changes().is_some();
        if worth && !copying.piece(now, event_loop.machine.table()).map_err(cannot)? {
            return Ok(());
        }
        if !worth {
            copying.end().map_err(cannot)?;
        }
        seal(&copying.file).map_err(cannot)?;
        let counts = Counts { clients: 0, sessions: copying.sessions() };
        let packet = Packet::new(&mut self.buffers.outgoing, Kind::Sessions)
            .field_fd(tag::STATE, copying.file.as_fd(), &[])
            .counts(counts);
        let sent = send(channel, &packet, "receive the sessions", Moment::now());
        drop(packet);
        sent?;
        if let Stage::Copying(channel, taken, _) =
            std::mem::replace(&mut self.stage, Stage::Successor)
        {
            self.stage = Stage::Copied(channel, taken, counts.sessions);
        }
        self.deadline = Some(now.after(READY_TIMEOUT));
        Ok(())
    }

    /// Receives word that the successor has the copy, and does the rest. False if that has not come yet.
    fn hand_over<M: Movable>(
        &mut self,
        now: Instant,
        event_loop: &mut EventLoop<M>,
        started: &mut Started,
    ) -> Result<bool, Failure> {
        const STEP: &str = "load the sessions";
        let Self { stage: Stage::Copied(channel, taken, copied), buffers, staging, door, .. } =
            self
        else {
            return Ok(false);
        };
        let Some(len) = receive(channel, buffers, STEP)? else { return Ok(false) };
        if event_loop.is_draining() {
            return Err(Failure::System("hand over", io::ErrorKind::Interrupted.into()));
        }
        let counts = Counts { clients: 0, sessions: *copied };
        check_counts(&buffers.incoming[..len], Kind::Copied, counts, STEP)?;
        let deadline = Moment::now() + GIVE_TIMEOUT;
        event_loop.settle(now);
        let given = give(channel, buffers, staging, event_loop, deadline);
        let counts = match given {
            Ok(counts) => counts,
            Err(failure) => {
                // Clients could send and receive nothing all that time.
                let now = event_loop.now();
                event_loop.for_each_client(|machine, key| machine.restart_timeout(now, key));
                return Err(failure);
            }
        };
        let sessions = event_loop.machine.table().len();
        // From here on everything is the successor's.
        let mut listeners = 0;
        for (listener, taken) in event_loop.listeners_mut().zip(taken.listeners) {
            listener.own_path(!taken);
            listeners += usize::from(taken);
        }
        if let Some(pid_file) = started.pid_file_mut().filter(|_| taken.pid_file) {
            pid_file.disown();
        }
        door.own(false);
        let Counts { clients, .. } = counts;
        started.info(format_args!(
            "handed over to process {}: {sessions} sessions, {clients} clients, {listeners} \
             listeners",
            channel.peer_pid()
        ));
        Ok(true)
    }

    /// Ends the handover and goes on serving.
    fn give_up<M: Movable>(
        &mut self,
        event_loop: &mut EventLoop<M>,
        started: &Started,
        failure: &Failure,
    ) {
        event_loop.machine.log_changes(false);
        if let Stage::Hello(channel)
        | Stage::Ready(channel)
        | Stage::Copying(channel, ..)
        | Stage::Copied(channel, ..) = std::mem::replace(&mut self.stage, Stage::Successor)
        {
            let mut reason = arrayvec::ArrayString::<REASON_MAX>::new();
            let _ = std::fmt::Write::write_fmt(&mut reason, format_args!("{failure}"));
            let packet = Packet::new(&mut self.buffers.outgoing, Kind::Refused)
                .field(tag::BUILD, &[env!("CARGO_PKG_VERSION").as_bytes()])
                .field(tag::REASON, &[reason.as_bytes()]);
            let _ = send(&channel, &packet, "receive the refusal", Moment::now());
            let poller = event_loop.poller();
            let _ = poller.modify_fd(self.door.as_fd(), DOOR_KEY, Interest::READ);
            self.deadline = None;
        }
        self.buffers.fds.clear();
        let now = event_loop.now();
        if self.warned_at.is_none_or(|at| now.since(at) >= WARN_PAUSE) {
            self.warned_at = Some(now);
            started.info(format_args!("warning: no handover: {failure}; this server goes on"));
        }
    }
}
