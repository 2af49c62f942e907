//! Which of several servers a proxy asks, and how it combines their answers, over virtual time. The
//! tests act as the servers.

use std::time::Duration;

use distcache_core::Limits;
use distcache_core::proxy::{self, Config};
use distcache_testing::bytes::{
    ADD, GET, HAVE, PUT, REMOVE, TAKE, add, add_payload, at_level, get, have, message, messages,
    remove, session, status,
};
use distcache_testing::memory::{Memory, NO_LIMITS, limits};
use distcache_testing::net::{self, End, Net, Pieces, Reach, with_every_split};
use distcache_testing::scripted::Sessions;

type World<'m> = Net<proxy::Borrowed<'m>>;

const ALONE: Config =
    Config { server_patience: None, ..Config::new(NO_LIMITS, Duration::from_millis(5_000)) };
const COPIED: Config = Config { copies: 2, ..ALONE };
const LIMITS: Limits = limits(0, 3_000);
const PATIENT: Config = Config {
    server_patience: Some(Duration::from_millis(3_000)),
    ..Config::new(LIMITS, Duration::from_millis(5_000))
};

/// A scripted server: its sessions and its level.
#[derive(Default)]
struct ScriptedServer {
    level: u8,
    /// Acts as a proxy that does not know the level of its server.
    hides_level: bool,
    sessions: Sessions,
    asked: Vec<u8>,
}

impl ScriptedServer {
    fn answer(&mut self, (uid, op, payload): (u32, u8, Vec<u8>)) -> Vec<u8> {
        self.asked.push(op);
        if self.hides_level && [PUT, TAKE].contains(&op) {
            return at_level(self.level, message(1, uid, op, &[3]));
        }
        let answer = self.sessions.execute(op, &payload);
        at_level(self.level, message(1, uid, op, &answer))
    }
}

/// A proxy, its servers, and one client that asks at level 1.
struct Cluster<'m> {
    net: World<'m>,
    servers: Vec<ScriptedServer>,
    client: End,
}

impl<'m> Cluster<'m> {
    fn new(memory: &'m mut Memory, config: Config, servers: usize, pieces: Pieces) -> Self {
        let mut net = Net::new(memory.proxy(config), pieces);
        net.drive();
        let client = net.connect();
        let server = || ScriptedServer { level: 1, ..ScriptedServer::default() };
        Self { net, servers: (0..servers).map(|_| server()).collect(), client }
    }

    /// Lets all servers answer until there are no more requests.
    fn settle(&mut self) {
        loop {
            self.net.drive();
            let mut idle = true;
            for (number, server) in (0..).zip(&mut self.servers) {
                for asked in messages(&self.net.take(net::server(number))) {
                    idle = false;
                    self.net.send(net::server(number), &server.answer(asked));
                }
            }
            if idle {
                return;
            }
        }
    }

    fn ask(&mut self, request: Vec<u8>) -> Vec<u8> {
        self.net.send(self.client, &at_level(1, request));
        self.settle();
        self.net.take(self.client)
    }

    /// Returns the servers that hold the id.
    fn holders(&self, id: &[u8]) -> Vec<usize> {
        let holds = |number: &usize| self.servers[*number].sessions.0.contains_key(id);
        (0..self.servers.len()).filter(holds).collect()
    }

    /// Returns the requests of every server since the last call.
    fn asked(&mut self) -> Vec<Vec<u8>> {
        self.servers.iter_mut().map(|server| std::mem::take(&mut server.asked)).collect()
    }

    /// Makes a server unreachable and empty.
    fn kill(&mut self, number: usize) {
        self.servers[number].sessions.0.clear();
        self.net.reach_of[number] = Some(Reach::Refuses);
        self.net.cut(net::server(number as u8));
        self.settle();
    }

    /// Makes a server reachable, and waits for the next attempt to connect.
    fn restart(&mut self, number: usize) {
        self.net.reach_of[number] = None;
        self.net.pass(5_000);
    }

    /// Returns the order in which servers are asked for this id.
    fn ranks(&mut self, id: &[u8]) -> Vec<usize> {
        let mut ranks = Vec::new();
        while ranks.len() < self.servers.len() {
            self.asked();
            self.ask(have(1, id));
            let asked = self.asked();
            let first = (0..asked.len()).find(|number| !asked[*number].is_empty()).unwrap();
            ranks.push(first);
            self.net.reach_of[first] = Some(Reach::Refuses);
            self.net.cut(net::server(first as u8));
            self.settle();
        }
        self.net.reach_of = [None; 4];
        self.net.pass(5_000);
        ranks
    }
}

fn put(uid: u32, id: &[u8], session: &[u8]) -> Vec<u8> {
    message(0, uid, PUT, &add_payload(60_000, id, session))
}

fn take(uid: u32, id: &[u8]) -> Vec<u8> {
    message(0, uid, TAKE, id)
}

fn level_1(bytes: Vec<u8>) -> Vec<u8> {
    at_level(1, bytes)
}

#[test]
fn every_id_has_one_server_and_all_servers_have_ids() {
    let mut memory = Memory::of(1).with_servers(3);
    let mut cluster = Cluster::new(&mut memory, ALONE, 3, Pieces::Whole);
    for number in 0..60_u8 {
        let id = [number; 32];
        assert_eq!(cluster.ask(add(1, &id, b"session")), level_1(status(1, ADD, 0)));
        assert_eq!(cluster.holders(&id).len(), 1);
        assert_eq!(cluster.ask(get(2, &id)), level_1(session(2, b"session")));
        assert_eq!(cluster.ask(put(3, &id, b"another")), level_1(message(1, 3, PUT, &[0])));
        assert_eq!(cluster.ask(take(4, &id)), level_1(message(1, 4, TAKE, b"another")));
        assert_eq!(cluster.ask(remove(5, &id)), level_1(status(5, REMOVE, 1)));
        assert_eq!(cluster.ask(have(6, &id)), level_1(status(6, HAVE, 1)));
    }
    assert!(cluster.asked().iter().all(|asked| asked.len() >= 60), "some servers get no ids");
}

#[test]
fn unknown_ids_have_a_server_too() {
    let mut memory = Memory::of(1).with_servers(3);
    let mut cluster = Cluster::new(&mut memory, ALONE, 3, Pieces::Whole);
    assert_eq!(cluster.ask(get(1, b"")), level_1(status(1, GET, 1)));
    assert_eq!(cluster.ask(get(2, &[7; 5000])), level_1(status(2, GET, 1)));
    let huge = [&1_u32.to_be_bytes()[..], &u32::MAX.to_be_bytes(), b"x"].concat();
    assert_eq!(cluster.ask(message(0, 3, ADD, &huge)), level_1(status(3, ADD, 100)));
}

#[test]
fn an_unreachable_server_is_skipped_and_ids_of_others_stay_in_place() {
    let mut memory = Memory::of(1).with_servers(3);
    let mut cluster = Cluster::new(&mut memory, ALONE, 3, Pieces::Whole);
    let ids: Vec<_> = (0..30_u8).map(|number| [number; 16]).collect();
    for id in &ids {
        cluster.ask(add(1, id, b"session"));
    }
    let before: Vec<_> = ids.iter().map(|id| cluster.holders(id)[0]).collect();
    cluster.kill(1);
    for (id, home) in ids.iter().zip(&before) {
        let there = if *home == 1 { status(1, GET, 1) } else { session(1, b"session") };
        assert_eq!(cluster.ask(get(1, id)), level_1(there));
        cluster.ask(put(2, id, b"another"));
        let now = cluster.holders(id);
        assert!(now.len() == 1 && now[0] != 1 && (*home == 1 || now[0] == *home));
    }
    cluster.restart(1);
    for (id, home) in ids.iter().zip(&before) {
        cluster.asked();
        cluster.ask(have(3, id));
        assert_eq!(cluster.asked()[*home], [HAVE], "it comes back to its server");
    }
}

#[test]
fn with_copies_a_session_is_on_two_servers_and_survives_the_loss_of_either() {
    with_every_split(20, |pieces| {
        let mut memory = Memory::of(1).with_servers(3);
        let mut cluster = Cluster::new(&mut memory, COPIED, 3, pieces);
        let ranks = cluster.ranks(b"an id");
        assert_eq!(cluster.ask(add(1, b"an id", b"session")), level_1(status(1, ADD, 0)));
        let mut holders = ranks[..2].to_vec();
        holders.sort_unstable();
        assert_eq!(cluster.holders(b"an id"), holders);
        cluster.kill(ranks[0]);
        assert_eq!(cluster.ask(get(2, b"an id")), level_1(session(2, b"session")));
        cluster.restart(ranks[0]);
        assert_eq!(
            cluster.ask(get(3, b"an id")),
            level_1(session(3, b"session")),
            "it comes back empty"
        );
        assert_eq!(cluster.ask(have(4, b"an id")), level_1(status(4, HAVE, 0)));
        assert_eq!(cluster.ask(add(5, b"an id", b"another")), level_1(status(5, ADD, 0)));
        assert_eq!(cluster.holders(b"an id"), holders);
        for home in holders {
            assert_eq!(
                cluster.servers[home].sessions.0[&b"an id"[..]],
                b"another",
                "both are the same"
            );
        }
    });
}

#[test]
fn a_long_session_is_copied_whole() {
    with_every_split(20, |pieces| {
        let mut memory = Memory::of(1).with_servers(2);
        let mut cluster = Cluster::new(&mut memory, COPIED, 2, pieces);
        let long: Vec<u8> = (0..30_000_u32).map(|at| (at % 251) as u8).collect();
        assert_eq!(cluster.ask(add(1, b"an id", &long)), level_1(status(1, ADD, 0)));
        assert!(cluster.servers.iter().all(|server| server.sessions.0[&b"an id"[..]] == long));
        assert!(cluster.ask(take(2, b"an id")) == level_1(message(1, 2, TAKE, &long)));
        assert!(cluster.holders(b"an id").is_empty());
    });
}

#[test]
fn a_refused_add_is_not_copied() {
    let mut memory = Memory::of(1).with_servers(2);
    let mut cluster = Cluster::new(&mut memory, COPIED, 2, Pieces::Whole);
    cluster.ask(add(1, b"an id", b"session"));
    cluster.asked();
    assert_eq!(cluster.ask(add(2, b"an id", b"another")), level_1(status(2, ADD, 101)));
    assert_eq!(cluster.asked().concat(), [ADD]);
    assert!(cluster.servers.iter().all(|server| server.sessions.0[&b"an id"[..]] == b"session"));
}

#[test]
fn a_copy_replaces_an_old_session_at_a_level_0_server_too() {
    let mut memory = Memory::of(1).with_servers(2);
    let mut cluster = Cluster::new(&mut memory, COPIED, 2, Pieces::Whole);
    let ranks = cluster.ranks(b"an id");
    cluster.servers[ranks[1]].level = 0;
    cluster.servers[ranks[1]].sessions.0.insert(b"an id".to_vec(), b"left over".to_vec());
    cluster.ask(have(1, b"another id"));
    cluster.asked();
    assert_eq!(cluster.ask(add(2, b"an id", b"session")), level_1(status(2, ADD, 0)));
    assert_eq!(cluster.asked()[ranks[1]], [ADD, REMOVE, ADD]);
    assert!(cluster.servers.iter().all(|server| server.sessions.0[&b"an id"[..]] == b"session"));
}

#[test]
fn a_copy_is_stored_through_another_proxy_that_does_not_know_its_servers_level() {
    let mut memory = Memory::of(1).with_servers(2);
    let mut cluster = Cluster::new(&mut memory, COPIED, 2, Pieces::Whole);
    let ranks = cluster.ranks(b"an id");
    cluster.ask(add(1, b"another", b"session"));
    cluster.ask(add(1, b"and another", b"session"));
    cluster.servers[ranks[1]].hides_level = true;
    cluster.asked();
    assert_eq!(cluster.ask(add(2, b"an id", b"session")), level_1(status(2, ADD, 0)));
    assert_eq!(cluster.asked()[ranks[1]], [PUT, REMOVE, ADD]);
    assert_eq!(cluster.holders(b"an id"), [0, 1]);
}

#[test]
fn a_removed_session_is_on_no_server() {
    let mut memory = Memory::of(1).with_servers(3);
    let mut cluster = Cluster::new(&mut memory, COPIED, 3, Pieces::Whole);
    for number in 0..20_u8 {
        let id = [number; 8];
        cluster.ask(add(1, &id, b"session"));
        assert_eq!(cluster.ask(remove(2, &id)), level_1(status(2, REMOVE, 0)));
        assert!(cluster.holders(&id).is_empty());
        assert_eq!(cluster.ask(remove(3, &id)), level_1(status(3, REMOVE, 1)));
    }
}

#[test]
fn while_all_servers_are_up_the_first_alone_decides_a_take() {
    let mut memory = Memory::of(1).with_servers(3);
    let mut cluster = Cluster::new(&mut memory, COPIED, 3, Pieces::Whole);
    let first_of = |cluster: &mut Cluster<'_>, id: &[u8]| {
        cluster.asked();
        cluster.ask(have(9, id));
        cluster.asked().iter().position(|asked| !asked.is_empty()).unwrap()
    };
    for number in 0..20_u8 {
        let id = [number; 8];
        cluster.ask(add(1, &id, b"session"));
        // Another proxy has just taken it from the first server, and not yet from the second.
        let holders = cluster.holders(&id);
        let first = first_of(&mut cluster, &id);
        cluster.servers[first].sessions.0.remove(&id[..]);
        assert_eq!(cluster.ask(take(2, &id)), level_1(message(1, 2, TAKE, &[1])));
        assert_eq!(cluster.ask(remove(3, &id)), level_1(status(3, REMOVE, 1)));
        assert_eq!((holders.len(), cluster.holders(&id).len()), (2, 0));
    }
}

#[test]
fn a_session_can_be_taken_after_its_first_server_restarted_empty() {
    let mut memory = Memory::of(1).with_servers(3);
    let mut cluster = Cluster::new(&mut memory, COPIED, 3, Pieces::Whole);
    let ranks = cluster.ranks(b"an id");
    for (uid, killed) in [(1, ranks[0]), (2, ranks[1])] {
        cluster.ask(add(uid, b"an id", b"session"));
        cluster.kill(killed);
        cluster.restart(killed);
        // The level of a server is known after its first answer.
        cluster.ask(have(5, b"an id"));
        for number in 0..20_u8 {
            cluster.ask(have(6, &[number; 9]));
        }
        assert_eq!(cluster.ask(take(7, b"an id")), level_1(message(1, 7, TAKE, b"session")));
        assert!(cluster.holders(b"an id").is_empty());
        assert_eq!(cluster.ask(take(8, b"an id")), level_1(message(1, 8, TAKE, &[1])));
    }
}

#[test]
fn with_copies_a_request_of_a_lost_server_goes_to_the_next() {
    for (config, lost) in [(ALONE, true), (COPIED, false)] {
        let mut memory = Memory::of(1).with_servers(2);
        let mut cluster = Cluster::new(&mut memory, config, 2, Pieces::Whole);
        cluster.ask(add(1, b"an id", b"session"));
        let holders = cluster.holders(b"an id");
        cluster.net.send(cluster.client, &at_level(1, get(2, b"an id")));
        cluster.net.drive();
        let asked = [0, 1].map(|number| !cluster.net.received(net::server(number)).is_empty());
        let first = asked.iter().position(|asked| *asked).unwrap();
        assert!(holders.contains(&first));
        cluster.kill(first);
        let answer = cluster.net.take(cluster.client);
        let wanted = if lost { status(2, GET, 2) } else { session(2, b"session") };
        assert_eq!(answer, level_1(wanted));
    }
}

#[test]
fn a_server_that_does_not_answer_is_disconnected_and_the_copy_is_used() {
    let mut memory = Memory::of(1).with_servers(2);
    let config = Config { copies: 2, ..PATIENT };
    let mut cluster = Cluster::new(&mut memory, config, 2, Pieces::Whole);
    let first = cluster.ranks(b"an id")[0];
    cluster.ask(add(1, b"an id", b"session"));
    cluster.net.send(cluster.client, &at_level(1, get(2, b"an id")));
    cluster.net.drive();
    cluster.net.reach_of[first] = Some(Reach::Hangs);
    cluster.net.pass(3_000);
    assert!(!cluster.net.is_open(net::server(first as u8)));
    cluster.settle();
    assert_eq!(cluster.net.take(cluster.client), level_1(session(2, b"session")));
    assert_eq!(cluster.ask(get(3, b"an id")), level_1(session(3, b"session")), "it is skipped now");
}

#[test]
fn without_any_server_every_request_is_answered_at_once() {
    let mut memory = Memory::of(1).with_servers(3);
    let mut cluster = Cluster::new(&mut memory, COPIED, 3, Pieces::Whole);
    for number in 0..3 {
        cluster.kill(number);
    }
    assert_eq!(cluster.ask(get(1, b"an id")), status(1, GET, 2));
    assert_eq!(cluster.ask(add(2, b"an id", b"session")), status(2, ADD, 2));
    cluster.restart(2);
    assert_eq!(cluster.ask(add(3, b"an id", b"session")), level_1(status(3, ADD, 0)));
    assert_eq!(cluster.holders(b"an id"), [2], "one server is better than none");
}

#[test]
fn a_server_that_connects_late_may_lack_sessions() {
    for number in 0..20_u8 {
        let id = [number; 8];
        let mut memory = Memory::of(1).with_servers(2);
        let mut net = Net::new(memory.proxy(COPIED), Pieces::Whole);
        net.reach = Reach::Hangs;
        net.reach_of[1] = Some(Reach::Accepts);
        net.drive();
        let client = net.connect();
        let server = || ScriptedServer { level: 1, ..ScriptedServer::default() };
        let mut cluster = Cluster { net, servers: vec![server(), server()], client };
        // After a while, the ids of both go to the one that is there.
        cluster.net.pass(200);
        assert_eq!(cluster.ask(add(1, &id, b"session")), level_1(status(1, ADD, 0)));
        cluster.net.accept_dial();
        // The level of a server is known after its first answer.
        (0..20_u8).for_each(|other| drop(cluster.ask(have(2, &[other; 9]))));
        assert_eq!(cluster.ask(take(3, &id)), level_1(message(1, 3, TAKE, b"session")));
    }
}
