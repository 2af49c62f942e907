//! What `dc_client` does: a proxy on sockets.

use std::fmt;
use std::io;
use std::time::Duration;

use distcache_core::conns::Limits;
use distcache_core::machine::{Machine, Peer};
use distcache_core::pool::Pool;
use distcache_core::proxy::{self, Mux};
use distcache_core::slots::Slot;
use distcache_core::time::Instant;

use crate::address::{Address, Targets};
use crate::hub::{Hub, SERVER_KEY};
use crate::incidents::Incidents;
use crate::limits;
use crate::poller::{Event, Events, Interest};
use crate::resolver::Resolver;
use crate::serve::{BUFFER_LEN, ServeError, memory};
use crate::service::{DESCRIPTORS, Running};
use crate::socket::Stream;

/// A server whose host has vanished is noticed after `KEEPALIVE_IDLE` + 3 x `KEEPALIVE_INTERVAL`
/// even if nothing is asked of it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_COUNT: u32 = 3;

/// How a proxy is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the server is.
    pub server: Address,
    /// The most clients at a time: 1 or more.
    pub clients: usize,
    /// What clients may do.
    pub limits: Limits,
    /// Milliseconds between two attempts to connect.
    pub retry: u64,
}

/// Passes requests on until a signal ends it, or no client can come any more.
///
/// All memory is taken before the service is said to have started; from then on
/// only the resolver's thread allocates, where the server's address is a name.
///
/// # Errors
/// [`ServeError`]; after the start only where the system's polling itself fails.
pub fn run(config: &Config, mut running: Running) -> Result<(), ServeError> {
    match start(config, &mut running) {
        Ok(()) => Ok(()),
        Err(error) => running.fail(error),
    }
}

fn start(config: &Config, running: &mut Running) -> Result<(), ServeError> {
    let mut pool_memory = memory((config.clients * 2 + 2) * BUFFER_LEN)?;
    let mut slots = Vec::new();
    slots.resize_with(config.clients, || Slot::EMPTY);
    let mut flights = Vec::new();
    flights.resize_with(config.clients * 2, || Slot::EMPTY);
    let pool = Pool::new(&mut pool_memory, BUFFER_LEN);
    let mux_config = proxy::Config { limits: config.limits, retry: config.retry };
    let mux = Mux::new(&mut slots, &mut flights, pool, mux_config);
    let mux = mux.map_err(ServeError::TooSmall)?;
    let wanted = config.clients as u64 + DESCRIPTORS;
    if limits::raise_descriptors(wanted) < wanted {
        running.warn(&format!("fewer than {wanted} descriptors are allowed: see ulimit -n"));
    }
    let (listeners, signals) = running.take();
    let mut hub = Hub::new(mux, config.clients, listeners, signals)?;
    let mut dialer = Dialer::new(config, &hub)?;
    dialer.dial(hub.now(), &mut hub);
    running.ready();
    // A socket of this machine may be connected already: then nothing comes that would have it told.
    dialer.tell(&hub, running);
    let mut incidents = Incidents::default();
    let mut events = Events::new();
    loop {
        let now = hub.wait(&mut events, incidents.deadline())?;
        if let Some(event) = hub.turn(now, &events) {
            dialer.attend(now, event, &mut hub);
        }
        dialer.dial(now, &mut hub);
        dialer.tell(&hub, running);
        if incidents.due(now, &hub.machine.counters(), hub.refused()) {
            note(&hub, running);
        }
        if hub.is_over(now) {
            break;
        }
    }
    note(&hub, running);
    Ok(())
}

/// Prints what has happened so far.
fn note(hub: &Hub<Mux<'_>>, running: &Running) {
    let proxy::Traffic { forwarded, answered, disconnected, connects, losses, .. } =
        hub.machine.traffic();
    running.note(format_args!(
        "{forwarded} requests forwarded, {answered} answered, {disconnected} refused for want of \
         the server; {connects} connections to it, {losses} lost"
    ));
    running.note_clients(&hub.machine.counters(), hub.refused());
}

/// Makes the connection to the server, again and again.
struct Dialer<'c> {
    server: &'c Address,
    retry: u64,
    resolver: Resolver,
    state: Dial,
    /// The places that are still to be tried.
    left: Targets,
    failure: Failure,
    told_up: Option<bool>,
}

/// Why there is no connection; kept without allocating, as is all that the loop does.
#[derive(Clone, Copy)]
enum Failure {
    /// The last attempt failed.
    Connect(io::ErrorKind),
    /// There was one, and it broke.
    Lost,
    /// Nothing came of the last attempt in time.
    Silent,
    /// The server's name was not found.
    Unresolved,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(kind) => kind.fmt(f),
            Self::Lost => f.write_str("connection lost"),
            Self::Silent => f.write_str("no answer"),
            Self::Unresolved => f.write_str("its name was not found"),
        }
    }
}

enum Dial {
    /// There is a connection, or it is not time for one.
    Rest,
    /// The server's address is being looked up.
    Resolving,
    /// One of its places is being tried.
    Connecting(Stream),
}

impl<'c> Dialer<'c> {
    fn new(config: &'c Config, hub: &Hub<Mux<'_>>) -> io::Result<Self> {
        Ok(Self {
            server: &config.server,
            retry: config.retry,
            resolver: Resolver::new(&config.server, hub.poller.waker())?,
            state: Dial::Rest,
            left: Targets::new(),
            failure: Failure::Lost,
            told_up: None,
        })
    }

    /// Goes on with an attempt to connect, or begins one when it is time.
    fn dial(&mut self, now: Instant, hub: &mut Hub<Mux<'_>>) {
        if hub.machine.dial(now) {
            self.resolver.request();
            self.state = Dial::Resolving;
        }
        if hub.machine.wants(Peer::Server).close && !matches!(self.state, Dial::Rest) {
            return self.give_up(now, hub, Failure::Silent);
        }
        if let Dial::Resolving = self.state
            && let Some(answer) = self.resolver.take()
        {
            match answer {
                Ok(targets) => {
                    self.left = targets;
                    self.try_next(now, hub, Failure::Unresolved);
                }
                Err(_) => self.give_up(now, hub, Failure::Unresolved),
            }
        }
    }

    /// Looks how the attempt under way has ended.
    fn attend(&mut self, now: Instant, event: Event, hub: &mut Hub<Mux<'_>>) {
        if !event.writable && !event.hangup {
            return;
        }
        if let Dial::Connecting(stream) = std::mem::replace(&mut self.state, Dial::Rest) {
            let _ = hub.poller.remove(&stream);
            match stream.connected() {
                Ok(()) => self.succeed(now, hub, stream),
                Err(error) => self.try_next(now, hub, Failure::Connect(error.kind())),
            }
        }
    }

    /// Tries one place after the other until one can be waited for.
    fn try_next(&mut self, now: Instant, hub: &mut Hub<Mux<'_>>, mut failure: Failure) {
        hub.place.give_up();
        while !self.left.is_empty() {
            let target = self.left.remove(0);
            match Stream::connect(&target) {
                Ok((stream, false)) => return self.succeed(now, hub, stream),
                Ok((stream, true)) => match hub.poller.add(&stream, SERVER_KEY, Interest::WRITE) {
                    Ok(()) => return self.state = Dial::Connecting(stream),
                    Err(error) => failure = Failure::Connect(error.kind()),
                },
                Err(error) => failure = Failure::Connect(error.kind()),
            }
        }
        self.give_up(now, hub, failure);
    }

    fn succeed(&mut self, now: Instant, hub: &mut Hub<Mux<'_>>, stream: Stream) {
        self.state = Dial::Rest;
        // Only TCP has it; the others need none.
        let _ = stream.keepalive(KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT);
        match hub.poller.add(&stream, SERVER_KEY, Interest::READ) {
            Ok(()) => {
                hub.take_server(stream, Interest::READ);
                hub.machine.connected(now);
            }
            Err(error) => self.give_up(now, hub, Failure::Connect(error.kind())),
        }
    }

    fn give_up(&mut self, now: Instant, hub: &mut Hub<Mux<'_>>, failure: Failure) {
        if let Dial::Connecting(stream) = std::mem::replace(&mut self.state, Dial::Rest) {
            let _ = hub.poller.remove(&stream);
        }
        hub.place.keep();
        self.failure = failure;
        hub.machine.closed(now, Peer::Server);
    }

    /// Prints when the server has come or gone, once each.
    fn tell(&mut self, hub: &Hub<Mux<'_>>, running: &Running) {
        let up = hub.machine.is_up();
        let settled = up || matches!(self.state, Dial::Rest);
        if !settled || self.told_up == Some(up) {
            return;
        }
        if up {
            running.note(format_args!("connected to {}", self.server));
        } else {
            let (server, failure, retry) = (self.server, self.failure, self.retry);
            running.note(format_args!("{server} is away ({failure}); trying every {retry} ms"));
        }
        self.failure = Failure::Lost;
        self.told_up = Some(up);
    }
}
