//! The proxy's work for its servers: whose turn it is, and which one is given up.

use super::upstream::{GivenUp, Input, Link, Upstream};
use super::{Blocked, DIAL_GRACE, Memory, Proxy, count};
use crate::machine::Peer;
use crate::time::Instant;

/// How late a call may be before the proxy blames itself, and not a server, for a silence: in
/// milliseconds.
const LATE: u64 = 50;

impl<M: Memory> Proxy<M> {
    /// Does one piece of work for one of the servers.
    #[inline]
    pub(super) fn service(&mut self, now: Instant) -> Option<Peer> {
        if self.servers.iter().any(Upstream::has_work)
            && let Some(peer) = self.service_busy(now)
        {
            return Some(peer);
        }
        self.give_up_silent(now)
    }

    fn service_busy(&mut self, now: Instant) -> Option<Peer> {
        // A server with nothing left to do is not busy when it is looked at again.
        for _ in 0..self.servers.len() {
            let number = self.next_busy()?;
            if let Some(peer) = self.service_one(now, number) {
                return Some(peer);
            }
        }
        None
    }

    /// The next server in turn that has work.
    #[inline]
    fn next_busy(&mut self) -> Option<u8> {
        let (before, after) = self.servers.split_at_checked(self.turn.into())?;
        let busy = Upstream::has_work;
        let at = after.iter().position(busy).map(|at| before.len().saturating_add(at));
        let at = at.or_else(|| before.iter().position(busy))?;
        let number = u8::try_from(at).ok()?;
        let next = at.saturating_add(1);
        self.turn = if next < self.servers.len() { number.saturating_add(1) } else { 0 };
        Some(number)
    }

    fn service_one(&mut self, now: Instant, number: u8) -> Option<Peer> {
        let server = self.server(number)?;
        let (lost, unread) = (server.lost > 0, server.input != Input::Quiet);
        if lost {
            return self.reroute_lost(now, number);
        }
        if unread && let Some(peer) = self.receive(now, number) {
            return Some(peer);
        }
        self.send_waiting(now, number)
    }

    /// Gives up a server that has left something unanswered for too long.
    #[inline]
    fn give_up_silent(&mut self, now: Instant) -> Option<Peer> {
        if now == self.judged_at {
            return None;
        }
        let silent = |server: &Upstream| {
            let (end, millis) = self.patience_ends(server).filter(|(end, _)| *end <= now)?;
            Some((server.number(), end, millis))
        };
        let talking = self.servers.iter().filter(|server| server.is_talking());
        match talking.filter_map(silent).next() {
            Some((_, end, _)) if self.is_late(now, end) => None,
            Some((number, _, millis)) => self.abort(number, Some(GivenUp::Silent(millis))),
            None => {
                self.judged_at = now;
                None
            }
        }
    }

    /// Whether `end` is so long ago that the caller has not driven the proxy meanwhile. Answers may have
    /// arrived and not been read, so all servers get their time again.
    pub(super) fn is_late(&mut self, now: Instant, end: Instant) -> bool {
        let late = end.after(LATE) < now && self.woken < now;
        if late {
            self.woken = now;
        }
        late
    }

    /// When the server's connection is given up, or the attempt to connect cancelled, unless it
    /// answers; and after how many milliseconds that is.
    pub(super) fn patience_ends(&self, server: &Upstream) -> Option<(Instant, u64)> {
        let terms = &self.terms;
        let limit = |since: Instant, millis: Option<u64>| {
            millis.map(|millis| (since.max(self.woken).after(millis), millis))
        };
        match server.link {
            Link::Down | Link::Closing => None,
            Link::Dialing => limit(server.dialed?, terms.patience),
            Link::Probing { since } => limit(since, terms.probe_patience),
            Link::Up { answered_at, .. } => {
                let oldest = self.in_flight.get(self.in_flight.front(&server.open)?)?;
                let silent = limit(oldest.since.max(answered_at), terms.server_patience);
                let one = limit(oldest.since, terms.patience);
                silent.into_iter().chain(one).min()
            }
        }
    }

    /// The time until which requests wait for connections that are being made.
    #[inline]
    pub(super) fn grace(&self) -> Option<Instant> {
        if self.not_up == 0 {
            return None;
        }
        let any_up = self.servers.iter().any(Upstream::is_up);
        self.servers.iter().filter_map(|server| server.grace(any_up)).max()
    }

    /// The server has answered the probe.
    pub(super) fn rise(&mut self, now: Instant, number: u8) {
        let Some(server) = self.servers.get_mut(usize::from(number)) else {
            return;
        };
        // Requests may have gone elsewhere while it took so long.
        server.may_lack_data |= server.dialed.is_none_or(|at| at.after(DIAL_GRACE) <= now);
        server.link = Link::Up { answered_at: now, can_send: true };
        self.not_up = self.not_up.saturating_sub(1);
        self.blocked = Blocked::No;
    }

    /// Starts to close a server's connection: it has ended or, with a reason, is given up.
    pub(super) fn abort(&mut self, number: u8, why: Option<GivenUp>) -> Option<Peer> {
        self.blocked = Blocked::No;
        let server = self.servers.get_mut(usize::from(number))?;
        if server.is_up() {
            self.not_up = self.not_up.saturating_add(1);
        }
        server.abort();
        if why.is_some() {
            server.given_up = why;
            count(&mut server.traffic.given_up);
        }
        Some(Peer::Server(server.key()))
    }

    /// The next server whose wants have changed.
    #[inline]
    pub(super) fn wants_changed(&mut self) -> Option<Peer> {
        let server = self.servers.iter_mut().find(|server| server.wants_changed)?;
        server.wants_changed = false;
        Some(Peer::Server(server.key()))
    }
}
