//! The connection of one client: requests in, answers out.
//!
//! ```text
//!          read               parse, submit                   complete
//!  client ──────► inbox ───────────────────► engine ───────────────────┐
//!    ▲                                                                 ▼
//!    └──────────────────────────────────────────────────────────── answers
//!          write
//! ```
//!
//! Backpressure is not reading: no bytes are read from a client that has many requests in flight, many
//! bytes of answers unread, or a request that waits for room at its node.

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::answers::{Answers, Reply};
use crate::command::{Parsed, ReplyTo, Request};
use crate::watch::watch;
use crate::worker::Worker;
use distcache_core::message::{Status, raise_ttl};
use distcache_core::wire::{Direction, HEADER_LEN, MESSAGE_MAX, Message};
use distcache_posix::net::stream::{Received, Stream};

/// The most requests of one client in flight.
const OPEN_MAX: usize = 256;
/// The most places for answers, those included that have passed a late one.
const PLACES_MAX: usize = 2048;
/// With so many bytes of answers unread, nothing is read from a client.
const UNSENT_MAX: usize = 68 << 10;
/// The most steps of a client before other tasks run.
const STEPS_MAX: usize = 4;

/// The connection of one client, as a task.
pub(crate) struct Client {
    io: Io,
    worker: Rc<Worker>,
    state: Rc<State>,
    /// Bytes of an incomplete request, or of requests that wait for room.
    inbox: Vec<u8>,
    /// A parsed request that waits for room at its node, and the number of its answer.
    parked: Option<(Box<Request>, u64)>,
    /// Whether the client has sent all that it will send.
    ended: bool,
    /// Whether the client has sent malformed bytes.
    malformed: bool,
}

/// The state of a client that its worker looks at.
pub(crate) struct State {
    pub(crate) answers: Rc<Answers>,
    /// When it last sent something.
    pub(crate) active: std::cell::Cell<Instant>,
    /// Since when a request is incomplete.
    pub(crate) partial: std::cell::Cell<Option<Instant>>,
    /// Since when it has read no byte of its answers.
    pub(crate) unread: std::cell::Cell<Option<Instant>>,
    /// Whether it has to be closed.
    pub(crate) closing: std::cell::Cell<bool>,
}

/// A stream, and the readiness of its descriptors.
///
/// A UNIX socket reports that it is writable each time that the client has read something, which wakes
/// the worker in vain. So a socket is registered for reading only, until a write finds it full.
struct Io {
    // Dropped before the stream closes the descriptors.
    read: Option<AsyncFd<RawFd>>,
    /// `None` if it is the same as for reading.
    write: Option<AsyncFd<RawFd>>,
    /// Whether `read` is registered for writing too.
    both: bool,
    /// Whether the last write found no room.
    full: bool,
    stream: Stream,
}

/// The connection has ended or failed.
struct Closed;

impl Io {
    fn new(stream: Stream) -> io::Result<Self> {
        let (read, write) = (stream.read_fd(), stream.write_fd());
        let is_one = |fd: &BorrowedFd<'_>| read.is_some_and(|r| r.as_raw_fd() == fd.as_raw_fd());
        let write = write.filter(|fd| !is_one(fd));
        let write = write.map(|fd| watch(fd, Interest::WRITABLE)).transpose()?;
        let read = read.map(|fd| watch(fd, Interest::READABLE)).transpose()?;
        Ok(Self { read, write, both: false, full: false, stream })
    }

    /// Reads what has arrived; `None` if there is nothing, 0 at the end of the stream.
    fn read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Result<Option<usize>, Closed> {
        let Some(fd) = &self.read else { return Ok(Some(0)) };
        loop {
            let Poll::Ready(ready) = fd.poll_read_ready(cx) else { return Ok(None) };
            let mut ready = ready.map_err(|_| Closed)?;
            match self.stream.recv(buffer) {
                Ok(Received::Bytes(len)) => {
                    if len < buffer.len() {
                        // That was all, so another call would only find nothing.
                        ready.clear_ready();
                    }
                    return Ok(Some(len));
                }
                Ok(Received::Ended) => return Ok(Some(0)),
                Ok(Received::Nothing) => ready.clear_ready(),
                Err(_) => return Err(Closed),
            }
        }
    }

    /// Writes as much as the system takes; `None` if it takes nothing.
    fn write(&mut self, cx: &mut Context<'_>, answers: &Answers) -> Result<Option<usize>, Closed> {
        loop {
            if self.full {
                self.register_for_writing()?;
            }
            let fd = self.write.as_ref().or(self.read.as_ref()).ok_or(Closed)?;
            let ready = match self.full {
                false => None,
                true => match fd.poll_write_ready(cx) {
                    Poll::Ready(ready) => Some(ready.map_err(|_| Closed)?),
                    Poll::Pending => return Ok(None),
                },
            };
            let sent = answers.send(|bytes| self.stream.send(bytes));
            if let (Ok(0), Some(mut ready)) = (&sent, ready) {
                ready.clear_ready();
            }
            match sent {
                Ok(0) => self.full = true,
                Ok(len) => {
                    self.full = false;
                    return Ok(Some(len));
                }
                Err(_) => return Err(Closed),
            }
        }
    }

    fn register_for_writing(&mut self) -> Result<(), Closed> {
        if self.write.is_none() && !self.both {
            // A descriptor can be registered once at a time.
            self.read = None;
            let both = Interest::READABLE.add(Interest::WRITABLE);
            let fd = self.stream.read_fd().ok_or(Closed)?;
            self.read = Some(watch(fd, both).map_err(|_| Closed)?);
            self.both = true;
        }
        Ok(())
    }
}

impl Client {
    /// A new client.
    pub(crate) fn new(stream: Stream, worker: &Rc<Worker>) -> io::Result<Self> {
        let state = State {
            answers: Rc::default(),
            active: Instant::now().into(),
            partial: None.into(),
            unread: None.into(),
            closing: false.into(),
        };
        Ok(Self {
            io: Io::new(stream)?,
            worker: worker.clone(),
            state: Rc::new(state),
            inbox: Vec::new(),
            parked: None,
            ended: false,
            malformed: false,
        })
    }

    pub(crate) fn state(&self) -> &Rc<State> {
        &self.state
    }

    /// Sends answers. True if there was progress.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        let (answers, unread) = (&self.state.answers, &self.state.unread);
        let mut progress = false;
        while answers.unsent() > 0 {
            if self.io.write(cx, answers)?.is_none() {
                if progress || unread.get().is_none() {
                    unread.set(Some(Instant::now()));
                }
                return Ok(progress);
            }
            progress = true;
        }
        unread.set(None);
        Ok(progress)
    }

    /// Whether another request can start.
    fn has_room(&self, cx: &Context<'_>) -> bool {
        let answers = &self.state.answers;
        if answers.open() >= OPEN_MAX
            || answers.places() >= PLACES_MAX
            || answers.unsent() >= UNSENT_MAX
        {
            // The next answer wakes it.
            return false;
        }
        let in_flight = &self.worker.shared.in_flight;
        let full = in_flight.is_full();
        if full {
            in_flight.wait(cx.waker());
        }
        !full
    }

    /// Reads, unless there is enough to do. True if there was progress.
    fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, Closed> {
        // An incomplete request may need the room of the longest message.
        let held = self.inbox.len() >= MESSAGE_MAX || self.parked.is_some();
        if self.ended || self.malformed || held || !self.has_room(cx) {
            return Ok(false);
        }
        let mut scratch = self.worker.scratch.take();
        let outcome = self.io.read(cx, &mut scratch);
        let result = match outcome {
            Ok(Some(0)) => {
                self.ended = true;
                Ok(true)
            }
            Ok(Some(len)) => {
                self.state.active.set(now);
                self.receive(&mut scratch[..len], cx, now);
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(closed) => Err(closed),
        };
        self.worker.scratch.set(scratch);
        result
    }

    /// Handles bytes that have arrived.
    fn receive(&mut self, bytes: &mut [u8], cx: &Context<'_>, now: Instant) {
        if !self.inbox.is_empty() {
            self.inbox.extend_from_slice(bytes);
            self.resume(cx, now);
            return;
        }
        let used = self.start_requests(bytes, cx, now);
        self.inbox.extend_from_slice(&bytes[used..]);
        self.update_partial(now);
    }

    /// Handles bytes that had to wait. True if there was progress.
    fn resume(&mut self, cx: &Context<'_>, now: Instant) -> bool {
        if let Some((request, number)) = self.parked.take()
            && !self.submit(request, number, cx, now)
        {
            return false;
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        let used = self.start_requests(&mut inbox, cx, now);
        inbox.drain(..used);
        if inbox.is_empty() && inbox.capacity() > MESSAGE_MAX {
            inbox = Vec::new();
        }
        self.inbox = inbox;
        self.update_partial(now);
        used > 0
    }

    /// Notes whether a request is incomplete, and since when.
    fn update_partial(&self, now: Instant) {
        let partial = &self.state.partial;
        match self.inbox.is_empty() || self.parked.is_some() {
            true => partial.set(None),
            false => partial.set(partial.get().or(Some(now))),
        }
    }

    /// Starts the complete requests at the front of `bytes`, and returns their length.
    fn start_requests(&mut self, bytes: &mut [u8], cx: &Context<'_>, now: Instant) -> usize {
        let mut used = 0;
        while self.parked.is_none() && used < bytes.len() && self.has_room(cx) {
            let rest = &mut bytes[used..];
            let message = match Message::measure(rest, Direction::Request) {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(_) => {
                    self.malformed = true;
                    break;
                }
            };
            let wire = &mut rest[..message.wire_len];
            used += message.wire_len;
            self.state.partial.set(None);
            if !self.start_request(&message, wire, cx, now) {
                self.malformed = true;
                break;
            }
        }
        used
    }

    /// Starts one request. False if it is malformed.
    fn start_request(
        &mut self,
        message: &Message,
        wire: &mut [u8],
        cx: &Context<'_>,
        now: Instant,
    ) -> bool {
        let worker = &self.worker;
        if message.header.op.stores() {
            raise_ttl(&mut wire[HEADER_LEN..], worker.config.min_ttl);
        }
        let deadline = now + worker.config.deadline;
        let parsed = Request::parse(message, wire, deadline, &worker.shared);
        if matches!(parsed, Parsed::Malformed) {
            return false;
        }
        worker.shared.counters.requests.count();
        let answers = &self.state.answers;
        let number = answers.reserve(message.header, now);
        match parsed {
            Parsed::Command(request) => {
                let _ = self.submit(request, number, cx, now);
            }
            Parsed::Reply(reply) => drop(answers.complete(number, reply)),
            Parsed::Malformed => {}
        }
        true
    }

    /// Submits a request to the engine. False if its node has no room: then it is parked.
    fn submit(
        &mut self,
        request: Box<Request>,
        number: u64,
        cx: &Context<'_>,
        now: Instant,
    ) -> bool {
        let mut request = match request.is_pending() {
            true => request,
            false => request.with_reply_to(ReplyTo::Client(self.state.answers.clone(), number)),
        };
        if request.deadline <= now {
            request.expire();
            return true;
        }
        match self.worker.engine.submit(request) {
            Ok(()) => true,
            Err(request) => {
                self.worker.shared.in_flight.wait(cx.waker());
                self.parked = Some((request, number));
                false
            }
        }
    }

    /// Whether nothing is left to do.
    fn finished(&self) -> bool {
        let answers = &self.state.answers;
        let ending = self.ended || self.malformed || self.worker.draining.get();
        ending && answers.open() == 0 && answers.unsent() == 0 && self.parked.is_none()
    }

    /// Writes, reads and starts requests. True if there was progress.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        let now = Instant::now();
        let wrote = self.write(cx)?;
        let resumed = self.parked.is_some() || !self.inbox.is_empty();
        let resumed = resumed && !self.malformed && self.resume(cx, now);
        let read = self.read(cx, now)?;
        // Some requests are answered at once.
        let more = self.state.answers.unsent() > 0 && self.write(cx)?;
        Ok(wrote | resumed | read | more)
    }
}

impl Future for Client {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.state.answers.watch(cx.waker());
        for _ in 0..STEPS_MAX {
            if self.state.closing.get() {
                return Poll::Ready(());
            }
            match self.step(cx) {
                Err(Closed) => return Poll::Ready(()),
                Ok(true) => {}
                Ok(false) if self.finished() => {
                    if self.malformed {
                        self.worker.shared.counters.malformed.count();
                    }
                    return Poll::Ready(());
                }
                Ok(false) => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The answer to a request that cannot be answered.
pub(crate) const UNAVAILABLE: Reply<'_> = Reply::Status(Status::DISCONNECTED);
