//! A proxy in front of servers that share what they keep, told over virtual time: any of them will do.

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
fn requests_for_one_id_spread_over_all_servers_by_load() {
    let mut memory = Memory::of(30).with_servers(3);
    let mut net = world(&mut memory);
    let clients: Vec<_> = (0..30).map(|_| net.connect()).collect();
    for client in &clients {
        net.send(*client, &get(1, b"the same"));
    }
    net.drive();
    let taken = [0, 1, 2].map(|number| messages(&net.take(server(number))));
    assert_eq!(taken.each_ref().map(Vec::len), [10; 3]);
    // One that has nothing left to do gets the next ones.
    for (uid, op, _) in &taken[1] {
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
fn what_is_lost_with_a_server_is_asked_elsewhere_if_that_changes_nothing() {
    let mut memory = Memory::of(2).with_servers(2);
    let mut net = world(&mut memory);
    let (reader, writer) = (net.connect(), net.connect());
    net.send(reader, &get(1, b"a"));
    net.drive();
    let asked = |net: &mut World<'_>| [0, 1].map(|number| messages(&net.take(server(number))));
    let first = asked(&mut net);
    let busy = first.iter().position(|taken| !taken.is_empty()).expect("one was asked");
    let other = 1 - busy as u8;
    // A store that may have been done is not done again: its client is told.
    net.send(writer, &add(2, b"b", b"session"));
    net.drive();
    assert_eq!(asked(&mut net)[usize::from(other)].len(), 1, "the one with less to do");
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
