//! The reference vectors: a server, and a proxy with a server, answer every line as the original
//! does, byte for byte, however the bytes arrive.

use distcache_core::Limits;
use distcache_core::proxy::Config;
use distcache_core::server;
use distcache_testing::chain::Chain;
use distcache_testing::memory::{Memory, limits};
use distcache_testing::net::{Net, Pieces};
use distcache_testing::random::Random;
use distcache_testing::store::Plain;
use distcache_testing::vectors::{Outcome, Responder, lines, replay, replay_merged};
use std::collections::BTreeSet;
use std::time::Duration;

const LIMITS: Limits = limits(60_000, 60_000);
const CONFIG: Config = Config::new(LIMITS, Duration::from_millis(5_000));

struct OfServer<'m>(Net<server::Borrowed<'m, Plain>>);

impl Responder for OfServer<'_> {
    fn exchange(&mut self, request: &[u8], _expected: &Outcome) -> Outcome {
        let client = self.0.connect();
        self.0.send(client, request);
        self.0.drive();
        let outcome = Outcome { reply: self.0.take(client), close: !self.0.is_open(client) };
        self.0.cut(client);
        outcome
    }
}

struct OfProxy<'m>(Chain<'m, Plain>);

impl Responder for OfProxy<'_> {
    fn exchange(&mut self, request: &[u8], _expected: &Outcome) -> Outcome {
        let client = self.0.front.connect();
        self.0.front.send(client, request);
        self.0.drive();
        let front = &mut self.0.front;
        let outcome = Outcome { reply: front.take(client), close: !front.is_open(client) };
        front.cut(client);
        outcome
    }
}

/// How lines are sent.
#[derive(Clone, Copy, Debug)]
enum Split {
    Apart,
    MergedFrom(usize),
}

fn feed(responder: &mut impl Responder, split: Split) {
    match split {
        Split::Apart => replay(responder, lines()),
        Split::MergedFrom(first) => replay_merged(responder, lines(), first),
    }
}

fn server_answers(split: Split, pieces: Pieces) {
    let mut memory = Memory::of(1);
    let mut responder = OfServer(Net::new(memory.server(LIMITS, Plain::new(512)), pieces));
    feed(&mut responder, split);
    assert_eq!(responder.0.machine.clients(), 0);
}

fn proxy_answers(split: Split, pieces: Pieces) {
    let (mut front, mut back) = (Memory::of(1), Memory::of(1));
    let server = back.server(LIMITS, Plain::new(512));
    let mut responder = OfProxy(Chain::new(front.proxy(CONFIG), server, pieces));
    responder.0.drive();
    feed(&mut responder, split);
    assert_eq!(responder.0.front.machine.traffic().losses, 0, "the server's connection was kept");
}

/// Returns every offset in the first bytes, then the boundaries of frames and headers with their
/// neighbours, and some between.
fn cuts() -> BTreeSet<usize> {
    let longest = lines().iter().map(|line| line.request.len()).max().unwrap_or(0);
    let boundaries = (0..longest).step_by(2062).flat_map(|at| [at, at + 14]);
    let near = boundaries.flat_map(|at| at.saturating_sub(1)..=at + 1);
    (1..260).chain(near).chain((1..longest).step_by(509)).filter(|at| *at < longest).collect()
}

#[test]
fn a_server_answers_every_line_sent_at_once() {
    assert_eq!(lines().len(), 51);
    server_answers(Split::Apart, Pieces::Whole);
}

#[test]
fn a_server_answers_every_line_sent_byte_for_byte() {
    server_answers(Split::Apart, Pieces::Of(1));
}

#[test]
fn a_server_answers_every_line_cut_anywhere() {
    for at in cuts() {
        server_answers(Split::Apart, Pieces::CutAt(at));
    }
}

#[test]
fn a_server_answers_two_lines_in_one() {
    for first in [0, 1] {
        server_answers(Split::MergedFrom(first), Pieces::Whole);
        server_answers(Split::MergedFrom(first), Pieces::Of(1));
        for seed in 0..50 {
            server_answers(Split::MergedFrom(first), Pieces::Any(Random::new(seed)));
        }
    }
}

#[test]
fn a_proxy_passes_every_line_sent_at_once() {
    proxy_answers(Split::Apart, Pieces::Whole);
}

#[test]
fn a_proxy_passes_every_line_sent_byte_for_byte() {
    proxy_answers(Split::Apart, Pieces::Of(1));
}

#[test]
fn a_proxy_passes_every_line_cut_anywhere() {
    for at in cuts() {
        proxy_answers(Split::Apart, Pieces::CutAt(at));
    }
}

#[test]
fn a_proxy_passes_two_lines_in_one() {
    for first in [0, 1] {
        proxy_answers(Split::MergedFrom(first), Pieces::Whole);
        proxy_answers(Split::MergedFrom(first), Pieces::Of(1));
        for seed in 0..50 {
            proxy_answers(Split::MergedFrom(first), Pieces::Any(Random::new(seed)));
        }
    }
}
