//! One request in flight: which servers it visits, and what their answers amount to.
//!
//! With one copy of each session a request visits one server, and that server's answer is the answer.
//! With more, it visits the servers that are up, one after the other in the order of their rank, until
//! as many have answered as there are copies:
//!
//! | | goes on to the next server | the answer |
//! |---|---|---|
//! | GET, HAVE | after a miss | the first hit, or the last miss |
//! | ADD, PUT | after OK; there it replaces what is stored | the first server's |
//! | REMOVE | always | the first server's; or OK from another, if the first may lack data |
//! | TAKE | after a hit, with a REMOVE; after a miss, if the first may lack data | the hit, or the miss |
//!
//! If two clients take or remove one session at the same time, its first server decides. A server that
//! has been up since the proxy started lacks no data, and its miss is final. Otherwise the next server
//! is asked too, so no session is lost with one server.
//!
//! A session that a GET misses at one server and finds at another is repaired: see
//! [`repair`](super::repair). A FETCH is a GET in this table. A REPAIR visits one server.
//!
//! A GET or HAVE whose first server is slow has a twin at the next server: see
//! [`hedge`](super::hedge).

use super::repair::Miss;
use crate::message::Status;
use crate::slots::Key;
use crate::time::Instant;
use crate::wire::{Message, Op};

/// One request in flight.
#[derive(Debug)]
pub struct InFlight {
    /// The client; `None` once it has left.
    pub(super) client: Option<Key>,
    /// The same request at another server, while neither has a decisive answer.
    pub(super) twin: Option<Key>,
    /// The request as the client sent it.
    pub(super) request: Message,
    /// Whether the request is still at the front of the client's inbox.
    pub(super) kept: Kept,
    /// Sessions in it and in its answers are sealed on the way.
    pub(super) is_sealed: bool,
    /// The [`hash`](super::upstream::hash) of the id; 0 with a single server.
    pub(super) id: u64,
    /// The server that it is sent to.
    pub(super) server: u8,
    /// The operation that the server is asked for.
    pub(super) op: Op,
    /// When it was sent.
    pub(super) since: Instant,
    /// The servers that were visited, one bit each.
    visited: u32,
    /// The number of servers that have answered.
    answered: u8,
    outcome: Outcome,
    /// The session in the way of a further copy was removed already.
    repaired: bool,
    /// A GET is sent as FETCH to servers that have it, so that a miss can be repaired.
    pub(super) fetches: bool,
    /// The first miss that can be repaired.
    pub(super) missed: Option<Miss>,
    /// A repair by the proxy itself. It has no client.
    pub(super) is_repair: bool,
}

/// What the client's inbox still holds of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kept {
    /// Nothing.
    No,
    /// All of it, but only because its id opens the answer: it is not sent again.
    ForId,
    /// All of it.
    Whole,
}

/// What determines the next server of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aim {
    pub(super) id: u64,
    visited: u32,
    /// The request changes data: a server that is skipped lacks the change.
    pub(super) changes: bool,
}

/// What the answers so far amount to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// No server has answered.
    Nothing,
    /// This status, unless another server gives a better one.
    Open(Status),
    /// This status, whatever other servers answer.
    Settled(Status),
    /// The session in the client's outbox.
    Session,
}

/// What to do with an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// Pass it to the client: the request is complete.
    Pass,
    /// Pass it to the client, after the next server has been asked.
    Hold,
    /// Ask the next server, if there is one.
    Next,
    /// Answer with the outcome.
    Finish,
    /// Ask the same server for this operation.
    Again(Op),
}

impl InFlight {
    pub(super) const fn new(
        now: Instant,
        client: Key,
        request: Message,
        id: u64,
        is_sealed: bool,
    ) -> Self {
        Self {
            client: Some(client),
            twin: None,
            request,
            kept: Kept::Whole,
            is_sealed,
            id,
            server: 0,
            op: request.header.op,
            since: now,
            visited: 0,
            answered: 0,
            outcome: Outcome::Nothing,
            repaired: false,
            fetches: false,
            missed: None,
            is_repair: false,
        }
    }

    /// A repair at this server, of the session that `request` has asked for.
    pub(super) const fn repair(now: Instant, server: u8, request: Message) -> Self {
        Self {
            client: None,
            twin: None,
            request,
            kept: Kept::No,
            // What it stores is sealed already.
            is_sealed: false,
            id: 0,
            server,
            op: Op::Repair,
            since: now,
            visited: 0,
            answered: 0,
            outcome: Outcome::Nothing,
            repaired: false,
            fetches: false,
            missed: None,
            is_repair: true,
        }
    }

    /// What determines its next server.
    #[inline]
    pub(super) const fn aim(&self) -> Aim {
        Aim { visited: self.visited, ..Aim::new(self.request.header.op, self.id) }
    }

    /// Whether it may be sent to a second server before the first has answered: it changes no data, and
    /// no server has answered.
    pub(super) const fn is_hedgeable(&self) -> bool {
        let reads = matches!(self.request.header.op, Op::Get | Op::Have | Op::Fetch);
        reads && self.is_kept() && self.answered == 0 && self.twin.is_none()
    }

    /// Whether it can be sent again.
    pub(super) const fn is_kept(&self) -> bool {
        matches!(self.kept, Kept::Whole)
    }

    /// Its twin, for another server.
    pub(super) const fn split(&self, key: Key) -> Self {
        let mut twin = Self::new(self.since, key, self.request, self.id, self.is_sealed);
        (twin.client, twin.twin) = (self.client, Some(key));
        twin.visited = self.visited;
        twin.fetches = self.fetches;
        twin
    }

    /// Takes over what its twin, which has ended, has learned.
    pub(super) const fn absorb(&mut self, twin: &Self) {
        self.twin = None;
        self.visited |= twin.visited;
        self.answered = self.answered.saturating_add(twin.answered);
        if let Outcome::Nothing = self.outcome {
            self.outcome = twin.outcome;
        }
        if self.missed.is_none() {
            self.missed = twin.missed;
        }
    }

    /// Marks a server as visited.
    pub(super) const fn leave_out(&mut self, server: u8) {
        self.visited |= bit(server);
    }

    pub(super) const fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Chooses the operation for a server that answers at `level`. False if that server does not have
    /// the operation.
    pub(super) fn visit(&mut self, server: u8, level: u16) -> bool {
        let asked = self.request.header.op;
        self.op = match (asked, self.outcome) {
            (Op::Take, Outcome::Session) => Op::Remove,
            // A further copy must equal the first, whatever was stored before.
            (Op::Add | Op::Put, Outcome::Settled(_)) if level >= Op::Put.level() => Op::Put,
            (Op::Add | Op::Put, Outcome::Settled(_)) => Op::Add,
            (Op::Get, _) if self.fetches && level >= Op::Fetch.level() => Op::Fetch,
            (asked, _) => asked,
        };
        self.server = server;
        self.visited |= bit(server);
        self.repaired = false;
        self.op.level() <= level
    }

    /// Takes the answer of the server: a status, or `None` for a session. A server that `may_lack_data`
    /// may not have what it was given.
    pub(super) fn on_reply(
        &mut self,
        status: Option<Status>,
        may_lack_data: bool,
        copies: u8,
    ) -> Step {
        if copies <= 1 {
            return Step::Pass;
        }
        // A proxy that cannot reach its server does not know about the session.
        if status == Some(Status::DISCONNECTED) {
            return Step::Next;
        }
        match self.request.header.op {
            Op::Get if self.op == Op::Fetch && status == Some(Status::UNSUPPORTED) => {
                Step::Again(Op::Get)
            }
            Op::Get | Op::Have | Op::Fetch => self.look(status, copies),
            Op::Repair | Op::Copy => Step::Pass,
            Op::Add | Op::Put => self.store(status.unwrap_or(Status::OK), copies),
            Op::Remove => self.forget(status.unwrap_or(Status::OK), may_lack_data, copies),
            Op::Take => self.take(status, may_lack_data, copies),
        }
    }

    fn look(&mut self, status: Option<Status>, copies: u8) -> Step {
        if status != Some(Status::NOT_OK) {
            return Step::Pass;
        }
        self.outcome = Outcome::Open(Status::NOT_OK);
        self.count(copies, Step::Pass)
    }

    fn store(&mut self, status: Status, copies: u8) -> Step {
        if self.outcome == Outcome::Nothing {
            if status != Status::OK {
                return Step::Pass;
            }
            self.outcome = Outcome::Settled(Status::OK);
            return self.count(copies, Step::Finish);
        }
        match (self.op, status) {
            (Op::Remove, _) => Step::Again(Op::Add),
            // It is a proxy that does not know the level of its own server.
            (Op::Put, Status::UNSUPPORTED) => Step::Again(Op::Remove),
            (Op::Add, Status::ADD_EXISTS) if !self.repaired => {
                self.repaired = true;
                Step::Again(Op::Remove)
            }
            _ => self.count(copies, Step::Finish),
        }
    }

    fn forget(&mut self, status: Status, may_lack_data: bool, copies: u8) -> Step {
        let final_word = status == Status::OK || !may_lack_data;
        self.outcome = match self.outcome {
            Outcome::Nothing if final_word => Outcome::Settled(status),
            Outcome::Nothing => Outcome::Open(status),
            Outcome::Open(_) if status == Status::OK => Outcome::Settled(status),
            outcome => outcome,
        };
        self.count(copies, Step::Finish)
    }

    fn take(&mut self, status: Option<Status>, may_lack_data: bool, copies: u8) -> Step {
        match (self.op, status) {
            (Op::Remove, _) => self.count(copies, Step::Finish),
            (_, None) => {
                self.outcome = Outcome::Session;
                match self.count(copies, Step::Pass) {
                    Step::Next => Step::Hold,
                    step => step,
                }
            }
            (_, Some(Status::NOT_OK)) if may_lack_data => {
                self.outcome = Outcome::Open(Status::NOT_OK);
                self.count(copies, Step::Pass)
            }
            _ => Step::Pass,
        }
    }

    /// Counts one more server that has answered: `last` if it is the last one.
    fn count(&mut self, copies: u8, last: Step) -> Step {
        self.answered = self.answered.saturating_add(1);
        if self.answered >= copies { last } else { Step::Next }
    }
}

impl Aim {
    /// The aim of a new request, with the [`hash`](super::upstream::hash) of its id.
    #[inline]
    pub(super) const fn new(op: Op, id: u64) -> Self {
        Self { id, visited: 0, changes: op.changes() }
    }

    #[inline]
    pub(super) const fn has_visited(&self, server: u8) -> bool {
        self.visited & bit(server) != 0
    }

    /// The same without this server.
    pub(super) const fn without(mut self, server: u8) -> Self {
        self.visited |= bit(server);
        self
    }
}

const fn bit(server: u8) -> u32 {
    match 1_u32.checked_shl(server as u32) {
        Some(bit) => bit,
        None => 0,
    }
}
