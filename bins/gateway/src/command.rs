//! Requests as commands of the engine, and its replies as answers.
//!
//! | request | command | reply: status |
//! |---|---|---|
//! | ADD | `SET key session NX PX ttl` | OK: 0, nil: 101, out of memory: 1 |
//! | PUT | `SET key session PX ttl` | OK: 0, out of memory: 1 |
//! | GET | `GET key` | a string: the session itself, nil: 1 |
//! | TAKE | `GETDEL key` | as GET |
//! | REMOVE | `UNLINK key` | 1: 0, 0: 1 |
//! | HAVE | `STRLEN key` | the length of a session: 0, any other length: 1 |
//! | FETCH | `PTTL key` and `GET key` | a number and a string: the session and its lifetime, else a miss |
//! | REPAIR, COPY | none | 3 |
//!
//! A lifetime of 0 stores nothing, and engines refuse it. So such an ADD becomes `EXISTS`, and such a PUT
//! `UNLINK`. HAVE uses `STRLEN` instead of `EXISTS` so that it agrees with GET: a list under the same
//! prefix is not a session.
//!
//! A FETCH asks for the lifetime first: so the session needs no copy while the other reply is on its way.
//! If the session is replaced in between, the answer has the old lifetime and the new data. An engine does
//! not tell what was removed a moment ago, which a REPAIR has to respect, so a REPAIR is not supported.
//! After a miss `dc_client -replicas 2` sends one, and takes the refusal as an answer. The engine makes
//! copies of its own.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::answers::{Answers, Completed, Held, OwnedReply, Reply};
use crate::counters::Counters;
use crate::engine::{InFlight, RespValue, slot_of};
use distcache_core::copy::Copy;
use distcache_core::id::{ID_MAX, Id};
use distcache_core::message::{self, ADD_FIXED_LEN, Add, Status, TTL_MAX};
use distcache_core::wire::{Malformed, Message, Op, PAYLOAD_MAX};

/// The prefix of each key.
const PREFIX: &[u8; 3] = b"dc:";
/// The most spare requests of a worker: 0.2 MB.
const SPARE_MAX: usize = 1024;
/// The length of the longest key.
const KEY_MAX: usize = PREFIX.len() + ID_MAX;

/// A request to the engine. If it is dropped before it is answered, the answer is status 2.
pub(crate) struct Request {
    pub(crate) op: Op,
    key: [u8; KEY_MAX],
    key_len: u8,
    ttl: u32,
    session: Box<[u8]>,
    /// The latest time of its answer.
    pub(crate) deadline: Instant,
    /// How often it was redirected or repeated.
    pub(crate) hops: u8,
    /// Whether an ASKING must precede each of its commands.
    pub(crate) asking: bool,
    /// The reply to the PTTL of a FETCH.
    pttl: Option<i64>,
    /// `None` before it is submitted, and once it is answered.
    reply_to: Option<ReplyTo>,
    shared: Rc<Shared>,
}

/// What the requests of one worker share.
pub(crate) struct Shared {
    pub(crate) counters: Arc<Counters>,
    pub(crate) in_flight: InFlight,
    /// Answered requests, whose memory the next ones use.
    #[allow(clippy::vec_box, reason = "the boxes are what is kept")]
    pub(crate) spare: RefCell<Vec<Box<Request>>>,
    pub(crate) held: Held,
}

impl Shared {
    pub(crate) fn new(counters: Arc<Counters>, in_flight: InFlight, held: Held) -> Rc<Self> {
        Rc::new(Self { counters, in_flight, held, spare: RefCell::default() })
    }

    /// Moves a request to memory of its own.
    fn boxed(&self, request: Request) -> Box<Request> {
        match self.spare.borrow_mut().pop() {
            Some(mut spare) => {
                *spare = request;
                spare
            }
            None => Box::new(request),
        }
    }

    /// Keeps the memory of a request that is answered.
    pub(crate) fn recycle(&self, mut request: Box<Request>) {
        let mut spare = self.spare.borrow_mut();
        if !request.is_pending() && spare.len() < SPARE_MAX {
            request.session = Box::default();
            spare.push(request);
        }
    }
}

/// The destination of an answer.
pub(crate) enum ReplyTo {
    /// This place among the answers of a client.
    Client(Rc<Answers>, u64),
    /// A task that waits for this one answer.
    Channel(oneshot::Sender<OwnedReply>),
}

/// A parsed request.
pub(crate) enum Parsed {
    /// The engine has to answer it.
    Command(Box<Request>),
    /// The answer is known without the engine.
    Reply(Reply<'static>),
    /// Not a valid request: close its connection.
    Malformed,
}

/// What a reply of the engine means.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Outcome<'a> {
    /// The answer to the request.
    Reply(Reply<'a>),
    /// Another node has this slot now: its address.
    Moved(&'a str),
    /// Another node may have this key, for this one request: its address.
    Ask(&'a str),
    /// The node cannot answer: the error.
    Unavailable(&'a str),
    /// The node is a replica and refuses to write.
    ReadOnly,
}

/// The command that precedes a request after an ASK redirection.
pub(crate) const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// Appends a command to `out`.
pub(crate) fn write_command(out: &mut Vec<u8>, words: &[&[u8]]) {
    write_length(out, b'*', words.len());
    for word in words {
        write_length(out, b'$', word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn write_length(out: &mut Vec<u8>, kind: u8, len: usize) {
    // Formatting would cost more than the rest of the command.
    match len {
        0..10 => out.extend_from_slice(&[kind, b'0' + len as u8, b'\r', b'\n']),
        10..100 => {
            let (tens, ones) = (b'0' + (len / 10) as u8, b'0' + (len % 10) as u8);
            out.extend_from_slice(&[kind, tens, ones, b'\r', b'\n']);
        }
        _ => {
            out.push(kind);
            out.extend_from_slice(len.to_string().as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl Request {
    /// Parses a complete request. Overwrites its bytes.
    pub(crate) fn parse(
        message: &Message,
        wire: &mut [u8],
        deadline: Instant,
        shared: &Rc<Shared>,
    ) -> Parsed {
        let op = message.header.op;
        let payload = message.payload(wire);
        let none: &[u8] = &[];
        let (ttl, id, session) = match op {
            Op::Add | Op::Put => match Add::parse(payload) {
                Ok(Ok(Add { ttl, id, session })) => (ttl, id, session),
                Ok(Err(status)) => return Parsed::Reply(Reply::Status(status)),
                Err(_) => return Parsed::Malformed,
            },
            Op::Repair | Op::Copy => {
                return match refusal(op, payload) {
                    Ok(status) => Parsed::Reply(Reply::Status(status)),
                    Err(_) => Parsed::Malformed,
                };
            }
            Op::Get | Op::Take | Op::Remove | Op::Have | Op::Fetch => match Id::new(payload) {
                Some(id) => (0, id, none),
                // No session can have such an id.
                None => return Parsed::Reply(Reply::Status(Status::NOT_OK)),
            },
        };
        let mut key = [0; KEY_MAX];
        let len = PREFIX.len() + id.bytes().len();
        key[..PREFIX.len()].copy_from_slice(PREFIX);
        key[PREFIX.len()..len].copy_from_slice(id.bytes());
        Parsed::Command(shared.boxed(Self {
            op,
            key,
            key_len: len as u8,
            ttl,
            session: session.into(),
            deadline,
            hops: 0,
            asking: false,
            pttl: None,
            reply_to: None,
            shared: shared.clone(),
        }))
    }

    /// Sets the destination of the answer, and counts the request as in flight.
    pub(crate) fn with_reply_to(mut self: Box<Self>, reply_to: ReplyTo) -> Box<Self> {
        self.reply_to = Some(reply_to);
        self.shared.in_flight.add();
        self
    }

    /// Whether it was submitted and is not answered.
    pub(crate) fn is_pending(&self) -> bool {
        self.reply_to.is_some()
    }

    fn key(&self) -> &[u8] {
        &self.key[..usize::from(self.key_len)]
    }

    /// The cluster slot of its key.
    pub(crate) fn slot(&self) -> usize {
        slot_of(self.key())
    }

    /// Whether it may be sent again after it was lost with a connection.
    pub(crate) fn is_idempotent(&self) -> bool {
        matches!(self.op, Op::Get | Op::Have | Op::Fetch)
    }

    /// Appends its command to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let key = self.key();
        match (self.op, self.ttl) {
            (Op::Get, _) => write_command(out, &[b"GET", key]),
            (Op::Take, _) => write_command(out, &[b"GETDEL", key]),
            (Op::Have, _) => write_command(out, &[b"STRLEN", key]),
            (Op::Remove, _) | (Op::Put, 0) => write_command(out, &[b"UNLINK", key]),
            (Op::Add, 0) => write_command(out, &[b"EXISTS", key]),
            (Op::Add, ttl) => {
                let ttl = ttl.to_string();
                let words = [b"SET", key, &self.session, b"NX", b"PX", ttl.as_bytes()];
                write_command(out, &words);
            }
            (Op::Put, ttl) => {
                let ttl = ttl.to_string();
                write_command(out, &[b"SET", key, &self.session, b"PX", ttl.as_bytes()]);
            }
            (Op::Fetch, _) => {
                write_command(out, &[b"PTTL", key]);
                if self.asking {
                    out.extend_from_slice(ASKING);
                }
                write_command(out, &[b"GET", key]);
            }
            // Refused by `parse`.
            (Op::Repair | Op::Copy, _) => {}
        }
    }

    /// The number of replies to its commands after the first one.
    pub(crate) fn later_replies(&self) -> usize {
        match self.op {
            Op::Fetch => 1 + usize::from(self.asking),
            _ => 0,
        }
    }

    /// Forgets the replies to earlier commands.
    pub(crate) fn restart(&mut self) {
        self.pttl = None;
    }

    /// Takes the first reply to a FETCH. False if the reply decides the outcome.
    pub(crate) fn take_first(&mut self, value: RespValue<'_>) -> bool {
        match value {
            RespValue::Int(pttl) if self.op == Op::Fetch && self.pttl.is_none() => {
                self.pttl = Some(pttl);
                true
            }
            _ => false,
        }
    }

    /// The lifetime of a fetched session; `None` if there was none.
    fn fetched_ttl(&self) -> Option<u32> {
        match self.pttl? {
            -2 => None,
            // It does not expire.
            -1 => Some(TTL_MAX),
            pttl => Some(u32::try_from(pttl).map_or(TTL_MAX, |ttl| ttl.min(TTL_MAX))),
        }
    }

    /// What the engine's reply to its command means. For a FETCH, the reply to the GET.
    pub(crate) fn outcome<'a>(&self, value: RespValue<'a>) -> Outcome<'a> {
        let status = |status| Outcome::Reply(Reply::Status(status));
        let there = |there| status(if there { Status::OK } else { Status::NOT_OK });
        match (self.op, value) {
            (_, RespValue::Error(line)) => self.error_outcome(line),
            (Op::Get | Op::Take, RespValue::Bulk(session)) if self.fits(session.len()) => {
                Outcome::Reply(Reply::Session(session))
            }
            (Op::Fetch, RespValue::Bulk(session)) if self.fits(session.len()) => {
                Outcome::Reply(match self.fetched_ttl() {
                    Some(ttl) => Reply::Fetched(ttl, session),
                    None => Reply::Missing,
                })
            }
            (Op::Fetch, RespValue::Nil) => Outcome::Reply(Reply::Missing),
            (Op::Get | Op::Take, RespValue::Nil) => status(Status::NOT_OK),
            (Op::Add, RespValue::Nil) => status(Status::ADD_EXISTS),
            (Op::Add | Op::Put, RespValue::Okay) => status(Status::OK),
            (Op::Add, RespValue::Int(0)) if self.ttl == 0 => status(Status::OK),
            (Op::Add, RespValue::Int(1)) if self.ttl == 0 => status(Status::ADD_EXISTS),
            (Op::Put, RespValue::Int(0 | 1)) if self.ttl == 0 => status(Status::OK),
            (Op::Remove, RespValue::Int(number @ (0 | 1))) => there(number == 1),
            (Op::Have, RespValue::Int(0)) => there(false),
            (Op::Have, RespValue::Int(len)) if usize::try_from(len).is_ok_and(|n| self.fits(n)) => {
                there(true)
            }
            // Not the reply of a sane engine to this command.
            _ => self.foreign(),
        }
    }

    /// Whether a session can have this length.
    fn fits(&self, len: usize) -> bool {
        let id_len = usize::from(self.key_len) - PREFIX.len();
        (1..=PAYLOAD_MAX - ADD_FIXED_LEN - id_len).contains(&len)
    }

    fn error_outcome<'a>(&self, line: &'a str) -> Outcome<'a> {
        let (code, details) = line.split_once(' ').unwrap_or((line, ""));
        match code {
            // "MOVED 3999 127.0.0.1:6381"
            "MOVED" => Outcome::Moved(details.rsplit(' ').next().unwrap_or_default()),
            "ASK" => Outcome::Ask(details.rsplit(' ').next().unwrap_or_default()),
            "READONLY" => Outcome::ReadOnly,
            "WRONGTYPE" => self.foreign(),
            // As a full dc_server answers.
            "OOM" if self.op.stores() => {
                self.shared.counters.full.count();
                Outcome::Reply(Reply::Status(Status::NOT_OK))
            }
            _ => Outcome::Unavailable(line),
        }
    }

    /// The value is not a session: a miss for a request that reads, a failure for one that stores.
    fn foreign(&self) -> Outcome<'static> {
        self.shared.counters.foreign.count();
        Outcome::Reply(match self.op {
            Op::Add | Op::Put => Reply::Status(Status::DISCONNECTED),
            Op::Fetch => Reply::Missing,
            _ => Reply::Status(Status::NOT_OK),
        })
    }

    /// Answers the request, unless it was answered before.
    pub(crate) fn answer(&mut self, reply: Reply<'_>) {
        let Some(reply_to) = self.reply_to.take() else { return };
        self.shared.in_flight.remove();
        self.count(&reply);
        match reply_to {
            ReplyTo::Client(answers, number) => {
                if answers.complete(number, reply) == Completed::Held {
                    self.shared.held.add(&answers);
                }
            }
            // The task may have ended.
            ReplyTo::Channel(sender) => drop(sender.send(reply.into())),
        }
    }

    fn count(&self, reply: &Reply<'_>) {
        let counters = &self.shared.counters;
        match self.op {
            Op::Add | Op::Put => {
                counters.adds.count();
                if *reply == Reply::Status(Status::ADD_EXISTS) {
                    counters.exists.count();
                }
            }
            Op::Get | Op::Take | Op::Fetch => {
                counters.gets.count();
                if matches!(reply, Reply::Session(_) | Reply::Fetched(..)) {
                    counters.hits.count();
                }
            }
            Op::Remove | Op::Have | Op::Repair | Op::Copy => {}
        }
    }

    /// Answers it with status 2, because its deadline has passed. A later reply is ignored.
    pub(crate) fn expire(&mut self) {
        if self.is_pending() {
            self.shared.counters.timeouts.count();
            self.answer(Reply::Status(Status::DISCONNECTED));
        }
    }
}

/// The status that refuses a REPAIR or COPY.
fn refusal(op: Op, payload: &[u8]) -> Result<Status, Malformed> {
    match op {
        Op::Copy => Copy::parse(payload).map(|_| Status::UNSUPPORTED),
        op => Ok(message::Request::parse(op, payload)?.err().unwrap_or(Status::UNSUPPORTED)),
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.reply_to.is_some() {
            self.shared.counters.unavailable.count();
            self.answer(Reply::Status(Status::DISCONNECTED));
        }
    }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
