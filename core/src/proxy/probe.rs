//! The probe: the first request on every connection to a server.
//!
//! The kernel accepts connections for a process that hangs, so a connection alone proves nothing. A
//! server is up once it has answered a HAVE on the connection. The answer also tells the patch level of
//! the server before the first client needs it.

use super::upstream::{Link, Upstream};
use crate::buffer::Pool;
use crate::memory::Array;
use crate::time::Instant;
use crate::wire::{self, Envelope, HEADER_LEN, Header, Malformed, Op};

/// The uid of the probe. No other request is sent before its answer, so it need not differ from theirs.
const PROBE_UID: u32 = u32::MAX;

/// The id that the probe asks for.
pub const PROBE_ID: &[u8] = b"distcache probe";

impl Upstream {
    /// Writes the probe to a new connection.
    pub(super) fn probe(&mut self, now: Instant, pool: &mut Pool<impl Array<u8>>) {
        self.link = Link::Probing { since: now };
        let room = self.outbox.space(pool);
        let id = room.get_mut(HEADER_LEN..).and_then(|room| room.get_mut(..PROBE_ID.len()));
        if let Some(id) = id {
            id.copy_from_slice(PROBE_ID);
        }
        let len = wire::frame(room, &Envelope::request(PROBE_UID, Op::Have), PROBE_ID.len());
        self.outbox.filled(pool, len.unwrap_or(0));
        self.wants_changed = true;
    }

    /// Whether this is the answer to the probe; false if it has no request.
    pub(super) const fn answers_probe(&mut self, header: &Header) -> Result<bool, Malformed> {
        if header.uid != PROBE_UID {
            return Ok(false);
        }
        if !matches!(header.op, Op::Have) {
            return Err(Malformed::Payload);
        }
        self.level = header.patch;
        Ok(true)
    }
}
