//! The real table beside a plain map: every operation is done on both and compared at once.
//!
//! The map knows what was stored and when it expires. A session may be missing from the table only
//! because it was removed, because it has expired, or because it was among the oldest of its
//! lifetime class when an ADD needed room, and then no more sessions than needed are missing.

use crate::oracle::Oracle;
use crate::request::is_session;
use crate::sealed;
use distcache_core::id::Id;
use distcache_core::message::Status;
use distcache_core::server::{Fetch, Store};
use distcache_core::table::{Layout, Line, Table};
use distcache_core::time::Instant;
use distcache_core::wire::Op;
use distcache_testing::random::Random;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

struct Stored {
    due: Instant,
    class: usize,
    /// The number of the store operation that created it.
    number: u64,
    session: Rc<[u8]>,
}

/// A table and its model.
pub struct CheckedTable<'m> {
    server: usize,
    table: Table<&'m mut [Line]>,
    layout: Layout,
    /// What is stored. Expired sessions are dropped at every operation.
    model: BTreeMap<Rc<[u8]>, Stored>,
    /// When each id was last removed, taken or replaced, whether it was there or not.
    removed: BTreeMap<Rc<[u8]>, Instant>,
    /// How many sessions have been stored.
    count: u64,
    oracle: Rc<RefCell<Oracle>>,
    /// All sessions must be sealed.
    pub sealed: bool,
    /// It lies about them, as this decides.
    pub lies: Option<Random>,
}

/// Returns how many blocks of 256 bytes a session takes. The first one holds 16 bytes of the
/// table's own.
fn blocks(id: &[u8], session: &[u8]) -> u32 {
    1 + (id.len() + session.len()).saturating_sub(240).div_ceil(256) as u32
}

/// The longest lifetime of each class but the last, in milliseconds.
const CLASSES: [u32; 3] = [300_000, 3_600_000, 21_600_000];

fn class(ttl: u32) -> usize {
    CLASSES.iter().position(|longest| ttl <= *longest).unwrap_or(CLASSES.len())
}

fn status(status: Status) -> Rc<[u8]> {
    Rc::from([status.0])
}

impl<'m> CheckedTable<'m> {
    /// Creates an empty table of this server in `memory`.
    ///
    /// # Panics
    /// If the memory is too small.
    pub fn new(
        memory: &'m mut [u8],
        server: usize,
        layout: Layout,
        key: u64,
        oracle: Rc<RefCell<Oracle>>,
    ) -> Self {
        let key = u128::from(key).to_le_bytes();
        let table = Table::in_memory(layout, key, memory).expect("enough memory");
        let (model, removed) = (BTreeMap::new(), BTreeMap::new());
        let (count, sealed, lies) = (0, false, None);
        Self { server, table, layout, model, removed, count, oracle, sealed, lies }
    }

    /// Returns when a session expires, chosen by `number` modulo their count.
    pub fn due(&self, number: usize) -> Option<Instant> {
        let number = number.checked_rem(self.model.len())?;
        self.model.values().nth(number).map(|stored| stored.due)
    }

    /// Compares every session.
    ///
    /// # Panics
    /// If one is missing or different.
    pub fn audit(&self, now: Instant) {
        let mut out = vec![0; 40_000];
        for (id, stored) in self.model.iter().filter(|(_, stored)| now < stored.due) {
            let id = Id::new(id).expect("a valid id");
            let len = self.table.get(now, id, &mut out);
            assert_eq!(len.map(|len| &out[..len]), Some(&*stored.session), "{id:02x?} is lost");
        }
    }

    fn bounds(&self) {
        assert!(self.table.len() <= self.layout.sessions(), "more sessions than the table holds");
        assert!(self.table.len() as usize >= self.model.len(), "sessions are not counted");
    }

    fn record(&self, op: Op, id: Id<'_>, add: Option<(u32, &[u8])>, answer: Rc<[u8]>) {
        let mut oracle = self.oracle.borrow_mut();
        if !self.sealed {
            return oracle.record_execution(self.server, op, id.bytes(), add, answer);
        }
        let opened = add.map(|(ttl, session)| (ttl, sealed::open(id.bytes(), session)));
        let add = opened.as_ref().map(|(ttl, session)| (*ttl, &**session));
        let answer = match answer.len() {
            1 => (answer, None),
            _ => (sealed::open(id.bytes(), &answer), Some(sealed::expires(&answer))),
        };
        oracle.record_sealed_execution(self.server, op, id.bytes(), add, answer);
    }

    fn live(&mut self, now: Instant, id: Id<'_>) -> Option<&Stored> {
        self.model.retain(|_, stored| now < stored.due);
        self.model.get(id.bytes())
    }

    /// Removes from the model what an ADD that needs `need` blocks has evicted.
    fn follow_evictions(&mut self, now: Instant, ttl: u32, need: u32) {
        let there = |id: &[u8]| self.table.has(now, Id::new(id).expect("a valid id"));
        let gone: Vec<_> = self.model.keys().filter(|id| !there(id)).cloned().collect();
        let gone: Vec<_> = gone.iter().filter_map(|id| self.model.remove_entry(id)).collect();
        if gone.is_empty() {
            return;
        }
        assert!(ttl > 0, "a session was evicted for one that is not stored");
        let held: u32 = self.model.iter().map(|(id, one)| blocks(id, &one.session)).sum();
        let full = self.model.len() + 1 >= self.layout.sessions() as usize;
        let mut needed = false;
        for class in 0..=CLASSES.len() {
            let left = gone.iter().filter(|(_, stored)| stored.class == class);
            let Some((id, last)) = left.max_by_key(|(_, stored)| stored.number) else { continue };
            let stayed = self.model.values().filter(|stored| stored.class == class);
            let first = stayed.map(|stored| stored.number).min();
            assert!(
                first.is_none_or(|first| last.number < first),
                "session {} of class {class} was evicted, and session {first:?} was not",
                last.number
            );
            // The last one evicted of any class may have been the last of all.
            let room = held + blocks(id, &last.session) + need;
            needed |= full || room > self.layout.blocks();
        }
        assert!(needed, "a session was evicted although there was room");
    }

    /// What it returns instead of a session, if it lies.
    fn lie(&mut self, id: Id<'_>, session: &[u8]) -> Option<Vec<u8>> {
        let honest = !self.sealed || self.oracle.borrow().lies_are_over;
        let random = self.lies.as_mut().filter(|_| !honest)?;
        let number = random.below(self.model.len());
        let other = self.model.iter().nth(number).filter(|(other, _)| ***other != *id.bytes());
        let lies = random.below(3) > 0;
        lies.then(|| sealed::lie(random, session, other.map(|(_, stored)| &*stored.session)))
    }

    fn expect_room(&self, id: Id<'_>, session: &[u8]) -> Result<u32, Status> {
        let need = blocks(id.bytes(), session);
        let fits = (1..=32_768).contains(&session.len()) && need <= self.layout.blocks();
        fits.then_some(need).ok_or(Status::ADD_DATA)
    }

    /// Compares the result of an ADD or a PUT, and updates the model.
    fn stored(
        &mut self,
        now: Instant,
        op: Op,
        (ttl, id, session): (u32, Id<'_>, &[u8]),
        record: Result<(), Status>,
        expected: Result<u32, Status>,
    ) -> Result<(), Status> {
        assert_eq!(record, expected.map(|_| ()), "{} of {id:02x?}", op.name());
        self.record(op, id, Some((ttl, session)), status(record.err().unwrap_or(Status::OK)));
        if let Ok(need) = expected {
            self.follow_evictions(now, ttl, need);
            self.count += 1;
            let (due, class, number) = (now.after(ttl.into()), class(ttl), self.count);
            let stored = Stored { due, class, number, session: Rc::from(session) };
            self.model.insert(Rc::from(id.bytes()), stored);
        }
        self.live(now, id);
        self.bounds();
        record
    }
}

impl Store for CheckedTable<'_> {
    fn add(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status> {
        let expected = match self.live(now, id) {
            Some(_) => self.expect_room(id, session).and(Err(Status::ADD_EXISTS)),
            None => self.expect_room(id, session),
        };
        let record = Store::add(&mut self.table, now, ttl, id, session);
        self.stored(now, Op::Add, (ttl, id, session), record, expected)
    }

    fn put(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status> {
        self.live(now, id);
        self.removed.insert(Rc::from(id.bytes()), now);
        let expected = self.expect_room(id, session);
        let record = Store::put(&mut self.table, now, ttl, id, session);
        if record.is_ok() {
            self.model.remove(id.bytes());
        }
        self.stored(now, Op::Put, (ttl, id, session), record, expected)
    }

    fn get(&mut self, now: Instant, id: Id<'_>, out: &mut [u8]) -> Option<usize> {
        let expected = self.live(now, id).map(|stored| stored.session.clone());
        let len = self.table.get(now, id, out);
        assert_eq!(len, expected.as_ref().map(|session| session.len()), "GET of {id:02x?}");
        // If the answer has no room, the server repeats the GET later: do not count this one.
        let wire = |session: &Rc<[u8]>| session.len() + 14 * session.len().div_ceil(2_048);
        let fits = expected.as_ref().is_none_or(|session| wire(session) <= out.len() + 14);
        if let Some(session) = expected.as_ref().filter(|_| fits) {
            assert_eq!(out[..session.len()], **session, "GET of {id:02x?}: other bytes");
        }
        if !fits {
            return len;
        }
        if let Some(lie) = expected.as_ref().and_then(|session| self.lie(id, session)) {
            self.record(Op::Get, id, None, status(Status::NOT_OK));
            out[..lie.len()].copy_from_slice(&lie);
            return Some(lie.len());
        }
        self.record(Op::Get, id, None, expected.unwrap_or_else(|| status(Status::NOT_OK)));
        len
    }

    fn fetch(&mut self, now: Instant, id: Id<'_>, out: &mut [u8]) -> Option<Fetch> {
        let expected = self.live(now, id).map(|stored| (stored.session.clone(), stored.due));
        let fetched = Store::fetch(&mut self.table, now, id, out)?;
        let payload_len = match (fetched, &expected) {
            (Fetch::Session(len, ttl), Some((session, due))) => {
                let left = due.since(now);
                assert_eq!((len, u64::from(ttl)), (session.len(), left), "FETCH of {id:02x?}");
                len + 5
            }
            (Fetch::Missing(stamp), None) => {
                assert_eq!(stamp, self.table.stamp(now));
                9
            }
            _ => panic!("FETCH of {id:02x?}: {fetched:?} instead of {expected:?}"),
        };
        // If the answer has no room, the server repeats the FETCH later: do not count this one.
        let wire = payload_len + 14 * payload_len.div_ceil(2_048);
        if wire <= out.len() + 14 + 5 {
            let session = expected.map(|(session, _)| session);
            if let (Fetch::Session(_, ttl), Some(lie)) =
                (fetched, session.as_ref().and_then(|session| self.lie(id, session)))
            {
                self.record(Op::Get, id, None, status(Status::NOT_OK));
                out[..lie.len()].copy_from_slice(&lie);
                return Some(Fetch::Session(lie.len(), ttl));
            }
            if let Some(session) = &session {
                assert_eq!(out[..session.len()], **session, "FETCH of {id:02x?}: other bytes");
            }
            self.record(Op::Get, id, None, session.unwrap_or_else(|| status(Status::NOT_OK)));
        }
        Some(fetched)
    }

    /// What was removed here is not stored again, and nothing is replaced.
    fn repair(
        &mut self,
        now: Instant,
        stamp: u64,
        ttl: u32,
        id: Id<'_>,
        session: &[u8],
    ) -> Result<(), Status> {
        let there = self.live(now, id).is_some();
        let age = now.as_millis().saturating_sub(stamp ^ self.table.stamp(now) ^ now.as_millis());
        let left = u64::from(ttl).saturating_sub(age) as u32;
        let removed = self.removed.get(id.bytes()).map(|at| now.since(*at));
        let opened = self.sealed.then(|| sealed::open(id.bytes(), session));
        let plain = opened.as_deref().unwrap_or(session);
        assert!(is_session(id.bytes(), plain), "a repair of {id:02x?} with other bytes");
        let repaired = Store::repair(&mut self.table, now, stamp, ttl, id, session);
        assert_eq!(repaired == Err(Status::ADD_EXISTS), there, "REPAIR of {id:02x?}");
        if repaired.is_ok() {
            assert!(
                removed.is_none_or(|removed| removed > age + 2_000),
                "{id:02x?} was removed {removed:?} ms ago, and is repaired after {age} ms"
            );
            self.oracle.borrow_mut().repaired += 1;
            let need = blocks(id.bytes(), session);
            self.follow_evictions(now, left, need);
            if left > 0 {
                self.count += 1;
                let (due, class, number) = (now.after(left.into()), class(left), self.count);
                let stored = Stored { due, class, number, session: Rc::from(session) };
                self.model.insert(Rc::from(id.bytes()), stored);
            }
        }
        self.bounds();
        repaired
    }

    fn refuse_repairs(&mut self, until: Instant) {
        self.table.refuse_repairs(until);
    }

    fn stamp(&self, now: Instant) -> u64 {
        self.table.stamp(now)
    }

    fn have(&mut self, now: Instant, id: Id<'_>) -> bool {
        let expected = self.live(now, id).is_some();
        let record = self.table.has(now, id);
        assert_eq!(record, expected, "HAVE of {id:02x?}");
        self.record(Op::Have, id, None, status(if record { Status::OK } else { Status::NOT_OK }));
        record
    }

    fn remove(&mut self, now: Instant, id: Id<'_>) -> bool {
        let expected = self.live(now, id).is_some();
        self.removed.insert(Rc::from(id.bytes()), now);
        let record = self.table.remove(now, id);
        assert_eq!(record, expected, "REMOVE of {id:02x?}");
        self.model.remove(id.bytes());
        self.record(Op::Remove, id, None, status(if record { Status::OK } else { Status::NOT_OK }));
        record
    }

    fn expire(&mut self, now: Instant, budget: usize) -> usize {
        self.model.retain(|_, stored| now < stored.due);
        let before = Store::len(&self.table);
        let dropped = self.table.expire(now, budget);
        assert!(dropped <= budget && Store::len(&self.table) + dropped == before);
        if dropped < budget {
            assert_eq!(
                Store::len(&self.table),
                self.model.len(),
                "an unexpired session is not counted"
            );
        }
        dropped
    }

    fn deadline(&self) -> Option<Instant> {
        Store::deadline(&self.table)
    }

    fn len(&self) -> usize {
        Store::len(&self.table)
    }

    fn prefetch(&self, ids: &[Id<'_>]) {
        Store::prefetch(&self.table, ids);
    }
}
