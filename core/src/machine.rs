//! The verbs that the server and the proxy have in common.
//!
//! A machine holds the state of many connections and none of their sockets. Whoever has the
//! sockets (a poll loop, threads, a simulator) moves bytes and time:
//!
//! ```text
//!  accept        open ──► key
//!  receive into  space ──► filled(n)          or  ended     (the peer will send no more)
//!                advance ──► who to look at
//!  send from     pending ──► sent(n)
//!  close where   wants().close ──► closed     or  closed    (the connection broke)
//!  sleep until   deadline
//! ```
//!
//! There is no required order: a verb with nothing to do does nothing, and a key whose connection is
//! gone finds nothing. After `filled`, `ended`, `sent` and `closed`, and when the deadline is
//! reached, call `advance` until it says `None` or for as long as there is time: each call does a
//! bounded piece of work for one peer and names it, because its `pending` and `wants` may have changed.

use crate::slots::Key;
use crate::time::Instant;

/// Names one connection to a server, from the attempt to make it until it is closed. After that it
/// finds nothing, even where the same server is connected again.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ServerKey {
    number: u8,
    era: u32,
}

impl ServerKey {
    pub(crate) const fn new(number: u8, era: u32) -> Self {
        Self { number, era }
    }

    /// The server's number in its proxy.
    pub const fn number(self) -> u8 {
        self.number
    }

    pub(crate) const fn era(self) -> u32 {
        self.era
    }
}

/// One end of a connection, as the machine knows it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Peer {
    /// A client, by the key that [`Machine::open`] gave.
    Client(Key),
    /// A server that a proxy passes requests to, by the key of its connection.
    Server(ServerKey),
}

/// What a peer's socket is to be watched for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Wants {
    /// Bytes from the peer; without this, `space` may be empty.
    pub read: bool,
    /// Room for bytes to the peer: `pending` is not empty.
    pub write: bool,
    /// Nothing more: the connection is to be closed.
    pub close: bool,
}

impl Wants {
    /// To be closed now.
    pub const CLOSE: Self = Self { read: false, write: false, close: true };
}

/// Many connections without their sockets.
pub trait Machine {
    /// Takes a client that has connected; `None` where all places are taken: it is to be refused.
    fn open(&mut self, now: Instant) -> Option<Key>;

    /// Where the peer's bytes go. Empty where there is no room for them or where they are not wanted
    /// now: then the peer is not to be read from until [`Machine::wants`] says so.
    fn space(&mut self, peer: Peer) -> &mut [u8];

    /// The peer's next `len` bytes are in the front of `space`. Say 0 where nothing came: until then
    /// the peer keeps a buffer that others may be waiting for.
    fn filled(&mut self, now: Instant, peer: Peer, len: usize);

    /// The peer will send no more; what it sent is still answered.
    fn ended(&mut self, now: Instant, peer: Peer);

    /// Does one bounded piece of work and names the peer whose `pending` and `wants` it changed;
    /// `None` where nothing is to be done before the next event or [`Machine::deadline`].
    fn advance(&mut self, now: Instant) -> Option<Peer>;

    /// The bytes to send to the peer.
    fn pending(&self, peer: Peer) -> &[u8];

    /// The first `len` bytes of `pending` are on their way.
    fn sent(&mut self, now: Instant, peer: Peer, len: usize);

    /// What the peer's socket is to be watched for. Changes with any other verb on this peer, and
    /// where `advance` names it.
    fn wants(&self, peer: Peer) -> Wants;

    /// The peer's connection is gone, by whoever's hand.
    fn closed(&mut self, now: Instant, peer: Peer);

    /// When `advance` has something to do even if nothing happens: [`Instant::ORIGIN`] where that is
    /// at once, `None` where never. May change with every other verb.
    fn deadline(&self) -> Option<Instant>;
}
