//! What `dc_server` runs: a [`Server`] on sockets.

mod copies;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use distcache_core::server::SOURCES_MAX;
use distcache_core::server::{self, ClientSlot, Operations, Store, Tracked};
use distcache_core::table::Line;
use distcache_core::{Array, Counters, Instant, Layout, Limits, Pool, Server, SetupError, Table};

use crate::clock::Clock;
use crate::event_loop::EventLoop;
use crate::event_loop::report::{Report, Reporter, report};
use crate::handover::{self, Handover, TakeError};
use crate::memory::{self, BUFFER_LEN, LockError, Memory};
use crate::net::address::Address;
use crate::net::poller::Events;
use crate::net::resolver::Resolver;
use crate::process::start::Started;
use crate::seal_keys::KeyFileError;
use crate::state::{self, Keeping};
use crate::sys;
use crate::trim::Trim;

/// Server configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The most sessions stored at a time: 1 to [`Layout::SESSIONS_MAX`].
    pub sessions: u32,
    /// The most bytes of sessions and their ids; `None` for 2 KiB for each of `sessions`, and at least
    /// 64 MiB.
    pub max_bytes: Option<u64>,
    /// The most clients at a time: 1 or more.
    pub clients: usize,
    /// Limits on each client.
    pub limits: Limits,
    /// The shortest lifetime of sessions: see [`server::Config::min_lifetime`].
    pub min_lifetime: Duration,
    /// The longest lifetime of sessions: see [`server::Config::max_lifetime`].
    pub max_lifetime: Duration,
    /// Print a line of progress every so many operations; 0 for none.
    pub progress: u32,
    /// The file that keeps the sessions while the server does not run.
    pub state: Option<state::Config>,
    /// Let every client list all sessions: see [`server::Config::allow_copy`].
    pub allow_copy: bool,
    /// Servers to copy the sessions of at the start: up to [`server::SOURCES_MAX`].
    pub copy_from: Vec<Address>,
    /// How often proxies attempt to connect: see [`server::Config::proxy_retry`].
    pub proxy_retry: Duration,
    /// The address of this server at proxies with two copies, to copy only what they keep here.
    pub copy_share: Option<Address>,
}

/// An error that ends a server or a proxy, mostly before it has started.
#[derive(Debug)]
pub enum RunError {
    /// A table for so many sessions and bytes exceeds the address space.
    Layout,
    /// The machine rejects its configuration.
    Setup(SetupError),
    /// The bytes given are too few for one session.
    Bytes(u64),
    /// The system refuses so many bytes of memory; the options determine how many are needed.
    Memory(usize, &'static str, io::Error),
    /// The system refuses to lock the memory.
    Lock(LockError),
    /// Taking over from the running server failed.
    Handover(TakeError),
    /// A system call of the event loop failed.
    Io(io::Error),
    /// The state file cannot be written, or cannot be removed after it was read.
    State(PathBuf, String),
    /// The file of the keys is refused.
    SealKeys(KeyFileError),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout => f.write_str("-sessions and -maxmem exceed the address space"),
            Self::Bytes(bytes) => {
                let least = Layout::BYTES_MIN;
                write!(f, "-maxmem {bytes} is too small: one session needs {least} bytes")
            }
            Self::Setup(error) => error.fmt(f),
            Self::Memory(bytes, options, error) => {
                write!(f, "cannot allocate {bytes} bytes ({error}): lower {options}")
            }
            Self::Lock(error) => error.fmt(f),
            Self::Handover(error) => error.fmt(f),
            Self::Io(error) => write!(f, "the event loop failed: {error}"),
            Self::SealKeys(error) => error.fmt(f),
            Self::State(path, reason) => {
                write!(
                    f,
                    "-state {}: {reason}; use a directory of the server's user",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for RunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bytes(_) | Self::Layout | Self::Setup(_) | Self::State(..) => None,
            Self::Handover(_) => None,
            Self::Lock(error) => error.source(),
            Self::Memory(_, _, error) | Self::Io(error) => Some(error),
            Self::SealKeys(error) => Some(error),
        }
    }
}

impl From<io::Error> for RunError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A server whose table is in memory of the caller's.
type OwnedServer<'t> = Server<Tracked<Table<&'t mut [Line]>, Memory>, Vec<ClientSlot>, Memory>;

/// Serves until a signal ends it, or no client is left and none can come any more.
///
/// All memory is allocated before the start is reported.
///
/// # Errors
/// [`RunError`]; after the start only if polling itself fails.
pub fn run(config: &Config, mut started: Started) -> Result<(), RunError> {
    start(config, &mut started).or_else(|error| started.fail(error))
}

fn start(config: &Config, started: &mut Started) -> Result<(), RunError> {
    let layout = layout(config)?;
    // A server that takes over has the sessions already.
    let sources = if started.has_predecessor() { &[][..] } else { &config.copy_from };
    // Before there is memory for them to inherit.
    let resolver = |address| Resolver::new(address, started.is_sandboxed());
    let resolvers = sources.iter().map(resolver).collect::<Result<_, _>>()?;
    let mut keeping = Keeping::start(config.state.as_ref(), started)?;
    let mut table_memory = allocate(layout.size(), "-sessions or -maxmem")?;
    table_memory.advise_huge();
    let mut sizes =
        server::Sizes { buffer_len: BUFFER_LEN, ..server::Sizes::for_clients(config.clients) };
    if !sources.is_empty() {
        sizes.buffers = sizes.buffers.saturating_add(2);
    }
    let mut buffers = allocate(sizes.bytes(), "-maxconn")?;
    if started.locks_memory() {
        memory::lock(&mut [&mut table_memory, &mut buffers]).map_err(RunError::Lock)?;
    }
    let pool = Pool::new(buffers, sizes.buffer_len);
    let slots: Vec<ClientSlot> = sizes.slots().collect();
    let mut table = new_table(&mut table_memory, layout)?;
    let max_ttl = u32::try_from(config.max_lifetime.as_millis()).unwrap_or(u32::MAX);
    // Lifetimes go on while a state is read.
    let clock = Clock::start();
    let takes_over = started.has_predecessor();
    if !takes_over {
        keeping.restore(clock.now(), &mut table, max_ttl, started)?;
    }
    let server_config = server::Config {
        min_lifetime: config.min_lifetime,
        max_lifetime: config.max_lifetime,
        allow_copy: config.allow_copy,
        proxy_retry: config.proxy_retry,
        ..server::Config::new(config.limits)
    };
    // Only a handover needs to know what changes.
    let log_len = if started.has_door() { handover::LOG_LEN } else { 0 };
    let store = Tracked::new(table, allocate(log_len, "-handover")?);
    let mut server = Server::new(slots, pool, server_config, store).map_err(RunError::Setup)?;
    for source in sources {
        server.copy_from(source.to_string().as_bytes());
    }
    if let Some(own) = &config.copy_share {
        server.copy_share(own.to_string().as_bytes());
    }
    started.provide_descriptors(config.clients, sources.len());
    let (listeners, signals) = started.take();
    let mut event_loop = EventLoop::new(server, config.clients, listeners, signals)?;
    event_loop.set_clock(clock);
    event_loop.set_servers(resolvers)?;
    let mut handover = Handover::start(started, &event_loop)?;
    handover::take_over(started, &mut event_loop, &mut handover, max_ttl)
        .map_err(RunError::Handover)?;
    if takes_over {
        keeping.skip();
    }
    started.permit(|permit| sources.iter().for_each(|source| permit.connect(source)));
    started.enter_sandbox();
    run_loop(config, event_loop, keeping, handover, sources, started)
}

fn layout(config: &Config) -> Result<Layout, RunError> {
    let layout = match config.max_bytes {
        Some(bytes) if bytes < Layout::BYTES_MIN => return Err(RunError::Bytes(bytes)),
        Some(bytes) => Layout::new(config.sessions, bytes),
        None => Layout::for_sessions(config.sessions),
    };
    layout.ok_or(RunError::Layout)
}

fn run_loop(
    config: &Config,
    mut event_loop: EventLoop<OwnedServer<'_>>,
    mut keeping: Keeping,
    mut handover: Handover,
    sources: &[Address],
    started: &mut Started,
) -> Result<(), RunError> {
    started.ready();
    copies::advance(event_loop.now(), &mut event_loop, sources, started);
    let mut progress = Progress::new(config.progress, started.foreground());
    let mut reporter = Reporter::default();
    let mut trim = Trim::default();
    let mut events = Events::new();
    loop {
        let deadlines =
            [progress.deadline(), reporter.deadline(), trim.deadline(), keeping.deadline()];
        let deadlines = deadlines.into_iter().chain([handover.deadline()]);
        let now = event_loop.wait(&mut events, deadlines.flatten().min())?;
        event_loop.turn(now, &events);
        copies::advance(now, &mut event_loop, sources, started);
        trim.end_turn(now, &mut event_loop.machine);
        progress.report(now, &event_loop.machine, started);
        if event_loop.take_reload() {
            keeping.reload(started);
        }
        keeping.turn(now, event_loop.machine.store(), started);
        if reporter.end_turn(now, &event_loop, started) {
            keeping.finish(now, event_loop.machine.store(), started);
            return Ok(());
        }
        if handover.end_turn(now, &events, &mut event_loop, started) {
            report(&event_loop, started);
            return Ok(());
        }
    }
}

impl<M, L, C, B> Report for Server<Tracked<Table<M>, L>, C, B>
where
    M: Array<Line>,
    L: Array<u8>,
    C: Array<ClientSlot>,
    B: Array<u8>,
{
    fn counters(&self) -> Counters {
        self.counters()
    }

    fn report(&self, started: &Started) {
        let Operations { total, gets, hits, adds, existing, no_room, invalid, repaired } =
            self.operations();
        let evicted = self.store().counters().evicted;
        started.info(format_args!(
            "{total} requests: {hits} of {gets} GETs found; {adds} ADDs: {existing} already there, \
             {no_room} without room, {invalid} out of range; {evicted} sessions evicted, {repaired} repaired"
        ));
    }
}

/// Allocates zeroed memory for sessions, which is [hidden](Memory::hide); `options` are those that
/// determine how much.
pub(crate) fn allocate(len: usize, options: &'static str) -> Result<Memory, RunError> {
    let memory = Memory::zeroed(len).map_err(|error| RunError::Memory(len, options, error));
    memory.map(|mut memory| {
        // Older systems have only the other protections.
        memory.hide();
        memory
    })
}

/// A table whose layout no client can predict: it hashes ids with a random key of its own.
fn new_table(memory: &mut [u8], layout: Layout) -> Result<Table<&mut [Line]>, RunError> {
    Table::in_memory(layout, random_key()?, memory).map_err(|_| RunError::Layout)
}

fn random_key() -> io::Result<[u8; 16]> {
    let mut key = [0; 16];
    sys::random(&mut key)?;
    Ok(key)
}

/// The lines of `-progress`: one every so many operations. In the foreground also one whenever the
/// number of operations or sessions has changed, at most once a second.
struct Progress {
    every: u64,
    foreground: bool,
    reported_at: Instant,
    /// The operations and the number of sessions in the last line.
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

    /// The memory of a table with sessions; every call stores the same ones.
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
