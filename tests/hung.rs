//! What a proxy does when a server accepts connections and then sends nothing, or wrong answers.
//! Over virtual time.

use distcache_core::machine::{Machine, Peer};
use distcache_core::proxy::{self, Config, Dial, GivenUp};
use distcache_testing::bytes::{
    ADD, GET, HAVE, PUT, add, add_payload, at_level, get, have, message, messages, session, status,
};
use distcache_testing::memory::{Memory, NO_LIMITS, limits};
use distcache_testing::net::{End, Net, Pieces, Probes, Reach, SERVER, probe, server};
use std::time::Duration;

type World<'m> = Net<proxy::Borrowed<'m>>;

const CONFIG: Config = Config::new(NO_LIMITS, Duration::from_millis(5_000));
const ENDLESS: Config = Config { server_patience: None, ..CONFIG };

fn world(memory: &mut Memory, config: Config) -> World<'_> {
    let mut net = Net::new(memory.proxy(config), Pieces::Whole);
    net.drive();
    net
}

/// Returns the requests that a server got since the last call.
fn asked(net: &mut World<'_>, number: u8) -> Vec<(u32, u8, Vec<u8>)> {
    net.drive();
    messages(&net.take(server(number)))
}

/// Returns ids whose first server is this one.
fn ids_of(net: &mut World<'_>, client: End, number: u8, count: usize) -> Vec<[u8; 4]> {
    let mut ids = Vec::new();
    for id in 0_u32.. {
        let id = id.to_be_bytes();
        net.send(client, &have(1, &id));
        for other in 0..2 {
            for (uid, ..) in asked(net, other) {
                if other == number {
                    ids.push(id);
                }
                net.send(server(other), &status(uid, HAVE, 0));
                net.drive();
            }
        }
        net.take(client);
        if ids.len() == count {
            break;
        }
    }
    ids
}

#[test]
fn a_verb_with_nothing_to_do_does_nothing() {
    let mut memory = Memory::of(1);
    let mut net = Net::new(memory.proxy(CONFIG), Pieces::Whole);
    net.reach = Reach::Hangs;
    net.probes = Probes::Seen;
    net.drive();
    let key = net.keys[0].unwrap();
    let peer = Peer::Server(key);
    let free = net.machine.buffers_free();
    let poke = |net: &mut World<'_>| {
        let now = net.now;
        assert!(net.machine.space(peer).is_empty() && net.machine.pending(peer).is_empty());
        net.machine.filled(peer, 9);
        net.machine.ended(now, peer);
        net.machine.sent(now, peer, 9);
        assert_eq!(net.machine.advance(now), None);
        assert_eq!((net.machine.check(), net.machine.buffers_free()), (Ok(()), free));
    };
    // During a dial, and after it.
    poke(&mut net);
    net.machine.closed(peer);
    poke(&mut net);
    net.machine.closed(peer);
    net.machine.connected(net.now, key);
    poke(&mut net);
    assert!(net.machine.traffic().connects == 0 && !net.machine.is_up(0));
}

#[test]
fn a_late_event_of_a_connection_does_nothing_to_the_next() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, CONFIG);
    let old = net.keys[0].unwrap();
    net.pass(6_000);
    net.cut(SERVER);
    net.drive();
    assert!(net.machine.is_up(0) && net.keys[0] != Some(old), "it is connected again");
    let client = net.connect();
    net.send(client, &have(1, b"a"));
    let uid = asked(&mut net, 0)[0].0;
    let (now, old) = (net.now, Peer::Server(old));
    assert!(net.machine.wants(old).close);
    assert!(net.machine.space(old).is_empty() && net.machine.pending(old).is_empty());
    net.machine.ended(now, old);
    net.machine.filled(old, 14);
    net.machine.sent(now, old, 14);
    net.machine.closed(old);
    net.drive();
    assert!(net.is_open(SERVER) && net.machine.is_up(0));
    net.send(SERVER, &status(uid, HAVE, 0));
    net.drive();
    assert_eq!(net.received(client), status(1, HAVE, 0));
}

#[test]
fn sending_nothing_makes_no_room() {
    let mut memory = Memory::of(20);
    let mut net = world(&mut memory, ENDLESS);
    net.window(SERVER, 0);
    for _ in 0..20 {
        let client = net.connect();
        net.send(client, &add(1, b"a", &[7; 5_000]));
    }
    net.drive();
    let peer = Peer::Server(net.keys[0].unwrap());
    assert!(net.machine.deadline().is_none());
    net.machine.sent(net.now, peer, 0);
    assert_eq!(net.machine.deadline(), None, "what can't be sent must not be tried again");
    assert_eq!(net.machine.advance(net.now), None);
}

#[test]
fn a_server_is_up_once_its_answer_shows_its_level() {
    for level in [0, 1] {
        let mut memory = Memory::of(1);
        let mut net = Net::new(memory.proxy(CONFIG), Pieces::Of(1));
        net.probes = Probes::Seen;
        net.drive();
        assert_eq!(net.take(SERVER), probe());
        let client = net.connect();
        net.send(client, &at_level(1, message(0, 1, PUT, &add_payload(1, b"a", b"session"))));
        net.drive();
        assert!(!net.machine.is_up(0) && net.received(SERVER).is_empty());
        net.send(SERVER, &at_level(level, status(u32::MAX, HAVE, 1)));
        net.drive();
        assert!(net.machine.is_up(0));
        let asked = asked(&mut net, 0);
        match level {
            0 => assert_eq!(net.received(client), at_level(1, status(1, PUT, 3))),
            _ => assert_eq!((asked.len(), asked[0].1), (1, PUT)),
        }
        assert_eq!(net.machine.traffic().requests, 1, "a probe belongs to no client");
    }
}

#[test]
fn a_server_that_accepts_and_stays_silent_is_never_up_nor_dialed_in_a_loop() {
    let mut memory = Memory::of(1);
    let mut net = Net::new(memory.proxy(CONFIG), Pieces::Whole);
    net.probes = Probes::Seen;
    let start = net.now;
    net.drive();
    let client = net.connect();
    net.send(client, &have(1, b"a"));
    net.pass(99);
    assert!(net.received(client).is_empty(), "requests wait for the first attempt");
    net.pass(1);
    assert_eq!(net.take(client), status(1, HAVE, 2));
    for _ in 0..150 {
        net.pass(100);
        assert!(!net.machine.is_up(0));
    }
    let dials: Vec<u64> = net.dials.iter().map(|at| at.since(start)).collect();
    assert_eq!(dials, [0, 5_000, 10_000, 15_000]);
    let traffic = net.machine.server_traffic(0);
    assert_eq!((traffic.connects, traffic.losses, traffic.given_up), (4, 3, 3));
    assert_eq!(net.machine.given_up(0), Some(GivenUp::Silent(250)));
    // Requests do not wait for later attempts.
    net.pass(200);
    net.send(client, &have(2, b"a"));
    net.drive();
    assert_eq!(net.take(client), status(2, HAVE, 2));
}

#[test]
fn only_the_answer_to_a_probe_may_come_first() {
    for wrong in [status(0, HAVE, 0), status(u32::MAX, GET, 0), b"HTTP/1.1 400".to_vec()] {
        let mut memory = Memory::of(1);
        let mut net = Net::new(memory.proxy(CONFIG), Pieces::Whole);
        net.probes = Probes::Seen;
        net.drive();
        net.send(SERVER, &wrong);
        net.drive();
        assert!(!net.machine.is_up(0));
    }
}

#[test]
fn a_server_that_answers_nothing_times_out_long_before_a_client() {
    let mut memory = Memory::of(1);
    let limits = limits(0, 10_000);
    let mut net = world(&mut memory, Config::new(limits, Duration::from_millis(5_000)));
    let client = net.connect();
    net.pass(60_000);
    assert!(net.is_open(SERVER), "a server without requests may be silent");
    net.send(client, &have(1, b"a"));
    net.pass(249);
    assert!(net.received(client).is_empty());
    net.reach = Reach::Refuses;
    net.pass(1);
    assert_eq!(net.received(client), status(1, HAVE, 2));
    assert_eq!(net.machine.given_up(0), Some(GivenUp::Silent(250)));
    assert_eq!(net.machine.server_traffic(0).lost, 1);
}

#[test]
fn a_server_that_answers_others_keeps_its_connection_until_the_client_timeout() {
    let mut memory = Memory::of(2);
    let limits = limits(0, 3_000);
    let mut net = world(&mut memory, Config::new(limits, Duration::from_millis(5_000)));
    let (slow, other) = (net.connect(), net.connect());
    net.send(slow, &have(1, b"a"));
    asked(&mut net, 0);
    net.reach = Reach::Refuses;
    for passed in (100..3_000).step_by(100) {
        net.send(other, &have(2, b"b"));
        let uid = asked(&mut net, 0)[0].0;
        net.pass(100);
        assert!(net.is_open(SERVER), "after {passed} ms");
        net.send(SERVER, &status(uid, HAVE, 0));
        net.drive();
    }
    net.pass(100);
    assert_eq!(net.received(slow), status(1, HAVE, 2));
    assert_eq!(net.machine.given_up(0), Some(GivenUp::Silent(3_000)));
}

#[test]
fn a_proxy_that_was_stopped_itself_does_not_blame_its_servers() {
    for (stopped, given_up) in [(250, true), (300, true), (301, false), (60_000, false)] {
        let mut memory = Memory::of(1);
        let mut net = world(&mut memory, CONFIG);
        let client = net.connect();
        net.send(client, &have(1, b"a"));
        let uid = asked(&mut net, 0)[0].0;
        // The machine is not called at its deadline.
        net.now = net.now.after(stopped);
        net.drive();
        assert_eq!(net.machine.traffic().given_up > 0, given_up, "after {stopped} ms");
        if !given_up {
            net.pass(249);
            net.send(SERVER, &status(uid, HAVE, 0));
            net.drive();
            assert_eq!(net.received(client), status(1, HAVE, 0));
        }
    }
}

#[test]
fn clients_that_leave_a_hung_server_cost_the_other_server_nothing() {
    let mut memory = Memory::of(4).with_servers(2);
    let mut net = world(&mut memory, ENDLESS);
    let prober = net.connect();
    let hung = ids_of(&mut net, prober, 0, 1)[0];
    let well = ids_of(&mut net, prober, 1, 1)[0];
    for round in 0..100 {
        let client = net.connect();
        net.send(client, &get(1, &hung));
        net.drive();
        net.cut(client);
        net.send(prober, &get(2, &well));
        let asked = asked(&mut net, 1);
        let its = asked.iter().find(|(_, _, id)| *id == well);
        let (uid, ..) = its.unwrap_or_else(|| panic!("round {round}: blocked"));
        net.send(server(1), &session(*uid, b"session"));
        net.drive();
        assert_eq!(net.take(prober), session(2, b"session"), "round {round}");
        // Requests of the hung server go to the other one once there are too many.
        for (uid, ..) in asked.iter().filter(|(_, _, id)| *id == hung) {
            net.send(server(1), &status(*uid, GET, 1));
        }
        net.drive();
    }
    assert!(net.machine.is_full(0) && !net.machine.is_full(1));
    assert_eq!(net.machine.traffic().orphaned, 100);
    let late = asked(&mut net, 0);
    assert_eq!(late.len(), 6, "half of all places");
    for (uid, op, _) in late {
        net.send(server(0), &status(uid, op, 1));
    }
    net.drive();
    assert_eq!((net.machine.in_flight(), net.machine.is_full(0)), (0, false));
}

#[test]
fn without_another_server_a_full_one_counts_as_unreachable() {
    let mut memory = Memory::of(4).with_in_flight(3);
    let mut net = world(&mut memory, ENDLESS);
    let mut uids = Vec::new();
    for _ in 0..3 {
        let client = net.connect();
        net.send(client, &get(1, b"a"));
        uids.push(asked(&mut net, 0)[0].0);
        net.cut(client);
    }
    let client = net.connect();
    net.send(client, &[get(1, b"a"), add(2, b"a", b"session")].concat());
    net.drive();
    assert_eq!(net.take(client), [status(1, GET, 2), status(2, ADD, 2)].concat());
    net.send(SERVER, &session(uids[1], b"secret"));
    net.send(client, &get(3, b"a"));
    let uid = asked(&mut net, 0)[0].0;
    assert!(net.received(client).is_empty() && !uids.contains(&uid));
    net.send(SERVER, &session(uid, b"session"));
    net.drive();
    assert_eq!(net.received(client), session(3, b"session"));
}

#[test]
fn requests_wait_for_a_busy_server_if_all_others_are_awaited() {
    let mut memory = Memory::of(3).with_servers(2).with_in_flight(2);
    let mut net = world(&mut memory, ENDLESS);
    let first = net.connect();
    let id = ids_of(&mut net, first, 0, 1)[0];
    let second = net.connect();
    for client in [first, second] {
        net.send(client, &get(1, &id));
    }
    for client in [first, second] {
        assert!(asked(&mut net, 1).is_empty(), "it would be a miss there");
        let asked = asked(&mut net, 0);
        assert_eq!(asked.len(), 1);
        net.send(server(0), &session(asked[0].0, b"session"));
        net.drive();
        assert_eq!(net.received(client), session(1, b"session"));
    }
}

#[test]
fn clients_that_ended_their_side_make_room_for_others_while_a_server_hangs() {
    let mut memory = Memory::of(8);
    let mut net = world(&mut memory, ENDLESS);
    let left: Vec<End> = (0..8).map(|_| net.connect()).collect();
    for client in &left {
        // A full server may be hung or busy.
        net.send(*client, &get(1, b"a"));
        net.hang_up(*client);
    }
    net.pass(999);
    assert!(left.iter().all(|client| net.is_open(*client)) && net.try_connect().is_none());
    net.pass(1);
    let open = left.iter().map(|client| net.is_open(*client)).collect::<Vec<_>>();
    assert_eq!(open, [false, false, true, true, true, true, true, true], "the oldest go first");
    net.pass(60_000);
    assert_eq!(net.machine.clients(), 6, "a client may wait if it blocks no other");
    let next = net.connect();
    net.send(next, &have(2, b"b"));
    let asked = asked(&mut net, 0);
    assert_eq!(asked.len(), 9);
    for (uid, op, _) in asked {
        net.send(SERVER, &status(uid, op, 1));
    }
    net.drive();
    assert_eq!(net.received(next), status(2, HAVE, 1));
    assert!(left[3..].iter().all(|client| net.received(*client) == status(1, GET, 1)));
}

#[test]
fn a_server_that_sends_only_stray_answers_is_disconnected() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, CONFIG);
    net.reach = Reach::Refuses;
    net.send(SERVER, &status(77, HAVE, 0).repeat(32));
    net.drive();
    assert!(net.is_open(SERVER));
    net.send(SERVER, &status(77, HAVE, 0).repeat(1_000_000));
    net.drive();
    assert!(!net.is_open(SERVER));
    let traffic = net.machine.server_traffic(0);
    assert_eq!((traffic.strays, traffic.given_up), (33, 1));
    assert_eq!(net.machine.given_up(0), Some(GivenUp::Strays));
}

#[test]
fn a_few_stray_answers_between_others_cost_a_server_nothing() {
    let mut memory = Memory::of(1);
    let mut net = world(&mut memory, CONFIG);
    let client = net.connect();
    for _ in 0..100 {
        // The C original answers an ADD of several frames more than once.
        net.send(client, &add(1, b"a", &[7; 30_000]));
        let uid = asked(&mut net, 0)[0].0;
        net.send(SERVER, &status(uid, ADD, 0).repeat(15));
        net.drive();
        assert_eq!(net.take(client), status(1, ADD, 0));
    }
    assert_eq!((net.machine.traffic().strays, net.machine.traffic().losses), (1_400, 0));
}

#[test]
fn requests_that_waited_for_a_lost_connection_are_routed_again() {
    let mut memory = Memory::of(12);
    let mut net = world(&mut memory, ENDLESS);
    net.probes = Probes::AnsweredAt(1);
    net.cut(SERVER);
    net.pass(5_000);
    net.window(SERVER, 0);
    let put = at_level(1, message(0, 1, PUT, &add_payload(60_000, b"a", &[7; 30_000])));
    let clients: Vec<End> = (0..12).map(|_| net.connect()).collect();
    for client in &clients {
        net.send(*client, &put);
    }
    net.pass(5_000);
    // All of this happens before the next `advance`.
    let (now, old) = (net.now, net.keys[0].unwrap());
    net.machine.closed(Peer::Server(old));
    let Some(Dial::Connect(key)) = net.machine.dial(now) else { panic!("it is time to dial") };
    net.machine.connected(now, key);
    let peer = Peer::Server(key);
    let len = net.machine.pending(peer).len();
    assert_eq!(net.machine.pending(peer), probe());
    net.machine.sent(now, peer, len);
    let answer = status(u32::MAX, HAVE, 1);
    net.machine.space(peer)[..answer.len()].copy_from_slice(&answer);
    net.machine.filled(peer, answer.len());
    while net.machine.advance(now).is_some() {}
    assert!(net.machine.is_up(0));
    assert_eq!(net.machine.pending(peer), b"", "a server of level 0 is asked for a PUT");
    let Some(client) = net.machine.traffic().requests.checked_sub(net.machine.traffic().answered)
    else {
        panic!("more answers than requests")
    };
    assert!(client > 0, "what was sent is lost");
    assert!(net.machine.traffic().answered > 0, "what was not is not supported");
    assert_eq!(net.machine.in_flight(), 0);
}

#[test]
fn each_request_of_a_client_counts_once() {
    let mut memory = Memory::of(4).with_servers(2);
    let config = Config { copies: 2, ..ENDLESS };
    let mut net = world(&mut memory, config);
    let clients = [net.connect(), net.connect(), net.connect()];
    let turn = |net: &mut World<'_>| {
        for number in 0..2 {
            for (uid, op, _) in asked(net, number) {
                net.send(server(number), &status(uid, op, 0));
            }
        }
        net.drive();
    };
    for client in clients {
        net.send(client, &add(1, b"a", b"session"));
        turn(&mut net);
        turn(&mut net);
    }
    net.send(clients[0], &get(2, b"a"));
    net.drive();
    net.cut(clients[0]);
    turn(&mut net);
    for number in 0..2 {
        net.reach_of[number] = Some(Reach::Refuses);
        net.cut(server(number as u8));
    }
    net.send(clients[1], &get(2, b"a"));
    net.drive();
    let all = net.machine.traffic();
    let sums = (all.requests, all.answered, all.orphaned, all.disconnected);
    assert_eq!(sums, (5, 3, 1, 1));
    let forwarded: Vec<u64> = (0..2).map(|n| net.machine.server_traffic(n).forwarded).collect();
    assert_eq!(forwarded.iter().sum::<u64>(), 7, "three ADDs to both and one GET to one");
}
