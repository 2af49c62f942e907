//! One thread: its clients, and its engine.

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
use crate::engine::{Engine, EngineConfig, Load};
use crate::parts::Stream;

/// Bytes read from a client at a time.
const SCRATCH: usize = 64 << 10;

/// How long clients wait at the start for the engine to be found.
pub(crate) const LOOK_MAX: Duration = Duration::from_secs(1);

/// What workers are told.
#[derive(Clone, Debug)]
pub(crate) struct WorkerConfig {
    /// How long a request may take.
    pub(crate) deadline: Duration,
    /// The least milliseconds that sessions live for.
    pub(crate) min_ttl: u32,
    /// How long a client may ask nothing; zero for ever.
    pub(crate) idle: Duration,
    /// How long a client may leave something unfinished; zero for ever.
    pub(crate) patience: Duration,
    /// The most requests on their way.
    pub(crate) in_flight: usize,
    /// After how long later answers pass one that is late.
    pub(crate) overtake: Option<Duration>,
}

/// What a worker's clients share.
pub(crate) struct Worker {
    pub(crate) config: WorkerConfig,
    pub(crate) engine: Rc<Engine>,
    pub(crate) shared: Rc<Shared>,
    /// What the client whose turn it is reads into.
    pub(crate) scratch: Cell<Box<[u8]>>,
    /// No client is asked for more.
    pub(crate) draining: Cell<bool>,
    clients: RefCell<Vec<Rc<State>>>,
}

/// What other threads see of a worker.
pub(crate) struct Handle {
    pub(crate) counters: Arc<Counters>,
    /// How many clients it has.
    pub(crate) clients: Arc<AtomicUsize>,
    /// Where its clients come from.
    pub(crate) streams: mpsc::UnboundedSender<Stream>,
}

/// A worker that does not run yet.
pub(crate) struct Plan {
    config: WorkerConfig,
    counters: Arc<Counters>,
    clients: Arc<AtomicUsize>,
    streams: mpsc::UnboundedReceiver<Stream>,
    drain: watch::Receiver<bool>,
}

/// A worker to run, and what others see of it.
pub(crate) fn plan(config: &WorkerConfig, drain: &watch::Receiver<bool>) -> (Plan, Handle) {
    let (sender, streams) = mpsc::unbounded_channel();
    let (counters, clients): (Arc<Counters>, Arc<AtomicUsize>) = Default::default();
    let handle = Handle { counters: counters.clone(), clients: clients.clone(), streams: sender };
    let drain = drain.clone();
    (Plan { config: config.clone(), counters, clients, streams, drain }, handle)
}

/// A runtime of one thread.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()
}

impl Plan {
    /// Makes the worker. Needs a `LocalSet`.
    pub(crate) fn build(self, engine: EngineConfig) -> Running {
        let load = Load::new(self.config.in_flight);
        let shared =
            Shared { counters: self.counters, load, held: Held::new(self.config.overtake) };
        let shared = Rc::new(shared);
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
        Running { worker, clients: self.clients, streams: self.streams, drain: self.drain }
    }

    /// Runs the worker on this thread until it is drained.
    pub(crate) fn run(self, engine: EngineConfig) -> std::io::Result<()> {
        let runtime = runtime()?;
        let local = LocalSet::new();
        local.block_on(&runtime, async { self.build(engine).run().await });
        Ok(())
    }
}

/// A worker that runs.
pub(crate) struct Running {
    pub(crate) worker: Rc<Worker>,
    clients: Arc<AtomicUsize>,
    streams: mpsc::UnboundedReceiver<Stream>,
    drain: watch::Receiver<bool>,
}

impl Running {
    /// Serves clients until told to drain, and then until the last one is gone.
    pub(crate) async fn run(mut self) {
        let sweep = tokio::task::spawn_local(sweep(self.worker.clone()));
        let _ = timeout(LOOK_MAX, self.worker.engine.looked()).await;
        loop {
            tokio::select! {
                biased;
                changed = self.drain.changed() => if changed.is_err() || *self.drain.borrow() {
                    break;
                },
                stream = self.streams.recv() => match stream {
                    Some(stream) => self.welcome(stream),
                    None => break,
                },
            }
        }
        while let Ok(stream) = self.streams.try_recv() {
            self.welcome(stream);
        }
        self.worker.draining.set(true);
        while self.clients.load(Ordering::Relaxed) > 0 {
            self.worker.clients.borrow().iter().for_each(|client| client.answers.wake());
            sleep(Duration::from_millis(5)).await;
        }
        sweep.abort();
    }

    fn welcome(&self, stream: Stream) {
        let leave = Leave(self.clients.clone());
        let Ok(client) = Client::new(stream, &self.worker) else { return };
        let (worker, state) = (self.worker.clone(), client.state().clone());
        worker.clients.borrow_mut().push(state.clone());
        tokio::task::spawn_local(async move {
            client.await;
            worker.clients.borrow_mut().retain(|other| !Rc::ptr_eq(other, &state));
            drop(leave);
        });
    }
}

/// Counts a client down, whatever becomes of it.
struct Leave(Arc<AtomicUsize>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Closes clients that are idle or have stalled, and gives back memory.
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
        let over = |since: Option<Instant>, limit: Duration| {
            !limit.is_zero() && since.is_some_and(|since| now - since >= limit)
        };
        let (idle, patience) = (self.config.idle, self.config.patience);
        let stalled = over(client.partial.get(), patience) || over(client.unread.get(), patience);
        let busy = client.answers.open() > 0 || client.answers.unsent() > 0;
        if stalled {
            self.shared.counters.stalled.count();
        } else if !busy && over(Some(client.active.get()), idle) {
            self.shared.counters.idle.count();
        } else {
            client.answers.trim();
            return;
        }
        client.closing.set(true);
        client.answers.wake();
    }
}
