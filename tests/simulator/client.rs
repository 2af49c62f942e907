//! Clients that keep to the rules. Each of their requests ends exactly once: with the answer that
//! its turn on the connection brings, or with the connection.

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

/// How a client speaks.
enum Codec<'m> {
    /// With its own words, many requests at a time. What it has not sent yet.
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
    /// Whether a proxy's word that the server is away is an answer.
    may_be_unreachable: bool,
    /// Whether the connection may end before the client ends it.
    may_break: bool,
    /// Whether it speaks to a server that lies.
    faulty_server: bool,
    /// The highest level at which whom it calls answers; `None` where that may change.
    level: Option<u16>,
    codec: Codec<'m>,
    memory: Vec<&'m mut [u8]>,
    end: Option<End>,
    connected: bool,
    /// What it asked and was not answered, oldest first.
    unanswered: VecDeque<Unanswered>,
    /// What it received and has not understood yet.
    received: Vec<u8>,
    /// How much of that the core's client has been given.
    fed: usize,
    made_on_connection: usize,
    requests: usize,
    connections: usize,
    /// When it does something again.
    next: Instant,
    /// It has said that it will send no more.
    finished: bool,
}

impl<'m> Client<'m> {
    /// A client that has not called anybody yet; a careful one needs memory for each connection.
    pub fn new(
        number: usize,
        plan: Plan,
        generator: Generator,
        (fault_free, faulty_server, level): (bool, bool, Option<u16>),
        memory: Vec<&'m mut [u8]>,
    ) -> Self {
        // Where nothing goes wrong there is no reason to lose patience.
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

    /// Whether it has asked all that it is going to ask, and every request has ended.
    pub fn is_done(&self) -> bool {
        self.unanswered.is_empty()
            && (self.requests == 0 || (self.end.is_none() && self.connections == 0))
    }

    /// Whether a request is neither answered nor lost, or its connection is still to end.
    pub fn is_waiting(&self) -> bool {
        !self.unanswered.is_empty() || self.finished
    }

    /// Makes no more requests.
    pub const fn retire(&mut self) {
        self.requests = 0;
        self.connections = 0;
    }

    /// Goes, wherever it stands.
    pub fn close_connection(&mut self, network: &mut Network, oracle: &mut Oracle) {
        if let Some(end) = self.end {
            network.close(self.actor(), end);
            self.connection_ended(network, oracle);
        }
    }

    /// Takes one turn; false where nothing moved.
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

    /// When it has something to do, if nothing happens before.
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

    /// Makes another request, or says that there will be none.
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
                    // Whom it calls is not known to have this. The old operations will do.
                    assert_eq!(
                        client.request(&core_request(&request)),
                        Err(RequestError::Unsupported)
                    );
                    request.op = if request.op == Op::Put { Op::Add } else { Op::Get };
                }
                client.request(&core_request(&request)).expect("the last one is answered");
                // Whatever uid it took is the one that its answer must bear.
                request.uid =
                    u32::from_be_bytes(*client.pending()[5..].first_chunk().expect("a header"));
            }
        }
        record(network.now, self.actor(), "asks op, uid", [request.op as u64, request.uid.into()]);
        oracle.record_request(network.now, &mut request);
        self.unanswered.push_back(Unanswered { request, made: network.now });
        self.requests -= 1;
        self.made_on_connection += 1;
        let pause = network.random.below(self.plan.pause as usize + 1) as u64;
        self.next = network.now.after(pause);
        // What came unasked must not be taken for the answer.
        self.parse_with_core(network, oracle);
        true
    }

    /// Ends its own side: it goes, or it says that it has no more to say and waits for the rest.
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
                    "{} is hung up on for nothing",
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
                "{} hears out of turn",
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

    /// The core's client must find the same answer as is found without it, or refuse what it hears.
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
            // Only a server that lies gives reason to.
            assert!(self.faulty_server, "{} refuses what it hears", self.actor());
            return self.close_connection(network, oracle);
        }
        let (messages, rest) = whole_messages(&self.received);
        let (Some(reply), Some((uid, op, _))) = (client.reply(), messages.first()) else {
            assert!(messages.is_empty(), "{} does not hear its answer", self.actor());
            return;
        };
        let Some(Unanswered { request, .. }) = self.unanswered.pop_front() else {
            // The last answer is still there.
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
                oracle.check_answer(network.now, &request, session, self.may_be_unreachable)
            }
            Reply::Status(Status(code)) => {
                oracle.check_short_answer(network.now, &request, &[code], self.may_be_unreachable);
            }
        }
        assert_eq!(level, levels(&self.received)[0], "{} misses the level", self.actor());
        self.check_level(&request, level);
        record(network.now, self.actor(), "has its answer to uid", [request.uid.into(), 0]);
        assert!(
            messages.len() == 1 && rest.is_empty() || self.faulty_server,
            "more than was asked for"
        );
        let len = self.received.len() - rest.len() - behind(&messages[1..]);
        self.received.drain(..len);
        self.fed -= len;
    }

    /// An answer is at the level of its request, as far as whom it calls can go.
    fn check_level(&self, request: &Request, level: u16) {
        let most = request.level.min(LEVEL).min(self.level.unwrap_or(LEVEL));
        let least = if self.level.is_some() { most } else { request.op.level() };
        let right = (least..=most).contains(&level);
        assert!(right || self.faulty_server, "{request:02x?} is answered at level {level}");
    }

    /// The connection is gone, and every request on it has ended.
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

/// The request as the core's client is asked to make it.
fn core_request(request: &Request) -> message::Request<'_> {
    let id = Id::new(&request.id).expect("a lawful id");
    match (&request.add, request.op) {
        (Some((ttl, session)), Op::Put) => message::Request::Put(Add { ttl: *ttl, id, session }),
        (Some((ttl, session)), _) => message::Request::Add(Add { ttl: *ttl, id, session }),
        (None, Op::Get) => message::Request::Get(id),
        (None, Op::Remove) => message::Request::Remove(id),
        (None, Op::Take) => message::Request::Take(id),
        (None, _) => message::Request::Have(id),
    }
}

/// How many bytes these messages took.
fn behind(messages: &[(u32, u8, Vec<u8>)]) -> usize {
    let wire = |len: usize| len + 14 * len.div_ceil(2_048).max(1);
    messages.iter().map(|(.., payload)| wire(payload.len())).sum()
}
