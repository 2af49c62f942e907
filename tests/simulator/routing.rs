//! Checks where requests leave a proxy: for the best servers for their id, in the order of rank,
//! and with operations that each server is known to have.
//!
//! A request may have to wait for room at its server, and a better server may come back meanwhile.
//! Or its server may be lost before the request is sent, and that counts as a visit. So a server
//! counts as passed over only if it was up already when nothing waited for the server that is
//! asked, nor for the first one.

use crate::rank::rank;
use distcache_core::time::Instant;
use distcache_core::wire::Op;
use distcache_testing::bytes::{ADD, FETCH, GET, HAVE, PUT, REMOVE, REPAIR, TAKE, messages};
use std::collections::BTreeMap;

/// How long a server has for a GET or HAVE before a second one is asked, in milliseconds.
const HEDGE_AFTER: u64 = 50;

/// What is known of a server. Times are counted in calls of the proxy's `advance`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerView {
    /// Which node it is.
    pub node: usize,
    /// When it first answered on its connection; `None` if it has not. Moved forward if it was
    /// skipped as full.
    pub since: Option<u64>,
    /// When it was last connected with nothing waiting for it.
    pub last_idle: Option<u64>,
    /// It has answered on this connection.
    pub answered_probe: bool,
    /// It has only the operations of level 0.
    pub level_zero: bool,
}

impl ServerView {
    /// Resets it: there is a new connection, and no answer yet.
    pub const fn connected(&mut self) {
        (self.since, self.last_idle, self.answered_probe) = (None, None, false);
    }
}

/// The servers that a request has visited.
#[derive(Debug, Default)]
struct Visits {
    /// When nothing waited for the first server.
    begun: Option<u64>,
    /// The servers in order, and the operation that each was asked.
    asked: Vec<(usize, u8)>,
    /// Servers that it may have visited under another uid.
    maybe: Vec<usize>,
    /// Its id, and when the last server was asked; `None` once one has answered.
    open: Option<(Vec<u8>, Instant)>,
}

/// The requests of one proxy.
#[derive(Debug, Default)]
pub struct RoutingCheck {
    /// Its servers, in its own order.
    pub views: Vec<ServerView>,
    /// A request was sent while not all servers were connected.
    pub degraded: bool,
    copies: usize,
    visits: Vec<Visits>,
    /// Which of `visits` a uid belongs to. A request that two servers are asked at a time has two
    /// uids.
    uids: BTreeMap<u32, usize>,
}

impl RoutingCheck {
    /// Creates the check of a proxy that writes `copies` copies to these servers. Each has its node
    /// and whether it is at level 0.
    pub fn new(servers: impl Iterator<Item = (usize, bool)>, copies: u8) -> Self {
        let view = |(node, level_zero)| ServerView { node, level_zero, ..ServerView::default() };
        let copies = usize::from(copies.max(1));
        let views = servers.map(view).collect();
        Self { views, degraded: false, copies, visits: Vec::new(), uids: BTreeMap::new() }
    }

    /// Checks whole requests that the proxy has put into the outbox of server `number`.
    ///
    /// # Panics
    /// If one should be another, or for another server.
    pub fn check_requests(&mut self, now: Instant, number: usize, bytes: &[u8]) {
        let levels = crate::framing::levels(bytes);
        assert!(levels.iter().all(|level| *level == 2), "a proxy sends at levels {levels:?}");
        self.degraded |= self.views.iter().any(|view| view.since.is_none());
        for (uid, op, payload) in messages(bytes) {
            let view = self.views[number];
            assert!(
                view.answered_probe,
                "server {number} is asked {op} before it has answered the probe"
            );
            let known = op < PUT || (view.answered_probe && !view.level_zero);
            assert!(known, "operation {op} goes to a server that is not known to have it");
            if op == REPAIR {
                // The proxy's own, and for a server that has missed the session.
                assert!(self.copies > 1, "a repair without copies");
                continue;
            }
            // A GET is sent as FETCH where a miss may be repaired.
            assert!(op != FETCH || self.copies > 1, "a FETCH without copies");
            let op = if op == FETCH { GET } else { op };
            let id = id_of(op, &payload);
            let at = match self.uids.get(&uid) {
                Some(at) => *at,
                None => self.first_visit(now, uid, number, op, id),
            };
            let visits = &mut self.visits[at];
            if visits.asked.is_empty() {
                visits.begun = view.last_idle;
            }
            visits.open = Some((id.to_vec(), now));
            visits.asked.push((number, op));
            let last_idle = view.last_idle.min(visits.begun);
            let been = |other: usize| {
                let asked = visits.asked.iter().any(|(visited, _)| *visited == other);
                asked || visits.maybe.contains(&other)
            };
            let better = |other: &usize| {
                let there = self.views[*other].since.zip(last_idle);
                let fair = there.is_some_and(|(since, last_idle)| since <= last_idle);
                fair && !been(*other) && rank(id, self.views[*other].node) > rank(id, view.node)
            };
            let better = (0..self.views.len()).find(better);
            assert_eq!(better, None, "{id:02x?} goes to server {number} instead of a better one");
            self.check_visits(at);
        }
    }

    /// Records that a server has answered under this uid, and the proxy has seen it.
    pub fn answered(&mut self, uid: u32) {
        if let Some(at) = self.uids.get(&uid) {
            self.visits[*at].open = None;
        }
    }

    /// Records that the connection to a server is lost: nothing waits for it any more.
    pub fn server_lost(&mut self, number: usize) {
        let its = |visits: &&mut Visits| visits.asked.last().is_some_and(|last| last.0 == number);
        self.visits.iter_mut().filter(its).for_each(|visits| visits.open = None);
    }

    /// Finds the request of a new uid. It may be that of a request that one better server has had
    /// for a while: only operations that change nothing are asked twice.
    fn first_visit(&mut self, now: Instant, uid: u32, number: usize, op: u8, id: &[u8]) -> usize {
        let rank = |number: usize| rank(id, self.views[number].node);
        let twin = |visits: &Visits| {
            let (Some((same, at)), Some((last, asked))) = (&visits.open, visits.asked.last())
            else {
                return false;
            };
            let late = now.since(*at) >= HEDGE_AFTER;
            same == id && *asked == op && late && rank(*last) > rank(number)
        };
        let last_idle = self.views[number].last_idle;
        let there = |view: &ServerView| {
            view.since.zip(last_idle).is_some_and(|(since, last_idle)| since <= last_idle)
        };
        let passed_over =
            (0..self.views.len()).any(|at| there(&self.views[at]) && rank(at) > rank(number));
        let hedges = self.copies > 1 && [GET, HAVE].contains(&op);
        let mut recent = self.visits.iter().enumerate().rev().take(500).filter(|_| hedges);
        let twin = recent.find_map(|(at, visits)| twin(visits).then_some(at));
        if let Some(twin) = twin.filter(|_| !passed_over) {
            // It may also be a request of its own, if the better server was full or down.
            self.visits[twin].maybe.push(number);
        }
        let at = twin.filter(|_| passed_over).unwrap_or(self.visits.len());
        if at == self.visits.len() {
            self.visits.push(Visits::default());
        }
        self.uids.insert(uid, at);
        at
    }

    /// Checks the operations of a request at one server after the other.
    fn check_visits(&self, at: usize) {
        let visits = &self.visits[at].asked;
        assert!(self.copies > 1 || visits.len() == 1, "one copy, but it visits {visits:?}");
        let servers = visits.chunk_by(|(one, _), (other, _)| one == other);
        let mut seen = Vec::new();
        for (place, per_connection) in servers.enumerate() {
            let (server, _) = per_connection[0];
            assert!(!seen.contains(&server), "a server is visited again: {visits:?}");
            seen.push(server);
            let ops: Vec<u8> = per_connection.iter().map(|(_, op)| *op).collect();
            let first = visits[0].1;
            let right = match (first, &ops[..]) {
                (ADD | PUT, [ADD | PUT]) => true,
                // An old session in the place of a copy is removed first.
                (ADD | PUT, [ADD, REMOVE] | [ADD, REMOVE, ADD]) => place > 0,
                (TAKE, [REMOVE]) => place > 0,
                (first, [op]) => first == *op,
                _ => false,
            };
            assert!(right, "wrong operations: {visits:?}");
        }
    }
}

/// Returns the id of a request: empty if every server refuses it.
fn id_of(op: u8, payload: &[u8]) -> &[u8] {
    if op != Op::Add as u8 && op != Op::Put as u8 {
        return if payload.len() > 64 { &[] } else { payload };
    }
    let (fixed, rest) = payload.split_at(8);
    let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | usize::from(*byte));
    let (ttl, len) = (word(&fixed[..4]), word(&fixed[4..]));
    let lawful = ttl <= 604_800_000 && len <= 64 && len < rest.len();
    if lawful { &rest[..len] } else { &[] }
}
