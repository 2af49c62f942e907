//! Patch levels, over virtual time: level-0 clients see no change, and level-0 servers get no
//! operation of level 1.

use distcache_core::proxy::{self, Config};
use distcache_core::server;
use distcache_testing::bytes::{
    ADD, GET, HAVE, PUT, TAKE, add, add_payload, at_level, get, have, message, messages, session,
    status,
};
use distcache_testing::chain::Chain;
use distcache_testing::memory::{Memory, NO_LIMITS};
use distcache_testing::net::{End, Net, Pieces, SERVER, with_every_split};
use distcache_testing::store::Plain;
use std::time::Duration;

type ProxyNet<'m> = Net<proxy::Borrowed<'m>>;

const CONFIG: Config =
    Config { server_patience: None, ..Config::new(NO_LIMITS, Duration::from_millis(5_000)) };
const UNSUPPORTED: u8 = 3;

fn server(memory: &mut Memory, pieces: Pieces) -> Net<server::Borrowed<'_, Plain>> {
    Net::new(memory.server(NO_LIMITS, Plain::new(100)), pieces)
}

fn proxy(memory: &mut Memory) -> ProxyNet<'_> {
    let mut net = Net::new(memory.proxy(CONFIG), Pieces::Whole);
    net.drive();
    net
}

fn put(uid: u32, id: &[u8], session: &[u8]) -> Vec<u8> {
    at_level(1, message(0, uid, PUT, &add_payload(60_000, id, session)))
}

fn take(uid: u32, id: &[u8]) -> Vec<u8> {
    at_level(1, message(0, uid, TAKE, id))
}

fn answer(uid: u32, op: u8, payload: &[u8]) -> Vec<u8> {
    at_level(1, message(1, uid, op, payload))
}

#[test]
fn an_answer_has_the_level_of_its_request_up_to_2() {
    let mut memory = Memory::of(1);
    let mut net = server(&mut memory, Pieces::Whole);
    let client = net.connect();
    for level in [0, 1, 2, 3, 255] {
        net.send(client, &at_level(level, have(7, b"a")));
        net.drive();
        assert_eq!(net.take(client), at_level(level.min(2), status(7, HAVE, 1)));
    }
}

#[test]
fn a_put_replaces_and_a_take_leaves_nothing() {
    with_every_split(40, |pieces| {
        let mut memory = Memory::of(1);
        let mut net = server(&mut memory, pieces);
        let client = net.connect();
        let long = [8; 5000];
        let asks = [
            put(1, b"a", b"first"),
            put(2, b"a", &long),
            at_level(1, add(3, b"a", b"third")),
            take(4, b"a"),
            take(5, b"a"),
            at_level(1, get(6, b"a")),
            take(7, &[9; 65]),
        ];
        net.send(client, &asks.concat());
        net.drive();
        let answers = [
            answer(1, PUT, &[0]),
            answer(2, PUT, &[0]),
            answer(3, ADD, &[101]),
            answer(4, TAKE, &long),
            answer(5, TAKE, &[1]),
            answer(6, GET, &[1]),
            answer(7, TAKE, &[1]),
        ];
        assert!(net.received(client) == answers.concat());
    });
}

#[test]
fn at_level_0_the_new_operations_close_the_connection() {
    for ask in [put(1, b"a", b"session"), take(1, b"a")] {
        let ask = at_level(0, ask);
        with_every_split(40, |pieces| {
            let mut memory = Memory::of(1);
            let mut net = server(&mut memory, pieces);
            let client = net.connect();
            net.send(client, &ask);
            net.drive();
            assert!(!net.is_open(client) && net.received(client).is_empty());
        });
    }
    // In a later frame too.
    let mut long = put(1, b"a", &[7; 3000]);
    long[14 + 2048 + 3] = 0;
    let mut memory = Memory::of(1);
    let mut net = server(&mut memory, Pieces::Whole);
    let client = net.connect();
    net.send(client, &long);
    net.drive();
    assert!(!net.is_open(client));
}

#[test]
fn a_refused_put_changes_nothing() {
    let mut memory = Memory::of(1);
    let mut net = server(&mut memory, Pieces::Whole);
    let client = net.connect();
    net.send(client, &add(1, b"a", b"session"));
    let late = message(0, 2, PUT, &add_payload(604_800_001, b"a", b"another"));
    let empty = message(0, 3, PUT, &add_payload(1, b"a", b""));
    net.send(client, &[at_level(1, late), at_level(1, empty), get(4, b"a")].concat());
    net.drive();
    let answers =
        [status(1, ADD, 0), answer(2, PUT, &[102]), answer(3, PUT, &[100]), session(4, b"session")];
    assert_eq!(net.received(client), answers.concat());
}

/// Lets the proxy's server answer a HAVE at `level`. Returns what the client, which asks at level
/// 9, got.
fn learn_level(net: &mut ProxyNet<'_>, client: End, level: u8) -> Vec<u8> {
    net.send(client, &at_level(9, have(7, b"a")));
    net.drive();
    let asked = net.take(SERVER);
    assert_eq!(asked[..4], [0, 0x11, 0, 2], "a proxy answers at its own level");
    let uid = messages(&asked)[0].0;
    net.send(SERVER, &at_level(level, status(uid, HAVE, 1)));
    net.drive();
    net.take(client)
}

#[test]
fn a_proxy_answers_unsupported_for_what_its_server_lacks() {
    for (level, answer_level) in [(0, 0), (1, 1), (2, 2), (7, 2)] {
        let mut memory = Memory::of(1);
        let mut net = proxy(&mut memory);
        let client = net.connect();
        assert_eq!(
            learn_level(&mut net, client, level),
            at_level(answer_level, status(7, HAVE, 1))
        );
        net.send(client, &take(8, b"a"));
        net.drive();
        let asked = messages(&net.take(SERVER));
        match answer_level {
            0 => {
                assert!(asked.is_empty(), "a server that lacks it is not asked");
                assert_eq!(net.take(client), answer(8, TAKE, &[UNSUPPORTED]));
            }
            _ => {
                assert_eq!((asked.len(), asked[0].1, &asked[0].2[..]), (1, TAKE, &b"a"[..]));
                net.send(SERVER, &at_level(level, message(1, asked[0].0, TAKE, b"session")));
                net.drive();
                assert_eq!(net.take(client), answer(8, TAKE, b"session"));
            }
        }
        assert!(net.is_open(client));
    }
}

#[test]
fn a_server_that_has_not_answered_yet_gets_no_new_operations() {
    let mut memory = Memory::of(1);
    let mut net = proxy(&mut memory);
    let client = net.connect();
    net.send(client, &put(1, b"a", b"session"));
    net.drive();
    assert_eq!(net.take(client), answer(1, PUT, &[UNSUPPORTED]));
    learn_level(&mut net, client, 1);
    // The next connection may be to another server.
    net.cut(SERVER);
    net.pass(5_000);
    net.send(client, &put(2, b"a", b"session"));
    net.drive();
    assert_eq!(net.take(client), answer(2, PUT, &[UNSUPPORTED]));
    assert!(net.take(SERVER).is_empty());
}

#[test]
fn while_the_server_is_unreachable_the_new_operations_are_answered_like_the_others() {
    let mut memory = Memory::of(1);
    let mut net = proxy(&mut memory);
    let client = net.connect();
    net.cut(SERVER);
    net.drive();
    net.send(client, &[take(1, b"a"), get(2, b"a")].concat());
    net.drive();
    assert_eq!(net.take(client), [answer(1, TAKE, &[2]), status(2, GET, 2)].concat());
}

#[test]
fn new_operations_pass_a_proxy_unchanged() {
    with_every_split(40, |pieces| {
        let (mut proxies, mut servers) = (Memory::of(1), Memory::of(1));
        let proxy = proxies.proxy(CONFIG);
        let server = servers.server(NO_LIMITS, Plain::new(100));
        let mut chain = Chain::new(proxy, server, pieces);
        chain.drive();
        let client = chain.front.connect();
        let mut ask = |bytes: &[u8]| {
            chain.front.send(client, bytes);
            chain.drive();
            chain.front.take(client)
        };
        assert_eq!(ask(&add(1, b"a", b"session")), status(1, ADD, 0));
        assert_eq!(ask(&put(2, b"a", &[8; 5000])), answer(2, PUT, &[0]));
        assert!(ask(&take(3, b"a")) == answer(3, TAKE, &[8; 5000]));
        assert_eq!(ask(&take(4, b"a")), answer(4, TAKE, &[1]));
    });
}
