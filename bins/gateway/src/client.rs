//! One client's connection: requests in, answers out.
//!
//! ```text
//!          read               read, submit                    complete
//!  client ──────► inbox ───────────────────► engine ───────────────────┐
//!    ▲                                                                 ▼
//!    └──────────────────────────────────────────────────────────── answers
//!          write
//! ```
//!
//! Backpressure is not reading: a client that has enough requests on their way, enough answers that it
//! does not take, or requests that the engine has no room for, is not read from.

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::answers::{Answers, Reply};
use crate::command::{Asked, Asker, Request};
use crate::parts::{
    Direction, HEADER_LEN, MESSAGE_MAX, Message, Received, Status, Stream, raise_ttl,
};
use crate::watch::watch;
use crate::worker::Worker;

/// The most requests of one client on their way.
const OPEN_MAX: usize = 256;
/// The most places for answers: some may have passed a late one.
const PLACES_MAX: usize = 2048;
/// Bytes of answers from which on a client is not read from.
const UNSENT_MAX: usize = 68 << 10;
/// How often one call goes round before it is another client's turn.
const ROUNDS: usize = 4;

/// The connection of one client, as a task.
pub(crate) struct Client {
    io: Io,
    worker: Rc<Worker>,
    state: Rc<State>,
    /// Bytes that are no whole request yet, or wait for room.
    inbox: Vec<u8>,
    /// A request that was read, and waits for room in the engine.
    parked: Option<(Box<Request>, u64)>,
    /// Nothing more will come.
    ended: bool,
    /// What came is not the protocol.
    malformed: bool,
}

/// What others see of a client.
pub(crate) struct State {
    pub(crate) answers: Rc<Answers>,
    /// When it last asked for anything.
    pub(crate) active: std::cell::Cell<Instant>,
    /// Since when there is a part of a request.
    pub(crate) partial: std::cell::Cell<Option<Instant>>,
    /// Since when it has taken no byte of its answers.
    pub(crate) unread: std::cell::Cell<Option<Instant>>,
    /// It is to be closed.
    pub(crate) closing: std::cell::Cell<bool>,
}

/// The descriptors of a stream, watched.
struct Io {
    // Dropped before the stream closes what they watch.
    read: Option<AsyncFd<RawFd>>,
    /// `None` where it is the one that reads too.
    write: Option<AsyncFd<RawFd>>,
    stream: Stream,
}

/// The connection is over.
struct Over;

impl Io {
    fn new(stream: Stream) -> io::Result<Self> {
        let both = Interest::READABLE.add(Interest::WRITABLE);
        let (read, write) = match (stream.read_fd(), stream.write_fd()) {
            (Some(one), Some(same)) if one.as_raw_fd() == same.as_raw_fd() => {
                (Some(watch(one, both)?), None)
            }
            (read, write) => (
                read.map(|fd| watch(fd, Interest::READABLE)).transpose()?,
                write.map(|fd| watch(fd, Interest::WRITABLE)).transpose()?,
            ),
        };
        Ok(Self { read, write, stream })
    }

    /// Reads what is there; `None` where there is nothing now.
    fn read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Result<Option<usize>, Over> {
        let Some(fd) = &self.read else { return Ok(Some(0)) };
        loop {
            let Poll::Ready(ready) = fd.poll_read_ready(cx) else { return Ok(None) };
            let mut ready = ready.map_err(|_| Over)?;
            match self.stream.recv(buffer) {
                Ok(Received::Bytes(len)) => {
                    if len < buffer.len() {
                        // That was all: no need to ask once more to know.
                        ready.clear_ready();
                    }
                    return Ok(Some(len));
                }
                Ok(Received::Ended) => return Ok(Some(0)),
                Ok(Received::Nothing) => ready.clear_ready(),
                Err(_) => return Err(Over),
            }
        }
    }

    /// Writes what the other side takes; `None` where it takes nothing now.
    fn write(&self, cx: &mut Context<'_>, answers: &Answers) -> Result<Option<usize>, Over> {
        let Some(fd) = self.write.as_ref().or(self.read.as_ref()) else { return Err(Over) };
        loop {
            let Poll::Ready(ready) = fd.poll_write_ready(cx) else { return Ok(None) };
            let mut ready = ready.map_err(|_| Over)?;
            match answers.send(|bytes| self.stream.send(bytes)) {
                Ok(0) => ready.clear_ready(),
                Ok(len) => return Ok(Some(len)),
                Err(_) => return Err(Over),
            }
        }
    }
}

impl Client {
    /// A client that has just connected.
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

    /// Sends answers; true if that got on.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, Over> {
        let (answers, unread) = (&self.state.answers, &self.state.unread);
        let mut some = false;
        while answers.unsent() > 0 {
            if self.io.write(cx, answers)?.is_none() {
                if some || unread.get().is_none() {
                    unread.set(Some(Instant::now()));
                }
                return Ok(some);
            }
            some = true;
        }
        unread.set(None);
        Ok(some)
    }

    /// Whether another request may be taken now.
    fn has_room(&self, cx: &Context<'_>) -> bool {
        let answers = &self.state.answers;
        if answers.open() >= OPEN_MAX
            || answers.places() >= PLACES_MAX
            || answers.unsent() >= UNSENT_MAX
        {
            // Its own answers wake it.
            return false;
        }
        let load = &self.worker.shared.load;
        let full = load.is_full();
        if full {
            load.wait(cx.waker());
        }
        !full
    }

    /// Reads, unless there is enough to do already; true if that got on.
    fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, Over> {
        // A request that is not whole may need a whole message's room.
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
                self.received(&mut scratch[..len], cx, now);
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(over) => Err(over),
        };
        self.worker.scratch.set(scratch);
        result
    }

    /// Takes what has come.
    fn received(&mut self, bytes: &mut [u8], cx: &Context<'_>, now: Instant) {
        if !self.inbox.is_empty() {
            self.inbox.extend_from_slice(bytes);
            self.resume(cx, now);
            return;
        }
        let used = self.requests(bytes, cx, now);
        self.inbox.extend_from_slice(&bytes[used..]);
        self.note_partial(now);
    }

    /// Takes what has come before and could not be taken then; true if that got on.
    fn resume(&mut self, cx: &Context<'_>, now: Instant) -> bool {
        if let Some((request, number)) = self.parked.take()
            && !self.submit(request, number, cx)
        {
            return false;
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        let used = self.requests(&mut inbox, cx, now);
        inbox.drain(..used);
        if inbox.is_empty() && inbox.capacity() > MESSAGE_MAX {
            inbox = Vec::new();
        }
        self.inbox = inbox;
        self.note_partial(now);
        used > 0
    }

    /// Notes whether there is the beginning of a request, and since when.
    fn note_partial(&self, now: Instant) {
        let partial = &self.state.partial;
        match self.inbox.is_empty() || self.parked.is_some() {
            true => partial.set(None),
            false => partial.set(partial.get().or(Some(now))),
        }
    }

    /// Takes whole requests from the front of `bytes`, and says how many bytes those are.
    fn requests(&mut self, bytes: &mut [u8], cx: &Context<'_>, now: Instant) -> usize {
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
            if !self.request(&message, wire, cx, now) {
                self.malformed = true;
                break;
            }
        }
        used
    }

    /// Takes one request; false where it is malformed.
    fn request(
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
        let asked = Request::read(message, wire, deadline, &worker.shared);
        if matches!(asked, Asked::Malformed) {
            return false;
        }
        worker.shared.counters.requests.count();
        let answers = &self.state.answers;
        let number = answers.expect(message.header, now);
        match asked {
            Asked::Engine(request) => {
                let _ = self.submit(request, number, cx);
            }
            Asked::Nobody(reply) => drop(answers.complete(number, reply)),
            Asked::Malformed => {}
        }
        true
    }

    /// Sends a request to the engine; false, and it is parked, where that has no room for it now.
    fn submit(&mut self, request: Box<Request>, number: u64, cx: &Context<'_>) -> bool {
        let mut request = match request.is_asked() {
            true => request,
            false => request.asked_by(Asker::Client(self.state.answers.clone(), number)),
        };
        if request.deadline <= Instant::now() {
            request.expire();
            return true;
        }
        match self.worker.engine.submit(request) {
            Ok(()) => true,
            Err(request) => {
                self.worker.shared.load.wait(cx.waker());
                self.parked = Some((request, number));
                false
            }
        }
    }

    /// Whether everything is done that will be.
    fn finished(&self) -> bool {
        let answers = &self.state.answers;
        let over = self.ended || self.malformed || self.worker.draining.get();
        over && answers.open() == 0 && answers.unsent() == 0 && self.parked.is_none()
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, Over> {
        let now = Instant::now();
        let wrote = self.write(cx)?;
        let resumed = self.parked.is_some() || !self.inbox.is_empty();
        let resumed = resumed && !self.malformed && self.resume(cx, now);
        let read = self.read(cx, now)?;
        // Where a request was answered at once there is something to send at once.
        let more = self.state.answers.unsent() > 0 && self.write(cx)?;
        Ok(wrote | resumed | read | more)
    }
}

impl Future for Client {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.state.answers.watch(cx.waker());
        for _ in 0..ROUNDS {
            if self.state.closing.get() {
                return Poll::Ready(());
            }
            match self.turn(cx) {
                Err(Over) => return Poll::Ready(()),
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

/// What an answer that nobody can give says.
pub(crate) const UNAVAILABLE: Reply<'_> = Reply::Status(Status::DISCONNECTED);
