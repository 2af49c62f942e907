//! What clients may rely on: a stored session is there until a client has it removed, and a session
//! is taken at most once.
//!
//! A client knows little of what the others do at the same time. So an id has a guarantee only
//! after the answer to a request that stored a session while no other change of the id was in
//! progress, and until the next change begins. If a change is lost with its connection, the
//! guarantee ends, since the change may still be executed at any time.

use crate::request::Request;
use distcache_core::time::Instant;
use distcache_core::wire::Op;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What is guaranteed of an id when a request is made.
#[derive(Clone, Copy, Debug)]
pub struct Guarantee {
    made: Instant,
    /// A session is there until then.
    until: Option<Instant>,
    /// How many changes had begun by then, including this one.
    changes: u64,
    /// Which session it is, if it is there.
    version: u64,
    /// No other change was in progress.
    exclusive: bool,
}

impl Guarantee {
    /// No guarantee.
    pub const NONE: Self =
        Self { made: Instant::ORIGIN, until: None, changes: 0, version: 0, exclusive: false };

    /// Returns when the request was made.
    pub const fn made(&self) -> Instant {
        self.made
    }
}

#[derive(Debug, Default)]
struct IdState {
    changes: u64,
    /// Changes that have begun and not ended.
    in_progress: u64,
    until: Option<Instant>,
    /// Which session it is; 0 if that is not certain.
    version: u64,
}

/// What a run guarantees.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// No fault of the run may lose a session.
    pub durable: bool,
    /// Proxies write sessions to more than one server.
    pub replicated: bool,
    /// One proxy is in front of all servers, so it knows of every server that is unreachable.
    pub single_proxy: bool,
    /// A server that comes back is empty, instead of having old sessions.
    pub restarts_empty: bool,
    /// No copy stays where a REMOVE or TAKE does not get: there is no third server, and no connection
    /// breaks unless its server ends.
    pub removes_all: bool,
}

/// What all clients may rely on.
#[derive(Debug, Default)]
pub struct Guarantees {
    rules: Rules,
    /// A proxy has been without one of its servers.
    pub degraded: bool,
    ids: BTreeMap<Rc<[u8]>, IdState>,
    /// What was taken, and when the client had it.
    taken: BTreeMap<(Rc<[u8]>, u64), Instant>,
}

const fn changes(op: Op) -> bool {
    !matches!(op, Op::Get | Op::Have)
}

/// Returns the version in the bytes of a session; `None` if there are too few.
fn version(session: &[u8]) -> Option<u64> {
    session.first_chunk().map(|first| u64::from_le_bytes(*first))
}

impl Guarantees {
    /// Creates the guarantees of a run with these rules.
    pub fn new(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Records a request that is about to be sent.
    pub fn record_request(&mut self, now: Instant, request: &mut Request) {
        let state = self.ids.entry(request.id.clone()).or_default();
        let quiet = state.in_progress == 0;
        let until = state.until.filter(|_| quiet && request.proxied);
        let version = state.version;
        if changes(request.op) {
            (state.changes, state.in_progress, state.version) =
                (state.changes + 1, state.in_progress + 1, 0);
            state.until = match request.due(now) {
                Some(due) => state.until.map(|until| until.min(due)),
                None => None,
            };
        }
        request.guarantee =
            Guarantee { made: now, until, changes: state.changes, version, exclusive: quiet };
    }

    /// Records that a request has ended with this answer.
    ///
    /// # Panics
    /// If a session is missing that must be there, or has been taken twice.
    pub fn check_answer(&mut self, now: Instant, request: &Request, payload: &[u8]) {
        let state = self.ids.entry(request.id.clone()).or_default();
        let guarantee = request.guarantee;
        let exclusive = guarantee.exclusive && state.changes == guarantee.changes;
        if changes(request.op) {
            state.in_progress = state.in_progress.saturating_sub(1);
        }
        let stored =
            request.due(guarantee.made).filter(|_| exclusive && request.proxied && *payload == [0]);
        if let Some(due) = stored {
            // Shorter sessions cannot be told from a status.
            let version = request.add.as_ref().and_then(|(_, session)| version(session));
            state.until = Some(due).filter(|_| version.is_some());
            state.version = version.unwrap_or(0);
        }
        let Rules { durable, replicated, single_proxy, restarts_empty, removes_all } = self.rules;
        let decided = !changes(request.op) || !self.degraded || single_proxy;
        let there = exclusive && guarantee.until.is_some_and(|until| now < until);
        let missing = request.add.is_none() && *payload == [1];
        assert!(
            !(durable && there && decided && missing),
            "{request:02x?} is answered that there is no session"
        );
        let Some(version) = version(payload) else {
            return;
        };
        let newest = durable && there && (!self.degraded || (single_proxy && restarts_empty));
        let known = newest && guarantee.version > 0 && !changes(request.op);
        assert!(
            !known || version == guarantee.version,
            "{request:02x?} is answered with version {version}"
        );
        let before = self.taken.get(&(request.id.clone(), version));
        let over = before.is_some_and(|taken| *taken < guarantee.made);
        let never_again = single_proxy && restarts_empty && removes_all && request.proxied;
        assert!(!(never_again && over), "{request:02x?} is answered with what was taken");
        if request.op == Op::Take {
            let taken = (request.id.clone(), version);
            let first = self.taken.insert(taken, now).is_none();
            assert!(first || (replicated && self.degraded), "{request:02x?} is taken twice");
        }
    }

    /// Records a request that was lost with its connection, or whose answer nobody reads.
    pub fn record_loss(&mut self, request: &Request) {
        if changes(request.op) {
            // The change stays in progress.
            self.ids.entry(request.id.clone()).or_default().until = None;
        }
    }
}
