//! The verbs that servers and proxies have in common.
//!
//! A machine holds the state of many connections, and none of their sockets. The caller has the
//! sockets (in a poll loop, in threads, in a simulator), and moves bytes and time:
//!
//! ```text
//!  accept        open ──► key
//!  receive into  space ──► filled(n)          or  ended     (the peer sends no more)
//!                advance ──► the peer to look at
//!  send from     pending ──► sent(n)
//!  close if      wants().close ──► closed     or  closed    (the connection broke)
//!  sleep until   deadline
//! ```
//!
//! There is no required order: a verb with nothing to do does nothing, and the key of a closed
//! connection finds nothing. After `filled`, `ended`, `sent` and `closed`, and at the deadline, call
//! `advance` until it returns `None`, or for as long as there is time. Each call does a bounded piece
//! of work for one peer and returns that peer, whose `pending` and `wants` may have changed.
//!
//! [`Machine::exchange`] does all of this for one peer in one call.

use crate::slots::Key;
use crate::time::Instant;

/// Names one connection to a server, from the attempt to connect until it is closed. After that it
/// finds nothing, even if the same server is connected again.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ServerKey {
    number: u8,
    era: u32,
}

impl ServerKey {
    pub(crate) const fn new(number: u8, era: u32) -> Self {
        Self { number, era }
    }

    /// The number of the server in its proxy, counted from 0.
    pub const fn number(self) -> u8 {
        self.number
    }

    pub(crate) const fn era(self) -> u32 {
        self.era
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Peer {
    /// A client, by the key that [`Machine::open`] returned.
    Client(Key),
    /// A server that a proxy passes requests to, by the key of its connection.
    Server(ServerKey),
}

/// What to watch a peer's socket for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Wants {
    /// Watch for bytes from the peer. If `false`, `space` may be empty.
    pub read: bool,
    /// Watch for room for bytes to the peer: `pending` is not empty.
    pub write: bool,
    /// Close the connection: nothing more is to be received or sent.
    pub close: bool,
}

impl Wants {
    /// Close the connection now.
    pub const CLOSE: Self = Self { read: false, write: false, close: true };
}

/// The result of [`Machine::exchange`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Exchanged {
    /// The number of bytes taken from the front of the input. Pass the rest again.
    pub taken: usize,
    /// The number of bytes written to the front of the output. Send these before anything else.
    pub written: usize,
    /// What to do once those are sent.
    pub next: Next,
}

/// What to do with a peer's connection next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Receive more bytes. All input was taken.
    Receive,
    /// Call again: more bytes are ready than the output has room for.
    Send,
    /// Call again later: the peer's next bytes have no room, or its answer is not there yet. Another
    /// peer's call can change that, and so can the time of [`Machine::deadline`].
    Wait,
    /// Close the connection, and call [`Machine::closed`].
    Close,
}

/// Many connections without their sockets.
pub trait Machine {
    /// Accepts a client that has connected. `None` if all places are taken: drop the connection.
    fn open(&mut self, now: Instant) -> Option<Key>;

    /// The room for the peer's next bytes. Empty if there is none, or if bytes are not wanted now: do
    /// not read from the peer until [`Machine::wants`] says so.
    fn space(&mut self, peer: Peer) -> &mut [u8];

    /// Takes the first `len` bytes of `space`, which the peer has sent. Call it with 0 if nothing
    /// came: until then the peer keeps a buffer that others may be waiting for.
    fn filled(&mut self, peer: Peer, len: usize);

    /// The peer sends no more. What it sent is still answered.
    fn ended(&mut self, now: Instant, peer: Peer);

    /// Does one bounded piece of work, and returns the peer whose `pending` and `wants` it changed.
    /// `None` if there is nothing to do before the next event or [`Machine::deadline`].
    fn advance(&mut self, now: Instant) -> Option<Peer>;

    /// The bytes to send to the peer.
    fn pending(&self, peer: Peer) -> &[u8];

    /// Drops the first `len` bytes of `pending`, which were sent.
    fn sent(&mut self, now: Instant, peer: Peer, len: usize);

    /// What to watch the peer's socket for. Changes with every other verb on this peer, and when
    /// `advance` returns it.
    fn wants(&self, peer: Peer) -> Wants;

    /// The peer's connection is closed, by either side. Its key finds nothing from now on.
    fn closed(&mut self, peer: Peer);

    /// When `advance` has something to do even if nothing happens: [`Instant::ORIGIN`] for at once,
    /// `None` for never. May change with every other verb.
    fn deadline(&self) -> Option<Instant>;

    /// Serves one peer in one call: takes as much of `input`, which the peer has sent, as there is
    /// room for, does all work there is, and writes as much as fits of what is to be sent to the peer
    /// to the front of `output`. The result says what to do next.
    ///
    /// `input` may be empty: after [`Machine::ended`], for example, or at the deadline. `output` may
    /// have any length.
    ///
    /// The work can concern other peers too, and the next call for each of them shows it. So call this
    /// for every peer from time to time, and at [`Machine::deadline`]. To know at once which peers have
    /// changed, use the verbs instead.
    fn exchange(&mut self, now: Instant, peer: Peer, input: &[u8], output: &mut [u8]) -> Exchanged {
        let (mut taken, mut written) = (0_usize, 0_usize);
        loop {
            let before = (taken, written);
            let received = input.get(taken..).unwrap_or_default();
            if !received.is_empty() {
                let len = copy(received, self.space(peer));
                self.filled(peer, len);
                taken = taken.saturating_add(len);
            }
            while self.advance(now).is_some() {}
            let len = copy(self.pending(peer), output.get_mut(written..).unwrap_or_default());
            self.sent(now, peer, len);
            written = written.saturating_add(len);
            if (taken, written) == before {
                break;
            }
        }
        let Wants { read, write, close } = self.wants(peer);
        let next = match () {
            () if close => Next::Close,
            () if write => Next::Send,
            () if read && taken == input.len() => Next::Receive,
            () => Next::Wait,
        };
        Exchanged { taken, written, next }
    }
}

/// Copies as much of `from` as fits to the front of `to`, and returns how many bytes that is.
fn copy(from: &[u8], to: &mut [u8]) -> usize {
    to.iter_mut().zip(from).map(|(to, from)| *to = *from).count()
}
