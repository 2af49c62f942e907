//! A faulty server: it answers out of order, twice, without a request, with another operation, not
//! at all, or with garbage. An answer without a request is poison: it must never reach a client.

use crate::network::{End, Network};
use crate::oracle::Oracle;
use crate::pipe::Readable;
use crate::request::session;
use crate::trace::{Actor, record};
use distcache_core::time::Instant;
use distcache_core::wire::Op;
use distcache_testing::bytes::{at_level, message, whole_messages};
use distcache_testing::random::Random;
use std::rc::Rc;

/// A status that no server sends.
const POISON: [u8; 1] = [77];

/// The scope of uids: a proxy as long as it runs, or one connection of another client.
type User = (Actor, Option<usize>);

struct Asked {
    uid: u32,
    op: Op,
    id: Vec<u8>,
    /// What an ADD or a PUT would store, and its lifetime.
    add: Option<(u32, Vec<u8>)>,
}

struct Conn {
    end: End,
    dialer: Actor,
    received: Vec<u8>,
    unsent: Vec<u8>,
    asked: Vec<Asked>,
}

/// A faulty server.
#[derive(Default)]
pub struct FaultyServer {
    /// The patch level of most of its answers.
    level: u8,
    conns: Vec<Conn>,
    /// Uids that are not in flight any more, and their scope.
    stale: Vec<(User, u32, Op)>,
    next: Instant,
}

impl FaultyServer {
    /// Creates a server that most often answers at this patch level.
    pub fn new(level: u8) -> Self {
        Self { level, ..Self::default() }
    }

    /// Takes one turn. Returns whether anything moved.
    pub fn turn(&mut self, network: &mut Network, oracle: &mut Oracle) -> bool {
        let mut moved = false;
        while let Some(end) = network.accept(0) {
            let dialer = network.dialer(end);
            let (received, unsent, asked) = (Vec::new(), Vec::new(), Vec::new());
            self.conns.push(Conn { end, dialer, received, unsent, asked });
            moved = true;
        }
        for conn in &mut self.conns {
            let mut bytes = Vec::new();
            if let Readable::Bytes(here) = network.readable(conn.end) {
                bytes.resize(here, 0);
            }
            let len = network.read(Actor::Node(0), conn.end, &mut bytes);
            conn.receive(&bytes[..len]);
            let sent = network.write(Actor::Node(0), conn.end, &conn.unsent);
            conn.unsent.drain(..sent);
            moved |= len > 0 || sent > 0;
        }
        if network.now >= self.next {
            self.answer_some(network, oracle);
            let pauses = [0, 0, 1, 20, 700];
            self.next = network.now.after(pauses[network.random.below(pauses.len())].max(1));
            moved |= self.conns.iter().any(|conn| !conn.unsent.is_empty());
        }
        self.close_some(network);
        moved
    }

    /// Returns when it next has something to do if nothing happens before.
    pub fn wake(&self, network: &Network) -> Option<Instant> {
        let conns = self.conns.iter().filter_map(|conn| network.next(conn.end));
        let answers = self.conns.iter().any(|conn| !conn.asked.is_empty()).then_some(self.next);
        let answers = answers.map(|at| at.max(network.now.after(1)));
        conns.chain(network.next_accept(0)).chain(answers).min()
    }

    fn close_some(&mut self, network: &mut Network) {
        let Self { conns, stale, .. } = self;
        conns.retain(|conn| {
            let ended = matches!(network.readable(conn.end), Readable::Ended(_));
            if ended || network.chance(2) {
                network.close(Actor::Node(0), conn.end);
                stale.extend(conn.asked.iter().map(|asked| (conn.user(), asked.uid, asked.op)));
                return false;
            }
            true
        });
    }

    fn answer_some(&mut self, network: &mut Network, oracle: &mut Oracle) {
        let random = &mut network.random;
        for conn in &mut self.conns {
            let level = if random.below(8) > 0 { self.level } else { random.below(3) as u8 };
            let which = random.below(conn.asked.len());
            match random.below(10) {
                _ if conn.asked.is_empty() => continue,
                0 | 1 => continue,
                2 => conn.poison(random, &self.stale),
                3 if random.below(8) == 0 => conn.unsent.extend([0x47, 0x45, 0x54]),
                4 if random.below(8) == 0 => {
                    let Asked { uid, op, .. } = &conn.asked[which];
                    let other = if *op == Op::Get { Op::Have } else { Op::Get };
                    conn.unsent.extend(message(1, *uid, other as u8, &POISON));
                }
                kind => {
                    let asked = conn.asked.swap_remove(which);
                    let answer = answer(random, oracle, &asked);
                    let wire = message(1, asked.uid, asked.op as u8, &answer);
                    conn.unsent.extend(at_level(level.max(asked.op.level() as u8), wire));
                    if kind == 5 {
                        let poison = message(1, asked.uid, asked.op as u8, &POISON);
                        conn.unsent.extend(at_level(1, poison));
                    }
                    self.stale.push((conn.user(), asked.uid, asked.op));
                }
            }
            record(
                network.now,
                Actor::Node(0),
                "answers wrongly on link",
                [conn.end.link as u64, 0],
            );
        }
        let level_zero = self.stale.len().saturating_sub(30);
        self.stale.drain(..level_zero);
    }
}

/// Returns an answer that a correct server could give.
fn answer(random: &mut Random, oracle: &mut Oracle, asked: &Asked) -> Rc<[u8]> {
    let valid = (1..=64).contains(&asked.id.len());
    let answer: Rc<[u8]> = match (asked.op, valid, &asked.add) {
        (Op::Get | Op::Take, true, _) if random.below(2) == 0 => {
            let (version, _) = oracle.next_version();
            session(&asked.id, version, 8 + random.below(5_000))
        }
        (Op::Add | Op::Put, _, Some((ttl, _))) if *ttl > 604_800_000 => return Rc::from([102]),
        (Op::Add | Op::Put, false, _) => return Rc::from([103]),
        (_, false, _) => return Rc::from([1]),
        _ => Rc::from([random.below(2) as u8]),
    };
    let add = asked.add.as_ref().map(|(ttl, session)| (*ttl, &session[..]));
    oracle.record_execution(0, asked.op, &asked.id, add, answer.clone());
    answer
}

impl Conn {
    fn user(&self) -> User {
        let link = Some(self.end.link).filter(|_| !matches!(self.dialer, Actor::Node(_)));
        (self.dialer, link)
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.received.extend(bytes);
        let (messages, rest) = whole_messages(&self.received);
        let rest = rest.to_vec();
        for (uid, op, payload) in messages {
            let op = Op::ALL[usize::from(op)];
            let asked = match (op, payload.split_first_chunk::<4>()) {
                (Op::Add | Op::Put, Some((ttl, rest))) => {
                    let (len, rest) = rest.split_first_chunk().unwrap_or((&[0; 4], &[]));
                    let (id, session) =
                        rest.split_at(rest.len().min(u32::from_be_bytes(*len) as usize));
                    let add = Some((u32::from_be_bytes(*ttl), session.to_vec()));
                    Asked { uid, op, id: id.to_vec(), add }
                }
                _ => Asked { uid, op, id: payload, add: None },
            };
            self.asked.push(asked);
        }
        self.received = rest;
    }

    fn poison(&mut self, random: &mut Random, stale: &[(User, u32, Op)]) {
        let same = stale.iter().filter(|(user, ..)| *user == self.user());
        let same: Vec<_> = same.collect();
        if let Some((_, uid, op)) = same.get(random.below(same.len())) {
            self.unsent.extend(at_level(1, message(1, *uid, *op as u8, &POISON)));
        }
    }
}
