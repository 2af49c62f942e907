//! From servers to clients: receive an answer, deliver it, complete the request.

use super::in_flight::{InFlight, Kept, Outcome, Step};
use super::repair::{Found, write_get};
use super::upstream::{Input, Link, STRAYS_MAX};
use super::{Blocked, GivenUp, Memory, Proxy, count};
use crate::machine::Peer;
use crate::message::Status;
use crate::slots::Key;
use crate::time::Instant;
use crate::wire::{self, Direction, Envelope, HEADER_LEN, Header, LEVEL, Malformed, Message, Op};

impl<M: Memory> Proxy<M> {
    /// Delivers the next complete answer of a server, and names its client, or the server if the answer
    /// has no client. `None` if there is no complete answer.
    pub(super) fn receive(&mut self, now: Instant, number: u8) -> Option<Peer> {
        let server = self.servers.get_mut(usize::from(number))?;
        let bytes = server.inbox.bytes(&self.clients.pool);
        let message = match Message::measure(bytes, Direction::Response) {
            Ok(Some(message)) => message,
            Ok(None) if server.input == Input::Ended => return self.abort(number, None),
            Ok(None) => {
                server.input = Input::Quiet;
                return None;
            }
            Err(_) => return self.abort(number, Some(GivenUp::Malformed)),
        };
        let received = match server.link {
            Link::Probing { .. } => self.receive_probe(now, number, &message.header),
            _ => self.deliver(now, number, &message),
        };
        let server = self.servers.get_mut(usize::from(number))?;
        server.wants_changed |= server.inbox.len() >= self.clients.pool.buffer_len();
        server.inbox.consume(&mut self.clients.pool, message.wire_len);
        if server.inbox.is_empty() && server.input == Input::Unread {
            server.input = Input::Quiet;
        }
        match received {
            Ok(Some(key)) => Some(Peer::Client(key)),
            Ok(None) if server.strays > STRAYS_MAX => self.abort(number, Some(GivenUp::Strays)),
            Ok(None) => Some(Peer::Server(server.key())),
            Err(_) => self.abort(number, Some(GivenUp::Malformed)),
        }
    }

    /// Takes an answer on a connection whose probe has none yet.
    fn receive_probe(
        &mut self,
        now: Instant,
        number: u8,
        header: &Header,
    ) -> Result<Option<Key>, Malformed> {
        let Some(server) = self.servers.get_mut(usize::from(number)) else {
            return Ok(None);
        };
        if server.answers_probe(header)? {
            self.rise(now, number);
        } else {
            server.stray();
        }
        Ok(None)
    }

    /// Delivers the answer at the front of a server's inbox to the request in flight that it answers,
    /// and returns the client.
    fn deliver(
        &mut self,
        now: Instant,
        number: u8,
        message: &Message,
    ) -> Result<Option<Key>, Malformed> {
        let Some(server) = self.servers.get_mut(usize::from(number)) else {
            return Ok(None);
        };
        let key = self.in_flight.by_ticket(message.header.uid);
        let key = key.filter(|key| self.in_flight.is_queued(&server.open, *key));
        let Some((key, in_flight)) = key.and_then(|key| Some((key, self.in_flight.get_mut(key)?)))
        else {
            server.stray();
            return Ok(None);
        };
        if in_flight.op != message.header.op {
            return Err(Malformed::Payload);
        }
        let mut found = match message.header.op {
            Op::Fetch => Some(Found::parse(message, server.inbox.bytes(&self.clients.pool))?),
            _ => None,
        };
        (server.level, server.strays) = (message.header.patch, 0);
        if let Link::Up { answered_at, .. } = &mut server.link {
            *answered_at = now;
        }
        count(&mut server.traffic.answered);
        self.blocked = Blocked::No;
        let (client, copies) = (in_flight.client, self.terms.copies);
        let step = client.and_then(|client| self.clients.get(client)).map(|(conn, pool)| {
            let mut status = match found {
                Some(found) => found.status(),
                None => status_of(message, server.inbox.bytes(pool)),
            };
            let mut may_lack_data = server.may_lack_data;
            let mut ready = None;
            if in_flight.is_opened()
                && status.is_none()
                && let Some(sealing) = &self.sealing
                && let Some(opened) =
                    sealing.open_answer(now, in_flight, message, server, conn, pool)
            {
                ready = Some(opened.len);
                if opened.is_rejected {
                    // Whatever it had of this id was not what it was given.
                    (status, may_lack_data) = (Some(Status::NOT_OK), true);
                    found = None;
                }
            }
            in_flight.missed =
                in_flight.missed.or_else(|| found.and_then(|found| found.miss(number)));
            let step = in_flight.on_reply(status, may_lack_data, copies);
            if let Step::Pass | Step::Hold = step {
                let level = LEVEL.min(message.header.patch);
                let envelope = Envelope::answer(&in_flight.request.header, level);
                let len = ready.or_else(|| {
                    let (wire, room) = pool.between(&server.inbox, &conn.outbox)?;
                    if in_flight.op == envelope.op {
                        return message.relabel(wire, &envelope, room);
                    }
                    write_get(message.payload(wire), &envelope, room)
                });
                conn.outbox.filled(pool, len.unwrap_or(0));
            }
            step
        });
        if in_flight.is_repair
            && status_of(message, server.inbox.bytes(&self.clients.pool)) == Some(Status::OK)
        {
            count(&mut server.traffic.repaired);
        }
        self.in_flight.unlink(&mut server.open, key);
        if let (Some(Step::Pass), Some(Found::Session(ttl))) = (step, found) {
            self.repair(now, key, number, message, ttl);
        }
        if copies > 1 {
            self.in_flight.unlink(&mut self.hedgeable, key);
        }
        match step {
            None => drop(self.remove(key)),
            Some(step) => self.go_on(now, key, step),
        }
        Ok(client)
    }

    /// Takes the next step of a request that has an answer.
    #[inline]
    fn go_on(&mut self, now: Instant, key: Key, step: Step) {
        match step {
            Step::Pass => self.complete(now, key),
            Step::Hold | Step::Next => self.route(now, key),
            Step::Finish => self.answer_outcome(now, key),
            Step::Again(op) => {
                if let Some(in_flight) = self.in_flight.get_mut(key) {
                    in_flight.op = op;
                }
                self.send(now, key);
            }
        }
    }

    /// Answers a request with the outcome of the answers so far.
    pub(super) fn answer_outcome(&mut self, now: Instant, key: Key) {
        match self.in_flight.get(key).map(InFlight::outcome) {
            Some(Outcome::Nothing) => self.answer(now, key, Status::DISCONNECTED),
            Some(Outcome::Open(status) | Outcome::Settled(status)) => self.answer(now, key, status),
            Some(Outcome::Session) => self.complete(now, key),
            None => {}
        }
    }

    /// Answers a request with a status of the proxy's own.
    pub(super) fn answer(&mut self, now: Instant, key: Key, status: Status) {
        let in_flight = self.in_flight.get(key);
        let request = in_flight.and_then(|one| Some((one.client?, one.request.header)));
        if let Some((client, header)) = request {
            self.write_status(client, &header, status);
        }
        if status == Status::DISCONNECTED {
            count(&mut self.traffic.disconnected);
            self.end(now, key);
        } else {
            self.complete(now, key);
        }
    }

    /// Completes a request that has an answer in its client's outbox.
    fn complete(&mut self, now: Instant, key: Key) {
        count(&mut self.traffic.answered);
        self.end(now, key);
    }

    /// Ends a request and its twin, and frees its client for the next request.
    fn end(&mut self, now: Instant, key: Key) {
        let Some(in_flight) = self.remove(key) else {
            return;
        };
        if let Some(twin) = in_flight.twin {
            self.abandon(twin);
        }
        if let Some(client) = in_flight.client {
            let is_kept = in_flight.kept != Kept::No;
            let kept = if is_kept { in_flight.request.wire_len } else { 0 };
            self.free_client(now, client, kept);
        }
    }

    /// Frees a client for its next request, behind the `kept` bytes of the last one.
    pub(super) fn free_client(&mut self, now: Instant, client: Key, kept: usize) {
        if let Some((conn, pool)) = self.clients.get(client) {
            conn.in_flight = None;
            conn.inbox.consume(pool, kept);
            self.clients.retime(now, client, true);
        }
    }

    /// Removes a request that is in no queue any more.
    pub(super) fn remove(&mut self, key: Key) -> Option<InFlight> {
        let in_flight = self.in_flight.remove(key)?;
        if in_flight.client.is_none()
            && let Some(server) = self.servers.get_mut(usize::from(in_flight.server))
        {
            server.orphans = server.orphans.saturating_sub(1);
            server.repairs = server.repairs.saturating_sub(in_flight.is_repair.into());
        }
        self.blocked = Blocked::No;
        Some(in_flight)
    }

    /// Writes a status to the outbox of a client, which has a buffer since its request was admitted.
    pub(super) fn write_status(&mut self, client: Key, request: &Header, status: Status) {
        let level = self.servers.iter().map(|server| server.level).max().unwrap_or(0);
        if let Some((conn, pool)) = self.clients.get(client) {
            let room = conn.outbox.space(pool);
            let len = frame_status(request, level, status, room);
            conn.outbox.filled(pool, len.unwrap_or(0));
        }
    }
}

/// The status that an answer carries; `None` for a session.
#[inline]
fn status_of(message: &Message, wire: &[u8]) -> Option<Status> {
    match message.payload_len {
        0 => Some(Status::DISCONNECTED),
        1 => message.first_frame(wire).first().map(|status| Status(*status)),
        _ => None,
    }
}

/// Writes a response with a status.
pub(super) fn frame_status(
    request: &Header,
    level: u16,
    status: Status,
    out: &mut [u8],
) -> Option<usize> {
    *out.get_mut(HEADER_LEN)? = status.0;
    // No lower level has the operation.
    let level = level.min(LEVEL).max(request.op.level());
    wire::frame(out, &Envelope::answer(request, level), 1)
}
