//! Which way requests leave a proxy: to the best servers for their id, in the order of their rank,
//! and in words that each server is known to understand.
//!
//! A request may have to wait for room at its server, and in the meantime a better one may come back.
//! Or it may have waited for a server that was lost before it was sent, and that one counts as tried.
//! So a server is held against another only if it was there already when nothing waited for the
//! other, nor for the first one that was asked.

use crate::rank::rank;
use distcache_core::wire::Op;
use distcache_testing::bytes::{ADD, PUT, REMOVE, TAKE, messages};
use std::collections::BTreeMap;

/// What is known of a server, in thoughts of the proxy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark {
    /// Which node it is.
    pub node: usize,
    /// When it was connected; `None` where it is not.
    pub since: Option<u64>,
    /// When it last was connected and nothing waited for it.
    pub clear: Option<u64>,
    /// It has answered on this connection.
    pub heard: bool,
    /// It has no operations but the first four.
    pub old: bool,
}

/// Where a request has been.
#[derive(Debug, Default)]
struct Visits {
    /// When nothing waited for the first server.
    begun: Option<u64>,
    /// Server after server, and what each was asked for.
    asked: Vec<(usize, u8)>,
}

/// The requests of one proxy.
#[derive(Debug, Default)]
pub struct Route {
    /// Its servers, in its own order.
    pub marks: Vec<Mark>,
    /// A request has set out while not all servers were connected.
    pub shaken: bool,
    copies: usize,
    visits: BTreeMap<u32, Visits>,
}

impl Route {
    /// Of a proxy that writes so many copies to these servers, and whether they are old.
    pub fn new(servers: impl Iterator<Item = (usize, bool)>, copies: u8) -> Self {
        let mark = |(node, old)| Mark { node, old, ..Mark::default() };
        let copies = usize::from(copies.max(1));
        let marks = servers.map(mark).collect();
        Self { marks, shaken: false, copies, visits: BTreeMap::new() }
    }

    /// The proxy has put these bytes into the outbox of server `number`: whole requests.
    ///
    /// # Panics
    /// Where one should have gone elsewhere, or be another.
    pub fn follow(&mut self, number: usize, bytes: &[u8]) {
        let levels = crate::scan::levels(bytes);
        assert!(levels.iter().all(|level| *level == 1), "a proxy speaks at {levels:?}");
        self.shaken |= self.marks.iter().any(|mark| mark.since.is_none());
        for (uid, op, payload) in messages(bytes) {
            let mark = self.marks[number];
            let known = op < PUT || (mark.heard && !mark.old);
            assert!(known, "operation {op} goes to a server that is not known to have it");
            let visits = self.visits.entry(uid).or_default();
            if visits.asked.is_empty() {
                visits.begun = mark.clear;
            }
            visits.asked.push((number, op));
            let clear = mark.clear.min(visits.begun);
            let been = |other: usize| visits.asked.iter().any(|(visited, _)| *visited == other);
            let id = id_of(op, &payload);
            let better = |other: &usize| {
                let there = self.marks[*other].since.zip(clear);
                let fair = there.is_some_and(|(since, clear)| since <= clear);
                fair && !been(*other) && rank(id, self.marks[*other].node) > rank(id, mark.node)
            };
            let better = (0..self.marks.len()).find(better);
            assert_eq!(better, None, "{id:02x?} goes to server {number} and not to this one");
            self.check_visits(uid);
        }
    }

    /// What a request asks for in one place after the other.
    fn check_visits(&self, uid: u32) {
        let visits = &self.visits[&uid].asked;
        assert!(self.copies > 1 || visits.len() == 1, "one copy, but it visits {visits:?}");
        let servers = visits.chunk_by(|(one, _), (other, _)| one == other);
        let mut seen = Vec::new();
        for (place, stay) in servers.enumerate() {
            let (server, _) = stay[0];
            assert!(!seen.contains(&server), "it comes back: {visits:?}");
            seen.push(server);
            let ops: Vec<u8> = stay.iter().map(|(_, op)| *op).collect();
            let first = visits[0].1;
            let right = match (first, &ops[..]) {
                (ADD | PUT, [ADD | PUT]) => true,
                // What stands in the way of a copy is removed first.
                (ADD | PUT, [ADD, REMOVE] | [ADD, REMOVE, ADD]) => place > 0,
                (TAKE, [REMOVE]) => place > 0,
                (first, [op]) => first == *op,
                _ => false,
            };
            assert!(right, "it asks for {visits:?}");
        }
    }
}

/// The id that a request is about.
fn id_of(op: u8, payload: &[u8]) -> &[u8] {
    if op != Op::Add as u8 && op != Op::Put as u8 {
        return payload;
    }
    let (fixed, rest) = payload.split_at(8);
    let len = fixed[4..].iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
    rest.get(..len).unwrap_or(rest)
}
