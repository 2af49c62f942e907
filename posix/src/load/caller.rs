//! One connection of a load and its open requests.

use std::io;
use std::time::Instant;

use distcache_core::buffer::Fifo;
use distcache_core::wire::Op;

use super::protocol::Asked;
use crate::net::poller::{Interest, Poller, Watched};

/// A connection, open or not.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) stream: Option<Watched>,
    /// Whether connecting is in progress.
    pub(super) connecting: bool,
    /// Whether this connection has had an answer.
    pub(super) answered: bool,
    pub(super) inbox: Fifo,
    pub(super) outbox: Fifo,
    /// The session that it has removed and stores again next.
    pub(super) removed: Option<u32>,
    pub(super) uid: u32,
    open: Open,
}

/// The open requests in order: a ring of `depth` entries.
#[derive(Debug)]
struct Open {
    ring: Box<[(Asked, Instant)]>,
    first: usize,
    len: usize,
}

impl Caller {
    /// A caller without a connection, for up to `depth` open requests.
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

    /// The number of open requests.
    pub(super) fn open(&self) -> usize {
        self.open.len
    }

    /// Whether the depth is reached.
    pub(super) fn is_full(&self) -> bool {
        self.open.len == self.open.ring.len()
    }

    /// The request that is answered next, and when it was sent.
    pub(super) fn first(&self) -> Option<(Asked, Instant)> {
        (self.open.len > 0).then(|| self.open.ring[self.open.first])
    }

    /// Adds a request. It must not be [full](Self::is_full).
    pub(super) fn push(&mut self, asked: Asked, sent: Instant) {
        let Open { ring, first, len } = &mut self.open;
        let at = *first + *len;
        let at = if at < ring.len() { at } else { at - ring.len() };
        ring[at] = (asked, sent);
        *len += 1;
    }

    /// Removes the first request.
    pub(super) fn pop(&mut self) {
        let Open { ring, first, len } = &mut self.open;
        *first = if *first + 1 < ring.len() { *first + 1 } else { 0 };
        *len -= 1;
    }

    /// Polls its connection for what it waits for.
    pub(super) fn watch(&mut self, poller: &Poller) -> io::Result<()> {
        let write = self.connecting || !self.outbox.is_empty();
        let interest = Interest { read: !self.connecting, write };
        self.stream.as_mut().map_or(Ok(()), |stream| stream.watch(poller, interest))
    }
}
