//! Does one operation n times, for `tests/instructions` to count: `distcache-instructions case n`.
//! It uses no sockets, clock or randomness, so every run is the same.

use std::time::Duration;

use distcache_core::proxy::{self, Dial, Seal, Upstream};
use distcache_core::seal::{Keys, Nonces, OVERHEAD};
use distcache_core::table::Line;
use distcache_core::wire::Op;
use distcache_core::{
    Id, Instant, Key, Layout, Limits, Machine, Peer, Pool, Proxy, Server, Table, server,
};
use distcache_posix::load::protocol::{Asked, Distcache, Protocol};
use distcache_posix::load::session::Session;

const SESSIONS: u32 = 4096;
const CLIENTS: usize = 64;
const BUFFER_LEN: usize = 17 << 12;
const LIMITS: Limits = Limits { idle: None, patience: Some(Duration::from_secs(10)) };
const NOW: Instant = Instant::from_millis(1);
const BATCH: u32 = 16;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, case, n] = &arguments[..] else { panic!("usage: distcache-instructions case n") };
    let n: u32 = n.parse().expect("a number");
    assert!(n <= SESSIONS / 2);
    match case.as_str() {
        "get" => serve(n, |server, number| server.ask(Op::Get, number % SESSIONS, 214)),
        "get_of_16" => serve(n, |server, number| server.batch(number)),
        "miss" => serve(n, |server, number| server.ask(Op::Get, SESSIONS + number, 15)),
        "have" => serve(n, |server, number| server.ask(Op::Have, number % SESSIONS, 15)),
        "remove" => serve(n, |server, number| server.ask(Op::Remove, number, 15)),
        "add_and_evict" => serve(n, |server, number| server.ask(Op::Add, SESSIONS + number, 15)),
        "proxied_get" => proxied(n, false, None),
        "proxied_get_connected_for" => proxied(n, true, None),
        "proxied_get_sealed" => proxied(n, false, Some(keys())),
        "proxied_add" => proxied_add(n, None),
        "proxied_add_sealed" => proxied_add(n, Some(keys())),
        case => panic!("no such case: {case}"),
    }
}

fn request(op: Op, number: u32, out: &mut [u8]) -> usize {
    let asked = Asked { op, session: number, uid: number };
    Distcache.request(&asked, &Session::new(number, 32, 200), 60_000, out)
}

/// A machine with one client, driven as by the event loop.
struct Serving<M> {
    machine: M,
    client: Key,
}

impl<M: Machine> Serving<M> {
    fn new(mut machine: M) -> Self {
        let client = machine.open(NOW).expect("a place");
        Self { machine, client }
    }

    /// Receives `bytes` from the client.
    fn receive(&mut self, peer: Peer, bytes: &[u8]) {
        assert!(self.machine.wants(peer).read);
        self.machine.space(peer)[..bytes.len()].copy_from_slice(bytes);
        self.machine.filled(peer, bytes.len());
    }

    /// Sends everything pending for `peer`. Returns how much.
    fn send(&mut self, peer: Peer) -> usize {
        let len = self.machine.pending(peer).len();
        self.machine.sent(NOW, peer, len);
        assert!(!self.machine.wants(peer).close);
        len
    }

    /// Makes one request that must be answered with `answer` bytes.
    fn ask(&mut self, op: Op, number: u32, answer: usize) {
        let mut wire = [0; 512];
        let len = request(op, number, &mut wire);
        let peer = Peer::Client(self.client);
        self.receive(peer, &wire[..len]);
        assert_eq!(self.machine.advance(NOW), Some(peer));
        assert_eq!(self.send(peer), answer);
        assert!(self.machine.deadline().is_some());
    }

    /// Makes sixteen requests that arrive together; the sixteenth sends all answers.
    fn batch(&mut self, number: u32) {
        if number % BATCH != BATCH - 1 {
            return;
        }
        let (mut wire, mut len) = ([0; 1024], 0);
        for number in number + 1 - BATCH..=number {
            len += request(Op::Get, number % SESSIONS, &mut wire[len..]);
        }
        let peer = Peer::Client(self.client);
        self.receive(peer, &wire[..len]);
        assert_eq!(self.machine.advance(NOW), Some(peer));
        assert_eq!(self.send(peer), 214 * BATCH as usize);
    }
}

fn serve(n: u32, work: impl Fn(&mut Serving<server::Borrowed<'_, Table<&mut [Line]>>>, u32)) {
    let layout = Layout::new(SESSIONS, u64::from(SESSIONS) * 256).expect("valid sizes");
    let mut sessions = vec![0; layout.size()];
    let table = Table::in_memory(layout, *b"16 bytes of key.", &mut sessions);
    let sizes = server::Sizes { buffer_len: BUFFER_LEN, ..server::Sizes::for_clients(CLIENTS) };
    let mut slots: Vec<server::ClientSlot> = sizes.slots().collect();
    let mut buffers = vec![0; sizes.bytes()];
    let pool = Pool::new(&mut buffers[..], BUFFER_LEN);
    let (config, table) = (server::Config::new(LIMITS), table.expect("enough memory"));
    let server = Server::new(&mut slots[..], pool, config, table).expect("enough memory");
    let mut serving = Serving::new(server);
    for number in 0..SESSIONS {
        serving.ask(Op::Add, number, 15);
    }
    for number in 0..n {
        work(&mut serving, number);
    }
}

fn keys() -> Keys {
    Keys::new(&[[7; 32]]).expect("one key")
}

/// The answers to all GETs of a proxy with these keys, or without: each a session of 200 bytes.
fn answers(keys: Option<&Keys>) -> Vec<Vec<u8>> {
    let header = |len| [0, 0x11, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 0, len];
    let Some(keys) = keys else {
        return vec![[&header(200)[..], &[0; 200]].concat()];
    };
    let sealed = |number: u32| {
        let (mut wire, mut envelope) = ([0; 64], [0; 200 + OVERHEAD]);
        let len = request(Op::Get, number, &mut wire);
        let id = Id::new(&wire[14..len]).expect("a valid id");
        keys.seal([1; 24], u32::MAX, id, &[5; 200], &mut envelope).expect("enough room");
        [&header(248)[..], &envelope].concat()
    };
    // As many in every run, so that they cost the same.
    (0..SESSIONS / 2).map(sealed).collect()
}

type OwnedProxy =
    Proxy<(Vec<server::ClientSlot>, Vec<proxy::InFlightSlot>, [Upstream; 1], Vec<u8>)>;

/// A proxy with a client and a server that is up.
fn connected(keys: Option<Keys>) -> (Serving<OwnedProxy>, Peer) {
    let sizes = proxy::Sizes { buffer_len: BUFFER_LEN, ..proxy::Sizes::new(CLIENTS, 1) };
    let slots: Vec<server::ClientSlot> = sizes.client_slots().collect();
    let in_flight: Vec<proxy::InFlightSlot> = sizes.in_flight_slots().collect();
    let pool = Pool::new(vec![0; sizes.bytes()], BUFFER_LEN);
    let config = proxy::Config::new(LIMITS, Duration::from_secs(1));
    let servers = [Upstream::new(b"server")];
    let proxy = Proxy::new(slots, in_flight, servers, pool, config);
    let mut proxy = proxy.expect("enough memory");
    let Some(Dial::Connect(key)) = proxy.dial(NOW) else { panic!("a server to dial") };
    proxy.connected(NOW, key);
    let mut serving = Serving::new(proxy);
    let server = Peer::Server(key);
    // Answers the probe like any HAVE.
    let mut wire = [0; 64];
    let len = serving.machine.pending(server).len();
    wire[..len].copy_from_slice(serving.machine.pending(server));
    assert_eq!(serving.send(server), len);
    (wire[4], wire[13], wire[14]) = (1, 1, 1);
    serving.receive(server, &wire[..15]);
    while serving.machine.advance(NOW).is_some() {}
    assert!(serving.machine.is_up(0));
    if let Some(keys) = keys {
        let seal = Seal { keys, nonces: Nonces::new([3; 16]), mixed: false };
        serving.machine.set_seal(NOW, 1_800_000_000_000, seal);
    }
    (serving, server)
}

fn proxied_add(n: u32, keys: Option<Keys>) {
    let sealed = if keys.is_some() { OVERHEAD } else { 0 };
    let (mut serving, server) = connected(keys);
    for number in 0..n {
        let mut wire = [0; 512];
        let len = request(Op::Add, number, &mut wire);
        let client = Peer::Client(serving.client);
        serving.receive(client, &wire[..len]);
        assert_eq!(serving.machine.advance(NOW), Some(client));
        let mut answer = [0, 0x11, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0];
        answer[5..9].copy_from_slice(&serving.machine.pending(server)[5..9]);
        assert_eq!(serving.send(server), len + sealed);
        serving.receive(server, &answer);
        assert_eq!(serving.machine.advance(NOW), Some(client));
        assert_eq!(serving.send(client), answer.len());
        while serving.machine.advance(NOW).is_some() {}
    }
}

fn proxied(n: u32, short_lived: bool, keys: Option<Keys>) {
    let mut answers = answers(keys.as_ref());
    let (mut serving, server) = connected(keys);
    for number in 0..n {
        let at = number as usize % answers.len();
        let answer = &mut answers[at];
        let mut wire = [0; 64];
        let len = request(Op::Get, number, &mut wire);
        let client = Peer::Client(serving.client);
        serving.receive(client, &wire[..len]);
        assert_eq!(serving.machine.advance(NOW), Some(client));
        answer[5..9].copy_from_slice(&serving.machine.pending(server)[5..9]);
        assert_eq!(serving.send(server), len);
        serving.receive(server, answer);
        assert_eq!(serving.machine.advance(NOW), Some(client));
        assert_eq!(serving.send(client), 214);
        while serving.machine.advance(NOW).is_some() {}
        assert!(serving.machine.deadline().is_none());
        if short_lived {
            serving.machine.ended(NOW, client);
            assert_eq!(serving.machine.advance(NOW), Some(client));
            assert!(serving.machine.wants(client).close);
            serving.machine.closed(client);
            serving.client = serving.machine.open(NOW).expect("a place");
        }
    }
}
