//! What a handover needs of the event loop: its sockets, and a turn that receives nothing.

use std::os::fd::BorrowedFd;

use distcache_core::machine::Machine;
use distcache_core::slots::Key;
use distcache_core::time::Instant;

use super::sockets::Socket;
use super::{Client, EventLoop, Poller, Watched};
use crate::net::listener::Listener;
use crate::net::stream::Stream;

/// A connection to hand over.
pub(crate) struct Connection<'a> {
    pub(crate) key: Key,
    /// `None` if it has two descriptors.
    pub(crate) fd: Option<BorrowedFd<'a>>,
    /// The client has closed its sending side.
    pub(crate) ended: bool,
}

impl<M: Machine> EventLoop<M> {
    /// Does all work that needs no further byte, and sends what can be sent.
    pub(crate) fn settle(&mut self, now: Instant) {
        while let Some(peer) = self.machine.advance(now) {
            self.flush(now, peer);
        }
    }

    /// The poller, for descriptors of others. Their keys must be larger than those of clients.
    pub(crate) fn poller(&self) -> &Poller {
        &self.poller
    }

    /// Whether a signal has asked it to end.
    pub(crate) fn is_draining(&self) -> bool {
        self.drain_deadline.is_some()
    }

    pub(crate) fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().map(|source| &source.listener)
    }

    pub(crate) fn listeners_mut(&mut self) -> impl Iterator<Item = &mut Listener> {
        self.listeners.iter_mut().map(|source| &mut source.listener)
    }

    /// The connections of clients, in an order that stays the same until the next turn.
    pub(crate) fn client_connections(&self) -> impl Iterator<Item = Connection<'_>> {
        self.clients.iter().flatten().map(|client| {
            let stream = &client.socket.stream;
            let fd = stream.read_fd().filter(|_| !stream.is_split());
            Connection { key: client.key, fd, ended: client.socket.ended }
        })
    }

    /// Calls `each` with the machine and the key of every client's connection.
    pub(crate) fn for_each_client(&mut self, mut each: impl FnMut(&mut M, Key)) {
        for client in self.clients.iter().flatten() {
            each(&mut self.machine, client.key);
        }
    }

    /// Whether there is a place for one more connection.
    pub(crate) fn has_place(&self) -> bool {
        self.connected < self.clients.len()
    }

    /// Adds a connection whose client the machine has taken in.
    pub(crate) fn adopt(&mut self, key: Key, stream: Stream, ended: bool) {
        let stream = Watched::new(stream, self.clients_key() + key.index());
        let socket = Socket { ended, ..Socket::new(stream) };
        self.clients[key.index()] = Some(Client { key, socket });
        self.connected += 1;
    }
}
