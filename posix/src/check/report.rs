//! What came of a run, for people.

use std::fmt;
use std::io;
use std::time::Duration;

use distcache_core::wire::Op;

use super::histogram::Histogram;
use crate::client::{self, BuildError, FailureKind};
use crate::net::address::Address;
use crate::reason::{NotConnected, Refused, is_closed};

/// A run in which every answer was right.
#[derive(Clone, Debug)]
pub struct Report {
    /// How many operations there were.
    pub ops: u64,
    /// How long they took together.
    pub elapsed: Duration,
    /// How long each took.
    pub latencies: Histogram,
}

/// Why a run stopped.
#[derive(Debug)]
pub enum Failure {
    /// There can be no such run; why.
    Config(&'static str),
    /// There is no client of this address.
    Client(BuildError),
    /// Nobody can be connected to at this address.
    NotConnected(Address, io::ErrorKind),
    /// The first connection to this address was closed before its first answer.
    Refused(Address),
    /// An operation had no answer, or not the right one.
    Operation {
        /// How many operations before it were answered right.
        right: u64,
        /// What was asked.
        op: Op,
        /// About which id.
        id: Box<[u8]>,
        /// What came of it.
        fault: Fault,
        /// What repeats the run.
        seed: u64,
    },
    /// The output could not be written.
    Output(io::Error),
}

/// What was wrong with an answer.
#[derive(Debug)]
pub enum Fault {
    /// There was none.
    None(client::Failure),
    /// It is not what it must be.
    Wrong {
        /// What it had to be.
        expected: &'static str,
        /// What it was.
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
            Self::None(failure) => write!(f, "had no answer: {failure}"),
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
            Self::Operation { fault: Fault::None(failure), .. } => Some(failure),
            _ => None,
        }
    }
}

impl Failure {
    /// Why nothing was ever answered at an address; `None` where an operation tells more.
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
