//! The probe: the first request on every connection to a server.
//!
//! The kernel accepts connections for a process that hangs, so a connection alone shows nothing. A
//! server counts as up once it has answered a HAVE on the connection. The answer also tells what the
//! server can do, before the first client asks.

use super::upstream::{Phase, Upstream};
use crate::buffer::Pool;
use crate::memory::Array;
use crate::time::Instant;
use crate::wire::{self, Envelope, HEADER_LEN, Header, Malformed, Op};

/// The uid of the probe. Nothing else is asked before it is answered, so it need not differ from the
/// uids of requests in request in flight.
const PROBE_UID: u32 = u32::MAX;

/// The id that the probe asks for.
pub const PROBE_ID: &[u8] = b"distcache probe";

/// What a probe made of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Probe {
    /// It is the answer to the probe.
    Answered,
    /// Nobody asked for it.
    Stray,
}

impl Upstream {
    /// A connection has been made: the server is asked for the probe's id on it.
    pub(super) fn probe(&mut self, now: Instant, pool: &mut Pool<impl Array<u8>>) {
        self.phase = Phase::Probing;
        self.heard = now;
        let room = self.outbox.space(pool);
        let id = room.get_mut(HEADER_LEN..).and_then(|room| room.get_mut(..PROBE_ID.len()));
        if let Some(id) = id {
            id.copy_from_slice(PROBE_ID);
        }
        let len = wire::frame(room, &Envelope::request(PROBE_UID, Op::Have), PROBE_ID.len());
        self.outbox.filled(pool, len.unwrap_or(0));
        self.wants_changed = true;
    }

    /// Looks at an answer that came while the probe was open.
    pub(super) const fn probed(
        &mut self,
        now: Instant,
        header: &Header,
    ) -> Result<Probe, Malformed> {
        if header.uid != PROBE_UID {
            return Ok(Probe::Stray);
        }
        if !matches!(header.op, Op::Have) {
            return Err(Malformed::Payload);
        }
        self.phase = Phase::Up;
        self.level = header.patch;
        self.heard = now;
        Ok(Probe::Answered)
    }
}
