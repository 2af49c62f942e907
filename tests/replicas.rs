//! Which of several servers a proxy asks, and how it combines their answers, over virtual time. The
//! tests act as the servers.

use std::collections::BTreeMap;

use distcache_core::clients::Limits;
use distcache_core::proxy::{Config, Proxy};
use distcache_testing::bytes::{
    ADD, GET, HAVE, PUT, REMOVE, TAKE, add, add_payload, at_level, get, have, message, messages,
    remove, session, status,
};
use distcache_testing::memory::{Memory, NO_LIMITS};
use distcache_testing::net::{End, Net, Pieces, Reach, server, with_every_split};

type World<'m> = Net<Proxy<'m>>;

const ALONE: Config = Config { server_patience: 0, ..Config::new(NO_LIMITS, 5_000) };
const COPIED: Config = Config { copies: 2, ..ALONE };
const LIMITS: Limits = Limits { idle: 0, patience: 3_000 };
const PATIENT: Config = Config { server_patience: 3_000, ..Config::new(LIMITS, 5_000) };

/// A scripted server: its sessions and its level.
#[derive(Default)]
struct Played {
    level: u8,
    /// Acts as a proxy that does not know the level of its server.
    unsure: bool,
    sessions: BTreeMap<Vec<u8>, Vec<u8>>,
    asked: Vec<u8>,
}

impl Played {
    fn answer(&mut self, (uid, op, payload): (u32, u8, Vec<u8>)) -> Vec<u8> {
        self.asked.push(op);
        if self.unsure && [PUT, TAKE].contains(&op) {
            return at_level(self.level, message(1, uid, op, &[3]));
        }
        let sessions = &mut self.sessions;
        let say = |done: bool| vec![u8::from(!done)];
        let answer = match op {
            ADD | PUT => {
                let id_len = usize::from(payload[7]);
                let Some((id, session)) = payload[8..].split_at_checked(id_len) else {
                    return at_level(self.level, status(uid, op, 100));
                };
                if op == ADD && sessions.contains_key(id) {
                    vec![101]
                } else {
                    sessions.insert(id.to_vec(), session.to_vec());
                    say(true)
                }
            }
            GET => sessions.get(&payload).cloned().unwrap_or_else(|| say(false)),
            TAKE => sessions.remove(&payload).unwrap_or_else(|| say(false)),
            REMOVE => say(sessions.remove(&payload).is_some()),
            _ => say(sessions.contains_key(&payload)),
        };
        at_level(self.level, message(1, uid, op, &answer))
    }
}

/// A proxy, its servers, and one client that asks at level 1.
struct Park<'m> {
    net: World<'m>,
    servers: Vec<Played>,
    client: End,
}

impl<'m> Park<'m> {
    fn new(memory: &'m mut Memory, config: Config, servers: usize, pieces: Pieces) -> Self {
        let mut net = Net::new(memory.proxy(config), pieces);
        net.drive();
        let client = net.connect();
        let played = || Played { level: 1, ..Played::default() };
        Self { net, servers: (0..servers).map(|_| played()).collect(), client }
    }

    /// Lets all servers answer until there are no more requests.
    fn settle(&mut self) {
        loop {
            self.net.drive();
            let mut quiet = true;
            for (number, played) in (0..).zip(&mut self.servers) {
                for asked in messages(&self.net.take(server(number))) {
                    quiet = false;
                    self.net.send(server(number), &played.answer(asked));
                }
            }
            if quiet {
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
    fn homes(&self, id: &[u8]) -> Vec<usize> {
        let holds = |number: &usize| self.servers[*number].sessions.contains_key(id);
        (0..self.servers.len()).filter(holds).collect()
    }

    /// Returns the requests of every server since the last call.
    fn asked(&mut self) -> Vec<Vec<u8>> {
        self.servers.iter_mut().map(|played| std::mem::take(&mut played.asked)).collect()
    }

    /// Makes a server unreachable and empty.
    fn kill(&mut self, number: usize) {
        self.servers[number].sessions.clear();
        self.net.reach_of[number] = Some(Reach::Refuses);
        self.net.cut(server(number as u8));
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
            self.net.cut(server(first as u8));
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

fn said(bytes: Vec<u8>) -> Vec<u8> {
    at_level(1, bytes)
}

#[test]
fn every_id_has_one_server_and_all_servers_have_ids() {
    let mut memory = Memory::of(1).with_servers(3);
    let mut park = Park::new(&mut memory, ALONE, 3, Pieces::Whole);
    for number in 0..60_u8 {
        let id = [number; 32];
        assert_eq!(park.ask(add(1, &id, b"session")), said(status(1, ADD, 0)));
        assert_eq!(park.homes(&id).len(), 1);
        assert_eq!(park.ask(get(2, &id)), said(session(2, b"session")));
        assert_eq!(park.ask(put(3, &id, b"another")), said(message(1, 3, PUT, &[0])));
        assert_eq!(park.ask(take(4, &id)), said(message(1, 4, TAKE, b"another")));
        assert_eq!(park.ask(remove(5, &id)), said(status(5, REMOVE, 1)));
        assert_eq!(park.ask(have(6, &id)), said(status(6, HAVE, 1)));
    }
    assert!(park.asked().iter().all(|asked| asked.len() >= 60), "some servers get no ids");
}

#[test]
fn unknown_ids_have_a_server_too() {
    let mut memory = Memory::of(1).with_servers(3);
    let mut park = Park::new(&mut memory, ALONE, 3, Pieces::Whole);
    assert_eq!(park.ask(get(1, b"")), said(status(1, GET, 1)));
    assert_eq!(park.ask(get(2, &[7; 5000])), said(status(2, GET, 1)));
    let huge = [&1_u32.to_be_bytes()[..], &u32::MAX.to_be_bytes(), b"x"].concat();
    assert_eq!(park.ask(message(0, 3, ADD, &huge)), said(status(3, ADD, 100)));
}

#[test]
fn an_unreachable_server_is_skipped_and_ids_of_others_stay_in_place() {
    let mut memory = Memory::of(1).with_servers(3);
    let mut park = Park::new(&mut memory, ALONE, 3, Pieces::Whole);
    let ids: Vec<_> = (0..30_u8).map(|number| [number; 16]).collect();
    for id in &ids {
        park.ask(add(1, id, b"session"));
    }
    let before: Vec<_> = ids.iter().map(|id| park.homes(id)[0]).collect();
    park.kill(1);
    for (id, home) in ids.iter().zip(&before) {
        let there = if *home == 1 { status(1, GET, 1) } else { session(1, b"session") };
        assert_eq!(park.ask(get(1, id)), said(there));
        park.ask(put(2, id, b"another"));
        let now = park.homes(id);
        assert!(now.len() == 1 && now[0] != 1 && (*home == 1 || now[0] == *home));
    }
    park.restart(1);
    for (id, home) in ids.iter().zip(&before) {
        park.asked();
        park.ask(have(3, id));
        assert_eq!(park.asked()[*home], [HAVE], "it comes back to its server");
    }
}

#[test]
fn with_copies_a_session_is_on_two_servers_and_survives_the_loss_of_either() {
    with_every_split(20, |pieces| {
        let mut memory = Memory::of(1).with_servers(3);
        let mut park = Park::new(&mut memory, COPIED, 3, pieces);
        let ranks = park.ranks(b"an id");
        assert_eq!(park.ask(add(1, b"an id", b"session")), said(status(1, ADD, 0)));
        let mut homes = ranks[..2].to_vec();
        homes.sort_unstable();
        assert_eq!(park.homes(b"an id"), homes);
        park.kill(ranks[0]);
        assert_eq!(park.ask(get(2, b"an id")), said(session(2, b"session")));
        park.restart(ranks[0]);
        assert_eq!(park.ask(get(3, b"an id")), said(session(3, b"session")), "it comes back empty");
        assert_eq!(park.ask(have(4, b"an id")), said(status(4, HAVE, 0)));
        assert_eq!(park.ask(add(5, b"an id", b"another")), said(status(5, ADD, 0)));
        assert_eq!(park.homes(b"an id"), homes);
        for home in homes {
            assert_eq!(park.servers[home].sessions[&b"an id"[..]], b"another", "both are the same");
        }
    });
}

#[test]
fn a_long_session_is_copied_whole() {
    with_every_split(20, |pieces| {
        let mut memory = Memory::of(1).with_servers(2);
        let mut park = Park::new(&mut memory, COPIED, 2, pieces);
        let long: Vec<u8> = (0..30_000_u32).map(|at| (at % 251) as u8).collect();
        assert_eq!(park.ask(add(1, b"an id", &long)), said(status(1, ADD, 0)));
        assert!(park.servers.iter().all(|played| played.sessions[&b"an id"[..]] == long));
        assert!(park.ask(take(2, b"an id")) == said(message(1, 2, TAKE, &long)));
        assert!(park.homes(b"an id").is_empty());
    });
}

#[test]
fn a_refused_add_is_not_copied() {
    let mut memory = Memory::of(1).with_servers(2);
    let mut park = Park::new(&mut memory, COPIED, 2, Pieces::Whole);
    park.ask(add(1, b"an id", b"session"));
    park.asked();
    assert_eq!(park.ask(add(2, b"an id", b"another")), said(status(2, ADD, 101)));
    assert_eq!(park.asked().concat(), [ADD]);
    assert!(park.servers.iter().all(|played| played.sessions[&b"an id"[..]] == b"session"));
}

#[test]
fn a_copy_replaces_an_old_session_at_a_level_0_server_too() {
    let mut memory = Memory::of(1).with_servers(2);
    let mut park = Park::new(&mut memory, COPIED, 2, Pieces::Whole);
    let ranks = park.ranks(b"an id");
    park.servers[ranks[1]].level = 0;
    park.servers[ranks[1]].sessions.insert(b"an id".to_vec(), b"left over".to_vec());
    park.ask(have(1, b"another id"));
    park.asked();
    assert_eq!(park.ask(add(2, b"an id", b"session")), said(status(2, ADD, 0)));
    assert_eq!(park.asked()[ranks[1]], [ADD, REMOVE, ADD]);
    assert!(park.servers.iter().all(|played| played.sessions[&b"an id"[..]] == b"session"));
}

#[test]
fn a_copy_is_stored_through_another_proxy_that_does_not_know_its_servers_level() {
    let mut memory = Memory::of(1).with_servers(2);
    let mut park = Park::new(&mut memory, COPIED, 2, Pieces::Whole);
    let ranks = park.ranks(b"an id");
    park.ask(add(1, b"another", b"session"));
    park.ask(add(1, b"and another", b"session"));
    park.servers[ranks[1]].unsure = true;
    park.asked();
    assert_eq!(park.ask(add(2, b"an id", b"session")), said(status(2, ADD, 0)));
    assert_eq!(park.asked()[ranks[1]], [PUT, REMOVE, ADD]);
    assert_eq!(park.homes(b"an id"), [0, 1]);
}

#[test]
fn a_removed_session_is_on_no_server() {
    let mut memory = Memory::of(1).with_servers(3);
    let mut park = Park::new(&mut memory, COPIED, 3, Pieces::Whole);
    for number in 0..20_u8 {
        let id = [number; 8];
        park.ask(add(1, &id, b"session"));
        assert_eq!(park.ask(remove(2, &id)), said(status(2, REMOVE, 0)));
        assert!(park.homes(&id).is_empty());
        assert_eq!(park.ask(remove(3, &id)), said(status(3, REMOVE, 1)));
    }
}

#[test]
fn while_all_servers_are_up_the_first_alone_decides_a_take() {
    let mut memory = Memory::of(1).with_servers(3);
    let mut park = Park::new(&mut memory, COPIED, 3, Pieces::Whole);
    let first_of = |park: &mut Park<'_>, id: &[u8]| {
        park.asked();
        park.ask(have(9, id));
        park.asked().iter().position(|asked| !asked.is_empty()).unwrap()
    };
    for number in 0..20_u8 {
        let id = [number; 8];
        park.ask(add(1, &id, b"session"));
        // Another proxy has just taken it from the first server, and not yet from the second.
        let homes = park.homes(&id);
        let first = first_of(&mut park, &id);
        park.servers[first].sessions.remove(&id[..]);
        assert_eq!(park.ask(take(2, &id)), said(message(1, 2, TAKE, &[1])));
        assert_eq!(park.ask(remove(3, &id)), said(status(3, REMOVE, 1)));
        assert_eq!((homes.len(), park.homes(&id).len()), (2, 0));
    }
}

#[test]
fn a_session_can_be_taken_after_its_first_server_restarted_empty() {
    let mut memory = Memory::of(1).with_servers(3);
    let mut park = Park::new(&mut memory, COPIED, 3, Pieces::Whole);
    let ranks = park.ranks(b"an id");
    for (uid, killed) in [(1, ranks[0]), (2, ranks[1])] {
        park.ask(add(uid, b"an id", b"session"));
        park.kill(killed);
        park.restart(killed);
        // The level of a server is known after its first answer.
        park.ask(have(5, b"an id"));
        for number in 0..20_u8 {
            park.ask(have(6, &[number; 9]));
        }
        assert_eq!(park.ask(take(7, b"an id")), said(message(1, 7, TAKE, b"session")));
        assert!(park.homes(b"an id").is_empty());
        assert_eq!(park.ask(take(8, b"an id")), said(message(1, 8, TAKE, &[1])));
    }
}

#[test]
fn with_copies_a_request_of_a_lost_server_goes_to_the_next() {
    for (config, lost) in [(ALONE, true), (COPIED, false)] {
        let mut memory = Memory::of(1).with_servers(2);
        let mut park = Park::new(&mut memory, config, 2, Pieces::Whole);
        park.ask(add(1, b"an id", b"session"));
        let homes = park.homes(b"an id");
        park.net.send(park.client, &at_level(1, get(2, b"an id")));
        park.net.drive();
        let asked = [0, 1].map(|number| !park.net.received(server(number)).is_empty());
        let first = asked.iter().position(|asked| *asked).unwrap();
        assert!(homes.contains(&first));
        park.kill(first);
        let answer = park.net.take(park.client);
        let wanted = if lost { status(2, GET, 2) } else { session(2, b"session") };
        assert_eq!(answer, said(wanted));
    }
}

#[test]
fn a_server_that_does_not_answer_is_disconnected_and_the_copy_is_used() {
    let mut memory = Memory::of(1).with_servers(2);
    let config = Config { copies: 2, ..PATIENT };
    let mut park = Park::new(&mut memory, config, 2, Pieces::Whole);
    let first = park.ranks(b"an id")[0];
    park.ask(add(1, b"an id", b"session"));
    park.net.send(park.client, &at_level(1, get(2, b"an id")));
    park.net.drive();
    park.net.reach_of[first] = Some(Reach::Hangs);
    park.net.pass(3_000);
    assert!(!park.net.is_open(server(first as u8)));
    park.settle();
    assert_eq!(park.net.take(park.client), said(session(2, b"session")));
    assert_eq!(park.ask(get(3, b"an id")), said(session(3, b"session")), "it is skipped now");
}

#[test]
fn without_any_server_every_request_is_answered_at_once() {
    let mut memory = Memory::of(1).with_servers(3);
    let mut park = Park::new(&mut memory, COPIED, 3, Pieces::Whole);
    for number in 0..3 {
        park.kill(number);
    }
    assert_eq!(park.ask(get(1, b"an id")), status(1, GET, 2));
    assert_eq!(park.ask(add(2, b"an id", b"session")), status(2, ADD, 2));
    park.restart(2);
    assert_eq!(park.ask(add(3, b"an id", b"session")), said(status(3, ADD, 0)));
    assert_eq!(park.homes(b"an id"), [2], "one server is better than none");
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
        let played = || Played { level: 1, ..Played::default() };
        let mut park = Park { net, servers: vec![played(), played()], client };
        // After a while, the ids of both go to the one that is there.
        park.net.pass(200);
        assert_eq!(park.ask(add(1, &id, b"session")), said(status(1, ADD, 0)));
        park.net.accept_dial();
        // The level of a server is known after its first answer.
        (0..20_u8).for_each(|other| drop(park.ask(have(2, &[other; 9]))));
        assert_eq!(park.ask(take(3, &id)), said(message(1, 3, TAKE, b"session")));
    }
}
