//! How requests get from clients to servers, and answers back.

use super::flight::{Flight, Outcome, Step};
use super::upstream::{Upstream, hash};
use super::{Mux, count};
use crate::conns::Conns;
use crate::id::ID_MAX;
use crate::machine::Peer;
use crate::message::{ADD_FIXED_LEN, Status, raise_ttl};
use crate::slots::Key;
use crate::time::Instant;
use crate::wire::{self, Direction, Envelope, HEADER_LEN, Header, LEVEL, Malformed, Message, Op};

/// How far a request got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Start {
    /// Nowhere, for want of something that all clients share.
    Blocked,
    /// On its way, or answered.
    Done,
    /// It is none.
    Malformed,
    /// Nowhere, for want of a buffer for its answer.
    NoBuffer,
    /// There is no whole request, or it is not its turn.
    Nothing,
}

impl Mux<'_> {
    /// Looks after the first client that waits for its turn. `None` where there is none, or where
    /// its request can't start now.
    pub(super) fn take_off(&mut self, now: Instant) -> Option<Peer> {
        let key = self.conns.first()?;
        let started = self.start(now, key);
        self.blocked = started == Start::Blocked;
        if self.blocked {
            return None;
        }
        if started == Start::NoBuffer {
            self.conns.wait_for_room(key);
            return Some(Peer::Client(key));
        }
        self.conns.take(key);
        if started == Start::Malformed {
            self.conns.malformed(key);
        }
        self.conns.retime(now, key, started == Start::Done);
        Some(Peer::Client(key))
    }

    fn start(&mut self, now: Instant, key: Key) -> Start {
        let Some((conn, pool)) = self.conns.get(key) else {
            return Start::Nothing;
        };
        if conn.flight.is_some() || !conn.outbox.is_empty() {
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
        if self.grace().is_some_and(|end| now < end) {
            return Start::Blocked;
        }
        let Some((conn, pool)) = self.conns.get(key) else {
            return Start::Nothing;
        };
        if !conn.outbox.reserve(pool) {
            return Start::NoBuffer;
        }
        let flight = Flight::new(now, key, message, id);
        let Ok(flight) = self.flights.insert(flight) else {
            return Start::Blocked;
        };
        conn.flight = Some(flight);
        self.onward(now, flight);
        Start::Done
    }

    /// The best server for a flight among those that are up and that it has not tried.
    #[inline]
    fn next_server(&self, flight: &Flight) -> Option<u8> {
        if let [server] = &*self.servers {
            return (server.is_up() && !flight.has_visited(0)).then_some(0);
        }
        let left =
            |(number, server): &(u8, &Upstream)| server.is_up() && !flight.has_visited(*number);
        let left = (0..=u8::MAX).zip(&*self.servers).filter(left);
        let best = left.max_by_key(|(_, server)| server.rank(flight.id));
        best.map(|(number, _)| number)
    }

    /// Asks the next server, or gives the client the answer where there is none to be asked.
    fn onward(&mut self, now: Instant, key: Key) {
        let next = self.flights.get(key).filter(|flight| flight.is_kept);
        let Some(number) = next.and_then(|flight| self.next_server(flight)) else {
            return self.finish(now, key);
        };
        let level = self.server(number).map_or(0, |server| server.level);
        if self.flights.get_mut(key).is_some_and(|flight| flight.visit(number, level)) {
            self.send(now, key);
        } else {
            self.answer(now, key, Status::UNSUPPORTED);
        }
    }

    /// Sends the flight's request to its server, or has it wait until there is room for it.
    fn send(&mut self, now: Instant, key: Key) {
        let Some(number) = self.flights.get(key).map(|flight| flight.server) else {
            return;
        };
        let first = self.server(number).is_some_and(|server| server.waiting.is_empty());
        if first && self.transmit(now, key) {
            return;
        }
        if let Some(server) = self.servers.get_mut(usize::from(number)) {
            self.flights.enqueue(&mut server.waiting, key);
        }
    }

    /// Copies the flight's request to its server's outbox; false where that has no room for it.
    fn transmit(&mut self, now: Instant, key: Key) -> bool {
        let tag = self.flights.tag(key);
        let Some(flight) = self.flights.get_mut(key) else {
            return false;
        };
        let Some(server) = self.servers.get_mut(usize::from(flight.server)) else {
            return false;
        };
        let Some((conn, pool)) = self.conns.get(flight.client) else {
            return false;
        };
        // What there is of it now, it may have to be moved together for.
        server.outbox.space(pool);
        let (op, min_ttl) = (flight.op, self.config.min_ttl);
        let between = pool.between(&conn.inbox, &server.outbox);
        let copied = between.and_then(|(wire, room)| {
            let envelope = Envelope::request(tag, op);
            if op == Op::Remove && flight.request.header.op.stores() {
                return write_id(&envelope, id_of(&flight.request, wire), room);
            }
            let len = flight.request.relabel(wire, &envelope, room)?;
            if op.stores() {
                raise_ttl(room.get_mut(HEADER_LEN..)?, min_ttl);
            }
            Some(len)
        });
        let Some(len) = copied else {
            return false;
        };
        server.outbox.filled(pool, len);
        server.stirred = true;
        if self.config.copies <= 1 {
            flight.is_kept = false;
            conn.inbox.consume(pool, flight.request.wire_len);
        }
        flight.since = now;
        self.flights.enqueue(&mut server.open, key);
        count(&mut self.traffic.forwarded);
        true
    }

    /// Sends the first of the flights that wait for a server; or to another server, where that one is
    /// gone. `None` where there is still no room for it.
    pub(super) fn resume(&mut self, now: Instant, number: u8) -> Option<Peer> {
        let server = self.servers.get_mut(usize::from(number))?;
        let key = self.flights.front(&server.waiting)?;
        let client = self.flights.get(key)?.client;
        if server.is_up() && self.conns.get(client).is_some() && !self.transmit(now, key) {
            self.servers.get_mut(usize::from(number))?.roomy = false;
            return None;
        }
        let server = self.servers.get_mut(usize::from(number))?;
        self.flights.unlink(&mut server.waiting, key);
        if self.conns.get(client).is_none() {
            self.end(key);
            count(&mut self.traffic.orphaned);
        } else if !server.is_up() {
            self.onward(now, key);
        }
        Some(Peer::Client(client))
    }

    /// Passes the server's next whole answer back. `None` where there is none.
    pub(super) fn land(&mut self, now: Instant, number: u8) -> Option<Peer> {
        let server = self.servers.get_mut(usize::from(number)).filter(|server| server.is_up())?;
        let bytes = server.inbox.bytes(&self.conns.pool);
        let message = match Message::measure(bytes, Direction::Response) {
            Ok(Some(message)) => message,
            Ok(None) => {
                (server.unread, server.stirred) = (false, true);
                let over = server.input_over;
                return if over { self.doom(number) } else { None };
            }
            Err(_) => return self.doom(number),
        };
        let landed = self.hand_over(now, number, &message);
        let server = self.servers.get_mut(usize::from(number))?;
        server.inbox.consume(&mut self.conns.pool, message.wire_len);
        match landed {
            Ok(Some(key)) => Some(Peer::Client(key)),
            Ok(None) => Some(Peer::Server(number)),
            Err(_) => self.doom(number),
        }
    }

    /// Does with the answer at the front of the inbox what is to be done with it, and says to whom.
    fn hand_over(
        &mut self,
        now: Instant,
        number: u8,
        message: &Message,
    ) -> Result<Option<Key>, Malformed> {
        let (header, copies) = (message.header, self.config.copies);
        let Some(server) = self.servers.get_mut(usize::from(number)) else {
            return Ok(None);
        };
        let key = self.flights.tagged(header.uid);
        let key = key.filter(|key| self.flights.is_queued(&server.open, *key));
        let Some((key, flight)) = key.and_then(|key| Some((key, self.flights.get_mut(key)?)))
        else {
            count(&mut self.traffic.strays);
            return Ok(None);
        };
        if flight.op != header.op {
            return Err(Malformed::Payload);
        }
        server.level = header.patch;
        let client = flight.client;
        let Some((conn, pool)) = self.conns.get(client) else {
            self.end(key);
            count(&mut self.traffic.orphaned);
            return Ok(None);
        };
        let first = server.inbox.bytes(pool).get(HEADER_LEN).copied();
        let status = match message.payload_len {
            0 => Some(Status::DISCONNECTED),
            1 => first.map(Status),
            _ => None,
        };
        let step = flight.hear(status, server.forgetful, copies);
        if let Step::Pass | Step::Hold = step {
            let level = LEVEL.min(header.patch);
            let envelope = Envelope::answer(&flight.request.header, level);
            if let Some((wire, room)) = pool.between(&server.inbox, &conn.outbox) {
                let len = message.relabel(wire, &envelope, room).unwrap_or(0);
                conn.outbox.filled(pool, len);
            }
        }
        self.flights.unlink(&mut server.open, key);
        match step {
            Step::Pass => self.release(now, key),
            Step::Hold | Step::Onward => self.onward(now, key),
            Step::Finish => self.finish(now, key),
            Step::Again(op) => {
                if let Some(flight) = self.flights.get_mut(key) {
                    flight.op = op;
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
        let key = self.flights.dequeue(&mut server.open)?;
        let client = self.flights.get(key)?.client;
        if self.conns.get(client).is_none() {
            self.end(key);
            count(&mut self.traffic.orphaned);
            return Some(Peer::Server(number));
        }
        self.onward(now, key);
        Some(Peer::Client(client))
    }

    /// Gives the client what the answers so far come to.
    fn finish(&mut self, now: Instant, key: Key) {
        match self.flights.get(key).map(Flight::outcome) {
            Some(Outcome::Nothing) => self.answer(now, key, Status::DISCONNECTED),
            Some(Outcome::Open(status) | Outcome::Settled(status)) => self.answer(now, key, status),
            Some(Outcome::Session) => self.release(now, key),
            None => {}
        }
    }

    /// Answers with a status; the client has room for it.
    fn answer(&mut self, now: Instant, key: Key, status: Status) {
        let level = self.servers.iter().map(|server| server.level).max().unwrap_or(0);
        if let Some(flight) = self.flights.get(key)
            && let Some((conn, pool)) = self.conns.get(flight.client)
        {
            // Its buffer was reserved when the request set out.
            let room = conn.outbox.space(pool);
            let len = write_status(&flight.request.header, level, status, room);
            conn.outbox.filled(pool, len.unwrap_or(0));
        }
        match status {
            Status::DISCONNECTED => count(&mut self.traffic.disconnected),
            Status::UNSUPPORTED => {}
            _ => count(&mut self.traffic.answered),
        }
        self.conclude(now, key);
    }

    /// Lets the client have the answer that lies in its outbox.
    fn release(&mut self, now: Instant, key: Key) {
        count(&mut self.traffic.answered);
        self.conclude(now, key);
    }

    /// Ends a flight whose answer is in its client's outbox.
    fn conclude(&mut self, now: Instant, key: Key) {
        if let Some(flight) = self.end(key) {
            conclude(&mut self.conns, now, &flight);
        }
    }

    fn end(&mut self, key: Key) -> Option<Flight> {
        let number = self.flights.get(key)?.server;
        let server = self.servers.get_mut(usize::from(number))?;
        self.flights.unlink(&mut server.open, key);
        self.blocked = false;
        self.flights.remove(key)
    }
}

fn conclude(conns: &mut Conns<'_>, now: Instant, flight: &Flight) {
    if let Some((conn, pool)) = conns.get(flight.client) {
        conn.flight = None;
        if flight.is_kept {
            conn.inbox.consume(pool, flight.request.wire_len);
        }
        conns.retime(now, flight.client, true);
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
