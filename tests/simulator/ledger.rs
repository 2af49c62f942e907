//! The book of all requests: who asked for what, what a store did, which answers came.
//!
//! A request is known by its operation and id, an ADD by its session too. What a store executes
//! must have been asked for, and no more often than that; an answer must be what a store said to
//! that request, after it was asked, and each execution answers once. Answers claim the earliest
//! execution that fits: requests are judged in the order in which they end, so if there is any way
//! to match all of them, this finds it.

use crate::ask::{Ask, Expect, MARK, is_session};
use distcache_core::message::Status;
use distcache_core::wire::Op;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The operation and the id.
type Name = (u8, Rc<[u8]>);

/// What an ADD stores, and for how long.
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
    /// What was asked for and not executed; for what is no ADD, without a session.
    asked: BTreeMap<Name, Vec<Content>>,
    /// What was executed and not answered.
    executed: BTreeMap<Name, Vec<Execution>>,
    /// Requests that ended with an answer.
    pub answered: u64,
    /// Those of `answered` that a proxy answered because its server was away.
    pub away: u64,
    /// Requests that ended with their connection.
    pub lost: u64,
}

impl Ledger {
    /// A version that no session has had, and the serial of now.
    pub const fn next(&mut self) -> (u64, u64) {
        self.versions += 1;
        (self.versions, self.serial)
    }

    /// A client is about to send this.
    pub fn ask(&mut self, ask: &Ask) {
        if ask.expect == Expect::Executed {
            let name = (ask.op as u8, ask.id.clone());
            self.asked.entry(name).or_default().push(ask.add.clone());
        }
    }

    /// A store has executed this, and the answer to it is to be `answer`.
    ///
    /// # Panics
    /// Where nobody had asked for that.
    pub fn execute(&mut self, op: Op, id: &[u8], add: Option<(u32, &[u8])>, answer: Rc<[u8]>) {
        self.serial += 1;
        let name: Name = (op as u8, Rc::from(id));
        let wild = id.get(2..4) != Some(&MARK);
        let asked = self.asked.get_mut(&name);
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
    pub fn answer(&mut self, ask: &Ask, payload: &[u8], away: bool) {
        self.answered += 1;
        let disconnected = *payload == [Status::DISCONNECTED.0] && away;
        let right = match ask.expect {
            Expect::Fixed(status) => *payload == [status] || disconnected,
            Expect::Executed => self.claim(ask, |answer| *answer == *payload) || disconnected,
        };
        assert!(right, "{ask:02x?} is answered {:02x?}, {} bytes", start(payload), payload.len());
        self.away += u64::from(disconnected);
        if ask.op == Op::Get && payload.len() > 8 {
            assert!(is_session(&ask.id, payload), "a session of another id, or spoilt");
        }
    }

    /// As [`Ledger::answer`], for a client that takes sessions of 2 to 4 bytes for none.
    ///
    /// # Panics
    /// Where no store has said that to it.
    pub fn answer_short(&mut self, ask: &Ask, payload: &[u8], away: bool) {
        let short = |answer: &[u8]| (2..=4).contains(&answer.len());
        if ask.op == Op::Get && *payload == [Status::NOT_OK.0] && self.claim(ask, short) {
            self.answered += 1;
        } else {
            self.answer(ask, payload, away);
        }
    }

    fn claim(&mut self, ask: &Ask, fits: impl Fn(&[u8]) -> bool) -> bool {
        let name = (ask.op as u8, ask.id.clone());
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

fn start(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(24)]
}
