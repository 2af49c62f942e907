//! A proxy with several servers and copies. Clients connect and leave; servers restart empty,
//! answer late, and answer under the uids of each other. A client gets answers to its requests in
//! order, and no session but of the id that it asked for. A server gets no operation that it is not
//! known to have, and nothing is kept at the end.

use crate::input::Input;
use distcache_core::proxy::{self, Config};
use distcache_testing::bytes::{
    ADD, GET, PUT, TAKE, add_payload, at_level, message, whole_messages,
};
use distcache_testing::memory::{Memory, limits};
use distcache_testing::net::{self, End, Net, Pieces, Reach};
use distcache_testing::random::Random;
use distcache_testing::scripted::{MALFORMED, Sessions};
use std::collections::VecDeque;
use std::time::Duration;

const PLACES: usize = 4;
/// Timeouts of servers: shorter than the time before a GET is hedged, or longer.
const TIMEOUTS: [(u64, u64); 2] = [(50, 30), (300, 120)];
/// The answer of a server under a uid that another server was asked.
const POISON: &[u8] = b"poison of another server";

/// A request as a server sees it: uid, operation, payload.
type Asked = (u32, u8, Vec<u8>);

struct Client {
    end: End,
    /// Operation and id.
    requested: Vec<(u8, [u8; 4])>,
    closing: bool,
}

/// A scripted server: its level, its sessions, and its requests on the current connection.
#[derive(Default)]
struct ScriptedServer {
    level: u8,
    sessions: Sessions,
    received: Vec<u8>,
    pending: VecDeque<Asked>,
    answered: bool,
    connects: usize,
}

impl ScriptedServer {
    fn answer(&mut self) -> Option<Vec<u8>> {
        let (uid, op, payload) = self.pending.pop_front()?;
        let answer = self.sessions.execute(op, &payload);
        assert_ne!(answer, MALFORMED, "a server gets an ADD without a whole id");
        self.answered = true;
        Some(at_level(self.level, message(1, uid, op, &answer)))
    }
}

struct Harness<'m> {
    net: Net<proxy::Borrowed<'m>>,
    clients: Vec<Client>,
    servers: Vec<ScriptedServer>,
}

/// Input: a byte each for servers, copies, levels and timeouts, for buffers and for requests in
/// flight, 8 for the pieces, then three a step.
pub fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let shape = input.byte();
    let (count, copies) =
        (2 + usize::from(shape & 1) + usize::from(shape & 2 > 0), 1 + (shape >> 2 & 1));
    let (buffers, in_flight) = (4 + input.below(12), 1 + input.below(2 * PLACES));
    let pieces = match input.word() {
        0 => Pieces::Whole,
        seed => Pieces::Any(Random::new(seed)),
    };
    let mut memory =
        Memory::with_buffers(PLACES, buffers).with_servers(count).with_in_flight(in_flight);
    let (patience, server_patience) = TIMEOUTS[usize::from(shape >> 7)];
    let limits = limits(0, patience);
    let server_patience = (server_patience > 0).then(|| Duration::from_millis(server_patience));
    let config =
        Config { copies, server_patience, ..Config::new(limits, Duration::from_millis(30)) };
    let net = Net::new(memory.proxy(config), pieces);
    let level = |number: usize| 2 * u8::from(shape >> (4 + number) & 1 == 0);
    let server = |number| ScriptedServer { level: level(number), ..ScriptedServer::default() };
    let servers = (0..count).map(server).collect();
    let mut harness = Harness { net, clients: Vec::new(), servers };
    for _ in 0..400 {
        if input.is_over() {
            break;
        }
        let (what, who, which) = (input.byte(), input.byte(), input.byte());
        harness.turn(what, who, which);
        harness.net.step();
        harness.read_requests();
    }
    harness.end(buffers - 2);
}

impl Harness<'_> {
    fn turn(&mut self, what: u8, who: u8, which: u8) {
        let number = usize::from(who) % self.servers.len();
        match what % 16 {
            0 => self.connect(),
            1..=5 => self.ask(who, which),
            6 => self.leave(who, which),
            7..=10 => self.answer(number, 1 + which % 4),
            11 => self.poison(number, which),
            12 => self.lose(number, which),
            13 => self.set_window(number, which),
            14 => self.servers.iter_mut().for_each(|server| server.level = which % 3),
            _ => self.pass(u64::from(which % 64)),
        }
    }

    fn connect(&mut self) {
        let end = self.net.try_connect();
        self.clients.extend(end.map(|end| Client { end, requested: Vec::new(), closing: false }));
    }

    fn client(&mut self, who: u8) -> Option<&mut Client> {
        let open = self.clients.iter_mut().filter(|client| !client.closing);
        let mut recent: Vec<_> = open.rev().take(PLACES).collect();
        (!recent.is_empty()).then(|| recent.swap_remove(usize::from(who) % recent.len()))
    }

    fn ask(&mut self, who: u8, which: u8) {
        let (op, id) = (which % 6, [b'i', b'd', 0, which / 6 % 5]);
        let Some(client) = self.client(who) else { return };
        let uid = client.requested.len() as u32;
        client.requested.push((op, id));
        let end = client.end;
        let size = if which & 0x80 == 0 { 20 } else { 5_000 };
        // The bytes of a session follow from its id.
        let session: Vec<u8> = id.iter().copied().cycle().take(size).collect();
        let payload = match op {
            ADD | PUT => add_payload(60_000, &id, &session),
            _ => id.to_vec(),
        };
        let level = if op >= PUT { 1 } else { who >> 7 };
        self.net.send(end, &at_level(level, message(0, uid, op, &payload)));
    }

    fn leave(&mut self, who: u8, which: u8) {
        let Some(client) = self.client(who) else { return };
        client.closing = true;
        let end = client.end;
        match which & 1 {
            0 => self.net.cut(end),
            _ => self.net.hang_up(end),
        }
    }

    fn answer(&mut self, number: usize, times: u8) {
        for _ in 0..times {
            let Some(answer) = self.servers[number].answer() else { return };
            self.net.send(net::server(number as u8), &answer);
        }
    }

    /// Lets a server answer a request of another one. All earlier answers are read first, and
    /// nothing else is sent meanwhile, so the request stays in place.
    fn poison(&mut self, number: usize, which: u8) {
        self.net.drive();
        self.read_requests();
        let others = self.servers.iter().enumerate().filter(|(other, _)| *other != number);
        let pending: Vec<_> = others.flat_map(|(_, server)| &server.pending).collect();
        let Some((uid, op, _)) = pending.get(usize::from(which) % pending.len().max(1)) else {
            return;
        };
        let poison = at_level(2, message(1, *uid, *op, POISON));
        let before = self.net.machine.traffic();
        self.net.send(net::server(number as u8), &poison);
        self.net.drive();
        let after = self.net.machine.traffic();
        assert_eq!(before.answered, after.answered, "one server answers for another");
    }

    fn lose(&mut self, number: usize, which: u8) {
        let end = net::server(number as u8);
        match which & 3 {
            0 => self.net.cut(end),
            1 => {
                self.servers[number].sessions.0.clear();
                self.net.cut(end);
            }
            2 => self.net.hang_up(end),
            _ => {
                let ways = [None, None, Some(Reach::Hangs), Some(Reach::Refuses)];
                self.net.reach_of[number] = ways[usize::from(which / 4) % 4];
            }
        }
        self.read_requests();
    }

    /// Lets a server read slowly, not at all, or at full speed.
    fn set_window(&mut self, number: usize, which: u8) {
        let bytes = if which & 0x80 == 0 { usize::from(which) } else { usize::MAX };
        self.net.window(net::server(number as u8), bytes);
    }

    fn pass(&mut self, millis: u64) {
        for _ in 0..millis {
            self.net.pass(1);
            self.read_requests();
        }
    }

    /// Lets the servers read their requests, each on its current connection.
    fn read_requests(&mut self) {
        for (number, server) in (0..).zip(&mut self.servers) {
            let end = net::server(number);
            let connects = self.net.connects[usize::from(number)];
            if server.connects != connects || !self.net.is_open(end) {
                (server.connects, server.answered) = (connects, false);
                server.pending.clear();
                server.received.clear();
            }
            if !self.net.is_open(end) {
                // Bytes of a lost connection are no requests.
                self.net.take(end);
                continue;
            }
            server.received.extend(self.net.take(end));
            let received = std::mem::take(&mut server.received);
            let (whole, rest) = whole_messages(&received);
            for requested in whole {
                let known = requested.1 < PUT || server.answered;
                assert!(known, "a server without an answer yet is asked for {}", requested.1);
                server.pending.push_back(requested);
            }
            server.received = rest.to_vec();
        }
    }

    /// Disconnects all servers, which must leave no request unanswered, and then all clients, which
    /// must leave nothing.
    fn end(&mut self, buffers: usize) {
        for client in &self.clients {
            self.net.window(client.end, usize::MAX);
        }
        for number in 0..self.servers.len() as u8 {
            self.net.reach_of[usize::from(number)] = Some(Reach::Refuses);
            self.net.cut(net::server(number));
        }
        self.net.pass(200);
        self.read_requests();
        for client in &self.clients {
            let (answers, rest) = whole_messages(self.net.received(client.end));
            assert!(answers.len() <= client.requested.len());
            let all = answers.len() == client.requested.len() && rest.is_empty();
            // A client whose request comes too slowly is closed.
            let gone = client.closing || !self.net.is_open(client.end);
            assert!(all || gone, "a client waits for ever");
            let requested = (0..).zip(&client.requested);
            for ((uid, op, payload), (number, (requested, id))) in
                answers.into_iter().zip(requested)
            {
                assert_eq!((uid, op), (number, *requested), "out of turn");
                assert!(is_answer(op, id, &payload), "{op} {id:?} is answered {payload:?}");
            }
        }
        for client in &self.clients {
            self.net.cut(client.end);
        }
        self.net.drive();
        assert_eq!((self.net.machine.in_flight(), self.net.machine.clients()), (0, 0));
        assert_eq!(self.net.machine.buffers_free(), buffers as u32, "buffers are leaked");
    }
}

/// Returns whether a server, or the proxy itself, may answer this to such a request.
fn is_answer(op: u8, id: &[u8; 4], payload: &[u8]) -> bool {
    match (op, payload) {
        (_, [2]) | (PUT | TAKE, [3]) => true,
        (ADD, [0 | 101]) | (PUT, [0]) | (GET | TAKE, [1]) => true,
        (ADD | PUT, _) => false,
        (GET | TAKE, session) => {
            let whole = [20, 5_000].contains(&session.len());
            whole && session.chunks(4).all(|part| part == &id[..part.len()])
        }
        (_, status) => matches!(status, [0 | 1]),
    }
}
