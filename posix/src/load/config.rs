//! The options of a load.

use std::time::Duration;

use distcache_core::id::ID_MAX;
use distcache_core::message::SESSION_MIN;

use super::report::Failure;
use super::session::ID_MIN;
use crate::options::table::{Entry, Group};
use crate::options::{Options, OptionsError};

/// The longest session that fits into one ADD together with the longest id.
const DATA_MAX: u64 = 32_696;

/// Settings of a load.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The number of connections.
    pub clients: usize,
    /// The number of open requests on each connection.
    pub depth: usize,
    /// The number of sessions.
    pub keys: u32,
    /// Bytes of each id: [`ID_MIN`] to [`ID_MAX`].
    pub id_len: usize,
    /// Bytes of each session: 5 to 32696.
    pub data_len: usize,
    /// The percentage of GETs.
    pub get: u32,
    /// The duration of the measurement.
    pub time: Duration,
    /// Use a connection for each request; `depth` must be 1.
    pub short_lived: bool,
    /// Store all sessions first. Otherwise they must be there already.
    pub store_first: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            clients: 1,
            depth: 1,
            keys: 10_000,
            id_len: 32,
            data_len: 200,
            get: 90,
            time: Duration::ZERO,
            short_lived: false,
            store_first: true,
        }
    }
}

impl Config {
    /// Reads an option of a load; false for another option.
    ///
    /// # Errors
    /// [`OptionsError`] for a missing or invalid value.
    pub fn option(&mut self, name: &str, options: &mut Options) -> Result<bool, OptionsError> {
        match name {
            "conns" => self.clients = options.count(1..=100_000)? as usize,
            "datalen" => {
                self.data_len = options.bytes(SESSION_MIN as u64..=DATA_MAX)? as usize;
            }
            "depth" => self.depth = options.count(1..=4096)? as usize,
            "get" => self.get = options.number(0..=100)? as u32,
            "idlen" => self.id_len = options.number(ID_MIN as u64..=ID_MAX as u64)? as usize,
            "keys" => self.keys = options.count(1..=1 << 24)? as u32,
            "nostore" => self.store_first = false,
            "seconds" => {
                let limits = Duration::from_millis(1)..=Duration::from_secs(86_400);
                self.time = options.duration(limits)?;
            }
            "shortlived" => self.short_lived = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Checks the combination of settings.
    ///
    /// # Errors
    /// [`Failure::Config`] with the options that exclude each other.
    pub fn check(&self) -> Result<(), Failure> {
        if self.short_lived && self.depth > 1 {
            return Err(Failure::Config("-shortlived and -depth do not go together"));
        }
        Ok(())
    }
}

/// The options that [`Config::option`] reads.
pub const OPTIONS: Group = Group {
    title: "Measure",
    options: &[
        Entry::valued(&["seconds"], "s", "measure for that long"),
        Entry::valued(&["conns"], "n", "how many connections").default("1"),
        Entry::valued(&["depth"], "n", "how many requests are open on each").default("1"),
        Entry::valued(&["keys"], "n", "how many sessions, stored before the clock runs")
            .default("10000"),
        Entry::valued(&["idlen"], "bytes", "bytes of each id, 8 to 64").default("32"),
        Entry::valued(&["datalen"], "bytes", "bytes of each session, 5 to 32696").default("200"),
        Entry::valued(
            &["get"],
            "percent",
            "how many requests are GETs; the others are REMOVE and ADD in turn",
        )
        .default("90"),
        Entry::switch(&["shortlived"], "a connection for every request"),
        Entry::switch(&["nostore"], "the sessions are there from an earlier run"),
    ],
};
