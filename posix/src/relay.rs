//! What `dc_client` does: a proxy on sockets.

mod dialer;
mod own;

use distcache_core::conns::{Counters, Limits};
use distcache_core::pool::Pool;
use distcache_core::proxy::{self, Mux, ServerTraffic, Traffic, Upstream};
use distcache_core::slots::Slot;

use crate::address::Address;
use crate::hub::Hub;
use crate::incidents::{Incidents, Tells};
use crate::poller::Events;
use crate::serve::{BUFFER_LEN, ServeError, memory};
use crate::service::Running;
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
/// [`ServeError`]; after the start only where the system's polling itself fails.
pub fn run(config: &Config, mut running: Running) -> Result<(), ServeError> {
    start(config, &mut running).or_else(|error| running.fail(error))
}

fn start(config: &Config, running: &mut Running) -> Result<(), ServeError> {
    let count = config.servers.len();
    let mut pool_memory = memory((config.clients + count) * 2 * BUFFER_LEN, "-maxconn")?;
    let mut slots = Vec::new();
    slots.resize_with(config.clients, || Slot::EMPTY);
    let mut flights = Vec::new();
    // A server that hangs can't use up what others need: each has more than there are clients.
    flights.resize_with(config.clients * (count + 1), || Slot::EMPTY);
    let name = |address: &Address| Upstream::new(address.to_string().as_bytes());
    let mut servers: Vec<_> = config.servers.iter().map(name).collect();
    let pool = Pool::new(&mut pool_memory, BUFFER_LEN);
    let &Config { copies, limits, server_patience, retry, min_ttl, .. } = config;
    let mux_config = proxy::Config { limits, server_patience, retry, copies, min_ttl };
    let mux = Mux::new(&mut slots, &mut flights, &mut servers, pool, mux_config);
    let mux = mux.map_err(ServeError::Setup)?;
    running.provide_descriptors(config.clients, count);
    let (listeners, signals) = running.take();
    let mut hub = Hub::new(mux, config.clients, count, listeners, signals)?;
    let dialer = |(number, address)| Dialer::new(number, address, retry, &hub);
    let dialers: Result<Vec<_>, _> = (0..=u8::MAX).zip(&config.servers).map(dialer).collect();
    let mut dialers = dialers?;
    dialer::dial(hub.now(), &mut dialers, &mut hub);
    running.ready();
    // A socket of this machine may be connected already: then nothing comes that would have it told.
    dialer::tell(&mut dialers, &hub, running);
    let mut incidents = Incidents::default();
    let mut trim = Trim::default();
    let mut events = Events::new();
    loop {
        let deadlines = [incidents.deadline(), trim.deadline()];
        let now = hub.wait(&mut events, deadlines.into_iter().flatten().min())?;
        hub.turn(now, &events);
        trim.end_turn(now, &mut hub.machine);
        for event in events.iter() {
            if let Some(number) = hub.dialing(event) {
                dialers[usize::from(number)].attend(now, event, &mut hub);
            }
        }
        dialer::dial(now, &mut dialers, &mut hub);
        dialer::tell(&mut dialers, &hub, running);
        let servers = || tell_servers(&hub.machine, &config.servers, running);
        if incidents.end_turn_with(now, &hub, running, servers) {
            return Ok(());
        }
    }
}

/// Prints what happened at each server.
fn tell_servers(mux: &Mux<'_>, servers: &[Address], running: &Running) {
    for (number, server) in (0..=u8::MAX).zip(servers) {
        let ServerTraffic { forwarded, answered, lost, strays, connects, losses, given_up } =
            mux.server_traffic(number);
        running.note(format_args!(
            "{server}: {forwarded} requests forwarded, {answered} answered, {lost} lost; {connects} \
             connections, {losses} lost, {given_up} of them given up; {strays} stray answers"
        ));
    }
}

impl Tells for Mux<'_> {
    fn counters(&self) -> Counters {
        self.counters()
    }

    fn tell(&self, running: &Running) {
        let Traffic { requests, answered, disconnected, orphaned, .. } = self.traffic();
        running.note(format_args!(
            "{requests} requests: {answered} answered, {disconnected} refused because no server was \
             reachable, {orphaned} left by their clients"
        ));
    }
}
