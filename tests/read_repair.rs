//! Read repair, over virtual time: what one server has lost and another still has is stored again,
//! and what was removed stays removed, with proxies and servers that are all real.

use std::time::Duration;

use distcache_core::id::Id;
use distcache_core::proxy::Config;
use distcache_core::server;
use distcache_core::table::Line;
use distcache_core::{Layout, Table};
use distcache_testing::bytes::{
    FETCH, GET, HAVE, PUT, REPAIR, TAKE, add, add_for, add_payload, at_level, get, have, message,
    remove, session, status,
};
use distcache_testing::fleet::Fleet;
use distcache_testing::memory::{Memory, NO_LIMITS};
use distcache_testing::net::{End, Reach};

type Sessions = Table<Vec<Line>>;

const COPIED: Config = Config {
    server_patience: None,
    copies: 2,
    ..Config::new(NO_LIMITS, Duration::from_millis(20))
};

fn table(key: u8) -> Sessions {
    let layout = Layout::new(1_000, 1 << 20).unwrap();
    Table::new(layout, [key; 16], |lines| vec![[0; 64]; lines]).unwrap()
}

/// Memory for two proxies, and for servers that are started again.
struct Memories {
    proxies: [Memory; 2],
    servers: Vec<Memory>,
}

impl Memories {
    fn new() -> Self {
        Self {
            proxies: [0, 1].map(|_| Memory::of(3).with_servers(2).with_in_flight(64)),
            servers: (0..8).map(|_| Memory::of(4)).collect(),
        }
    }
}

struct World<'m> {
    fleet: Fleet<'m, Sessions>,
    clients: [End; 2],
    spare: std::slice::IterMut<'m, Memory>,
}

impl<'m> World<'m> {
    /// Two servers behind two proxies, all connected; one client each.
    fn new(memories: &'m mut Memories) -> Self {
        let mut spare = memories.servers.iter_mut();
        let servers: Vec<_> =
            (0..2).map(|key| spare.next().unwrap().server(NO_LIMITS, table(key))).collect();
        let proxies = memories.proxies.iter_mut().map(|memory| memory.proxy(COPIED));
        let mut fleet = Fleet::new(proxies, servers);
        fleet.drive();
        let clients = [0, 1].map(|number| fleet.fronts[number].connect());
        Self { fleet, clients, spare }
    }

    /// Asks through a proxy. The answer may be empty, while something is held.
    fn ask(&mut self, proxy: usize, request: Vec<u8>) -> Vec<u8> {
        self.fleet.fronts[proxy].send(self.clients[proxy], &request);
        self.fleet.drive();
        self.fleet.fronts[proxy].take(self.clients[proxy])
    }

    /// The server that decides about this id, and the other one.
    fn ranks(&mut self, id: &[u8]) -> [usize; 2] {
        self.fleet.carried.clear();
        self.ask(0, remove(9, id));
        let visited: Vec<_> = self.fleet.carried.iter().map(|(_, server, _)| *server).collect();
        // Long enough that this is no removal any more.
        self.fleet.pass(2_100);
        [visited[0], visited[1]]
    }

    /// Stops a server, and starts it again without sessions. Proxies connect again.
    fn restart(&mut self, number: usize) {
        let server = self.spare.next().unwrap().server(NO_LIMITS, table(number as u8 + 10));
        self.fleet.replace(number, None);
        self.fleet.replace(number, Some(server));
        self.fleet.pass(50);
    }

    /// The same, and lets time pass until it accepts repairs, which is soon if proxies connect soon.
    fn empty(&mut self, number: usize) {
        let config = server::Config { proxy_retry: COPIED.retry, ..server::Config::new(NO_LIMITS) };
        let memory = self.spare.next().unwrap();
        let server = memory.server_with(config, table(number as u8 + 10));
        self.fleet.replace(number, None);
        self.fleet.replace(number, Some(server));
        self.fleet.pass(3_050);
    }

    fn has(&self, server: usize, id: &[u8]) -> bool {
        let back = self.fleet.backs[server].as_ref().unwrap();
        back.machine.store().has(back.now, Id::new(id).unwrap())
    }

    fn repaired(&self, proxy: usize) -> u64 {
        self.fleet.fronts[proxy].machine.traffic().repaired
    }

    fn ops(&mut self) -> Vec<(usize, usize, u8)> {
        std::mem::take(&mut self.fleet.carried)
    }
}

fn take(uid: u32, id: &[u8]) -> Vec<u8> {
    at_level(1, message(0, uid, TAKE, id))
}

fn put(uid: u32, id: &[u8], session: &[u8]) -> Vec<u8> {
    at_level(1, message(0, uid, PUT, &add_payload(60_000, id, session)))
}

#[test]
fn a_get_stores_what_the_first_server_has_lost_there_again_with_the_lifetime_left() {
    for data in [&b"session"[..], &[7; 5_000], &[8; 32_700]] {
        let mut memories = Memories::new();
        let mut world = World::new(&mut memories);
        let [first, second] = world.ranks(b"an id");
        assert_eq!(world.ask(0, add_for(1, 8_000, b"an id", data)), status(1, 0, 0));
        world.empty(first);
        world.fleet.pass(1_000);
        world.ops();
        assert!(world.ask(0, get(2, b"an id")) == session(2, data), "a level-0 client sees a GET");
        assert_eq!(world.ops(), [(0, first, FETCH), (0, second, FETCH), (0, first, REPAIR)]);
        assert!(world.has(first, b"an id"));
        assert_eq!((world.repaired(0), world.repaired(1)), (1, 0));
        assert!(world.ask(1, get(3, b"an id")) == session(3, data));
        assert_eq!(world.ops(), [(1, first, FETCH)], "the first server has it");
        world.fleet.pass(4_000);
        assert!(!world.has(first, b"an id"), "its lifetime is not prolonged");
        assert_eq!(world.ask(0, get(4, b"an id")), status(4, GET, 1));
    }
}

#[test]
fn a_miss_at_both_servers_and_a_have_repair_nothing() {
    let mut memories = Memories::new();
    let mut world = World::new(&mut memories);
    let [first, second] = world.ranks(b"an id");
    world.ops();
    assert_eq!(world.ask(0, get(1, b"an id")), status(1, GET, 1));
    assert_eq!(world.ops(), [(0, first, FETCH), (0, second, FETCH)]);
    world.ask(0, add(2, b"an id", b"session"));
    world.empty(first);
    world.ops();
    assert_eq!(world.ask(0, have(3, b"an id")), status(3, HAVE, 0));
    assert_eq!(world.ops(), [(0, first, HAVE), (0, second, HAVE)]);
    assert_eq!(world.repaired(0), 0);
}

#[test]
fn a_session_of_four_bytes_or_fewer_reads_as_a_status_as_it_always_did() {
    let mut memories = Memories::new();
    let mut world = World::new(&mut memories);
    world.ask(0, add(1, b"an id", b"four"));
    assert_eq!(world.ask(0, get(2, b"an id")), session(2, b"four"));
}

/// Lets proxy 0 fetch what the first server has lost, and holds its REPAIR. Then proxy 1 sends
/// `request`, and the repair arrives after `late` milliseconds.
fn race(request: Vec<u8>, late: u64) -> (bool, bool, u64) {
    let mut memories = Memories::new();
    let mut world = World::new(&mut memories);
    let [first, second] = world.ranks(b"an id");
    world.ask(0, add(1, b"an id", b"session"));
    world.empty(first);
    world.fleet.held = vec![(0, second)];
    assert!(world.ask(0, get(2, b"an id")).is_empty());
    world.fleet.held = vec![(0, first)];
    world.fleet.drive();
    assert_eq!(world.fleet.fronts[0].take(world.clients[0]), session(2, b"session"));
    let answer = world.ask(1, request);
    assert!(!answer.is_empty());
    world.fleet.pass(late);
    world.fleet.held.clear();
    world.fleet.drive();
    (world.has(first, b"an id"), world.has(second, b"an id"), world.repaired(0))
}

#[test]
fn what_another_proxy_takes_or_removes_stays_removed_however_late_the_repair_is() {
    for late in [0, 1, 100, 1_999, 2_100, 5_000, 9_999, 11_000, 60_000] {
        assert_eq!(race(take(3, b"an id"), late), (false, false, 0), "TAKE, {late} ms");
        assert_eq!(race(remove(3, b"an id"), late), (false, false, 0), "REMOVE, {late} ms");
    }
    let (first, second, repaired) = race(have(3, b"an id"), 100);
    assert_eq!((first, second, repaired), (true, true, 1), "the repair itself works");
}

#[test]
fn a_repair_does_not_replace_what_was_stored_meanwhile() {
    for request in [put(3, b"an id", b"newer"), add(3, b"an id", b"newer")] {
        let mut memories = Memories::new();
        let mut world = World::new(&mut memories);
        let [first, second] = world.ranks(b"an id");
        world.ask(0, add(1, b"an id", b"session"));
        world.empty(first);
        world.fleet.held = vec![(0, second)];
        world.ask(0, get(2, b"an id"));
        world.fleet.held = vec![(0, first)];
        world.fleet.drive();
        world.ask(1, request);
        world.fleet.held.clear();
        world.fleet.drive();
        assert_eq!(world.ask(1, get(4, b"an id")), session(4, b"newer"));
        assert_eq!(world.repaired(0), 0);
    }
}

/// The other order: a TAKE has visited the first server and not yet the second, when a GET misses at
/// the first and still finds the session at the second.
#[test]
fn a_session_between_the_two_visits_of_a_take_is_not_repaired() {
    for taken in [true, false] {
        let mut memories = Memories::new();
        let mut world = World::new(&mut memories);
        let [first, second] = world.ranks(b"an id");
        world.ask(0, add(1, b"an id", b"session"));
        world.empty(first);
        world.fleet.held = vec![(1, second)];
        if taken {
            assert!(world.ask(1, take(2, b"an id")).is_empty());
        }
        assert_eq!(world.ask(0, get(3, b"an id")), session(3, b"session"));
        assert_eq!(world.has(first, b"an id"), !taken);
        world.fleet.held.clear();
        world.fleet.drive();
        let answer = world.fleet.fronts[1].take(world.clients[1]);
        assert_eq!(answer == at_level(1, message(1, 2, TAKE, b"session")), taken);
        assert_eq!((world.has(first, b"an id"), world.has(second, b"an id")), (!taken, !taken));
    }
}

#[test]
fn a_server_that_was_started_again_refuses_a_repair_for_the_one_before() {
    let mut memories = Memories::new();
    let mut world = World::new(&mut memories);
    let [first, second] = world.ranks(b"an id");
    world.ask(0, add(1, b"an id", b"session"));
    world.empty(first);
    world.fleet.held = vec![(0, second)];
    world.ask(0, get(2, b"an id"));
    world.empty(first);
    world.ask(1, take(3, b"an id"));
    world.empty(first);
    world.fleet.held.clear();
    world.fleet.pass(50);
    assert!(!world.has(first, b"an id"));
}

/// The TAKE has visited the first server, which knows of it no more, and not yet the second.
#[test]
fn a_take_that_a_server_forgets_by_a_restart_is_not_undone_by_a_repair() {
    for late in [0, 100, 1_900] {
        let mut memories = Memories::new();
        let mut world = World::new(&mut memories);
        let [first, second] = world.ranks(b"an id");
        world.ask(0, add(1, b"an id", b"session"));
        world.restart(first);
        world.fleet.held = vec![(1, second)];
        assert!(world.ask(1, take(2, b"an id")).is_empty());
        world.restart(first);
        world.fleet.pass(late);
        assert_eq!(world.ask(0, get(3, b"an id")), session(3, b"session"));
        world.fleet.held.clear();
        world.fleet.drive();
        let taken = at_level(1, message(1, 2, TAKE, b"session"));
        assert_eq!(world.fleet.fronts[1].take(world.clients[1]), taken);
        assert_eq!((world.has(first, b"an id"), world.repaired(0)), (false, 0), "{late} ms");
        assert_eq!(world.ask(0, take(4, b"an id")), at_level(1, status(4, TAKE, 1)));
    }
}

/// One proxy is connected to the server that came back, the other one not yet.
#[test]
fn what_a_proxy_takes_before_it_has_connected_again_is_not_repaired_by_another_one() {
    for after in [100, 2_500, 4_900] {
        let mut memories = Memories::new();
        let mut world = World::new(&mut memories);
        let [first, second] = world.ranks(b"an id");
        world.ask(0, add(1, b"an id", b"session"));
        world.fleet.fronts[1].reach_of[first] = Some(Reach::Refuses);
        let server = world.spare.next().unwrap().server(NO_LIMITS, table(20));
        world.fleet.replace(first, None);
        world.fleet.replace(first, Some(server));
        world.fleet.fronts[1].reach_of[first] = Some(Reach::Refuses);
        world.fleet.pass(after);
        assert_eq!(world.ask(0, get(2, b"an id")), session(2, b"session"));
        world.ops();
        let taken = at_level(1, message(1, 3, TAKE, b"session"));
        assert_eq!(world.ask(1, take(3, b"an id")), taken);
        assert_eq!(world.ops(), [(1, second, TAKE)], "it visits the second server alone");
        world.fleet.fronts[1].reach_of[first] = None;
        world.fleet.pass(100);
        assert_eq!(world.ask(0, take(4, b"an id")), at_level(1, status(4, TAKE, 1)), "{after} ms");
    }
}

#[test]
fn repairs_are_bounded_and_what_was_left_out_is_repaired_by_the_next_get() {
    let mut memories = Memories::new();
    let mut world = World::new(&mut memories);
    let mut ids = Vec::new();
    for number in 0..200_u8 {
        let id = [number; 8];
        world.ask(0, add(1, &id, b"session"));
        world.fleet.carried.clear();
        world.ask(0, have(2, &id));
        if world.fleet.carried[0].1 == 0 {
            ids.push(id);
        }
    }
    world.empty(0);
    let more = [0, 1].map(|_| world.fleet.fronts[0].connect());
    let clients = [world.clients[0], more[0], more[1]];
    // Three clients have a miss at server 0, and get their sessions from server 1 together.
    world.fleet.held = vec![(0, 1)];
    for (client, id) in clients.iter().zip(&ids) {
        world.fleet.fronts[0].send(*client, &get(3, id));
    }
    world.fleet.drive();
    world.fleet.held = vec![(0, 0)];
    world.fleet.drive();
    for client in clients {
        assert_eq!(world.fleet.fronts[0].take(client), session(3, b"session"));
    }
    assert_eq!(world.fleet.fronts[0].machine.in_flight(), 2, "a sixteenth of 32");
    world.fleet.held.clear();
    world.fleet.drive();
    assert_eq!((world.fleet.fronts[0].machine.in_flight(), world.repaired(0)), (0, 2));
    for id in &ids {
        assert_eq!(world.ask(0, get(4, id)), session(4, b"session"));
    }
    assert!(ids.iter().all(|id| world.has(0, id) && world.has(1, id)));
    assert_eq!(world.repaired(0), ids.len() as u64);
}

#[test]
fn a_repair_whose_server_is_lost_is_forgotten() {
    let mut memories = Memories::new();
    let mut world = World::new(&mut memories);
    let [first, second] = world.ranks(b"an id");
    world.ask(0, add(1, b"an id", b"session"));
    world.empty(first);
    world.fleet.held = vec![(0, second)];
    world.ask(0, get(2, b"an id"));
    world.fleet.held = vec![(0, first)];
    world.fleet.drive();
    assert_eq!(world.fleet.fronts[0].machine.in_flight(), 1);
    world.fleet.replace(first, None);
    assert_eq!(world.fleet.fronts[0].machine.in_flight(), 0);
    let traffic = world.fleet.fronts[0].machine.server_traffic(first as u8);
    assert_eq!((traffic.lost, traffic.repaired), (1, 0));
}
