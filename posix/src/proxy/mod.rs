//! What `dc_client` does: a proxy on sockets.

mod dialer;
mod own;

use distcache_core::buffer::Pool;
use distcache_core::clients::{Counters, Limits};
use distcache_core::proxy::{self, Proxy, ServerTraffic, Traffic, Upstream};
use distcache_core::slots::Slot;

use crate::event_loop::EventLoop;
use crate::event_loop::report::{Report, Reporter};
use crate::net::address::Address;
use crate::net::poller::Events;
use crate::process::start::Started;
use crate::server::{BUFFER_LEN, RunError, memory};
use crate::trim::Trim;
use dialer::Dialer;
pub use own::reaches;

/// How a proxy is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the servers are: 1 to [`proxy::SERVERS_MAX`].
    pub servers: Vec<Address>,
    /// How many of them hold each session: 1 or more.
    pub copies: u8,
    /// Any server will do for any id: the one with the fewest requests is asked.
    pub anycast: bool,
    /// The most clients at a time: 1 or more.
    pub clients: usize,
    /// What clients may do.
    pub limits: Limits,
    /// Milliseconds that a server may answer nothing for while a request waits for it; 0 is for ever.
    pub server_patience: u64,
    /// Milliseconds between two attempts to connect.
    pub retry: u64,
    /// The least milliseconds that sessions live for, whatever is asked for.
    pub min_ttl: u32,
}

/// Passes requests on until a signal ends it, or no client can come any more.
///
/// All memory is taken before the service is said to have started; from then on
/// only the resolvers' threads allocate, where a server's address is a name.
///
/// # Errors
/// [`RunError`]; after the start only where the system's polling itself fails.
pub fn run(config: &Config, mut started: Started) -> Result<(), RunError> {
    start(config, &mut started).or_else(|error| started.fail(error))
}

fn start(config: &Config, started: &mut Started) -> Result<(), RunError> {
    let count = config.servers.len();
    let mut pool_memory = memory((config.clients + count) * 2 * BUFFER_LEN, "-maxconn")?;
    let mut slots = Vec::new();
    slots.resize_with(config.clients, || Slot::EMPTY);
    let mut in_flight = Vec::new();
    // A server that hangs can't use up what others need: each has more than there are clients.
    in_flight.resize_with(config.clients * (count + 1), || Slot::EMPTY);
    let name = |address: &Address| Upstream::new(address.to_string().as_bytes());
    let mut servers: Vec<_> = config.servers.iter().map(name).collect();
    let pool = Pool::new(&mut pool_memory, BUFFER_LEN);
    let &Config { copies, anycast, limits, server_patience, retry, min_ttl, .. } = config;
    let proxy_config = proxy::Config { limits, server_patience, retry, copies, anycast, min_ttl };
    let proxy = Proxy::new(&mut slots, &mut in_flight, &mut servers, pool, proxy_config);
    let proxy = proxy.map_err(RunError::Setup)?;
    started.provide_descriptors(config.clients, count);
    let (listeners, signals) = started.take();
    let mut event_loop = EventLoop::new(proxy, config.clients, count, listeners, signals)?;
    let dialer = |(number, address)| Dialer::new(number, address, retry, &event_loop);
    let dialers: Result<Vec<_>, _> = (0..=u8::MAX).zip(&config.servers).map(dialer).collect();
    let mut dialers = dialers?;
    dialer::dial(event_loop.now(), &mut dialers, &mut event_loop);
    started.ready();
    // A socket of this machine may be connected already: then nothing comes that would have it told.
    dialer::report(&mut dialers, &event_loop, started);
    let mut reporter = Reporter::default();
    let mut trim = Trim::default();
    let mut events = Events::new();
    loop {
        let deadlines = [reporter.deadline(), trim.deadline()];
        let now = event_loop.wait(&mut events, deadlines.into_iter().flatten().min())?;
        event_loop.turn(now, &events);
        trim.end_turn(now, &mut event_loop.machine);
        for event in events.iter() {
            if let Some(number) = event_loop.dialing(event) {
                dialers[usize::from(number)].handle_event(now, event, &mut event_loop);
            }
        }
        dialer::dial(now, &mut dialers, &mut event_loop);
        dialer::report(&mut dialers, &event_loop, started);
        let servers = || tell_servers(&event_loop.machine, &config.servers, started);
        if reporter.end_turn_with(now, &event_loop, started, servers) {
            return Ok(());
        }
    }
}

/// Prints what happened at each server.
fn tell_servers(proxy: &Proxy<'_>, servers: &[Address], started: &Started) {
    for (number, server) in (0..=u8::MAX).zip(servers) {
        let ServerTraffic { forwarded, answered, lost, strays, connects, losses, given_up } =
            proxy.server_traffic(number);
        started.info(format_args!(
            "{server}: {forwarded} requests forwarded, {answered} answered, {lost} lost; {connects} \
             connections, {losses} lost, {given_up} of them given up; {strays} stray answers"
        ));
    }
}

impl Report for Proxy<'_> {
    fn counters(&self) -> Counters {
        self.counters()
    }

    fn report(&self, started: &Started) {
        let Traffic { requests, answered, disconnected, orphaned, .. } = self.traffic();
        started.info(format_args!(
            "{requests} requests: {answered} answered, {disconnected} refused because no server was \
             reachable, {orphaned} left by their clients"
        ));
    }
}
