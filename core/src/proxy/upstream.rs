//! One server behind a proxy: its connection, when that is made again, and which ids it is for.

use core::hash::Hasher;
use siphasher::sip::SipHasher13;

use crate::buffer::Fifo;
use crate::machine::ServerKey;
use crate::slots::{Lane, Queue, QueueId};
use crate::time::Instant;

/// How long requests wait for a connection that is just being made, before they are answered that
/// the server is away.
pub(super) const DIAL_GRACE: u64 = 100;

/// The most answers in a row that nobody asked for. The C original answers one message of several
/// frames up to once for each frame, so a few of them are no reason to give a server up.
pub(super) const STRAYS_MAX: u8 = 32;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// No connection, and none is being made.
    Away,
    /// One is being made.
    Dialing,
    /// One is there, and the server has not answered the probe on it.
    Probing,
    /// One is there, and the server answers.
    Up,
}

/// Why a proxy gave up a connection that was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GivenUp {
    /// A request had no answer for so many milliseconds.
    Silent(u64),
    /// Too many answers in a row that nobody had asked for.
    Strays,
    /// Something that is no answer.
    Malformed,
}

/// What happened at one server, counted from the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServerTraffic {
    /// Requests passed to it.
    pub forwarded: u64,
    /// Requests that it answered.
    pub answered: u64,
    /// Requests that were lost with their connection.
    pub lost: u64,
    /// Answers that nobody had asked for.
    pub strays: u64,
    /// Connections that were made.
    pub connects: u64,
    /// Connections that are gone.
    pub losses: u64,
    /// Connections that were given up for what the server did, or failed to do.
    pub given_up: u64,
}

/// A server that a proxy passes requests to.
#[derive(Debug)]
pub struct Upstream {
    name: u64,
    number: u8,
    /// Changes with every end of an attempt or a connection.
    era: u32,
    pub(super) phase: Phase,
    /// What the server did closes its connection.
    pub(super) aborted: bool,
    /// The server sends no more.
    pub(super) input_over: bool,
    /// There may be whole answers in the inbox.
    pub(super) unread: bool,
    /// Its wants have changed, and `advance` has not named it since.
    pub(super) wants_changed: bool,
    /// The outbox may have room for the first of `waiting`.
    pub(super) can_send: bool,
    /// It was out of reach since the start, so it may not have what it was given, or should have been.
    pub(super) may_lack_data: bool,
    pub(super) inbox: Fifo,
    pub(super) outbox: Fifo,
    /// The patch level of its last answer; 0 before the first one on a connection.
    pub(super) level: u16,
    /// When it was connected, or last gave an answer that it was asked for.
    pub(super) heard: Instant,
    /// How many answers in a row nobody had asked for.
    pub(super) strays: u8,
    /// Why a connection was last given up.
    pub(super) given_up: Option<GivenUp>,
    pub(super) traffic: ServerTraffic,
    /// When the last attempt to connect began; `None` before the first.
    pub(super) dialed: Option<Instant>,
    /// The requests in request in flight that it is to answer, in the order in which they were sent.
    pub(super) open: Queue,
    /// How many requests in request in flight at the front of `open` were lost with their connection.
    pub(super) lost: usize,
    /// The requests in request in flight that are to be sent when the outbox has room.
    pub(super) waiting: Queue,
    /// How many of the requests in request in flight in `open` nobody waits for any more.
    pub(super) orphans: usize,
}

impl Upstream {
    /// The server of a proxy that has no other.
    pub const ONLY: Self = Self {
        name: 0,
        number: 0,
        era: 0,
        phase: Phase::Away,
        aborted: false,
        input_over: false,
        unread: false,
        wants_changed: false,
        can_send: false,
        may_lack_data: false,
        inbox: Fifo::new(),
        outbox: Fifo::new(),
        level: 0,
        heard: Instant::ORIGIN,
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
        },
        dialed: None,
        open: Queue::new(Lane::Work, QueueId(0)),
        lost: 0,
        waiting: Queue::new(Lane::Time, QueueId(0)),
        orphans: 0,
    };

    /// The server of this name. All proxies that are to find the same sessions give it the same
    /// name, such as its address.
    pub fn new(name: &[u8]) -> Self {
        Self { name: hash(name), ..Self::ONLY }
    }

    /// Its number in its proxy.
    pub(super) const fn number(&self) -> u8 {
        self.number
    }

    /// It is server `number` of a proxy.
    pub(super) fn set_number(&mut self, number: u8) {
        self.number = number;
        self.open = Queue::new(Lane::Work, QueueId(number));
        self.waiting = Queue::new(Lane::Time, QueueId(number));
    }

    /// The key of its connection, or of the attempt to make one.
    pub(super) const fn key(&self) -> ServerKey {
        ServerKey::new(self.number, self.era)
    }

    /// Whether this is the key of its connection, or of the attempt to make one.
    pub(super) fn is(&self, key: ServerKey) -> bool {
        self.era == key.era() && self.phase != Phase::Away
    }

    /// Whether it can be asked.
    #[inline]
    pub(super) fn is_up(&self) -> bool {
        self.phase == Phase::Up && !self.aborted
    }

    /// Whether there is a connection.
    pub(super) fn is_connected(&self) -> bool {
        matches!(self.phase, Phase::Probing | Phase::Up)
    }

    /// Whether bytes go to and fro.
    #[inline]
    pub(super) fn is_talking(&self) -> bool {
        self.is_connected() && !self.aborted
    }

    /// How many requests in request in flight it has.
    #[inline]
    pub(super) const fn load(&self) -> usize {
        self.open.len().saturating_add(self.waiting.len())
    }

    /// How high the server stands for an id of this [`hash`]: every id has an order of servers of its
    /// own, in which the others stay where they are when one comes or goes.
    pub(super) const fn rank(&self, id: u64) -> u64 {
        // The finish of splitmix64: every bit of both counts.
        let mixed = id ^ self.name;
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Until when requests wait for the connection that is being made, and for the answer to the probe
    /// on it. With `any_up`, only the first attempt is waited for: later ones are made to servers that
    /// are left out.
    pub(super) fn grace(&self, any_up: bool) -> Option<Instant> {
        let dialing = matches!(self.phase, Phase::Dialing | Phase::Probing);
        let dialing = dialing && !self.aborted && !(any_up && self.may_lack_data);
        self.dialed.filter(|_| dialing).map(|at| at.after(DIAL_GRACE))
    }

    pub(super) fn dial_at(&self, retry: u64) -> Option<Instant> {
        self.dialed.map(|at| at.after(retry))
    }

    /// Whether there are answers to pass on, or requests that can go on.
    #[inline]
    pub(super) fn has_work(&self) -> bool {
        self.lost > 0
            || (self.unread && self.is_talking())
            || (!self.waiting.is_empty() && (self.can_send || !self.is_up()))
    }

    /// It has sent an answer that nobody asked for.
    pub(super) const fn stray(&mut self) {
        self.strays = self.strays.saturating_add(1);
        self.traffic.strays = self.traffic.strays.saturating_add(1);
    }

    /// Its connection is gone.
    pub(super) fn leave(&mut self) {
        self.phase = Phase::Away;
        self.era = self.era.wrapping_add(1);
        self.may_lack_data = true;
        self.strays = 0;
        (self.aborted, self.input_over, self.unread) = (false, false, false);
        self.lost = self.open.len();
    }
}

/// The same number everywhere for the same bytes: proxies on other machines must agree, so this is no
/// place for a secret.
pub(super) fn hash(bytes: &[u8]) -> u64 {
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
    fn ids_are_spread_evenly_and_those_of_one_that_leaves_over_all_others() {
        let servers = servers();
        let ids = || (0..20_000_u32).map(|id| hash(&id.to_be_bytes()));
        let (mut all, mut others) = ([0; 5], [0; 5]);
        for id in ids() {
            let first = best(&servers, usize::MAX, id);
            all[first] += 1;
            if first == 3 {
                others[best(&servers, 3, id)] += 1;
            } else {
                assert_eq!(best(&servers, 3, id), first, "who stays keeps what it has");
            }
        }
        assert!(all.iter().all(|count| (3_700..4_300).contains(count)), "{all:?}");
        others[3] = 1_000;
        assert!(others.iter().all(|count| (800..1_200).contains(count)), "{others:?}");
    }

    #[test]
    fn where_an_id_belongs_is_the_same_in_every_build() {
        let servers = servers();
        let homes = [&b"a"[..], b"b", b"some longer id", &[0; 32]];
        let homes = homes.map(|id| best(&servers, usize::MAX, hash(id)));
        assert_eq!(homes, [2, 0, 3, 3]);
    }
}
