//! What a proxy passes on and to which client, over virtual time. The tests act as the server.

use distcache_core::proxy::{self, Config};
use distcache_testing::bytes::{
    ADD, GET, HAVE, REMOVE, add, frame, get, have, message, messages, remove, session, status,
};
use distcache_testing::chain::Chain;
use distcache_testing::memory::{Memory, NO_LIMITS};
use distcache_testing::net::{End, Net, Pieces, SERVER, with_every_split};
use distcache_testing::random::Random;
use distcache_testing::store::Plain;
use std::time::Duration;

type World<'m> = Net<proxy::Borrowed<'m>>;

const CONFIG: Config =
    Config { server_patience: None, ..Config::new(NO_LIMITS, Duration::from_millis(5_000)) };

fn world(memory: &mut Memory, pieces: Pieces) -> World<'_> {
    let mut net = Net::new(memory.proxy(CONFIG), pieces);
    net.drive();
    net
}

/// Returns the requests that the server got since the last call: uid, operation, payload.
fn asked(net: &mut World<'_>) -> Vec<(u32, u8, Vec<u8>)> {
    net.drive();
    messages(&net.take(SERVER))
}

/// Returns the uid of the only request that the server got since the last call.
fn uid_of(net: &mut World<'_>) -> u32 {
    let asked = asked(net);
    assert_eq!(asked.len(), 1, "{asked:?}");
    asked[0].0
}

fn answer(net: &mut World<'_>, bytes: &[u8]) {
    net.send(SERVER, bytes);
    net.drive();
}

#[test]
fn a_request_goes_to_the_server_and_its_answer_comes_back_under_the_clients_uid() {
    with_every_split(40, |pieces| {
        let mut memory = Memory::of(2);
        let mut net = world(&mut memory, pieces);
        let client = net.connect();
        net.send(client, &get(0xdead_beef, b"some id"));
        let asked = asked(&mut net);
        let [(uid, GET, id)] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!(id, b"some id");
        answer(&mut net, &session(*uid, b"some session"));
        assert_eq!(net.received(client), session(0xdead_beef, b"some session"));
    });
}

#[test]
fn messages_of_many_frames_pass_both_ways() {
    for pieces in [Pieces::Whole, Pieces::Of(1), Pieces::CutAt(2062), Pieces::Any(Random::new(4))] {
        let mut memory = Memory::of(1);
        let mut net = world(&mut memory, pieces);
        let client = net.connect();
        let payload: Vec<u8> = (0..32_768_u32).map(|n| (n % 251) as u8).collect();
        let ask = message(0, 7, ADD, &payload);
        net.send(client, &ask);
        let asked = asked(&mut net);
        assert!(asked[0].1 == ADD && asked[0].2 == payload);
        answer(&mut net, &message(1, asked[0].0, ADD, &payload));
        assert!(net.received(client) == message(1, 7, ADD, &payload));
    }
}

#[test]
fn one_request_of_a_client_is_in_flight_at_a_time() {
    with_every_split(40, |pieces| {
        let mut memory = Memory::of(1);
        let mut net = world(&mut memory, pieces);
        let client = net.connect();
        net.send(client, &[have(1, b"a"), have(2, b"b"), have(3, b"c")].concat());
        for number in 0..3_u32 {
            let uid = uid_of(&mut net);
            answer(&mut net, &status(uid, HAVE, number as u8));
        }
        let answers = [status(1, HAVE, 0), status(2, HAVE, 1), status(3, HAVE, 2)];
        assert_eq!(net.received(client), answers.concat());
    });
}

#[test]
fn clients_take_turns() {
    let mut memory = Memory::of(3).with_in_flight(1);
    let mut net = world(&mut memory, Pieces::Whole);
    let clients = [net.connect(), net.connect(), net.connect()];
    for (number, client) in clients.iter().enumerate() {
        net.send(*client, &have(number as u32, &[number as u8]).repeat(3));
    }
    let mut turns = Vec::new();
    for _ in 0..9 {
        let asked = asked(&mut net);
        assert_eq!(asked.len(), 1, "there is room for one request in flight");
        turns.push(asked[0].2[0]);
        answer(&mut net, &status(asked[0].0, HAVE, 0));
    }
    assert_eq!(turns, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    assert!(clients.iter().all(|client| messages(net.received(*client)).len() == 3));
}

#[test]
fn answers_in_another_order_find_their_clients() {
    with_every_split(40, |pieces| {
        let mut memory = Memory::of(4);
        let mut net = world(&mut memory, pieces);
        let clients: Vec<End> = (0..4).map(|_| net.connect()).collect();
        for (number, client) in clients.iter().enumerate() {
            net.send(*client, &get(100, &[number as u8]));
        }
        let mut asked = asked(&mut net);
        asked.reverse();
        let answers = asked.iter().map(|(uid, _, id)| session(*uid, &[id[0]; 9]));
        answer(&mut net, &answers.collect::<Vec<_>>().concat());
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(net.received(*client), session(100, &[number as u8; 9]));
        }
    });
}

#[test]
fn an_answer_without_a_request_reaches_no_client() {
    with_every_split(30, |pieces| {
        let mut memory = Memory::of(2);
        let mut net = world(&mut memory, pieces);
        let (client, other) = (net.connect(), net.connect());
        answer(&mut net, &session(0, b"early"));
        net.send(client, &get(1, b"a"));
        let uid = uid_of(&mut net);
        let strays = (0..30).filter(|stray| *stray != uid).map(|stray| session(stray, b"stray"));
        let strays: Vec<u8> = strays.collect::<Vec<_>>().concat();
        answer(&mut net, &strays);
        assert!(net.received(client).is_empty() && net.received(other).is_empty());
        answer(&mut net, &session(uid, b"right"));
        assert_eq!(net.received(client), session(1, b"right"));
        assert_eq!((net.machine.traffic().strays, net.machine.traffic().losses), (30, 0));
    });
}

#[test]
fn a_second_answer_reaches_no_client() {
    with_every_split(40, |pieces| {
        let mut memory = Memory::of(2);
        let mut net = world(&mut memory, pieces);
        let (client, other) = (net.connect(), net.connect());
        net.send(client, &get(1, b"a"));
        let uid = uid_of(&mut net);
        answer(&mut net, &session(uid, b"secret").repeat(2));
        assert_eq!(net.take(client), session(1, b"secret"));
        for asks in [client, other] {
            net.send(asks, &get(2, b"b"));
            let next = uid_of(&mut net);
            assert_ne!(uid, next);
            answer(&mut net, &[session(uid, b"secret"), status(next, GET, 1)].concat());
            assert_eq!(net.take(asks), status(2, GET, 1));
        }
    });
}

#[test]
fn an_answer_to_another_operation_costs_the_server_its_connection() {
    with_every_split(20, |pieces| {
        let mut memory = Memory::of(2);
        let mut net = world(&mut memory, pieces);
        let (client, other) = (net.connect(), net.connect());
        net.send(client, &have(1, b"a"));
        let uid = uid_of(&mut net);
        net.send(other, &have(2, b"b"));
        net.drive();
        answer(&mut net, &session(uid, b"a session for HAVE"));
        assert_eq!(net.received(client), status(1, HAVE, 2));
        assert_eq!(net.received(other), status(2, HAVE, 2));
        assert_eq!(net.machine.traffic().losses, 1);
    });
}

#[test]
fn a_client_that_leaves_with_a_request_in_flight_costs_nobody_anything() {
    with_every_split(40, |pieces| {
        let mut memory = Memory::of(2);
        let mut net = world(&mut memory, pieces);
        let (gone, other) = (net.connect(), net.connect());
        net.send(gone, &get(5, b"a"));
        let late = uid_of(&mut net);
        net.cut(gone);
        net.drive();
        net.send(other, &get(5, b"b"));
        let uid = uid_of(&mut net);
        answer(&mut net, &[session(late, b"secret"), session(uid, b"public")].concat());
        assert_eq!(net.received(other), session(5, b"public"));
        assert!(net.received(gone).is_empty());
        assert_eq!(net.machine.traffic().orphaned, 1);
    });
}

#[test]
fn the_next_client_in_a_slot_never_gets_the_answer_of_the_previous_one() {
    with_every_split(40, |pieces| {
        let mut memory = Memory::of(1);
        let mut net = world(&mut memory, pieces);
        let gone = net.connect();
        net.send(gone, &get(5, b"a"));
        let late = uid_of(&mut net);
        net.cut(gone);
        let next = net.connect();
        net.send(next, &get(5, b"b"));
        let uid = uid_of(&mut net);
        answer(&mut net, &session(late, b"secret"));
        assert!(net.received(next).is_empty());
        answer(&mut net, &session(uid, b"public"));
        assert_eq!(net.received(next), session(5, b"public"));
    });
}

#[test]
fn no_uid_is_used_again_while_an_answer_to_it_may_still_come() {
    let mut memory = Memory::of(3).with_in_flight(2);
    let mut net = world(&mut memory, Pieces::Whole);
    let stays = net.connect();
    net.send(stays, &get(5, b"a"));
    let held = uid_of(&mut net);
    let mut seen = vec![held];
    for _ in 0..200 {
        let client = net.connect();
        net.send(client, &have(1, b"b"));
        let uid = uid_of(&mut net);
        assert!(!seen.contains(&uid), "{uid} is used again");
        seen.push(uid);
        net.cut(client);
        answer(&mut net, &status(uid, HAVE, 1));
    }
    answer(&mut net, &session(held, b"at last"));
    assert_eq!(net.received(stays), session(5, b"at last"));
}

#[test]
fn half_an_answer_is_not_delivered() {
    with_every_split(30, |pieces| {
        let mut memory = Memory::of(1);
        let mut net = world(&mut memory, pieces);
        let client = net.connect();
        net.send(client, &get(1, b"a"));
        let reply = session(uid_of(&mut net), b"some session");
        answer(&mut net, &reply[..20]);
        assert!(net.received(client).is_empty());
        answer(&mut net, &reply[20..]);
        assert_eq!(net.received(client), session(1, b"some session"));
    });
}

#[test]
fn a_client_that_sends_garbage_is_closed_and_the_server_receives_none_of_it() {
    let full = frame(0, 3, GET, 0, &[7; 2048]);
    let short_add = message(0, 1, ADD, b"1234567");
    let mixed = [&full[..], &frame(0, 4, GET, 1, b"x")].concat();
    let response = message(1, 1, GET, b"a");
    for bad in [&b"GET / HTTP/1.0"[..], &short_add, &mixed, &response] {
        with_every_split(40, |pieces| {
            let mut memory = Memory::of(2);
            let mut net = world(&mut memory, pieces);
            let (client, other) = (net.connect(), net.connect());
            net.send(client, bad);
            net.drive();
            assert!(!net.is_open(client) && net.received(client).is_empty());
            assert!(net.received(SERVER).is_empty() && net.is_open(SERVER));
            net.send(other, &have(1, b"a"));
            let uid = uid_of(&mut net);
            answer(&mut net, &status(uid, HAVE, 0));
            assert_eq!(net.received(other), status(1, HAVE, 0));
            assert_eq!(net.machine.counters().malformed, 1);
        });
    }
}

#[test]
fn a_valid_request_before_an_invalid_one_is_answered_and_then_the_client_is_closed() {
    with_every_split(40, |pieces| {
        let mut memory = Memory::of(1);
        let mut net = world(&mut memory, pieces);
        let client = net.connect();
        net.send(client, &[have(1, b"a"), b"nonsense".to_vec()].concat());
        let uid = uid_of(&mut net);
        assert!(net.is_open(client));
        answer(&mut net, &status(uid, HAVE, 0));
        assert_eq!(net.received(client), status(1, HAVE, 0));
        assert!(!net.is_open(client));
    });
}

#[test]
fn requests_before_the_end_of_a_clients_side_are_answered() {
    with_every_split(40, |pieces| {
        let mut memory = Memory::of(1);
        let mut net = world(&mut memory, pieces);
        let client = net.connect();
        net.send(client, &[have(1, b"a"), remove(2, b"a"), vec![0]].concat());
        net.hang_up(client);
        for (op, code) in [(HAVE, 0), (REMOVE, 1)] {
            let uid = uid_of(&mut net);
            answer(&mut net, &status(uid, op, code));
        }
        assert_eq!(net.received(client), [status(1, HAVE, 0), status(2, REMOVE, 1)].concat());
        assert!(!net.is_open(client));
    });
}

#[test]
fn a_client_that_does_not_read_is_not_read_from_and_delays_no_other() {
    let mut memory = Memory::of(2);
    let mut net = world(&mut memory, Pieces::Whole);
    let (slow, other) = (net.connect(), net.connect());
    net.window(slow, 0);
    net.send(slow, &have(1, b"a").repeat(20_000));
    let uid = uid_of(&mut net);
    answer(&mut net, &status(uid, HAVE, 0));
    assert!(asked(&mut net).is_empty());
    assert!(net.unread(slow) > 200_000);
    net.send(other, &have(2, b"b"));
    let uid = uid_of(&mut net);
    answer(&mut net, &status(uid, HAVE, 1));
    assert_eq!(net.received(other), status(2, HAVE, 1));
}

#[test]
fn a_server_that_does_not_read_makes_clients_wait_but_loses_nothing() {
    for seed in 0..10 {
        let mut memory = Memory::of(20);
        let mut net = world(&mut memory, Pieces::Any(Random::new(seed)));
        let clients: Vec<End> = (0..20).map(|_| net.connect()).collect();
        net.window(SERVER, 0);
        for client in &clients {
            net.send(*client, &add(1, b"a", &[7; 10_000]));
        }
        net.drive();
        net.window(SERVER, usize::MAX);
        let asked = asked(&mut net);
        assert_eq!(asked.len(), 20);
        let answers: Vec<_> = asked.iter().map(|(uid, ..)| status(*uid, ADD, 0)).collect();
        answer(&mut net, &answers.concat());
        assert!(clients.iter().all(|client| net.received(*client) == status(1, ADD, 0)));
    }
}

#[test]
fn a_proxy_with_four_buffers_makes_clients_wait_but_loses_nothing() {
    for buffers in 4..8 {
        for seed in 0..20 {
            check_with_buffers(buffers, Pieces::Any(Random::new(seed)));
        }
        check_with_buffers(buffers, Pieces::Whole);
        check_with_buffers(buffers, Pieces::Of(1));
    }
}

fn check_with_buffers(buffers: usize, pieces: Pieces) {
    let mut front = Memory::with_buffers(12, buffers);
    let mut back = Memory::with_buffers(1, 2);
    let server = back.server(NO_LIMITS, Plain::new(100));
    let mut chain = Chain::new(front.proxy(CONFIG), server, pieces);
    let clients: Vec<End> = (0..12).map(|_| chain.front.connect()).collect();
    for (number, client) in clients.iter().enumerate() {
        let id = [number as u8];
        chain.front.send(*client, &add(1, &id, &[number as u8; 100]));
        chain.front.send(*client, &get(2, &id).repeat(4));
    }
    chain.drive();
    for (number, client) in clients.iter().enumerate() {
        let answers = [status(1, ADD, 0), session(2, &[number as u8; 100]).repeat(4)].concat();
        assert_eq!(chain.front.received(*client), answers, "client {number}, {buffers} buffers");
    }
}
