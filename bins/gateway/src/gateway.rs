//! The program: listeners, workers, signals, and what it says about itself.

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
use crate::parts::{Listener, Signal, Signals, Started, Stream};
use crate::watch::watch as watch_fd;
use crate::worker::{self, Handle, WorkerConfig};

/// How long an orderly end may take.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// The least time between two reports.
const REPORT_PAUSE: Duration = Duration::from_secs(10);
/// How often there is a look at whether there is something to report.
const REPORT_LOOK: Duration = Duration::from_millis(500);
/// How long not to accept once the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Clients accepted before it is another's turn.
const ACCEPTS: usize = 64;
/// Descriptors for the connections of one worker to nodes.
const NODE_DESCRIPTORS: usize = 64;

/// Gateway configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the engine is.
    pub engine: Endpoint,
    /// Who we are to the engine.
    pub credentials: Credentials,
    /// TLS to the engine, where its endpoint asks for it.
    pub tls: TlsOptions,
    /// Worker threads: 1 or more.
    pub threads: usize,
    /// How long a request may take before it is answered with status 2.
    pub deadline: Duration,
    /// The most requests of one worker on their way to the engine.
    pub in_flight: usize,
    /// After how long later answers pass one that is late; `None` keeps the order of requests.
    pub overtake: Option<Duration>,
    /// The most clients at a time.
    pub clients: usize,
    /// How long a client may ask nothing; zero for ever.
    pub idle: Duration,
    /// How long a client may leave a request unfinished or its answers unread; zero for ever.
    pub patience: Duration,
    /// The least milliseconds that sessions live for.
    pub min_ttl: u32,
}

/// Why a gateway can't start.
#[derive(Debug)]
pub enum GatewayError {
    /// Something about TLS to the engine can't be used: what, and why.
    Tls(String),
    /// A worker can't run.
    Io(io::Error),
}

impl fmt::Display for GatewayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(why) => f.write_str(why),
            Self::Io(error) => write!(f, "a worker can't run: {error}"),
        }
    }
}

impl std::error::Error for GatewayError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Tls(_) => None,
            Self::Io(error) => Some(error),
        }
    }
}

impl From<io::Error> for GatewayError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A gateway that has read all its files, and has no thread yet.
pub struct Gateway {
    config: Config,
    connector: Connector,
}

impl Gateway {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// One of them can't be used.
    pub fn new(config: Config) -> Result<Self, GatewayError> {
        let tls = config.engine.tls.then_some(&config.tls);
        let connector = Connector::new(&config.credentials, tls).map_err(GatewayError::Tls)?;
        Ok(Self { config, connector })
    }

    /// Serves until a signal ends it, or no client can come any more.
    ///
    /// # Errors
    /// [`GatewayError`], before the service is said to have started.
    pub fn run(self, mut started: Started) -> Result<(), GatewayError> {
        let runtime = match worker::runtime() {
            Ok(runtime) => runtime,
            Err(error) => return started.fail(error.into()),
        };
        let nodes = self.config.threads * NODE_DESCRIPTORS;
        started.provide_descriptors(self.config.clients, nodes);
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

    /// Runs the first worker on this thread, and all others on theirs.
    async fn serve(self, started: &mut Started) -> Result<(), GatewayError> {
        let (drain, drained) = watch::channel(false);
        let (lines, said) = mpsc::channel::<String>();
        // What one worker says about the engine the others would only repeat.
        let log = move |line: &str| drop(lines.send(line.to_owned()));
        let (first, handle) = worker::plan(&self.worker_config(), &drained);
        let (listeners, signals) = started.take();
        let mut handles = vec![handle];
        let mut threads = Vec::new();
        for number in 1..self.config.threads {
            let (plan, handle) = worker::plan(&self.worker_config(), &drained);
            let engine = self.engine_config(Arc::new(|_| ()));
            let thread = std::thread::Builder::new().name(format!("worker {number}"));
            match thread.spawn(move || plan.run(engine)) {
                Ok(thread) => threads.push(thread),
                Err(error) => return started.fail(error.into()),
            }
            handles.push(handle);
        }
        let first = first.build(self.engine_config(Arc::new(log)));
        let door = Rc::new(Door { handles, most: self.config.clients, open: Cell::new(0) });
        let mut tasks = Vec::new();
        for listener in listeners {
            let worker = first.worker.clone();
            let listener = Rc::new(listener);
            door.open.set(door.open.get() + 1);
            let door = door.clone();
            tasks.push(tokio::task::spawn_local(async move {
                let _ = match listener.is_datagrams() {
                    true => datagrams::serve(worker, listener).await,
                    false => door.accept(&listener).await,
                };
                door.open.set(door.open.get() - 1);
            }));
        }
        // An engine that is away is no reason not to start; one that is there is used from the start.
        let _ = timeout(worker::LOOK_MAX, first.worker.engine.looked()).await;
        let first = tokio::task::spawn_local(first.run());
        started.ready();
        let mut report = Report::default();
        report.until_end(started, &door, &signals, &said).await;
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
        said.try_iter().for_each(|line| started.info(format_args!("{line}")));
        report.print(started, &door.totals());
        Ok(())
    }
}

/// Waits for a signal that ends the program.
async fn next_signal(signals: &Signals) {
    let Ok(fd) = watch_fd(signals.fd(), Interest::READABLE) else { return };
    loop {
        match signals.take() {
            Some(Signal::Drain | Signal::End) => return,
            // It has no file that is read again.
            Some(Signal::Reload) | None => {}
        }
        let Ok(mut ready) = fd.readable().await else { return };
        ready.clear_ready();
    }
}

/// Where clients come in.
struct Door {
    handles: Vec<Handle>,
    most: usize,
    /// Listeners from which something may still come.
    open: Cell<usize>,
}

impl Door {
    fn clients(&self) -> usize {
        self.handles.iter().map(|handle| handle.clients.load(Ordering::Relaxed)).sum()
    }

    fn totals(&self) -> Totals {
        Totals::sum(self.handles.iter().map(|handle| &*handle.counters))
    }

    /// Accepts for as long as somebody may come.
    async fn accept(&self, listener: &Listener) -> io::Result<()> {
        let fd = listener.fd().map(|fd| watch_fd(fd, Interest::READABLE)).transpose()?;
        let mut turn = 0;
        while !listener.finished() {
            match listener.accept() {
                Ok(Some(stream)) => self.welcome(stream),
                Ok(None) => match &fd {
                    Some(fd) => fd.readable().await?.clear_ready(),
                    None => return Ok(()),
                },
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
            turn += 1;
            if turn % ACCEPTS == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Gives a client to the worker that has the fewest.
    fn welcome(&self, stream: Stream) {
        let first = &self.handles[0].counters;
        if self.clients() >= self.most {
            first.refused.count();
            return;
        }
        first.accepted.count();
        let load = |handle: &&Handle| handle.clients.load(Ordering::Relaxed);
        if let Some(handle) = self.handles.iter().min_by_key(load) {
            handle.clients.fetch_add(1, Ordering::Relaxed);
            // A worker that is gone has panicked; its clients are closed.
            let _ = handle.streams.send(stream);
        }
    }
}

/// What is printed on the way and at the end.
#[derive(Default)]
struct Report {
    printed: Totals,
    at: Option<Instant>,
}

impl Report {
    /// Prints what happens, until a signal comes, or nobody can come any more.
    async fn until_end(
        &mut self,
        started: &Started,
        door: &Door,
        signals: &Signals,
        said: &mpsc::Receiver<String>,
    ) {
        let mut signal = std::pin::pin!(next_signal(signals));
        loop {
            if timeout(REPORT_LOOK, &mut signal).await.is_ok() {
                return;
            }
            said.try_iter().for_each(|line| started.info(format_args!("{line}")));
            if door.open.get() == 0 && door.clients() == 0 {
                return;
            }
            let totals = door.totals();
            let quiet = self.at.is_some_and(|at| at.elapsed() < REPORT_PAUSE);
            if !quiet && incidents(&totals) != incidents(&self.printed) {
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
             there, {full} without room; {timeouts} timed out, {unavailable} unavailable, {foreign} \
             foreign values"
        ));
        let Totals { moved, asked, readonly, lost, .. } = totals;
        started.info(format_args!(
            "engine: {moved} moved, {asked} asked elsewhere, {readonly} refused by a replica, {lost} \
             connections lost"
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

/// How much has happened that is worth a report.
fn incidents(totals: &Totals) -> u64 {
    let Totals { timeouts, unavailable, foreign, lost, readonly, .. } = totals;
    let Totals { refused, malformed, idle, stalled, dropped, .. } = totals;
    [timeouts, unavailable, foreign, lost, readonly, refused, malformed, idle, stalled, dropped]
        .into_iter()
        .fold(0, |sum, one| sum.wrapping_add(*one))
}
