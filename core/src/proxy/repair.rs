//! Read repair: a session that is missing at one server and found at another is stored again.
//!
//! ```text
//!  client     GET ─────────────────────────────────► session
//!  first      FETCH ─► missing, stamp │              ▲  REPAIR (stamp, lifetime left, session) ─► status
//!  second                       FETCH ┴─► session ───┴──┘
//! ```
//!
//! With more than one copy of each session, a GET goes as FETCH to servers of level 2. After a miss at
//! one and a hit at another, the client is answered at once, and the session goes to the one that missed
//! it as a REPAIR: a request in flight without a client. Servers of a lower level are not repaired.
//!
//! A repair is written at once or not at all. It is left out if its server is not up, has no room in
//! its outbox, or has half its share of requests in flight, a sixteenth of it repairs; and for a session
//! so large that a REPAIR has no room for it. The next GET tries again.
//!
//! # What was removed stays removed
//!
//! The REPAIR carries the stamp of the miss, and the server that gave the stamp decides by its own
//! clock: an id that was removed, taken or replaced there since the stamp, or up to two seconds before,
//! is refused. So it makes no difference which proxy removes, how long the repair is on its way, and
//! whether the server hangs meanwhile or starts again. `core/src/table/removals.rs` has the argument.
//! The two seconds are what a REMOVE or TAKE may need from the first server to the second. They are
//! eight times the usual patience with a server.

use super::in_flight::InFlight;
use super::upstream::Upstream;
use super::{Memory, Proxy, count};
use crate::id::{ID_MAX, Id};
use crate::message::{Add, FETCH_FIXED_LEN, Fetched, Request, Status};
use crate::slots::Key;
use crate::time::Instant;
use crate::wire::{self, Envelope, HEADER_LEN, Malformed, Message, Op, PAYLOAD_MAX};

/// Bytes of a REPAIR before its id: stamp, lifetime and length of the id.
const REPAIR_FIXED_LEN: usize = 16;

/// A miss that can be repaired.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Miss {
    /// The server without the session.
    server: u8,
    stamp: u64,
}

/// The answer to a FETCH, as far as the first bytes tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Found {
    /// A session, which lives so many milliseconds.
    Session(u32),
    /// No session; its stamp.
    Missing(u64),
    /// A status.
    Status(Status),
}

impl Found {
    /// Parses the front of an answer to a FETCH.
    pub(super) fn parse(message: &Message, wire: &[u8]) -> Result<Self, Malformed> {
        Ok(match Fetched::parse(message.first_frame(wire))? {
            Fetched::Session { ttl, .. } => Self::Session(ttl),
            Fetched::Missing(stamp) => Self::Missing(stamp),
            Fetched::Status(status) => Self::Status(status),
        })
    }

    /// The status that a GET would have; `None` for a session.
    pub(super) const fn status(self) -> Option<Status> {
        match self {
            Self::Session(_) => None,
            Self::Missing(_) => Some(Status::NOT_OK),
            Self::Status(status) => Some(status),
        }
    }

    /// The miss, if it can be repaired.
    pub(super) const fn miss(self, server: u8) -> Option<Miss> {
        match self {
            Self::Missing(stamp) => Some(Miss { server, stamp }),
            _ => None,
        }
    }
}

/// Writes the answer to a GET, made of the joined payload of an answer to FETCH, and returns its
/// length; `None` if it does not fit.
pub(super) fn write_get(payload: &[u8], envelope: &Envelope, out: &mut [u8]) -> Option<usize> {
    let get = match payload {
        [0, _, _, _, _, session @ ..] if !session.is_empty() => session,
        [status, ..] => core::slice::from_ref(status),
        [] => &[],
    };
    let room = out.get_mut(HEADER_LEN..)?.get_mut(..get.len())?;
    room.copy_from_slice(get);
    wire::frame(out, envelope, get.len())
}

impl<M: Memory> Proxy<M> {
    /// Repairs the miss of the request `key`, whose session was fetched from server `from`: the answer
    /// is at the front of its inbox, and its frames are joined if that answered a GET. Does nothing if it
    /// cannot be done at once.
    pub(super) fn repair(
        &mut self,
        now: Instant,
        key: Key,
        from: u8,
        answer: &Message,
        ttl: u32,
    ) -> Option<()> {
        let in_flight = self.in_flight.get(key)?;
        let (miss, client, request) = (in_flight.missed?, in_flight.client?, in_flight.request);
        let server = self.servers.get(usize::from(miss.server))?;
        if ttl == 0 || miss.server == from || !server.takes_repairs(self.share) {
            return None;
        }
        if request.header.op == Op::Fetch {
            let from = self.servers.get(usize::from(from))?;
            answer.payload(from.inbox.bytes_mut(&mut self.clients.pool));
        }
        let repair = InFlight::repair(now, miss.server, request);
        let repair = self.in_flight.insert(repair).ok()?;
        let ticket = self.in_flight.ticket(repair);
        let envelope = Envelope::request(ticket, Op::Repair);
        let written = self.write_repair(client, &request, from, answer, &envelope, miss, ttl);
        let Some(server) =
            self.servers.get_mut(usize::from(miss.server)).filter(|_| written.is_some())
        else {
            self.in_flight.remove(repair);
            return None;
        };
        server.wants_changed |= server.outbox.is_empty();
        server.outbox.filled(&mut self.clients.pool, written.unwrap_or(0));
        server.orphans = server.orphans.saturating_add(1);
        server.repairs = server.repairs.saturating_add(1);
        self.in_flight.enqueue(&mut server.open, repair);
        count(&mut server.traffic.forwarded);
        Some(())
    }

    /// Writes a REPAIR behind what the outbox of its server holds, and returns its length.
    #[expect(clippy::too_many_arguments)]
    fn write_repair(
        &mut self,
        client: Key,
        request: &Message,
        from: u8,
        answer: &Message,
        envelope: &Envelope,
        miss: Miss,
        ttl: u32,
    ) -> Option<usize> {
        let (conn, pool) = self.clients.get(client)?;
        let wire = conn.inbox.bytes(pool);
        let parsed = Request::parse(request.header.op, request.first_frame(wire)).ok()?.ok()?;
        let mut id = [0; ID_MAX];
        let id_room = id.get_mut(..parsed.id().bytes().len())?;
        id_room.copy_from_slice(parsed.id().bytes());
        let id = Id::new(id_room)?;
        // Compact the outbox first.
        self.servers.get_mut(usize::from(miss.server))?.outbox.space(pool);
        let to = &self.servers.get(usize::from(miss.server))?.outbox;
        let from = &self.servers.get(usize::from(from))?.inbox;
        let (wire, room) = pool.between(from, to)?;
        let session = wire.get(HEADER_LEN.saturating_add(FETCH_FIXED_LEN)..)?;
        let session = session.get(..answer.payload_len.checked_sub(FETCH_FIXED_LEN)?)?;
        let len = REPAIR_FIXED_LEN.checked_add(id.bytes().len())?.checked_add(session.len())?;
        if len > PAYLOAD_MAX {
            return None;
        }
        let repair = Request::Repair(miss.stamp, Add { ttl, id, session });
        let len = repair.write(room.get_mut(HEADER_LEN..)?)?;
        wire::frame(room, envelope, len)
    }
}

impl Upstream {
    /// Whether there is a slot for a repair.
    fn takes_repairs(&self, share: usize) -> bool {
        let most = (share >> 4).max(1);
        let level = self.level >= Op::Repair.level();
        self.is_up() && level && self.repairs < most && self.load() < share >> 1
    }
}
