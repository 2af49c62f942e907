//! Clients that keep to the rules. Each of their requests ends exactly once: with the answer that
//! its turn on the connection brings, or with the connection.

use crate::ask::{Ask, Asker};
use crate::ledger::Ledger;
use crate::park::IMPATIENT;
use crate::pipe::Front;
use crate::plan::Caller as Plan;
use crate::scan::levels;
use crate::trace::{Who, note};
use crate::wires::{Dial, End, Wires};
use distcache_core::client::{Connection, RequestError};
use distcache_core::id::Id;
use distcache_core::message::{Add, Reply, Request, Status};
use distcache_core::time::Instant;
use distcache_core::wire::{LEVEL, Op};
use distcache_testing::bytes::whole_messages;
use std::collections::VecDeque;

/// How a client speaks.
enum Mouth<'m> {
    /// With its own words, many requests at a time. What it has not sent yet.
    Own(Vec<u8>),
    /// With the core's client.
    Core(Connection<&'m mut [u8]>),
}

struct Open {
    ask: Ask,
    made: Instant,
}

/// A client on the network.
pub struct Caller<'m> {
    number: usize,
    plan: Plan,
    asker: Asker,
    /// Whether a proxy's word that the server is away is an answer.
    away: bool,
    /// Whether the connection may end before the client ends it.
    frail: bool,
    /// Whether it speaks to a server that lies.
    liar: bool,
    /// The highest level at which whom it calls answers; `None` where that may change.
    level: Option<u16>,
    mouth: Mouth<'m>,
    memory: Vec<&'m mut [u8]>,
    end: Option<End>,
    talks: bool,
    /// What it asked and was not answered, oldest first.
    open: VecDeque<Open>,
    /// What it received and has not understood yet.
    heard: Vec<u8>,
    /// How much of that the core's client has been given.
    fed: usize,
    made_here: usize,
    requests: usize,
    connections: usize,
    /// When it does something again.
    next: Instant,
    /// It has said that it will send no more.
    finished: bool,
}

impl<'m> Caller<'m> {
    /// A client that has not called anybody yet; a careful one needs memory for each connection.
    pub fn new(
        number: usize,
        plan: Plan,
        asker: Asker,
        (calm, liar, level): (bool, bool, Option<u16>),
        memory: Vec<&'m mut [u8]>,
    ) -> Self {
        // Where nothing goes wrong there is no reason to lose patience.
        let plan = if calm { Plan { patience: 1 << 40, ..plan } } else { plan };
        Self {
            number,
            plan,
            asker,
            away: !calm && asker.proxied,
            frail: !calm,
            liar: liar && plan.node == 0,
            level,
            mouth: Mouth::Own(Vec::new()),
            memory,
            end: None,
            talks: false,
            open: VecDeque::new(),
            heard: Vec::new(),
            fed: 0,
            made_here: 0,
            requests: plan.requests,
            connections: plan.connections,
            next: Instant::ORIGIN,
            finished: false,
        }
    }

    const fn who(&self) -> Who {
        Who::Caller(self.number)
    }

    /// Whether it has asked all that it is going to ask, and every request has ended.
    pub fn is_done(&self) -> bool {
        self.open.is_empty()
            && (self.requests == 0 || (self.end.is_none() && self.connections == 0))
    }

    /// Whether a request is neither answered nor lost, or its connection is still to end.
    pub fn is_waiting(&self) -> bool {
        !self.open.is_empty() || self.finished
    }

    /// Makes no more requests.
    pub const fn retire(&mut self) {
        self.requests = 0;
        self.connections = 0;
    }

    /// Goes, wherever it stands.
    pub fn leave(&mut self, wires: &mut Wires, ledger: &mut Ledger) {
        if let Some(end) = self.end {
            wires.close(self.who(), end);
            self.hung_up(wires, ledger);
        }
    }

    /// Takes one turn; false where nothing moved.
    pub fn turn(&mut self, wires: &mut Wires, ledger: &mut Ledger) -> bool {
        let Some(end) = self.end else {
            return self.call(wires);
        };
        if !self.talks {
            return self.pick_up(wires, ledger, end);
        }
        let asked = self.ask(wires, ledger);
        if self.end.is_none() {
            return true;
        }
        let sent = self.send(wires, end);
        asked | sent | self.listen(wires, ledger, end)
    }

    /// When it has something to do, if nothing happens before.
    pub fn wake(&self, wires: &Wires) -> Option<Instant> {
        let Some(end) = self.end else {
            return (self.requests > 0 && self.connections > 0).then_some(self.next);
        };
        let patience = self.open.front().map(|open| open.made.after(self.plan.patience));
        let next = (self.requests > 0 && self.open.len() < self.plan.window).then_some(self.next);
        let next = next.filter(|_| self.talks && !self.finished);
        let wire = if self.talks { wires.next(end) } else { wires.next_dial(end) };
        let hangs = (!self.talks).then(|| self.next.after(self.plan.patience));
        [patience, next, wire, hangs].into_iter().flatten().min()
    }

    fn call(&mut self, wires: &mut Wires) -> bool {
        if self.requests == 0 || self.connections == 0 || wires.now < self.next {
            return false;
        }
        self.mouth = match (self.plan.careful, self.memory.pop()) {
            (false, _) => Mouth::Own(Vec::new()),
            (true, Some(memory)) => Mouth::Core(Connection::new(memory).expect("enough memory")),
            (true, None) => {
                self.connections = 0;
                return false;
            }
        };
        self.connections -= 1;
        self.next = wires.now;
        self.end = Some(wires.dial(self.who(), self.plan.node));
        true
    }

    fn pick_up(&mut self, wires: &mut Wires, ledger: &mut Ledger, end: End) -> bool {
        match wires.dialed(end) {
            Dial::Connected => self.talks = true,
            Dial::Waiting if wires.now < self.next.after(self.plan.patience) => return false,
            Dial::Waiting | Dial::Refused => self.leave(wires, ledger),
        }
        true
    }

    /// Makes another request, or says that there will be none.
    fn ask(&mut self, wires: &mut Wires, ledger: &mut Ledger) -> bool {
        if self.finished || wires.now < self.next || self.open.len() >= self.plan.window {
            return false;
        }
        if self.requests == 0 || self.made_here >= self.plan.stay {
            return self.part(wires, ledger);
        }
        let (version, since) = ledger.next();
        let mut ask = match self.mouth {
            Mouth::Own(_) => self.asker.any(&mut wires.random, version, since),
            Mouth::Core(_) => self.asker.lawful(&mut wires.random, version, since),
        };
        match &mut self.mouth {
            Mouth::Own(unsent) => unsent.extend(ask.wire(&mut wires.random)),
            Mouth::Core(client) => {
                ask.level = LEVEL;
                if client.level() < ask.op.level() {
                    // Whom it calls is not known to have this. The old operations will do.
                    assert_eq!(client.request(&request(&ask)), Err(RequestError::Unsupported));
                    ask.op = if ask.op == Op::Put { Op::Add } else { Op::Get };
                }
                client.request(&request(&ask)).expect("the last one is answered");
                // Whatever uid it took is the one that its answer must bear.
                ask.uid =
                    u32::from_be_bytes(*client.pending()[5..].first_chunk().expect("a header"));
            }
        }
        note(wires.now, self.who(), "asks op, uid", [ask.op as u64, ask.uid.into()]);
        ledger.ask(wires.now, &mut ask);
        self.open.push_back(Open { ask, made: wires.now });
        self.requests -= 1;
        self.made_here += 1;
        let pause = wires.random.below(self.plan.pause as usize + 1) as u64;
        self.next = wires.now.after(pause);
        // What came unasked must not be taken for the answer.
        self.hear_core(wires, ledger);
        true
    }

    /// Ends its own side: it goes, or it says that it has no more to say and waits for the rest.
    fn part(&mut self, wires: &mut Wires, ledger: &mut Ledger) -> bool {
        let unsent = match &self.mouth {
            Mouth::Own(unsent) => !unsent.is_empty(),
            Mouth::Core(client) => !client.pending().is_empty(),
        };
        if unsent || self.end.is_none() {
            return false;
        }
        if !self.open.is_empty() || wires.chance(500) {
            let Some(end) = self.end else { return false };
            note(wires.now, self.who(), "ends its side of link", [end.link as u64, 0]);
            wires.finish(end);
            self.finished = true;
        } else {
            self.leave(wires, ledger);
        }
        true
    }

    fn send(&mut self, wires: &mut Wires, end: End) -> bool {
        let who = self.who();
        let len = match &mut self.mouth {
            Mouth::Own(unsent) => {
                let len = wires.write(who, end, unsent);
                unsent.drain(..len);
                len
            }
            Mouth::Core(client) => {
                let len = wires.write(who, end, client.pending());
                client.sent(len);
                len
            }
        };
        len > 0
    }

    fn listen(&mut self, wires: &mut Wires, ledger: &mut Ledger, end: End) -> bool {
        match wires.front(end) {
            Front::Bytes(here) => {
                let mut bytes = vec![0; here];
                let len = wires.read(self.who(), end, &mut bytes);
                self.hear(wires, ledger, &bytes[..len]);
                true
            }
            Front::Ended(_) => {
                assert!(self.frail || self.finished, "{} is hung up on for nothing", self.who());
                wires.close(self.who(), end);
                self.hung_up(wires, ledger);
                true
            }
            Front::Nothing => {
                let oldest = self.open.front().map(|open| open.made.after(self.plan.patience));
                let over = self.frail && oldest.is_some_and(|over| over <= wires.now);
                if over && self.plan.patience == IMPATIENT {
                    wires.abort(end);
                    self.hung_up(wires, ledger);
                } else if over {
                    self.leave(wires, ledger);
                }
                over
            }
        }
    }

    fn hear(&mut self, wires: &mut Wires, ledger: &mut Ledger, bytes: &[u8]) {
        self.heard.extend(bytes);
        if let Mouth::Core(_) = self.mouth {
            return self.hear_core(wires, ledger);
        }
        let (messages, rest) = whole_messages(&self.heard);
        let (rest, levels) = (rest.to_vec(), levels(&self.heard));
        for ((uid, op, payload), level) in messages.into_iter().zip(levels) {
            let Open { ask, .. } = self.open.pop_front().expect("an answer to a request");
            assert_eq!((uid, op), (ask.uid, ask.op as u8), "{} hears out of turn", self.who());
            self.check_level(&ask, level);
            ledger.answer(wires.now, &ask, &payload, self.away);
            note(
                wires.now,
                self.who(),
                "is answered uid, bytes",
                [uid.into(), payload.len() as u64],
            );
        }
        self.heard = rest;
    }

    /// The core's client must find the same answer as is found without it, or refuse what it hears.
    fn hear_core(&mut self, wires: &mut Wires, ledger: &mut Ledger) {
        let Mouth::Core(client) = &mut self.mouth else {
            return;
        };
        let mut there = client.advance();
        while self.fed < self.heard.len() && there == Ok(false) {
            let (space, rest) = (client.space(), &self.heard[self.fed..]);
            let len = (1 + wires.random.below(rest.len())).min(space.len());
            space[..len].copy_from_slice(&rest[..len]);
            client.filled(len);
            self.fed += len;
            there = client.advance();
        }
        if there.is_err() {
            // Only a server that lies gives reason to.
            assert!(self.liar, "{} refuses what it hears", self.who());
            return self.leave(wires, ledger);
        }
        let (messages, rest) = whole_messages(&self.heard);
        let (Some(reply), Some((uid, op, _))) = (client.reply(), messages.first()) else {
            assert!(messages.is_empty(), "{} does not hear its answer", self.who());
            return;
        };
        let Some(Open { ask, .. }) = self.open.pop_front() else {
            // The last answer is still there.
            return;
        };
        assert_eq!((*uid, *op), (ask.uid, ask.op as u8), "{} takes another answer", self.who());
        let level = client.level();
        match reply {
            Reply::Session(session) => ledger.answer(wires.now, &ask, session, self.away),
            Reply::Status(Status(code)) => {
                ledger.answer_short(wires.now, &ask, &[code], self.away);
            }
        }
        assert_eq!(level, levels(&self.heard)[0], "{} misses the level", self.who());
        self.check_level(&ask, level);
        note(wires.now, self.who(), "has its answer to uid", [ask.uid.into(), 0]);
        assert!(messages.len() == 1 && rest.is_empty() || self.liar, "more than was asked for");
        let len = self.heard.len() - rest.len() - behind(&messages[1..]);
        self.heard.drain(..len);
        self.fed -= len;
    }

    /// An answer is at the level of its request, as far as whom it calls can go.
    fn check_level(&self, ask: &Ask, level: u16) {
        let most = ask.level.min(LEVEL).min(self.level.unwrap_or(LEVEL));
        let least = if self.level.is_some() { most } else { ask.op.level() };
        let right = (least..=most).contains(&level);
        assert!(right || self.liar, "{ask:02x?} is answered at level {level}");
    }

    /// The connection is gone, and every request on it has ended.
    fn hung_up(&mut self, wires: &Wires, ledger: &mut Ledger) {
        for Open { ask, .. } in self.open.drain(..) {
            ledger.lose(&ask);
        }
        self.heard.clear();
        self.fed = 0;
        self.mouth = Mouth::Own(Vec::new());
        (self.end, self.talks, self.finished) = (None, false, false);
        self.made_here = 0;
        self.next = wires.now.after(self.plan.pause.max(1));
    }
}

/// The request as the core's client is asked to make it.
fn request(ask: &Ask) -> Request<'_> {
    let id = Id::new(&ask.id).expect("a lawful id");
    match (&ask.add, ask.op) {
        (Some((ttl, session)), Op::Put) => Request::Put(Add { ttl: *ttl, id, session }),
        (Some((ttl, session)), _) => Request::Add(Add { ttl: *ttl, id, session }),
        (None, Op::Get) => Request::Get(id),
        (None, Op::Remove) => Request::Remove(id),
        (None, Op::Take) => Request::Take(id),
        (None, _) => Request::Have(id),
    }
}

/// How many bytes these messages took.
fn behind(messages: &[(u32, u8, Vec<u8>)]) -> usize {
    let wire = |len: usize| len + 14 * len.div_ceil(2_048).max(1);
    messages.iter().map(|(.., payload)| wire(payload.len())).sum()
}
