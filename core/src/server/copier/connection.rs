//! The connection to the server that is copied from, as the event loop sees it.

use super::{Asked, Copier, CopyFailure, Link, PATIENCE};
use crate::buffer::Pool;
use crate::machine::{ServerKey, Wants};
use crate::memory::Array;
use crate::proxy::{Dial, PROBE_ID};
use crate::server::Store;
use crate::time::Instant;

impl Copier {
    #[cold]
    #[inline(never)]
    pub(in crate::server) fn dial(&mut self, now: Instant) -> Option<Dial> {
        self.now = now;
        match self.link {
            Link::Due(at) if at <= now => {
                self.link = Link::Dialing(now);
                Some(Dial::Connect(self.key()))
            }
            Link::Dialing(since) if since.after(PATIENCE) <= now => {
                let key = self.key();
                self.end_try(now, CopyFailure::Unreachable);
                Some(Dial::Cancel(key))
            }
            _ => None,
        }
    }

    #[cold]
    #[inline(never)]
    pub(in crate::server) fn connected(
        &mut self,
        now: Instant,
        key: ServerKey,
        pool: &mut Pool<impl Array<u8>>,
        store: &impl Store,
    ) {
        if self.key() != key || !matches!(self.link, Link::Dialing(_)) {
            return;
        }
        (self.link, self.now) = (Link::Talking, now);
        (self.ended, self.unread) = (false, false);
        (self.cursor, self.seen, self.empty) = (0, 0, 0);
        (self.pace_since, self.answers) = (now, 0);
        self.ask(now, pool, store, Asked::Level, PROBE_ID);
        self.wants_changed = true;
    }

    #[cold]
    #[inline(never)]
    pub(in crate::server) fn closed(&mut self, key: ServerKey, pool: &mut Pool<impl Array<u8>>) {
        if self.key() != key || matches!(self.link, Link::Off | Link::Waiting | Link::Due(_)) {
            return;
        }
        let now = self.now;
        self.inbox.clear(pool);
        self.outbox.clear(pool);
        match self.link {
            Link::Dialing(_) => self.end_try(now, CopyFailure::Unreachable),
            Link::Talking => self.end_try(now, CopyFailure::Lost),
            // The result is known.
            _ => self.leave(now),
        }
    }

    #[cold]
    #[inline(never)]
    pub(in crate::server) fn space<'a>(
        &mut self,
        key: ServerKey,
        pool: &'a mut Pool<impl Array<u8>>,
    ) -> &'a mut [u8] {
        if !self.is_talking(key) || self.ended {
            return Default::default();
        }
        self.inbox.space(pool)
    }

    #[cold]
    #[inline(never)]
    pub(in crate::server) fn filled(
        &mut self,
        key: ServerKey,
        pool: &mut Pool<impl Array<u8>>,
        len: usize,
    ) {
        if self.is_talking(key) {
            self.inbox.filled(pool, len);
            self.unread |= len > 0;
        }
    }

    #[cold]
    #[inline(never)]
    pub(in crate::server) fn ended(&mut self, key: ServerKey) {
        if self.is_talking(key) {
            (self.ended, self.unread) = (true, true);
        }
    }

    #[cold]
    #[inline(never)]
    pub(in crate::server) fn pending<'a>(
        &self,
        key: ServerKey,
        pool: &'a Pool<impl Array<u8>>,
    ) -> &'a [u8] {
        if self.is_talking(key) { self.outbox.bytes(pool) } else { &[] }
    }

    #[cold]
    #[inline(never)]
    pub(in crate::server) fn sent(
        &mut self,
        key: ServerKey,
        pool: &mut Pool<impl Array<u8>>,
        len: usize,
    ) {
        if self.is_talking(key) && len > 0 {
            self.outbox.consume(pool, len);
        }
    }

    #[cold]
    #[inline(never)]
    pub(in crate::server) fn wants(&self, key: ServerKey) -> Wants {
        match self.link {
            _ if self.key() != key => Wants::CLOSE,
            Link::Talking => {
                Wants { read: !self.ended, write: !self.outbox.is_empty(), close: false }
            }
            Link::Closing => Wants::CLOSE,
            Link::Off | Link::Waiting | Link::Due(_) | Link::Dialing(_) => Wants::default(),
        }
    }
}
