//! One operation of a client, made of requests that its server supports.
//!
//! PUT and TAKE exist from patch level 1 on, and a client learns the level from the first answer. Until
//! then, and with older servers, it uses the operations that every server has:
//!
//! ```text
//!  level 1:    PUT ────────────────────► done        TAKE ─────────────────────────► done
//!               │ 3, or the connection broke          │ 3, or the connection broke
//!  level 0:     ▼                                     ▼
//!              ADD ─ stored, refused ──► done        GET ─ not found ──────────────► done
//!               │ 101                                 │ a session: keep a copy
//!               ├─ answered at level 1: PUT           ├─ answered at level 1: TAKE
//!               ▼                                     ▼
//!              REMOVE                                REMOVE ─ 0: the copy is ours ─► done
//!               │ 0 or 1                                    ─ 1: not found ────────► done
//!               ▼
//!              ADD ────────────────────► done
//! ```
//!
//! The answers in front of `done` are 0, 1 and the statuses that refuse an ADD. An old server closes
//! the connection on PUT and TAKE, hence the second way into the lower half.
//!
//! The [proxy](crate::proxy) does not use this machine. It forwards PUT and TAKE as they are, and
//! answers [`Status::UNSUPPORTED`] if the server does not have them: the client falls back. On its own
//! account it only writes further copies of a session, where an ADD must replace what is stored and
//! REMOVE comes after another server's TAKE.

use crate::message::{Reply, Request, Status};
use crate::wire::Op;

/// What to do after an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Make [`Operation::request`].
    Ask,
    /// Copy the session of this reply, then make [`Operation::request`].
    Keep,
    /// Nothing: the operation is complete.
    Done(Outcome),
}

/// The result of an operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The session in the last reply.
    Session,
    /// The session that was kept: this client alone has taken it.
    Kept,
    /// The status of the last reply.
    Status(Status),
    /// The session was not found, but a request whose answer was lost may have taken it.
    Lost,
}

/// The state of one operation.
///
/// Make [`Operation::request`] and pass its reply to [`Operation::answered`], until that returns
/// [`Next::Done`]: 5 requests at most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Operation {
    op: Op,
    step: Step,
    /// A request that takes the session was sent, and its answer lost.
    lost: bool,
}

/// The current request of an operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// The operation itself.
    Direct,
    /// ADD for PUT, or GET for TAKE.
    Probe,
    /// The operation itself, after the probe has shown that the server has it.
    Retry,
    /// REMOVE, after the probe has found a session.
    Remove,
    /// ADD for PUT, after the REMOVE.
    Add,
}

impl Operation {
    /// An operation with a server that is known to have answered at patch level `level`; 0 if unknown.
    pub const fn new(op: Op, level: u16) -> Self {
        let step = if op.level() <= level { Step::Direct } else { Step::Probe };
        Self { op, step, lost: false }
    }

    /// The request to make now, where `asked` is the request of the whole operation.
    pub const fn request<'a>(&self, asked: &Request<'a>) -> Request<'a> {
        match (self.step, *asked) {
            (Step::Probe | Step::Add, Request::Put(add)) => Request::Add(add),
            (Step::Probe, Request::Take(id)) => Request::Get(id),
            (Step::Remove, asked) => Request::Remove(asked.id()),
            (_, asked) => asked,
        }
    }

    /// The operation of [`Operation::request`].
    pub const fn op(&self) -> Op {
        match (self.step, self.op) {
            (Step::Probe | Step::Add, Op::Put) => Op::Add,
            (Step::Probe, Op::Take) => Op::Get,
            (Step::Remove, _) => Op::Remove,
            (_, op) => op,
        }
    }

    /// Takes the reply to the request, from a server that answers at patch level `level`.
    pub fn answered(&mut self, level: u16, reply: Reply<'_>) -> Next {
        let probed = if level >= self.op.level() { Step::Retry } else { Step::Remove };
        let (next, keep) = match (self.op, self.step, reply) {
            (Op::Put | Op::Take, Step::Direct, UNSUPPORTED) => (Step::Probe, false),
            (Op::Put | Op::Take, Step::Retry, UNSUPPORTED) => (Step::Remove, false),
            (Op::Put, Step::Probe, Reply::Status(Status::ADD_EXISTS)) => (probed, false),
            (Op::Take, Step::Probe, Reply::Session(_)) => (probed, true),
            // Another client may have removed it first.
            (Op::Put, Step::Remove, Reply::Status(Status::OK | Status::NOT_OK)) => {
                (Step::Add, false)
            }
            (_, _, reply) => return Next::Done(self.outcome(reply)),
        };
        self.step = next;
        if keep { Next::Keep } else { Next::Ask }
    }

    fn outcome(&self, reply: Reply<'_>) -> Outcome {
        match (self.op, self.step, reply) {
            (_, _, Reply::Session(_)) => Outcome::Session,
            // The client that removes the session owns it.
            (Op::Take, Step::Remove, Reply::Status(Status::OK)) => Outcome::Kept,
            (_, _, Reply::Status(status @ (Status::DISCONNECTED | Status::UNSUPPORTED))) => {
                Outcome::Status(status)
            }
            (Op::Take, Step::Remove, Reply::Status(status)) if status != Status::NOT_OK => {
                Outcome::Status(status)
            }
            (Op::Take, _, Reply::Status(_)) if self.lost => Outcome::Lost,
            (_, _, Reply::Status(status)) => Outcome::Status(status),
        }
    }

    /// The connection broke before the answer. True if the operation goes on with another request;
    /// false if it has failed.
    ///
    /// An old server closes the connection on PUT and TAKE.
    pub const fn broken(&mut self) -> bool {
        self.step = match (self.op, self.step) {
            (Op::Put | Op::Take, Step::Direct) => Step::Probe,
            (Op::Put | Op::Take, Step::Retry) => Step::Remove,
            _ => return false,
        };
        self.lost = true;
        true
    }

    /// The connection broke before the answer, and the same request is made again on another one.
    pub const fn repeated(&mut self) {
        self.lost |= matches!(self.op(), Op::Take | Op::Remove);
    }
}

const UNSUPPORTED: Reply<'static> = Reply::Status(Status::UNSUPPORTED);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;
    use crate::message::Add;
    use std::vec::Vec;

    const OK: Status = Status::OK;
    const MISS: Status = Status::NOT_OK;
    const EXISTS: Status = Status::ADD_EXISTS;
    const UNABLE: Status = Status::UNSUPPORTED;
    const DOWN: Status = Status::DISCONNECTED;
    const SESSION: Reply<'static> = Reply::Session(b"session");

    /// What happens to one request.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Status(u16, Status),
        Session(u16),
        /// The connection breaks.
        Break,
        /// The connection breaks, and the same request is made again.
        Repeat,
    }

    use Event::{Break, Repeat, Session};

    /// The level that is known, the events, the operations asked for, and the result.
    type Case<'a, R> = (u16, &'a [Event], &'a [Op], Option<R>);

    fn said(level: u16, status: Status) -> Event {
        Event::Status(level, status)
    }

    /// Runs an operation, and returns the operations of its requests and its outcome; `None` if it
    /// failed.
    fn run(op: Op, level: u16, events: &[Event]) -> (Vec<Op>, Option<Outcome>) {
        let id = Id::new(b"id").unwrap();
        let add = Add { ttl: 1, id, session: b"session" };
        let asked = match op {
            Op::Put => Request::Put(add),
            Op::Take => Request::Take(id),
            Op::Remove => Request::Remove(id),
            _ => Request::Get(id),
        };
        let mut operation = Operation::new(op, level);
        let mut ops = Vec::new();
        let mut kept = false;
        for event in events {
            let request = operation.request(&asked);
            assert_eq!((request.op(), request.id()), (operation.op(), id));
            ops.push(request.op());
            let reply = match *event {
                Event::Status(level, status) => operation.answered(level, Reply::Status(status)),
                Session(level) => operation.answered(level, SESSION),
                Break if operation.broken() => continue,
                Break => return (ops, None),
                Repeat => {
                    operation.repeated();
                    continue;
                }
            };
            match reply {
                Next::Ask => {}
                Next::Keep => kept = true,
                Next::Done(outcome) => {
                    assert!(outcome != Outcome::Kept || kept, "a session was kept");
                    assert_eq!(ops.len(), events.len());
                    return (ops, Some(outcome));
                }
            }
        }
        panic!("{op:?} is not complete after {events:?}")
    }

    #[test]
    fn a_put_replaces_the_session_on_every_server() {
        use Op::{Add, Put, Remove};
        let cases: [Case<'_, Status>; 14] = [
            (1, &[said(1, OK)], &[Put], Some(OK)),
            (1, &[said(1, DOWN)], &[Put], Some(DOWN)),
            (0, &[said(0, OK)], &[Add], Some(OK)),
            (0, &[said(1, DOWN)], &[Add], Some(DOWN)),
            (0, &[said(1, EXISTS), said(1, OK)], &[Add, Put], Some(OK)),
            (0, &[said(0, EXISTS), said(0, OK), said(0, OK)], &[Add, Remove, Add], Some(OK)),
            (
                0,
                &[said(0, EXISTS), said(0, MISS), said(0, EXISTS)],
                &[Add, Remove, Add],
                Some(EXISTS),
            ),
            (0, &[said(0, EXISTS), said(0, DOWN)], &[Add, Remove], Some(DOWN)),
            (1, &[said(1, UNABLE), said(0, OK)], &[Put, Add], Some(OK)),
            (
                0,
                &[said(1, EXISTS), said(1, UNABLE), said(0, OK), said(0, OK)],
                &[Add, Put, Remove, Add],
                Some(OK),
            ),
            (
                1,
                &[Break, said(1, EXISTS), Break, said(0, OK), said(0, OK)],
                &[Put, Add, Put, Remove, Add],
                Some(OK),
            ),
            (1, &[Break, Break], &[Put, Add], None),
            (0, &[said(0, EXISTS), Break], &[Add, Remove], None),
            (0, &[said(0, EXISTS), said(0, OK), Break], &[Add, Remove, Add], None),
        ];
        for (level, events, ops, status) in cases {
            let outcome = status.map(Outcome::Status);
            assert_eq!(run(Put, level, events), (ops.to_vec(), outcome), "{events:?}");
        }
    }

    #[test]
    fn a_take_gives_the_session_to_one_client_on_every_server() {
        use Op::{Get, Remove, Take};
        let missed = Some(Outcome::Status(MISS));
        let lost = Some(Outcome::Lost);
        let cases: [Case<'_, Outcome>; 14] = [
            (1, &[Session(1)], &[Take], Some(Outcome::Session)),
            (1, &[said(1, MISS)], &[Take], missed),
            (1, &[said(1, DOWN)], &[Take], Some(Outcome::Status(DOWN))),
            (0, &[said(0, MISS)], &[Get], missed),
            (0, &[Session(0), said(0, OK)], &[Get, Remove], Some(Outcome::Kept)),
            (0, &[Session(0), said(0, MISS)], &[Get, Remove], missed),
            (0, &[Session(1), Session(1)], &[Get, Take], Some(Outcome::Session)),
            (1, &[said(1, UNABLE), said(0, MISS)], &[Take, Get], missed),
            (
                1,
                &[said(1, UNABLE), Session(1), said(1, UNABLE), said(0, OK)],
                &[Take, Get, Take, Remove],
                Some(Outcome::Kept),
            ),
            (1, &[Break, said(0, MISS)], &[Take, Get], lost),
            (1, &[Repeat, said(1, MISS)], &[Take, Take], lost),
            (0, &[Session(0), Repeat, said(0, MISS)], &[Get, Remove, Remove], lost),
            (0, &[Repeat, said(0, MISS)], &[Get, Get], missed),
            (0, &[Session(0), Break], &[Get, Remove], None),
        ];
        for (level, events, ops, outcome) in cases {
            assert_eq!(run(Take, level, events), (ops.to_vec(), outcome), "{events:?}");
        }
    }

    #[test]
    fn an_operation_that_every_server_has_is_one_request() {
        let status = |status| Some(Outcome::Status(status));
        for (op, event, outcome) in [
            (Op::Get, Session(0), Some(Outcome::Session)),
            (Op::Get, said(1, UNABLE), status(UNABLE)),
            (Op::Remove, said(0, MISS), status(MISS)),
            (Op::Remove, Break, None),
        ] {
            assert_eq!(run(op, 0, &[event]), (std::vec![op], outcome));
        }
        assert_eq!(run(Op::Remove, 0, &[Repeat, said(0, MISS)]).1, status(MISS));
    }
}
