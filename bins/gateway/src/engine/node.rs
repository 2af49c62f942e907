//! One node of the engine: its connection, and whether it replies.
//!
//! ```text
//!            connected, replies to a PING
//!  Connecting ──────────────────────► Up ──┐ no reply within the deadline
//!      ▲  │ cannot connect                 │
//!      │  └─────────────────► Down ◄───────┘
//!      │ connection lost     requests are answered with status 2 at once; a new attempt every RETRY
//!      Up
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::Engine;
use super::pipeline::{self, Pipeline};
use crate::command::Request;
use crate::endpoint::HostPort;

/// The time between two attempts to connect.
const RETRY: Duration = Duration::from_millis(100);
/// The longest time of an attempt to connect, the first reply included.
const CONNECT_MAX: Duration = Duration::from_millis(500);
/// The longest time without a reply before the node is probed.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a node without slots may still answer its requests.
const RETIRE_AFTER: Duration = Duration::from_secs(1);

/// Why a node counts as unreachable.
const NO_REPLY: &str = "it does not reply";

/// One node.
pub(crate) struct Node {
    pub(crate) address: HostPort,
    /// Requests that wait for a connection.
    queue: RefCell<VecDeque<Box<Request>>>,
    pub(super) pipeline: RefCell<Pipeline>,
    state: Cell<State>,
    /// The number of its requests.
    in_flight: Cell<usize>,
    /// When it last replied.
    last_reply: Cell<Instant>,
    /// When it last had a request.
    last_request: Cell<Instant>,
    /// Ends the connection.
    abandoned: Notify,
    tasks: RefCell<Vec<AbortHandle>>,
    /// The code of the last error that was printed.
    last_error: RefCell<String>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum State {
    Connecting,
    Up,
    Down,
}

impl Node {
    /// Starts a node and the task that connects to it.
    pub(super) fn start(address: HostPort, engine: &Rc<Engine>) -> Rc<Self> {
        let now = Instant::now();
        let node = Rc::new(Self {
            address,
            queue: RefCell::default(),
            pipeline: RefCell::default(),
            state: Cell::new(State::Connecting),
            in_flight: Cell::new(0),
            last_reply: Cell::new(now),
            last_request: Cell::new(now),
            abandoned: Notify::new(),
            tasks: RefCell::default(),
            last_error: RefCell::default(),
        });
        let task = tokio::task::spawn_local(run(node.clone(), engine.clone()));
        node.tasks.borrow_mut().push(task.abort_handle());
        node
    }

    /// Takes a request, or answers it if the node is down.
    pub(super) fn push(&self, request: Box<Request>) {
        match self.state.get() {
            State::Down => return drop(request),
            State::Connecting => self.queue.borrow_mut().push_back(request),
            State::Up => self.pipeline.borrow_mut().push(request),
        }
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// The number of its requests.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Subtracts requests that are complete.
    pub(super) fn completed(&self, requests: usize) {
        self.in_flight.set(self.in_flight.get() - requests);
    }

    /// When it last had a request.
    pub(super) fn last_request(&self) -> Instant {
        self.last_request.get()
    }

    /// Notes that it has replied.
    pub(super) fn replied(&self) {
        self.last_reply.set(Instant::now());
    }

    /// Notes an error that it has replied with. True if it differs from the last one, and so is worth a
    /// line.
    pub(super) fn is_new_error(&self, why: &str) -> bool {
        // The first word is the code. The others may differ each time.
        let code = why.split(' ').next().unwrap_or_default().to_owned();
        self.last_error.replace(code.clone()) != code
    }

    /// Whether it is not known to be down.
    pub(super) fn may_answer(&self) -> bool {
        self.state.get() != State::Down
    }

    /// Whether there is a connection to it.
    pub(super) fn is_up(&self) -> bool {
        self.state.get() == State::Up
    }

    /// Answers the requests whose deadline has passed. Abandons the connection if the node has not replied
    /// to anything while they waited.
    pub(super) fn expire(&self, now: Instant, deadline: Duration) {
        if self.in_flight.get() == 0 {
            return;
        }
        self.last_request.set(now);
        let expired = self.pipeline.borrow_mut().expire(now);
        if expired && now - self.last_reply.get() >= deadline {
            return self.abandon();
        }
        let mut queue = self.queue.borrow_mut();
        let before = queue.len();
        queue.retain_mut(|request| {
            let expired = request.deadline <= now;
            if expired {
                request.expire();
            }
            !expired
        });
        self.completed(before - queue.len());
    }

    /// Ends its task after requests in flight had time to be answered.
    pub(super) fn retire(self: &Rc<Self>) {
        let node = self.clone();
        tokio::task::spawn_local(async move {
            sleep(RETIRE_AFTER).await;
            node.tasks.borrow_mut().drain(..).for_each(|task| task.abort());
            node.set_down();
        });
    }

    /// Answers all its requests, and those to come, with status 2.
    fn set_down(&self) {
        self.state.set(State::Down);
        let queue = std::mem::take(&mut *self.queue.borrow_mut());
        let sent: Vec<_> = self.pipeline.borrow_mut().clear().collect();
        self.in_flight.set(0);
        drop((queue, sent));
    }

    /// Abandons the connection because the node does not reply.
    fn abandon(&self) {
        if self.is_up() {
            self.set_down();
            self.abandoned.notify_one();
        }
    }

    /// Begins to send on a new connection, with the requests that have waited for it.
    fn set_up(&self) {
        self.replied();
        self.state.set(State::Up);
        let queue = std::mem::take(&mut *self.queue.borrow_mut());
        let mut pipeline = self.pipeline.borrow_mut();
        queue.into_iter().for_each(|request| pipeline.push(request));
    }

    /// Ends a broken connection. Sends the requests again that allow it, and answers the rest.
    fn disconnected(&self, engine: &Rc<Engine>) {
        if !self.is_up() {
            return;
        }
        self.state.set(State::Connecting);
        let requests: Vec<_> = self.pipeline.borrow_mut().clear().collect();
        self.completed(requests.len());
        let again = requests.into_iter().filter(|request| request.is_idempotent());
        again.for_each(|request| engine.resubmit(request));
    }
}

/// Keeps the node connected.
async fn run(node: Rc<Node>, engine: Rc<Engine>) {
    let mut unreachable = false;
    loop {
        let attempt = timeout(CONNECT_MAX, engine.config.connector.connect(&node.address)).await;
        let why = match attempt {
            Ok(Ok(stream)) => {
                if std::mem::take(&mut unreachable) {
                    engine.log(&format!("engine node {} is reachable again", node.address));
                }
                node.set_up();
                let why = tokio::select! {
                    error = pipeline::run(&node, &engine, stream) => error.to_string(),
                    () = abandoned(&node) => NO_REPLY.to_owned(),
                    () = probe_when_idle(&node, &engine) => NO_REPLY.to_owned(),
                };
                engine.shared.counters.lost.count();
                engine.stale.notify_one();
                node.disconnected(&engine);
                if node.may_answer() {
                    // Only the connection has ended: nodes close idle ones.
                    sleep(Duration::from_millis(1)).await;
                    continue;
                }
                why
            }
            Ok(Err(why)) => why,
            Err(_) => NO_REPLY.to_owned(),
        };
        if !std::mem::replace(&mut unreachable, true) {
            engine.log(&format!("engine node {} is unreachable ({why})", node.address));
            engine.stale.notify_one();
        }
        node.set_down();
        sleep(RETRY).await;
    }
}

/// Waits until the connection is abandoned.
async fn abandoned(node: &Node) {
    while node.is_up() {
        node.abandoned.notified().await;
    }
}

/// Probes the node whenever it has not replied for a while. Returns when it does not answer.
async fn probe_when_idle(node: &Node, engine: &Engine) {
    loop {
        sleep(HEARTBEAT).await;
        if node.last_reply.get().elapsed() < HEARTBEAT || node.in_flight() > 0 {
            continue;
        }
        // Another connection tells as much, and its replies cannot be mistaken for those to requests.
        let attempt = timeout(CONNECT_MAX, engine.config.connector.connect(&node.address)).await;
        if attempt.is_err() && node.in_flight() == 0 {
            return node.set_down();
        }
        node.replied();
    }
}
