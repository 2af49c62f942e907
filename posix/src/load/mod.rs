//! A steady load on a cache: how many requests it answers, and how long each takes.
//!
//! One thread keeps a number of requests open on each of a number of connections; every answer leads to
//! the next request. All sessions are stored first, then the measurement begins. A given share of the
//! requests are GETs. Each of the others is a REMOVE, followed on the same connection by an ADD that
//! stores the session again. Every answer is checked, and the first wrong one ends the load. During
//! the measurement nothing is allocated.

mod caller;
mod config;
pub mod protocol;
mod report;
pub mod session;
#[cfg(test)]
mod tests;

use std::io;
use std::time::{Duration, Instant};

use distcache_core::buffer::Pool;
use distcache_core::wire::Op;
use fastrand::Rng;

use crate::check::Histogram;
use crate::memory::Memory;
use crate::net::address::{Address, Target};
use crate::net::poller::{Event, Events, Poller, Watched};
use crate::net::stream::{Received, Stream};
use crate::process::limits;
use crate::reason::is_closed;
use caller::Caller;
pub use config::{Config, OPTIONS};
use protocol::{Asked, Protocol};
pub use report::{Failure, Report};
use session::Session;

/// The lifetime of sessions, in milliseconds: as long as the longest load.
const TTL: u32 = 86_400_000;
/// The longest time without any answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The wait before connecting again to a full backlog.
const BACKLOG_WAIT: Duration = Duration::from_millis(1);

/// Runs the load on the server at `address`.
///
/// # Errors
/// [`Failure`] if it stopped before its end.
pub fn run(
    config: &Config,
    protocol: &impl Protocol,
    address: &Address,
) -> Result<Report, Failure> {
    config.check()?;
    address.connectable().map_err(Failure::Address)?;
    let target = *address.resolve().map_err(Failure::Resolve)?.first().ok_or(Failure::Closed)?;
    limits::raise_descriptors(config.clients as u64 + 16);
    let room = config.depth * message_max(config, protocol);
    let mut memory = Memory::zeroed(2 * config.clients * room).map_err(Failure::Io)?;
    let callers = std::iter::repeat_with(|| Caller::new(config.depth)).take(config.clients);
    let mut load = Load {
        config,
        protocol,
        address,
        target,
        poller: Poller::new().map_err(Failure::Io)?,
        pool: Pool::new(&mut memory[..], room),
        callers: callers.collect(),
        random: Rng::with_seed(config.keys.into()),
        stored: if config.store_first { 0 } else { config.keys },
        started: false,
        waiting: 0,
        now: Instant::now(),
        report: Report {
            elapsed: Duration::ZERO,
            gets: 0,
            hits: 0,
            adds: 0,
            latencies: Histogram::new(),
        },
    };
    load.run()?;
    Ok(load.report)
}

/// The most bytes of a request or answer.
fn message_max<P: Protocol>(config: &Config, _: &P) -> usize {
    config.id_len + config.data_len + P::REQUEST_EXTRA.max(P::ANSWER_EXTRA)
}

struct Load<'c, 'm, P> {
    config: &'c Config,
    protocol: &'c P,
    address: &'c Address,
    target: Target,
    poller: Poller,
    pool: Pool<&'m mut [u8]>,
    callers: Vec<Caller>,
    random: Rng,
    /// The number of ADDs sent before the measurement.
    stored: u32,
    /// Whether the measurement has begun.
    started: bool,
    /// The number of callers that wait for a full backlog.
    waiting: usize,
    now: Instant,
    report: Report,
}

impl<P: Protocol> Load<'_, '_, P> {
    /// Connects, stores the sessions, and measures.
    fn run(&mut self) -> Result<(), Failure> {
        let mut events = Events::new();
        for number in 0..self.callers.len() {
            self.connect(number)?;
        }
        if self.stored < self.config.keys {
            self.turns(&mut events, None)?;
        }
        self.now = Instant::now();
        let started = self.now;
        self.started = true;
        self.turns(&mut events, Some(started + self.config.time))?;
        self.report.elapsed = self.now - started;
        Ok(())
    }

    /// Runs the loop until `end`; without one, until all sessions are stored.
    fn turns(&mut self, events: &mut Events, end: Option<Instant>) -> Result<(), Failure> {
        for number in 0..self.callers.len() {
            self.ask(number)?;
        }
        let mut answered_at = self.now;
        loop {
            let pause = if self.waiting > 0 { BACKLOG_WAIT } else { Duration::from_millis(100) };
            self.poller.wait(events, Some(pause)).map_err(Failure::Io)?;
            self.now = Instant::now();
            for event in events.iter() {
                answered_at = self.now;
                self.handle_event(event)?;
            }
            if self.waiting > 0 {
                self.connect_waiting()?;
            }
            let done = match end {
                Some(end) => self.now >= end,
                None => {
                    self.stored == self.config.keys && self.callers.iter().all(|c| c.open() == 0)
                }
            };
            if done {
                return Ok(());
            }
            if self.now - answered_at > ANSWER_TIMEOUT {
                return Err(Failure::Silent(ANSWER_TIMEOUT));
            }
        }
    }

    fn connect(&mut self, number: usize) -> Result<(), Failure> {
        let caller = &mut self.callers[number];
        match Stream::connect(&self.target) {
            Ok((stream, open)) => {
                caller.connecting = open;
                caller.answered = false;
                caller.stream = Some(Watched::new(stream, number));
                caller.watch(&self.poller).map_err(Failure::Io)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.waiting += 1;
                Ok(())
            }
            Err(error) => Err(Failure::Connect(self.address.clone(), error.kind())),
        }
    }

    fn connect_waiting(&mut self) -> Result<(), Failure> {
        self.waiting = 0;
        for number in 0..self.callers.len() {
            if self.callers[number].stream.is_none() {
                self.connect(number)?;
                self.send(number)?;
            }
        }
        Ok(())
    }

    fn handle_event(&mut self, event: Event) -> Result<(), Failure> {
        let number = event.key;
        let caller = &mut self.callers[number];
        let Some(stream) = &caller.stream else { return Ok(()) };
        if caller.connecting {
            let failed = |error: io::Error| Failure::Connect(self.address.clone(), error.kind());
            stream.connected().map_err(failed)?;
            caller.connecting = false;
        } else if event.readable {
            self.receive(number)?;
            self.now = Instant::now();
            let answered = self.answers(number)?;
            if answered && self.started && self.config.short_lived {
                self.callers[number].stream = None;
                self.connect(number)?;
            }
        }
        self.ask(number)
    }

    fn receive(&mut self, number: usize) -> Result<(), Failure> {
        let caller = &mut self.callers[number];
        let Some(stream) = &caller.stream else { return Ok(()) };
        let received = stream.recv(caller.inbox.space(&mut self.pool));
        let len = match received {
            Ok(Received::Bytes(len)) => len,
            Ok(Received::Nothing) => 0,
            Ok(Received::Ended) => return Err(self.closed(number)),
            Err(error) => return Err(self.broken(number, error)),
        };
        caller.inbox.filled(&mut self.pool, len);
        Ok(())
    }

    /// The failure when the server closes a connection.
    fn closed(&self, number: usize) -> Failure {
        match self.callers[number].answered {
            true => Failure::Closed,
            false => Failure::Refused(self.address.clone()),
        }
    }

    fn broken(&self, number: usize, error: io::Error) -> Failure {
        if is_closed(&error) { self.closed(number) } else { Failure::Io(error) }
    }

    /// Checks all complete answers, and returns whether there was one.
    fn answers(&mut self, number: usize) -> Result<bool, Failure> {
        let Self { config, protocol, pool, report, .. } = self;
        let caller = &mut self.callers[number];
        let mut any = false;
        while let Some((asked, sent)) = caller.first()
            && !caller.inbox.is_empty()
        {
            let session = Session::new(asked.session, config.id_len, config.data_len);
            let answer = protocol.answer(&asked, &session, caller.inbox.bytes_mut(pool));
            let Asked { op, session, .. } = asked;
            let Some(answer) = answer.map_err(|why| Failure::Wrong { op, session, why })? else {
                break;
            };
            caller.inbox.consume(pool, answer.len);
            caller.pop();
            caller.answered = true;
            any = true;
            if self.started {
                report.latencies.record(self.now - sent);
                report.gets += u64::from(op == Op::Get);
                report.hits += u64::from(op == Op::Get && answer.done);
                report.adds += u64::from(op == Op::Add);
            }
        }
        Ok(any)
    }

    /// Adds requests up to the depth, and sends them.
    fn ask(&mut self, number: usize) -> Result<(), Failure> {
        while !self.callers[number].is_full() {
            let Some((op, key)) = self.next(number) else { break };
            let caller = &mut self.callers[number];
            caller.uid = caller.uid.wrapping_add(1);
            let asked = Asked { op, session: key, uid: caller.uid };
            let session = Session::new(key, self.config.id_len, self.config.data_len);
            let room = caller.outbox.space(&mut self.pool);
            let len = self.protocol.request(&asked, &session, TTL, room);
            caller.outbox.filled(&mut self.pool, len);
            caller.push(asked, self.now);
        }
        self.send(number)
    }

    /// The next operation on a connection, and its session.
    fn next(&mut self, number: usize) -> Option<(Op, u32)> {
        if !self.started {
            let next = (self.stored < self.config.keys).then_some((Op::Add, self.stored));
            self.stored += u32::from(next.is_some());
            return next;
        }
        let caller = &mut self.callers[number];
        if let Some(session) = caller.removed.take() {
            return Some((Op::Add, session));
        }
        let session = self.random.u32(..self.config.keys);
        // With p percent GETs of all requests, and an ADD for each REMOVE, the share of GETs among GETs
        // and REMOVEs is 2p / (100 + p).
        if self.random.u32(..100 + self.config.get) < 2 * self.config.get {
            return Some((Op::Get, session));
        }
        caller.removed = Some(session);
        Some((Op::Remove, session))
    }

    /// Sends once, and polls for writing if bytes are left.
    fn send(&mut self, number: usize) -> Result<(), Failure> {
        let caller = &mut self.callers[number];
        let Some(stream) = caller.stream.as_ref().filter(|_| !caller.connecting) else {
            return Ok(());
        };
        let sent = match stream.send(caller.outbox.bytes(&self.pool)) {
            Ok(sent) => sent,
            Err(error) => return Err(self.broken(number, error)),
        };
        caller.outbox.consume(&mut self.pool, sent);
        caller.watch(&self.poller).map_err(Failure::Io)
    }
}
