//! Hedged requests: a GET or HAVE that its first server does not answer goes to the second too.
//! Over virtual time.

use distcache_core::machine::Machine;
use distcache_core::proxy::{self, Config};
use distcache_testing::bytes::{
    ADD, GET, HAVE, REMOVE, add, get, have, messages, remove, session, status,
};
use distcache_testing::memory::{Memory, NO_LIMITS};
use distcache_testing::net::{End, Net, Pieces, Reach, server};
use std::time::Duration;

type World<'m> = Net<proxy::Borrowed<'m>>;

const ENDLESS: Config = Config {
    server_patience: None,
    copies: 2,
    ..Config::new(NO_LIMITS, Duration::from_millis(5_000))
};
const CONFIG: Config = Config { server_patience: Some(Duration::from_millis(250)), ..ENDLESS };

/// Creates a proxy and a client, and returns the first and the second server of `b"a"`.
fn world(memory: &mut Memory, config: Config) -> (World<'_>, End, [u8; 2]) {
    let mut net = Net::new(memory.proxy(config), Pieces::Whole);
    net.drive();
    let client = net.connect();
    net.send(client, &have(1, b"a"));
    let (first, uid) = only_request(&mut net);
    net.send(server(first), &status(uid, HAVE, 0));
    net.drive();
    assert_eq!(net.take(client), status(1, HAVE, 0));
    (net, client, [first, 1 - first])
}

/// Returns the one server that got a request since the last call, and the uid.
fn only_request(net: &mut World<'_>) -> (u8, u32) {
    net.drive();
    let asked = [0, 1].map(|number| messages(&net.take(server(number))));
    let number = u8::from(asked[0].is_empty());
    assert_eq!(asked.iter().flatten().count(), 1, "the other server may have it");
    (number, asked[usize::from(number)][0].0)
}

fn assert_no_server_asked(net: &mut World<'_>) {
    net.drive();
    assert!([0, 1].iter().all(|number| net.received(server(*number)).is_empty()));
}

/// Sends a request and lets it be hedged. Returns the uids at the first and at the second server.
fn ask(net: &mut World<'_>, client: End, request: &[u8], order: [u8; 2]) -> [u32; 2] {
    net.send(client, request);
    let first = only_request(net);
    assert_eq!(first.0, order[0]);
    net.pass(49);
    assert_no_server_asked(net);
    net.pass(1);
    let second = only_request(net);
    assert_eq!(second.0, order[1]);
    assert_ne!(first.1, second.1);
    [first.1, second.1]
}

fn server_sends(net: &mut World<'_>, number: u8, bytes: &[u8]) {
    net.send(server(number), bytes);
    net.drive();
}

fn assert_nothing_left(net: &mut World<'_>) {
    net.drive();
    assert_eq!((net.machine.in_flight(), net.machine.check()), (0, Ok(())));
    let deadline = net.machine.deadline();
    assert!(deadline.is_none_or(|at| at > net.now));
}

#[test]
fn the_first_hit_is_the_answer_from_either_server() {
    for winner in [0, 1] {
        let mut memory = Memory::of(2).with_servers(2);
        let (mut net, client, order) = world(&mut memory, ENDLESS);
        let uids = ask(&mut net, client, &get(2, b"a"), order);
        server_sends(&mut net, order[winner], &session(uids[winner], b"session"));
        assert_eq!(net.take(client), session(2, b"session"));
        // The late answer reaches no client, and its uid is not used before it comes.
        net.send(client, &get(3, b"a"));
        let (asked, uid) = only_request(&mut net);
        assert!(asked == order[0] && !uids.contains(&uid));
        let loser = 1 - winner;
        server_sends(&mut net, order[loser], &session(uids[loser], b"late"));
        assert!(net.received(client).is_empty());
        server_sends(&mut net, order[0], &session(uid, b"session"));
        assert_eq!(net.take(client), session(3, b"session"));
        assert_eq!(net.machine.traffic().strays, 0);
        assert_eq!((net.machine.traffic().answered, net.machine.traffic().requests), (3, 3));
        assert_nothing_left(&mut net);
    }
}

#[test]
fn a_miss_needs_both_servers() {
    for first in [0, 1] {
        for hit in [false, true] {
            let mut memory = Memory::of(2).with_servers(2);
            let (mut net, client, order) = world(&mut memory, ENDLESS);
            let uids = ask(&mut net, client, &get(2, b"a"), order);
            server_sends(&mut net, order[first], &status(uids[first], GET, 1));
            assert!(net.received(client).is_empty(), "the other one may have it");
            let last = 1 - first;
            let answer = |uid| if hit { session(uid, b"session") } else { status(uid, GET, 1) };
            server_sends(&mut net, order[last], &answer(uids[last]));
            assert_eq!(net.take(client), answer(2));
            assert_no_server_asked(&mut net);
            assert_nothing_left(&mut net);
        }
    }
}

#[test]
fn a_hung_first_server_delays_a_get_by_fifty_milliseconds() {
    let mut memory = Memory::of(8).with_servers(2);
    let (mut net, client, order) = world(&mut memory, CONFIG);
    net.reach_of[usize::from(order[0])] = Some(Reach::Hangs);
    let begun = net.now;
    for uid in 2..10 {
        net.send(client, &get(uid, b"a"));
        net.drive();
        let mut waited = 0;
        while net.received(client).is_empty() {
            for (uid, ..) in messages(&net.take(server(order[1]))) {
                net.send(server(order[1]), &session(uid, b"session"));
            }
            net.pass(1);
            waited += 1;
            assert!(waited <= 52, "GET {uid} waits");
        }
        assert_eq!(net.take(client), session(uid, b"session"));
    }
    // The server has timed out meanwhile, and nothing waits for it then.
    assert!(!net.machine.is_up(order[0]) && net.now.since(begun) < 8 * 52);
    assert_nothing_left(&mut net);
}

#[test]
fn a_miss_is_the_answer_once_the_other_server_is_disconnected() {
    let mut memory = Memory::of(2).with_servers(2);
    let (mut net, client, order) = world(&mut memory, CONFIG);
    let uids = ask(&mut net, client, &get(2, b"a"), order);
    server_sends(&mut net, order[1], &status(uids[1], GET, 1));
    net.reach_of[usize::from(order[0])] = Some(Reach::Refuses);
    net.pass(199);
    assert!(net.received(client).is_empty());
    net.pass(1);
    assert_eq!(net.take(client), status(2, GET, 1));
    assert_nothing_left(&mut net);
}

#[test]
fn when_both_servers_are_lost_the_client_gets_one_answer() {
    for first in [0, 1] {
        let mut memory = Memory::of(2).with_servers(2);
        let (mut net, client, order) = world(&mut memory, ENDLESS);
        ask(&mut net, client, &get(2, b"a"), order);
        net.reach = Reach::Refuses;
        net.cut(server(order[first]));
        net.drive();
        assert!(net.received(client).is_empty());
        net.cut(server(order[1 - first]));
        net.drive();
        assert_eq!(net.take(client), status(2, GET, 2));
        assert_eq!(net.machine.traffic().disconnected, 1);
        assert_nothing_left(&mut net);
    }
}

#[test]
fn a_client_that_leaves_a_hedged_request_costs_nobody_anything() {
    let mut memory = Memory::of(2).with_servers(2);
    let (mut net, client, order) = world(&mut memory, ENDLESS);
    let uids = ask(&mut net, client, &get(2, b"a"), order);
    net.cut(client);
    let next = net.connect();
    net.send(next, &get(3, b"a"));
    let (asked, uid) = only_request(&mut net);
    for place in [0, 1] {
        server_sends(&mut net, order[place], &session(uids[place], b"secret"));
    }
    assert!(net.received(next).is_empty());
    server_sends(&mut net, asked, &session(uid, b"session"));
    assert_eq!(net.received(next), session(3, b"session"));
    assert_eq!(net.machine.traffic().orphaned, 1, "one request was sent");
    assert_nothing_left(&mut net);
}

#[test]
fn only_operations_that_change_nothing_are_hedged() {
    let mut memory = Memory::of(2).with_servers(2);
    let (mut net, client, order) = world(&mut memory, ENDLESS);
    for (request, op) in [(add(2, b"a", b"session"), ADD), (remove(2, b"a"), REMOVE)] {
        net.send(client, &request);
        let (asked, uid) = only_request(&mut net);
        assert_eq!(asked, order[0]);
        net.pass(1_000);
        assert_no_server_asked(&mut net);
        server_sends(&mut net, asked, &status(uid, op, 1));
        if op == REMOVE {
            let (_, uid) = only_request(&mut net);
            server_sends(&mut net, order[1], &status(uid, op, 1));
        }
        assert_eq!(net.take(client), status(2, op, 1));
    }
}

#[test]
fn with_one_copy_nothing_is_hedged() {
    let mut memory = Memory::of(2).with_servers(2);
    let (mut net, client, _) = world(&mut memory, Config { copies: 1, ..ENDLESS });
    net.send(client, &get(2, b"a"));
    only_request(&mut net);
    net.pass(1_000);
    assert_no_server_asked(&mut net);
}

#[test]
fn an_unanswered_hedged_request_counts_against_the_share_of_its_server() {
    let mut memory = Memory::of(2).with_servers(2).with_in_flight(8);
    let (mut net, client, order) = world(&mut memory, ENDLESS);
    for uid in 2..6 {
        let uids = ask(&mut net, client, &get(uid, b"a"), order);
        server_sends(&mut net, order[1], &session(uids[1], b"session"));
        assert_eq!(net.take(client), session(uid, b"session"));
    }
    assert!(net.machine.is_full(order[0]) && !net.machine.is_full(order[1]));
    net.send(client, &get(6, b"a"));
    let (asked, uid) = only_request(&mut net);
    assert_eq!(asked, order[1], "it gets no more requests before it has answered");
    server_sends(&mut net, asked, &session(uid, b"session"));
    assert_eq!(net.take(client), session(6, b"session"));
}
