//! The event loop: a machine's sockets, and one turn of work on them.
//!
//! A [`Machine`] holds the state of connections, the event loop their sockets, at the same index. A
//! turn works in this order: read the clock, handle signals, write and read where the poller says so,
//! let the machine continue earlier work, accept connections, and send to servers what all of that
//! has produced for them.
//!
//! Each socket gets one receive a turn, and the machine's own work ends as soon as a peer would get a
//! second share. So a peer that never stops sending delays nobody else.

mod datagrams;
pub(crate) mod report;
mod sockets;
#[cfg(target_os = "linux")]
pub(crate) mod transfer;
pub(crate) mod upstream;

use std::io;
use std::time::Duration;

use distcache_core::machine::{Machine, Peer};
use distcache_core::slots::Key;
use distcache_core::time::Instant;

use self::datagrams::Datagrams;
use self::sockets::Socket;
use crate::clock::{self, Clock};
use crate::net::listener::Listener;
use crate::net::poller::{Event, Events, Interest, Poller, Watched};
use crate::net::spare_fd::SpareFd;
use crate::net::stream::Stream;
use crate::process::signals::{Signal, Signals};

/// The most connections accepted from one listener in a turn.
const ACCEPTS_PER_TURN: usize = 64;
/// The most pieces of earlier work that the machine continues in a turn.
const ADVANCES_PER_TURN: usize = 1024;
/// How long clients may take to receive their last answers at the end, in milliseconds.
const DRAIN_TIMEOUT: u64 = 5000;
/// How long no connections are accepted after accepting has failed, in milliseconds.
const ACCEPT_PAUSE: u64 = 100;
/// Bytes read and discarded from a connection that is being closed.
const DISCARD_LEN: usize = 1 << 14;

// Keys of the poller: signals, then listeners, then servers, then their resolvers, then clients.
const SIGNALS_KEY: usize = 0;
const LISTENERS_KEY: usize = 1;

/// A machine with its sockets.
pub(crate) struct EventLoop<M> {
    pub(crate) machine: M,
    poller: Poller,
    clock: Clock,
    signals: Signals,
    listeners: Vec<Source>,
    /// By the index of the client's key.
    clients: Vec<Option<Client>>,
    connected: usize,
    datagrams: Datagrams,
    /// By the number of the server.
    upstreams: Vec<upstream::Connection>,
    spare_fd: SpareFd,
    denied: Denied,
    /// When to accept again after accepting has failed.
    accept_at: Option<Instant>,
    /// When to stop waiting for clients; set by the signal to end.
    drain_deadline: Option<Instant>,
    /// A signal has asked to read files again.
    reload: bool,
    discard_buf: Box<[u8]>,
}

/// Connections of users and groups that are not allowed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Denied {
    pub(crate) count: u64,
    /// The user of the last one, if the system tells.
    pub(crate) uid: Option<u32>,
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
    /// An event loop for a machine of up to `clients` clients.
    pub(crate) fn new(
        machine: M,
        clients: usize,
        listeners: Vec<Listener>,
        signals: Signals,
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add_fd(signals.fd(), SIGNALS_KEY, Interest::READ)?;
        for (number, listener) in listeners.iter().enumerate() {
            poller.add_listener(listener, LISTENERS_KEY + number)?;
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
            upstreams: Vec::new(),
            spare_fd: SpareFd::new()?,
            denied: Denied::default(),
            accept_at: None,
            drain_deadline: None,
            reload: false,
            discard_buf: vec![0; DISCARD_LEN].into(),
        })
    }

    /// The time now.
    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Waits for events until `deadline` at most, and returns the time at the end.
    pub(crate) fn wait(
        &mut self,
        events: &mut Events,
        deadline: Option<Instant>,
    ) -> io::Result<Instant> {
        let own = [self.machine.deadline(), self.accept_at, self.drain_deadline, deadline];
        let timeout = match own.into_iter().flatten().min() {
            _ if self.has_ready_listener() => Some(Duration::ZERO),
            Some(Instant::ORIGIN) => Some(Duration::ZERO),
            deadline => clock::timeout(self.clock.now(), deadline),
        };
        self.poller.wait(events, timeout)?;
        Ok(self.clock.now())
    }

    /// Does what the last [`wait`](Self::wait) has found to be possible.
    pub(crate) fn turn(&mut self, now: Instant, events: &Events) {
        let mut accept = self.has_ready_listener();
        if events.iter().any(|event| event.key == SIGNALS_KEY) {
            self.handle_signals(now);
        }
        let (servers, clients) = (self.servers_key(), self.clients_key());
        let resolvers = servers + self.upstreams.len();
        for event in events.iter() {
            match event.key {
                SIGNALS_KEY => {}
                key if key < servers => {
                    accept |= !self.receive_datagrams(now, key - LISTENERS_KEY);
                }
                key if key < resolvers => {
                    let key = self.upstreams[key - servers].handle_event(event);
                    self.handle_peer_event(now, key.map(Peer::Server), event);
                }
                key if key < clients => self.upstreams[key - resolvers].handle_resolver_event(),
                key => {
                    let client = self.clients.get(key - clients).and_then(Option::as_ref);
                    let peer = client.map(|client| Peer::Client(client.key));
                    self.handle_peer_event(now, peer, event);
                }
            }
        }
        self.advance(now);
        if accept || self.accept_at.is_some_and(|at| at <= now) {
            self.accept(now);
        }
        self.flush_servers(now);
    }

    /// Whether the program can end: it was asked to and has answered its clients or waited long
    /// enough, or there is no client and none can come any more.
    pub(crate) fn is_done(&self, now: Instant) -> bool {
        let no_clients = self.connected == 0 && self.datagrams.open() == 0;
        match self.drain_deadline {
            Some(deadline) => deadline <= now || no_clients,
            None => no_clients && self.listeners.iter().all(|source| source.listener.finished()),
        }
    }

    /// Whether a signal has asked to read files again since the last call. Many such signals in one turn
    /// are one.
    pub(crate) fn take_reload(&mut self) -> bool {
        std::mem::take(&mut self.reload)
    }

    /// The number of connections that were refused because no descriptor was left, or because of who
    /// made them.
    pub(crate) fn refused(&self) -> u64 {
        self.spare_fd.refused() + self.denied.count
    }

    /// The connections that were refused because of who made them.
    pub(crate) fn denied(&self) -> Denied {
        self.denied
    }

    /// The connections to servers, in the order of their numbers.
    pub(crate) fn upstreams(&mut self) -> &mut [upstream::Connection] {
        &mut self.upstreams
    }

    fn servers_key(&self) -> usize {
        LISTENERS_KEY + self.listeners.len()
    }

    fn clients_key(&self) -> usize {
        self.servers_key() + 2 * self.upstreams.len()
    }

    /// Whether a listener has a stream that no event announces.
    fn has_ready_listener(&self) -> bool {
        self.listeners.iter().any(|source| source.listener.ready())
    }

    /// The first signal to end starts the drain, a second one ends it.
    fn handle_signals(&mut self, now: Instant) {
        while let Some(signal) = self.signals.take() {
            if signal == Signal::Reload {
                self.reload = true;
                continue;
            }
            if signal == Signal::End || self.drain_deadline.is_some() {
                self.drain_deadline = Some(Instant::ORIGIN);
                continue;
            }
            self.drain_deadline = Some(now.after(DRAIN_TIMEOUT));
            self.receive_last_datagrams(now);
            // Events that the poller has reported already are ignored from here on.
            for source in &self.listeners {
                let _ = self.poller.remove_listener(&source.listener);
            }
            self.drain(now);
        }
    }

    /// Reads what clients have sent, so that it is answered. A client that has sent nothing more is
    /// closed after its last answer.
    fn drain(&mut self, now: Instant) {
        for index in 0..self.clients.len() {
            if let Some(key) = self.clients[index].as_ref().map(|client| client.key) {
                self.flush(now, Peer::Client(key));
            }
        }
    }

    /// Lets the machine continue earlier work, until the first peer gets its second share: others may
    /// have sent something since this turn began, and one peer alone could fill it for long.
    fn advance(&mut self, now: Instant) {
        let Some(first) = self.machine.advance(now) else { return };
        self.flush(now, first);
        for _ in 1..ADVANCES_PER_TURN {
            let Some(peer) = self.machine.advance(now) else { return };
            self.flush(now, peer);
            if peer == first {
                return;
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        if self.drain_deadline.is_some() {
            return;
        }
        self.accept_at = None;
        for number in 0..self.listeners.len() {
            self.accept_from(now, number);
        }
        self.watch_listeners();
    }

    fn accept_from(&mut self, now: Instant, number: usize) {
        for _ in 0..ACCEPTS_PER_TURN {
            let listener = &self.listeners[number].listener;
            match listener.accept() {
                Ok(Some(stream)) => match listener.admits(&stream) {
                    Ok(()) => self.accept_one(now, stream),
                    Err(uid) => self.denied = Denied { count: self.denied.count + 1, uid },
                },
                Ok(None) => return,
                Err(error) if self.spare_fd.applies_to(&error) => {
                    self.spare_fd.refuse_one(listener);
                }
                Err(_) => {
                    self.accept_at = Some(now.after(ACCEPT_PAUSE));
                    return;
                }
            }
        }
    }

    fn accept_one(&mut self, now: Instant, stream: Stream) {
        // Dropping the stream is the refusal.
        let Some(key) = self.machine.open(now) else { return };
        let stream = Watched::new(stream, self.clients_key() + key.index());
        self.clients[key.index()] = Some(Client { key, socket: Socket::new(stream) });
        self.connected += 1;
        // Most clients have sent their first request by now.
        self.receive(now, Peer::Client(key));
        self.watch(Peer::Client(key));
    }

    /// Stops watching listeners while accepting pauses, and those that have nothing more to accept.
    fn watch_listeners(&mut self) {
        for (number, source) in self.listeners.iter_mut().enumerate() {
            let pauses = self.accept_at.is_some() && !source.listener.is_datagrams();
            let wanted = !pauses && !source.listener.finished();
            if wanted != source.watched {
                let key = LISTENERS_KEY + number;
                let changed = self.poller.modify_listener(&source.listener, key, wanted);
                source.watched = wanted && changed.is_ok();
            }
        }
    }
}

#[cfg(test)]
mod tests;
