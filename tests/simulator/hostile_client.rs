//! Clients that break the rules: no other client may suffer from them.

use crate::network::{Dial, End, Network};
use crate::oracle::Oracle;
use crate::pipe::Readable;
use crate::plan::{Behaviour, HostileClient as Plan, pick};
use crate::request::{Expect, Generator, Request};
use crate::trace::Actor;
use distcache_core::time::Instant;
use distcache_core::wire::Op;
use distcache_testing::bytes;
use distcache_testing::random::Random;

/// A client that breaks the rules.
#[derive(Debug)]
pub struct HostileClient {
    number: usize,
    plan: Plan,
    generator: Generator,
    end: Option<End>,
    /// What it has not sent yet.
    unsent: Vec<u8>,
    /// How many connections it will still make.
    connections: usize,
    /// When it leaves, or connects.
    next: Instant,
}

impl HostileClient {
    /// Creates a client without a connection.
    pub fn new(number: usize, plan: Plan, generator: Generator) -> Self {
        let (end, unsent) = (None, Vec::new());
        Self { number, plan, generator, end, unsent, connections: 6, next: Instant::ORIGIN }
    }

    const fn actor(&self) -> Actor {
        Actor::HostileClient(self.number)
    }

    /// Closes the connection for good.
    pub fn retire(&mut self, network: &mut Network) {
        self.connections = 0;
        if let Some(end) = self.end.take() {
            network.close(self.actor(), end);
        }
    }

    /// Takes one turn. Returns whether anything moved.
    pub fn turn(&mut self, network: &mut Network, oracle: &mut Oracle) -> bool {
        let Some(end) = self.end else {
            return self.connect(network, oracle);
        };
        if network.dialed(end) == Dial::Refused
            || matches!(network.readable(end), Readable::Ended(_))
        {
            self.leave(network, end);
            return true;
        }
        if network.dialed(end) == Dial::Waiting {
            return false;
        }
        let sent = network.write(self.actor(), end, &self.unsent);
        self.unsent.drain(..sent);
        let mut received =
            vec![0; if self.plan.behaviour == Behaviour::NeverReads { 0 } else { 4_096 }];
        let received = match network.readable(end) {
            Readable::Bytes(_) if !received.is_empty() => {
                network.read(self.actor(), end, &mut received)
            }
            _ => 0,
        };
        let all_said = self.unsent.is_empty() && self.plan.behaviour == Behaviour::LeavesMidRequest;
        let goes = network.now >= self.next || (all_said && network.chance(300));
        if goes {
            self.leave(network, end);
        }
        sent > 0 || received > 0 || goes
    }

    /// Returns when it next has something to do if nothing happens before.
    pub fn wake(&self, network: &Network) -> Option<Instant> {
        let wire = self.end.and_then(|end| network.next(end));
        let dial = self.end.and_then(|end| network.next_dial(end));
        let next = (self.end.is_some() || self.connections > 0).then_some(self.next);
        [wire, dial, next].into_iter().flatten().filter(|at| *at > network.now).min()
    }

    fn leave(&mut self, network: &mut Network, end: End) {
        if network.chance(500) {
            network.close(self.actor(), end);
        } else {
            network.abort(end);
        }
        self.end = None;
        self.next = network.now.after(1 + network.random.below(2_000) as u64);
    }

    fn connect(&mut self, network: &mut Network, oracle: &mut Oracle) -> bool {
        if self.connections == 0 || network.now < self.next {
            return false;
        }
        self.connections -= 1;
        self.end = Some(network.dial(self.actor(), self.plan.node));
        let per_connection = pick(&mut network.random, &[1, 100, 5_000, 100_000]);
        self.next = network.now.after(per_connection);
        let requests = match self.plan.behaviour {
            Behaviour::Silent => 1,
            Behaviour::LeavesMidRequest | Behaviour::Garbage => 1 + network.random.below(3),
            Behaviour::NeverReads | Behaviour::Flood => 20 + network.random.below(200),
        };
        self.unsent = (0..requests).flat_map(|_| self.draw_request(network, oracle)).collect();
        match self.plan.behaviour {
            Behaviour::Silent | Behaviour::LeavesMidRequest => {
                self.unsent.truncate(network.random.below(self.unsent.len()));
            }
            Behaviour::Garbage => self.unsent.extend(garbage(&mut network.random)),
            Behaviour::NeverReads | Behaviour::Flood => (),
        }
        true
    }

    fn draw_request(&self, network: &mut Network, oracle: &mut Oracle) -> Vec<u8> {
        let (version, since) = oracle.next_version();
        let mut request = match self.plan.behaviour {
            Behaviour::Flood => {
                let request = self.generator.valid(&mut network.random, version, since);
                Request { op: Op::Have, add: None, expect: Expect::Executed, ..request }
            }
            _ => self.generator.any(&mut network.random, version, since),
        };
        oracle.record_request(network.now, &mut request);
        oracle.guarantees.record_loss(&request);
        request.encode(&mut network.random)
    }
}

/// Returns bytes that are no request. Those that could be taken for one have an id that no client
/// uses.
fn garbage(random: &mut Random) -> Vec<u8> {
    let unused = b"unmarked id 12345";
    let any: Vec<u8> = (0..random.below(100)).map(|_| random.next() as u8).collect();
    let mut changed = match random.below(3) {
        0 => bytes::add(9, unused, &any),
        1 => bytes::get(9, unused),
        _ => bytes::remove(9, unused),
    };
    let at = random.below(changed.len());
    changed[at] ^= 1 << random.below(8);
    let full = |complete| bytes::frame(0, 5, bytes::ADD, complete, &[7; 2_048]);
    match random.below(9) {
        0 => any,
        1 => b"GET / HTTP/1.1\r\nHost: cache\r\n\r\n".to_vec(),
        2 => [(0..16).flat_map(|_| full(0)).collect(), full(1)].concat(),
        3 => bytes::message(1, 9, bytes::GET, unused),
        4 => bytes::message(0, 9, bytes::ADD, &any[..any.len().min(7)]),
        5 => [full(0), bytes::frame(0, 6, bytes::ADD, 1, b"of another message")].concat(),
        _ => changed,
    }
}
