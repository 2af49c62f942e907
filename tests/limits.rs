//! Timeouts of clients, and shortage of memory, over virtual time. Tested on servers; proxies share
//! the code.

use distcache_core::Limits;
use distcache_core::machine::Machine;
use distcache_core::server;
use distcache_testing::bytes::{ADD, HAVE, add, get, have, messages, session, status};
use distcache_testing::memory::{Memory, NO_LIMITS, limits};
use distcache_testing::net::{End, Net, Pieces, with_every_split};
use distcache_testing::random::Random;
use distcache_testing::store::Plain;

type World<'m> = Net<server::Borrowed<'m, Plain>>;

const LIMITS: Limits = limits(10_000, 3_000);

fn world(memory: &mut Memory, limits: Limits, pieces: Pieces) -> World<'_> {
    Net::new(memory.server(limits, Plain::new(100)), pieces)
}

#[test]
fn a_silent_client_is_closed_after_idle() {
    let mut memory = Memory::of(2);
    let mut net = world(&mut memory, LIMITS, Pieces::Whole);
    let (silent, busy) = (net.connect(), net.connect());
    net.pass(5_000);
    net.send(busy, &have(1, b"a"));
    net.pass(4_999);
    assert!(net.is_open(silent) && net.is_open(busy));
    net.pass(1);
    assert!(!net.is_open(silent) && net.is_open(busy));
    net.pass(4_999);
    assert!(net.is_open(busy));
    net.pass(1);
    assert!(!net.is_open(busy));
    assert_eq!((net.machine.counters().idle, net.machine.counters().stalled), (2, 0));
    assert_eq!(net.machine.deadline(), None);
}

#[test]
fn a_byte_a_second_is_not_progress() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, LIMITS, Pieces::Whole);
    let client = net.connect();
    for byte in have(1, b"some long id that takes a while") {
        net.send(client, &[byte]);
        net.pass(1_000);
    }
    assert!(!net.is_open(client));
    assert_eq!(net.machine.counters().stalled, 1);
}

#[test]
fn a_request_now_and_then_is_progress_even_if_another_is_unfinished() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, LIMITS, Pieces::Whole);
    let client = net.connect();
    let ask = have(1, b"a");
    net.send(client, &ask[..5]);
    for _ in 0..10 {
        net.pass(2_999);
        net.send(client, &ask[5..]);
        net.send(client, &ask[..5]);
    }
    net.drive();
    assert_eq!(net.received(client), status(1, HAVE, 1).repeat(10));
    net.pass(3_000);
    assert!(!net.is_open(client));
}

#[test]
fn a_client_that_never_reads_is_closed_after_its_timeout() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, LIMITS, Pieces::Whole);
    let client = net.connect();
    net.window(client, 0);
    net.send(client, &have(1, b"a"));
    net.pass(2_999);
    assert!(net.is_open(client));
    net.pass(1);
    assert!(!net.is_open(client) && net.received(client).is_empty());
}

#[test]
fn without_limits_no_client_is_ever_closed() {
    let mut memory = Memory::of(3);
    let mut net = world(&mut memory, NO_LIMITS, Pieces::Whole);
    let clients = [net.connect(), net.connect(), net.connect()];
    net.send(clients[0], &have(1, b"a")[..7]);
    net.window(clients[1], 0);
    net.send(clients[1], &have(1, b"a"));
    net.pass(u64::from(u32::MAX));
    assert!(clients.iter().all(|client| net.is_open(*client)));
    assert_eq!(net.machine.deadline(), None);
}

#[test]
fn one_client_too_many_is_refused_and_counted_until_a_place_is_free() {
    let mut memory = Memory::of(2);
    let mut net = world(&mut memory, NO_LIMITS, Pieces::Whole);
    let first = net.connect();
    net.connect();
    assert_eq!((net.try_connect(), net.try_connect()), (None, None));
    assert_eq!((net.machine.counters().accepted, net.machine.counters().refused), (2, 2));
    net.cut(first);
    let next = net.connect();
    net.send(next, &have(1, b"a"));
    net.drive();
    assert_eq!(net.received(next), status(1, HAVE, 1));
}

#[test]
fn an_empty_pool_makes_clients_wait_but_loses_nothing() {
    for buffers in 2..6 {
        for seed in 0..40 {
            check_with_buffers(buffers, Pieces::Any(Random::new(seed)));
        }
        check_with_buffers(buffers, Pieces::Whole);
        check_with_buffers(buffers, Pieces::Of(1));
    }
}

fn check_with_buffers(buffers: usize, pieces: Pieces) {
    let mut memory = Memory::with_buffers(20, buffers);
    let mut net = world(&mut memory, NO_LIMITS, pieces);
    let clients: Vec<End> = (0..20).map(|_| net.connect()).collect();
    for (number, client) in clients.iter().enumerate() {
        let id = [number as u8];
        net.send(*client, &add(1, &id, &[number as u8; 100]));
        net.send(*client, &get(2, &id).repeat(4));
    }
    net.drive();
    for (number, client) in clients.iter().enumerate() {
        let answers = [status(1, ADD, 0), session(2, &[number as u8; 100]).repeat(4)].concat();
        assert_eq!(net.received(*client), answers, "client {number}, {buffers} buffers");
    }
}

#[test]
fn clients_that_hold_all_buffers_lose_them_at_their_timeout() {
    with_every_split(15, |pieces| {
        let mut memory = Memory::with_buffers(6, 4);
        let mut net = world(&mut memory, LIMITS, pieces);
        let hoarders: Vec<End> = (0..3).map(|_| net.connect()).collect();
        for hoarder in &hoarders {
            net.send(*hoarder, &have(1, b"a")[..9]);
        }
        net.drive();
        let client = net.connect();
        net.send(client, &have(2, b"a"));
        net.pass(2_999);
        assert!(net.received(client).is_empty());
        net.pass(1);
        assert_eq!(net.received(client), status(2, HAVE, 1));
        assert!(hoarders.iter().all(|hoarder| !net.is_open(*hoarder)));
    });
}

#[test]
fn slow_readers_on_an_empty_pool_delay_others_but_get_everything() {
    for seed in 0..20 {
        let mut memory = Memory::with_buffers(5, 2);
        let mut net = world(&mut memory, NO_LIMITS, Pieces::Any(Random::new(seed)));
        let clients: Vec<End> = (0..5).map(|_| net.connect()).collect();
        for client in &clients {
            net.window(*client, 0);
            net.send(*client, &have(1, b"a").repeat(50));
        }
        for _ in 0..2_000 {
            for client in &clients {
                net.window(*client, 1);
            }
            net.step();
        }
        for client in &clients {
            net.window(*client, usize::MAX);
        }
        net.drive();
        for client in &clients {
            assert_eq!(messages(net.received(*client)).len(), 50);
        }
    }
}

#[test]
fn a_client_that_leaves_while_it_waits_for_a_buffer_is_forgotten() {
    let mut memory = Memory::with_buffers(4, 2);
    let mut net = world(&mut memory, NO_LIMITS, Pieces::Whole);
    let (hoarder, waits, next) = (net.connect(), net.connect(), net.connect());
    net.send(hoarder, &have(1, b"a")[..9]);
    net.drive();
    net.send(waits, &have(2, b"a"));
    net.send(next, &have(3, b"a"));
    net.drive();
    assert!(net.received(waits).is_empty() && net.received(next).is_empty());
    net.cut(waits);
    net.send(hoarder, &have(1, b"a")[9..]);
    net.drive();
    assert_eq!(net.received(next), status(3, HAVE, 1));
    assert!(net.received(waits).is_empty());
}

#[test]
fn a_whole_request_that_waits_for_a_buffer_does_not_time_out() {
    let mut memory = Memory::with_buffers(3, 3);
    let mut net = world(&mut memory, LIMITS, Pieces::Whole);
    let (slow, waits) = (net.connect(), net.connect());
    let ask = have(1, b"a");
    net.window(slow, 0);
    net.send(slow, &ask[..5]);
    net.send(waits, &ask[..5]);
    net.drive();
    net.send(slow, &[&ask[5..], &ask[..5]].concat());
    net.drive();
    net.send(waits, &ask[5..]);
    for _ in 0..14 {
        net.window(slow, 1);
        net.pass(2_000);
        assert!(net.received(waits).is_empty());
    }
    net.window(slow, 1);
    net.drive();
    assert_eq!(net.received(waits), status(1, HAVE, 1));
}
