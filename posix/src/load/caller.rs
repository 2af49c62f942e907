//! One connection of a load, and the requests open on it.

use std::io;
use std::time::Instant;

use distcache_core::buffer::Fifo;
use distcache_core::wire::Op;

use super::protocol::Asked;
use crate::net::poller::{Interest, Poller, Watched};

/// A connection, or the place of one.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) stream: Option<Watched>,
    /// Whether the outcome of connecting is still open.
    pub(super) connecting: bool,
    /// Whether anything was answered on this connection.
    pub(super) answered: bool,
    pub(super) inbox: Fifo,
    pub(super) outbox: Fifo,
    /// The session that it has removed, and is to store again.
    pub(super) removed: Option<u32>,
    pub(super) uid: u32,
    open: Open,
}

/// Requests open, in their order: a ring of as many as there may be.
#[derive(Debug)]
struct Open {
    ring: Box<[(Asked, Instant)]>,
    first: usize,
    len: usize,
}

impl Caller {
    /// A place for a connection with up to `depth` requests open.
    pub(super) fn new(depth: usize) -> Self {
        let nothing = (Asked { op: Op::Get, session: 0, uid: 0 }, Instant::now());
        Self {
            stream: None,
            connecting: false,
            answered: false,
            inbox: Fifo::new(),
            outbox: Fifo::new(),
            removed: None,
            uid: 0,
            open: Open { ring: vec![nothing; depth].into(), first: 0, len: 0 },
        }
    }

    /// How many requests are open.
    pub(super) fn open(&self) -> usize {
        self.open.len
    }

    /// Whether no more may be opened.
    pub(super) fn is_full(&self) -> bool {
        self.open.len == self.open.ring.len()
    }

    /// The request that is to be answered next, and since when.
    pub(super) fn first(&self) -> Option<(Asked, Instant)> {
        (self.open.len > 0).then(|| self.open.ring[self.open.first])
    }

    /// Opens a request, where it is not full.
    pub(super) fn push(&mut self, asked: Asked, sent: Instant) {
        let Open { ring, first, len } = &mut self.open;
        let at = *first + *len;
        let at = if at < ring.len() { at } else { at - ring.len() };
        ring[at] = (asked, sent);
        *len += 1;
    }

    /// The first request is answered.
    pub(super) fn pop(&mut self) {
        let Open { ring, first, len } = &mut self.open;
        *first = if *first + 1 < ring.len() { *first + 1 } else { 0 };
        *len -= 1;
    }

    /// Watches its connection for what can happen on it next.
    pub(super) fn watch(&mut self, poller: &Poller) -> io::Result<()> {
        let write = self.connecting || !self.outbox.is_empty();
        let interest = Interest { read: !self.connecting, write };
        self.stream.as_mut().map_or(Ok(()), |stream| stream.watch(poller, interest))
    }
}
