//! Work on one socket: receive, send, watch, close.

use distcache_core::machine::{Machine, Peer, Wants};
use distcache_core::time::Instant;

use super::{Client, Event, EventLoop, Interest, Watched, upstream};
use crate::net::stream::Received;

/// The socket of an established connection.
pub(super) struct Socket {
    pub(super) stream: Watched,
    /// The peer has closed its sending side.
    pub(super) ended: bool,
    /// The last send was short, and the socket has not been writable since.
    pub(super) full: bool,
}

impl Socket {
    pub(super) fn new(stream: Watched) -> Self {
        Self { stream, ended: false, full: false }
    }
}

impl<M: Machine> EventLoop<M> {
    /// Handles an event of a connection, unless that is gone.
    pub(super) fn handle_peer_event(&mut self, now: Instant, peer: Option<Peer>, event: Event) {
        let Some(peer) = peer else { return };
        let wants = self.machine.wants(peer);
        if event.hangup && !wants.read && !wants.write {
            // The poller would report it for ever.
            return self.close(peer);
        }
        if event.writable && wants.write {
            self.flush(now, peer);
        }
        if (event.readable || event.hangup) && wants.read {
            self.receive(now, peer);
        }
    }

    /// Receives once, and lets the machine work once, mostly on what has just come.
    pub(super) fn receive(&mut self, now: Instant, peer: Peer) {
        self.receive_once(now, peer);
        if let Some(next) = self.machine.advance(now) {
            self.flush(now, next);
        }
    }

    fn receive_once(&mut self, now: Instant, peer: Peer) {
        let Some(socket) = socket(&mut self.clients, &mut self.upstreams, peer) else { return };
        let space = self.machine.space(peer);
        if space.is_empty() {
            return self.flush(now, peer);
        }
        let room = space.len();
        let len = match socket.stream.recv(space) {
            Ok(Received::Bytes(len)) => len,
            Ok(Received::Nothing) => 0,
            Ok(Received::Ended) => {
                socket.ended = true;
                0
            }
            Err(_) => return self.close(peer),
        };
        let draining = self.drain_deadline.is_some() && matches!(peer, Peer::Client(_));
        let ended = socket.ended || (draining && len < room);
        self.machine.filled(peer, len);
        if ended {
            self.machine.ended(now, peer);
        }
    }

    /// Sends once what is pending, then watches or closes the connection. What is pending for servers
    /// waits for the end of the turn.
    pub(super) fn flush(&mut self, now: Instant, peer: Peer) {
        if matches!(peer, Peer::Server(_)) || self.flush_datagram(now, peer) {
            return;
        }
        self.send(now, peer);
        self.watch(peer);
        if self.drain_deadline.is_some() && self.machine.wants(peer).read {
            // A client that has sent nothing more causes no event.
            self.receive_once(now, peer);
        }
    }

    /// Sends to servers what this turn has produced for them.
    pub(super) fn flush_servers(&mut self, now: Instant) {
        for number in 0..self.upstreams.len() {
            if let Some((key, socket)) = self.upstreams[number].connected() {
                let (peer, full) = (Peer::Server(key), socket.full);
                if !full {
                    self.send(now, peer);
                }
                self.watch(peer);
            }
        }
    }

    fn send(&mut self, now: Instant, peer: Peer) {
        let Some(socket) = socket(&mut self.clients, &mut self.upstreams, peer) else { return };
        let pending = self.machine.pending(peer);
        if pending.is_empty() {
            return;
        }
        match socket.stream.send(pending) {
            Ok(len) => {
                socket.full = len < pending.len();
                self.machine.sent(now, peer, len);
            }
            Err(_) => self.close(peer),
        }
    }

    /// Watches the connection for what the machine now wants, or closes it.
    pub(super) fn watch(&mut self, peer: Peer) {
        let Some(socket) = socket(&mut self.clients, &mut self.upstreams, peer) else { return };
        let Wants { read, write, close } = self.machine.wants(peer);
        if close || socket.stream.watch(&self.poller, Interest { read, write }).is_err() {
            self.close(peer);
        }
    }

    /// Closes the connection and tells the machine.
    fn close(&mut self, peer: Peer) {
        let socket = match peer {
            Peer::Server(key) => {
                let upstream = self.upstreams.get_mut(usize::from(key.number()));
                upstream.and_then(|upstream| upstream.take_connected(key))
            }
            Peer::Client(key) => {
                let client = self.clients[key.index()].take_if(|client| client.key == key);
                self.connected -= usize::from(client.is_some());
                client.map(|client| client.socket)
            }
        };
        self.machine.closed(peer);
        let Some(Socket { mut stream, ended, .. }) = socket else { return };
        stream.unwatch(&self.poller);
        if !ended && matches!(peer, Peer::Client(_)) {
            // Closing a socket with unread bytes resets it, and the peer would lose our last answer.
            let _ = stream.shutdown_write();
            let _ = stream.recv(&mut self.discard_buf);
        }
        drop(stream);
        if let Peer::Server(key) = peer {
            self.upstreams[usize::from(key.number())].hold_fd();
        }
    }
}

fn socket<'a>(
    clients: &'a mut [Option<Client>],
    upstreams: &'a mut [upstream::Connection],
    peer: Peer,
) -> Option<&'a mut Socket> {
    match peer {
        Peer::Server(key) => {
            let (current, socket) = upstreams.get_mut(usize::from(key.number()))?.connected()?;
            (current == key).then_some(socket)
        }
        Peer::Client(key) => {
            let client = clients.get_mut(key.index())?.as_mut()?;
            (client.key == key).then_some(&mut client.socket)
        }
    }
}
