//! A proxy with several servers and copies, between clients that come and leave and servers that come
//! back empty, answer late, and say things under the uids of each other: a client gets answers to
//! what it asked, in order, and no session but of the id that it asked for; a server is asked for
//! nothing that it is not known to have; and in the end nothing is left.

use crate::input::Input;
use distcache_core::clients::Limits;
use distcache_core::proxy::{Config, Proxy};
use distcache_testing::bytes::{
    ADD, GET, PUT, REMOVE, TAKE, add_payload, at_level, message, whole_messages,
};
use distcache_testing::memory::Memory;
use distcache_testing::net::{End, Net, Pieces, Reach, server};
use distcache_testing::random::Random;
use std::collections::{BTreeMap, VecDeque};

const PLACES: usize = 4;
/// How long servers may take: either less than a GET has before another server is asked too, or more.
const TIMEOUTS: [(u64, u64); 2] = [(50, 30), (300, 120)];
/// What a server says under the uid of a request that another one was asked.
const POISON: &[u8] = b"poison of another server";

/// A request as a server has it: uid, operation, payload.
type Asked = (u32, u8, Vec<u8>);

struct Client {
    end: End,
    /// Operation and id.
    asked: Vec<(u8, [u8; 4])>,
    closing: bool,
}

/// A server: what it can do, what it holds, and what it was asked on the connection that is there now.
#[derive(Default)]
struct Played {
    level: u8,
    sessions: BTreeMap<Vec<u8>, Vec<u8>>,
    heard: Vec<u8>,
    open: VecDeque<Asked>,
    answered: bool,
    connects: usize,
}

impl Played {
    fn answer(&mut self) -> Option<Vec<u8>> {
        let (uid, op, payload) = self.open.pop_front()?;
        let say = |done: bool| vec![u8::from(!done)];
        let sessions = &mut self.sessions;
        let answer = match op {
            ADD | PUT => {
                let (id, session) = payload[8..].split_at(4);
                match op == ADD && sessions.contains_key(id) {
                    true => vec![101],
                    false => {
                        sessions.insert(id.to_vec(), session.to_vec());
                        say(true)
                    }
                }
            }
            GET => sessions.get(&payload).cloned().unwrap_or_else(|| say(false)),
            TAKE => sessions.remove(&payload).unwrap_or_else(|| say(false)),
            REMOVE => say(sessions.remove(&payload).is_some()),
            _ => say(sessions.contains_key(&payload)),
        };
        self.answered = true;
        Some(at_level(self.level, message(1, uid, op, &answer)))
    }
}

struct World<'m> {
    net: Net<Proxy<'m>>,
    clients: Vec<Client>,
    servers: Vec<Played>,
}

/// First a byte each for servers, copies, levels and patience, for buffers and for requests in request in flight, and 8 for the
/// pieces; then three a step.
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
    let limits = Limits { idle: 0, patience };
    let config = Config { copies, server_patience, ..Config::new(limits, 30) };
    let net = Net::new(memory.proxy(config), pieces);
    let level = |number: usize| u8::from(shape >> (4 + number) & 1 == 0);
    let played = |number| Played { level: level(number), ..Played::default() };
    let servers = (0..count).map(played).collect();
    let mut world = World { net, clients: Vec::new(), servers };
    for _ in 0..400 {
        if input.is_over() {
            break;
        }
        let (what, who, which) = (input.byte(), input.byte(), input.byte());
        world.turn(what, who, which);
        world.net.step();
        world.listen();
    }
    world.end(buffers - 2);
}

impl World<'_> {
    fn turn(&mut self, what: u8, who: u8, which: u8) {
        let number = usize::from(who) % self.servers.len();
        match what % 16 {
            0 => self.connect(),
            1..=5 => self.ask(who, which),
            6 => self.leave(who, which),
            7..=10 => self.answer(number, 1 + which % 4),
            11 => self.poison(number, which),
            12 => self.lose(number, which),
            13 => self.hurry(number, which),
            14 => self.servers.iter_mut().for_each(|played| played.level = which & 1),
            _ => self.pass(u64::from(which % 64)),
        }
    }

    fn connect(&mut self) {
        let end = self.net.try_connect();
        self.clients.extend(end.map(|end| Client { end, asked: Vec::new(), closing: false }));
    }

    fn client(&mut self, who: u8) -> Option<&mut Client> {
        let open = self.clients.iter_mut().filter(|client| !client.closing);
        let mut recent: Vec<_> = open.rev().take(PLACES).collect();
        (!recent.is_empty()).then(|| recent.swap_remove(usize::from(who) % recent.len()))
    }

    fn ask(&mut self, who: u8, which: u8) {
        let (op, id) = (which % 6, [b'i', b'd', 0, which / 6 % 5]);
        let Some(client) = self.client(who) else { return };
        let uid = client.asked.len() as u32;
        client.asked.push((op, id));
        let end = client.end;
        let size = if which & 0x80 == 0 { 20 } else { 5_000 };
        // A session says whose it is.
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
            self.net.send(server(number as u8), &answer);
        }
    }

    /// A server answers what another one is asked. All that was said before is heard first, and nobody
    /// says anything else meanwhile: so the request stays where it is.
    fn poison(&mut self, number: usize, which: u8) {
        self.net.drive();
        self.listen();
        let others = self.servers.iter().enumerate().filter(|(other, _)| *other != number);
        let open: Vec<_> = others.flat_map(|(_, played)| &played.open).collect();
        let Some((uid, op, _)) = open.get(usize::from(which) % open.len().max(1)) else { return };
        let poison = at_level(1, message(1, *uid, *op, POISON));
        let before = self.net.machine.traffic();
        self.net.send(server(number as u8), &poison);
        self.net.drive();
        let after = self.net.machine.traffic();
        assert_eq!(before.answered, after.answered, "one server answers for another");
    }

    fn lose(&mut self, number: usize, which: u8) {
        let end = server(number as u8);
        match which & 3 {
            0 => self.net.cut(end),
            1 => {
                self.servers[number].sessions.clear();
                self.net.cut(end);
            }
            2 => self.net.hang_up(end),
            _ => {
                let ways = [None, None, Some(Reach::Hangs), Some(Reach::Refuses)];
                self.net.reach_of[number] = ways[usize::from(which / 4) % 4];
            }
        }
        self.listen();
    }

    /// A server reads slowly, or not at all, or as fast as it can.
    fn hurry(&mut self, number: usize, which: u8) {
        let bytes = if which & 0x80 == 0 { usize::from(which) } else { usize::MAX };
        self.net.window(server(number as u8), bytes);
    }

    fn pass(&mut self, millis: u64) {
        for _ in 0..millis {
            self.net.pass(1);
            self.listen();
        }
    }

    /// The servers read what they were asked, each on the connection that is there now.
    fn listen(&mut self) {
        for (number, played) in (0..).zip(&mut self.servers) {
            let end = server(number);
            let connects = self.net.connects[usize::from(number)];
            if played.connects != connects || !self.net.is_open(end) {
                (played.connects, played.answered) = (connects, false);
                played.open.clear();
                played.heard.clear();
            }
            if !self.net.is_open(end) {
                // What came on a connection that is gone is asked of nobody.
                self.net.take(end);
                continue;
            }
            played.heard.extend(self.net.take(end));
            let heard = std::mem::take(&mut played.heard);
            let (whole, rest) = whole_messages(&heard);
            for asked in whole {
                let known = asked.1 < PUT || played.answered;
                assert!(known, "a server that has said nothing is asked for {}", asked.1);
                played.open.push_back(asked);
            }
            played.heard = rest.to_vec();
        }
    }

    /// All servers go. Nothing is left unanswered, and once the clients have gone too, nothing is kept.
    fn end(&mut self, buffers: usize) {
        for client in &self.clients {
            self.net.window(client.end, usize::MAX);
        }
        for number in 0..self.servers.len() as u8 {
            self.net.reach_of[usize::from(number)] = Some(Reach::Refuses);
            self.net.cut(server(number));
        }
        self.net.pass(200);
        self.listen();
        for client in &self.clients {
            let (answers, rest) = whole_messages(self.net.received(client.end));
            assert!(answers.len() <= client.asked.len());
            let all = answers.len() == client.asked.len() && rest.is_empty();
            // One whose request comes too slowly is sent away.
            let gone = client.closing || !self.net.is_open(client.end);
            assert!(all || gone, "a client waits for ever");
            let asked = (0..).zip(&client.asked);
            for ((uid, op, payload), (number, (asked, id))) in answers.into_iter().zip(asked) {
                assert_eq!((uid, op), (number, *asked), "out of turn");
                assert!(is_answer(op, id, &payload), "{op} {id:?} is answered {payload:?}");
            }
        }
        for client in &self.clients {
            self.net.cut(client.end);
        }
        self.net.drive();
        assert_eq!((self.net.machine.in_flight(), self.net.machine.clients()), (0, 0));
        assert_eq!(self.net.machine.buffers_free(), buffers as u32, "buffers stay lent");
    }
}

/// Whether a server, or the proxy itself, may say this to such a request.
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
