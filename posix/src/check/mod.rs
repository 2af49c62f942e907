//! A client that asks a server at random and knows every answer: what `dc_test` does.
//!
//! One operation at a time. Each of a set of made-up sessions is at every moment known to be there, or
//! not to be, or to be about to expire; the first answer that does not fit ends the run.
//!
//! The server must have room for all the sessions, and nobody else may use the same ones: two runs of
//! one seed at a time disturb each other.

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

use crate::client::{AddError, Client, Flags, NewError};
use crate::net::address::Address;
use expect::{Known, Presence, Span};
pub use histogram::Histogram;
pub use report::{Failure, Fault, Report};

/// What is asked: what every server has, the original too.
const OPS: [Op; 4] = [Op::Add, Op::Get, Op::Remove, Op::Have];
/// How long ids are.
const ID_LENS: std::ops::RangeInclusive<usize> = 10..=63;
/// How much longer a session is made by its peer's certificate.
const CERT_LENS: std::ops::RangeInclusive<usize> = 1500..=2000;
/// How long an answer may take: on a busy machine a cache may be slow, and is not wrong for that.
const PATIENCE: Duration = Duration::from_secs(10);

/// What kind of run; the default is that of the program without options.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How many sessions: 1 or more.
    pub sessions: u32,
    /// The least bytes of a session: 5 or more, as less cannot be told from a status.
    pub datamin: usize,
    /// The most bytes of a session: up to 32697, a whole message with the longest id.
    pub datamax: usize,
    /// How many sessions are as large as with a peer's certificate: 1500 to 2000 bytes more.
    pub withcert: u32,
    /// Seconds that a session lives in the cache.
    pub timeout: u32,
    /// Seconds by which that varies, up or down, from one session to the next.
    pub timevar: u32,
    /// How many operations; 10 x sessions x sessions where nothing is said.
    pub ops: Option<u64>,
    /// Print a line every so many operations; never for 0.
    pub progress: u64,
    /// One connection for all operations rather than one for each.
    pub persistent: bool,
    /// Repeats the run of this seed, apart from time; another one each time where nothing is said.
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
    /// How many operations the run has.
    pub fn operations(&self) -> u64 {
        let sessions = u64::from(self.sessions);
        self.ops.unwrap_or_else(|| sessions.saturating_mul(sessions).saturating_mul(10))
    }

    /// Whether there can be such a run.
    ///
    /// # Errors
    /// [`Failure::Config`] says which options do not fit.
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

/// Makes the run against the server at `address`; what there is to tell meanwhile and at the end goes
/// to `out`, the seed first.
///
/// # Errors
/// [`Failure`] where the run stopped before its end.
pub fn run(config: &Config, address: &Address, out: &mut dyn Write) -> Result<Report, Failure> {
    config.check()?;
    let seed = config.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    let flags = if config.persistent { Flags::PERSISTENT } else { Flags::NONE };
    let client = Client::with_timeout(address, flags, PATIENCE).map_err(|error| {
        let first = match &error {
            NewError::Connect(failure) => Failure::of_first(address, failure),
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
        latencies.record(check.ask_one(right)?);
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
    /// Whether anything was ever answered.
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

    /// Removes what an earlier run of the same seed may have left.
    fn clear(&mut self) -> Result<(), Failure> {
        for session in &self.sessions {
            let done = self.client.remove(session.id());
            done.map_err(|why| self.failure(0, Op::Remove, session, Fault::None(why)))?;
            self.answered = true;
        }
        Ok(())
    }

    /// One operation, of a random kind on a random session, and how long it took.
    fn ask_one(&mut self, right: u64) -> Result<Duration, Failure> {
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
        if let Fault::None(why) = &fault
            && !self.answered
            && let Some(failure) = Failure::of_first(self.address, why)
        {
            return failure;
        }
        Failure::Operation { right, op, id: session.id.clone().into(), fault, seed: self.seed }
    }
}

/// What a server said, whatever was asked.
enum Answer {
    /// Whether the session is, or was, there.
    There(bool),
    /// The session itself.
    Session(Vec<u8>),
    /// It was not stored, for another reason than that it is there.
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
        let life = u32::try_from(self.life.as_millis()).unwrap_or(TTL_MAX);
        let answer = match op {
            Op::Add => match client.add(life, self.id(), &self.data) {
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
            // Not in OPS: every server is to be tested in the same way, the original too.
            Op::Put | Op::Take => Ok(Answer::Refused(Status::UNSUPPORTED)),
        };
        answer.map_err(Fault::None)
    }

    /// What is known after this answer, if it is right.
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
            return wrong(says(op, there).to_owned());
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
        (_, Presence::There) => says(op, true),
        (_, Presence::Absent) => says(op, false),
        (Op::Get, Presence::Either) => "the session, or not there",
        (_, Presence::Either) => "there, or not there",
    }
}

/// What an answer means in words, by whether the session is there.
fn says(op: Op, there: bool) -> &'static str {
    match (op, there) {
        (Op::Add, true) => "already there",
        (Op::Add, false) => "stored",
        (Op::Get | Op::Take, true) => "the session",
        (Op::Remove, true) => "removed",
        (Op::Have | Op::Put, true) => "there",
        (_, false) => "not there",
    }
}
