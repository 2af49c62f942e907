//! A store too simple to be wrong, to compare a real one with.

use distcache_core::id::Id;
use distcache_core::message::Status;
use distcache_core::server::Store;
use distcache_core::time::Instant;
use std::collections::BTreeMap;

/// Sessions in a map, with their expiry times.
#[derive(Clone, Debug)]
pub struct Plain {
    capacity: usize,
    sessions: BTreeMap<Vec<u8>, (Instant, Vec<u8>)>,
}

impl Plain {
    /// Creates a store of at most `capacity` sessions.
    pub const fn new(capacity: usize) -> Self {
        Self { capacity, sessions: BTreeMap::new() }
    }

    /// Returns the session under `id`, if there is one.
    pub fn find(&self, now: Instant, id: &[u8]) -> Option<&[u8]> {
        let (due, session) = self.sessions.get(id)?;
        (now < *due).then_some(session)
    }
}

impl Store for Plain {
    fn add(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status> {
        self.expire(now, usize::MAX);
        if self.sessions.contains_key(id.bytes()) {
            return Err(Status::ADD_EXISTS);
        }
        if ttl == 0 {
            return Ok(());
        }
        while self.sessions.len() >= self.capacity {
            let soonest = self.sessions.iter().min_by_key(|(_, (due, _))| *due);
            let leaves = soonest.map(|(id, _)| id.clone()).unwrap_or_default();
            self.sessions.remove(&leaves);
        }
        let stored = (now.after(ttl.into()), session.to_vec());
        self.sessions.insert(id.bytes().to_vec(), stored);
        Ok(())
    }

    fn put(&mut self, now: Instant, ttl: u32, id: Id<'_>, session: &[u8]) -> Result<(), Status> {
        self.remove(now, id);
        self.add(now, ttl, id, session)
    }

    fn get(&mut self, now: Instant, id: Id<'_>, out: &mut [u8]) -> Option<usize> {
        let session = self.find(now, id.bytes())?;
        let fits = session.len().min(out.len());
        out[..fits].copy_from_slice(&session[..fits]);
        Some(session.len())
    }

    fn have(&mut self, now: Instant, id: Id<'_>) -> bool {
        self.find(now, id.bytes()).is_some()
    }

    fn remove(&mut self, now: Instant, id: Id<'_>) -> bool {
        let there = self.have(now, id);
        self.sessions.remove(id.bytes());
        there
    }

    fn expire(&mut self, now: Instant, budget: usize) -> usize {
        let overdue = self.sessions.iter().filter(|(_, (due, _))| *due <= now);
        let overdue: Vec<_> = overdue.take(budget).map(|(id, _)| id.clone()).collect();
        overdue.iter().filter(|id| self.sessions.remove(*id).is_some()).count()
    }

    fn deadline(&self) -> Option<Instant> {
        self.sessions.values().map(|(due, _)| *due).min()
    }

    fn len(&self) -> usize {
        self.sessions.len()
    }
}
