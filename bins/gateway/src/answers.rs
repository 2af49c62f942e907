//! The answers that one client waits for, in the order of their requests.
//!
//! ```text
//!  reserve ──► [ done | waiting | done | waiting ] ◄── complete
//!                │
//!                ▼ once all before it are done
//!              bytes to send
//! ```
//!
//! Answers are sent in the order of their requests, as the protocol demands. On a connection of a
//! `dc_client`, which carries the requests of a whole machine, a stopped node of the engine therefore
//! delays the answers of all other nodes, by one deadline at most. `dc_client` matches answers by uid and
//! does not need the order. With `-overtake`, once the first request has waited for that long, later
//! answers pass it, unless an earlier request with the same uid still waits.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use distcache_core::message::{STAMP_LEN, Status};
use distcache_core::wire::{self, Envelope, HEADER_LEN, Header, LEVEL};

/// The most spare buffers of a client.
const SPARE_MAX: usize = 32;
/// The largest buffer that is kept as a spare one.
const SPARE_LEN_MAX: usize = 1024;
/// The stamp of a FETCH that finds nothing. A server accepts no REPAIR with it: an engine does not tell
/// what was removed since.
const NO_STAMP: [u8; STAMP_LEN] = [0; STAMP_LEN];
/// The smallest buffer for answers.
const BUFFER_MIN: usize = 4096;

/// The answer to a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reply<'a> {
    /// One byte.
    Status(Status),
    /// A session's data.
    Session(&'a [u8]),
    /// The lifetime left in milliseconds and a session's data, which answer a FETCH.
    Fetched(u32, &'a [u8]),
    /// The answer to a FETCH that finds nothing.
    Missing,
}

/// The same, with its own memory.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum OwnedReply {
    /// One byte.
    Status(Status),
    /// A session's data.
    Session(Vec<u8>),
    /// See [`Reply::Fetched`].
    Fetched(u32, Vec<u8>),
    /// See [`Reply::Missing`].
    Missing,
}

impl Reply<'_> {
    /// Appends the payload on the wire to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Status(status) => out.push(status.0),
            Self::Session(session) => out.extend_from_slice(session),
            Self::Fetched(ttl, session) => {
                out.push(Status::OK.0);
                out.extend_from_slice(&ttl.to_be_bytes());
                out.extend_from_slice(session);
            }
            Self::Missing => {
                out.push(Status::NOT_OK.0);
                out.extend_from_slice(&NO_STAMP);
            }
        }
    }
}

impl From<Reply<'_>> for OwnedReply {
    fn from(reply: Reply<'_>) -> Self {
        Self::new(reply, &mut Vec::new())
    }
}

impl OwnedReply {
    /// Copies a reply to a buffer of `spare`, or to a new one.
    fn new(reply: Reply<'_>, spare: &mut Vec<Vec<u8>>) -> Self {
        let mut copy = |session| {
            let mut buffer = spare.pop().unwrap_or_default();
            buffer.extend_from_slice(session);
            buffer
        };
        match reply {
            Reply::Status(status) => Self::Status(status),
            Reply::Session(session) => Self::Session(copy(session)),
            Reply::Fetched(ttl, session) => Self::Fetched(ttl, copy(session)),
            Reply::Missing => Self::Missing,
        }
    }

    /// The same, borrowed.
    pub(crate) fn as_reply(&self) -> Reply<'_> {
        match self {
            Self::Status(status) => Reply::Status(*status),
            Self::Session(session) => Reply::Session(session),
            Self::Fetched(ttl, session) => Reply::Fetched(*ttl, session),
            Self::Missing => Reply::Missing,
        }
    }

    /// Returns its buffer, emptied, if it has one that is worth keeping.
    fn into_spare(self) -> Option<Vec<u8>> {
        match self {
            Self::Session(mut buffer) | Self::Fetched(_, mut buffer) => {
                buffer.clear();
                Some(buffer).filter(|buffer| buffer.capacity() <= SPARE_LEN_MAX)
            }
            Self::Status(_) | Self::Missing => None,
        }
    }
}

/// The answers of one client.
#[derive(Default)]
pub(crate) struct Answers {
    queue: RefCell<Queue>,
    waker: Cell<Option<Waker>>,
    /// Whether it is listed in [`Held`].
    pub(crate) listed: Cell<bool>,
}

#[derive(Default)]
struct Queue {
    /// The number of the first entry: requests are numbered from 0.
    base: u64,
    entries: VecDeque<Entry>,
    /// Bytes to send, of which `sent` were sent.
    out: Vec<u8>,
    sent: usize,
    /// The number of entries that have passed another one.
    passed: usize,
    /// Empty buffers for the next sessions that wait for their turn, [`SPARE_MAX`] at most.
    spare: Vec<Vec<u8>>,
}

struct Entry {
    header: Header,
    since: Instant,
    state: State,
}

#[derive(Debug, Eq, PartialEq)]
enum State {
    Waiting,
    Done(OwnedReply),
    /// The answer was moved to `out` ahead of its turn.
    Passed,
}

/// The result of [`Answers::complete`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Completed {
    /// The answer waits for an earlier one.
    Held,
    /// There are more bytes to send, or the answer was not expected.
    Released,
}

impl Answers {
    /// Reserves a place for the answer to a request, and returns its number.
    pub(crate) fn reserve(&self, header: Header, now: Instant) -> u64 {
        let mut queue = self.queue.borrow_mut();
        let number = queue.base + queue.entries.len() as u64;
        queue.entries.push_back(Entry { header, since: now, state: State::Waiting });
        number
    }

    /// Puts an answer in its place. Ignores a second answer to the same request.
    pub(crate) fn complete(&self, number: u64, reply: Reply<'_>) -> Completed {
        let mut queue = self.queue.borrow_mut();
        let Some(at) = number.checked_sub(queue.base).and_then(|at| usize::try_from(at).ok())
        else {
            return Completed::Released;
        };
        let Queue { entries, out, spare, .. } = &mut *queue;
        match entries.get_mut(at) {
            Some(entry) if entry.state != State::Waiting => return Completed::Released,
            None => return Completed::Released,
            Some(entry) if at > 0 => {
                entry.state = State::Done(OwnedReply::new(reply, spare));
                return Completed::Held;
            }
            Some(entry) => {
                write(&entry.header, reply, out);
                queue.base += 1;
                queue.entries.pop_front();
            }
        }
        queue.release();
        drop(queue);
        self.wake();
        Completed::Released
    }

    /// Lets answers pass the first one if that has waited for `after`. True while some are held back.
    fn overtake(&self, now: Instant, after: Duration) -> bool {
        let mut queue = self.queue.borrow_mut();
        let late = queue.entries.front().is_some_and(|entry| now - entry.since >= after);
        if late && queue.pass() {
            drop(queue);
            self.wake();
            queue = self.queue.borrow_mut();
        }
        queue.entries.iter().any(|entry| matches!(entry.state, State::Done(_)))
    }

    /// The number of requests without an answer, or with one that waits for its turn.
    pub(crate) fn open(&self) -> usize {
        let queue = self.queue.borrow();
        queue.entries.len() - queue.passed
    }

    /// The number of reserved places, which bounds the memory of one client.
    pub(crate) fn places(&self) -> usize {
        self.queue.borrow().entries.len()
    }

    /// The number of bytes to send.
    pub(crate) fn unsent(&self) -> usize {
        let queue = self.queue.borrow();
        queue.out.len() - queue.sent
    }

    /// Passes the bytes to send to `send`, which returns how many of them it took.
    pub(crate) fn send<E>(&self, send: impl FnOnce(&[u8]) -> Result<usize, E>) -> Result<usize, E> {
        let mut queue = self.queue.borrow_mut();
        let len = send(&queue.out[queue.sent..])?;
        queue.sent += len;
        if queue.sent == queue.out.len() {
            queue.sent = 0;
            queue.out.clear();
        }
        Ok(len)
    }

    /// Frees memory that an idle client does not need.
    pub(crate) fn trim(&self) {
        let mut queue = self.queue.borrow_mut();
        if queue.entries.is_empty() {
            queue.entries.shrink_to(4);
            queue.spare = Vec::new();
        }
        if queue.out.is_empty() {
            queue.out.shrink_to(0);
        }
    }

    /// Registers the client's task, to be woken when there is something to send.
    pub(crate) fn watch(&self, waker: &Waker) {
        let known = self.waker.take().filter(|known| known.will_wake(waker));
        self.waker.set(Some(known.unwrap_or_else(|| waker.clone())));
    }

    /// Wakes the client's task.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Queue {
    /// Moves the answers at the front to `out`, up to the first that is missing.
    fn release(&mut self) {
        while let Some(entry) = self.entries.front_mut() {
            match std::mem::replace(&mut entry.state, State::Passed) {
                State::Waiting => {
                    entry.state = State::Waiting;
                    break;
                }
                State::Done(reply) => {
                    write(&entry.header, reply.as_reply(), &mut self.out);
                    if self.spare.len() < SPARE_MAX {
                        self.spare.extend(reply.into_spare());
                    }
                }
                State::Passed => self.passed -= 1,
            }
            self.base += 1;
            self.entries.pop_front();
        }
    }

    /// Moves every answer to `out` that cannot be mistaken for an earlier one. True if there are any.
    fn pass(&mut self) -> bool {
        let mut waiting = Vec::new();
        let mut some = false;
        for entry in &mut self.entries {
            match &entry.state {
                State::Waiting => waiting.push(entry.header.uid),
                State::Done(reply) if !waiting.contains(&entry.header.uid) => {
                    write(&entry.header, reply.as_reply(), &mut self.out);
                    entry.state = State::Passed;
                    self.passed += 1;
                    some = true;
                }
                // A later request may have the same uid: the client takes the first answer with it.
                State::Done(_) | State::Passed => {}
            }
        }
        some
    }
}

/// Appends an answer to `out`.
fn write(header: &Header, reply: Reply<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.reserve(if start == 0 { BUFFER_MIN } else { 0 });
    out.extend_from_slice(&[0; HEADER_LEN]);
    reply.write(out);
    let payload_len = out.len() - start - HEADER_LEN;
    out.resize(start + wire::wire_len(payload_len), 0);
    let framed = wire::frame(&mut out[start..], &Envelope::answer(header, LEVEL), payload_len);
    debug_assert!(framed.is_some(), "a session is at most one message long");
}

/// The clients with held answers, which are checked regularly.
pub(crate) struct Held {
    all: RefCell<Vec<Rc<Answers>>>,
    /// How long the first request may delay answers to later ones; `None` for no limit.
    after: Option<Duration>,
}

impl Held {
    /// Later answers pass one that is late by `after`.
    pub(crate) fn new(after: Option<Duration>) -> Self {
        Self { all: RefCell::default(), after }
    }

    /// Adds a client, unless it is listed.
    pub(crate) fn add(&self, answers: &Rc<Answers>) {
        if self.after.is_some() && !answers.listed.replace(true) {
            self.all.borrow_mut().push(answers.clone());
        }
    }

    /// Lets the answers of all clients pass late ones.
    pub(crate) fn overtake(&self, now: Instant) {
        let Some(after) = self.after else { return };
        let mut all = self.all.take();
        all.retain(|answers| {
            let holds = answers.overtake(now, after);
            answers.listed.set(holds);
            holds
        });
        self.all.borrow_mut().append(&mut all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use distcache_core::wire::{Direction, Message, Op};
    use distcache_testing::bytes::{self, session, status};

    fn header(uid: u32, op: Op) -> Header {
        let request = match op {
            Op::Get => bytes::get(uid, b"a"),
            _ => bytes::have(uid, b"a"),
        };
        let message = Message::measure(&request, Direction::Request).expect("valid");
        message.expect("complete").header
    }

    fn all(answers: &Answers) -> Vec<u8> {
        let mut all = Vec::new();
        while answers.unsent() > 0 {
            answers
                .send(|bytes| {
                    all.push(bytes[0]);
                    Ok::<_, ()>(1)
                })
                .expect("infallible");
        }
        all
    }

    const AFTER: Duration = Duration::from_millis(10);
    const OK: Reply<'_> = Reply::Status(Status::OK);

    #[test]
    fn answers_leave_in_the_order_of_their_requests() {
        let (answers, now) = (Answers::default(), Instant::now());
        let a = answers.reserve(header(7, Op::Get), now);
        let b = answers.reserve(header(8, Op::Have), now);
        let c = answers.reserve(header(7, Op::Have), now);
        assert_eq!(answers.complete(c, Reply::Status(Status::NOT_OK)), Completed::Held);
        assert_eq!(answers.complete(b, OK), Completed::Held);
        assert!(answers.overtake(now, AFTER), "not late yet");
        assert_eq!((answers.unsent(), answers.open()), (0, 3));
        let long = vec![5; 5000];
        assert_eq!(answers.complete(a, Reply::Session(&long)), Completed::Released);
        let expected = [session(7, &long), status(8, 3, 0), status(7, 3, 1)].concat();
        assert!(all(&answers) == expected);
        assert_eq!((answers.open(), answers.places()), (0, 0));
        assert_eq!(answers.complete(a, OK), Completed::Released, "a second answer is dropped");
        assert_eq!(answers.unsent(), 0);
    }

    #[test]
    fn a_late_answer_delays_only_those_that_could_be_mistaken_for_it() {
        let (answers, now) = (Answers::default(), Instant::now());
        let late = answers.reserve(header(7, Op::Get), now);
        let numbers = [8, 7, 9, 9].map(|uid| answers.reserve(header(uid, Op::Have), now));
        for number in [numbers[0], numbers[1], numbers[3]] {
            assert_eq!(answers.complete(number, OK), Completed::Held);
        }
        let then = now + AFTER;
        assert!(answers.overtake(then, AFTER), "the second 7 and 9 wait for the first");
        assert_eq!(all(&answers), status(8, 3, 0));
        assert_eq!((answers.open(), answers.places()), (4, 5));
        answers.complete(numbers[2], OK);
        answers.overtake(then, AFTER);
        assert_eq!(all(&answers), [status(9, 3, 0), status(9, 3, 0)].concat());
        answers.complete(late, Reply::Status(Status::DISCONNECTED));
        assert_eq!(all(&answers), [status(7, 1, 2), status(7, 3, 0)].concat());
        assert_eq!((answers.open(), answers.places()), (0, 0));
        assert!(!answers.overtake(then, AFTER));
    }
}
