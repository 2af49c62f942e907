//! A server that copies the sessions of another one at its start, over virtual time. The test is the
//! other one, which may be honest or lie.

use std::time::Duration;

use distcache_core::id::Id;
use distcache_core::server::{self, Copied, CopyFailure, SOURCES_MAX};
use distcache_core::table::Line;
use distcache_core::{Layout, Table};
use distcache_testing::bytes::{
    COPY, FETCH, GET, HAVE, REMOVE, add, at_level, get, message, messages, remove, session, status,
};
use distcache_testing::memory::{Memory, NO_LIMITS};
use distcache_testing::net::{
    End, Net, Pieces, Probes, Reach, SERVER, server as source, with_every_split,
};

type Sessions = Table<Vec<Line>>;
type World<'m> = Net<server::Borrowed<'m, Sessions>>;

const END: u32 = u32::MAX;

/// How long a server waits before it copies, in milliseconds.
const SETTLED: u64 = 8_000;

fn world(memory: &mut Memory, pieces: Pieces) -> World<'_> {
    let layout = Layout::new(1_000, 1 << 20).unwrap();
    let table = Table::new(layout, [7; 16], |lines| vec![[0; 64]; lines]).unwrap();
    let mut net = Net::new(memory.server(NO_LIMITS, table), pieces);
    net.probes = Probes::Seen;
    net.machine.copy_from(b"the source");
    net.pass(SETTLED);
    net
}

fn record(ttl: u32, id: &[u8], session: &[u8]) -> Vec<u8> {
    let len = session.len() as u16;
    [&ttl.to_be_bytes()[..], &[id.len() as u8], &len.to_be_bytes(), id, session].concat()
}

fn piece(next: u32, records: &[Vec<u8>]) -> Vec<u8> {
    [&next.to_be_bytes()[..], &records.concat()].concat()
}

/// Returns the one request of the server.
fn asked(net: &mut World<'_>) -> (u32, u8, Vec<u8>) {
    asked_of(net, SERVER)
}

fn asked_of(net: &mut World<'_>, end: End) -> (u32, u8, Vec<u8>) {
    net.drive();
    let mut asked = messages(&net.take(end));
    assert_eq!(asked.len(), 1, "one request is on its way at a time");
    asked.remove(0)
}

fn answer(net: &mut World<'_>, level: u8, uid: u32, op: u8, payload: &[u8]) {
    net.send(SERVER, &at_level(level, message(1, uid, op, payload)));
    net.drive();
}

/// Answers the question for the level, and returns the uid of the first COPY.
fn begin(net: &mut World<'_>) -> u32 {
    let (uid, op, _) = asked(net);
    assert_eq!(op, HAVE);
    answer(net, 2, uid, HAVE, &[1]);
    let (uid, op, payload) = asked(net);
    assert_eq!((op, &payload[..4]), (COPY, &[0; 4][..]));
    uid
}

fn stored(net: &World<'_>, id: &[u8]) -> Option<(Vec<u8>, u32)> {
    let mut out = vec![0; 40_000];
    let found = net.machine.store().fetch(net.now, Id::new(id).unwrap(), &mut out);
    found.map(|(len, ttl)| (out[..len].to_vec(), ttl))
}

fn failure(net: &mut World<'_>) -> Option<CopyFailure> {
    net.drive();
    net.machine.copied().expect("the copy has ended").failure
}

#[test]
fn everything_is_copied_with_the_lifetime_left_and_nothing_is_replaced() {
    with_every_split(40, |pieces| {
        let mut memory = Memory::of(2);
        let mut net = world(&mut memory, pieces);
        let client = net.connect();
        net.send(client, &add(1, b"kept", b"newer"));
        net.drive();
        let uid = begin(&mut net);
        net.now = net.now.after(500);
        let records = [
            record(9_000, b"a", b"session"),
            record(60_000, b"kept", b"older"),
            record(400, b"b", b"late"),
        ];
        answer(&mut net, 2, uid, COPY, &piece(7, &records));
        let (uid, op, payload) = asked(&mut net);
        assert_eq!((op, &payload[..4]), (COPY, &[0, 0, 0, 7][..]));
        let large = vec![5; 32_695];
        answer(&mut net, 2, uid, COPY, &piece(END, &[record(9_000, &[6; 64], b"")]));
        let (uid, op, id) = asked(&mut net);
        assert_eq!((op, &id[..]), (FETCH, &[6; 64][..]));
        let fetched = [&[0][..], &9_000_u32.to_be_bytes(), &large].concat();
        answer(&mut net, 2, uid, FETCH, &fetched);
        assert_eq!(stored(&net, b"a"), Some((b"session".to_vec(), 8_500)), "from the request on");
        assert_eq!(stored(&net, b"kept").unwrap().0, b"newer");
        assert_eq!(stored(&net, b"b"), None, "its lifetime was over on the way");
        assert!(stored(&net, &[6; 64]).unwrap().0 == large);
        let Copied { source, sessions, removed, failure, .. } = net.machine.copied().unwrap();
        assert_eq!((source, sessions, removed, failure), (0, 3, 0, None));
        assert!(net.machine.copy_is_done() && !net.is_open(SERVER));
        assert_eq!(net.machine.check(), Ok(()));
    });
}

#[test]
fn what_is_removed_while_a_piece_is_on_its_way_stays_removed() {
    let mut memory = Memory::of(2);
    let mut net = world(&mut memory, Pieces::Whole);
    let client = net.connect();
    let records = [record(60_000, b"removed", b"session"), record(60_000, b"other", b"session")];
    let mut uid = begin(&mut net);
    for pass in 0..3 {
        net.send(client, &remove(1, b"removed"));
        net.drive();
        assert_eq!(net.take(client), status(1, REMOVE, 1));
        answer(&mut net, 2, uid, COPY, &piece(END, &records));
        assert_eq!(stored(&net, b"removed"), None);
        assert!(stored(&net, b"other").is_some());
        if pass < 2 {
            assert!(net.take(SERVER).is_empty(), "the marks must age");
            net.pass(2_500);
            uid = asked(&mut net).0;
        }
    }
    let copied = net.machine.copied().unwrap();
    assert_eq!((copied.sessions, copied.removed, copied.failure), (1, 1, None));
}

#[test]
fn a_second_pass_brings_what_was_refused_for_nothing() {
    let mut memory = Memory::of(2);
    let mut net = world(&mut memory, Pieces::Whole);
    let client = net.connect();
    net.send(client, &remove(1, b"an id"));
    let uid = begin(&mut net);
    answer(&mut net, 2, uid, COPY, &piece(END, &[record(60_000, b"an id", b"session")]));
    assert_eq!(stored(&net, b"an id"), None);
    net.pass(2_500);
    let (uid, op, _) = asked(&mut net);
    assert_eq!(op, COPY);
    answer(&mut net, 2, uid, COPY, &piece(END, &[record(60_000, b"an id", b"session")]));
    assert!(stored(&net, b"an id").is_some());
    let copied = net.machine.copied().unwrap();
    assert_eq!((copied.sessions, copied.removed, copied.failure), (1, 0, None));
}

#[test]
fn a_source_that_lies_is_given_up_at_once_and_clients_see_nothing_of_it() {
    let good = record(60_000, b"a", b"session");
    let lies: [(u8, u32, u8, Vec<u8>); 11] = [
        (2, 0, COPY, piece(0, std::slice::from_ref(&good))),
        (2, 0, COPY, vec![]),
        (2, 0, COPY, vec![0]),
        (2, 0, COPY, vec![1, 2, 3]),
        (2, 0, COPY, piece(9, &[good[..good.len() - 1].to_vec()])),
        (2, 0, COPY, piece(9, &[record(604_800_001, b"a", b"session")])),
        (2, 0, COPY, piece(9, &[record(1, b"", b"session")])),
        (2, 0, COPY, piece(9, &[record(1, &[1; 65], b"session")])),
        (2, 0, COPY, piece(9, &[record(1, b"a", b""), record(1, b"b", b"")])),
        (2, 1, COPY, piece(9, &[])),
        (2, 0, GET, piece(9, &[])),
    ];
    for (level, uid_off, op, payload) in lies {
        let mut memory = Memory::of(2);
        let mut net = world(&mut memory, Pieces::Whole);
        let uid = begin(&mut net);
        answer(&mut net, level, uid.wrapping_add(uid_off), op, &payload);
        assert_eq!(failure(&mut net), Some(CopyFailure::Malformed), "{payload:02x?}");
        assert!(net.machine.copy_is_done() && !net.is_open(SERVER));
        let client = net.connect();
        net.send(client, &[add(1, b"id", b"session"), get(2, b"id")].concat());
        net.drive();
        assert_eq!(net.take(client), [status(1, 0, 0), session(2, b"session")].concat());
        net.pass(60_000);
        assert_eq!(net.dials.len(), 1, "it is not asked again");
    }
}

#[test]
fn an_old_source_and_one_that_refuses_are_given_up_at_once() {
    for (level, failed) in [(0, CopyFailure::OldLevel), (1, CopyFailure::OldLevel)] {
        let mut memory = Memory::of(2);
        let mut net = world(&mut memory, Pieces::Whole);
        let (uid, ..) = asked(&mut net);
        answer(&mut net, level, uid, HAVE, &[1]);
        assert_eq!(failure(&mut net), Some(failed));
    }
    let mut memory = Memory::of(2);
    let mut net = world(&mut memory, Pieces::Whole);
    let uid = begin(&mut net);
    answer(&mut net, 2, uid, COPY, &[3]);
    assert_eq!(failure(&mut net), Some(CopyFailure::Refused));
}

#[test]
fn one_that_is_silent_unreachable_or_breaks_off_is_tried_three_times() {
    for (reach, answers, failed) in [
        (Reach::Refuses, false, CopyFailure::Unreachable),
        (Reach::Hangs, false, CopyFailure::Unreachable),
        (Reach::Accepts, false, CopyFailure::Silent(5_000)),
        (Reach::Accepts, true, CopyFailure::Lost),
    ] {
        let mut memory = Memory::of(2);
        let layout = Layout::new(1_000, 1 << 20).unwrap();
        let table = Table::new(layout, [7; 16], |lines| vec![[0; 64]; lines]).unwrap();
        let mut net = Net::new(memory.server(NO_LIMITS, table), Pieces::Whole);
        (net.probes, net.reach) = (Probes::Seen, reach);
        net.machine.copy_from(b"the source");
        net.pass(SETTLED);
        for _ in 0..3 {
            if answers {
                let uid = begin(&mut net);
                answer(&mut net, 2, uid, COPY, &piece(3, &[record(60_000, b"a", b"session")]));
                net.cut(SERVER);
            }
            net.take(SERVER);
            net.pass(if answers { 1_000 } else { 6_100 });
        }
        assert_eq!(failure(&mut net), Some(failed), "{reach:?}");
        assert_eq!(net.dials.len(), 3);
        assert!(net.machine.copy_is_done());
        assert_eq!(stored(&net, b"a").is_some(), answers, "what came stays");
        net.pass(60_000);
        assert_eq!(net.dials.len(), 3);
    }
}

#[test]
fn sources_are_copied_one_after_the_other_and_the_share_alone_is_kept() {
    let mut memory = Memory::of(2);
    let mut net = world(&mut memory, Pieces::Whole);
    net.machine.copy_from(b"another source");
    net.machine.copy_share(b"this server");
    for number in 2..=SOURCES_MAX {
        net.machine.copy_from(format!("source {number}").as_bytes());
    }
    net.machine.copy_from(b"too many");
    let records: Vec<_> =
        (0..200_u8).map(|number| record(60_000, &[number; 8], b"session")).collect();
    let uid = begin(&mut net);
    answer(&mut net, 2, uid, COPY, &piece(END, &records));
    let copied = net.machine.copied().unwrap();
    // Two of 32 servers have each session: one of 496 pairs of servers.
    assert!(copied.sessions < 5, "{copied:?}");
    net.drive();
    assert_eq!(net.dials.len(), 2, "then the next source");
}

#[test]
fn a_copy_that_a_server_got_as_a_stand_in_is_not_taken_for_its_share() {
    let mut memory = Memory::of(2);
    let mut net = world(&mut memory, Pieces::Whole);
    net.machine.copy_from(b"the other source");
    net.machine.copy_share(b"this server");
    let records: Vec<_> =
        (0..200_u8).map(|number| record(60_000, &[number; 8], b"session")).collect();
    let uid = begin(&mut net);
    answer(&mut net, 2, uid, COPY, &piece(END, &records));
    let first = net.machine.copied().unwrap().sessions;
    let (uid, op, _) = asked_of(&mut net, source(1));
    net.send(source(1), &at_level(2, message(1, uid, op, &[1])));
    let (uid, op, _) = asked_of(&mut net, source(1));
    net.send(source(1), &at_level(2, message(1, uid, op, &piece(END, &records))));
    net.drive();
    let second = net.machine.copied().unwrap().sessions;
    // Each of the three pairs of servers keeps a third.
    assert!((45..90).contains(&first) && (45..90).contains(&second), "{first}, {second}");
    assert_eq!(net.machine.store().len(), (first + second) as u32);
}

#[test]
fn nothing_is_copied_until_proxies_have_connected_and_removals_visit_this_server() {
    for proxy_retry in [0, 5_000, 60_000] {
        let mut memory = Memory::of(2);
        let layout = Layout::new(1_000, 1 << 20).unwrap();
        let table = Table::new(layout, [7; 16], |lines| vec![[0; 64]; lines]).unwrap();
        let proxy_retry = Duration::from_millis(proxy_retry);
        let config = server::Config { proxy_retry, ..server::Config::new(NO_LIMITS) };
        let mut net = Net::new(memory.server_with(config, table), Pieces::Whole);
        net.probes = Probes::Seen;
        net.machine.copy_from(b"the source");
        // The time counts from the first turn on, not from the beginning of the clock.
        net.now = net.now.after(100_000);
        net.drive();
        let settled = net.now.after(proxy_retry.as_millis() as u64 + 3_000);
        net.pass(settled.since(net.now) - 1);
        assert!(net.dials.is_empty() && !net.machine.copy_is_done());
        net.pass(1);
        assert_eq!(net.dials, [settled]);
        let uid = begin(&mut net);
        answer(&mut net, 2, uid, COPY, &piece(END, &[record(60_000, b"a", b"session")]));
        assert!(stored(&net, b"a").is_some());
    }
}

#[test]
fn a_source_with_more_than_there_is_room_for_evicts_nothing_and_the_next_has_its_turn() {
    let mut memory = Memory::of(2);
    let mut net = world(&mut memory, Pieces::Whole);
    net.machine.copy_from(b"another source");
    let client = net.connect();
    let own: Vec<_> = (0..900_u32).map(|number| number.to_be_bytes()).collect();
    for id in &own {
        net.send(client, &add(1, id, b"session"));
        net.drive();
    }
    let mut uid = begin(&mut net);
    let mut forged = 0_u32;
    while net.machine.copied().is_none_or(|copied| {
        assert_eq!((copied.sessions, copied.failure), (100, Some(CopyFailure::Full)));
        false
    }) {
        let ids = (forged..forged + 30).map(|number| format!("forged {number}"));
        let records: Vec<_> = ids.map(|id| record(60_000, id.as_bytes(), b"x")).collect();
        forged += 30;
        answer(&mut net, 2, uid, COPY, &piece(forged, &records));
        uid = messages(&net.take(SERVER)).first().map_or(0, |(uid, ..)| *uid);
        assert!(forged <= 120, "it goes on");
    }
    assert_eq!(net.machine.store().counters().evicted, 0);
    assert!(own.iter().all(|id| stored(&net, id).is_some()));
    assert_eq!(net.dials.len(), 2, "the next source");
}

#[test]
fn a_source_that_answers_too_slowly_or_for_too_long_is_given_up_and_the_next_has_its_turn() {
    for (pause, most) in [(4_000, 20_000), (1_000, 20_000), (250, 1_801_000)] {
        let mut memory = Memory::of(2);
        let mut net = world(&mut memory, Pieces::Whole);
        net.machine.copy_from(b"another source");
        let (mut uid, mut cursor, since) = (begin(&mut net), 0, net.now);
        let copied = loop {
            net.pass(pause);
            cursor += 1;
            answer(&mut net, 2, uid, COPY, &piece(cursor, &[]));
            if let Some(copied) = net.machine.copied() {
                break copied;
            }
            uid = asked(&mut net).0;
        };
        assert_eq!(copied.failure, Some(CopyFailure::Slow), "an answer in {pause} ms");
        assert!(net.now.since(since) <= most, "{copied:?}");
        assert_eq!(net.dials.len(), 2, "the next source");
    }
}
