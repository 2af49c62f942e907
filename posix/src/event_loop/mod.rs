//! The sockets of a machine, and one turn of the loop.
//!
//! A [`Machine`] has the connections' state, the event loop their sockets, at the same index. What a turn
//! does, in this order: look at the clock once, heed signals, write and read where that is possible,
//! let time do its work, accept, and last send to servers what all of that put together for them.
//! Each socket gets one receive a turn, and a turn ends once it would be somebody's next helping, so
//! nobody who never stops talking keeps anybody else waiting.

mod datagrams;
pub(crate) mod report;
mod sockets;

use std::io;
use std::time::Duration;

use distcache_core::machine::{Machine, Peer, ServerKey};
use distcache_core::slots::Key;
use distcache_core::time::Instant;

use self::datagrams::Datagrams;
use self::sockets::Socket;
use crate::clock::Clock;
use crate::net::listener::Listener;
use crate::net::poller::{Event, Events, Interest, Poller};
use crate::net::spare_fd::{HeldFd, SpareFd};
use crate::net::stream::Stream;
use crate::process::signals::{Signal, Signals};

/// The most connections that one listener is asked for in a turn.
const ACCEPTS: usize = 64;
/// How many pieces of work a turn does for nobody in particular.
const CHORES: usize = 1024;
/// How long an orderly end may take, in milliseconds.
const DRAIN_PATIENCE: u64 = 5000;
/// How long a listener that failed is left alone, in milliseconds.
const ACCEPT_PAUSE: u64 = 100;

const SIGNALS_KEY: usize = 0;
const SERVERS_KEY: usize = 1;

/// A machine with its sockets.
pub(crate) struct EventLoop<M> {
    pub(crate) machine: M,
    pub(crate) poller: Poller,
    clock: Clock,
    signals: Signals,
    listeners: Vec<Source>,
    /// By the index of the client's key.
    clients: Vec<Option<Client>>,
    connected: usize,
    datagrams: Datagrams,
    /// By their numbers.
    servers: Vec<Server>,
    reserve: SpareFd,
    /// When listeners that failed are asked again.
    accept_at: Option<Instant>,
    /// By when the end that a signal asked for must come.
    end_by: Option<Instant>,
    /// Where what still comes from a connection that is closed goes.
    discard_buf: Box<[u8]>,
}

/// A server that the machine is a client of.
#[derive(Default)]
struct Server {
    /// The connection that is there, and its key.
    line: Option<(ServerKey, Socket)>,
    /// Kept for it while it is away.
    place: HeldFd,
}

struct Source {
    listener: Listener,
    watched: bool,
}

struct Client {
    key: Key,
    socket: Socket,
}

impl<M: Machine> EventLoop<M> {
    /// A event loop for a machine with as many places as `clients`, and as many `servers`.
    pub(crate) fn new(
        machine: M,
        clients: usize,
        servers: usize,
        listeners: Vec<Listener>,
        signals: Signals,
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add_fd(signals.fd(), SIGNALS_KEY, Interest::READ)?;
        for (number, listener) in listeners.iter().enumerate() {
            poller.add_listener(listener, SERVERS_KEY + servers + number)?;
        }
        let datagrams = Datagrams::new(clients, &listeners);
        let source = |listener| Source { listener, watched: true };
        Ok(Self {
            machine,
            poller,
            clock: Clock::start(),
            signals,
            listeners: listeners.into_iter().map(source).collect(),
            clients: std::iter::repeat_with(|| None).take(clients).collect(),
            connected: 0,
            datagrams,
            servers: std::iter::repeat_with(Server::default).take(servers).collect(),
            reserve: SpareFd::new()?,
            accept_at: None,
            end_by: None,
            discard_buf: vec![0; 1 << 14].into(),
        })
    }

    /// The time now.
    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Waits for something to happen, no longer than until `deadline`, and says what time it is then.
    pub(crate) fn wait(
        &mut self,
        events: &mut Events,
        deadline: Option<Instant>,
    ) -> io::Result<Instant> {
        let ours = [self.machine.deadline(), self.accept_at, self.end_by, deadline];
        let ready = self.listeners.iter().any(|source| source.listener.ready());
        let timeout = match ours.into_iter().flatten().min() {
            _ if ready => Some(Duration::ZERO),
            Some(Instant::ORIGIN) => Some(Duration::ZERO),
            deadline => Clock::until(self.clock.now(), deadline),
        };
        self.poller.wait(events, timeout)?;
        Ok(self.clock.now())
    }

    /// Does what the last [`EventLoop::wait`] found to be possible. Events of connections to servers that
    /// are still being made are not for the event loop: [`EventLoop::dialing`] tells them.
    pub(crate) fn turn(&mut self, now: Instant, events: &Events) {
        let mut accept = self.listeners.iter().any(|source| source.listener.ready());
        if events.iter().any(|event| event.key == SIGNALS_KEY) {
            self.handle_signals(now);
        }
        let (listeners, base) = (self.listeners_key(), self.clients_key());
        for event in events.iter() {
            match event.key {
                SIGNALS_KEY => {}
                key if key < listeners => {
                    let number = key - SERVERS_KEY;
                    if let Some((key, socket)) = &mut self.servers[number].line {
                        socket.full &= !(event.writable || event.hangup);
                        let peer = Peer::Server(*key);
                        self.handle_event(now, peer, event);
                    }
                }
                key if key < base => accept |= self.is_for_connections(now, key - listeners),
                key => {
                    let client = self.clients.get(key - base).and_then(Option::as_ref);
                    if let Some(peer) = client.map(|client| Peer::Client(client.key)) {
                        self.handle_event(now, peer, event);
                    }
                }
            }
        }
        self.chores(now);
        if accept || self.accept_at.is_some_and(|at| at <= now) {
            self.accept(now);
        }
        self.flush_servers(now);
    }

    /// Whether there is a connection to a server.
    pub(crate) fn is_connected(&self, number: u8) -> bool {
        self.servers[usize::from(number)].line.is_some()
    }

    /// The server whose connection is still being made, if the event is about such a one.
    pub(crate) fn dialing(&self, event: Event) -> Option<u8> {
        let number = event.key.checked_sub(SERVERS_KEY)?;
        let server = self.servers.get(number).filter(|server| server.line.is_none());
        server.map(|_| number as u8)
    }

    /// Has the poller report what can be done with a server's connection that is not the event loop's yet.
    pub(crate) fn watch_dial(&self, number: u8, stream: &Stream) -> io::Result<()> {
        self.poller.add(stream, SERVERS_KEY + usize::from(number), Interest::WRITE)
    }

    /// The end of [`EventLoop::watch_dial`].
    pub(crate) fn forget_dial(&self, stream: &Stream) {
        let _ = self.poller.remove(stream);
    }

    /// The descriptor that is kept for a server's connection while there is none.
    pub(crate) fn place(&mut self, number: u8) -> &mut HeldFd {
        &mut self.servers[usize::from(number)].place
    }

    /// Whether the program is to end: it was asked to and has answered what it had, or no client can
    /// come any more.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        let deserted = self.connected == 0 && self.datagrams.open() == 0;
        match self.end_by {
            Some(end) => end <= now || deserted,
            None => deserted && self.listeners.iter().all(|source| source.listener.finished()),
        }
    }

    /// How many connections were refused for want of descriptors.
    pub(crate) fn refused(&self) -> u64 {
        self.reserve.refused()
    }

    /// Takes the connection to a server that was just made.
    ///
    /// # Errors
    /// The poller does not take it.
    pub(crate) fn take_server(&mut self, key: ServerKey, stream: Stream) -> io::Result<()> {
        let number = usize::from(key.number());
        self.poller.add(&stream, SERVERS_KEY + number, Interest::READ)?;
        let watched = Some(Interest::READ);
        let socket = Socket { stream, watched, ended: false, full: false };
        self.servers[number].line = Some((key, socket));
        Ok(())
    }

    fn listeners_key(&self) -> usize {
        SERVERS_KEY + self.servers.len()
    }

    fn clients_key(&self) -> usize {
        self.listeners_key() + self.listeners.len()
    }

    fn handle_signals(&mut self, now: Instant) {
        while let Some(signal) = self.signals.take() {
            if signal == Signal::End || self.end_by.is_some() {
                self.end_by = Some(Instant::ORIGIN);
                continue;
            }
            self.end_by = Some(now.after(DRAIN_PATIENCE));
            self.take_last_datagrams(now);
            // Their keys stay taken: what the poller still reports of them finds nobody.
            for source in &self.listeners {
                let _ = self.poller.remove_listener(&source.listener);
            }
            self.drain(now);
        }
    }

    /// Lets every client have the answers to what it has sent; it ends where nothing more is there.
    fn drain(&mut self, now: Instant) {
        for index in 0..self.clients.len() {
            if let Some(key) = self.clients[index].as_ref().map(|client| client.key) {
                self.flush(now, Peer::Client(key));
            }
        }
    }

    /// Goes on with what has come before, until somebody has had two pieces of work: others may have
    /// sent something since this turn began, and what one has sent could fill it for long.
    fn chores(&mut self, now: Instant) {
        let Some(first) = self.machine.advance(now) else { return };
        self.flush(now, first);
        for _ in 1..CHORES {
            let Some(peer) = self.machine.advance(now) else { return };
            self.flush(now, peer);
            if peer == first {
                return;
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        if self.end_by.is_some() {
            return;
        }
        self.accept_at = None;
        for number in 0..self.listeners.len() {
            for _ in 0..ACCEPTS {
                match self.listeners[number].listener.accept() {
                    Ok(Some(stream)) => self.accept_one(now, stream),
                    Ok(None) => break,
                    Err(error) if self.reserve.covers(&error) => {
                        self.reserve.refuse_one(&self.listeners[number].listener);
                    }
                    Err(_) => {
                        self.accept_at = Some(now.after(ACCEPT_PAUSE));
                        break;
                    }
                }
            }
        }
        let base = self.listeners_key();
        for (number, source) in self.listeners.iter_mut().enumerate() {
            let rests = self.accept_at.is_some() && !source.listener.is_datagrams();
            let wanted = !rests && !source.listener.finished();
            if wanted != source.watched {
                let key = base + number;
                let changed = self.poller.modify_listener(&source.listener, key, wanted);
                source.watched = wanted && changed.is_ok();
            }
        }
    }

    fn accept_one(&mut self, now: Instant, stream: Stream) {
        // Without a place for it: dropping it is the refusal.
        let Some(key) = self.machine.open(now) else { return };
        let socket = Socket { stream, watched: None, ended: false, full: false };
        self.clients[key.index()] = Some(Client { key, socket });
        self.connected += 1;
        // Who connects for one request has mostly sent it by now.
        self.receive(now, Peer::Client(key));
        self.watch(Peer::Client(key));
    }
}

#[cfg(test)]
mod tests;
