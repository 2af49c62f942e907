//! Random requests whose every answer is checked: what `dc_test` does.
//!
//! It sends one request at a time, about one of a set of random sessions. Each session is known to be
//! stored, not stored, or about to expire. The first wrong answer ends the run.
//!
//! The server must have room for all sessions, and no other client may use them: two runs with the same
//! seed disturb each other.

mod expect;
mod histogram;
mod report;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::time::{Duration, Instant};

use distcache_core::id::Id;
use distcache_core::message::{ADD_FIXED_LEN, SESSION_MIN, Status, TTL_MAX};
use distcache_core::wire::{Op, PAYLOAD_MAX};
use fastrand::Rng;

use crate::client::{AddError, BuildError, Client};
use crate::net::address::Address;
use expect::{Known, Presence, Span};
pub use histogram::Histogram;
pub use report::{Failure, Fault, Report};

/// The operations that every server has, the C original included.
const OPS: [Op; 4] = [Op::Add, Op::Get, Op::Remove, Op::Have];
/// The lengths of ids.
const ID_LENS: std::ops::RangeInclusive<usize> = 10..=63;
/// The additional bytes of a session with a client certificate.
const CERT_LENS: std::ops::RangeInclusive<usize> = 1500..=2000;
/// The deadline of an answer. On a busy machine a cache may be slow, which is not a wrong answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of a run. The default is that of the program without options.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The number of sessions: 1 or more.
    pub sessions: u32,
    /// The least bytes of a session: 5 or more, since fewer look like a status.
    pub datamin: usize,
    /// The most bytes of a session: up to 32697, which fill a message with the longest id.
    pub datamax: usize,
    /// The number of sessions with the size of a client certificate: 1500 to 2000 bytes more.
    pub withcert: u32,
    /// The lifetime of a session, in seconds.
    pub timeout: u32,
    /// The greatest deviation of a lifetime, up or down, in seconds.
    pub timevar: u32,
    /// The number of operations; `None` for 10 x sessions x sessions.
    pub ops: Option<u64>,
    /// Print a line after every this many operations; 0 for no lines.
    pub progress: u64,
    /// Use one connection for all operations instead of one for each.
    pub persistent: bool,
    /// The seed of all random numbers; `None` for a random one. The same seed sends the same requests.
    pub seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sessions: 10,
            datamin: 50,
            datamax: 2100,
            withcert: 0,
            timeout: 60,
            timevar: 5,
            ops: None,
            progress: 0,
            persistent: false,
            seed: None,
        }
    }
}

impl Config {
    /// The number of operations of the run.
    pub fn operations(&self) -> u64 {
        let sessions = u64::from(self.sessions);
        self.ops.unwrap_or_else(|| sessions.saturating_mul(sessions).saturating_mul(10))
    }

    /// Checks the combination of settings.
    ///
    /// # Errors
    /// [`Failure::Config`] with the option that is out of range.
    pub fn check(&self) -> Result<(), Failure> {
        let cert = if self.withcert > 0 { *CERT_LENS.end() } else { 0 };
        let most = PAYLOAD_MAX - ADD_FIXED_LEN - ID_LENS.end() - cert;
        let wrong = if self.sessions == 0 {
            "-sessions must be 1 or more"
        } else if self.datamin < SESSION_MIN {
            "-datamin must be 5 or more: a shorter session cannot be told from a status"
        } else if self.datamin > self.datamax {
            "-datamin must not be above -datamax"
        } else if self.datamax > most {
            "-datamax must leave a session in one message: at most 32697, less 2000 with -withcert"
        } else if self.withcert > self.sessions {
            "-withcert must not be above -sessions"
        } else if self.timevar >= self.timeout {
            "-timevar must be below -timeout"
        } else if u64::from(self.timeout) + u64::from(self.timevar) > u64::from(TTL_MAX) / 1000 {
            "-timeout and -timevar must not be above 604800 together"
        } else {
            return Ok(());
        };
        Err(Failure::Config(wrong))
    }
}

/// Runs against the server at `address`. Prints to `out`: first the seed, then progress, then the
/// report.
///
/// # Errors
/// [`Failure`] if the run stopped before its end.
pub fn run(config: &Config, address: &Address, out: &mut dyn Write) -> Result<Report, Failure> {
    config.check()?;
    let seed = config.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    let builder = Client::builder(address).timeout(ANSWER_TIMEOUT);
    let builder = match config.persistent {
        true => builder.connect_on_build(),
        false => builder.connection_per_operation(),
    };
    let client = builder.build().map_err(|error| {
        let first = match &error {
            BuildError::Connect(failure) => Failure::of_first(address, failure),
            _ => None,
        };
        first.unwrap_or(Failure::Client(error))
    })?;
    let ops = config.operations();
    writeln!(out, "{} sessions, {ops} operations, -seed {seed}", config.sessions)?;
    out.flush()?;
    let mut check = Check::new(config, seed, address, client);
    if config.seed.is_some() {
        check.clear()?;
    }
    let mut latencies = Histogram::new();
    let started = Instant::now();
    for right in 0..ops {
        latencies.record(check.run_one(right)?);
        if config.progress > 0 && (right + 1) % config.progress == 0 {
            writeln!(out, "{} of {ops} operations, all right", right + 1)?;
            out.flush()?;
        }
    }
    let report = Report { ops, elapsed: started.elapsed(), latencies };
    writeln!(out, "{report}")?;
    out.flush()?;
    Ok(report)
}

struct Check<'a> {
    address: &'a Address,
    client: Client,
    /// Whether the server has answered at all.
    answered: bool,
    seed: u64,
    random: Rng,
    sessions: Vec<Session>,
}

struct Session {
    id: Vec<u8>,
    data: Vec<u8>,
    life: Duration,
    known: Known,
}

impl<'a> Check<'a> {
    fn new(config: &Config, seed: u64, address: &'a Address, client: Client) -> Self {
        let mut random = Rng::with_seed(seed);
        let sessions = (0..config.sessions).map(|number| {
            let has_cert = number < config.withcert;
            Session::random(config, has_cert, &mut random)
        });
        let sessions = sessions.collect();
        Self { address, client, answered: false, seed, random, sessions }
    }

    /// Removes the sessions that an earlier run with the same seed may have left.
    fn clear(&mut self) -> Result<(), Failure> {
        for session in &self.sessions {
            let done = self.client.remove(session.id());
            done.map_err(|why| self.failure(0, Op::Remove, session, Fault::NoAnswer(why)))?;
            self.answered = true;
        }
        Ok(())
    }

    /// Makes a random operation on a random session and returns how long it took.
    fn run_one(&mut self, right: u64) -> Result<Duration, Failure> {
        let op = self.random.choice(OPS).unwrap_or(Op::Get);
        let number = self.random.usize(..self.sessions.len());
        let session = &self.sessions[number];
        let sent = Instant::now();
        let answer = session.ask(&self.client, op);
        let span = Span { sent, answered: Instant::now() };
        match answer.and_then(|answer| session.judge(op, answer, span)) {
            Ok(known) => {
                self.sessions[number].known = known;
                self.answered = true;
            }
            Err(fault) => return Err(self.failure(right, op, session, fault)),
        }
        Ok(span.answered.duration_since(span.sent))
    }

    fn failure(&self, right: u64, op: Op, session: &Session, fault: Fault) -> Failure {
        if let Fault::NoAnswer(why) = &fault
            && !self.answered
            && let Some(failure) = Failure::of_first(self.address, why)
        {
            return failure;
        }
        Failure::Operation { right, op, id: session.id.clone().into(), fault, seed: self.seed }
    }
}

/// The answer to any operation.
enum Answer {
    /// Whether the session is stored, or was before the operation.
    There(bool),
    /// The session itself.
    Session(Vec<u8>),
    /// The ADD was refused with another status than `ADD_EXISTS`.
    Refused(Status),
}

impl Session {
    fn random(config: &Config, has_cert: bool, random: &mut Rng) -> Self {
        let cert = if has_cert { random.usize(CERT_LENS) } else { 0 };
        let mut id = vec![0; random.usize(ID_LENS)];
        let mut data = vec![0; random.usize(config.datamin..=config.datamax) + cert];
        random.fill(&mut id);
        random.fill(&mut data);
        let (mean, var) = (u64::from(config.timeout) * 1000, u64::from(config.timevar) * 1000);
        let life = Duration::from_millis(random.u64(mean - var..=mean + var));
        Self { id, data, life, known: Known::Absent }
    }

    fn id(&self) -> Id<'_> {
        Id::new(&self.id).expect("10 to 63 bytes are an id")
    }

    fn ask(&self, client: &Client, op: Op) -> Result<Answer, Fault> {
        let answer = match op {
            Op::Add => match client.add(self.id(), &self.data, self.life) {
                Ok(()) => Ok(Answer::There(false)),
                Err(AddError::Refused(Status::ADD_EXISTS)) => Ok(Answer::There(true)),
                Err(AddError::Refused(status)) => Ok(Answer::Refused(status)),
                Err(AddError::TooLarge) => Ok(Answer::Refused(Status::ADD_DATA)),
                Err(AddError::Failed(why)) => Err(why),
            },
            Op::Get => client
                .get(self.id())
                .map(|found| found.map_or(Answer::There(false), Answer::Session)),
            Op::Remove => client.remove(self.id()).map(Answer::There),
            Op::Have => client.has(self.id()).map(Answer::There),
            // Not in OPS.
            Op::Put | Op::Take | Op::Fetch | Op::Repair | Op::Copy => {
                Ok(Answer::Refused(Status::UNSUPPORTED))
            }
        };
        answer.map_err(Fault::NoAnswer)
    }

    /// Checks an answer and returns what is known of the session afterwards.
    fn judge(&self, op: Op, answer: Answer, span: Span) -> Result<Known, Fault> {
        let presence = self.known.presence(span);
        let wrong = |found: String| Err(Fault::Wrong { expected: expected(op, presence), found });
        let there = match answer {
            Answer::There(there) => there,
            Answer::Session(data) if data == self.data => true,
            Answer::Session(data) => return wrong(self.difference(&data)),
            Answer::Refused(status) => {
                return wrong(format!(
                    "{} (status {})",
                    status.name().unwrap_or("unknown"),
                    status.0
                ));
            }
        };
        if !presence.allows(there) {
            return wrong(words(op, there).to_owned());
        }
        Ok(match (op, there) {
            (Op::Add, false) => Known::stored(span, self.life),
            (Op::Remove, _) | (_, false) => Known::Absent,
            (_, true) => self.known,
        })
    }

    fn difference(&self, found: &[u8]) -> String {
        let same = self.data.iter().zip(found).take_while(|(a, b)| a == b).count();
        let (found, stored) = (found.len(), self.data.len());
        format!("{found} bytes that differ from the {stored} stored at byte {same}")
    }
}

fn expected(op: Op, presence: Presence) -> &'static str {
    match (op, presence) {
        (_, Presence::There) => words(op, true),
        (_, Presence::Absent) => words(op, false),
        (Op::Get, Presence::Either) => "the session, or not there",
        (_, Presence::Either) => "there, or not there",
    }
}

/// An answer in words.
fn words(op: Op, there: bool) -> &'static str {
    match (op, there) {
        (Op::Add, true) => "already there",
        (Op::Add, false) => "stored",
        (Op::Get | Op::Take | Op::Fetch | Op::Copy, true) => "the session",
        (Op::Remove, true) => "removed",
        (Op::Have | Op::Put | Op::Repair, true) => "there",
        (_, false) => "not there",
    }
}
