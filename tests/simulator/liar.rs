//! A server that lies: it answers out of order, twice, to nobody, with another operation, not at
//! all, or with what is no answer. What nobody asked for is poison: no client may ever taste it.

use crate::ask::session;
use crate::ledger::Ledger;
use crate::pipe::Front;
use crate::trace::{Who, note};
use crate::wires::{End, Wires};
use distcache_core::time::Instant;
use distcache_core::wire::Op;
use distcache_testing::bytes::{at_level, message, whole_messages};
use distcache_testing::random::Random;
use std::rc::Rc;

/// A status that means nothing.
const POISON: [u8; 1] = [77];

/// Who gives uids a meaning: a proxy for as long as it lives, another for one connection.
type User = (Who, Option<usize>);

struct Asked {
    uid: u32,
    op: Op,
    id: Vec<u8>,
    /// What an ADD would store, and for how long.
    add: Option<(u32, Vec<u8>)>,
}

struct Line {
    end: End,
    dialer: Who,
    heard: Vec<u8>,
    unsent: Vec<u8>,
    asked: Vec<Asked>,
}

/// A server that lies.
#[derive(Default)]
pub struct Liar {
    /// The patch level of most of its answers.
    level: u8,
    lines: Vec<Line>,
    /// Uids that are not in flight any more, by who used them.
    stale: Vec<(User, u32, Op)>,
    next: Instant,
}

impl Liar {
    /// One that most often answers at this patch level.
    pub fn new(level: u8) -> Self {
        Self { level, ..Self::default() }
    }

    /// Takes one turn; false where nothing moved.
    pub fn turn(&mut self, wires: &mut Wires, ledger: &mut Ledger) -> bool {
        let mut moved = false;
        while let Some(end) = wires.accept(0) {
            let dialer = wires.dialer(end);
            let (heard, unsent, asked) = (Vec::new(), Vec::new(), Vec::new());
            self.lines.push(Line { end, dialer, heard, unsent, asked });
            moved = true;
        }
        for line in &mut self.lines {
            let mut bytes = Vec::new();
            if let Front::Bytes(here) = wires.front(line.end) {
                bytes.resize(here, 0);
            }
            let len = wires.read(Who::Node(0), line.end, &mut bytes);
            line.hear(&bytes[..len]);
            let sent = wires.write(Who::Node(0), line.end, &line.unsent);
            line.unsent.drain(..sent);
            moved |= len > 0 || sent > 0;
        }
        if wires.now >= self.next {
            self.speak(wires, ledger);
            let pauses = [0, 0, 1, 20, 700];
            self.next = wires.now.after(pauses[wires.random.below(pauses.len())].max(1));
            moved |= self.lines.iter().any(|line| !line.unsent.is_empty());
        }
        self.hang_up(wires);
        moved
    }

    /// When it has something to do, if nothing happens before.
    pub fn wake(&self, wires: &Wires) -> Option<Instant> {
        let lines = self.lines.iter().filter_map(|line| wires.next(line.end));
        let speaks = self.lines.iter().any(|line| !line.asked.is_empty()).then_some(self.next);
        let speaks = speaks.map(|at| at.max(wires.now.after(1)));
        lines.chain(wires.next_accept(0)).chain(speaks).min()
    }

    fn hang_up(&mut self, wires: &mut Wires) {
        let Self { lines, stale, .. } = self;
        lines.retain(|line| {
            let ended = matches!(wires.front(line.end), Front::Ended(_));
            if ended || wires.chance(2) {
                wires.close(Who::Node(0), line.end);
                stale.extend(line.asked.iter().map(|asked| (line.user(), asked.uid, asked.op)));
                return false;
            }
            true
        });
    }

    fn speak(&mut self, wires: &mut Wires, ledger: &mut Ledger) {
        let random = &mut wires.random;
        for line in &mut self.lines {
            let level = if random.below(8) > 0 { self.level } else { random.below(3) as u8 };
            let which = random.below(line.asked.len());
            match random.below(10) {
                _ if line.asked.is_empty() => continue,
                0 | 1 => continue,
                2 => line.poison(random, &self.stale),
                3 if random.below(8) == 0 => line.unsent.extend([0x47, 0x45, 0x54]),
                4 if random.below(8) == 0 => {
                    let Asked { uid, op, .. } = &line.asked[which];
                    let other = if *op == Op::Get { Op::Have } else { Op::Get };
                    line.unsent.extend(message(1, *uid, other as u8, &POISON));
                }
                kind => {
                    let asked = line.asked.swap_remove(which);
                    let answer = answer(random, ledger, &asked);
                    let told = message(1, asked.uid, asked.op as u8, &answer);
                    line.unsent.extend(at_level(level.max(asked.op.level() as u8), told));
                    if kind == 5 {
                        let poison = message(1, asked.uid, asked.op as u8, &POISON);
                        line.unsent.extend(at_level(1, poison));
                    }
                    self.stale.push((line.user(), asked.uid, asked.op));
                }
            }
            note(wires.now, Who::Node(0), "lies on link", [line.end.link as u64, 0]);
        }
        let old = self.stale.len().saturating_sub(30);
        self.stale.drain(..old);
    }
}

/// An answer that could be true.
fn answer(random: &mut Random, ledger: &mut Ledger, asked: &Asked) -> Rc<[u8]> {
    let lawful = (1..=64).contains(&asked.id.len());
    let answer: Rc<[u8]> = match (asked.op, lawful, &asked.add) {
        (Op::Get | Op::Take, true, _) if random.below(2) == 0 => {
            let (version, _) = ledger.next();
            session(&asked.id, version, 8 + random.below(5_000))
        }
        (Op::Add | Op::Put, _, Some((ttl, _))) if *ttl > 604_800_000 => return Rc::from([102]),
        (Op::Add | Op::Put, false, _) => return Rc::from([103]),
        (_, false, _) => return Rc::from([1]),
        _ => Rc::from([random.below(2) as u8]),
    };
    let add = asked.add.as_ref().map(|(ttl, session)| (*ttl, &session[..]));
    ledger.execute(0, asked.op, &asked.id, add, answer.clone());
    answer
}

impl Line {
    fn user(&self) -> User {
        let link = Some(self.end.link).filter(|_| !matches!(self.dialer, Who::Node(_)));
        (self.dialer, link)
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.heard.extend(bytes);
        let (messages, rest) = whole_messages(&self.heard);
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
        self.heard = rest;
    }

    fn poison(&mut self, random: &mut Random, stale: &[(User, u32, Op)]) {
        let same = stale.iter().filter(|(user, ..)| *user == self.user());
        let same: Vec<_> = same.collect();
        if let Some((_, uid, op)) = same.get(random.below(same.len())) {
            self.unsent.extend(at_level(1, message(1, *uid, *op as u8, &POISON)));
        }
    }
}
