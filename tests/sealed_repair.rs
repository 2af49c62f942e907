//! Read repair of sealed sessions, over virtual time: what goes from one server to another is the
//! envelope as it is, and never one that does not open.

use std::time::Duration;

use distcache_core::id::Id;
use distcache_core::proxy::{Config, Rejected, Seal};
use distcache_core::seal::{Keys, Nonces, OVERHEAD};
use distcache_core::table::Line;
use distcache_core::{Layout, Table};
use distcache_testing::bytes::{
    FETCH, GET, REPAIR, add, at_level, get, message, remove, session, status,
};
use distcache_testing::fleet::Fleet;
use distcache_testing::memory::{Memory, NO_LIMITS};
use distcache_testing::net::End;

type Sessions = Table<Vec<Line>>;

const COPIED: Config = Config {
    server_patience: None,
    copies: 2,
    ..Config::new(NO_LIMITS, Duration::from_millis(20))
};

fn table(key: u8) -> Sessions {
    let layout = Layout::new(1_000, 1 << 20).expect("valid sizes");
    Table::new(layout, [key; 16], |lines| vec![[0; 64]; lines]).expect("enough memory")
}

/// A proxy with keys and two servers.
struct World<'m> {
    fleet: Fleet<'m, Sessions>,
    client: End,
    spare: std::slice::IterMut<'m, Memory>,
}

impl<'m> World<'m> {
    fn new(proxy: &'m mut Memory, servers: &'m mut [Memory], mixed: bool) -> Self {
        let mut spare = servers.iter_mut();
        let servers = [0, 1].map(|key| spare.next().expect("two").server(NO_LIMITS, table(key)));
        let mut fleet = Fleet::new([proxy.proxy(COPIED)], servers);
        let front = &mut fleet.fronts[0];
        let keys = Keys::new(&[[1; 32]]).expect("one key");
        let seal = Seal { keys, nonces: Nonces::new([3; 16]), mixed };
        front.machine.set_seal(front.now, 1_800_000_000_000, seal);
        fleet.drive();
        let client = fleet.fronts[0].connect();
        Self { fleet, client, spare }
    }

    fn ask(&mut self, request: Vec<u8>) -> Vec<u8> {
        self.fleet.fronts[0].send(self.client, &request);
        self.fleet.drive();
        self.fleet.fronts[0].take(self.client)
    }

    /// The server that decides about this id, and the other one.
    fn ranks(&mut self, id: &[u8]) -> [usize; 2] {
        self.fleet.carried.clear();
        self.ask(remove(9, id));
        let visited: Vec<_> = self.fleet.carried.iter().map(|(_, server, _)| *server).collect();
        // Long enough that this is no removal any more, and that servers accept repairs.
        self.fleet.pass(8_000);
        [visited[0], visited[1]]
    }

    /// Stops a server, and starts it again without sessions.
    fn empty(&mut self, number: usize) {
        let memory = self.spare.next().expect("one more");
        let server = memory.server(NO_LIMITS, table(number as u8 + 10));
        self.fleet.replace(number, None);
        self.fleet.replace(number, Some(server));
        self.fleet.pass(8_050);
    }

    /// What a server has under this id.
    fn stored(&self, server: usize, id: &[u8]) -> Option<Vec<u8>> {
        let back = self.fleet.backs[server].as_ref().expect("it runs");
        let mut out = vec![0; 40_000];
        let len = back.machine.store().get(back.now, Id::new(id).expect("valid"), &mut out)?;
        out.truncate(len);
        Some(out)
    }

    /// Has a server hold other bytes under this id.
    fn plant(&mut self, server: usize, id: &[u8], bytes: &[u8]) {
        let back = self.fleet.backs[server].as_mut().expect("it runs");
        let client = back.connect();
        back.send(client, &at_level(1, message(0, 1, 4, &payload(id, bytes))));
        self.fleet.drive();
    }

    fn traffic(&self) -> (u64, Rejected) {
        let traffic = self.fleet.fronts[0].machine.traffic();
        (traffic.repaired, traffic.rejected)
    }
}

fn payload(id: &[u8], bytes: &[u8]) -> Vec<u8> {
    distcache_testing::bytes::add_payload(60_000, id, bytes)
}

fn servers() -> Vec<Memory> {
    (0..4).map(|_| Memory::of(4)).collect()
}

#[test]
fn a_repair_carries_the_envelope_as_it_came() {
    for len in [10, 3_000, 30_000] {
        let (mut proxy, mut servers) =
            (Memory::of(3).with_servers(2).with_in_flight(64), servers());
        let mut world = World::new(&mut proxy, &mut servers, false);
        let [first, second] = world.ranks(b"an id");
        let data = vec![7; len];
        assert_eq!(world.ask(add(1, b"an id", &data)), status(1, 0, 0));
        world.empty(first);
        world.fleet.carried.clear();
        assert!(world.ask(get(2, b"an id")) == session(2, &data));
        assert_eq!(
            world.fleet.carried,
            [(0, first, FETCH), (0, second, FETCH), (0, first, REPAIR)]
        );
        let envelope = world.stored(second, b"an id").expect("it has it");
        assert_eq!(envelope.len(), len + OVERHEAD);
        assert!(world.stored(first, b"an id") == Some(envelope));
        assert!(world.ask(get(3, b"an id")) == session(3, &data));
        assert_eq!(world.traffic(), (1, Rejected::NONE));
    }
}

#[test]
fn what_does_not_open_is_not_copied() {
    let (mut proxy, mut servers) = (Memory::of(3).with_servers(2).with_in_flight(64), servers());
    let mut world = World::new(&mut proxy, &mut servers, false);
    let [first, second] = world.ranks(b"an id");
    world.ask(add(1, b"an id", b"a session"));
    world.empty(first);
    let mut lie = world.stored(second, b"an id").expect("it has it");
    lie[40] ^= 1;
    world.plant(second, b"an id", &lie);
    assert_eq!(world.ask(get(2, b"an id")), status(2, GET, 1));
    assert_eq!(world.stored(first, b"an id"), None);
    assert_eq!(world.traffic(), (0, Rejected { forged: 1, ..Rejected::NONE }));
}

#[test]
fn while_moving_over_an_unsealed_session_is_found_and_repaired_too() {
    let (mut proxy, mut servers) = (Memory::of(3).with_servers(2).with_in_flight(64), servers());
    let mut world = World::new(&mut proxy, &mut servers, true);
    let [first, second] = world.ranks(b"an id");
    let old = vec![9; 5_000];
    world.plant(second, b"an id", &old);
    assert!(world.ask(get(2, b"an id")) == session(2, &old));
    assert!(world.stored(first, b"an id") == Some(old));
    assert_eq!(world.traffic(), (1, Rejected::NONE));
}

#[test]
fn a_fetch_and_a_repair_of_a_client_are_not_supported_and_reach_no_server() {
    let (mut proxy, mut servers) = (Memory::of(3).with_servers(2).with_in_flight(64), servers());
    let mut world = World::new(&mut proxy, &mut servers, false);
    world.ask(add(1, b"an id", b"a session"));
    world.fleet.carried.clear();
    let fetch = world.ask(at_level(2, message(0, 2, FETCH, b"an id")));
    assert_eq!(fetch, at_level(2, message(1, 2, FETCH, &[3])));
    let repair = [&[0; 8][..], &payload(b"an id", b"in clear")].concat();
    let repair = world.ask(at_level(2, message(0, 3, REPAIR, &repair)));
    assert_eq!(repair, at_level(2, message(1, 3, REPAIR, &[3])));
    assert!(world.fleet.carried.is_empty());
}
