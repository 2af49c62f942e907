//! A proxy with `-anycast` in front of servers that share a store, over virtual time.

use std::time::Duration;

use distcache_core::proxy::{self, Config};
use distcache_testing::bytes::{ADD, GET, add, get, messages, session, status};
use distcache_testing::memory::{Memory, NO_LIMITS};
use distcache_testing::net::{Net, Pieces, Reach, server};

type World<'m> = Net<proxy::Borrowed<'m>>;

const CONFIG: Config = Config {
    server_patience: None,
    anycast: true,
    ..Config::new(NO_LIMITS, Duration::from_millis(5_000))
};

fn world(memory: &mut Memory) -> World<'_> {
    let mut net = Net::new(memory.proxy(CONFIG), Pieces::Whole);
    net.drive();
    net
}

#[test]
fn requests_for_one_id_go_to_the_server_with_the_fewest() {
    let mut memory = Memory::of(30).with_servers(3);
    let mut net = world(&mut memory);
    let clients: Vec<_> = (0..30).map(|_| net.connect()).collect();
    for client in &clients {
        net.send(*client, &get(1, b"the same"));
    }
    net.drive();
    let received = [0, 1, 2].map(|number| messages(&net.take(server(number))));
    assert_eq!(received.each_ref().map(Vec::len), [10; 3]);
    // A server that has answered all its requests gets the next ones.
    for (uid, op, _) in &received[1] {
        net.send(server(1), &status(*uid, *op, 1));
    }
    net.drive();
    let free: Vec<_> = clients.iter().filter(|client| !net.take(**client).is_empty()).collect();
    assert_eq!(free.len(), 10);
    for client in &free[..9] {
        net.send(**client, &get(2, b"the same"));
    }
    net.drive();
    assert_eq!([0, 1, 2].map(|number| messages(&net.take(server(number))).len()), [0, 9, 0]);
}

#[test]
fn a_lost_request_is_sent_to_another_server_if_it_changes_no_data() {
    let mut memory = Memory::of(2).with_servers(2);
    let mut net = world(&mut memory);
    let (reader, writer) = (net.connect(), net.connect());
    net.send(reader, &get(1, b"a"));
    net.drive();
    let received = |net: &mut World<'_>| [0, 1].map(|number| messages(&net.take(server(number))));
    let first = received(&mut net);
    let busy = first.iter().position(|messages| !messages.is_empty()).expect("one has a request");
    let other = 1 - busy as u8;
    // An ADD that may have been executed is not repeated.
    net.send(writer, &add(2, b"b", b"session"));
    net.drive();
    assert_eq!(received(&mut net)[usize::from(other)].len(), 1, "the server with fewer requests");
    net.reach_of[busy] = Some(Reach::Refuses);
    net.cut(server(busy as u8));
    net.drive();
    let again = messages(&net.take(server(other)));
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].1, &again[0].2[..]), (GET, &b"a"[..]));
    net.send(server(other), &session(again[0].0, b"session"));
    net.drive();
    assert_eq!(net.take(reader), session(1, b"session"));
    net.reach_of[usize::from(other)] = Some(Reach::Refuses);
    net.cut(server(other));
    net.drive();
    assert_eq!(net.take(writer), status(2, ADD, 2));
    assert_eq!(net.machine.in_flight(), 0);
}
