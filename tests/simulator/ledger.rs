//! The book of all requests: who asked for what, what a store did, which answers came.
//!
//! A request is known by its operation and id, an ADD by its session too. What a store executes
//! must have been asked for, and no more often than that; an answer must be what a store said to
//! that request, after it was asked, and each execution answers once. Answers claim the earliest
//! execution that fits: requests are judged in the order in which they end, so if there is any way
//! to match all of them, this finds it.

use crate::ask::{Ask, Expect, MARK, is_session};
use crate::keeper::{Keeper, Rules};
use crate::plan::Plan;
use crate::rank::order;
use distcache_core::message::Status;
use distcache_core::time::Instant;
use distcache_core::wire::Op;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The operation and the id.
type Name = (u8, Rc<[u8]>);

/// Milliseconds that a request takes at most whose server is not the one that is stuck.
const PROMPT: u64 = 10;

/// What an ADD or a PUT stores, and for how long.
type Content = Option<(u32, Rc<[u8]>)>;

#[derive(Debug)]
struct Execution {
    serial: u64,
    answer: Rc<[u8]>,
}

/// The book.
#[derive(Debug, Default)]
pub struct Ledger {
    /// How much was executed.
    serial: u64,
    versions: u64,
    /// How many servers there are.
    servers: usize,
    /// How many of them a session is written to.
    copies: usize,
    /// The one that does nothing, where all else is well.
    stuck: Option<usize>,
    /// What was asked for and not executed, by server where each is asked for its own copy; for what
    /// stores nothing, without a session.
    asked: BTreeMap<(usize, Name), Vec<Content>>,
    /// What was executed and not answered.
    executed: BTreeMap<Name, Vec<Execution>>,
    /// What clients may count on.
    pub keeper: Keeper,
    /// Requests that ended with an answer.
    pub answered: u64,
    /// Those of `answered` that a proxy answered because its server was away.
    pub away: u64,
    /// Those of `answered` that a proxy answered because its server may not have the operation.
    pub unsupported: u64,
    /// Requests that ended with their connection.
    pub lost: u64,
}

impl Ledger {
    /// A version that no session has had, and the serial of now.
    pub const fn next(&mut self) -> (u64, u64) {
        self.versions += 1;
        (self.versions, self.serial)
    }

    /// An empty one, for what this plan decides.
    pub fn new(plan: &Plan) -> Self {
        let (copies, stuck) = (usize::from(plan.copies), plan.stuck);
        let (keeps, victim) = (plan.keeps, plan.victim.is_some());
        let sole = plan.nodes.iter().filter(|node| node.links == plan.servers).count() == 1;
        let fresh = !victim || plan.wire.cuts + plan.wire.lost_dials + plan.faults.freezes == 0;
        let keeper = Keeper::new(Rules { keeps, copies: copies > 1, sole, fresh });
        Self { servers: plan.servers, copies, stuck, keeper, ..Self::default() }
    }

    /// A client is about to send this.
    pub fn ask(&mut self, now: Instant, ask: &mut Ask) {
        self.keeper.ask(now, ask);
        if ask.expect != Expect::Executed {
            return;
        }
        let copied = self.copies > 1;
        for server in 0..if copied { self.servers } else { 1 } {
            for op in orders(ask.op, copied) {
                let content = ask.stored().filter(|_| op.stores());
                let name = (server, (*op as u8, ask.id.clone()));
                self.asked.entry(name).or_default().push(content);
            }
        }
    }

    /// A request has ended with its connection, or nobody will look at its answer.
    pub fn lose(&mut self, ask: &Ask) {
        self.lost += 1;
        self.keeper.lose(ask);
    }

    /// The store of a server has executed this, and the answer to it is to be `answer`.
    ///
    /// # Panics
    /// Where nobody had asked for that.
    pub fn execute(
        &mut self,
        server: usize,
        op: Op,
        id: &[u8],
        add: Option<(u32, &[u8])>,
        answer: Rc<[u8]>,
    ) {
        self.serial += 1;
        let name = name(op, id);
        let wild = id.get(2..4) != Some(&MARK);
        let server = if self.copies > 1 { server } else { 0 };
        let asked = self.asked.get_mut(&(server, name.clone()));
        let found = asked.and_then(|asked| {
            let same = |one: &Content| one.as_ref().map(|(ttl, session)| (*ttl, &**session)) == add;
            let at = asked.iter().position(same)?;
            Some(asked.swap_remove(at))
        });
        assert!(
            wild || found.is_some(),
            "the store is asked what nobody asks: {op:?} {id:02x?}, {:?} bytes",
            add.map(|(ttl, session)| (ttl, session.len()))
        );
        let serial = self.serial;
        self.executed.entry(name).or_default().push(Execution { serial, answer });
    }

    /// A request has ended with this answer. With `away`, a proxy may have said that its server is.
    ///
    /// # Panics
    /// Where no store has said that to it.
    pub fn answer(&mut self, now: Instant, ask: &Ask, payload: &[u8], away: bool) {
        self.answered += 1;
        self.keeper.answer(now, ask, payload);
        self.check_prompt(now, ask);
        let disconnected = *payload == [Status::DISCONNECTED.0] && away;
        let unsupported = ask.proxied && ask.op.level() > 0;
        if unsupported && *payload == [Status::UNSUPPORTED.0] {
            self.unsupported += 1;
            return;
        }
        let right = match ask.expect {
            Expect::Fixed(status) => *payload == [status] || disconnected,
            Expect::Executed => self.claim(ask, |answer| *answer == *payload) || disconnected,
        };
        assert!(right, "{ask:02x?} is answered {:02x?}, {} bytes", start(payload), payload.len());
        self.away += u64::from(disconnected);
        if payload.len() > 8 {
            assert!(matches!(ask.op, Op::Get | Op::Take), "{ask:02x?} is answered with a session");
            assert!(is_session(&ask.id, payload), "a session of another id, or spoilt");
        }
    }

    /// As [`Ledger::answer`], for a client that takes sessions of 2 to 4 bytes for none.
    ///
    /// # Panics
    /// Where no store has said that to it.
    pub fn answer_short(&mut self, now: Instant, ask: &Ask, payload: &[u8], away: bool) {
        let short = |answer: &[u8]| (2..=4).contains(&answer.len());
        let fetches = matches!(ask.op, Op::Get | Op::Take);
        if fetches && *payload == [Status::NOT_OK.0] && self.claim(ask, short) {
            self.answered += 1;
            self.keeper.answer(now, ask, payload);
        } else {
            self.answer(now, ask, payload, away);
        }
    }

    /// Who asks for what the stuck server does not hold is not kept waiting.
    fn check_prompt(&self, now: Instant, ask: &Ask) {
        let Some(stuck) = self.stuck.filter(|_| ask.proxied) else {
            return;
        };
        let waited = now.since(ask.promise.made());
        // Requests that every server refuses have no id.
        let id = if ask.expect == Expect::Executed { &ask.id[..] } else { &[] };
        let homes = order(id, 0..self.servers);
        let its_own = homes[..self.copies].contains(&stuck);
        assert!(its_own || waited <= PROMPT, "{ask:02x?} has waited for another's server");
    }

    fn claim(&mut self, ask: &Ask, fits: impl Fn(&[u8]) -> bool) -> bool {
        let name = name(ask.op, &ask.id);
        let Some(executed) = self.executed.get_mut(&name) else {
            return false;
        };
        let fits = |one: &Execution| one.serial > ask.since && fits(&one.answer);
        let Some(at) = executed.iter().position(fits) else {
            return false;
        };
        executed.remove(at);
        true
    }
}

/// What a store sees of a TAKE is a GET and, where that finds something, a REMOVE.
fn name(op: Op, id: &[u8]) -> Name {
    let op = if op == Op::Take { Op::Get } else { op };
    (op as u8, Rc::from(id))
}

/// What a store may be asked for because a client asks for this; with copies, each of them.
const fn orders(op: Op, copied: bool) -> &'static [Op] {
    match (op, copied) {
        (Op::Add, false) => &[Op::Add],
        (Op::Put, false) => &[Op::Put],
        (Op::Add | Op::Put, true) => &[Op::Add, Op::Add, Op::Put, Op::Remove],
        (Op::Get, _) => &[Op::Get],
        (Op::Remove, _) => &[Op::Remove],
        (Op::Have, _) => &[Op::Have],
        (Op::Take, _) => &[Op::Get, Op::Remove],
    }
}

fn start(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(24)]
}
