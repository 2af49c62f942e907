//! Requests that arrive as datagrams. Each is a client of the machine until it is answered.
//!
//! ```text
//!  datagram ──► Exchange ── request ──► space / filled ─┐
//!                  ▲                                  machine
//!  datagram ◄── reply ◄──── receive ◄── pending / sent ◄─┘
//! ```
//!
//! Datagrams need no connection, and their senders' addresses can be forged, so they may occupy only a
//! part of the machine's clients. Their senders do not wait for long: a request that finds no free
//! place is answered as not found at once.

use distcache_core::Counters;
use distcache_core::machine::{Machine, Peer};
use distcache_core::sessiond::{Command, Exchange, PACKET_MAX, Received};
use distcache_core::slots::Key;
use distcache_core::time::Instant;

use super::EventLoop;
use crate::net::datagram::Sender;
use crate::net::listener::Listener;
use crate::process::start::Started;

/// The most datagrams received from one listener in a turn.
const DATAGRAMS_PER_TURN: usize = 64;
/// The most datagrams that are being answered at a time.
const OPEN_MAX: usize = 256;

/// What happened to datagrams, counted from the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Counts {
    /// Datagrams that were requests.
    requests: u64,
    /// Requests to fetch a value.
    gets: u64,
    /// Those of `gets` that were answered with a value.
    hits: u64,
    /// Requests that found no free place.
    refused: u64,
    /// Datagrams that were not requests.
    malformed: u64,
    /// Replies that the system did not take.
    unsent: u64,
}

/// The datagrams that are being answered.
#[derive(Debug)]
pub(crate) struct Datagrams {
    counts: Counts,
    /// By the index of the client's key: an index of `open`. Empty if no listener takes datagrams.
    by_client: Box<[Option<u16>]>,
    open: Box<[Option<Open>]>,
    /// The exchange of each of `open`, and one more for a datagram that finds no place. They stay where
    /// they are, so no session is copied about.
    exchanges: Box<[Exchange]>,
    /// Indices of `open` that are free, with capacity for all of them.
    free: Vec<u16>,
    /// One byte more than the longest request, to recognize longer ones.
    buffer: [u8; PACKET_MAX + 1],
}

/// A datagram that is being answered.
#[derive(Clone, Copy, Debug)]
struct Open {
    key: Key,
    /// The index of its exchange.
    exchange: usize,
    from: Sender,
    /// The number of the listener that received it.
    listener: usize,
}

impl Datagrams {
    /// Datagrams for a machine of up to `clients` clients, of which they may be half.
    pub(super) fn new(clients: usize, listeners: &[Listener]) -> Self {
        let any = listeners.iter().any(Listener::is_datagrams);
        let (clients, most) = if any { (clients, (clients / 2).max(1)) } else { (0, 0) };
        let most = most.min(OPEN_MAX);
        Self {
            counts: Counts::default(),
            by_client: vec![None; clients].into(),
            open: std::iter::repeat_with(|| None).take(most).collect(),
            exchanges: std::iter::repeat_n(Exchange::EMPTY, if any { most + 1 } else { 0 })
                .collect(),
            free: (0..most as u16).collect(),
            buffer: [0; PACKET_MAX + 1],
        }
    }

    /// The number of datagrams that are being answered.
    pub(super) fn open(&self) -> usize {
        self.open.len() - self.free.len()
    }

    fn get(&self, key: Key) -> Option<Open> {
        let index = (*self.by_client.get(key.index())?)?;
        self.open.get(usize::from(index))?.filter(|open| open.key == key)
    }

    /// The index of the exchange of the next datagram: one that is free, or else the last.
    fn next_exchange(&self) -> usize {
        self.free.last().map_or(self.open.len(), |index| usize::from(*index))
    }

    fn insert(&mut self, open: Open) {
        let by_client = self.by_client.get_mut(open.key.index());
        if let (Some(by_client), Some(index)) = (by_client, self.free.pop()) {
            *by_client = Some(index);
            self.open[usize::from(index)] = Some(open);
        }
    }

    fn remove(&mut self, key: Key) -> Option<Open> {
        self.get(key)?;
        let index = self.by_client.get_mut(key.index())?.take()?;
        self.free.push(index);
        self.open[usize::from(index)].take()
    }
}

impl<M: Machine> EventLoop<M> {
    /// Receives some datagrams from a listener; false if it is for connections.
    pub(super) fn receive_datagrams(&mut self, now: Instant, listener: usize) -> bool {
        let is_datagrams = self.listeners[listener].listener.is_datagrams();
        if is_datagrams && self.drain_deadline.is_none() {
            self.receive_from(now, listener);
        }
        is_datagrams
    }

    /// Receives from all listeners for the last time, before the drain.
    pub(super) fn receive_last_datagrams(&mut self, now: Instant) {
        for listener in 0..self.listeners.len() {
            if self.listeners[listener].listener.is_datagrams() {
                self.receive_from(now, listener);
            }
        }
    }

    /// Continues the exchange of a client that is a datagram; false if it is a connection.
    pub(super) fn flush_datagram(&mut self, now: Instant, peer: Peer) -> bool {
        let Peer::Client(key) = peer else { return false };
        let Some(open) = self.datagrams.get(key) else { return false };
        let pending = self.machine.pending(peer);
        let len = pending.len();
        let received = match pending {
            // The machine has given the client up: no answer will come.
            [] if self.machine.wants(peer).close => Received::Done,
            [] => Received::Incomplete,
            pending => self.datagrams.exchanges[open.exchange].receive(pending),
        };
        match received {
            Received::Incomplete => {}
            Received::Ask => {
                self.machine.sent(now, peer, len);
                self.send_request(key);
            }
            Received::Done => self.reply(key),
        }
        true
    }

    /// The machine's counters of clients, without those that were datagrams.
    pub(crate) fn connections(&self, counters: Counters) -> Counters {
        let Counts { requests, refused, .. } = self.datagrams.counts;
        Counters { accepted: counters.accepted.saturating_sub(requests - refused), ..counters }
    }

    /// The number of datagrams that were not answered properly.
    pub(crate) fn failed_datagrams(&self) -> u64 {
        let Counts { refused, malformed, unsent, .. } = self.datagrams.counts;
        refused + malformed + unsent
    }

    /// Prints the counters of datagrams, if a listener takes any.
    pub(crate) fn report_datagrams(&self, started: &Started) {
        if self.datagrams.open.is_empty() {
            return;
        }
        let Counts { requests, gets, hits, refused, malformed, unsent } = self.datagrams.counts;
        started.info(format_args!(
            "{requests} datagrams: {hits} of {gets} gets found, {refused} refused because no place \
             was free, {unsent} replies not sent; {malformed} malformed datagrams dropped"
        ));
    }

    fn receive_from(&mut self, now: Instant, listener: usize) {
        for _ in 0..DATAGRAMS_PER_TURN {
            let received = self.listeners[listener].listener.receive(&mut self.datagrams.buffer);
            let (len, from) = match received {
                Ok(Some(received)) => received,
                Ok(None) => return,
                // An error that an earlier datagram of ours has caused; each is reported once.
                Err(_) => continue,
            };
            let number = self.datagrams.next_exchange();
            let Datagrams { exchanges, buffer, .. } = &mut self.datagrams;
            match exchanges[number].begin(&mut buffer[..len]) {
                true => self.admit(now, listener, from, number),
                false => self.datagrams.counts.malformed += 1,
            }
        }
    }

    /// Makes a request a client of the machine, or refuses it.
    fn admit(&mut self, now: Instant, listener: usize, from: Sender, exchange: usize) {
        let command = self.datagrams.exchanges[exchange].command();
        self.datagrams.counts.requests += 1;
        self.datagrams.counts.gets += u64::from(command == Command::Get);
        let taken = self.connected + self.datagrams.open();
        let room = !self.datagrams.free.is_empty() && taken < self.clients.len();
        // The machine would count a datagram that it refuses as a connection.
        let Some(key) = room.then(|| self.machine.open(now)).flatten() else {
            self.datagrams.counts.refused += 1;
            return self.send_reply(exchange, from, listener);
        };
        self.datagrams.insert(Open { key, exchange, from, listener });
        self.send_request(key);
        // Mostly this is the answer.
        if let Some(next) = self.machine.advance(now) {
            self.flush(now, next);
        }
    }

    /// Gives the machine the next request of an exchange; `advance` will handle it.
    fn send_request(&mut self, key: Key) {
        let Some(open) = self.datagrams.get(key) else { return };
        let peer = Peer::Client(key);
        let exchange = &self.datagrams.exchanges[open.exchange];
        let len = exchange.request(self.machine.space(peer));
        self.machine.filled(peer, len.unwrap_or(0));
        if len.is_none() {
            self.reply(key);
        }
    }

    /// Replies with the outcome of an exchange, and removes it.
    fn reply(&mut self, key: Key) {
        if let Some(Open { exchange, from, listener, .. }) = self.datagrams.remove(key) {
            self.send_reply(exchange, from, listener);
        }
        self.machine.closed(Peer::Client(key));
    }

    /// Replies to a datagram, if that is due, and wipes its exchange.
    fn send_reply(&mut self, exchange: usize, to: Sender, listener: usize) {
        let Datagrams { counts, exchanges, .. } = &mut self.datagrams;
        let exchange = &mut exchanges[exchange];
        if let Some(reply) = exchange.reply() {
            let sent = self.listeners[listener].listener.send(reply, to);
            counts.hits += u64::from(sent && exchange.found());
            counts.unsent += u64::from(!sent);
        }
        exchange.clear();
    }
}

#[cfg(test)]
mod tests;
