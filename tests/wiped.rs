//! What stays in the memory of a machine once its work is done: no session that is not stored, over
//! virtual time.

use distcache_core::Layout;
use distcache_core::machine::Machine;
use distcache_core::proxy::{self, Config};
use distcache_core::server;
use distcache_core::table::{Line, Table};
use distcache_testing::bytes::{
    PUT, TAKE, add_for, add_payload, at_level, get, have, message, messages, remove, session,
};
use distcache_testing::memory::{Memory, NO_LIMITS};
use distcache_testing::net::{End, Net, Pieces, SERVER};
use distcache_testing::random::Random;
use std::collections::BTreeSet;
use std::time::Duration;

type Server<'m> = Net<server::Borrowed<'m, Table<&'m mut [Line]>>>;

/// Lengths of sessions: in one block and in many, in one frame and in many.
const LENGTHS: [usize; 5] = [24, 200, 700, 3_000, 30_000];

/// A pattern that is in nothing but the session of this number.
fn mark(number: u8) -> [u8; 4] {
    [0xD1, 0xE7, number, 0x9B]
}

/// A session that is nothing but its pattern.
fn secret(number: u8, len: usize) -> Vec<u8> {
    mark(number).repeat(len / 4)
}

/// An id that is nothing but its pattern.
fn name(number: u8) -> Vec<u8> {
    [0xA9, 0x5C, number, 0x77].repeat(8)
}

/// The numbers of all sessions and ids of which `memory` has a trace.
fn found(memory: &[u8]) -> BTreeSet<u8> {
    let traces = memory.windows(4).filter_map(|bytes| match *bytes {
        [0xD1, 0xE7, number, 0x9B] | [0xA9, 0x5C, number, 0x77] => Some(number),
        _ => None,
    });
    traces.collect()
}

/// One thing that happens to a server, and the sessions that it stores after it.
type Step = (&'static str, fn(&mut Server<'_>, End), &'static [u8]);

fn send(net: &mut Server<'_>, client: End, bytes: &[u8]) {
    net.send(client, bytes);
    net.drive();
    assert!(net.is_open(client));
}

fn store(net: &mut Server<'_>, client: End, number: u8, ttl: u32, len: usize) {
    send(net, client, &add_for(number.into(), ttl, &name(number), &secret(number, len)));
}

fn put(net: &mut Server<'_>, client: End, number: u8, len: usize, under: u8) {
    let payload = add_payload(60_000, &name(under), &secret(number, len));
    send(net, client, &at_level(1, message(0, 1, PUT, &payload)));
}

const STEPS: [Step; 16] = [
    ("ADD", |net, client| store(net, client, 1, 60_000, 200), &[1]),
    ("GET", |net, client| send(net, client, &get(1, &name(1))), &[1]),
    ("ADD that finds one", |net, client| put_again(net, client), &[1]),
    ("GET of 16", |net, client| send(net, client, &get(1, &name(1)).repeat(16)), &[1]),
    ("REMOVE", |net, client| send(net, client, &remove(2, &name(1))), &[]),
    ("ADD in many frames", |net, client| store(net, client, 3, 60_000, 30_000), &[3]),
    (
        "GETs that do not fit together",
        |net, client| {
            send(net, client, &get(1, &name(3)).repeat(3));
        },
        &[3],
    ),
    ("TAKE", |net, client| send(net, client, &at_level(1, message(0, 1, TAKE, &name(3)))), &[]),
    ("PUT", |net, client| put(net, client, 4, 3_000, 4), &[4]),
    ("PUT that replaces", |net, client| put(net, client, 5, 100, 4), &[4, 5]),
    ("ADD for a second", |net, client| store(net, client, 6, 1_000, 700), &[4, 5, 6]),
    ("expiry", |net, _| net.pass(2_000), &[4, 5]),
    (
        "a client that leaves within an ADD",
        |net, _| {
            let client = net.connect();
            let wire = add_for(1, 60_000, &name(7), &secret(7, 3_000));
            send(net, client, &wire[..2_500]);
            net.cut(client);
            net.drive();
        },
        &[4, 5],
    ),
    (
        "a client that leaves within an answer",
        |net, client| {
            let reader = net.connect();
            store(net, client, 8, 60_000, 3_000);
            net.window(reader, 1_000);
            send(net, reader, &get(1, &name(8)));
            net.cut(reader);
            send(net, client, &remove(1, &name(8)));
        },
        &[4, 5],
    ),
    (
        "a malformed request behind one",
        |net, _| {
            let client = net.connect();
            let wire = [add_for(1, 0, &name(9), &secret(9, 700)), secret(9, 700)].concat();
            net.send(client, &wire);
            net.drive();
            assert!(!net.is_open(client));
        },
        &[4, 5],
    ),
    (
        "eviction",
        |net, client| {
            for number in 10..20 {
                store(net, client, number, 60_000, LENGTHS[usize::from(number) % 4]);
            }
        },
        &[16, 17, 18, 19],
    ),
];

/// An ADD that is refused, since another session has the id.
fn put_again(net: &mut Server<'_>, client: End) {
    send(net, client, &add_for(2, 60_000, &name(1), &secret(2, 200)));
}

#[test]
fn after_each_operation_a_server_holds_the_stored_sessions_and_no_trace_of_others() {
    let layout = Layout::new(4, 4 * 33_000).expect("valid sizes");
    for pieces in [Pieces::Whole, Pieces::Of(97), Pieces::Any(Random::new(3))] {
        for steps in 1..=STEPS.len() {
            let mut sessions = vec![0; layout.size()];
            let mut memory = Memory::of(3);
            let table = Table::in_memory(layout, [5; 16], &mut sessions).expect("enough memory");
            let mut net = Net::new(memory.server(NO_LIMITS, table), pieces.clone());
            let client = net.connect();
            for (_, step, _) in &STEPS[..steps] {
                step(&mut net, client);
            }
            assert_eq!(net.unread(client), 0);
            drop(net);
            let (what, _, stored) = STEPS[steps - 1];
            let stored: BTreeSet<u8> = stored.iter().copied().collect();
            assert_eq!(found(&sessions), stored, "stored after {what}");
            assert_eq!(found(memory.buffers()), BTreeSet::new(), "in buffers after {what}");
            assert!(memory.is_wiped(), "bytes in buffers after {what}");
        }
    }
}

#[test]
fn after_each_answer_a_proxy_holds_no_trace_of_it_or_its_request() {
    for len in LENGTHS {
        for pieces in [Pieces::Whole, Pieces::Of(97), Pieces::Any(Random::new(4))] {
            let mut memory = Memory::of(2);
            let config = Config::new(NO_LIMITS, Duration::from_secs(5));
            let mut net = Net::new(memory.proxy(config), pieces.clone());
            net.drive();
            let client = net.connect();
            let wire = add_for(1, 60_000, &name(1), &secret(1, len));
            let [uid] = forwarded(&mut net, client, &wire)[..] else { panic!("one request") };
            net.send(SERVER, &message(1, uid, 0, &[0]));
            net.drive();
            // Two at once: the second moves within the outbox to the server.
            let gets = [get(2, &name(1)), get(3, &name(1)), have(4, &name(1))].concat();
            for _ in 0..3 {
                for uid in forwarded(&mut net, client, &gets) {
                    net.send(SERVER, &session(uid, &secret(1, len)));
                    net.drive();
                }
            }
            assert_eq!(net.unread(client), 0);
            drop(net);
            assert_eq!(found(memory.buffers()), BTreeSet::new(), "{len} bytes, {pieces:?}");
            assert!(memory.is_wiped(), "{len} bytes, {pieces:?}");
        }
    }
}

/// Sends requests and returns the uids under which the server gets them.
fn forwarded(net: &mut Net<proxy::Borrowed<'_>>, client: End, requests: &[u8]) -> Vec<u32> {
    net.send(client, requests);
    net.drive();
    messages(&net.take(SERVER)).iter().map(|(uid, ..)| *uid).collect()
}

#[test]
fn a_proxy_that_loses_its_server_or_its_clients_holds_no_trace_of_what_was_under_way() {
    for (leaves, cuts_server) in [(true, false), (false, true), (true, true)] {
        let mut memory = Memory::of(2);
        let config = Config::new(NO_LIMITS, Duration::from_secs(5));
        let mut net = Net::new(memory.proxy(config), Pieces::Whole);
        net.drive();
        let client = net.connect();
        net.window(SERVER, 1_000);
        net.send(client, &add_for(1, 60_000, &name(1), &secret(1, 3_000)));
        net.drive();
        net.send(SERVER, &session(1, &secret(2, 3_000))[..1_500]);
        net.drive();
        if leaves {
            net.cut(client);
        }
        if cuts_server {
            net.cut(SERVER);
        }
        net.drive();
        net.window(SERVER, usize::MAX);
        net.drive();
        net.cut(client);
        net.cut(SERVER);
        net.drive();
        assert!(net.machine.deadline().is_none_or(|at| at > net.now));
        drop(net);
        assert_eq!(found(memory.buffers()), BTreeSet::new());
        assert!(memory.is_wiped());
    }
}
