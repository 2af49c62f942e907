//! Knows every request, every execution by a store and every answer, and judges them.
//!
//! A request is known by its operation and id, an ADD by its session too. What a store executes
//! must have been requested, and no more often than that. An answer must be what a store said to
//! that request after it was made, and each execution answers once. An answer claims the earliest
//! execution that fits. Requests are judged in the order in which they end, so this finds a way to
//! match all of them if there is one.

use crate::guarantees::{Guarantees, Rules};
use crate::plan::Plan;
use crate::rank::order;
use crate::request::{Expect, MARK, Request, is_session};
use crate::sealed::unix_time;
use distcache_core::message::Status;
use distcache_core::time::Instant;
use distcache_core::wire::Op;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The operation and the id.
type Name = (u8, Rc<[u8]>);

/// Milliseconds that a request may take if its server is not the stuck one.
const PROMPT: u64 = 10;

/// What an ADD or a PUT stores, and its lifetime.
type Content = Option<(u32, Rc<[u8]>)>;

#[derive(Debug)]
struct Execution {
    serial: u64,
    answer: Rc<[u8]>,
    /// The last second in which the sealed session that it answers with opens.
    expires: Option<u32>,
}

/// The record of a run.
#[derive(Debug, Default)]
pub struct Oracle {
    /// How many executions there were.
    serial: u64,
    versions: u64,
    /// How many servers there are.
    servers: usize,
    /// How many of them a session is written to.
    copies: usize,
    /// The server that hangs, if one does and there are no other faults.
    stuck: Option<usize>,
    /// What was requested and not executed: by server if each executes a copy, and without a
    /// session for operations that store nothing.
    requested: BTreeMap<(usize, Name), Vec<Content>>,
    /// What was executed and not used as an answer.
    executed: BTreeMap<Name, Vec<Execution>>,
    /// What clients may rely on.
    pub guarantees: Guarantees,
    /// Servers tell the truth from now on.
    pub lies_are_over: bool,
    /// Requests that ended with an answer.
    pub answered: u64,
    /// Those of `answered` that a proxy answered because its server was unreachable.
    pub unreachable: u64,
    /// Those of `answered` that a proxy answered because its server may not have the operation.
    pub unsupported: u64,
    /// Requests that ended with their connection.
    pub lost: u64,
    /// How many sessions were stored again by repairs.
    pub repaired: u64,
}

impl Oracle {
    /// Returns a new version for a session, and how many executions there were.
    pub const fn next_version(&mut self) -> (u64, u64) {
        self.versions += 1;
        (self.versions, self.serial)
    }

    /// Creates an empty record for this plan.
    pub fn new(plan: &Plan) -> Self {
        let (copies, stuck) = (usize::from(plan.copies), plan.stuck);
        let (durable, victim) = (plan.durable, plan.victim.is_some());
        let single_proxy =
            plan.nodes.iter().filter(|node| node.upstream_count == plan.servers).count() == 1;
        let breaks = plan.conditions.cuts + plan.conditions.lost_dials + plan.faults.pauses;
        let restarts_empty = !victim || breaks == 0;
        let guarantees = Guarantees::new(Rules {
            durable,
            replicated: copies > 1,
            single_proxy,
            restarts_empty,
            removes_all: plan.servers <= 2 && stuck.is_none() && breaks == 0,
        });
        Self { servers: plan.servers, copies, stuck, guarantees, ..Self::default() }
    }

    /// Records a request that a client is about to send.
    pub fn record_request(&mut self, now: Instant, request: &mut Request) {
        self.guarantees.record_request(now, request);
        if request.expect != Expect::Executed {
            return;
        }
        let copied = self.copies > 1;
        for server in 0..if copied { self.servers } else { 1 } {
            for op in orders(request.op, copied) {
                let content = request.stored().filter(|_| op.stores());
                let name = (server, (*op as u8, request.id.clone()));
                self.requested.entry(name).or_default().push(content);
            }
        }
    }

    /// Records a request that has ended with its connection, or whose answer nobody reads.
    pub fn record_loss(&mut self, request: &Request) {
        self.lost += 1;
        self.guarantees.record_loss(request);
    }

    /// Records that the store of a server has executed this, and answers with `answer`.
    ///
    /// # Panics
    /// If that was not requested.
    pub fn record_execution(
        &mut self,
        server: usize,
        op: Op,
        id: &[u8],
        add: Option<(u32, &[u8])>,
        answer: Rc<[u8]>,
    ) {
        self.record_sealed_execution(server, op, id, add, (answer, None));
    }

    /// As [`Oracle::record_execution`], for a session that opens until the end of a second.
    ///
    /// # Panics
    /// If that was not requested.
    pub fn record_sealed_execution(
        &mut self,
        server: usize,
        op: Op,
        id: &[u8],
        add: Option<(u32, &[u8])>,
        (answer, expires): (Rc<[u8]>, Option<u32>),
    ) {
        self.serial += 1;
        let name = name(op, id);
        let unmarked = id.get(2..4) != Some(&MARK);
        let server = if self.copies > 1 { server } else { 0 };
        let requested = self.requested.get_mut(&(server, name.clone()));
        let found = requested.and_then(|requested| {
            let same = |one: &Content| one.as_ref().map(|(ttl, session)| (*ttl, &**session)) == add;
            let at = requested.iter().position(same)?;
            Some(requested.swap_remove(at))
        });
        assert!(
            unmarked || found.is_some(),
            "the store is asked what no client requested: {op:?} {id:02x?}, {:?} bytes",
            add.map(|(ttl, session)| (ttl, session.len()))
        );
        let serial = self.serial;
        self.executed.entry(name).or_default().push(Execution { serial, answer, expires });
    }

    /// Judges the answer with which a request has ended. With `may_be_unreachable`, a proxy may
    /// have answered that its server is.
    ///
    /// # Panics
    /// If no store gave that answer to it.
    pub fn check_answer(
        &mut self,
        now: Instant,
        request: &Request,
        payload: &[u8],
        may_be_unreachable: bool,
    ) {
        self.answered += 1;
        self.guarantees.check_answer(now, request, payload);
        self.check_prompt(now, request);
        let disconnected = *payload == [Status::DISCONNECTED.0] && may_be_unreachable;
        let unsupported = request.proxied && request.op.level() > 0;
        if unsupported && *payload == [Status::UNSUPPORTED.0] {
            self.unsupported += 1;
            return;
        }
        let right = match request.expect {
            Expect::Fixed(status) => *payload == [status] || disconnected,
            Expect::Executed => self.claim_answer(now, request, payload) || disconnected,
        };
        assert!(
            right,
            "{request:02x?} is answered {:02x?}, {} bytes",
            start(payload),
            payload.len()
        );
        self.unreachable += u64::from(disconnected);
        if payload.len() > 8 {
            assert!(
                matches!(request.op, Op::Get | Op::Take),
                "{request:02x?} is answered with a session"
            );
            assert!(is_session(&request.id, payload), "a session of another id, or damaged");
        }
    }

    /// As [`Oracle::check_answer`], for a client that takes sessions of 2 to 4 bytes for a miss.
    ///
    /// # Panics
    /// If no store gave that answer to it.
    pub fn check_short_answer(
        &mut self,
        now: Instant,
        request: &Request,
        payload: &[u8],
        may_be_unreachable: bool,
    ) {
        let short = |answer: &[u8]| (2..=4).contains(&answer.len());
        let fetches = matches!(request.op, Op::Get | Op::Take);
        if fetches
            && *payload == [Status::NOT_OK.0]
            && self.claim(request, |one| short(&one.answer))
        {
            self.answered += 1;
            self.guarantees.check_answer(now, request, payload);
        } else {
            self.check_answer(now, request, payload, may_be_unreachable);
        }
    }

    /// A request that does not need the stuck server does not wait for it.
    fn check_prompt(&self, now: Instant, request: &Request) {
        let Some(stuck) = self.stuck.filter(|_| request.proxied) else {
            return;
        };
        let waited = now.since(request.guarantee.made());
        // Requests that every server refuses have no id.
        let id = if request.expect == Expect::Executed { &request.id[..] } else { &[] };
        let homes = order(id, 0..self.servers);
        let its_own = homes[..self.copies].contains(&stuck);
        assert!(its_own || waited <= PROMPT, "{request:02x?} has waited for another id's server");
    }

    /// Claims an execution with this answer; or, for a miss, one whose session had expired on its way.
    fn claim_answer(&mut self, now: Instant, request: &Request, payload: &[u8]) -> bool {
        let miss = *payload == [Status::NOT_OK.0];
        let expired = |one: &Execution| one.expires.is_some_and(|end| end < unix_time(now));
        self.claim(request, |one| *one.answer == *payload) || (miss && self.claim(request, expired))
    }

    fn claim(&mut self, request: &Request, fits: impl Fn(&Execution) -> bool) -> bool {
        let name = name(request.op, &request.id);
        let Some(executed) = self.executed.get_mut(&name) else {
            return false;
        };
        let fits = |one: &Execution| one.serial > request.since && fits(one);
        let Some(at) = executed.iter().position(fits) else {
            return false;
        };
        executed.remove(at);
        true
    }
}

/// Returns what a store sees: for TAKE a GET and, on a hit, a REMOVE.
fn name(op: Op, id: &[u8]) -> Name {
    let op = if op == Op::Take { Op::Get } else { op };
    (op as u8, Rc::from(id))
}

/// Returns what stores may be asked because a client asks for this; with `copied`, each of them.
const fn orders(op: Op, copied: bool) -> &'static [Op] {
    match (op, copied) {
        (Op::Add, false) => &[Op::Add],
        (Op::Put, false) => &[Op::Put],
        (Op::Add | Op::Put, true) => &[Op::Add, Op::Add, Op::Put, Op::Remove],
        (Op::Get, _) => &[Op::Get],
        (Op::Remove, _) => &[Op::Remove],
        (Op::Have, _) => &[Op::Have],
        (Op::Take, _) => &[Op::Get, Op::Remove],
        (Op::Fetch | Op::Repair | Op::Copy, _) => &[],
    }
}

fn start(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(24)]
}
