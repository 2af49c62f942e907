//! The program: listeners, workers, signals and reports.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::Interest;
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

use crate::counters::Totals;
use crate::credentials::Credentials;
use crate::datagrams;
use crate::endpoint::Endpoint;
use crate::engine::{Connector, EngineConfig, TlsOptions};
use crate::watch::watch as watch_fd;
use crate::worker::{self, Handle, WorkerConfig};
use distcache_posix::net::listener::Listener;
use distcache_posix::net::stream::Stream;
use distcache_posix::process::signals::{Signal, Signals};
use distcache_posix::process::start::{LockAllError, Started};

/// The longest time of an orderly end.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// The shortest time between two reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// The time between two checks of the counters.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// The pause after the system has run out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The most clients accepted before other tasks run.
const ACCEPT_BUDGET: usize = 64;
/// Descriptors for the connections of one worker to nodes.
const NODE_DESCRIPTORS: usize = 64;

/// Gateway configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The location of the engine.
    pub engine: Endpoint,
    /// The credentials for the engine.
    pub credentials: Credentials,
    /// TLS to the engine, if the endpoint asks for it.
    pub tls: TlsOptions,
    /// Worker threads: 1 or more.
    pub threads: usize,
    /// The longest time of a request, which is then answered with status 2.
    pub deadline: Duration,
    /// The most requests of one worker in flight.
    pub in_flight: usize,
    /// The delay after which later answers pass a late one; `None` for never.
    pub overtake: Option<Duration>,
    /// The most clients at a time.
    pub clients: usize,
    /// How long a client may send nothing; zero for no limit.
    pub idle: Duration,
    /// How long a client may leave a request incomplete or answers unread; zero for no limit.
    pub patience: Duration,
    /// The shortest lifetime of sessions in milliseconds.
    pub min_ttl: u32,
}

/// Why a gateway cannot start.
#[derive(Debug)]
pub enum GatewayError {
    /// The configuration of TLS to the engine is invalid: one line.
    Tls(String),
    /// Memory could not be locked.
    Lock(LockAllError),
    /// A worker could not be started.
    Io(io::Error),
}

impl fmt::Display for GatewayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(why) => f.write_str(why),
            Self::Lock(error) => error.fmt(f),
            Self::Io(error) => write!(f, "cannot start a worker: {error}"),
        }
    }
}

impl std::error::Error for GatewayError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Tls(_) => None,
            Self::Lock(error) => error.source(),
            Self::Io(error) => Some(error),
        }
    }
}

impl From<io::Error> for GatewayError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A gateway that has read its files and has started no thread.
pub struct Gateway {
    config: Config,
    connector: Connector,
}

impl Gateway {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn new(config: Config) -> Result<Self, GatewayError> {
        let tls = config.engine.tls.then_some(&config.tls);
        let connector = Connector::new(&config.credentials, tls).map_err(GatewayError::Tls)?;
        Ok(Self { config, connector })
    }

    /// Serves until a signal ends it, or no listener is left and the last client has left.
    ///
    /// # Errors
    /// [`GatewayError`], before it reports that it is ready.
    pub fn run(self, mut started: Started) -> Result<(), GatewayError> {
        let nodes = self.config.threads * NODE_DESCRIPTORS;
        started.provide_descriptors(self.config.clients, nodes);
        if let Err(error) = started.lock_all_memory() {
            return started.fail(GatewayError::Lock(error));
        }
        started.enter_file_sandbox();
        let runtime = match worker::runtime() {
            Ok(runtime) => runtime,
            Err(error) => return started.fail(error.into()),
        };
        LocalSet::new().block_on(&runtime, self.serve(&mut started))
    }

    fn worker_config(&self) -> WorkerConfig {
        WorkerConfig {
            deadline: self.config.deadline,
            min_ttl: self.config.min_ttl,
            idle: self.config.idle,
            patience: self.config.patience,
            in_flight: self.config.in_flight,
            overtake: self.config.overtake,
        }
    }

    fn engine_config(&self, log: Arc<dyn Fn(&str) + Send + Sync>) -> EngineConfig {
        EngineConfig {
            endpoint: self.config.engine.clone(),
            connector: self.connector.clone(),
            deadline: self.config.deadline,
            log,
        }
    }

    /// Runs the first worker on this thread, and each other one on its own.
    async fn serve(self, started: &mut Started) -> Result<(), GatewayError> {
        let (drain, drained) = watch::channel(false);
        let (sender, lines) = mpsc::channel::<String>();
        // The other workers would report the same about the engine.
        let log = move |line: &str| drop(sender.send(line.to_owned()));
        let (first, handle) = worker::prepare(&self.worker_config(), &drained);
        let (listeners, signals) = started.take();
        let mut handles = vec![handle];
        let mut threads = Vec::new();
        for number in 1..self.config.threads {
            let (worker, handle) = worker::prepare(&self.worker_config(), &drained);
            let engine = self.engine_config(Arc::new(|_| ()));
            let thread = std::thread::Builder::new().name(format!("worker {number}"));
            match thread.spawn(move || worker.run(engine)) {
                Ok(thread) => threads.push(thread),
                Err(error) => return started.fail(error.into()),
            }
            handles.push(handle);
        }
        let first = first.build(self.engine_config(Arc::new(log)));
        let acceptor =
            Rc::new(Acceptor { handles, clients_max: self.config.clients, open: Cell::new(0) });
        let mut tasks = Vec::new();
        for listener in listeners {
            let worker = first.worker.clone();
            let listener = Rc::new(listener);
            acceptor.open.set(acceptor.open.get() + 1);
            let acceptor = acceptor.clone();
            tasks.push(tokio::task::spawn_local(async move {
                let _ = match listener.is_datagrams() {
                    true => datagrams::serve(worker, listener).await,
                    false => acceptor.accept(&listener).await,
                };
                acceptor.open.set(acceptor.open.get() - 1);
            }));
        }
        // It starts without the engine too, but the first clients shall find an engine that is up.
        let _ = timeout(worker::DISCOVERY_MAX, first.worker.engine.discovered()).await;
        let first = tokio::task::spawn_local(first.run());
        started.ready();
        let mut report = Report::default();
        report.until_end(started, &acceptor, &signals, &lines).await;
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        let _ = drain.send(true);
        let end = async {
            let _ = first.await;
            while !threads.iter().all(JoinHandle::is_finished) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let end = timeout(DRAIN_MAX, end);
        tokio::select! {
            _ = end => {}
            () = next_signal(&signals) => {}
        }
        lines.try_iter().for_each(|line| started.info(format_args!("{line}")));
        report.print(started, &acceptor.totals());
        Ok(())
    }
}

/// Waits for a signal that ends the program.
async fn next_signal(signals: &Signals) {
    let Ok(fd) = watch_fd(signals.fd(), Interest::READABLE) else { return };
    loop {
        match signals.take() {
            Some(Signal::Drain | Signal::End) => return,
            // No file is read again.
            Some(Signal::Reload) | None => {}
        }
        let Ok(mut ready) = fd.readable().await else { return };
        ready.clear_ready();
    }
}

/// Accepts clients and distributes them among the workers.
struct Acceptor {
    handles: Vec<Handle>,
    clients_max: usize,
    /// The number of listeners that may still accept or receive.
    open: Cell<usize>,
}

impl Acceptor {
    fn clients(&self) -> usize {
        self.handles.iter().map(|handle| handle.clients.load(Ordering::Relaxed)).sum()
    }

    fn totals(&self) -> Totals {
        Totals::sum(self.handles.iter().map(|handle| &*handle.counters))
    }

    /// Accepts clients until the listener is finished.
    async fn accept(&self, listener: &Listener) -> io::Result<()> {
        let fd = listener.fd().map(|fd| watch_fd(fd, Interest::READABLE)).transpose()?;
        let mut turn = 0;
        while !listener.finished() {
            match listener.accept() {
                Ok(Some(stream)) => self.accept_client(stream),
                Ok(None) => match &fd {
                    Some(fd) => fd.readable().await?.clear_ready(),
                    None => return Ok(()),
                },
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
            turn += 1;
            if turn % ACCEPT_BUDGET == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Passes a client to the worker with the fewest.
    fn accept_client(&self, stream: Stream) {
        let first = &self.handles[0].counters;
        if self.clients() >= self.clients_max {
            first.refused.count();
            return;
        }
        first.accepted.count();
        let load = |handle: &&Handle| handle.clients.load(Ordering::Relaxed);
        if let Some(handle) = self.handles.iter().min_by_key(load) {
            handle.clients.fetch_add(1, Ordering::Relaxed);
            // If the worker has panicked, this closes the client.
            let _ = handle.streams.send(stream);
        }
    }
}

/// The lines about the counters, on the way and at the end.
#[derive(Default)]
struct Report {
    printed: Totals,
    at: Option<Instant>,
}

impl Report {
    /// Prints reports until a signal arrives, or no listener and no client is left.
    async fn until_end(
        &mut self,
        started: &Started,
        acceptor: &Acceptor,
        signals: &Signals,
        lines: &mpsc::Receiver<String>,
    ) {
        let mut signal = std::pin::pin!(next_signal(signals));
        loop {
            if timeout(CHECK_INTERVAL, &mut signal).await.is_ok() {
                return;
            }
            lines.try_iter().for_each(|line| started.info(format_args!("{line}")));
            if acceptor.open.get() == 0 && acceptor.clients() == 0 {
                return;
            }
            let totals = acceptor.totals();
            let quiet = self.at.is_some_and(|at| at.elapsed() < REPORT_INTERVAL);
            if !quiet && reportable(&totals) != reportable(&self.printed) {
                self.print(started, &totals);
            }
        }
    }

    fn print(&mut self, started: &Started, totals: &Totals) {
        (self.printed, self.at) = (*totals, Some(Instant::now()));
        let Totals { requests, gets, hits, adds, exists, full, .. } = totals;
        let Totals { timeouts, unavailable, foreign, .. } = totals;
        started.info(format_args!(
            "{requests} requests: {hits} of {gets} GETs found, {exists} of {adds} ADDs already \
             there, {full} refused as full; {timeouts} timed out, {unavailable} unavailable, \
             {foreign} foreign values"
        ));
        let Totals { moved, asked, readonly, lost, .. } = totals;
        started.info(format_args!(
            "engine: {moved} MOVED, {asked} ASK, {readonly} refused by a replica, {lost} connections \
             lost"
        ));
        let Totals { accepted, refused, malformed, idle, stalled, .. } = totals;
        started.info(format_args!(
            "{accepted} clients, {refused} more refused; closed: {malformed} malformed, {idle} idle, \
             {stalled} stalled"
        ));
        let Totals { datagrams, dropped, unsent, .. } = totals;
        if datagrams + dropped > 0 {
            started.info(format_args!(
                "{datagrams} datagrams, {dropped} dropped, {unsent} replies not sent"
            ));
        }
    }
}

/// The number of events that are worth a report.
fn reportable(totals: &Totals) -> u64 {
    let Totals { timeouts, unavailable, foreign, lost, readonly, .. } = totals;
    let Totals { refused, malformed, idle, stalled, dropped, .. } = totals;
    [timeouts, unavailable, foreign, lost, readonly, refused, malformed, idle, stalled, dropped]
        .into_iter()
        .fold(0, |sum, one| sum.wrapping_add(*one))
}
