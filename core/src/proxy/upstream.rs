//! One server behind a proxy: the state of its connection, and which ids belong to it.

use core::hash::Hasher;
use siphasher::sip::SipHasher13;

use super::seal::Rejected;
use crate::buffer::Fifo;
use crate::machine::ServerKey;
use crate::slots::{Lane, Queue, QueueId};
use crate::time::Instant;

/// How long requests wait for a new connection before they are answered without it, in milliseconds.
pub(super) const DIAL_GRACE: u64 = 100;

/// The most answers in a row without a request. The C original may answer a message of several frames
/// once for each frame, so a few strays are tolerated.
pub(super) const STRAYS_MAX: u8 = 32;

/// The state of the connection to a server.
///
/// ```text
///          dial              connected            the probe's answer
///  Down ─────────► Dialing ────────────► Probing ────────────────────► Up
///   ▲                 │                     │                           │
///   │  failed, timed  ▼                     ▼     given up, or ended    ▼
///   ├─────────────────┘                     └─────────► Closing ◄───────┘
///   └──────────────── closed: from any state ──────────────┘
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Link {
    /// No connection, and no attempt to connect.
    Down,
    /// An attempt to connect, since [`Upstream::dialed`].
    Dialing,
    /// A connection without an answer to the probe yet.
    Probing {
        /// When the probe was written.
        since: Instant,
    },
    /// A connection on which the server has answered.
    Up {
        /// When it last answered a request.
        answered_at: Instant,
        /// The outbox may have room for the first of [`Upstream::waiting`].
        can_send: bool,
    },
    /// A connection that must be closed.
    Closing,
}

/// The state of the bytes from a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Input {
    /// The inbox holds no complete answer.
    Quiet,
    /// The inbox may hold complete answers.
    Unread,
    /// As `Unread`, and the server will send no more.
    Ended,
}

/// Why a proxy gave up a connection to a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GivenUp {
    /// A request had no answer for this many milliseconds.
    Silent(u64),
    /// Too many answers in a row had no request.
    Strays,
    /// The server sent bytes that are not an answer.
    Malformed,
}

/// Counters of one server since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServerTraffic {
    /// Requests sent to it.
    pub forwarded: u64,
    /// Requests that it answered.
    pub answered: u64,
    /// Requests lost with their connection.
    pub lost: u64,
    /// Answers without a request.
    pub strays: u64,
    /// Connections made.
    pub connects: u64,
    /// Connections that ended.
    pub losses: u64,
    /// Connections that the proxy gave up; see [`GivenUp`].
    pub given_up: u64,
    /// Sessions that it returned and that do not open.
    pub rejected: Rejected,
    /// Sessions stored again that it had lost.
    pub repaired: u64,
}

/// A server that a proxy forwards requests to.
#[derive(Debug)]
pub struct Upstream {
    name: u64,
    number: u8,
    /// Changes with each end of a connection or an attempt.
    era: u32,
    pub(super) link: Link,
    /// `Quiet` unless there is a connection.
    pub(super) input: Input,
    /// What its socket waits for has changed since the last verb on it, and since `advance` named it.
    /// Only with a connection.
    pub(super) wants_changed: bool,
    /// It was unreachable at some time, or requests went elsewhere, so it may lack sessions.
    pub(super) may_lack_data: bool,
    pub(super) inbox: Fifo,
    pub(super) outbox: Fifo,
    /// The patch level of its last answer; 0 before the first one on a connection.
    pub(super) level: u16,
    /// The number of answers in a row without a request.
    pub(super) strays: u8,
    /// Why the last connection was given up.
    pub(super) given_up: Option<GivenUp>,
    pub(super) traffic: ServerTraffic,
    /// When the last attempt to connect began; `None` before the first.
    pub(super) dialed: Option<Instant>,
    /// The requests sent to it, in their order.
    pub(super) open: Queue,
    /// The number of requests at the front of `open` that were lost with their connection.
    pub(super) lost: usize,
    /// The requests that wait for room in the outbox.
    pub(super) waiting: Queue,
    /// The number of requests in `open` whose client has left, and of repairs.
    pub(super) orphans: usize,
    /// The number of repairs in `open`.
    pub(super) repairs: usize,
}

impl Upstream {
    /// The server of a proxy with one server.
    pub const ONLY: Self = Self {
        name: 0,
        number: 0,
        era: 0,
        link: Link::Down,
        input: Input::Quiet,
        wants_changed: false,
        may_lack_data: false,
        inbox: Fifo::new(),
        outbox: Fifo::new(),
        level: 0,
        strays: 0,
        given_up: None,
        traffic: ServerTraffic {
            forwarded: 0,
            answered: 0,
            lost: 0,
            strays: 0,
            connects: 0,
            losses: 0,
            given_up: 0,
            rejected: Rejected::NONE,
            repaired: 0,
        },
        dialed: None,
        open: Queue::new(Lane::Work, QueueId(0)),
        lost: 0,
        waiting: Queue::new(Lane::Time, QueueId(0)),
        orphans: 0,
        repairs: 0,
    };

    /// The server of this name, such as its address. Proxies that share sessions must use the same
    /// names.
    pub fn new(name: &[u8]) -> Self {
        Self { name: hash(name), ..Self::ONLY }
    }

    /// Its number in its proxy.
    pub(super) const fn number(&self) -> u8 {
        self.number
    }

    /// Makes it server `number` of a proxy.
    pub(super) fn set_number(&mut self, number: u8) {
        self.number = number;
        self.open = Queue::new(Lane::Work, QueueId(number));
        self.waiting = Queue::new(Lane::Time, QueueId(number));
    }

    /// The key of its connection, or of the attempt to connect.
    pub(super) const fn key(&self) -> ServerKey {
        ServerKey::new(self.number, self.era)
    }

    /// Whether `key` is that of its connection, or of the attempt to connect.
    #[inline]
    pub(super) fn is(&self, key: ServerKey) -> bool {
        self.era == key.era() && !matches!(self.link, Link::Down)
    }

    /// Whether requests can be sent to it.
    #[inline]
    pub(super) const fn is_up(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }

    /// Whether there is a connection.
    pub(super) const fn is_connected(&self) -> bool {
        matches!(self.link, Link::Probing { .. } | Link::Up { .. } | Link::Closing)
    }

    /// Whether there is a connection that is in use.
    #[inline]
    pub(super) const fn is_talking(&self) -> bool {
        matches!(self.link, Link::Probing { .. } | Link::Up { .. })
    }

    /// The number of its requests in flight.
    #[inline]
    pub(super) const fn load(&self) -> usize {
        self.open.len().saturating_add(self.waiting.len())
    }

    /// The rank of the server for the id of this [`hash`]. Each id has its own order of servers, and
    /// the others keep theirs when one comes or goes.
    pub(super) const fn rank(&self, id: u64) -> u64 {
        rank(self.name, id)
    }

    /// The time until which requests wait for the connection being made, and for its probe. With
    /// `any_up` they wait for a first attempt only: later ones are made to servers that are skipped
    /// meanwhile.
    pub(super) fn grace(&self, any_up: bool) -> Option<Instant> {
        let dialing = matches!(self.link, Link::Dialing | Link::Probing { .. });
        let dialing = dialing && !(any_up && self.may_lack_data);
        self.dialed.filter(|_| dialing).map(|at| at.after(DIAL_GRACE))
    }

    /// When the next attempt to connect is due.
    pub(super) fn dial_at(&self, retry: u64) -> Option<Instant> {
        let at = self.dialed.map_or(Instant::ORIGIN, |at| at.after(retry));
        (self.link == Link::Down).then_some(at)
    }

    /// Whether there are answers to deliver, or requests to send again.
    #[inline]
    pub(super) fn has_work(&self) -> bool {
        let sends = match self.link {
            Link::Up { can_send, .. } => can_send,
            _ => true,
        };
        self.input != Input::Quiet || self.lost > 0 || (sends && !self.waiting.is_empty())
    }

    /// The outbox may have room for the first of `waiting`; or `can_send` is false: it has none.
    #[inline]
    pub(super) const fn set_can_send(&mut self, now_can: bool) {
        if let Link::Up { can_send, .. } = &mut self.link {
            *can_send = now_can;
        }
    }

    /// Counts an answer without a request.
    pub(super) const fn stray(&mut self) {
        self.strays = self.strays.saturating_add(1);
        self.traffic.strays = self.traffic.strays.saturating_add(1);
    }

    /// Starts to close the connection: nothing more is read or sent.
    pub(super) const fn abort(&mut self) {
        self.link = Link::Closing;
        (self.input, self.wants_changed) = (Input::Quiet, false);
    }

    /// Ends the connection, or the attempt to connect.
    pub(super) fn leave(&mut self) {
        self.abort();
        self.link = Link::Down;
        self.era = self.era.wrapping_add(1);
        self.may_lack_data = true;
        self.strays = 0;
        self.lost = self.open.len();
    }

    /// Checks that the fields agree with each other.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.input != Input::Quiet && !self.is_talking() {
            return Err("answers are unread on no connection");
        }
        if self.wants_changed && !self.is_talking() {
            return Err("wants have changed on no connection");
        }
        if self.link != Link::Down && self.dialed.is_none() {
            return Err("a connection was never dialed");
        }
        if self.repairs > self.orphans
            || self.orphans > self.open.len()
            || self.lost > self.open.len()
        {
            return Err("more requests are lost or orphaned than sent");
        }
        if self.lost > 0 && !matches!(self.link, Link::Down | Link::Dialing | Link::Probing { .. })
        {
            return Err("a server is up before its lost requests are routed again");
        }
        if self.link == Link::Down && self.open.len() != self.lost {
            return Err("a request is sent on no connection");
        }
        Ok(())
    }
}

/// The rank of the server whose name has the hash `name`: see [`Upstream::rank`].
pub(crate) const fn rank(name: u64, id: u64) -> u64 {
    // The finalizer of splitmix64: every bit of both counts.
    let mixed = id ^ name;
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Hashes an id or a name. Proxies on other machines must agree, so there is no secret key.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::vec::Vec;

    fn servers() -> Vec<Upstream> {
        (0..5).map(|number| Upstream::new(format!("IP:cache{number}:9001").as_bytes())).collect()
    }

    fn best(servers: &[Upstream], without: usize, id: u64) -> usize {
        let left = (0..servers.len()).filter(|number| *number != without);
        left.max_by_key(|number| servers[*number].rank(id)).unwrap()
    }

    #[test]
    fn ids_spread_evenly_and_those_of_a_lost_server_over_all_others() {
        let servers = servers();
        let ids = || (0..20_000_u32).map(|id| hash(&id.to_be_bytes()));
        let (mut all, mut others) = ([0; 5], [0; 5]);
        for id in ids() {
            let first = best(&servers, usize::MAX, id);
            all[first] += 1;
            if first == 3 {
                others[best(&servers, 3, id)] += 1;
            } else {
                assert_eq!(best(&servers, 3, id), first, "the others keep their ids");
            }
        }
        assert!(all.iter().all(|count| (3_700..4_300).contains(count)), "{all:?}");
        others[3] = 1_000;
        assert!(others.iter().all(|count| (800..1_200).contains(count)), "{others:?}");
    }

    #[test]
    fn the_server_of_an_id_is_the_same_in_every_build() {
        let servers = servers();
        let homes = [&b"a"[..], b"b", b"some longer id", &[0; 32]];
        let homes = homes.map(|id| best(&servers, usize::MAX, hash(id)));
        assert_eq!(homes, [2, 0, 3, 3]);
    }
}
