//! The network: connections between the parts, what chance does to them, and the time.
//!
//! ```text
//!  dialer  ── near ──► pipe ──► far ──  acceptor
//!          ◄────────── pipe ◄─────────
//! ```
//!
//! Bytes are cut into pieces and delayed anywhere. While the storm lasts, a direction may break at
//! any byte: reset, silently swallowed, or ended as if the sender had said so.

use crate::pipe::{Ending, Pipe, Readable};
use crate::plan::Conditions;
use crate::trace::{Actor, record};
use distcache_core::time::Instant;
use distcache_testing::random::Random;
use std::collections::VecDeque;

/// Which end of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Who dialed.
    Near = 0,
    /// Who accepted.
    Far = 1,
}

/// One end of one connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct End {
    /// The connection's number.
    pub link: usize,
    /// Which of its ends.
    pub side: Side,
}

/// What became of an attempt to connect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dial {
    /// Nothing yet.
    Waiting,
    /// It is connected.
    Connected,
    /// Nobody is there.
    Refused,
}

#[derive(Debug)]
struct Link {
    dialer: Actor,
    /// Who was dialed.
    node: usize,
    /// What is sent by each side.
    pipes: [Pipe; 2],
    /// Which ends are still held.
    held: [bool; 2],
    /// When the attempt is decided, and how; `None` where it never is.
    decided: Option<(Instant, Dial)>,
}

/// Where a node takes connections.
#[derive(Clone, Debug, Default)]
pub struct Listener {
    /// Whether there is anybody at all.
    pub up: bool,
    backlog: VecDeque<usize>,
}

/// The network.
#[derive(Debug)]
pub struct Network {
    /// The time.
    pub now: Instant,
    /// All chance of a run.
    pub random: Random,
    /// How bytes fare.
    pub conditions: Conditions,
    /// Where each node takes connections.
    pub listeners: Vec<Listener>,
    /// The only node whose connections are cut or not made.
    pub victim: Option<usize>,
    links: Vec<Link>,
}

impl Network {
    /// A network without connections.
    pub fn new(random: Random, conditions: Conditions, nodes: usize) -> Self {
        let listeners = vec![Listener { up: true, ..Listener::default() }; nodes];
        let now = Instant::from_millis(1_000);
        Self { now, random, conditions, listeners, victim: None, links: Vec::new() }
    }

    /// Whether something that happens `permille` times of a thousand happens now.
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

    /// What became of an attempt.
    pub fn dialed(&self, end: End) -> Dial {
        let decided = self.links[end.link].decided.filter(|(at, _)| *at <= self.now);
        decided.map_or(Dial::Waiting, |(_, dial)| dial)
    }

    /// Attempts that hang are refused.
    pub fn refuse_hanging(&mut self) {
        let now = self.now;
        for link in &mut self.links {
            let (at, dial) = link.decided.unwrap_or((now, Dial::Refused));
            link.decided = Some((at.min(now), dial));
        }
    }

    /// Takes the connection that has waited longest at a node.
    pub fn accept(&mut self, node: usize) -> Option<End> {
        let link = *self.listeners[node].backlog.front()?;
        if self.dialed(End { link, side: Side::Near }) != Dial::Connected {
            return None;
        }
        self.listeners[node].backlog.pop_front();
        record(self.now, Actor::Node(node), "accepts link", [link as u64, 0]);
        Some(End { link, side: Side::Far })
    }

    /// Nobody is at a node any more: who waits there is reset.
    pub fn shut(&mut self, node: usize) {
        self.listeners[node].up = false;
        for link in std::mem::take(&mut self.listeners[node].backlog) {
            self.abort(End { link, side: Side::Far });
        }
    }

    /// Who dialed the connection.
    pub fn dialer(&self, end: End) -> Actor {
        self.links[end.link].dialer
    }

    fn outgoing(&mut self, end: End) -> &mut Pipe {
        &mut self.links[end.link].pipes[end.side as usize]
    }

    fn incoming(&self, end: End) -> &Pipe {
        &self.links[end.link].pipes[1 - end.side as usize]
    }

    /// Sends some of `bytes`, and says how many were taken.
    pub fn write(&mut self, actor: Actor, end: End, bytes: &[u8]) -> usize {
        let room = self.outgoing(end).room();
        let most = bytes.len().min(room);
        if most == 0 {
            return 0;
        }
        let at = self.arrival();
        if !self.links[end.link].held[1 - end.side as usize] {
            // Nobody reads this: the answer is a reset.
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

    /// Something happens to what this end sends, and maybe to all of the connection.
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

    /// What has arrived at this end.
    pub fn readable(&self, end: End) -> Readable {
        self.incoming(end).readable(self.now)
    }

    /// Takes in some of what has arrived.
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

    /// This end sends no more.
    pub fn finish(&mut self, end: End) {
        let at = self.arrival();
        self.outgoing(end).end(at, Ending::Finished);
    }

    /// This end is let go; what it sent still arrives.
    pub fn close(&mut self, actor: Actor, end: End) {
        record(self.now, actor, "closes link", [end.link as u64, 0]);
        self.finish(end);
        self.links[end.link].held[end.side as usize] = false;
    }

    /// This end breaks, as when its process dies.
    pub fn abort(&mut self, end: End) {
        let at = self.arrival();
        self.outgoing(end).end(at, Ending::Reset);
        self.links[end.link].held[end.side as usize] = false;
    }

    /// No delays, no narrow places and no cuts from now on. Where a connection swallows bytes, an
    /// end learns of it that is `notified` (given itself and the other end); the rest must find out.
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

    /// When something new arrives at this end.
    pub fn next(&self, end: End) -> Option<Instant> {
        self.incoming(end).next(self.now)
    }

    /// When the attempt is decided, if that is still to come.
    pub fn next_dial(&self, end: End) -> Option<Instant> {
        self.links[end.link].decided.map(|(at, _)| at).filter(|at| *at > self.now)
    }

    /// When the next connection reaches a node.
    pub fn next_accept(&self, node: usize) -> Option<Instant> {
        let link = *self.listeners[node].backlog.front()?;
        self.next_dial(End { link, side: Side::Near })
    }
}
