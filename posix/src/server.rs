//! What `dc_server` does: a [`Server`] on sockets.

use std::fmt;
use std::io;

use std::time::Duration;

use distcache_core::server::{self, ClientSlot, Operations, Store};
use distcache_core::table::Line;
use distcache_core::{Array, Counters, Instant, Layout, Limits, Pool, Server, SetupError, Table};

use crate::event_loop::EventLoop;
use crate::event_loop::report::{Report, Reporter};
use crate::memory::Memory;
use crate::net::poller::Events;
use crate::process::start::Started;
use crate::sys;
use crate::trim::Trim;

/// Bytes of each buffer: more than the largest message, to receive many requests at a time. Not a
/// power of two, so that the beginnings of buffers do not compete for the same lines of a cache.
pub(crate) const BUFFER_LEN: usize = 17 << 12;

/// How a server is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// The most sessions that it holds: 1 to [`Layout::SESSIONS_MAX`].
    pub sessions: u32,
    /// The most bytes that sessions and their ids take; `None` for 2 KiB a session, and 64 MiB at
    /// least.
    pub max_bytes: Option<u64>,
    /// The most clients at a time: 1 or more.
    pub clients: usize,
    /// What clients may do.
    pub limits: Limits,
    /// The shortest lifetime of sessions: see [`server::Config::min_lifetime`].
    pub min_lifetime: Duration,
    /// The longest lifetime of sessions: see [`server::Config::max_lifetime`].
    pub max_lifetime: Duration,
    /// After how many operations a line is printed, at the end of the turn that reached them; 0 for no
    /// lines.
    pub progress: u32,
}

/// Why a server can't start.
#[derive(Debug)]
pub enum RunError {
    /// Sessions and bytes give no table that fits this machine's address space.
    Layout,
    /// The machine cannot be set up with what it was given.
    Setup(SetupError),
    /// There are fewer bytes than one session takes.
    Bytes(u64),
    /// The system does not give so much memory, of which these options ask for less.
    Memory(usize, &'static str, io::Error),
    /// Something else failed.
    Io(io::Error),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout => f.write_str("-sessions and -maxmem ask for more than can be addressed"),
            Self::Bytes(bytes) => {
                let least = Layout::BYTES_MIN;
                write!(f, "-maxmem {bytes}: too small: at least {least} bytes for one session")
            }
            Self::Setup(error) => error.fmt(f),
            Self::Memory(bytes, options, error) => {
                write!(f, "no {bytes} bytes of memory ({error}): ask for less with {options}")
            }
            Self::Io(error) => write!(f, "the loop can't run: {error}"),
        }
    }
}

impl std::error::Error for RunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bytes(_) | Self::Layout | Self::Setup(_) => None,
            Self::Memory(_, _, error) | Self::Io(error) => Some(error),
        }
    }
}

impl From<io::Error> for RunError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Serves until a signal ends it, or no client can come any more.
///
/// All memory is taken before the service is said to have started; from then on
/// nothing is allocated.
///
/// # Errors
/// [`RunError`]; after the start only where the system's polling itself fails.
pub fn run(config: &Config, mut started: Started) -> Result<(), RunError> {
    start(config, &mut started).or_else(|error| started.fail(error))
}

fn start(config: &Config, started: &mut Started) -> Result<(), RunError> {
    let layout = match config.max_bytes {
        Some(bytes) if bytes < Layout::BYTES_MIN => return Err(RunError::Bytes(bytes)),
        Some(bytes) => Layout::new(config.sessions, bytes),
        None => Layout::for_sessions(config.sessions),
    };
    let layout = layout.ok_or(RunError::Layout)?;
    let mut table_memory = memory(layout.size(), "-sessions or -maxmem")?;
    table_memory.advise_huge();
    let sizes =
        server::Sizes { buffer_len: BUFFER_LEN, ..server::Sizes::for_clients(config.clients) };
    let pool = Pool::new(memory(sizes.bytes(), "-maxconn")?, sizes.buffer_len);
    let slots: Vec<ClientSlot> = sizes.slots().collect();
    let table = new_table(&mut table_memory, layout)?;
    let server_config = server::Config {
        min_lifetime: config.min_lifetime,
        max_lifetime: config.max_lifetime,
        ..server::Config::new(config.limits)
    };
    let server = Server::new(slots, pool, server_config, table).map_err(RunError::Setup)?;
    started.provide_descriptors(config.clients, 0);
    let (listeners, signals) = started.take();
    let mut event_loop = EventLoop::new(server, config.clients, 0, listeners, signals)?;
    started.ready();
    let mut progress = Progress::new(config.progress, started.foreground());
    let mut reporter = Reporter::default();
    let mut trim = Trim::default();
    let mut events = Events::new();
    loop {
        let deadlines = [progress.deadline(), reporter.deadline(), trim.deadline()];
        let now = event_loop.wait(&mut events, deadlines.into_iter().flatten().min())?;
        event_loop.turn(now, &events);
        trim.end_turn(now, &mut event_loop.machine);
        progress.report(now, &event_loop.machine, started);
        if reporter.end_turn(now, &event_loop, started) {
            return Ok(());
        }
    }
}

impl<M, C, B> Report for Server<Table<M>, C, B>
where
    M: Array<Line>,
    C: Array<ClientSlot>,
    B: Array<u8>,
{
    fn counters(&self) -> Counters {
        self.counters()
    }

    fn report(&self, started: &Started) {
        let Operations { total, gets, hits, adds, existing, no_room, invalid } = self.operations();
        let evicted = self.store().counters().evicted;
        started.info(format_args!(
            "{total} requests: {hits} of {gets} GETs found; {adds} ADDs: {existing} already there, \
             {no_room} without room, {invalid} out of range; {evicted} sessions evicted"
        ));
    }
}

/// Memory that is zero, and taken from the system as it is used; `options` ask for less of it.
pub(crate) fn memory(len: usize, options: &'static str) -> Result<Memory, RunError> {
    Memory::zeroed(len).map_err(|error| RunError::Memory(len, options, error))
}

/// A table whose places no client can know before: the key that ids are hashed with is its own.
fn new_table(memory: &mut [u8], layout: Layout) -> Result<Table<&mut [Line]>, RunError> {
    Table::in_memory(layout, random_key()?, memory).map_err(|_| RunError::Layout)
}

fn random_key() -> io::Result<[u8; 16]> {
    let mut key = [0; 16];
    sys::random(&mut key)?;
    Ok(key)
}

/// The lines of `-progress`: one at least every so many operations, and in the foreground one a
/// second at most whenever the number of operations or of sessions has changed.
struct Progress {
    every: u64,
    foreground: bool,
    reported_at: Instant,
    reported: (Operations, usize),
    changed: bool,
}

impl Progress {
    fn new(every: u32, foreground: bool) -> Self {
        Self {
            every: every.into(),
            foreground,
            reported_at: Instant::ORIGIN,
            reported: Default::default(),
            changed: false,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.changed.then(|| self.reported_at.after(1000))
    }

    fn report<S: Store, C, B>(
        &mut self,
        now: Instant,
        server: &Server<S, C, B>,
        started: &Started,
    ) {
        if self.every == 0 {
            return;
        }
        let (operations, sessions) = (server.operations(), server.store().len());
        let new = operations.total - self.reported.0.total;
        self.changed = self.foreground && (operations, sessions) != self.reported;
        let second = self.changed && now.since(self.reported_at) >= 1000;
        if new < self.every && !second {
            return;
        }
        let (sign, change) = match sessions.cmp(&self.reported.1) {
            std::cmp::Ordering::Less => ('-', self.reported.1 - sessions),
            std::cmp::Ordering::Equal => ('=', 0),
            std::cmp::Ordering::Greater => ('+', sessions - self.reported.1),
        };
        let total = operations.total;
        started.print(format_args!(
            "total operations {total} (+ {new}), total sessions {sessions} ({sign} {change})"
        ));
        (self.reported, self.reported_at, self.changed) = ((operations, sessions), now, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use distcache_core::id::Id;

    /// The memory of a table that has held the same as every other one of these.
    fn filled() -> Vec<u8> {
        let layout = Layout::new(1000, 1 << 20).unwrap();
        let mut memory = vec![0; layout.size()];
        let mut table = new_table(&mut memory, layout).unwrap();
        for number in 0..16_u8 {
            let id = [number; 8];
            table.add(Instant::ORIGIN, 1000, Id::new(&id).unwrap(), b"session").unwrap();
        }
        memory
    }

    #[test]
    fn each_table_has_places_of_its_own_for_the_same_ids() {
        assert_ne!(filled(), filled());
    }

    #[test]
    fn each_key_is_another_and_random_from_end_to_end() {
        let keys: [[u8; 16]; 32] = std::array::from_fn(|_| random_key().unwrap());
        for at in 0..16 {
            assert!(keys.iter().any(|key| key[at] != keys[0][at]), "byte {at} is always the same");
        }
    }
}
