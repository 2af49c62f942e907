//! What clients may count on: that a session is there until somebody has it taken away, and that one
//! that is taken is taken once.
//!
//! A client knows little of what the others do at the same time. So there is a promise for an id only
//! from the answer to a request that stored a session while nobody else was changing the id, until
//! somebody begins to change it; and none any more where a change was lost with its connection, for
//! that may still be carried out at any time.

use crate::ask::Ask;
use distcache_core::time::Instant;
use distcache_core::wire::Op;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What held of an id when a request was made.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    made: Instant,
    /// A session is there until then.
    until: Option<Instant>,
    /// How many changes had begun by then, with this one.
    changes: u64,
    /// Which session it is, where it is there.
    version: u64,
    /// No other change was on its way.
    alone: bool,
}

impl Promise {
    /// Nothing.
    pub const NONE: Self =
        Self { made: Instant::ORIGIN, until: None, changes: 0, version: 0, alone: false };

    /// When the request was made.
    pub const fn made(&self) -> Instant {
        self.made
    }
}

#[derive(Debug, Default)]
struct Word {
    changes: u64,
    /// Changes on their way.
    open: u64,
    until: Option<Instant>,
    /// Which session it is; 0 where that is not certain.
    version: u64,
}

/// What holds in a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// Nothing that happens is a reason for a session to be missing.
    pub keeps: bool,
    /// Proxies write sessions to more than one server.
    pub copies: bool,
    /// There is one proxy before the servers, so it knows of every server that is away.
    pub sole: bool,
    /// A server that comes back has nothing, rather than something old.
    pub fresh: bool,
}

/// What all clients may count on.
#[derive(Debug, Default)]
pub struct Keeper {
    rules: Rules,
    /// A proxy has been without one of its servers.
    pub shaken: bool,
    words: BTreeMap<Rc<[u8]>, Word>,
    taken: BTreeSet<(Rc<[u8]>, u64)>,
}

const fn changes(op: Op) -> bool {
    !matches!(op, Op::Get | Op::Have)
}

/// Which session these bytes are; `None` where there are too few.
fn version(session: &[u8]) -> Option<u64> {
    session.first_chunk().map(|first| u64::from_le_bytes(*first))
}

impl Keeper {
    /// Of a run that keeps to these rules.
    pub fn new(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Somebody is about to send this.
    pub fn ask(&mut self, now: Instant, ask: &mut Ask) {
        let word = self.words.entry(ask.id.clone()).or_default();
        let quiet = word.open == 0;
        let until = word.until.filter(|_| quiet && ask.proxied);
        let version = word.version;
        if changes(ask.op) {
            (word.changes, word.open, word.version) = (word.changes + 1, word.open + 1, 0);
            word.until = match ask.due(now) {
                Some(due) => word.until.map(|until| until.min(due)),
                None => None,
            };
        }
        ask.promise = Promise { made: now, until, changes: word.changes, version, alone: quiet };
    }

    /// A request has ended with this answer.
    ///
    /// # Panics
    /// Where a session is missing that must be there, or where two have taken the same.
    pub fn answer(&mut self, now: Instant, ask: &Ask, payload: &[u8]) {
        let word = self.words.entry(ask.id.clone()).or_default();
        let promise = ask.promise;
        let alone = promise.alone && word.changes == promise.changes;
        if changes(ask.op) {
            word.open = word.open.saturating_sub(1);
        }
        let stored = ask.due(promise.made).filter(|_| alone && ask.proxied && *payload == [0]);
        if let Some(due) = stored {
            // Shorter ones can't be told from a status.
            let version = ask.add.as_ref().and_then(|(_, session)| version(session));
            word.until = Some(due).filter(|_| version.is_some());
            word.version = version.unwrap_or(0);
        }
        let Rules { keeps, copies, sole, fresh } = self.rules;
        let decided = !changes(ask.op) || !self.shaken || sole;
        let there = alone && promise.until.is_some_and(|until| now < until);
        let missing = ask.add.is_none() && *payload == [1];
        assert!(
            !(keeps && there && decided && missing),
            "{ask:02x?} is answered that nothing is there"
        );
        let Some(version) = version(payload) else {
            return;
        };
        let newest = keeps && there && (!self.shaken || (sole && fresh));
        let known = newest && promise.version > 0 && !changes(ask.op);
        assert!(
            !known || version == promise.version,
            "{ask:02x?} is answered with version {version}"
        );
        if ask.op == Op::Take {
            let first = self.taken.insert((ask.id.clone(), version));
            assert!(first || (copies && self.shaken), "{ask:02x?} is taken twice");
        }
    }

    /// A request was lost with its connection, or nobody looks at its answer.
    pub fn lose(&mut self, ask: &Ask) {
        if changes(ask.op) {
            // It stays open.
            self.words.entry(ask.id.clone()).or_default().until = None;
        }
    }
}
