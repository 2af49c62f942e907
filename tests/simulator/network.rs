//! The network: connections between the parts, their faults, and the time.
//!
//! ```text
//!  dialer  ── near ──► pipe ──► far ──  acceptor
//!          ◄────────── pipe ◄─────────
//! ```
//!
//! Bytes are cut into pieces and delayed at random. While there are faults, a direction may break at
//! any byte: reset, silently lost, or ended as if the sender had ended it.

use crate::pipe::{Ending, Pipe, Readable};
use crate::plan::Conditions;
use crate::trace::{Actor, record};
use distcache_core::time::Instant;
use distcache_testing::random::Random;
use std::collections::VecDeque;

/// Which end of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// The end that dialed.
    Near = 0,
    /// The end that accepted.
    Far = 1,
}

/// One end of one connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct End {
    /// The connection's number.
    pub link: usize,
    /// Which of its two ends.
    pub side: Side,
}

/// The state of an attempt to connect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dial {
    /// Not decided yet.
    Waiting,
    /// It is connected.
    Connected,
    /// Nothing listens.
    Refused,
}

#[derive(Debug)]
struct Link {
    dialer: Actor,
    /// The node that was dialed.
    node: usize,
    /// The bytes that each side sends.
    pipes: [Pipe; 2],
    /// Which ends are not closed.
    held: [bool; 2],
    /// When the attempt is decided, and how; `None` if it hangs.
    decided: Option<(Instant, Dial)>,
}

/// Where a node accepts connections.
#[derive(Clone, Debug, Default)]
pub struct Listener {
    /// Whether the node runs.
    pub up: bool,
    backlog: VecDeque<usize>,
}

/// The network.
#[derive(Debug)]
pub struct Network {
    /// The time.
    pub now: Instant,
    /// The source of all random decisions of a run.
    pub random: Random,
    /// Network conditions.
    pub conditions: Conditions,
    /// The listener of each node.
    pub listeners: Vec<Listener>,
    /// The only node whose connections have faults, if there is such a one.
    pub victim: Option<usize>,
    links: Vec<Link>,
}

impl Network {
    /// Creates a network without connections.
    pub fn new(random: Random, conditions: Conditions, nodes: usize) -> Self {
        let listeners = vec![Listener { up: true, ..Listener::default() }; nodes];
        let now = Instant::from_millis(1_000);
        Self { now, random, conditions, listeners, victim: None, links: Vec::new() }
    }

    /// Draws whether something happens that happens `permille` times in a thousand.
    pub const fn chance(&mut self, permille: usize) -> bool {
        permille > 0 && self.random.below(1000) < permille
    }

    fn arrival(&mut self) -> Instant {
        let most = usize::try_from(self.conditions.delay).unwrap_or(0);
        self.now.after(self.random.below(most + 1) as u64)
    }

    /// Begins to connect to a node.
    pub fn dial(&mut self, actor: Actor, node: usize) -> End {
        let link = self.links.len();
        let at = self.arrival();
        let lost = self.is_troubled(node) && self.chance(self.conditions.lost_dials);
        let decided = match self.listeners[node].up {
            _ if lost => None,
            true => Some((at, Dial::Connected)),
            false => Some((at, Dial::Refused)),
        };
        let pipe = || Pipe::new(self.conditions.capacity);
        let pipes = [pipe(), pipe()];
        self.links.push(Link { dialer: actor, node, pipes, held: [true; 2], decided });
        if let Some((_, Dial::Connected)) = decided {
            self.listeners[node].backlog.push_back(link);
        }
        record(self.now, actor, "dials node, as link", [node as u64, link as u64]);
        End { link, side: Side::Near }
    }

    /// Returns the state of an attempt.
    pub fn dialed(&self, end: End) -> Dial {
        let decided = self.links[end.link].decided.filter(|(at, _)| *at <= self.now);
        decided.map_or(Dial::Waiting, |(_, dial)| dial)
    }

    /// Refuses all attempts that hang.
    pub fn refuse_hanging(&mut self) {
        let now = self.now;
        for link in &mut self.links {
            let (at, dial) = link.decided.unwrap_or((now, Dial::Refused));
            link.decided = Some((at.min(now), dial));
        }
    }

    /// Accepts the oldest waiting connection of a node.
    pub fn accept(&mut self, node: usize) -> Option<End> {
        let link = *self.listeners[node].backlog.front()?;
        if self.dialed(End { link, side: Side::Near }) != Dial::Connected {
            return None;
        }
        self.listeners[node].backlog.pop_front();
        record(self.now, Actor::Node(node), "accepts link", [link as u64, 0]);
        Some(End { link, side: Side::Far })
    }

    /// Stops a listener, and resets the connections that wait there.
    pub fn shut(&mut self, node: usize) {
        self.listeners[node].up = false;
        for link in std::mem::take(&mut self.listeners[node].backlog) {
            self.abort(End { link, side: Side::Far });
        }
    }

    /// Returns the actor that dialed the connection.
    pub fn dialer(&self, end: End) -> Actor {
        self.links[end.link].dialer
    }

    fn outgoing(&mut self, end: End) -> &mut Pipe {
        &mut self.links[end.link].pipes[end.side as usize]
    }

    fn incoming(&self, end: End) -> &Pipe {
        &self.links[end.link].pipes[1 - end.side as usize]
    }

    /// Sends some of `bytes`, and returns how many were taken.
    pub fn write(&mut self, actor: Actor, end: End, bytes: &[u8]) -> usize {
        let room = self.outgoing(end).room();
        let most = bytes.len().min(room);
        if most == 0 {
            return 0;
        }
        let at = self.arrival();
        if !self.links[end.link].held[1 - end.side as usize] {
            // Nothing reads this: the answer is a reset.
            self.links[end.link].pipes[1 - end.side as usize].end(at, Ending::Reset);
            return most;
        }
        let len = self.piece(most);
        record(self.now, actor, "sends on link, bytes", [end.link as u64, len as u64]);
        let troubled = self.is_troubled(self.links[end.link].node);
        let passes = match troubled && self.chance(self.conditions.cuts) {
            true => self.random.below(len + 1),
            false => len,
        };
        self.outgoing(end).push(at, &bytes[..passes]);
        if passes < len {
            self.cut(end, at);
        }
        len
    }

    fn is_troubled(&self, node: usize) -> bool {
        self.victim.is_none_or(|victim| victim == node)
    }

    fn piece(&mut self, most: usize) -> usize {
        match self.conditions.piece {
            0 => 1 + self.random.below(most),
            piece => most.min(piece),
        }
    }

    /// Breaks what this end sends, and maybe the whole connection.
    fn cut(&mut self, end: End, at: Instant) {
        let kind = self.random.below(4) as u64;
        record(self.now, Actor::World, "cuts link, in way", [end.link as u64, kind]);
        let now = self.now;
        let [near, far] = &mut self.links[end.link].pipes;
        match kind {
            0 => near.end(at, Ending::Reset),
            1 => near.black_hole(now),
            _ => (),
        }
        match kind {
            0 => far.end(at, Ending::Reset),
            1 => far.black_hole(now),
            2 => self.outgoing(end).black_hole(now),
            _ => self.outgoing(end).end(at, Ending::Finished),
        }
    }

    /// Returns what has arrived at this end.
    pub fn readable(&self, end: End) -> Readable {
        self.incoming(end).readable(self.now)
    }

    /// Takes some of what has arrived.
    pub fn read(&mut self, actor: Actor, end: End, out: &mut [u8]) -> usize {
        let (now, link) = (self.now, end.link);
        let here = match self.readable(end) {
            Readable::Bytes(here) if !out.is_empty() => self.piece(here.min(out.len())),
            _ => return 0,
        };
        let pipe = &mut self.links[link].pipes[1 - end.side as usize];
        let len = pipe.take(now, &mut out[..here]);
        record(now, actor, "reads from link, bytes", [link as u64, len as u64]);
        len
    }

    /// Ends the sending side of this end.
    pub fn finish(&mut self, end: End) {
        let at = self.arrival();
        self.outgoing(end).end(at, Ending::Finished);
    }

    /// Closes this end. What it has sent still arrives.
    pub fn close(&mut self, actor: Actor, end: End) {
        record(self.now, actor, "closes link", [end.link as u64, 0]);
        self.finish(end);
        self.links[end.link].held[end.side as usize] = false;
    }

    /// Resets this end, as when its process dies.
    pub fn abort(&mut self, end: End) {
        let at = self.arrival();
        self.outgoing(end).end(at, Ending::Reset);
        self.links[end.link].held[end.side as usize] = false;
    }

    /// Ends delays, limits and cuts. If a connection loses bytes silently, an end learns of it if
    /// `notified` (given itself and the other end) says so; the others must find out.
    pub fn heal(&mut self, notified: impl Fn(Actor, Actor) -> bool) {
        (self.conditions.delay, self.conditions.capacity, self.conditions.piece) =
            (0, usize::MAX / 2, 0);
        (self.conditions.cuts, self.conditions.lost_dials) = (0, 0);
        let now = self.now;
        for link in &mut self.links {
            if let Some((at, _)) = &mut link.decided {
                *at = now.min(*at);
            }
            let dead = link.pipes.iter().any(Pipe::is_black_hole);
            let (near, far) = (link.dialer, Actor::Node(link.node));
            for (pipe, [reader, writer]) in link.pipes.iter_mut().zip([[far, near], [near, far]]) {
                pipe.heal(now);
                if dead && notified(reader, writer) {
                    pipe.end(now, Ending::Reset);
                }
            }
        }
    }

    /// Returns when something new arrives at this end.
    pub fn next(&self, end: End) -> Option<Instant> {
        self.incoming(end).next(self.now)
    }

    /// Returns when the attempt is decided, if that is still to come.
    pub fn next_dial(&self, end: End) -> Option<Instant> {
        self.links[end.link].decided.map(|(at, _)| at).filter(|at| *at > self.now)
    }

    /// Returns when the next connection reaches a node.
    pub fn next_accept(&self, node: usize) -> Option<Instant> {
        let link = *self.listeners[node].backlog.front()?;
        self.next_dial(End { link, side: Side::Near })
    }
}
