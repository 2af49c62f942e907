//! What a proxy does while its server is unreachable, silent, or lost, over virtual time.

use distcache_core::Limits;
use distcache_core::machine::Machine;
use distcache_core::proxy::{self, Config};
use distcache_testing::bytes::{ADD, GET, HAVE, add, get, have, messages, session, status};
use distcache_testing::chain::Chain;
use distcache_testing::memory::{Memory, NO_LIMITS, limits};
use distcache_testing::net::{End, Net, Pieces, Reach, SERVER, with_every_split};
use distcache_testing::store::Plain;
use std::time::Duration;

type World<'m> = Net<proxy::Borrowed<'m>>;

const CONFIG: Config =
    Config { server_patience: None, ..Config::new(NO_LIMITS, Duration::from_millis(5_000)) };
const LIMITS: Limits = limits(0, 3_000);
const PATIENT: Config = Config {
    server_patience: Some(Duration::from_millis(3_000)),
    ..Config::new(LIMITS, Duration::from_millis(5_000))
};

fn world(memory: &mut Memory, config: Config, reach: Reach, pieces: Pieces) -> World<'_> {
    let mut net = Net::new(memory.proxy(config), pieces);
    net.reach = reach;
    net.drive();
    net
}

fn uids(net: &mut World<'_>) -> Vec<u32> {
    net.drive();
    messages(&net.take(SERVER)).into_iter().map(|(uid, ..)| uid).collect()
}

#[test]
fn while_the_server_is_unreachable_every_request_is_answered_at_once() {
    with_every_split(60, |pieces| {
        let mut memory = Memory::of(1);
        let mut net = world(&mut memory, CONFIG, Reach::Refuses, pieces);
        let client = net.connect();
        net.send(client, &[get(1, b"a"), have(2, b"a"), add(3, b"a", b"session")].concat());
        net.drive();
        let away = [status(1, GET, 2), status(2, HAVE, 2), status(3, ADD, 2)];
        assert_eq!(net.received(client), away.concat());
        assert!(net.is_open(client));
        assert_eq!(net.machine.traffic().disconnected, 3);
    });
}

#[test]
fn the_server_is_dialed_every_retry_and_not_more_often() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, CONFIG, Reach::Refuses, Pieces::Whole);
    let start = net.now;
    let client = net.connect();
    for _ in 0..20_000 / 50 {
        net.send(client, &have(1, b"a"));
        net.pass(50);
    }
    let dials: Vec<u64> = net.dials.iter().map(|at| at.since(start)).collect();
    assert_eq!(dials, [0, 5_000, 10_000, 15_000, 20_000]);
}

#[test]
fn a_server_that_closes_at_once_is_not_dialed_more_often() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, CONFIG, Reach::Accepts, Pieces::Whole);
    let start = net.now;
    for _ in 0..20_000 {
        net.hang_up(SERVER);
        net.pass(1);
    }
    let dials: Vec<u64> = net.dials.iter().map(|at| at.since(start)).collect();
    assert_eq!(dials, [0, 5_000, 10_000, 15_000, 20_000]);
}

#[test]
fn a_server_lost_long_after_it_was_dialed_is_dialed_at_once() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, CONFIG, Reach::Accepts, Pieces::Whole);
    net.pass(60_000);
    net.cut(SERVER);
    net.drive();
    assert!(net.dials.len() == 2 && net.machine.is_up(0));
}

#[test]
fn a_server_that_comes_back_is_used_again() {
    with_every_split(20, |pieces| {
        let mut memory = Memory::of(1);
        let mut net = world(&mut memory, CONFIG, Reach::Refuses, pieces);
        let client = net.connect();
        net.send(client, &have(1, b"a"));
        net.drive();
        net.reach = Reach::Accepts;
        net.pass(5_000);
        net.send(client, &have(2, b"a"));
        let uid = uids(&mut net)[0];
        net.send(SERVER, &status(uid, HAVE, 0));
        net.drive();
        assert_eq!(net.received(client), [status(1, HAVE, 2), status(2, HAVE, 0)].concat());
    });
}

#[test]
fn a_lost_connection_answers_each_request_in_flight_with_disconnected() {
    for hangs_up in [false, true] {
        with_every_split(20, |pieces| {
            let mut memory = Memory::of(5);
            let mut net = world(&mut memory, CONFIG, Reach::Accepts, pieces);
            let clients: Vec<End> = (0..5).map(|_| net.connect()).collect();
            for (number, client) in clients.iter().enumerate() {
                net.send(*client, &have(number as u32, &[number as u8]));
            }
            net.drive();
            let mut asked = messages(&net.take(SERVER));
            asked.sort_by_key(|(_, _, id)| id[0]);
            let uids: Vec<u32> = asked.into_iter().map(|(uid, ..)| uid).collect();
            net.reach = Reach::Refuses;
            net.send(SERVER, &status(uids[2], HAVE, 0));
            net.send(SERVER, &status(uids[3], HAVE, 0)[..9]);
            net.drive();
            if hangs_up {
                net.hang_up(SERVER);
            } else {
                net.cut(SERVER);
            }
            net.drive();
            for (number, client) in clients.iter().enumerate() {
                let code = if number == 2 { 0 } else { 2 };
                assert_eq!(net.received(*client), status(number as u32, HAVE, code));
            }
        });
    }
}

#[test]
fn whole_answers_before_the_server_closes_are_delivered() {
    with_every_split(30, |pieces| {
        let mut memory = Memory::of(2);
        let mut net = world(&mut memory, CONFIG, Reach::Accepts, pieces);
        let clients = [net.connect(), net.connect()];
        net.send(clients[0], &get(1, b"a"));
        net.send(clients[1], &get(2, b"b"));
        for uid in uids(&mut net) {
            net.send(SERVER, &session(uid, b"session"));
        }
        net.hang_up(SERVER);
        net.drive();
        assert_eq!(net.received(clients[0]), session(1, b"session"));
        assert_eq!(net.received(clients[1]), session(2, b"session"));
        assert_eq!(net.machine.traffic().losses, 1);
    });
}

#[test]
fn requests_on_a_lost_connection_are_not_answered_by_the_next() {
    with_every_split(30, |pieces| {
        let mut memory = Memory::of(1);
        let mut net = world(&mut memory, CONFIG, Reach::Accepts, pieces);
        let client = net.connect();
        net.pass(6_000);
        net.send(client, &get(1, b"a"));
        let old = uids(&mut net)[0];
        net.cut(SERVER);
        net.drive();
        assert_eq!(net.take(client), status(1, GET, 2));
        net.send(client, &get(2, b"b"));
        let new = uids(&mut net)[0];
        net.send(SERVER, &session(old, b"secret"));
        net.send(SERVER, &session(new, b"public"));
        net.drive();
        assert_eq!(net.received(client), session(2, b"public"));
    });
}

#[test]
fn half_a_request_to_a_lost_connection_is_not_continued_on_the_next() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, CONFIG, Reach::Accepts, Pieces::Whole);
    let client = net.connect();
    net.pass(6_000);
    net.window(SERVER, 100);
    net.send(client, &add(1, b"a", &[7; 5_000]));
    net.drive();
    assert_eq!(net.received(SERVER).len(), 100);
    net.cut(SERVER);
    net.drive();
    net.send(client, &have(2, b"b"));
    assert_eq!(uids(&mut net).len(), 1);
    assert_eq!(net.received(client), status(1, ADD, 2));
}

#[test]
fn a_server_that_sends_garbage_is_disconnected_and_dialed_again() {
    for nonsense in [&b"HTTP/1.1 400"[..], &have(1, b"a"), &[0, 0x11, 0, 0, 1, 0, 0, 0, 0, 1]] {
        with_every_split(10, |pieces| {
            let mut memory = Memory::of(1);
            let mut net = world(&mut memory, CONFIG, Reach::Accepts, pieces);
            let client = net.connect();
            net.send(client, &have(1, b"a"));
            net.drive();
            net.reach = Reach::Refuses;
            net.send(SERVER, nonsense);
            net.drive();
            assert_eq!(net.received(client), status(1, HAVE, 2));
            assert!(!net.is_open(SERVER));
            net.reach = Reach::Accepts;
            net.pass(5_000);
            assert!(net.machine.is_up(0));
        });
    }
}

#[test]
fn a_silent_server_is_disconnected_after_its_timeout() {
    let mut memory = Memory::of(2);
    let mut net = world(&mut memory, PATIENT, Reach::Accepts, Pieces::Whole);
    let client = net.connect();
    net.pass(60_000);
    assert!(net.is_open(SERVER), "a server without requests may be silent");
    net.send(client, &have(1, b"a"));
    net.pass(2_999);
    assert!(net.received(client).is_empty());
    net.reach = Reach::Refuses;
    net.pass(1);
    assert_eq!(net.received(client), status(1, HAVE, 2));
    assert!(net.is_open(client) && !net.is_open(SERVER));
}

#[test]
fn a_server_that_sends_a_byte_a_second_is_disconnected_too() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, PATIENT, Reach::Accepts, Pieces::Whole);
    let client = net.connect();
    net.send(client, &get(1, b"a"));
    let uid = uids(&mut net)[0];
    net.reach = Reach::Refuses;
    for byte in session(uid, b"some session").into_iter().take(4) {
        net.send(SERVER, &[byte]);
        net.pass(1_000);
    }
    assert_eq!(net.received(client), status(1, GET, 2));
}

#[test]
fn clients_of_a_silent_server_get_disconnected_and_are_not_closed() {
    let mut memory = Memory::of(3).with_in_flight(1);
    let mut net = world(&mut memory, PATIENT, Reach::Accepts, Pieces::Whole);
    let clients = [net.connect(), net.connect(), net.connect()];
    net.reach = Reach::Refuses;
    for client in clients {
        net.send(client, &have(1, b"a"));
    }
    net.pass(3_000);
    for client in clients {
        assert_eq!(net.received(client), status(1, HAVE, 2));
        assert!(net.is_open(client));
    }
}

#[test]
fn clients_that_wait_their_turn_are_not_closed() {
    let mut memory = Memory::of(6).with_in_flight(1);
    let mut net = world(&mut memory, PATIENT, Reach::Accepts, Pieces::Whole);
    let clients: Vec<End> = (0..6).map(|_| net.connect()).collect();
    for client in &clients {
        net.send(*client, &have(1, b"a"));
    }
    for _ in 0..6 {
        net.pass(2_000);
        let uid = uids(&mut net)[0];
        net.send(SERVER, &status(uid, HAVE, 0));
    }
    net.drive();
    assert!(clients.iter().all(|client| net.received(*client) == status(1, HAVE, 0)));
}

#[test]
fn requests_wait_for_a_connection_attempt() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, CONFIG, Reach::Hangs, Pieces::Whole);
    let client = net.connect();
    net.send(client, &have(1, b"a"));
    net.pass(50);
    assert!(net.received(client).is_empty());
    net.accept_dial();
    let uid = uids(&mut net)[0];
    net.send(SERVER, &status(uid, HAVE, 0));
    net.drive();
    assert_eq!(net.received(client), status(1, HAVE, 0));
}

#[test]
fn requests_wait_only_a_moment_for_a_connection_attempt() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, PATIENT, Reach::Hangs, Pieces::Whole);
    let client = net.connect();
    net.send(client, &have(1, b"a"));
    net.pass(100);
    assert_eq!(net.take(client), status(1, HAVE, 2));
    net.send(client, &have(2, b"a"));
    net.drive();
    assert_eq!(net.received(client), status(2, HAVE, 2));
    assert_eq!(net.dials.len(), 1);
    net.pass(4_900);
    assert_eq!(net.dials.len(), 2, "an attempt that hangs times out");
}

#[test]
fn a_server_lost_and_found_behind_a_proxy_never_mixes_up_answers() {
    with_every_split(40, |pieces| {
        let (mut front, mut back) = (Memory::of(3), Memory::of(2));
        let config = Config::new(NO_LIMITS, Duration::from_millis(1));
        let server = back.server(NO_LIMITS, Plain::new(100));
        let mut chain = Chain::new(front.proxy(config), server, pieces);
        chain.drive();
        let clients: Vec<End> = (0..3).map(|_| chain.front.connect()).collect();
        for (number, client) in clients.iter().enumerate() {
            let id = [number as u8];
            chain.front.send(*client, &add(0, &id, &[number as u8; 50]));
            for uid in 1..6 {
                chain.front.send(*client, &get(uid, &id));
            }
        }
        for _ in 0..4 {
            for _ in 0..3 {
                chain.front.step();
            }
            chain.break_link();
            chain.pass(1);
        }
        chain.pass(5);
        for (number, client) in clients.iter().enumerate() {
            let answers = messages(chain.front.received(*client));
            let uids: Vec<u32> = answers.iter().map(|(uid, ..)| *uid).collect();
            assert_eq!(uids, [0, 1, 2, 3, 4, 5]);
            for (_, _, payload) in answers {
                assert!([&[0][..], &[1], &[2], &[number as u8; 50]].contains(&&payload[..]));
            }
        }
        let now = chain.front.now;
        assert!(chain.front.machine.deadline().is_none_or(|at| at > now));
    });
}
