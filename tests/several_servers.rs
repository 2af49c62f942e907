//! A proxy with several servers that are slow, late or lost, over virtual time.

use distcache_core::proxy::{self, Config};
use distcache_testing::bytes::{ADD, add, add_payload, get, message, messages, session, status};
use distcache_testing::memory::{Memory, NO_LIMITS};
use distcache_testing::net::{End, Net, Pieces, Reach, server};
use std::time::Duration;

type World<'m> = Net<proxy::Borrowed<'m>>;

const ALONE: Config =
    Config { server_patience: None, ..Config::new(NO_LIMITS, Duration::from_millis(5_000)) };

/// Creates forty clients with long requests for two servers. The first one reads nothing, so its
/// requests fill its outbox many times over.
fn crowd(memory: &mut Memory) -> (World<'_>, Vec<End>) {
    let mut net = Net::new(memory.proxy(ALONE), Pieces::Whole);
    net.drive();
    net.window(server(0), 0);
    let clients: Vec<_> = (0..40_u8).map(|_| net.connect()).collect();
    for (number, client) in (0..).zip(&clients) {
        net.send(*client, &add(1, &[number; 8], &[7; 5000]));
    }
    net.drive();
    (net, clients)
}

#[test]
fn a_server_with_a_full_outbox_does_not_delay_requests_for_another() {
    let mut memory = Memory::of(40).with_servers(2);
    let (mut net, clients) = crowd(&mut memory);
    let stuck = server(0);
    let served = messages(&net.take(server(1)));
    assert!(served.len() > 5, "only {} were answered", served.len());
    for (uid, op, _) in &served {
        net.send(server(1), &status(*uid, *op, 0));
    }
    net.drive();
    let answered = clients.iter().filter(|client| !net.received(**client).is_empty()).count();
    assert_eq!(answered, served.len());
    net.window(stuck, usize::MAX);
    let mut late = 0;
    while late + served.len() < 40 {
        net.drive();
        let asked = messages(&net.take(stuck));
        assert!(!asked.is_empty(), "the others are never sent");
        late += asked.len();
        for (uid, op, _) in asked {
            net.send(stuck, &status(uid, op, 0));
        }
    }
    net.drive();
    assert!(clients.iter().all(|client| net.received(*client) == status(1, ADD, 0)));
    assert_eq!(net.machine.in_flight(), 0);
}

#[test]
fn requests_for_a_full_server_go_elsewhere_when_it_is_lost() {
    let mut memory = Memory::of(40).with_servers(2);
    let (mut net, clients) = crowd(&mut memory);
    net.cut(clients[0]);
    net.reach_of[0] = Some(Reach::Refuses);
    net.cut(server(0));
    for _ in 0..10 {
        net.drive();
        for (uid, op, _) in messages(&net.take(server(1))) {
            net.send(server(1), &status(uid, op, 0));
        }
    }
    net.drive();
    let lost = clients[1..].iter().filter(|client| net.received(**client) == status(1, ADD, 2));
    // Requests that were sent, or were in the outbox, are lost; those that waited are not.
    assert!((1..20).contains(&lost.count()));
    assert!(clients[1..].iter().all(|client| net.received(*client).len() == 15));
    assert_eq!(net.machine.in_flight(), 0);
}

#[test]
fn requests_for_a_full_server_are_sent_when_it_reconnects_at_once() {
    let mut memory = Memory::of(40).with_servers(2);
    let (mut net, clients) = crowd(&mut memory);
    net.pass(5_000);
    // The next attempt is due, so it is connected again before the proxy looks at the waiting
    // clients.
    net.cut(server(0));
    for _ in 0..40 {
        net.drive();
        for number in [0, 1] {
            for (uid, op, _) in messages(&net.take(server(number))) {
                net.send(server(number), &status(uid, op, 0));
            }
        }
    }
    assert_eq!(net.dials.len(), 3);
    assert!(clients.iter().all(|client| net.received(*client).len() == 15), "some wait for ever");
    assert_eq!(net.machine.in_flight(), 0);
}

#[test]
fn an_answer_from_the_wrong_server_reaches_no_client() {
    let mut memory = Memory::of(1).with_servers(2);
    let mut net = Net::new(memory.proxy(ALONE), Pieces::Whole);
    net.drive();
    let client = net.connect();
    net.send(client, &get(1, b"an id"));
    net.drive();
    let asked = [0, 1].map(|number| messages(&net.take(server(number))));
    let right = u8::from(asked[0].is_empty());
    let uid = asked[usize::from(right)][0].0;
    net.send(server(1 - right), &session(uid, b"not its own"));
    net.drive();
    assert!(net.received(client).is_empty());
    assert_eq!(net.machine.traffic().strays, 1);
    net.send(server(right), &session(uid, b"its own"));
    net.drive();
    assert_eq!(net.received(client), session(1, b"its own"));
}

#[test]
fn the_first_requests_wait_for_all_first_connections_but_not_for_long() {
    let mut memory = Memory::of(1).with_servers(2);
    let mut net = Net::new(memory.proxy(ALONE), Pieces::Whole);
    net.reach_of[1] = Some(Reach::Hangs);
    net.drive();
    let client = net.connect();
    net.send(client, &get(1, b"an id"));
    net.drive();
    assert!(net.received(server(0)).is_empty(), "the id may belong to the other server");
    net.pass(100);
    assert_eq!(messages(net.received(server(0))).len(), 1);
}

#[test]
fn a_proxy_full_of_requests_sleeps_while_a_server_does_not_accept() {
    let mut memory = Memory::with_buffers(2, 12).with_servers(2).with_in_flight(1);
    let mut net = Net::new(memory.proxy(ALONE), Pieces::Whole);
    net.reach_of[1] = Some(Reach::Hangs);
    net.drive();
    let clients = [net.connect(), net.connect()];
    for client in clients {
        net.send(client, &get(1, b"an id"));
    }
    // After the wait for first connections, one request takes all the room. A deadline in the past
    // would make the proxy spin then.
    net.pass(200);
    for client in clients {
        let asked = messages(&net.take(server(0)));
        assert_eq!(asked.len(), 1);
        net.send(server(0), &session(asked[0].0, b"session"));
        net.drive();
        assert_eq!(net.take(client), session(1, b"session"));
    }
}

#[test]
fn short_lifetimes_are_made_longer_and_no_others() {
    let mut memory = Memory::of(1);
    let config = Config { min_lifetime: Some(Duration::from_millis(10_000)), ..ALONE };
    let mut net = Net::new(memory.proxy(config), Pieces::Whole);
    net.drive();
    let client = net.connect();
    for (asked, stored) in
        [(0_u32, 10_000_u32), (999, 10_000), (10_001, 10_001), (604_800_001, 604_800_001)]
    {
        net.send(client, &message(0, 1, ADD, &add_payload(asked, b"an id", b"session")));
        net.drive();
        let asked = messages(&net.take(server(0)));
        assert_eq!(asked[0].2, add_payload(stored, b"an id", b"session"));
        net.send(server(0), &status(asked[0].0, ADD, 0));
        net.drive();
    }
}
