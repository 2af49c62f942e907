//! A proxy between clients that connect, leave and do not read, and a faulty server. A client gets
//! answers to its own requests only, each once and in order, or DISCONNECTED.

use crate::input::Input;
use distcache_core::proxy::{self, Config};
use distcache_testing::bytes::{message, whole_messages};
use distcache_testing::memory::{Memory, limits};
use distcache_testing::net::{End, Net, Pieces, Reach, SERVER};
use distcache_testing::random::Random;
use std::collections::HashMap;
use std::time::Duration;

const PLACES: usize = 4;

struct Client {
    end: End,
    /// Its requests: operation, and the number that is both uid and id.
    requested: Vec<(u8, u32)>,
    closing: bool,
}

struct Harness<'m> {
    net: Net<proxy::Borrowed<'m>>,
    clients: Vec<Client>,
    requested: u32,
    /// What the server has read of the current connection.
    received: Vec<u8>,
    connects: u64,
    /// Requests that reached the server: uid and operation there, and the number in their id.
    in_flight: Vec<(u32, u8, u32)>,
    /// The uid under which each request reached the server.
    uids: HashMap<u32, u32>,
}

/// Input: a byte for the buffers, 8 for the pieces, then two a step.
pub fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let buffers = 4 + input.below(8);
    let pieces = match input.word() {
        0 => Pieces::Whole,
        seed => Pieces::Any(Random::new(seed)),
    };
    let mut memory = Memory::with_buffers(PLACES, buffers).with_in_flight(1 + buffers % 5);
    let limits = limits(0, 50);
    let net = Net::new(memory.proxy(Config::new(limits, Duration::from_millis(30))), pieces);
    let mut harness = Harness {
        net,
        clients: Vec::new(),
        requested: 0,
        received: Vec::new(),
        connects: 0,
        in_flight: Vec::new(),
        uids: HashMap::new(),
    };
    for _ in 0..400 {
        if input.is_over() {
            break;
        }
        let (what, which) = (input.byte(), input.byte());
        harness.turn(what, which);
        harness.net.step();
        harness.read_requests();
    }
    harness.end();
    drop(harness);
    assert!(memory.is_wiped(), "bytes stay behind");
}

impl Harness<'_> {
    fn turn(&mut self, what: u8, which: u8) {
        match what % 16 {
            0 | 1 => self.connect(),
            2..=4 => self.ask(which, usize::MAX),
            5 => self.ask(which, 1 + usize::from(which)),
            6 => self.garbage(which),
            7 => self.leave(which),
            8..=10 => self.answer(which, 1),
            11 => self.answer(which, 2),
            12 => self.stray(which),
            13 => self.lose(which),
            14 => self.set_window(which),
            _ => self.net.pass(u64::from(which % 64)),
        }
    }

    fn connect(&mut self) {
        let full = self.net.machine.clients() >= PLACES;
        let end = self.net.try_connect();
        assert_eq!(end.is_none(), full);
        let client = |end| Client { end, requested: Vec::new(), closing: false };
        self.clients.extend(end.map(client));
    }

    fn client(&mut self, which: u8) -> Option<&mut Client> {
        let open = self.clients.iter_mut().filter(|client| !client.closing);
        let mut recent: Vec<_> = open.rev().take(PLACES).collect();
        (!recent.is_empty()).then(|| recent.swap_remove(usize::from(which) % recent.len()))
    }

    /// Sends a request of a client. If only `len` bytes of it are sent, the client ends its side.
    fn ask(&mut self, which: u8, len: usize) {
        self.requested += 1;
        let (number, op) = (self.requested, which >> 6);
        let size = if which & 0x20 == 0 { 20 } else { 5000 };
        let mut payload = [1, number].map(u32::to_be_bytes).concat();
        payload.resize(size, b'x');
        let request = message(0, number, op, &payload);
        let Some(client) = self.client(which) else { return };
        client.requested.push((op, number));
        client.closing = len < request.len();
        let (end, closing) = (client.end, client.closing);
        self.net.send(end, &request[..len.min(request.len())]);
        if closing {
            self.net.hang_up(end);
        }
    }

    fn garbage(&mut self, which: u8) {
        let Some(client) = self.client(which) else { return };
        client.closing = true;
        let end = client.end;
        let garbage: [&[u8]; 3] = [b"GET /", &[0, 0x11, 0, 0, 1], &message(0, 1, 0, b"1234567")];
        self.net.send(end, garbage[usize::from(which) % 3]);
    }

    fn leave(&mut self, which: u8) {
        let Some(client) = self.client(which) else { return };
        client.closing = true;
        let end = client.end;
        match which & 0x80 {
            0 => self.net.cut(end),
            _ => self.net.hang_up(end),
        }
    }

    /// Returns the server's answer for a uid, which differs from that for any other uid.
    fn answer_for(uid: u32, op: u8) -> Vec<u8> {
        message(1, uid, op, &[b"word ", &uid.to_be_bytes()[..]].concat())
    }

    fn answer(&mut self, which: u8, times: usize) {
        if self.in_flight.is_empty() {
            return;
        }
        let at = usize::from(which) % self.in_flight.len();
        let (uid, op, _) = self.in_flight.remove(at);
        self.net.send(SERVER, &Self::answer_for(uid, op).repeat(times));
    }

    /// Sends a stray answer, one to another operation, or garbage.
    fn stray(&mut self, which: u8) {
        match which & 0xc0 {
            0 => self.net.send(SERVER, &Self::answer_for(u32::from(which & 0x3f), which & 3)),
            0x40 => self.net.send(SERVER, &Self::answer_for(u32::from(which & 0x3f) << 3, 1)),
            0x80 => self.net.send(SERVER, b"HTTP/1.1 400 Bad Request"),
            // What is sent next may become its payload, so no request may have its uid.
            _ => self.net.send(SERVER, &Self::answer_for(u32::MAX, 1)[..usize::from(which & 15)]),
        }
    }

    fn lose(&mut self, which: u8) {
        match which & 3 {
            0 => self.net.cut(SERVER),
            1 => self.net.hang_up(SERVER),
            2 => {
                let ways = [Reach::Accepts, Reach::Hangs, Reach::Refuses];
                self.net.reach = ways[usize::from(which / 4) % 3];
            }
            _ => (),
        }
    }

    /// Lets a peer read slowly, or at full speed.
    fn set_window(&mut self, which: u8) {
        let bytes = if which & 0x80 == 0 { usize::from(which) } else { usize::MAX };
        match (which & 7, self.client(which)) {
            (0, _) => self.net.window(SERVER, bytes),
            (_, Some(client)) => {
                let end = client.end;
                self.net.window(end, bytes);
            }
            _ => (),
        }
    }

    /// Lets the server read its requests, on the current connection.
    fn read_requests(&mut self) {
        let connects = self.net.machine.traffic().connects;
        if self.connects != connects {
            self.connects = connects;
            self.in_flight.clear();
            self.received.clear();
        }
        self.received.extend(self.net.take(SERVER));
        let received = std::mem::take(&mut self.received);
        let (whole, rest) = whole_messages(&received);
        for (uid, op, payload) in whole {
            let number: [u8; 4] = payload[4..8].try_into().expect("4 bytes");
            let number = u32::from_be_bytes(number);
            assert_eq!(self.uids.insert(number, uid), None, "{number} was asked twice");
            self.in_flight.push((uid, op, number));
        }
        self.received = rest.to_vec();
    }

    /// Returns whether the server sent this under the uid of that request. It may guess the answer
    /// to a request that it has not read to the end, but not with the answer for another uid.
    fn is_for(&self, number: u32, op: u8, payload: &[u8]) -> bool {
        let said = |uid: &u32| Self::answer_for(*uid, op)[14..] == *payload;
        match self.uids.get(&number) {
            Some(uid) => said(uid),
            None => payload.starts_with(b"word ") && !self.uids.values().any(said),
        }
    }

    fn end(&mut self) {
        for client in &self.clients {
            self.net.window(client.end, usize::MAX);
        }
        self.net.window(SERVER, usize::MAX);
        self.net.reach = Reach::Refuses;
        self.net.pass(200);
        for client in &self.clients {
            let (answers, _) = whole_messages(self.net.received(client.end));
            assert!(answers.len() <= client.requested.len());
            // While the server is unreachable, every request is answered.
            let all = answers.len() == client.requested.len();
            assert!(all || client.closing || !self.net.is_open(client.end));
            for ((uid, op, payload), (asked_op, number)) in
                answers.into_iter().zip(&client.requested)
            {
                assert_eq!((uid, op), (*number, *asked_op));
                assert!(
                    payload == [2] || self.is_for(*number, op, &payload),
                    "{number} got {payload:?}"
                );
            }
        }
        self.clients.iter().for_each(|client| self.net.cut(client.end));
        self.net.cut(SERVER);
        self.net.drive();
    }
}
