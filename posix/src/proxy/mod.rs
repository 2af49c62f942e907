//! What `dc_client` runs: a [`Proxy`] on sockets.

mod availability;
mod reaches;
mod seal;

use std::time::Duration;

use distcache_core::proxy::{self, InFlightSlot, ServerTraffic, Traffic, Upstream};
use distcache_core::server::ClientSlot;
use distcache_core::{Counters, Limits, Pool, Proxy};

use crate::event_loop::EventLoop;
use crate::event_loop::report::{Report, Reporter};
use crate::memory::{self, BUFFER_LEN, Memory};
use crate::net::address::Address;
use crate::net::poller::Events;
use crate::net::resolver::Resolver;
use crate::process::start::Started;
use crate::server::{RunError, allocate};
use crate::trim::Trim;
use availability::Availability;
pub use reaches::reaches;
pub use seal::SealConfig;
use seal::Sealer;

/// A proxy with its memory.
type OwnedProxy = Proxy<(Vec<ClientSlot>, Vec<InFlightSlot>, Vec<Upstream>, Memory)>;

/// Proxy configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The servers' addresses: 1 to [`proxy::SERVERS_MAX`].
    pub servers: Vec<Address>,
    /// On how many of them each session is stored: 1 or more.
    pub copies: u8,
    /// Whether any server can answer for any id: the one with the fewest requests is asked.
    pub anycast: bool,
    /// The most clients at a time: 1 or more.
    pub clients: usize,
    /// Limits on each client.
    pub limits: Limits,
    /// How long a server may send no answer while a request waits for one, in milliseconds; 0 for no
    /// limit.
    pub server_patience: u64,
    /// The time between two attempts to connect to a server, in milliseconds.
    pub retry: u64,
    /// The shortest lifetime of sessions in milliseconds; shorter ones are raised to it.
    pub min_ttl: u32,
    /// What sessions are sealed with; `None` to pass them in clear.
    pub seal: Option<SealConfig>,
}

/// Forwards requests until a signal ends it, or no client is left and none can come any more.
///
/// All memory is allocated before the start is reported. From then on only the resolvers' processes
/// allocate, for servers whose addresses are names.
///
/// # Errors
/// [`RunError`]; after the start only if polling itself fails.
pub fn run(config: &Config, mut started: Started) -> Result<(), RunError> {
    start(config, &mut started).or_else(|error| started.fail(error))
}

fn start(config: &Config, started: &mut Started) -> Result<(), RunError> {
    let count = config.servers.len();
    // Before there is memory for them to inherit.
    let resolver = |address| Resolver::new(address, started.is_sandboxed());
    let resolvers = config.servers.iter().map(resolver).collect::<Result<_, _>>()?;
    let sizes = proxy::Sizes { buffer_len: BUFFER_LEN, ..proxy::Sizes::new(config.clients, count) };
    let mut buffers = allocate(sizes.bytes(), "-maxconn")?;
    if started.locks_memory() {
        memory::lock(&mut [&mut buffers]).map_err(RunError::Lock)?;
    }
    let pool = Pool::new(buffers, sizes.buffer_len);
    let (slots, in_flight) = (sizes.client_slots().collect(), sizes.in_flight_slots().collect());
    let name = |address: &Address| Upstream::new(address.to_string().as_bytes());
    let servers = config.servers.iter().map(name).collect();
    let &Config { copies, anycast, limits, server_patience, retry, min_ttl, .. } = config;
    let millis = |millis: u64| (millis > 0).then(|| Duration::from_millis(millis));
    let proxy_config = proxy::Config {
        limits,
        server_patience: millis(server_patience),
        retry: Duration::from_millis(retry),
        copies,
        anycast,
        min_lifetime: millis(min_ttl.into()),
    };
    let proxy = OwnedProxy::new(slots, in_flight, servers, pool, proxy_config);
    let proxy = proxy.map_err(RunError::Setup)?;
    started.provide_descriptors(config.clients, count);
    let (listeners, signals) = started.take();
    let mut event_loop = EventLoop::new(proxy, config.clients, listeners, signals)?;
    event_loop.set_servers(resolvers)?;
    started.permit(|permit| {
        config.servers.iter().for_each(|server| permit.connect(server));
        if let Some(seal) = &config.seal {
            permit.read_again(seal.keys.path());
        }
    });
    started.enter_sandbox();
    run_loop(config, event_loop, started)
}

fn run_loop(
    config: &Config,
    mut event_loop: EventLoop<OwnedProxy>,
    started: &mut Started,
) -> Result<(), RunError> {
    let mut sealer = Sealer::start(config, &mut event_loop)?;
    let mut availability: Vec<_> = config.servers.iter().map(|_| Availability::default()).collect();
    event_loop.connect_servers(event_loop.now());
    started.ready();
    // A UNIX socket connects at once, and then no event makes the first turn report it.
    availability::report(&mut availability, &mut event_loop, config, started);
    let mut reporter = Reporter::default();
    let mut trim = Trim::default();
    let mut events = Events::new();
    loop {
        let seal_deadline = sealer.as_ref().and_then(Sealer::deadline);
        let deadlines = [reporter.deadline(), trim.deadline(), seal_deadline];
        let now = event_loop.wait(&mut events, deadlines.into_iter().flatten().min())?;
        if sealer.is_some() {
            Sealer::begin_turn(now, &mut event_loop.machine);
        }
        event_loop.turn(now, &events);
        trim.end_turn(now, &mut event_loop.machine);
        event_loop.connect_servers(now);
        availability::report(&mut availability, &mut event_loop, config, started);
        if let Some(sealer) = &mut sealer {
            sealer.end_turn(now, &mut event_loop, started);
        }
        let servers = || report_servers(&event_loop.machine, config, started);
        if reporter.end_turn_with(now, &event_loop, started, servers) {
            return Ok(());
        }
    }
}

/// Prints the counters of each server.
fn report_servers(proxy: &OwnedProxy, config: &Config, started: &Started) {
    for (number, server) in (0..=u8::MAX).zip(&config.servers) {
        let traffic = proxy.server_traffic(number);
        let ServerTraffic { forwarded, answered, lost, strays, connects, losses, .. } = traffic;
        let ServerTraffic { given_up, repaired, rejected, .. } = traffic;
        started.info(format_args!(
            "{server}: {forwarded} requests forwarded, {answered} answered, {lost} lost; {connects} \
             connections, {losses} lost, {given_up} of them given up; {strays} stray answers; \
             {repaired} sessions repaired"
        ));
        if config.seal.is_some() {
            let rejected = rejected.total();
            started.info(format_args!("{server}: {rejected} sessions did not open"));
        }
    }
}

impl Report for OwnedProxy {
    fn counters(&self) -> Counters {
        self.counters()
    }

    fn report(&self, started: &Started) {
        let Traffic { requests, answered, disconnected, orphaned, .. } = self.traffic();
        started.info(format_args!(
            "{requests} requests: {answered} answered, {disconnected} refused because no server was \
             reachable, {orphaned} abandoned by their clients"
        ));
    }
}
