//! Clients that keep to no rules: nobody else may suffer for them.

use crate::ask::{Ask, Asker};
use crate::ledger::Ledger;
use crate::pipe::Front;
use crate::plan::{Vice, Villain as Plan, pick};
use crate::trace::Who;
use crate::wires::{Dial, End, Wires};
use distcache_core::time::Instant;
use distcache_core::wire::Op;
use distcache_testing::bytes;
use distcache_testing::random::Random;

/// A client that keeps to no rules.
#[derive(Debug)]
pub struct Villain {
    number: usize,
    plan: Plan,
    asker: Asker,
    end: Option<End>,
    /// What it has not sent yet.
    unsent: Vec<u8>,
    /// How many connections it will still make.
    connections: usize,
    /// When it goes, or comes.
    next: Instant,
}

impl Villain {
    /// One that has not come yet.
    pub fn new(number: usize, plan: Plan, asker: Asker) -> Self {
        let (end, unsent) = (None, Vec::new());
        Self { number, plan, asker, end, unsent, connections: 6, next: Instant::ORIGIN }
    }

    const fn who(&self) -> Who {
        Who::Villain(self.number)
    }

    /// Goes for good.
    pub fn retire(&mut self, wires: &mut Wires) {
        self.connections = 0;
        if let Some(end) = self.end.take() {
            wires.close(self.who(), end);
        }
    }

    /// Takes one turn; false where nothing moved.
    pub fn turn(&mut self, wires: &mut Wires, ledger: &mut Ledger) -> bool {
        let Some(end) = self.end else {
            return self.call(wires, ledger);
        };
        if wires.dialed(end) == Dial::Refused || matches!(wires.front(end), Front::Ended(_)) {
            self.go(wires, end);
            return true;
        }
        if wires.dialed(end) == Dial::Waiting {
            return false;
        }
        let sent = wires.write(self.who(), end, &self.unsent);
        self.unsent.drain(..sent);
        let mut heard = vec![0; if self.plan.vice == Vice::Deaf { 0 } else { 4_096 }];
        let heard = match wires.front(end) {
            Front::Bytes(_) if !heard.is_empty() => wires.read(self.who(), end, &mut heard),
            _ => 0,
        };
        let all_said = self.unsent.is_empty() && self.plan.vice == Vice::Vanish;
        let goes = wires.now >= self.next || (all_said && wires.chance(300));
        if goes {
            self.go(wires, end);
        }
        sent > 0 || heard > 0 || goes
    }

    /// When it has something to do, if nothing happens before.
    pub fn wake(&self, wires: &Wires) -> Option<Instant> {
        let wire = self.end.and_then(|end| wires.next(end));
        let dial = self.end.and_then(|end| wires.next_dial(end));
        let next = (self.end.is_some() || self.connections > 0).then_some(self.next);
        [wire, dial, next].into_iter().flatten().filter(|at| *at > wires.now).min()
    }

    fn go(&mut self, wires: &mut Wires, end: End) {
        if wires.chance(500) {
            wires.close(self.who(), end);
        } else {
            wires.abort(end);
        }
        self.end = None;
        self.next = wires.now.after(1 + wires.random.below(2_000) as u64);
    }

    fn call(&mut self, wires: &mut Wires, ledger: &mut Ledger) -> bool {
        if self.connections == 0 || wires.now < self.next {
            return false;
        }
        self.connections -= 1;
        self.end = Some(wires.dial(self.who(), self.plan.node));
        let stay = pick(&mut wires.random, &[1, 100, 5_000, 100_000]);
        self.next = wires.now.after(stay);
        let requests = match self.plan.vice {
            Vice::Mute => 1,
            Vice::Vanish | Vice::Babble => 1 + wires.random.below(3),
            Vice::Deaf | Vice::Flood => 20 + wires.random.below(200),
        };
        self.unsent = (0..requests).flat_map(|_| self.request(wires, ledger)).collect();
        match self.plan.vice {
            Vice::Mute | Vice::Vanish => {
                self.unsent.truncate(wires.random.below(self.unsent.len()));
            }
            Vice::Babble => self.unsent.extend(babble(&mut wires.random)),
            Vice::Deaf | Vice::Flood => (),
        }
        true
    }

    fn request(&self, wires: &mut Wires, ledger: &mut Ledger) -> Vec<u8> {
        let (version, since) = ledger.next();
        let mut ask = match self.plan.vice {
            Vice::Flood => {
                let ask = self.asker.lawful(&mut wires.random, version, since);
                Ask { op: Op::Have, add: None, ..ask }
            }
            _ => self.asker.any(&mut wires.random, version, since),
        };
        ledger.ask(wires.now, &mut ask);
        ledger.keeper.lose(&ask);
        ask.wire(&mut wires.random)
    }
}

/// Bytes that are no request, of all kinds. What could be taken for one has an id that nobody uses.
fn babble(random: &mut Random) -> Vec<u8> {
    let wild = b"wild id of nobody";
    let any: Vec<u8> = (0..random.below(100)).map(|_| random.next() as u8).collect();
    let mut changed = match random.below(3) {
        0 => bytes::add(9, wild, &any),
        1 => bytes::get(9, wild),
        _ => bytes::remove(9, wild),
    };
    let at = random.below(changed.len());
    changed[at] ^= 1 << random.below(8);
    let full = |complete| bytes::frame(0, 5, bytes::ADD, complete, &[7; 2_048]);
    match random.below(9) {
        0 => any,
        1 => b"GET / HTTP/1.1\r\nHost: cache\r\n\r\n".to_vec(),
        2 => [(0..16).flat_map(|_| full(0)).collect(), full(1)].concat(),
        3 => bytes::message(1, 9, bytes::GET, wild),
        4 => bytes::message(0, 9, bytes::ADD, &any[..any.len().min(7)]),
        5 => [full(0), bytes::frame(0, 6, bytes::ADD, 1, b"of another message")].concat(),
        _ => changed,
    }
}
