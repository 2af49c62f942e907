//! The result of a run, as text.

use std::fmt;
use std::io;
use std::time::Duration;

use distcache_core::wire::Op;

use super::histogram::Histogram;
use crate::client::{self, BuildError, FailureKind};
use crate::net::address::Address;
use crate::reason::{NotConnected, Refused, is_closed};

/// The result of a run without a wrong answer.
#[derive(Clone, Debug)]
pub struct Report {
    /// The number of operations.
    pub ops: u64,
    /// The duration of the run.
    pub elapsed: Duration,
    /// The durations of the operations.
    pub latencies: Histogram,
}

/// Why a run stopped.
#[derive(Debug)]
pub enum Failure {
    /// An option is out of range; the reason.
    Config(&'static str),
    /// No client of this address could be made.
    Client(BuildError),
    /// Connecting to this address failed.
    NotConnected(Address, io::ErrorKind),
    /// The first connection to this address was closed before its first answer.
    Refused(Address),
    /// An operation had no answer, or not the right one.
    Operation {
        /// The number of right answers before it.
        right: u64,
        /// The operation.
        op: Op,
        /// The id of the session.
        id: Box<[u8]>,
        /// What was wrong.
        fault: Fault,
        /// The seed that repeats the run.
        seed: u64,
    },
    /// The output could not be written.
    Output(io::Error),
}

/// What was wrong with an answer.
#[derive(Debug)]
pub enum Fault {
    /// There was no answer.
    NoAnswer(client::Failure),
    /// The answer is wrong.
    Wrong {
        /// The right answer.
        expected: &'static str,
        /// The answer of the server.
        found: String,
    },
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        let rate = if seconds > 0.0 { self.ops as f64 / seconds } else { 0.0 };
        writeln!(f, "{} operations, all right, in {seconds:.3} s: {rate:.0} a second", self.ops)?;
        f.write_str("latency:")?;
        for (name, per_mille) in [("p50", 500), ("p90", 900), ("p99", 990), ("p99.9", 999)] {
            write!(f, " {name} {},", Micros(self.latencies.quantile(per_mille)))?;
        }
        write!(f, " max {}", Micros(self.latencies.max()))
    }
}

struct Micros(Duration);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} us", self.0.as_secs_f64() * 1e6)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(why) => f.write_str(why),
            Self::Client(error) => error.fmt(f),
            Self::NotConnected(address, kind) => NotConnected(address, *kind).fmt(f),
            Self::Refused(address) => Refused(address).fmt(f),
            Self::Operation { right, op, id, fault, seed } => {
                write!(f, "operation {}, {} of id ", right + 1, op.name())?;
                id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                write!(f, ", {fault}; the {right} before it were right (repeat with -seed {seed})")
            }
            Self::Output(error) => write!(f, "cannot write the output: {error}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer(failure) => write!(f, "had no answer: {failure}"),
            Self::Wrong { expected, found } => {
                write!(f, "was answered '{found}' and not '{expected}'")
            }
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Client(error) => error.source(),
            Self::Output(error) => Some(error),
            Self::Operation { fault: Fault::NoAnswer(failure), .. } => Some(failure),
            _ => None,
        }
    }
}

impl Failure {
    /// The failure of a run whose first request had no answer; `None` if an operation explains it better.
    pub(super) fn of_first(address: &Address, failure: &client::Failure) -> Option<Self> {
        match failure.kind() {
            FailureKind::Connect(error) => Some(Self::NotConnected(address.clone(), error.kind())),
            FailureKind::Closed => Some(Self::Refused(address.clone())),
            FailureKind::Io(error) if is_closed(error) => Some(Self::Refused(address.clone())),
            _ => None,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}
