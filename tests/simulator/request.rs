//! Requests that clients make, and the sessions in them.
//!
//! The bytes of a session follow from its id and a version that no other session has. So bytes of
//! another session, of another version or from other memory are detected wherever they turn up.

use crate::guarantees::Guarantee;
use crate::plan::pick;
use distcache_core::message::TTL_MAX;
use distcache_core::seal::OVERHEAD;
use distcache_core::time::Instant;
use distcache_core::wire::{FRAME_DATA_MAX, Op, PAYLOAD_MAX};
use distcache_testing::bytes;
use distcache_testing::random::Random;
use std::rc::Rc;

/// The answer that a request must get.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expect {
    /// What the store said when it was asked.
    Executed,
    /// This status, without a call of the store.
    Fixed(u8),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The operation.
    pub op: Op,
    /// The uid that the answer must bear.
    pub uid: u32,
    /// The id, as it is sent.
    pub id: Rc<[u8]>,
    /// The patch level of the request.
    pub level: u16,
    /// What an ADD or a PUT stores, and its lifetime.
    pub add: Option<(u32, Rc<[u8]>)>,
    /// The answer that it must get.
    pub expect: Expect,
    /// How many executions there had been when it was made.
    pub since: u64,
    /// The largest minimum lifetime of the nodes that it passes.
    pub min_ttl: u32,
    /// Whether it is sent to a proxy.
    pub proxied: bool,
    /// What was guaranteed of the id when it was made.
    pub guarantee: Guarantee,
}

/// Returns the `len` bytes of a session. The first eight are the version, if there are eight.
pub fn session(id: &[u8], version: u64, len: usize) -> Rc<[u8]> {
    let salt = id.iter().fold(version, |sum, byte| sum.rotate_left(8) ^ u64::from(*byte));
    let mut source = Random::new(salt);
    let words = (1..len.div_ceil(8)).map(|_| source.next());
    let bytes = std::iter::once(version).chain(words).flat_map(u64::to_le_bytes);
    let bytes: Vec<u8> = bytes.take(len).collect();
    match bytes[..] {
        // Must not look like a proxy's DISCONNECTED.
        [2] => Rc::from([3]),
        _ => Rc::from(bytes),
    }
}

/// Returns whether these can be the bytes of a session of this id. Sessions of fewer than eight
/// bytes always can.
pub fn is_session(id: &[u8], bytes: &[u8]) -> bool {
    let version = bytes.first_chunk().map(|first| u64::from_le_bytes(*first));
    version.is_none_or(|version| *session(id, version, bytes.len()) == *bytes)
}

/// The third and fourth byte of every id that a client uses on purpose.
pub const MARK: [u8; 2] = [0xd1, 0x57];

/// The operations of clients that know all of them, by frequency.
const ALL: [Op; 9] =
    [Op::Add, Op::Add, Op::Get, Op::Get, Op::Have, Op::Remove, Op::Put, Op::Put, Op::Take];

/// Returns an id of 4 to 64 bytes, shared by all clients (`owner` 0) or used by one client alone.
fn id_of(owner: u64, number: usize) -> Rc<[u8]> {
    let mut source = Random::new(owner << 32 | number as u64);
    let len = 4 + source.below(61);
    let id = [owner as u8, number as u8].into_iter().chain(MARK);
    id.chain(std::iter::repeat_with(|| source.next() as u8)).take(len).collect()
}

/// Draws requests for one client.
#[derive(Clone, Copy, Debug)]
pub struct Generator {
    /// The client's number, not 0.
    pub owner: u64,
    /// How many ids all clients share.
    pub ids: usize,
    /// Of four requests, how many are for an id that all clients share.
    pub shared: usize,
    /// The most bytes that most sessions have.
    pub session_len: usize,
    /// The longest lifetime of most sessions.
    pub max_ttl: u32,
    /// Which levels and operations it uses.
    pub dialect: Dialect,
    /// The largest minimum lifetime of the nodes on the way.
    pub min_ttl: u32,
    /// Whether it calls a proxy.
    pub proxied: bool,
    /// Whether sessions are sealed on the way.
    pub sealed: bool,
}

/// Which patch levels and operations a client uses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dialect {
    /// Level 0 only, as an old client.
    LevelZero,
    /// Any level, but only the operations of level 0.
    LevelZeroOps,
    /// Any level, and all operations.
    AllOps,
}

impl Generator {
    /// Draws a request that the core's client can make. `version` must be new.
    pub fn valid(&self, random: &mut Random, version: u64, since: u64) -> Request {
        let shared = random.below(4) < self.shared;
        let id = match shared {
            true => id_of(0, random.below(self.ids)),
            false => id_of(self.owner, random.below(3)),
        };
        let op = match self.dialect {
            Dialect::AllOps => pick(random, &ALL),
            _ => pick(random, &[Op::Add, Op::Add, Op::Get, Op::Get, Op::Have, Op::Remove]),
        };
        let level = match self.dialect {
            Dialect::LevelZero => 0,
            _ => pick(random, &[0, 1, 1, 2, random.clone().next() as u16]).max(op.level()),
        };
        let add = op.stores().then(|| {
            let len = self.len(random, id.len(), shared);
            (self.ttl(random), session(&id, version, len))
        });
        let uid = pick(random, &[0, 1, u32::MAX, random.clone().next() as u32]);
        let payload_len = add.as_ref().map_or(0, |(_, session)| 8 + id.len() + session.len());
        let expect = match self.sealed && payload_len + OVERHEAD > PAYLOAD_MAX {
            true => Expect::Fixed(104),
            false => Expect::Executed,
        };
        let guarantee = Guarantee::NONE;
        let (min_ttl, proxied) = (self.min_ttl, self.proxied);
        Request { op, uid, id, level, add, expect, since, min_ttl, proxied, guarantee }
    }

    /// Draws a request of any kind, including those that are refused without a call of the store.
    pub fn any(&self, random: &mut Random, version: u64, since: u64) -> Request {
        let mut request = self.valid(random, version, since);
        if random.below(12) > 0 {
            return request;
        }
        let status = match &mut request.add {
            Some((ttl, _)) if random.below(2) == 0 => {
                *ttl = TTL_MAX + 1 + random.below(1_000) as u32;
                102
            }
            Some((_, session)) => {
                // With a longer id the longest session does not fit into a message.
                *session = Rc::from(&session[..session.len().min(5_000)]);
                request.id = Rc::from(vec![9; pick(random, &[0, 65, 100])]);
                103
            }
            None => {
                let longest = if self.session_len < 5_000 { 66 } else { 32_768 };
                request.id = Rc::from(vec![9; pick(random, &[0, 65, 2_048.min(longest), longest])]);
                1
            }
        };
        request.expect = Expect::Fixed(status);
        request
    }

    fn ttl(&self, random: &mut Random) -> u32 {
        let most = random.below(self.max_ttl as usize + 1) as u32;
        pick(random, &[most, most, most, 0, 1, 3_600_000, TTL_MAX])
    }

    /// Draws the length of a session. Half of them are at the boundaries of frames. The core's
    /// client cannot tell the shortest ones from a status, so they are only stored under ids of one
    /// client.
    fn len(&self, random: &mut Random, id: usize, shared: bool) -> usize {
        let most = 16 * FRAME_DATA_MAX - 8 - id;
        if self.session_len < 300 {
            return 8 + random.below(self.session_len);
        }
        let frames = FRAME_DATA_MAX * (1 + random.below(self.session_len.div_ceil(FRAME_DATA_MAX)));
        let near = frames + 1 - random.below(3);
        let len = match random.below(6) {
            0 => near - 8 - id,
            1 => near,
            2 if !shared => 1 + random.below(7),
            3 if self.session_len >= 5_000 && random.below(8) == 0 => most,
            _ => 8 + random.below(self.session_len),
        };
        len.min(most)
    }
}

impl Request {
    /// Returns the lifetime that a store is given, and the session, if there is one.
    pub fn stored(&self) -> Option<(u32, Rc<[u8]>)> {
        let (ttl, session) = self.add.as_ref()?;
        Some((self.min_ttl.max(*ttl), session.clone()))
    }

    /// Returns when the session expires at the earliest, if it is stored at `now`.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let (ttl, _) = self.stored()?;
        Some(now.after(ttl.into()))
    }

    /// Returns the payload of the request.
    pub fn payload(&self) -> Vec<u8> {
        match &self.add {
            Some((ttl, session)) => bytes::add_payload(*ttl, &self.id, session),
            None => self.id.to_vec(),
        }
    }

    /// Returns the request on the wire, in one of its valid encodings.
    pub fn encode(&self, random: &mut Random) -> Vec<u8> {
        let (payload, op) = (self.payload(), self.op as u8);
        let mut wire = match payload.len() {
            len if len > 0 && len % FRAME_DATA_MAX == 0 && len < 16 * FRAME_DATA_MAX => {
                let mut wire = bytes::message(0, self.uid, op, &payload);
                if random.below(2) == 0 {
                    // An empty frame is the last one, after a full one.
                    let last = wire.len() - FRAME_DATA_MAX - 14;
                    wire[last + 11] = 0;
                    wire.extend(bytes::frame(0, self.uid, op, 1, &[]));
                }
                wire
            }
            _ => bytes::message(0, self.uid, op, &payload),
        };
        // Any patch level is valid unless it must be 1, and only the first frame's counts.
        let frames = if self.op.level() > 0 { usize::MAX } else { 1 };
        for frame in wire.chunks_mut(14 + FRAME_DATA_MAX).take(frames) {
            frame[2..4].copy_from_slice(&self.level.to_be_bytes());
        }
        wire
    }
}
