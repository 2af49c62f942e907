//! Requests as commands of the engine, and what its answers mean.
//!
//! | request | command | answers |
//! |---|---|---|
//! | ADD | `SET key session NX PX ttl` | OK: 0, nil: 101, out of memory: 1 |
//! | PUT | `SET key session PX ttl` | OK: 0, out of memory: 1 |
//! | GET | `GET key` | a string: the session, nil: 1 |
//! | TAKE | `GETDEL key` | as GET |
//! | REMOVE | `UNLINK key` | 1: 0, 0: 1 |
//! | HAVE | `STRLEN key` | the length of a session: 0, else 1 |
//!
//! A lifetime of 0 stores nothing, and an engine refuses it, so such an ADD is `EXISTS` and such a PUT
//! is `UNLINK`. HAVE asks for the length, and not with `EXISTS`, so that it says what GET would: a list
//! under our prefix is no session.

use std::rc::Rc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::answers::{Answers, Completed, Held, Owned, Reply};
use crate::counters::Counters;
use crate::engine::{Answer, Load, slot_of};
use crate::parts::{Add, ID_MAX, Id, Message, Op, PAYLOAD_MAX, Status};

/// What is written before each id.
const PREFIX: &[u8; 3] = b"dc:";
/// Bytes of the longest key.
const KEY_MAX: usize = PREFIX.len() + ID_MAX;
/// What an ADD has beside its id and its session: no session is longer than leaves room for it.
const FIXED: usize = crate::parts::ADD_FIXED_LEN;

/// A request on its way to the engine. Dropped without an answer it is answered with status 2.
pub(crate) struct Request {
    pub(crate) op: Op,
    key: [u8; KEY_MAX],
    key_len: u8,
    ttl: u32,
    session: Box<[u8]>,
    /// When it is answered, whatever the engine does.
    pub(crate) deadline: Instant,
    /// How often it was sent to another node, or again.
    pub(crate) hops: u8,
    /// Whether the node it goes to must be told that this is a redirected request.
    pub(crate) asking: bool,
    asker: Option<Asker>,
    shared: Rc<Shared>,
}

/// What requests of one worker have in common.
pub(crate) struct Shared {
    pub(crate) counters: std::sync::Arc<Counters>,
    pub(crate) load: Load,
    pub(crate) held: Held,
}

/// Where an answer goes.
pub(crate) enum Asker {
    /// A place among the answers of a client.
    Client(Rc<Answers>, u64),
    /// Whoever waits for this one answer.
    Once(oneshot::Sender<Owned>),
}

/// What a message asks for.
pub(crate) enum Asked {
    /// The engine's answer.
    Engine(Box<Request>),
    /// Nothing that the engine would have to say anything about.
    Nobody(Reply<'static>),
    /// It is no request: its connection is closed.
    Malformed,
}

/// What an answer of the engine says.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Said<'a> {
    /// The answer to the client.
    Reply(Reply<'a>),
    /// Another node has this slot now.
    Moved(&'a str),
    /// Another node has this key, for this once.
    Ask(&'a str),
    /// This node is not in a state to answer, for this reason.
    Unable(&'a str),
    /// This node is a replica and refuses to write.
    ReadOnly,
}

/// The command that goes before a request that was redirected by ASK.
pub(crate) const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// Writes a command to the end of `out`.
pub(crate) fn write_command(out: &mut Vec<u8>, words: &[&[u8]]) {
    write_length(out, b'*', words.len());
    for word in words {
        write_length(out, b'$', word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn write_length(out: &mut Vec<u8>, kind: u8, len: usize) {
    // Nearly all are short, and formatting takes longer than all the rest.
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
    /// Reads a whole request; its bytes are of no use afterwards.
    pub(crate) fn read(
        message: &Message,
        wire: &mut [u8],
        deadline: Instant,
        shared: &Rc<Shared>,
    ) -> Asked {
        let op = message.header.op;
        let payload = message.payload(wire);
        let none: &[u8] = &[];
        let (ttl, id, session) = match op {
            Op::Add | Op::Put => match Add::parse(payload) {
                Ok(Ok(Add { ttl, id, session })) => (ttl, id, session),
                Ok(Err(status)) => return Asked::Nobody(Reply::Status(status)),
                Err(_) => return Asked::Malformed,
            },
            Op::Fetch | Op::Repair | Op::Copy => {
                return match message_is_valid(op, payload) {
                    true => Asked::Nobody(Reply::Status(Status::UNSUPPORTED)),
                    false => Asked::Malformed,
                };
            }
            Op::Get | Op::Take | Op::Remove | Op::Have => match Id::new(payload) {
                Some(id) => (0, id, none),
                // Such an id is not there, whatever it says.
                None => return Asked::Nobody(Reply::Status(Status::NOT_OK)),
            },
        };
        let mut key = [0; KEY_MAX];
        let len = PREFIX.len() + id.bytes().len();
        key[..PREFIX.len()].copy_from_slice(PREFIX);
        key[PREFIX.len()..len].copy_from_slice(id.bytes());
        Asked::Engine(Box::new(Self {
            op,
            key,
            key_len: len as u8,
            ttl,
            session: session.into(),
            deadline,
            hops: 0,
            asking: false,
            asker: None,
            shared: shared.clone(),
        }))
    }

    /// Says where the answer goes.
    pub(crate) fn asked_by(mut self: Box<Self>, asker: Asker) -> Box<Self> {
        self.asker = Some(asker);
        self.shared.load.add();
        self
    }

    /// Whether it is said where its answer goes.
    pub(crate) fn is_asked(&self) -> bool {
        self.asker.is_some()
    }

    fn key(&self) -> &[u8] {
        &self.key[..usize::from(self.key_len)]
    }

    /// The slot of a cluster that it belongs to.
    pub(crate) fn slot(&self) -> usize {
        slot_of(self.key())
    }

    /// Whether asking twice is the same as asking once.
    pub(crate) fn repeatable(&self) -> bool {
        matches!(self.op, Op::Get | Op::Have)
    }

    /// Writes its command to the end of `out`.
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
            // Not sent to an engine.
            (Op::Fetch | Op::Repair | Op::Copy, _) => {}
        }
    }

    /// What an answer of the engine to its command says.
    pub(crate) fn hear<'a>(&self, answer: Answer<'a>) -> Said<'a> {
        let status = |status| Said::Reply(Reply::Status(status));
        let there = |there| status(if there { Status::OK } else { Status::NOT_OK });
        match (self.op, answer) {
            (_, Answer::Error(line)) => self.hear_error(line),
            (Op::Get | Op::Take, Answer::Bulk(session)) if self.fits(session.len()) => {
                Said::Reply(Reply::Session(session))
            }
            (Op::Get | Op::Take, Answer::Nil) => status(Status::NOT_OK),
            (Op::Add, Answer::Nil) => status(Status::ADD_EXISTS),
            (Op::Add | Op::Put, Answer::Okay) => status(Status::OK),
            (Op::Add, Answer::Int(0)) if self.ttl == 0 => status(Status::OK),
            (Op::Add, Answer::Int(1)) if self.ttl == 0 => status(Status::ADD_EXISTS),
            (Op::Put, Answer::Int(0 | 1)) if self.ttl == 0 => status(Status::OK),
            (Op::Remove, Answer::Int(number @ (0 | 1))) => there(number == 1),
            (Op::Have, Answer::Int(0)) => there(false),
            (Op::Have, Answer::Int(len)) if usize::try_from(len).is_ok_and(|n| self.fits(n)) => {
                there(true)
            }
            // Not what any engine of ours would say.
            _ => self.foreign(),
        }
    }

    /// Whether a session may be so long.
    fn fits(&self, len: usize) -> bool {
        let id_len = usize::from(self.key_len) - PREFIX.len();
        (1..=PAYLOAD_MAX - FIXED - id_len).contains(&len)
    }

    fn hear_error<'a>(&self, line: &'a str) -> Said<'a> {
        let (code, details) = line.split_once(' ').unwrap_or((line, ""));
        match code {
            // "MOVED 3999 127.0.0.1:6381"
            "MOVED" => Said::Moved(details.rsplit(' ').next().unwrap_or_default()),
            "ASK" => Said::Ask(details.rsplit(' ').next().unwrap_or_default()),
            "READONLY" => Said::ReadOnly,
            "WRONGTYPE" => self.foreign(),
            // A full engine says what a full dc_server does.
            "OOM" if self.op.stores() => {
                self.shared.counters.full.count();
                Said::Reply(Reply::Status(Status::NOT_OK))
            }
            _ => Said::Unable(line),
        }
    }

    /// What is there is no session: to who fetches, nothing is there; to who stores, it failed.
    fn foreign(&self) -> Said<'static> {
        self.shared.counters.foreign.count();
        let stores = self.op.stores();
        Said::Reply(Reply::Status(if stores { Status::DISCONNECTED } else { Status::NOT_OK }))
    }

    /// Answers it.
    pub(crate) fn answer(&mut self, reply: Reply<'_>) {
        let Some(asker) = self.asker.take() else { return };
        self.shared.load.remove();
        self.count(&reply);
        match asker {
            Asker::Client(answers, number) => {
                if answers.complete(number, reply) == Completed::Held {
                    self.shared.held.add(&answers);
                }
            }
            // Whoever asked may have given up.
            Asker::Once(sender) => drop(sender.send(reply.into())),
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
            Op::Get | Op::Take => {
                counters.gets.count();
                if matches!(reply, Reply::Session(_)) {
                    counters.hits.count();
                }
            }
            Op::Remove | Op::Have | Op::Fetch | Op::Repair | Op::Copy => {}
        }
    }

    /// Answers it with status 2 because its time is over. What comes later is dropped.
    pub(crate) fn expire(&mut self) {
        if self.is_asked() {
            self.shared.counters.timeouts.count();
            self.answer(Reply::Status(Status::DISCONNECTED));
        }
    }
}

/// Whether the payload of an operation of level 2 is one.
fn message_is_valid(op: Op, payload: &[u8]) -> bool {
    match op {
        Op::Copy => distcache_core::copy::Copy::parse(payload).is_ok(),
        op => distcache_core::message::Request::parse(op, payload).is_ok(),
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.asker.is_some() {
            self.shared.counters.unavailable.count();
            self.answer(Reply::Status(Status::DISCONNECTED));
        }
    }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
