//! How requests get from clients to servers, and answers back.

use super::in_flight::{InFlight, Outcome, Step};
use super::probe::Probe;
use super::upstream::{Phase, STRAYS_MAX, Upstream, hash};
use super::{Aim, Blocked, GivenUp, Next, Proxy, count};
use crate::id::ID_MAX;
use crate::machine::Peer;
use crate::message::{ADD_FIXED_LEN, Status, raise_ttl};
use crate::slots::Key;
use crate::time::Instant;
use crate::wire::{self, Direction, Envelope, HEADER_LEN, Header, LEVEL, Malformed, Message, Op};

/// How far a request got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Start {
    /// Nowhere, before something happens.
    Blocked(Blocked),
    /// On its way, or answered.
    Done,
    /// It is none.
    Malformed,
    /// Nowhere, for want of a buffer for its answer.
    NoBuffer,
    /// There is no whole request, or it is not its turn.
    Nothing,
}

impl Proxy<'_> {
    /// Looks after the first client that waits for its turn. `None` where there is none, or where
    /// its request can't start now.
    pub(super) fn admit(&mut self, now: Instant) -> Option<Peer> {
        let key = self.clients.first()?;
        let started = self.start(now, key);
        self.blocked = match started {
            Start::Blocked(why) => why,
            _ => Blocked::No,
        };
        if self.blocked != Blocked::No {
            return None;
        }
        if started == Start::NoBuffer {
            self.clients.wait_for_room(key);
            return Some(Peer::Client(key));
        }
        self.clients.take(key);
        if started == Start::Malformed {
            self.clients.malformed(key);
        }
        self.clients.retime(now, key, started == Start::Done);
        Some(Peer::Client(key))
    }

    fn start(&mut self, now: Instant, key: Key) -> Start {
        let Some((conn, pool)) = self.clients.get(key) else {
            return Start::Nothing;
        };
        if conn.in_flight.is_some() || !conn.outbox.is_empty() {
            return Start::Nothing;
        }
        let wire = conn.inbox.bytes(pool);
        let message = match Message::measure(wire, Direction::Request) {
            Ok(Some(message)) => message,
            Ok(None) => return Start::Nothing,
            Err(_) => return Start::Malformed,
        };
        // The server would close the connection of everybody for this.
        if message.header.op.stores() && message.payload_len < ADD_FIXED_LEN {
            return Start::Malformed;
        }
        let id = if self.servers.len() > 1 { hash(id_of(&message, wire)) } else { 0 };
        if let Some(end) = self.grace().filter(|end| now < *end) {
            return Start::Blocked(Blocked::ForConnection(end));
        }
        let mut in_flight = InFlight::new(now, key, message, id);
        let next = self.next_server(in_flight.aim());
        if let Next::Busy(_) = next {
            return Start::Blocked(Blocked::ForFlight);
        }
        let Some((conn, pool)) = self.clients.get(key) else {
            return Start::Nothing;
        };
        if !conn.outbox.reserve(pool) {
            return Start::NoBuffer;
        }
        let Next::Server(number) = next else {
            count(&mut self.traffic.requests);
            self.reply(key, &message.header, Status::DISCONNECTED);
            self.conclude(now, &in_flight);
            return Start::Done;
        };
        in_flight.server = number;
        let Ok(in_flight) = self.in_flight.insert(in_flight) else {
            return Start::Blocked(Blocked::ForFlight);
        };
        conn.in_flight = Some(in_flight);
        count(&mut self.traffic.requests);
        self.visit(now, in_flight, number);
        Start::Done
    }

    /// The best server for a request in flight among those that are up and that it has not tried. One whose share
    /// is used up by requests that nobody waits for is left out.
    #[inline]
    pub(super) fn next_server(&mut self, aim: Aim) -> Next {
        let share = self.share;
        if let [server] = &*self.servers {
            return match server.is_up() && !aim.has_visited(0) {
                false => Next::Nobody,
                true if server.load() < share => Next::Server(0),
                true if server.orphans > 0 => Next::Nobody,
                true => Next::Busy(0),
            };
        }
        let mut left = aim;
        while let Some(number) = self.best_server(left) {
            let Some(server) = self.servers.get_mut(usize::from(number)) else {
                break;
            };
            if server.load() < share {
                return Next::Server(number);
            }
            if server.orphans == 0 {
                return Next::Busy(number);
            }
            // It lacks what goes elsewhere now.
            server.may_lack_data |= aim.changes;
            left = left.without(number);
        }
        Next::Nobody
    }

    /// The best server for a request in flight among those that are up and that it has not tried.
    fn best_server(&self, aim: Aim) -> Option<u8> {
        let left = |(number, server): &(u8, &Upstream)| server.is_up() && !aim.has_visited(*number);
        let left = (0..=u8::MAX).zip(&*self.servers).filter(left);
        let best = if self.config.anycast {
            // Of several that have nothing to do the id chooses, so that none is always the first.
            left.min_by_key(|(_, server)| (server.load(), server.rank(aim.id)))
        } else {
            left.max_by_key(|(_, server)| server.rank(aim.id))
        };
        best.map(|(number, _)| number)
    }

    /// Asks the next server, or gives the client the answer where there is none to be asked.
    pub(super) fn route(&mut self, now: Instant, key: Key) {
        if self.leave_to_twin(key) {
            return;
        }
        let aim = self.in_flight.get(key).filter(|in_flight| in_flight.is_kept).map(InFlight::aim);
        match aim.map_or(Next::Nobody, |aim| self.next_server(aim)) {
            // Its client waits already: it makes no difference where.
            Next::Server(number) | Next::Busy(number) => self.visit(now, key, number),
            Next::Nobody => self.finish(now, key),
        }
    }

    /// Asks this server.
    fn visit(&mut self, now: Instant, key: Key, number: u8) {
        let level = self.server(number).map_or(0, |server| server.level);
        if self.in_flight.get_mut(key).is_some_and(|in_flight| in_flight.visit(number, level)) {
            self.send(now, key);
        } else {
            self.answer(now, key, Status::UNSUPPORTED);
        }
    }

    /// Sends the request in flight's request to its server, or has it wait until there is room for it.
    pub(super) fn send(&mut self, now: Instant, key: Key) {
        let Some(number) = self.in_flight.get(key).map(|in_flight| in_flight.server) else {
            return;
        };
        let first = self.server(number).is_some_and(|server| server.waiting.is_empty());
        if first && self.try_send(now, key) {
            return self.await_hedge(key);
        }
        if let Some(server) = self.servers.get_mut(usize::from(number)) {
            self.in_flight.enqueue(&mut server.waiting, key);
        }
    }

    /// Copies the request in flight's request to its server's outbox; false where that has no room for it.
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
        // What there is of it now, it may have to be moved together for.
        server.outbox.space(pool);
        let (op, min_ttl) = (in_flight.op, self.config.min_ttl);
        let between = pool.between(&conn.inbox, &server.outbox);
        let copied = between.and_then(|(wire, room)| {
            let envelope = Envelope::request(ticket, op);
            if op == Op::Remove && in_flight.request.header.op.stores() {
                return write_id(&envelope, id_of(&in_flight.request, wire), room);
            }
            let len = in_flight.request.relabel(wire, &envelope, room)?;
            if op.stores() {
                raise_ttl(room.get_mut(HEADER_LEN..)?, min_ttl);
            }
            Some(len)
        });
        let Some(len) = copied else {
            return false;
        };
        server.outbox.filled(pool, len);
        server.wants_changed = true;
        // What asks twice for nothing more than once can be asked elsewhere if it is lost here.
        let again = self.config.anycast && matches!(op, Op::Get | Op::Have);
        if self.config.copies <= 1 && !again {
            in_flight.is_kept = false;
            conn.inbox.consume(pool, in_flight.request.wire_len);
        }
        in_flight.since = now;
        self.in_flight.enqueue(&mut server.open, key);
        count(&mut server.traffic.forwarded);
        true
    }

    /// Sends the first of the requests in request in flight that wait for a server; or to another server, where that one is
    /// gone. `None` where there is still no room for it.
    pub(super) fn resume(&mut self, now: Instant, number: u8) -> Option<Peer> {
        let server = self.servers.get_mut(usize::from(number))?;
        let (up, level) = (server.is_up(), server.level);
        let key = self.in_flight.front(&server.waiting)?;
        let in_flight = self.in_flight.get_mut(key)?;
        let client = in_flight.client?;
        // What it asks for was chosen on a connection that may be gone.
        let fits = !up || in_flight.op.level() <= level || in_flight.visit(number, level);
        if up && fits && !self.try_send(now, key) {
            self.servers.get_mut(usize::from(number))?.can_send = false;
            return None;
        }
        let server = self.servers.get_mut(usize::from(number))?;
        self.in_flight.unlink(&mut server.waiting, key);
        match (up, fits) {
            (false, _) => self.route(now, key),
            (true, false) => self.answer(now, key, Status::UNSUPPORTED),
            (true, true) => self.await_hedge(key),
        }
        Some(Peer::Client(client))
    }

    /// Passes the server's next whole answer back. `None` where there is none.
    pub(super) fn receive(&mut self, now: Instant, number: u8) -> Option<Peer> {
        let server = self.servers.get_mut(usize::from(number))?;
        if !server.is_talking() {
            return None;
        }
        let bytes = server.inbox.bytes(&self.clients.pool);
        let message = match Message::measure(bytes, Direction::Response) {
            Ok(Some(message)) => message,
            Ok(None) => {
                (server.unread, server.wants_changed) = (false, true);
                let over = server.input_over;
                return if over { self.abort(number, None) } else { None };
            }
            Err(_) => return self.abort(number, Some(GivenUp::Malformed)),
        };
        let received = if server.phase == Phase::Probing {
            self.hear_probe(now, number, &message)
        } else {
            self.deliver(now, number, &message)
        };
        let server = self.servers.get_mut(usize::from(number))?;
        server.inbox.consume(&mut self.clients.pool, message.wire_len);
        match received {
            Ok(Some(key)) => Some(Peer::Client(key)),
            Ok(None) if server.strays > STRAYS_MAX => self.abort(number, Some(GivenUp::Strays)),
            Ok(None) => self.peer(number),
            Err(_) => self.abort(number, Some(GivenUp::Malformed)),
        }
    }

    /// Looks at an answer on a connection on which the probe is open.
    fn hear_probe(
        &mut self,
        now: Instant,
        number: u8,
        message: &Message,
    ) -> Result<Option<Key>, Malformed> {
        let Some(server) = self.servers.get_mut(usize::from(number)) else {
            return Ok(None);
        };
        match server.probed(now, &message.header)? {
            Probe::Answered => self.rise(now, number),
            Probe::Stray => server.stray(),
        }
        Ok(None)
    }

    /// Does with the answer at the front of the inbox what is to be done with it, and says to whom.
    fn deliver(
        &mut self,
        now: Instant,
        number: u8,
        message: &Message,
    ) -> Result<Option<Key>, Malformed> {
        let (header, copies) = (message.header, self.config.copies);
        let Some(server) = self.servers.get_mut(usize::from(number)) else {
            return Ok(None);
        };
        let key = self.in_flight.by_ticket(header.uid);
        let key = key.filter(|key| self.in_flight.is_queued(&server.open, *key));
        let Some((key, in_flight)) = key.and_then(|key| Some((key, self.in_flight.get_mut(key)?)))
        else {
            server.stray();
            return Ok(None);
        };
        if in_flight.op != header.op {
            return Err(Malformed::Payload);
        }
        (server.level, server.heard, server.strays) = (header.patch, now, 0);
        count(&mut server.traffic.answered);
        let client = in_flight.client;
        let Some((client, (conn, pool))) =
            client.and_then(|client| Some((client, self.clients.get(client)?)))
        else {
            self.in_flight.unlink(&mut server.open, key);
            self.end(key);
            return Ok(None);
        };
        let first = server.inbox.bytes(pool).get(HEADER_LEN).copied();
        let status = match message.payload_len {
            0 => Some(Status::DISCONNECTED),
            1 => first.map(Status),
            _ => None,
        };
        let step = in_flight.on_reply(status, server.may_lack_data, copies);
        if let Step::Pass | Step::Hold = step {
            let level = LEVEL.min(header.patch);
            let envelope = Envelope::answer(&in_flight.request.header, level);
            if let Some((wire, room)) = pool.between(&server.inbox, &conn.outbox) {
                let len = message.relabel(wire, &envelope, room).unwrap_or(0);
                conn.outbox.filled(pool, len);
            }
        }
        self.in_flight.unlink(&mut server.open, key);
        if copies > 1 {
            self.in_flight.unlink(&mut self.hedgeable, key);
        }
        match step {
            Step::Pass => self.complete(now, key),
            Step::Hold | Step::Next => self.route(now, key),
            Step::Finish => self.finish(now, key),
            Step::Again(op) => {
                if let Some(in_flight) = self.in_flight.get_mut(key) {
                    in_flight.op = op;
                }
                self.send(now, key);
            }
        }
        Ok(Some(client))
    }

    /// Looks after one request that was lost with its connection. `None` where there are none.
    pub(super) fn give_up(&mut self, now: Instant, number: u8) -> Option<Peer> {
        let server = self.servers.get_mut(usize::from(number))?;
        server.lost = server.lost.checked_sub(1)?;
        let key = self.in_flight.dequeue(&mut server.open)?;
        count(&mut server.traffic.lost);
        self.in_flight.unlink(&mut self.hedgeable, key);
        let Some(client) = self.in_flight.get(key)?.client else {
            self.end(key);
            return self.peer(number);
        };
        self.route(now, key);
        Some(Peer::Client(client))
    }

    /// Gives the client what the answers so far come to.
    fn finish(&mut self, now: Instant, key: Key) {
        match self.in_flight.get(key).map(InFlight::outcome) {
            Some(Outcome::Nothing) => self.answer(now, key, Status::DISCONNECTED),
            Some(Outcome::Open(status) | Outcome::Settled(status)) => self.answer(now, key, status),
            Some(Outcome::Session) => self.complete(now, key),
            None => {}
        }
    }

    /// Answers with a status; the client has room for it.
    fn answer(&mut self, now: Instant, key: Key, status: Status) {
        if let Some(in_flight) = self.in_flight.get(key)
            && let Some(client) = in_flight.client
        {
            let header = in_flight.request.header;
            self.reply(client, &header, status);
        }
        self.land_client(now, key);
    }

    /// Puts a status into the outbox of a client that has room for it.
    fn reply(&mut self, client: Key, request: &Header, status: Status) {
        let level = self.servers.iter().map(|server| server.level).max().unwrap_or(0);
        if let Some((conn, pool)) = self.clients.get(client) {
            // Its buffer was reserved when the request set out.
            let room = conn.outbox.space(pool);
            let len = write_status(request, level, status, room);
            conn.outbox.filled(pool, len.unwrap_or(0));
        }
        count(match status {
            Status::DISCONNECTED => &mut self.traffic.disconnected,
            _ => &mut self.traffic.answered,
        });
    }

    /// Lets the client have the answer that lies in its outbox.
    fn complete(&mut self, now: Instant, key: Key) {
        count(&mut self.traffic.answered);
        self.land_client(now, key);
    }

    /// Ends a request in flight whose answer is in its client's outbox, and its twin.
    fn land_client(&mut self, now: Instant, key: Key) {
        if let Some(in_flight) = self.end(key) {
            if let Some(twin) = in_flight.twin {
                self.abandon(twin);
            }
            self.conclude(now, &in_flight);
        }
    }

    /// Ends a request in flight that has left all queues.
    pub(super) fn end(&mut self, key: Key) -> Option<InFlight> {
        let in_flight = self.in_flight.get(key)?;
        let orphaned = in_flight.client.is_none();
        let server = self.servers.get_mut(usize::from(in_flight.server))?;
        if orphaned {
            server.orphans = server.orphans.saturating_sub(1);
        }
        self.blocked = Blocked::No;
        self.in_flight.remove(key)
    }

    /// The client of this request in flight, which has its answer, is ready for the next request.
    fn conclude(&mut self, now: Instant, in_flight: &InFlight) {
        let Some(client) = in_flight.client else {
            return;
        };
        if let Some((conn, pool)) = self.clients.get(client) {
            conn.in_flight = None;
            if in_flight.is_kept {
                conn.inbox.consume(pool, in_flight.request.wire_len);
            }
            self.clients.retime(now, client, true);
        }
    }
}

/// The id that a request is about, or as much of it as any server looks at.
fn id_of<'a>(request: &Message, wire: &'a [u8]) -> &'a [u8] {
    let payload = wire.get(HEADER_LEN..request.wire_len).unwrap_or_default();
    let id = match payload.split_at_checked(ADD_FIXED_LEN) {
        Some((fixed, rest)) if request.header.op.stores() => {
            let len = fixed.last_chunk().map_or(0, |len| u32::from_be_bytes(*len));
            usize::try_from(len).ok().and_then(|len| rest.get(..len)).unwrap_or(rest)
        }
        _ => payload.get(..request.payload_len).unwrap_or(payload),
    };
    id.get(..ID_MAX).unwrap_or(id)
}

/// Writes a request for an id alone.
fn write_id(envelope: &Envelope, id: &[u8], out: &mut [u8]) -> Option<usize> {
    out.get_mut(HEADER_LEN..)?.get_mut(..id.len())?.copy_from_slice(id);
    wire::frame(out, envelope, id.len())
}

/// Writes an answer of our own.
fn write_status(request: &Header, level: u16, status: Status, out: &mut [u8]) -> Option<usize> {
    *out.get_mut(HEADER_LEN)? = status.0;
    // There is no lower level at which it could be said.
    let level = level.min(LEVEL).max(request.op.level());
    wire::frame(out, &Envelope::answer(request, level), 1)
}
