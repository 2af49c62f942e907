//! One thread with its clients and its connections to the engine.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

use crate::answers::Held;
use crate::client::{Client, State};
use crate::command::Shared;
use crate::counters::Counters;
use crate::engine::{Engine, EngineConfig, InFlight};
use distcache_posix::net::stream::Stream;

/// The most bytes read from a client at a time.
const SCRATCH: usize = 64 << 10;

/// The longest wait for the engine's topology at the start.
pub(crate) const DISCOVERY_MAX: Duration = Duration::from_secs(1);

/// Worker configuration.
#[derive(Clone, Debug)]
pub(crate) struct WorkerConfig {
    /// The longest time of a request.
    pub(crate) deadline: Duration,
    /// The shortest lifetime of sessions in milliseconds.
    pub(crate) min_ttl: u32,
    /// How long a client may send nothing; zero for no limit.
    pub(crate) idle: Duration,
    /// How long a client may leave a request incomplete or answers unread; zero for no limit.
    pub(crate) patience: Duration,
    /// The most requests in flight.
    pub(crate) in_flight: usize,
    /// The delay after which later answers pass a late one; `None` for never.
    pub(crate) overtake: Option<Duration>,
}

/// What the clients of a worker share.
pub(crate) struct Worker {
    pub(crate) config: WorkerConfig,
    pub(crate) engine: Rc<Engine>,
    pub(crate) shared: Rc<Shared>,
    /// The buffer that the client in turn reads into.
    pub(crate) scratch: Cell<Box<[u8]>>,
    /// Whether clients are closed as soon as they have all their answers.
    pub(crate) draining: Cell<bool>,
    clients: RefCell<Vec<Rc<State>>>,
}

/// A worker as other threads see it.
pub(crate) struct Handle {
    pub(crate) counters: Arc<Counters>,
    /// The number of its clients.
    pub(crate) clients: Arc<AtomicUsize>,
    /// The channel for new clients.
    pub(crate) streams: mpsc::UnboundedSender<Stream>,
}

/// A worker that is not running yet.
pub(crate) struct PendingWorker {
    config: WorkerConfig,
    counters: Arc<Counters>,
    clients: Arc<AtomicUsize>,
    streams: mpsc::UnboundedReceiver<Stream>,
    drain: watch::Receiver<bool>,
}

/// A worker to run, and its handle.
pub(crate) fn prepare(
    config: &WorkerConfig,
    drain: &watch::Receiver<bool>,
) -> (PendingWorker, Handle) {
    let (sender, streams) = mpsc::unbounded_channel();
    let (counters, clients): (Arc<Counters>, Arc<AtomicUsize>) = Default::default();
    let handle = Handle { counters: counters.clone(), clients: clients.clone(), streams: sender };
    let drain = drain.clone();
    (PendingWorker { config: config.clone(), counters, clients, streams, drain }, handle)
}

/// A tokio runtime for one thread.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()
}

impl PendingWorker {
    /// Builds the worker on this thread. Needs a `LocalSet`.
    pub(crate) fn build(self, engine: EngineConfig) -> RunningWorker {
        let in_flight = InFlight::new(self.config.in_flight);
        let shared = Shared::new(self.counters, in_flight, Held::new(self.config.overtake));
        let engine = Engine::new(engine, shared.clone());
        engine.start();
        let worker = Rc::new(Worker {
            config: self.config,
            engine,
            shared,
            scratch: Cell::new(vec![0; SCRATCH].into()),
            draining: Cell::new(false),
            clients: RefCell::default(),
        });
        RunningWorker { worker, clients: self.clients, streams: self.streams, drain: self.drain }
    }

    /// Runs the worker on this thread until it is drained.
    pub(crate) fn run(self, engine: EngineConfig) -> std::io::Result<()> {
        let runtime = runtime()?;
        let local = LocalSet::new();
        local.block_on(&runtime, async { self.build(engine).run().await });
        Ok(())
    }
}

/// A running worker.
pub(crate) struct RunningWorker {
    pub(crate) worker: Rc<Worker>,
    clients: Arc<AtomicUsize>,
    streams: mpsc::UnboundedReceiver<Stream>,
    drain: watch::Receiver<bool>,
}

impl RunningWorker {
    /// Serves clients until it has to drain, and then until the last one has left.
    pub(crate) async fn run(mut self) {
        let sweep = tokio::task::spawn_local(sweep(self.worker.clone()));
        let _ = timeout(DISCOVERY_MAX, self.worker.engine.discovered()).await;
        loop {
            tokio::select! {
                biased;
                changed = self.drain.changed() => if changed.is_err() || *self.drain.borrow() {
                    break;
                },
                stream = self.streams.recv() => match stream {
                    Some(stream) => self.accept_client(stream),
                    None => break,
                },
            }
        }
        while let Ok(stream) = self.streams.try_recv() {
            self.accept_client(stream);
        }
        self.worker.draining.set(true);
        while self.clients.load(Ordering::Relaxed) > 0 {
            self.worker.clients.borrow().iter().for_each(|client| client.answers.wake());
            sleep(Duration::from_millis(5)).await;
        }
        sweep.abort();
        // They refer to what they are kept in.
        self.worker.shared.spare.take();
    }

    fn accept_client(&self, stream: Stream) {
        let counted = ClientCount(self.clients.clone());
        let Ok(client) = Client::new(stream, &self.worker) else { return };
        let (worker, state) = (self.worker.clone(), client.state().clone());
        worker.clients.borrow_mut().push(state.clone());
        tokio::task::spawn_local(async move {
            client.await;
            worker.clients.borrow_mut().retain(|other| !Rc::ptr_eq(other, &state));
            drop(counted);
        });
    }
}

/// One client in the count of clients, until it is dropped.
struct ClientCount(Arc<AtomicUsize>);

impl Drop for ClientCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Closes idle and stalled clients, and frees memory.
async fn sweep(worker: Rc<Worker>) {
    let limits = [worker.config.idle, worker.config.patience];
    let shortest = limits.into_iter().filter(|limit| !limit.is_zero()).min();
    let every = shortest.map_or(Duration::from_secs(1), |limit| limit / 10);
    let every = every.clamp(Duration::from_millis(5), Duration::from_secs(1));
    loop {
        sleep(every).await;
        let now = Instant::now();
        for client in worker.clients.borrow().iter() {
            worker.check(client, now);
        }
    }
}

impl Worker {
    fn check(&self, client: &State, now: Instant) {
        let exceeded = |since: Option<Instant>, limit: Duration| {
            !limit.is_zero() && since.is_some_and(|since| now - since >= limit)
        };
        let (idle, patience) = (self.config.idle, self.config.patience);
        let stalled =
            exceeded(client.partial.get(), patience) || exceeded(client.unread.get(), patience);
        let busy = client.answers.open() > 0 || client.answers.unsent() > 0;
        if stalled {
            self.shared.counters.stalled.count();
        } else if !busy && exceeded(Some(client.active.get()), idle) {
            self.shared.counters.idle.count();
        } else {
            client.answers.trim();
            return;
        }
        client.closing.set(true);
        client.answers.wake();
    }
}
