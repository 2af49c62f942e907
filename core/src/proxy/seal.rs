//! Sealing in the proxy: sessions leave for servers sealed, and are opened on their way back.
//!
//! ```text
//!  client's inbox                                             server's outbox
//!  ADD [ttl|id|session] ──── copy, raise the ttl, seal ────► ADD [ttl|id|envelope]   48 bytes longer
//!
//!  client's outbox                                            server's inbox
//!  GET [session] ◄────────── copy, open, move to front ────── GET [envelope]         48 bytes shorter
//!      status 1 ◄─────────── or not opened
//! ```
//!
//! A message is copied once anyway; here its payload is copied in one piece, changed in place and cut into
//! frames again. Plaintext is only ever in buffers of clients: what lies between a server's `pending` and
//! the wire is sealed, and what a server sent stays as it came.
//!
//! - *Which requests.* ADD and PUT are sealed, at each server with another nonce. Answers to GET and TAKE
//!   are opened, and to the FETCH that stands for a GET. REMOVE and HAVE pass unchanged: HAVE says "there"
//!   of a session that does not open. A repair copies the envelope as it came, and only one that opened. A
//!   client's own FETCH and REPAIR are answered "not supported": it asks with GET and ADD.
//! - *The id* authenticates the session, so a request that waits for a session stays at the front of its
//!   client's inbox until it is answered, as all requests do that may visit another server.
//! - *What does not open* counts as a miss of that server, in [`Rejected`]. Another server that may have a
//!   copy is asked, after a TAKE too: the first server has lost its copy by then. An answer of 2 to 4
//!   bytes is no session to any client, and one byte is a status; neither is ever opened.
//! - *What cannot be sealed* is refused by the proxy, because it must not reach a server in clear: a
//!   session whose payload exceeds [`PAYLOAD_MAX`] with its seal as [`Status::ADD_DATA`], and a request
//!   that every server refuses, with that status.
//! - *Time.* A seal's expiry is the time of sending plus the lifetime in the request, which is raised to
//!   the shortest lifetime first. The proxy knows no wall clock: the caller tells it the time in
//!   milliseconds since 1970 with [`Proxy::set_unix_time`], and [`Instant`]s carry it on from there.
//!
//! Whether a request is sealed or opened is settled when it starts. New keys serve the requests that are
//! under way too.

use heapless::Vec;
use zeroize::Zeroize;

use super::in_flight::InFlight;
use super::replies::frame_status;
use super::{Memory, Proxy, Upstream};
use crate::buffer::Pool;
use crate::clients::Client;
use crate::id::{ID_MAX, Id};
use crate::memory::Array;
use crate::message::{ADD_FIXED_LEN, FETCH_FIXED_LEN, Request, SESSION_MIN, Status, raise_ttl};
use crate::seal::{self, Keys, Nonces, OVERHEAD, Unopened};
use crate::time::Instant;
use crate::wire::{self, Envelope, HEADER_LEN, LEVEL, Message, Op, PAYLOAD_MAX};

/// What a proxy seals sessions with: see [`Proxy::set_seal`].
#[derive(Debug)]
pub struct Seal {
    /// The newest key seals, all of them open.
    pub keys: Keys,
    /// Nonces for these keys that no other process uses.
    pub nonces: Nonces,
    /// Whether a session that is not sealed passes unchanged. It is otherwise a miss.
    pub mixed: bool,
}

/// Counters of answers that held no session which could be opened, by [`Unopened`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rejected {
    /// No envelope. Those that pass because of [`Seal::mixed`] do not count.
    pub not_sealed: u64,
    /// Sealed with an unknown key.
    pub unknown_key: u64,
    /// Changed, cut, or stored under another id.
    pub forged: u64,
    /// Past its lifetime.
    pub expired: u64,
}

impl Rejected {
    /// No answers.
    pub const NONE: Self = Self { not_sealed: 0, unknown_key: 0, forged: 0, expired: 0 };

    /// The number of all of them.
    pub const fn total(&self) -> u64 {
        let authentic = self.not_sealed.saturating_add(self.unknown_key);
        authentic.saturating_add(self.forged).saturating_add(self.expired)
    }

    /// The sums of both.
    #[must_use]
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            not_sealed: self.not_sealed.saturating_add(other.not_sealed),
            unknown_key: self.unknown_key.saturating_add(other.unknown_key),
            forged: self.forged.saturating_add(other.forged),
            expired: self.expired.saturating_add(other.expired),
        }
    }

    pub(super) const fn count(&mut self, why: Unopened) {
        let counter = match why {
            Unopened::NotSealed => &mut self.not_sealed,
            Unopened::UnknownKey => &mut self.unknown_key,
            Unopened::Forged => &mut self.forged,
            Unopened::Expired => &mut self.expired,
        };
        *counter = counter.saturating_add(1);
    }
}

/// What became of a sealed answer: a message behind the bytes in the client's outbox.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Opened {
    /// Its length.
    pub(super) len: usize,
    /// It says that there is no session, since that does not open.
    pub(super) is_rejected: bool,
}

/// A seal and the time.
#[derive(Debug)]
pub(super) struct Sealing {
    seal: Seal,
    /// The wall clock showed this many milliseconds since 1970 at this time.
    clock: (Instant, u64),
}

impl<M: Memory> Proxy<M> {
    /// Seals the sessions of all requests that start from now on, and opens what comes back for them.
    /// `unix_millis` is the time `now`, in milliseconds since 1970.
    ///
    /// Moving a [`Proxy`] can leave a copy of the keys behind: call this once it is where it stays.
    pub fn set_seal(&mut self, now: Instant, unix_millis: u64, seal: Seal) {
        self.sealing = Some(Sealing { seal, clock: (now, unix_millis) });
    }

    /// Replaces the keys, also for requests under way. Does nothing without a seal.
    pub fn set_keys(&mut self, keys: Keys) {
        if let Some(sealing) = &mut self.sealing {
            sealing.seal.keys = keys;
        }
    }

    /// Sets the wall clock: `unix_millis` is the time `now`, in milliseconds since 1970. Call it every few
    /// seconds, since the wall clock can be set. Does nothing without a seal.
    pub const fn set_unix_time(&mut self, now: Instant, unix_millis: u64) {
        if let Some(sealing) = &mut self.sealing {
            sealing.clock = (now, unix_millis);
        }
    }
}

impl Sealing {
    /// The status that refuses the request at the front of `wire`, because its session cannot be sealed.
    pub(super) fn refusal(request: &Message, wire: &[u8]) -> Option<Status> {
        let op = request.header.op;
        match op {
            Op::Add | Op::Put => {}
            // A FETCH tells a lifetime that nobody vouches for. Whoever gets this asks with GET.
            Op::Fetch | Op::Repair => return Some(Status::UNSUPPORTED),
            _ => return None,
        }
        match Request::parse(op, request.first_frame(wire)).ok()? {
            Ok(_) => {
                let sealed = request.payload_len.saturating_add(OVERHEAD);
                (sealed > PAYLOAD_MAX).then_some(Status::ADD_DATA)
            }
            Err(status) => Some(status),
        }
    }

    /// Opens the session in the answer at the front of a server's inbox, and writes the message for the
    /// client. `None` if the answer passes unchanged.
    #[inline(never)]
    pub(super) fn open_answer(
        &self,
        now: Instant,
        in_flight: &InFlight,
        answer: &Message,
        server: &mut Upstream,
        client: &Client,
        pool: &mut Pool<impl Array<u8>>,
    ) -> Option<Opened> {
        let id = OwnId::of(&in_flight.request, client.inbox.bytes(pool));
        let (wire, room) = pool.between(&server.inbox, &client.outbox)?;
        let level = LEVEL.min(answer.header.patch);
        let request = &in_flight.request.header;
        let front = if in_flight.op == Op::Fetch { FETCH_FIXED_LEN } else { 0 };
        let len = answer.payload_len.saturating_sub(front);
        let sealed = len >= OVERHEAD && answer.first_frame(wire).get(front) == Some(&seal::FORMAT);
        if self.seal.mixed && len >= SESSION_MIN && !sealed {
            return None;
        }
        // A repair needs the payload in one piece, too.
        let envelope = answer.payload(wire).get(front..).unwrap_or_default();
        let opened = match self.open(now, id.get(), envelope, room) {
            Ok(len) => wire::frame(room, &Envelope::answer(request, level), len),
            Err(why) => {
                server.traffic.rejected.count(why);
                let len = frame_status(request, level, Status::NOT_OK, room)?;
                return Some(Opened { len, is_rejected: true });
            }
        };
        opened.map(|len| Opened { len, is_rejected: false })
    }

    /// Writes an ADD or PUT with its session sealed to the front of `out`; `None` if it does not fit.
    /// `wire` begins with the request.
    #[inline(never)]
    pub(super) fn write_request(
        &mut self,
        now: Instant,
        request: &Message,
        wire: &[u8],
        envelope: &Envelope,
        min_ttl: u32,
        out: &mut [u8],
    ) -> Option<usize> {
        let len = request.payload_len.checked_add(OVERHEAD)?;
        // The payload in one piece is never longer than its frames.
        let out = out.get_mut(..wire::wire_len(len))?;
        let request_op = request.header.op;
        let id = Request::parse(request_op, request.first_frame(wire)).ok()?.ok()?.id();
        let payload = out.get_mut(HEADER_LEN..)?.get_mut(..len)?;
        let fixed = ADD_FIXED_LEN.checked_add(id.bytes().len())?;
        let (front, sealed) = payload.split_at_mut_checked(fixed)?;
        let session_len = sealed.len().checked_sub(OVERHEAD)?;
        let session = sealed.get_mut(seal::HEADER_LEN..)?.get_mut(..session_len)?;
        request.copy_payload(wire, front, session)?;
        raise_ttl(front, min_ttl);
        let ttl = u32::from_be_bytes(*front.first_chunk()?);
        let expires = seal::expires(self.unix_time(now), ttl);
        let nonce = self.seal.nonces.next_nonce()?;
        self.seal.keys.seal_in_place(nonce, expires, id, sealed)?;
        wire::frame(out, envelope, len)
    }

    /// Opens a session behind the room for a header, and returns its length.
    fn open(
        &self,
        now: Instant,
        id: Option<Id<'_>>,
        envelope: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Unopened> {
        if envelope.len() < SESSION_MIN {
            return Err(Unopened::NotSealed);
        }
        // A request without a valid id has no session.
        let id = id.ok_or(Unopened::Forged)?;
        // The client's outbox is empty, and has room for the longest message.
        let payload = out.get_mut(HEADER_LEN..).and_then(|out| out.get_mut(..envelope.len()));
        let payload = payload.ok_or(Unopened::Forged)?;
        payload.copy_from_slice(envelope);
        let len = self.seal.keys.open(self.unix_time(now), id, payload)?.len();
        let end = seal::HEADER_LEN.saturating_add(len);
        payload.copy_within(seal::HEADER_LEN..end, 0);
        // What is left of the session where it was.
        if let Some(rest) = payload.get_mut(len..) {
            rest.zeroize();
        }
        Ok(len)
    }

    /// The time in whole seconds since 1970.
    fn unix_time(&self, now: Instant) -> u32 {
        let (at, unix_millis) = self.clock;
        let seconds = unix_millis.saturating_add(now.since(at)) / 1000;
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }
}

/// The id in a request, apart from the buffer that holds it.
pub(super) struct OwnId(Vec<u8, ID_MAX>);

impl OwnId {
    /// The id in the request at the front of `wire`; an invalid one if there is none.
    pub(super) fn of(request: &Message, wire: &[u8]) -> Self {
        let parsed = Request::parse(request.header.op, request.first_frame(wire));
        let id = parsed.ok().and_then(Result::ok).map(|request| request.id());
        Self(id.and_then(|id| Vec::from_slice(id.bytes()).ok()).unwrap_or_default())
    }

    pub(super) fn get(&self) -> Option<Id<'_>> {
        Id::new(&self.0)
    }
}

impl InFlight {
    /// Whether a session in the answer must be opened.
    #[inline]
    pub(super) const fn is_opened(&self) -> bool {
        self.is_sealed && matches!(self.op, Op::Get | Op::Take | Op::Fetch)
    }

    /// Whether the session in the request must be sealed.
    #[inline]
    pub(super) const fn is_stored_sealed(&self) -> bool {
        self.is_sealed && self.op.stores()
    }
}
