//! The result of a load, as one machine-readable line.

use std::fmt;
use std::io;
use std::time::Duration;

use distcache_core::wire::Op;

use crate::check::Histogram;
use crate::net::address::{Address, AddressError, ResolveError};
use crate::reason::{NotConnected, Refused};

/// The result of a load without a wrong answer. Prints as one line of `name=value` pairs, times in us.
#[derive(Clone, Debug)]
pub struct Report {
    /// The duration of the measurement.
    pub elapsed: Duration,
    /// The number of GETs.
    pub gets: u64,
    /// The number of GETs that found their session.
    pub hits: u64,
    /// The number of ADDs.
    pub adds: u64,
    /// The durations of the requests; with a connection for each, connecting included.
    pub latencies: Histogram,
}

/// Why a load stopped before its end.
#[derive(Debug)]
pub enum Failure {
    /// Options exclude each other; the reason.
    Config(&'static str),
    /// The address is only for listening.
    Address(AddressError),
    /// The host has no address.
    Resolve(ResolveError),
    /// Connecting to this address failed.
    Connect(Address, io::ErrorKind),
    /// A connection to this address was closed before its first answer.
    Refused(Address),
    /// The server closed a connection with open requests.
    Closed,
    /// There was no answer for this long.
    Silent(Duration),
    /// An answer was wrong.
    Wrong {
        /// The operation.
        op: Op,
        /// The number of the session.
        session: u32,
        /// What is wrong.
        why: &'static str,
    },
    /// A system call failed.
    Io(io::Error),
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ops, seconds) = (self.latencies.count(), self.elapsed.as_secs_f64());
        write!(f, "ops/s={:.0}", ops as f64 / seconds.max(f64::MIN_POSITIVE))?;
        write!(f, " hit={:.4}", self.hits as f64 / self.gets.max(1) as f64)?;
        for (name, per_mille) in [("p50", 500), ("p90", 900), ("p99", 990), ("p99.9", 999)] {
            write!(f, " {name}={:.1}", micros(self.latencies.quantile(per_mille)))?;
        }
        write!(f, " max={:.1} ops={ops}", micros(self.latencies.max()))?;
        write!(f, " gets={} adds={} seconds={seconds:.3}", self.gets, self.adds)
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(why) => f.write_str(why),
            Self::Address(error) => error.fmt(f),
            Self::Resolve(error) => error.fmt(f),
            Self::Connect(address, kind) => NotConnected(address, *kind).fmt(f),
            Self::Refused(address) => Refused(address).fmt(f),
            Self::Closed => f.write_str("the server closed a connection with requests open"),
            Self::Silent(time) => write!(f, "no answer for {} s", time.as_secs()),
            Self::Wrong { op, session, why } => {
                write!(f, "{} of session {session} was answered wrong: {why}", op.name())
            }
            Self::Io(error) => write!(f, "the loop cannot run: {error}"),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}
