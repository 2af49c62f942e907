//! How long a server keeps sessions, and when it wakes to drop them, over virtual time.

use distcache_core::id::Id;
use distcache_core::machine::Machine;
use distcache_core::message::TTL_MAX;
use distcache_core::server;
use distcache_core::server::Operations;
use distcache_core::table::{Layout, Line, Table};
use distcache_core::time::Instant;
use distcache_testing::bytes::{ADD, HAVE, add_for, have, status};
use distcache_testing::memory::{Memory, NO_LIMITS};
use distcache_testing::net::{Net, Pieces};
use distcache_testing::random::Random;
use std::time::Duration;

/// Returns memory for a table of 2,000 sessions, and its size.
fn sessions(bytes: u64) -> (Vec<u8>, Layout) {
    let layout = Layout::new(2_000, bytes).expect("valid sizes");
    (vec![0; layout.size()], layout)
}

fn table(memory: &mut [u8], layout: Layout) -> Table<&mut [Line]> {
    Table::in_memory(layout, [5; 16], memory).expect("enough memory")
}

#[test]
fn an_idle_server_sleeps_until_a_session_expires_and_then_for_ever() {
    let (mut bytes, layout) = sessions(1 << 20);
    let mut memory = Memory::of(1);
    let server = memory.server(NO_LIMITS, table(&mut bytes, layout));
    let mut net = Net::new(server, Pieces::Whole);
    assert_eq!(net.machine.deadline(), None);
    let client = net.connect();
    net.send(client, &add_for(1, 3_600_000, b"a", b"session"));
    net.drive();
    let due = net.now.after(3_600_000);
    assert_eq!(net.machine.deadline(), Some(due));
    net.pass(3_599_999);
    assert_eq!(net.machine.store().len(), 1);
    // It has just dropped expired sessions, and does so at most once a second.
    let at = net.machine.deadline().expect("a session is left");
    assert!(at >= due && at.since(due) < 1_000);
    net.pass(at.since(net.now));
    assert_eq!((net.machine.deadline(), net.machine.store().len()), (None, 0));
}

#[test]
fn sessions_that_expire_close_together_are_dropped_together() {
    let (mut bytes, layout) = sessions(1 << 20);
    let mut memory = Memory::of(1);
    let server = memory.server(NO_LIMITS, table(&mut bytes, layout));
    let mut net = Net::new(server, Pieces::Whole);
    let client = net.connect();
    for n in 0..2_000_u32 {
        net.send(client, &add_for(n, 60_000 + 5 * n, &n.to_be_bytes(), b"session"));
    }
    net.drive();
    assert_eq!(net.machine.store().len(), 2_000);
    // They expire within 10 seconds: 200 a second are four batches of 64.
    let mut wakes = 0;
    while let Some(at) = net.machine.deadline() {
        wakes += 1;
        net.pass(at.since(net.now));
    }
    assert!(net.machine.store().is_empty());
    assert!((10..=50).contains(&wakes), "{wakes}");
}

#[test]
fn no_session_stays_for_2_seconds_after_it_expired_though_nobody_asks() {
    let (mut bytes, layout) = sessions(1 << 20);
    let mut memory = Memory::of(1);
    let server = memory.server(NO_LIMITS, table(&mut bytes, layout));
    let mut net = Net::new(server, Pieces::Whole);
    let client = net.connect();
    let mut random = Random::new(1);
    let mut due = Vec::new();
    for n in 0..2_000_u32 {
        let ttl = 1 + random.below(600_000) as u32;
        net.send(client, &add_for(n, ttl, &n.to_be_bytes(), b"session"));
        net.drive();
        due.push(net.now.after(ttl.into()));
    }
    let mut wakes = 0;
    while let Some(at) = net.machine.deadline() {
        wakes += 1;
        let left = due.iter().filter(|due| at < due.after(2_000)).count();
        assert!(net.machine.store().len() <= left as u32, "at {at:?}, before the server wakes");
        net.pass(at.since(net.now));
        let left = due.iter().filter(|due| at < **due).count();
        assert_eq!(net.machine.store().len(), left as u32, "at {at:?}");
    }
    assert!(wakes <= 601, "once a second at most: {wakes}");
}

#[test]
fn sessions_that_expire_all_at_once_leave_in_short_rounds_and_clients_are_served_between() {
    const SESSIONS: u32 = 20_000;
    let layout = Layout::new(SESSIONS, 256 * u64::from(SESSIONS)).expect("valid sizes");
    let mut bytes = vec![0; layout.size()];
    let mut store = table(&mut bytes, layout);
    for n in 0..SESSIONS {
        let id = n.to_be_bytes();
        let id = Id::new(&id).expect("4 bytes");
        store.add(Instant::ORIGIN, 60_000, id, b"session").expect("room");
    }
    let mut memory = Memory::of(1);
    let mut net = Net::new(memory.server(NO_LIMITS, store), Pieces::Whole);
    let client = net.connect();
    let due = Instant::from_millis(60_000);
    net.now = due;
    net.send(client, &have(1, b"unknown"));
    net.drive();
    assert_eq!(net.take(client), status(1, HAVE, 1));
    let mut before = net.machine.store().len();
    while let Some(at) = net.machine.deadline() {
        net.pass(at.since(net.now));
        let left = net.machine.store().len();
        assert!(left < before && before - left <= 2_048, "{before} to {left}");
        before = left;
    }
    assert!(net.machine.store().is_empty());
    assert!(net.now.since(due) <= 100, "{} ms", net.now.since(due));
}

#[test]
fn lifetimes_above_the_maximum_are_lowered_and_those_above_7_days_are_refused() {
    let (mut bytes, layout) = sessions(1 << 20);
    let mut memory = Memory::of(1);
    let max_lifetime = Duration::from_secs(5);
    let config = server::Config { max_lifetime, ..server::Config::new(NO_LIMITS) };
    let server = memory.server_with(config, table(&mut bytes, layout));
    let mut net = Net::new(server, Pieces::Whole);
    let client = net.connect();
    for (uid, ttl) in [(1, 4_999), (2, 5_000), (3, 5_001), (4, TTL_MAX)] {
        net.send(client, &add_for(uid, ttl, &[uid as u8], b"session"));
    }
    net.send(client, &add_for(5, TTL_MAX + 1, b"five", b"session"));
    net.drive();
    let stored = [1, 2, 3, 4].map(|uid| status(uid, ADD, 0)).concat();
    assert_eq!(net.take(client), [stored, status(5, ADD, 102)].concat());
    let there = |net: &mut Net<_>| {
        net.send(client, &[1, 2, 3, 4].map(|uid| have(u32::from(uid), &[uid])).concat());
        net.drive();
        net.take(client).chunks(15).map(|answer| answer[14] == 0).collect::<Vec<_>>()
    };
    net.pass(4_999);
    assert_eq!(there(&mut net), [false, true, true, true]);
    net.pass(1);
    assert_eq!(there(&mut net), [false; 4]);
}

#[test]
fn a_lifetime_of_0_stores_nothing_and_evicts_nothing() {
    let layout = Layout::new(2, 4_096).expect("valid sizes");
    let mut bytes = vec![0; layout.size()];
    let mut memory = Memory::of(1);
    let server = memory.server(NO_LIMITS, table(&mut bytes, layout));
    let mut net = Net::new(server, Pieces::Whole);
    let client = net.connect();
    let adds = [(1, 60_000, b"a"), (2, 60_000, b"b"), (3, 0, b"c"), (4, 0, b"a")];
    net.send(client, &adds.map(|(uid, ttl, id)| add_for(uid, ttl, id, b"session")).concat());
    net.send(client, &[b"a", b"b", b"c"].map(|id| have(9, id)).concat());
    net.drive();
    let added = [(1, 0), (2, 0), (3, 0), (4, 101)].map(|(uid, code)| status(uid, ADD, code));
    let there = [0, 0, 1].map(|code| status(9, HAVE, code));
    assert_eq!(net.take(client), [added.concat(), there.concat()].concat());
    assert_eq!(net.machine.store().counters().evicted, 0);
}

#[test]
fn refused_adds_are_counted_by_reason() {
    // A table of 16 blocks, too small for a session of 5,000 bytes.
    let (mut bytes, layout) = sessions(4_096);
    let mut memory = Memory::of(1);
    let server = memory.server(NO_LIMITS, table(&mut bytes, layout));
    let mut net = Net::new(server, Pieces::Whole);
    let client = net.connect();
    for (uid, ttl, id, session) in [
        (1, 1_000, &b"a"[..], &b"session"[..]),
        (2, 1_000, b"a", b"again"),
        (3, 1_000, b"a", b"and again"),
        (4, 1_000, b"b", &[7; 5_000]),
        (5, TTL_MAX + 1, b"c", b"session"),
        (6, 1_000, &[b'd'; 65], b"session"),
        (7, 1_000, b"e", b""),
    ] {
        net.send(client, &add_for(uid, ttl, id, session));
    }
    net.drive();
    let expected = Operations {
        total: 7,
        adds: 7,
        existing: 2,
        no_room: 1,
        invalid: 3,
        ..Operations::default()
    };
    assert_eq!(net.machine.operations(), expected);
}
