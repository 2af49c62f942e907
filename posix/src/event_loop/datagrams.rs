//! Requests that come as datagrams: each is a client of the machine for as long as it takes.
//!
//! ```text
//!  datagram ──► Exchange ── request ──► space/filled ─┐
//!                  ▲                                  machine
//!  datagram ◄── reply ◄──── receive ◄──── pending/sent ◄─┘
//! ```
//!
//! What they may have of the machine's places is bounded, so that those who need no connection, and
//! can lie about who they are, leave room for those who have one. Who sends datagrams does not wait
//! for long: what can't be asked now is answered now that nothing was found.

use distcache_core::Counters;
use distcache_core::machine::{Machine, Peer};
use distcache_core::sessiond::{Command, Exchange, Heard, PACKET_MAX};
use distcache_core::slots::Key;
use distcache_core::time::Instant;

use super::EventLoop;
use crate::net::datagram::Sender;
use crate::net::listener::Listener;
use crate::process::start::Started;

/// The most datagrams that one listener is asked for in a turn.
const HELPING: usize = 64;
/// The most datagrams that are being answered at a time.
const ASKERS_MAX: usize = 256;

/// What became of datagrams, counted from the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Tally {
    /// Those that were requests.
    requests: u64,
    /// Requests to fetch a value.
    gets: u64,
    /// Those of `gets` that were answered with a value.
    hits: u64,
    /// Requests that were not passed on for want of a place.
    refused: u64,
    /// Those that were no requests.
    dropped: u64,
    /// Replies that the system did not take.
    unsent: u64,
}

/// The datagrams that are being answered.
#[derive(Debug)]
pub(crate) struct Datagrams {
    tally: Tally,
    /// Who has a place of the machine, by the number of that place; empty where no listener takes
    /// datagrams.
    places: Box<[Option<u16>]>,
    askers: Box<[Option<Asker>]>,
    /// Numbers of `askers` that are free. It has room for all of them.
    free: Vec<u16>,
    /// One byte more than the longest that is lawful, to know longer ones.
    buffer: [u8; PACKET_MAX + 1],
}

#[derive(Debug)]
struct Asker {
    key: Key,
    exchange: Exchange,
    from: Sender,
    /// The number of the listener that it came to.
    listener: usize,
}

impl Datagrams {
    /// For a machine with as many places as `clients`.
    pub(super) fn new(clients: usize, listeners: &[Listener]) -> Self {
        let some = listeners.iter().any(Listener::is_datagrams);
        let (clients, most) = if some { (clients, (clients / 2).max(1)) } else { (0, 0) };
        let most = most.min(ASKERS_MAX);
        Self {
            tally: Tally::default(),
            places: vec![None; clients].into(),
            askers: std::iter::repeat_with(|| None).take(most).collect(),
            free: (0..most as u16).collect(),
            buffer: [0; PACKET_MAX + 1],
        }
    }

    /// How many are being answered.
    pub(super) fn open(&self) -> usize {
        self.askers.len() - self.free.len()
    }

    fn asker(&mut self, key: Key) -> Option<&mut Asker> {
        let number = (*self.places.get(key.index())?)?;
        self.askers.get_mut(usize::from(number))?.as_mut().filter(|asker| asker.key == key)
    }

    fn begin(&mut self, asker: Asker) {
        let place = self.places.get_mut(asker.key.index());
        if let (Some(place), Some(number)) = (place, self.free.pop()) {
            *place = Some(number);
            self.askers[usize::from(number)] = Some(asker);
        }
    }

    fn end(&mut self, key: Key) -> Option<Asker> {
        self.asker(key)?;
        let number = self.places.get_mut(key.index())?.take()?;
        self.free.push(number);
        self.askers[usize::from(number)].take()
    }
}

impl<M: Machine> EventLoop<M> {
    /// Takes some of the datagrams that have come to a listener; true where it is for connections.
    pub(super) fn is_for_connections(&mut self, now: Instant, listener: usize) -> bool {
        if !self.listeners[listener].listener.is_datagrams() {
            return true;
        }
        if self.end_by.is_none() {
            self.take_datagrams(now, listener);
        }
        false
    }

    /// Takes what has come to all listeners, for the last time.
    pub(super) fn take_last_datagrams(&mut self, now: Instant) {
        for listener in 0..self.listeners.len() {
            if self.listeners[listener].listener.is_datagrams() {
                self.take_datagrams(now, listener);
            }
        }
    }

    /// Goes on with the datagram of this peer; false where it is a connection's.
    pub(super) fn flush_datagram(&mut self, now: Instant, peer: Peer) -> bool {
        let Peer::Client(key) = peer else { return false };
        let Some(asker) = self.datagrams.asker(key) else { return false };
        let said = self.machine.pending(peer);
        let len = said.len();
        let heard = match said {
            // Where the machine has given it up, nothing will come.
            [] if self.machine.wants(peer).close => Heard::Over,
            [] => Heard::Part,
            said => asker.exchange.hear(said),
        };
        match heard {
            Heard::Part => {}
            Heard::Ask => {
                self.machine.sent(now, peer, len);
                self.ask(key);
            }
            Heard::Over => self.reply(key),
        }
        true
    }

    /// What became of clients that are connections.
    pub(crate) fn connections(&self, counters: Counters) -> Counters {
        let Tally { requests, refused, .. } = self.datagrams.tally;
        Counters { accepted: counters.accepted.saturating_sub(requests - refused), ..counters }
    }

    /// How many datagrams came in vain.
    pub(crate) fn datagrams_in_vain(&self) -> u64 {
        let Tally { refused, dropped, unsent, .. } = self.datagrams.tally;
        refused + dropped + unsent
    }

    /// Prints what became of datagrams, where any can come.
    pub(crate) fn report_datagrams(&self, started: &Started) {
        if self.datagrams.askers.is_empty() {
            return;
        }
        let Tally { requests, gets, hits, refused, dropped, unsent } = self.datagrams.tally;
        started.info(format_args!(
            "{requests} datagrams: {hits} of {gets} gets found, {refused} refused for want of a \
             place, {unsent} replies not sent; {dropped} more dropped"
        ));
    }

    fn take_datagrams(&mut self, now: Instant, listener: usize) {
        for _ in 0..HELPING {
            let received = self.listeners[listener].listener.receive(&mut self.datagrams.buffer);
            let (len, from) = match received {
                Ok(Some(received)) => received,
                Ok(None) => return,
                // One error a datagram: the system tells of what became of an earlier one.
                Err(_) => continue,
            };
            match Exchange::new(&self.datagrams.buffer[..len]) {
                Some(exchange) => self.admit(now, listener, from, exchange),
                None => self.datagrams.tally.dropped += 1,
            }
        }
    }

    /// Finds a place for a request, or refuses it.
    fn admit(&mut self, now: Instant, listener: usize, from: Sender, exchange: Exchange) {
        self.datagrams.tally.requests += 1;
        self.datagrams.tally.gets += u64::from(exchange.command() == Command::Get);
        let taken = self.connected + self.datagrams.open();
        let room = !self.datagrams.free.is_empty() && taken < self.clients.len();
        // The machine counts whom it refuses as clients, which this is not.
        let Some(key) = room.then(|| self.machine.open(now)).flatten() else {
            self.datagrams.tally.refused += 1;
            return self.send_reply(&exchange, from, listener);
        };
        self.datagrams.begin(Asker { key, exchange, from, listener });
        self.ask(key);
        // Mostly that is what comes of it.
        if let Some(next) = self.machine.advance(now) {
            self.flush(now, next);
        }
    }

    /// Lets the machine have the next request of a datagram; `advance` will see to it.
    fn ask(&mut self, key: Key) {
        let Some(asker) = self.datagrams.asker(key) else { return };
        let peer = Peer::Client(key);
        let len = asker.exchange.request(self.machine.space(peer));
        self.machine.filled(peer, len.unwrap_or(0));
        if len.is_none() {
            self.reply(key);
        }
    }

    /// Ends what a datagram began, with whatever came of it.
    fn reply(&mut self, key: Key) {
        if let Some(Asker { exchange, from, listener, .. }) = self.datagrams.end(key) {
            self.send_reply(&exchange, from, listener);
        }
        self.machine.closed(Peer::Client(key));
    }

    fn send_reply(&mut self, exchange: &Exchange, to: Sender, listener: usize) {
        let Some(reply) = exchange.reply() else { return };
        let sent = self.listeners[listener].listener.send(reply, to);
        let tally = &mut self.datagrams.tally;
        tally.hits += u64::from(sent && exchange.found());
        tally.unsent += u64::from(!sent);
    }
}

#[cfg(test)]
mod tests;
