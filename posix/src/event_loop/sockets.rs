//! What is done with one socket: receive, send, watch, close.

use distcache_core::machine::{Machine, Peer, Wants};
use distcache_core::time::Instant;

use super::{Client, EventLoop, SERVERS_KEY, Server};
use crate::net::poller::{Event, Interest};
use crate::net::stream::{Received, Stream};

pub(super) struct Socket {
    pub(super) stream: Stream,
    /// What it is watched for; `None` while it is not watched at all.
    pub(super) watched: Option<Interest>,
    /// Whether the peer is known to send no more.
    pub(super) ended: bool,
    /// It took less than there was to send, and has not had room since.
    pub(super) full: bool,
}

impl<M: Machine> EventLoop<M> {
    pub(super) fn handle_event(&mut self, now: Instant, peer: Peer, event: Event) {
        let wants = self.machine.wants(peer);
        if event.hangup && !wants.read && !wants.write {
            // It would be reported for ever.
            return self.close(peer);
        }
        if event.writable && wants.write {
            self.flush(now, peer);
        }
        if (event.readable || event.hangup) && wants.read {
            self.receive(now, peer);
        }
    }

    /// One receive, and a piece of work: mostly what came of it.
    pub(super) fn receive(&mut self, now: Instant, peer: Peer) {
        self.receive_once(now, peer);
        if let Some(next) = self.machine.advance(now) {
            self.flush(now, next);
        }
    }

    /// One receive.
    fn receive_once(&mut self, now: Instant, peer: Peer) {
        let Some(socket) = socket(&mut self.clients, &mut self.servers, peer) else { return };
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
        let last = len < room && self.end_by.is_some() && matches!(peer, Peer::Client(_));
        let ended = socket.ended || last;
        self.machine.filled(peer, len);
        if ended {
            self.machine.ended(now, peer);
        }
    }

    /// One send, if there is something to send; then closes the connection or watches it for what it
    /// now waits for. What is for servers is sent once, at the end of the turn.
    pub(super) fn flush(&mut self, now: Instant, peer: Peer) {
        if matches!(peer, Peer::Server(_)) || self.flush_datagram(now, peer) {
            return;
        }
        self.send(now, peer);
        self.watch(peer);
        if self.end_by.is_some() && self.machine.wants(peer).read {
            // No event comes where nothing more was sent.
            self.receive_once(now, peer);
        }
    }

    pub(super) fn flush_servers(&mut self, now: Instant) {
        for number in 0..self.servers.len() {
            if let Some((key, socket)) = &self.servers[number].line {
                let (peer, full) = (Peer::Server(*key), socket.full);
                if !full {
                    self.send(now, peer);
                }
                self.watch(peer);
            }
        }
    }

    fn send(&mut self, now: Instant, peer: Peer) {
        let Some(socket) = socket(&mut self.clients, &mut self.servers, peer) else { return };
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

    pub(super) fn watch(&mut self, peer: Peer) {
        let base = self.clients_key();
        let Some(socket) = socket(&mut self.clients, &mut self.servers, peer) else { return };
        let Wants { read, write, close } = self.machine.wants(peer);
        let interest = Interest { read, write };
        if close {
            return self.close(peer);
        }
        let key = match peer {
            Peer::Server(key) => SERVERS_KEY + usize::from(key.number()),
            Peer::Client(key) => base + key.index(),
        };
        let changed = match socket.watched.replace(interest) {
            Some(before) if before == interest => Ok(()),
            Some(_) => self.poller.modify(&socket.stream, key, interest),
            None => self.poller.add(&socket.stream, key, interest),
        };
        if changed.is_err() {
            self.close(peer);
        }
    }

    /// Closes the connection, whoever wants that.
    fn close(&mut self, peer: Peer) {
        let socket = match peer {
            Peer::Server(key) => {
                let server = self.servers.get_mut(usize::from(key.number()));
                let line = server.and_then(|server| server.line.take_if(|line| line.0 == key));
                line.map(|(_, socket)| socket)
            }
            Peer::Client(key) => {
                let client = self.clients[key.index()].take_if(|client| client.key == key);
                self.connected -= usize::from(client.is_some());
                client.map(|client| client.socket)
            }
        };
        self.machine.closed(peer);
        let Some(mut socket) = socket else { return };
        if socket.stream.is_shared() {
            let _ = self.poller.remove(&socket.stream);
        }
        if !socket.ended && matches!(peer, Peer::Client(_)) {
            // Closing on bytes that were never read takes our last answer from the peer's hands.
            let _ = socket.stream.shutdown_write();
            let _ = socket.stream.recv(&mut self.discard_buf);
        }
        drop(socket);
        if let Peer::Server(key) = peer {
            self.place(key.number()).keep();
        }
    }
}

fn socket<'a>(
    clients: &'a mut [Option<Client>],
    servers: &'a mut [Server],
    peer: Peer,
) -> Option<&'a mut Socket> {
    match peer {
        Peer::Server(key) => {
            let (current, socket) = servers.get_mut(usize::from(key.number()))?.line.as_mut()?;
            (*current == key).then_some(socket)
        }
        Peer::Client(key) => {
            let client = clients.get_mut(key.index())?.as_mut()?;
            (client.key == key).then_some(&mut client.socket)
        }
    }
}
