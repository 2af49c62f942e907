//! Clients that follow the protocol. Each of their requests ends exactly once: with the next answer
//! on the connection, or with the connection.

use crate::cluster::IMPATIENT;
use crate::framing::levels;
use crate::network::{Dial, End, Network};
use crate::oracle::Oracle;
use crate::pipe::Readable;
use crate::plan::Client as Plan;
use crate::request::{Generator, Request};
use crate::trace::{Actor, record};
use distcache_core::client::{Connection, RequestError};
use distcache_core::id::Id;
use distcache_core::message::{self, Add, Reply, Status};
use distcache_core::time::Instant;
use distcache_core::wire::{LEVEL, Op};
use distcache_testing::bytes::whole_messages;
use std::collections::VecDeque;

/// How a client speaks the protocol.
enum Codec<'m> {
    /// With bytes of the simulator, many requests at a time. Holds the bytes that are not sent yet.
    Raw(Vec<u8>),
    /// With the core's client.
    Core(Connection<&'m mut [u8]>),
}

struct Unanswered {
    request: Request,
    made: Instant,
}

/// A client on the network.
pub struct Client<'m> {
    number: usize,
    plan: Plan,
    generator: Generator,
    /// Whether DISCONNECTED is an answer that it may get.
    may_be_unreachable: bool,
    /// Whether the connection may end before the client ends it.
    may_break: bool,
    /// Whether it calls the faulty server.
    faulty_server: bool,
    /// The highest level at which the peer answers; `None` if that may change.
    level: Option<u16>,
    codec: Codec<'m>,
    memory: Vec<&'m mut [u8]>,
    end: Option<End>,
    connected: bool,
    /// Requests without an answer yet, oldest first.
    unanswered: VecDeque<Unanswered>,
    /// Bytes received that are not a whole answer yet.
    received: Vec<u8>,
    /// How many of them the core's client has taken.
    fed: usize,
    made_on_connection: usize,
    requests: usize,
    connections: usize,
    /// When it acts again.
    next: Instant,
    /// It has ended its sending side.
    finished: bool,
}

impl<'m> Client<'m> {
    /// Creates a client without a connection. A client of the core needs memory for each
    /// connection.
    pub fn new(
        number: usize,
        plan: Plan,
        generator: Generator,
        (fault_free, faulty_server, level): (bool, bool, Option<u16>),
        memory: Vec<&'m mut [u8]>,
    ) -> Self {
        // Without faults there is no reason to give up.
        let plan = if fault_free { Plan { patience: 1 << 40, ..plan } } else { plan };
        Self {
            number,
            plan,
            generator,
            may_be_unreachable: !fault_free && generator.proxied,
            may_break: !fault_free,
            faulty_server: faulty_server && plan.node == 0,
            level,
            codec: Codec::Raw(Vec::new()),
            memory,
            end: None,
            connected: false,
            unanswered: VecDeque::new(),
            received: Vec::new(),
            fed: 0,
            made_on_connection: 0,
            requests: plan.requests,
            connections: plan.connections,
            next: Instant::ORIGIN,
            finished: false,
        }
    }

    const fn actor(&self) -> Actor {
        Actor::Client(self.number)
    }

    /// Returns whether it has made all its requests, and all of them have ended.
    pub fn is_done(&self) -> bool {
        self.unanswered.is_empty()
            && (self.requests == 0 || (self.end.is_none() && self.connections == 0))
    }

    /// Returns whether a request has not ended, or its connection is still to end.
    pub fn is_waiting(&self) -> bool {
        !self.unanswered.is_empty() || self.finished
    }

    /// Makes no more requests.
    pub const fn retire(&mut self) {
        self.requests = 0;
        self.connections = 0;
    }

    /// Closes the connection, if there is one.
    pub fn close_connection(&mut self, network: &mut Network, oracle: &mut Oracle) {
        if let Some(end) = self.end {
            network.close(self.actor(), end);
            self.connection_ended(network, oracle);
        }
    }

    /// Takes one turn. Returns whether anything moved.
    pub fn turn(&mut self, network: &mut Network, oracle: &mut Oracle) -> bool {
        let Some(end) = self.end else {
            return self.connect(network);
        };
        if !self.connected {
            return self.check_dial(network, oracle, end);
        }
        let asked = self.make_request(network, oracle);
        if self.end.is_none() {
            return true;
        }
        let sent = self.send(network, end);
        asked | sent | self.receive(network, oracle, end)
    }

    /// Returns when it next has something to do if nothing happens before.
    pub fn wake(&self, network: &Network) -> Option<Instant> {
        let Some(end) = self.end else {
            return (self.requests > 0 && self.connections > 0).then_some(self.next);
        };
        let patience =
            self.unanswered.front().map(|unanswered| unanswered.made.after(self.plan.patience));
        let next =
            (self.requests > 0 && self.unanswered.len() < self.plan.window).then_some(self.next);
        let next = next.filter(|_| self.connected && !self.finished);
        let wire = if self.connected { network.next(end) } else { network.next_dial(end) };
        let hangs = (!self.connected).then(|| self.next.after(self.plan.patience));
        [patience, next, wire, hangs].into_iter().flatten().min()
    }

    fn connect(&mut self, network: &mut Network) -> bool {
        if self.requests == 0 || self.connections == 0 || network.now < self.next {
            return false;
        }
        self.codec = match (self.plan.core_client, self.memory.pop()) {
            (false, _) => Codec::Raw(Vec::new()),
            (true, Some(memory)) => Codec::Core(Connection::new(memory).expect("enough memory")),
            (true, None) => {
                self.connections = 0;
                return false;
            }
        };
        self.connections -= 1;
        self.next = network.now;
        self.end = Some(network.dial(self.actor(), self.plan.node));
        true
    }

    fn check_dial(&mut self, network: &mut Network, oracle: &mut Oracle, end: End) -> bool {
        match network.dialed(end) {
            Dial::Connected => self.connected = true,
            Dial::Waiting if network.now < self.next.after(self.plan.patience) => return false,
            Dial::Waiting | Dial::Refused => self.close_connection(network, oracle),
        }
        true
    }

    /// Makes another request, or ends the connection if there are none.
    fn make_request(&mut self, network: &mut Network, oracle: &mut Oracle) -> bool {
        if self.finished || network.now < self.next || self.unanswered.len() >= self.plan.window {
            return false;
        }
        if self.requests == 0 || self.made_on_connection >= self.plan.per_connection {
            return self.finish_sending(network, oracle);
        }
        let (version, since) = oracle.next_version();
        let mut request = match self.codec {
            Codec::Raw(_) => self.generator.any(&mut network.random, version, since),
            Codec::Core(_) => self.generator.valid(&mut network.random, version, since),
        };
        match &mut self.codec {
            Codec::Raw(unsent) => unsent.extend(request.encode(&mut network.random)),
            Codec::Core(client) => {
                request.level = LEVEL;
                if client.level() < request.op.level() {
                    // The peer is not known to have this operation, so use an old one.
                    assert_eq!(
                        client.request(&core_request(&request)),
                        Err(RequestError::Unsupported)
                    );
                    request.op = if request.op == Op::Put { Op::Add } else { Op::Get };
                }
                client.request(&core_request(&request)).expect("no request is unanswered");
                // The answer must bear the uid that the client chose.
                request.uid =
                    u32::from_be_bytes(*client.pending()[5..].first_chunk().expect("a header"));
            }
        }
        record(
            network.now,
            self.actor(),
            "requests op, uid",
            [request.op as u64, request.uid.into()],
        );
        oracle.record_request(network.now, &mut request);
        self.unanswered.push_back(Unanswered { request, made: network.now });
        self.requests -= 1;
        self.made_on_connection += 1;
        let pause = network.random.below(self.plan.pause as usize + 1) as u64;
        self.next = network.now.after(pause);
        // Bytes that came early must not be taken for the answer.
        self.parse_with_core(network, oracle);
        true
    }

    /// Closes the connection, or ends its sending side and waits for the remaining answers.
    fn finish_sending(&mut self, network: &mut Network, oracle: &mut Oracle) -> bool {
        let unsent = match &self.codec {
            Codec::Raw(unsent) => !unsent.is_empty(),
            Codec::Core(client) => !client.pending().is_empty(),
        };
        if unsent || self.end.is_none() {
            return false;
        }
        if !self.unanswered.is_empty() || network.chance(500) {
            let Some(end) = self.end else { return false };
            record(network.now, self.actor(), "ends its side of link", [end.link as u64, 0]);
            network.finish(end);
            self.finished = true;
        } else {
            self.close_connection(network, oracle);
        }
        true
    }

    fn send(&mut self, network: &mut Network, end: End) -> bool {
        let actor = self.actor();
        let len = match &mut self.codec {
            Codec::Raw(unsent) => {
                let len = network.write(actor, end, unsent);
                unsent.drain(..len);
                len
            }
            Codec::Core(client) => {
                let len = network.write(actor, end, client.pending());
                client.sent(len);
                len
            }
        };
        len > 0
    }

    fn receive(&mut self, network: &mut Network, oracle: &mut Oracle, end: End) -> bool {
        match network.readable(end) {
            Readable::Bytes(here) => {
                let mut bytes = vec![0; here];
                let len = network.read(self.actor(), end, &mut bytes);
                self.parse(network, oracle, &bytes[..len]);
                true
            }
            Readable::Ended(_) => {
                assert!(
                    self.may_break || self.finished,
                    "the connection of {} ends without a reason",
                    self.actor()
                );
                network.close(self.actor(), end);
                self.connection_ended(network, oracle);
                true
            }
            Readable::Nothing => {
                let oldest = self
                    .unanswered
                    .front()
                    .map(|unanswered| unanswered.made.after(self.plan.patience));
                let over = self.may_break && oldest.is_some_and(|over| over <= network.now);
                if over && self.plan.patience == IMPATIENT {
                    network.abort(end);
                    self.connection_ended(network, oracle);
                } else if over {
                    self.close_connection(network, oracle);
                }
                over
            }
        }
    }

    fn parse(&mut self, network: &mut Network, oracle: &mut Oracle, bytes: &[u8]) {
        self.received.extend(bytes);
        if let Codec::Core(_) = self.codec {
            return self.parse_with_core(network, oracle);
        }
        let (messages, rest) = whole_messages(&self.received);
        let (rest, levels) = (rest.to_vec(), levels(&self.received));
        for ((uid, op, payload), level) in messages.into_iter().zip(levels) {
            let Unanswered { request, .. } =
                self.unanswered.pop_front().expect("an answer to a request");
            assert_eq!(
                (uid, op),
                (request.uid, request.op as u8),
                "{} receives an answer out of turn",
                self.actor()
            );
            self.check_level(&request, level);
            oracle.check_answer(network.now, &request, &payload, self.may_be_unreachable);
            record(
                network.now,
                self.actor(),
                "is answered uid, bytes",
                [uid.into(), payload.len() as u64],
            );
        }
        self.received = rest;
    }

    /// Parses with the core's client. It must find the answer that `whole_messages` finds, or
    /// refuse the bytes.
    fn parse_with_core(&mut self, network: &mut Network, oracle: &mut Oracle) {
        let Codec::Core(client) = &mut self.codec else {
            return;
        };
        let mut there = client.advance();
        while self.fed < self.received.len() && there == Ok(false) {
            let (space, rest) = (client.space(), &self.received[self.fed..]);
            let len = (1 + network.random.below(rest.len())).min(space.len());
            space[..len].copy_from_slice(&rest[..len]);
            client.filled(len);
            self.fed += len;
            there = client.advance();
        }
        if there.is_err() {
            // Only a faulty server gives reason to.
            assert!(self.faulty_server, "{} refuses an answer", self.actor());
            return self.close_connection(network, oracle);
        }
        let (messages, rest) = whole_messages(&self.received);
        let (Some(reply), Some((uid, op, _))) = (client.reply(), messages.first()) else {
            assert!(messages.is_empty(), "{} does not find its answer", self.actor());
            return;
        };
        let Some(Unanswered { request, .. }) = self.unanswered.pop_front() else {
            // The previous answer is still there.
            return;
        };
        assert_eq!(
            (*uid, *op),
            (request.uid, request.op as u8),
            "{} takes another answer",
            self.actor()
        );
        let level = client.level();
        match reply {
            Reply::Session(session) => {
                oracle.check_answer(network.now, &request, session, self.may_be_unreachable);
            }
            Reply::Status(Status(code)) => {
                oracle.check_short_answer(network.now, &request, &[code], self.may_be_unreachable);
            }
        }
        assert_eq!(level, levels(&self.received)[0], "{} returns another level", self.actor());
        self.check_level(&request, level);
        record(network.now, self.actor(), "has its answer to uid", [request.uid.into(), 0]);
        assert!(
            messages.len() == 1 && rest.is_empty() || self.faulty_server,
            "more bytes than one answer"
        );
        let len = self.received.len() - rest.len() - encoded_len(&messages[1..]);
        self.received.drain(..len);
        self.fed -= len;
    }

    /// An answer is at the level of its request, or at the highest that the peer has.
    fn check_level(&self, request: &Request, level: u16) {
        let most = request.level.min(LEVEL).min(self.level.unwrap_or(LEVEL));
        let least = if self.level.is_some() { most } else { request.op.level() };
        let right = (least..=most).contains(&level);
        assert!(right || self.faulty_server, "{request:02x?} is answered at level {level}");
    }

    /// The connection has ended, and with it every request on it.
    fn connection_ended(&mut self, network: &Network, oracle: &mut Oracle) {
        for Unanswered { request, .. } in self.unanswered.drain(..) {
            oracle.record_loss(&request);
        }
        self.received.clear();
        self.fed = 0;
        self.codec = Codec::Raw(Vec::new());
        (self.end, self.connected, self.finished) = (None, false, false);
        self.made_on_connection = 0;
        self.next = network.now.after(self.plan.pause.max(1));
    }
}

/// Returns the request as the core's client takes it.
fn core_request(request: &Request) -> message::Request<'_> {
    let id = Id::new(&request.id).expect("a valid id");
    match (&request.add, request.op) {
        (Some((ttl, session)), Op::Put) => message::Request::Put(Add { ttl: *ttl, id, session }),
        (Some((ttl, session)), _) => message::Request::Add(Add { ttl: *ttl, id, session }),
        (None, Op::Get) => message::Request::Get(id),
        (None, Op::Remove) => message::Request::Remove(id),
        (None, Op::Take) => message::Request::Take(id),
        (None, _) => message::Request::Have(id),
    }
}

/// Returns how many bytes these messages have on the wire.
fn encoded_len(messages: &[(u32, u8, Vec<u8>)]) -> usize {
    let wire = |len: usize| len + 14 * len.div_ceil(2_048).max(1);
    messages.iter().map(|(.., payload)| wire(payload.len())).sum()
}
