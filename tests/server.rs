//! What a server does with its clients, over virtual time.

use distcache_core::Limits;
use distcache_core::machine::{Machine, Peer};
use distcache_core::server;
use distcache_testing::bytes::{
    ADD, GET, HAVE, REMOVE, add, add_for, frame, get, have, message, messages, remove, session,
    status,
};
use distcache_testing::memory::{Memory, NO_LIMITS, limits};
use distcache_testing::net::{End, Net, Pieces, with_every_split};
use distcache_testing::random::Random;
use distcache_testing::store::Plain;

type World<'m> = Net<server::Borrowed<'m, Plain>>;

const PATIENT: Limits = limits(10_000, 3_000);

fn world(memory: &mut Memory, limits: Limits, pieces: Pieces) -> World<'_> {
    Net::new(memory.server(limits, Plain::new(100)), pieces)
}

/// Creates a server in which `a` is stored, with a client that is not part of the test.
fn with_bystander(memory: &mut Memory, limits: Limits, pieces: Pieces) -> (World<'_>, End) {
    let mut net = world(memory, limits, pieces);
    let bystander = net.connect();
    net.send(bystander, &add(1, b"a", b"session"));
    net.drive();
    assert_eq!(net.take(bystander), status(1, ADD, 0));
    (net, bystander)
}

fn check_bystander(net: &mut World<'_>, client: End) {
    net.send(client, &get(77, b"a"));
    net.drive();
    assert_eq!(net.take(client), session(77, b"session"));
    assert!(net.is_open(client));
}

#[test]
fn a_stored_session_is_found_until_it_is_removed() {
    with_every_split(60, |pieces| {
        let mut memory = Memory::of(2);
        let (mut net, other) = with_bystander(&mut memory, NO_LIMITS, pieces);
        let client = net.connect();
        let asks = [have(5, b"a"), get(6, b"a"), remove(7, b"a"), remove(8, b"a"), have(9, b"a")];
        net.send(client, &asks.concat());
        net.drive();
        let answers = [
            status(5, HAVE, 0),
            session(6, b"session"),
            status(7, REMOVE, 0),
            status(8, REMOVE, 1),
            status(9, HAVE, 1),
        ];
        assert_eq!(net.received(client), answers.concat());
        assert!(net.received(other).is_empty());
        assert_eq!(net.machine.operations().total, 6);
    });
}

#[test]
fn a_session_is_found_until_its_lifetime_ends() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, NO_LIMITS, Pieces::Whole);
    let client = net.connect();
    net.send(client, &add_for(1, 2000, b"a", b"session"));
    net.pass(1999);
    net.send(client, &get(2, b"a"));
    net.pass(1);
    net.send(client, &[get(3, b"a"), add(4, b"a", b"another")].concat());
    net.drive();
    let answers = [status(1, ADD, 0), session(2, b"session"), status(3, GET, 1), status(4, ADD, 0)];
    assert_eq!(net.received(client), answers.concat());
}

#[test]
fn expired_sessions_are_dropped_without_a_request() {
    let mut memory = Memory::of(1);
    let mut net = Net::new(memory.server(NO_LIMITS, Plain::new(1000)), Pieces::Whole);
    let client = net.connect();
    for id in 0..500_u32 {
        net.send(client, &add_for(id, 2000, &id.to_be_bytes(), b"session"));
    }
    net.drive();
    assert_eq!(net.machine.operations().adds, 500);
    net.pass(4000);
    assert_eq!(net.machine.deadline(), None, "an empty store has no deadline");
}

#[test]
fn clients_of_other_protocols_are_closed_and_no_others() {
    let mut random = Random::new(3);
    let noise: Vec<u8> = (0..100).map(|_| 2 + random.below(250) as u8).collect();
    let strangers: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        &noise,
        &[1],
    ];
    for stranger in strangers {
        with_every_split(12, |pieces| {
            let mut memory = Memory::of(2);
            let (mut net, bystander) = with_bystander(&mut memory, NO_LIMITS, pieces);
            net.send(bystander, &get(5, b"a")[..10]);
            let client = net.connect();
            net.send(client, stranger);
            net.drive();
            assert!(!net.is_open(client) && net.received(client).is_empty());
            net.send(bystander, &get(5, b"a")[10..]);
            net.drive();
            assert_eq!(net.take(bystander), session(5, b"session"));
            check_bystander(&mut net, bystander);
            assert_eq!(net.machine.counters().malformed, 1);
        });
    }
}

#[test]
fn a_header_is_rejected_at_its_first_wrong_byte_and_not_before() {
    let right = have(9, b"some id");
    let wrong = [(0, 1), (1, 0x12), (4, 1), (4, 2), (9, 1), (10, 4), (11, 2), (11, 0), (12, 9)];
    for (at, value) in wrong {
        let mut memory = Memory::of(1);
        let mut net = world(&mut memory, NO_LIMITS, Pieces::Of(1));
        let client = net.connect();
        let mut bytes = right.clone();
        bytes[at] = value;
        net.send(client, &bytes[..at]);
        net.drive();
        assert!(net.is_open(client), "before byte {at}");
        net.send(client, &bytes[at..=at]);
        net.drive();
        // An incomplete frame is valid if it is full, which the next two bytes say.
        net.send(client, if (at, value) == (11, 0) { &bytes[12..13] } else { &[] });
        net.drive();
        assert!(!net.is_open(client), "byte {at} is {value}");
    }
}

#[test]
fn a_header_cut_anywhere_waits_for_ever() {
    let bytes = have(9, b"some id");
    for len in 0..bytes.len() {
        let mut memory = Memory::of(1);
        let mut net = world(&mut memory, NO_LIMITS, Pieces::Whole);
        let client = net.connect();
        net.send(client, &bytes[..len]);
        net.pass(1_000_000);
        assert!(net.is_open(client) && net.received(client).is_empty(), "after {len} bytes");
        net.send(client, &bytes[len..]);
        net.drive();
        assert_eq!(net.received(client), status(9, HAVE, 1));
    }
}

#[test]
fn a_message_has_at_most_16_frames() {
    let full = frame(0, 3, GET, 0, &[7; 2048]);
    let last = |data: &[u8]| frame(0, 3, GET, 1, data);
    let sixteen = [full.repeat(15), last(&[7; 2048])].concat();
    let cases =
        [(sixteen, true), ([full.repeat(15), last(&[])].concat(), true), (full.repeat(16), false)];
    for (bytes, valid) in cases {
        for pieces in [Pieces::Whole, Pieces::Of(1), Pieces::Of(2062), Pieces::Any(Random::new(1))]
        {
            let mut memory = Memory::of(1);
            let mut net = world(&mut memory, NO_LIMITS, pieces);
            let client = net.connect();
            net.send(client, &bytes);
            net.drive();
            assert_eq!(net.is_open(client), valid);
            assert_eq!(net.received(client).is_empty(), !valid);
        }
    }
}

#[test]
fn a_16th_frame_that_is_not_the_last_is_rejected_at_once() {
    let full = frame(0, 3, GET, 0, &[7; 2048]);
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, NO_LIMITS, Pieces::Whole);
    let client = net.connect();
    net.send(client, &full.repeat(16)[..15 * full.len() + 11]);
    net.drive();
    assert!(net.is_open(client));
    net.send(client, &[0]);
    net.drive();
    assert!(!net.is_open(client));
}

#[test]
fn frames_of_two_messages_do_not_mix() {
    let first = frame(0, 3, GET, 0, &[7; 2048]);
    for second in [frame(0, 4, GET, 1, b"x"), frame(0, 3, HAVE, 1, b"x"), frame(1, 3, GET, 1, b"x")]
    {
        with_every_split(20, |pieces| {
            let mut memory = Memory::of(2);
            let (mut net, bystander) = with_bystander(&mut memory, NO_LIMITS, pieces);
            let client = net.connect();
            net.send(client, &[&first[..], &second].concat());
            net.drive();
            assert!(!net.is_open(client) && net.received(client).is_empty());
            check_bystander(&mut net, bystander);
        });
    }
}

#[test]
fn a_valid_request_before_an_invalid_one_is_answered_and_then_the_client_is_closed() {
    for bad in [&b"POST /"[..], &message(0, 1, ADD, b"1234567"), &message(1, 1, GET, b"a")] {
        with_every_split(40, |pieces| {
            let mut memory = Memory::of(2);
            let (mut net, bystander) = with_bystander(&mut memory, NO_LIMITS, pieces);
            let client = net.connect();
            net.send(client, &[&get(4, b"a"), bad, &get(5, b"a")].concat());
            net.drive();
            assert_eq!(net.received(client), session(4, b"session"));
            assert!(!net.is_open(client));
            check_bystander(&mut net, bystander);
        });
    }
}

#[test]
fn the_last_answer_waits_for_a_slow_reader_before_the_client_is_closed() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, PATIENT, Pieces::Whole);
    let client = net.connect();
    net.window(client, 5);
    net.send(client, &[have(4, b"a"), b"nonsense".to_vec()].concat());
    net.pass(2999);
    assert!(net.is_open(client) && net.received(client).len() == 5);
    net.window(client, usize::MAX);
    net.drive();
    assert_eq!(net.received(client), status(4, HAVE, 1));
    assert!(!net.is_open(client));
}

#[test]
fn thousands_of_requests_are_answered_in_order_with_many_answers_to_a_write() {
    for pieces in [Pieces::Whole, Pieces::Of(1), Pieces::Of(1000), Pieces::Any(Random::new(2))] {
        let whole = matches!(pieces, Pieces::Whole);
        let mut memory = Memory::of(2);
        let (mut net, bystander) = with_bystander(&mut memory, NO_LIMITS, pieces);
        let client = net.connect();
        let (asks, answers): (Vec<_>, Vec<_>) = (0..3000)
            .map(|uid| match uid % 3 {
                0 => (get(uid, b"a"), session(uid, b"session")),
                1 => (have(uid, b"b"), status(uid, HAVE, 1)),
                _ => (add(uid, b"a", b"x"), status(uid, ADD, 101)),
            })
            .unzip();
        net.send(client, &asks.concat());
        net.drive();
        assert_eq!(net.received(client), answers.concat());
        assert!(!whole || net.writes(client) < 40, "{} writes", net.writes(client));
        check_bystander(&mut net, bystander);
    }
}

#[test]
fn a_client_with_many_requests_does_not_delay_the_others() {
    let mut memory = Memory::of(2);
    let config = server::Config { budget: 1, ..server::Config::new(NO_LIMITS) };
    let mut net = Net::new(memory.server_with(config, Plain::new(100)), Pieces::Whole);
    let (greedy, modest) = (net.connect(), net.connect());
    net.send(greedy, &have(1, b"a").repeat(1000));
    net.send(modest, &have(2, b"a"));
    net.step();
    net.step();
    assert_eq!(net.received(modest), status(2, HAVE, 1));
    assert!(messages(net.received(greedy)).len() <= 2);
    net.drive();
    assert_eq!(messages(net.received(greedy)).len(), 1000);
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    let mut memory = Memory::of(2);
    let (mut net, bystander) = with_bystander(&mut memory, NO_LIMITS, Pieces::Whole);
    let client = net.connect();
    net.send(client, &add(1, b"big", &[9; 30_000]));
    net.drive();
    net.take(client);
    net.window(client, 1000);
    net.send(client, &get(2, b"big").repeat(20_000));
    net.drive();
    assert!(net.unread(client) > 200_000, "only {} are left", net.unread(client));
    assert_eq!(net.received(client).len(), 1000);
    check_bystander(&mut net, bystander);
    net.cut(client);
    check_bystander(&mut net, bystander);
}

#[test]
fn while_an_answer_waits_no_byte_is_read() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, NO_LIMITS, Pieces::Whole);
    let client = net.connect();
    net.window(client, 14);
    net.send(client, &have(1, b"a"));
    net.drive();
    net.send(client, &have(2, b"a"));
    net.drive();
    assert_eq!(net.unread(client), have(2, b"a").len());
    net.window(client, 1);
    net.drive();
    assert_eq!(net.unread(client), 0);
}

#[test]
fn a_slow_reader_gets_every_answer() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, PATIENT, Pieces::Whole);
    let client = net.connect();
    net.send(client, &add_for(1, 600_000_000, b"big", &[9; 30_000]));
    net.send(client, &get(2, b"big").repeat(20));
    let answers = [status(1, ADD, 0), session(2, &[9; 30_000]).repeat(20)].concat();
    for _ in 0..answers.len() / 5_000 + 1 {
        net.window(client, 5_000);
        net.pass(2_000);
    }
    assert!(net.received(client) == answers);
    assert!(net.is_open(client));
}

#[test]
fn a_client_that_leaves_mid_request_costs_nobody_anything() {
    let request = add(4, b"b", b"other");
    for len in 0..=request.len() {
        let mut memory = Memory::of(2);
        let (mut net, bystander) = with_bystander(&mut memory, NO_LIMITS, Pieces::Whole);
        for politely in [false, true] {
            let client = net.connect();
            net.send(client, &request[..len]);
            net.drive();
            if politely {
                net.hang_up(client);
            } else {
                net.cut(client);
            }
            net.drive();
            assert!(!net.is_open(client));
            check_bystander(&mut net, bystander);
        }
        assert_eq!(net.machine.clients(), 1);
    }
}

#[test]
fn requests_before_the_end_of_a_clients_side_are_answered() {
    with_every_split(40, |pieces| {
        let mut memory = Memory::of(2);
        let (mut net, _) = with_bystander(&mut memory, NO_LIMITS, pieces);
        let client = net.connect();
        net.send(client, &[get(4, b"a"), get(5, b"a"), vec![0, 0x11]].concat());
        net.hang_up(client);
        net.drive();
        assert_eq!(net.received(client), [session(4, b"session"), session(5, b"session")].concat());
        assert!(!net.is_open(client));
    });
}

#[test]
fn a_reused_slot_keeps_nothing_of_its_previous_client() {
    with_every_split(40, |pieces| {
        let mut memory = Memory::of(1);
        let mut net = world(&mut memory, NO_LIMITS, pieces);
        let gone = net.connect();
        net.window(gone, 3);
        net.send(
            gone,
            &[add(1, b"a", b"session"), get(2, b"a"), get(3, b"a")[..9].to_vec()].concat(),
        );
        net.drive();
        net.cut(gone);
        let client = net.connect();
        net.send(client, &have(8, b"b"));
        net.drive();
        assert_eq!(net.received(client), status(8, HAVE, 1));
    });
}

#[test]
fn a_stale_key_does_nothing() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, NO_LIMITS, Pieces::Whole);
    let (now, machine) = (net.now, &mut net.machine);
    let old = Peer::Client(machine.open(now).unwrap());
    machine.closed(old);
    let new = Peer::Client(machine.open(now).unwrap());
    assert!(machine.space(old).is_empty() && machine.pending(old).is_empty());
    machine.filled(old, 14);
    machine.sent(now, old, 14);
    machine.ended(now, old);
    machine.closed(old);
    assert!(machine.wants(old).close && !machine.wants(new).close);
    assert_eq!((machine.advance(now), machine.clients()), (None, 1));
}
