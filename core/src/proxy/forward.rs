//! From clients to servers: admit a request, route it to a server, send it.

use super::in_flight::{Aim, InFlight, Kept};
use super::seal::Sealing;
use super::upstream::{Upstream, hash};
use super::{Blocked, Memory, Proxy, count};
use crate::machine::Peer;
use crate::message::{Request, Status, raise_ttl};
use crate::slots::Key;
use crate::time::Instant;
use crate::wire::{self, Direction, Envelope, HEADER_LEN, Message, Op};

/// The server for a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Route {
    /// This one.
    Server(u8),
    /// This one, but its share is used up by requests whose clients wait.
    Busy(u8),
    /// No server is left.
    Nowhere,
}

/// The result of an attempt to start a client's request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Start {
    /// It cannot start yet.
    Blocked(Blocked),
    /// It is in flight, or answered.
    Done,
    /// It is not a valid request.
    Malformed,
    /// No buffer is free for its answer.
    NoBuffer,
    /// There is no complete request, or the client has one in flight or an answer to read.
    Nothing,
}

impl<M: Memory> Proxy<M> {
    /// When the first client's request can start: [`Instant::ORIGIN`] if at once; `None` if there is
    /// none, or if it waits for an event.
    #[inline]
    pub(super) fn admit_at(&self) -> Option<Instant> {
        self.clients.first().and_then(|_| self.unblocked_at())
    }

    #[inline]
    const fn unblocked_at(&self) -> Option<Instant> {
        match self.blocked {
            Blocked::No => Some(Instant::ORIGIN),
            Blocked::ForConnection(end) => Some(end),
            Blocked::ForInFlight => None,
        }
    }

    /// Starts the request of the first client in turn. `None` if there is none, or it cannot start now.
    #[inline]
    pub(super) fn admit(&mut self, now: Instant) -> Option<Peer> {
        let key = self.clients.first()?;
        if self.unblocked_at().is_none_or(|at| at > now) {
            return None;
        }
        self.blocked = Blocked::No;
        match self.start(now, key) {
            Start::Blocked(why) => {
                self.blocked = why;
                return None;
            }
            Start::NoBuffer => {
                self.clients.wait_for_room(key);
                return Some(Peer::Client(key));
            }
            Start::Malformed => {
                self.clients.take(key);
                self.clients.malformed(key);
                self.clients.retime(now, key, false);
            }
            done @ (Start::Done | Start::Nothing) => {
                self.clients.take(key);
                self.clients.retime(now, key, done == Start::Done);
            }
        }
        Some(Peer::Client(key))
    }

    fn start(&mut self, now: Instant, key: Key) -> Start {
        let (request, id) = match self.next_request(key) {
            Ok(next) => next,
            Err(start) => return start,
        };
        if request.header.op == Op::Copy {
            return self.refuse_copy(now, key, &request);
        }
        if let Some(end) = self.grace().filter(|end| now < *end) {
            return Start::Blocked(Blocked::ForConnection(end));
        }
        let route = self.choose(Aim::new(request.header.op, id));
        if let Route::Busy(_) = route {
            return Start::Blocked(Blocked::ForInFlight);
        }
        let Some((conn, pool)) = self.clients.get(key) else {
            return Start::Nothing;
        };
        if !conn.outbox.reserve(pool) {
            return Start::NoBuffer;
        }
        if self.sealing.is_some()
            && let Some(status) = Sealing::refusal(&request, conn.inbox.bytes(pool))
        {
            count(&mut self.traffic.requests);
            count(&mut self.traffic.answered);
            self.write_status(key, &request.header, status);
            self.free_client(now, key, request.wire_len);
            return Start::Done;
        }
        let Route::Server(number) = route else {
            count(&mut self.traffic.requests);
            count(&mut self.traffic.disconnected);
            self.write_status(key, &request.header, Status::DISCONNECTED);
            self.free_client(now, key, request.wire_len);
            return Start::Done;
        };
        let mut in_flight = InFlight::new(now, key, request, id, self.sealing.is_some());
        in_flight.fetches = self.terms.copies > 1;
        let Ok(in_flight) = self.in_flight.insert(in_flight) else {
            return Start::Blocked(Blocked::ForInFlight);
        };
        conn.in_flight = Some(in_flight);
        count(&mut self.traffic.requests);
        self.visit(now, in_flight, number);
        Start::Done
    }

    /// Answers a COPY. What a server allows, it allows to those that connect to it.
    fn refuse_copy(&mut self, now: Instant, key: Key, request: &Message) -> Start {
        let Some((conn, pool)) = self.clients.get(key) else {
            return Start::Nothing;
        };
        if !conn.outbox.reserve(pool) {
            return Start::NoBuffer;
        }
        count(&mut self.traffic.requests);
        count(&mut self.traffic.answered);
        self.write_status(key, &request.header, Status::UNSUPPORTED);
        self.free_client(now, key, request.wire_len);
        Start::Done
    }

    /// The next request of a client, and the hash of its id if there are several servers.
    #[inline]
    fn next_request(&mut self, key: Key) -> Result<(Message, u64), Start> {
        let (conn, pool) = self.clients.get(key).ok_or(Start::Nothing)?;
        if conn.in_flight.is_some() || !conn.outbox.is_empty() {
            return Err(Start::Nothing);
        }
        let wire = conn.inbox.bytes(pool);
        let message = match Message::measure(wire, Direction::Request) {
            Ok(Some(message)) => message,
            Ok(None) => return Err(Start::Nothing),
            Err(_) => return Err(Start::Malformed),
        };
        // A malformed payload would make the server close the connection that all clients share.
        let request = Request::parse(message.header.op, message.first_frame(wire));
        let request = request.map_err(|_| Start::Malformed)?;
        // Every server refuses a request that does not parse.
        let id = match request {
            Ok(request) if self.servers.len() > 1 => hash(request.id().bytes()),
            _ => 0,
        };
        Ok((message, id))
    }

    /// Chooses the best server that is up and not visited yet. Skips servers whose share is used up by
    /// requests whose clients have left.
    #[inline]
    pub(super) fn choose(&mut self, aim: Aim) -> Route {
        let share = self.share;
        if let [server] = &*self.servers {
            return match server.is_up() && !aim.has_visited(0) {
                false => Route::Nowhere,
                true if server.load() < share => Route::Server(0),
                true if server.orphans > server.repairs => Route::Nowhere,
                true => Route::Busy(0),
            };
        }
        let mut left = aim;
        while let Some(number) = self.best_server(left) {
            let Some(server) = self.servers.get_mut(usize::from(number)) else {
                break;
            };
            if server.load() < share {
                return Route::Server(number);
            }
            if server.orphans == server.repairs {
                return Route::Busy(number);
            }
            // The server does not get this change.
            server.may_lack_data |= aim.changes;
            left = left.without(number);
        }
        Route::Nowhere
    }

    fn best_server(&self, aim: Aim) -> Option<u8> {
        let left = |(number, server): &(u8, &Upstream)| server.is_up() && !aim.has_visited(*number);
        let left = (0..=u8::MAX).zip(&*self.servers).filter(left);
        let best = if self.terms.anycast {
            // Among servers with equally few requests the id chooses, so none is always the first.
            left.min_by_key(|(_, server)| (server.load(), server.rank(aim.id)))
        } else {
            left.max_by_key(|(_, server)| server.rank(aim.id))
        };
        best.map(|(number, _)| number)
    }

    /// Sends a request to its next server; answers the client if there is none.
    pub(super) fn route(&mut self, now: Instant, key: Key) {
        if self.leave_to_twin(key) {
            return;
        }
        let aim =
            self.in_flight.get(key).filter(|in_flight| in_flight.is_kept()).map(InFlight::aim);
        match aim.map_or(Route::Nowhere, |aim| self.choose(aim)) {
            // Its client waits already, so a full share makes no difference.
            Route::Server(number) | Route::Busy(number) => self.visit(now, key, number),
            Route::Nowhere => self.answer_outcome(now, key),
        }
    }

    /// Sends a request to this server, if it has the operation.
    fn visit(&mut self, now: Instant, key: Key, number: u8) {
        let Some(server) = self.servers.get(usize::from(number)) else {
            return;
        };
        let first = server.waiting.is_empty();
        let in_flight = self.in_flight.get_mut(key);
        if !in_flight.is_some_and(|in_flight| in_flight.visit(number, server.level)) {
            return self.answer(now, key, Status::UNSUPPORTED);
        }
        self.send_to(now, key, number, first);
    }

    /// Sends a request to its server, or queues it until the server's outbox has room.
    pub(super) fn send(&mut self, now: Instant, key: Key) {
        let Some(number) = self.in_flight.get(key).map(|in_flight| in_flight.server) else {
            return;
        };
        let first = self.server(number).is_some_and(|server| server.waiting.is_empty());
        self.send_to(now, key, number, first);
    }

    /// Like `send`, for a server that is known; `first` if no other request waits for it.
    #[inline]
    fn send_to(&mut self, now: Instant, key: Key, number: u8, first: bool) {
        if first && self.try_send(now, key) {
            return self.await_hedge(key);
        }
        if let Some(server) = self.servers.get_mut(usize::from(number)) {
            self.in_flight.enqueue(&mut server.waiting, key);
        }
    }

    /// Copies a request to the outbox of its server; false if it does not fit.
    fn try_send(&mut self, now: Instant, key: Key) -> bool {
        let ticket = self.in_flight.ticket(key);
        let Some(in_flight) = self.in_flight.get_mut(key) else {
            return false;
        };
        let Some(server) = self.servers.get_mut(usize::from(in_flight.server)) else {
            return false;
        };
        let Some((conn, pool)) = in_flight.client.and_then(|client| self.clients.get(client))
        else {
            return false;
        };
        // Compact the outbox first.
        server.outbox.space(pool);
        let envelope = Envelope::request(ticket, in_flight.op);
        let (request, min_ttl) = (&in_flight.request, self.terms.min_ttl);
        let between = pool.between(&conn.inbox, &server.outbox);
        let written = between.and_then(|(wire, room)| match &mut self.sealing {
            Some(sealing) if in_flight.is_stored_sealed() => {
                sealing.write_request(now, request, wire, &envelope, min_ttl, room)
            }
            _ => write_request(request, wire, &envelope, min_ttl, room),
        });
        let Some(len) = written else {
            return false;
        };
        server.wants_changed |= server.outbox.is_empty();
        server.outbox.filled(pool, len);
        // With several copies it visits further servers. With a store that is shared, one that changes
        // no data is sent to another server if it is lost.
        let reads = matches!(in_flight.op, Op::Get | Op::Have | Op::Fetch);
        let is_repeatable = self.terms.anycast && reads;
        if self.terms.copies <= 1 && !is_repeatable {
            in_flight.kept = Kept::ForId;
            if !in_flight.is_opened() {
                in_flight.kept = Kept::No;
                conn.inbox.consume(pool, in_flight.request.wire_len);
            }
        }
        in_flight.since = now;
        self.in_flight.enqueue(&mut server.open, key);
        count(&mut server.traffic.forwarded);
        true
    }

    /// Sends the first of the requests that wait for a server's outbox; to another server, if this one
    /// is down. `None` if there is still no room for it.
    pub(super) fn send_waiting(&mut self, now: Instant, number: u8) -> Option<Peer> {
        let server = self.servers.get_mut(usize::from(number))?;
        let (up, level) = (server.is_up(), server.level);
        let key = self.in_flight.front(&server.waiting)?;
        let in_flight = self.in_flight.get_mut(key)?;
        let client = in_flight.client?;
        // Its operation was chosen on a connection that may be gone.
        let fits = !up || in_flight.op.level() <= level || in_flight.visit(number, level);
        if up && fits && !self.try_send(now, key) {
            self.servers.get_mut(usize::from(number))?.set_can_send(false);
            return None;
        }
        let server = self.servers.get_mut(usize::from(number))?;
        self.in_flight.unlink(&mut server.waiting, key);
        self.blocked = Blocked::No;
        match (up, fits) {
            (false, _) => self.route(now, key),
            (true, false) => self.answer(now, key, Status::UNSUPPORTED),
            (true, true) => self.await_hedge(key),
        }
        Some(Peer::Client(client))
    }

    /// Routes one request that was lost with its connection. `None` if there is none.
    pub(super) fn reroute_lost(&mut self, now: Instant, number: u8) -> Option<Peer> {
        let server = self.servers.get_mut(usize::from(number))?;
        server.lost = server.lost.checked_sub(1)?;
        let key = self.in_flight.dequeue(&mut server.open)?;
        count(&mut server.traffic.lost);
        self.in_flight.unlink(&mut self.hedgeable, key);
        self.blocked = Blocked::No;
        let Some(client) = self.in_flight.get(key)?.client else {
            self.remove(key);
            return self.server(number).map(|server| Peer::Server(server.key()));
        };
        self.route(now, key);
        Some(Peer::Client(client))
    }
}

/// Writes a client's `request` in another envelope. If that asks for a REMOVE, the session is left out.
#[inline]
fn write_request(
    request: &Message,
    wire: &[u8],
    envelope: &Envelope,
    min_ttl: u32,
    out: &mut [u8],
) -> Option<usize> {
    if envelope.op == Op::Remove && request.header.op.stores() {
        let parsed = Request::parse(request.header.op, request.first_frame(wire)).ok()?.ok()?;
        let len = Request::Remove(parsed.id()).write(out.get_mut(HEADER_LEN..)?)?;
        return wire::frame(out, envelope, len);
    }
    let len = request.relabel(wire, envelope, out)?;
    if envelope.op.stores() {
        raise_ttl(out.get_mut(HEADER_LEN..)?, min_ttl);
    }
    Some(len)
}
