//! One node of the engine: its queue, its connection, and whether it answers.
//!
//! ```text
//!            connected, answers a PING
//!  Connecting ──────────────────────► Up ──┐ no answer within the deadline
//!      ▲  │ cannot connect                 │
//!      │  └─────────────────► Down ◄───────┘
//!      │ connection lost     answered with status 2 at once; tried again every RETRY
//!      Up
//! ```
//!
//! Requests that wait are sent together, as one pipeline, whenever the connection has room: while one
//! pipeline is on its way the next one grows. So the more there is to do, the less each costs.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Engine;
use crate::command::Request;
use crate::endpoint::Place;

/// The most requests of one pipeline.
const BATCH_MAX: usize = 512;
/// The most pipelines on their way to one node. A stopped node has them until their deadline.
const BATCHES_MAX: usize = 4;
/// Time between two attempts to reach a node.
const RETRY: Duration = Duration::from_millis(100);
/// How long an attempt to connect may take, a first answer included.
const CONNECT_MAX: Duration = Duration::from_millis(500);
/// How often a connection that is not used is tried out.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a node that has no slot any more may take to answer what it was sent.
const FAREWELL: Duration = Duration::from_secs(1);

/// One node.
pub(crate) struct Node {
    pub(crate) place: Place,
    queue: RefCell<VecDeque<Box<Request>>>,
    link: RefCell<Link>,
    /// Tells the connections apart that it had.
    era: Cell<u64>,
    /// Pipelines on their way.
    batches: Cell<usize>,
    /// Requests in the queue and on their way.
    load: Cell<usize>,
    /// When it last answered, and when it was last asked.
    heard: Cell<Instant>,
    used: Cell<Instant>,
    /// There is something to send.
    work: Notify,
    /// The connection is not to be used any more.
    lost: Notify,
    tasks: RefCell<Vec<AbortHandle>>,
    /// The last error that was printed.
    complaint: RefCell<String>,
}

enum Link {
    Connecting,
    Up(MultiplexedConnection),
    Down,
}

impl Node {
    /// A node at `place`, and the tasks that connect to it.
    pub(super) fn start(place: Place, engine: &Rc<Engine>) -> Rc<Self> {
        let now = Instant::now();
        let node = Rc::new(Self {
            place,
            queue: RefCell::default(),
            link: RefCell::new(Link::Connecting),
            era: Cell::new(0),
            batches: Cell::new(0),
            load: Cell::new(0),
            heard: Cell::new(now),
            used: Cell::new(now),
            work: Notify::new(),
            lost: Notify::new(),
            tasks: RefCell::default(),
            complaint: RefCell::default(),
        });
        let tasks = [
            tokio::task::spawn_local(maintain(node.clone(), engine.clone())).abort_handle(),
            tokio::task::spawn_local(send_all(node.clone(), engine.clone())).abort_handle(),
        ];
        node.tasks.borrow_mut().extend(tasks);
        node
    }

    /// Puts a request into the queue, or answers it where the node is down.
    pub(super) fn push(&self, request: Box<Request>) {
        if matches!(*self.link.borrow(), Link::Down) {
            return drop(request);
        }
        self.load.set(self.load.get() + 1);
        let mut queue = self.queue.borrow_mut();
        queue.push_back(request);
        if queue.len() == 1 {
            self.work.notify_one();
        }
    }

    /// How many requests it has.
    pub(super) fn load(&self) -> usize {
        self.load.get()
    }

    /// When it was last sent something.
    pub(super) fn used(&self) -> Instant {
        self.used.get()
    }

    /// Notes why it did not answer; true where that is to be printed, since it is another reason than
    /// the last one.
    pub(super) fn complains(&self, why: &str) -> bool {
        // The first word says what is wrong, the others may be different each time.
        let code = why.split(' ').next().unwrap_or_default().to_owned();
        self.complaint.replace(code.clone()) != code
    }

    /// Whether it is not known to be down.
    pub(super) fn may_answer(&self) -> bool {
        !matches!(*self.link.borrow(), Link::Down)
    }

    /// Its connection, where it has one that works.
    pub(super) fn connection(&self) -> Option<MultiplexedConnection> {
        match &*self.link.borrow() {
            Link::Up(connection) => Some(connection.clone()),
            Link::Connecting | Link::Down => None,
        }
    }

    /// Answers the requests in the queue whose time is over.
    pub(super) fn expire(&self, now: Instant) {
        let mut queue = self.queue.borrow_mut();
        if !queue.iter().any(|request| request.deadline <= now) {
            return;
        }
        let (late, rest): (VecDeque<_>, _) =
            std::mem::take(&mut *queue).into_iter().partition(|request| request.deadline <= now);
        *queue = rest;
        drop(queue);
        self.load.set(self.load.get() - late.len());
        late.into_iter().for_each(Request::expire);
    }

    /// Ends its tasks, once what is on its way had time to be answered.
    pub(super) fn retire(self: &Rc<Self>) {
        let node = self.clone();
        tokio::task::spawn_local(async move {
            sleep(FAREWELL).await;
            node.down();
            node.tasks.borrow_mut().drain(..).for_each(|task| task.abort());
        });
    }

    /// Answers everything in the queue, and everything that comes, with status 2.
    fn down(&self) {
        *self.link.borrow_mut() = Link::Down;
        let queue = std::mem::take(&mut *self.queue.borrow_mut());
        self.load.set(self.load.get() - queue.len());
        drop(queue);
    }

    /// Gives up the connection of `era`: it did not answer, or it broke.
    fn lose(&self, era: u64, answers: bool) {
        if self.era.get() != era || !matches!(*self.link.borrow(), Link::Up(_)) {
            return;
        }
        match answers {
            true => *self.link.borrow_mut() = Link::Connecting,
            false => self.down(),
        }
        self.lost.notify_one();
    }

    /// The requests to send now, and what to send them on.
    fn batch(&self) -> Option<(Vec<Box<Request>>, MultiplexedConnection)> {
        let link = self.link.borrow();
        let Link::Up(connection) = &*link else { return None };
        let mut queue = self.queue.borrow_mut();
        if self.batches.get() >= BATCHES_MAX || queue.is_empty() {
            return None;
        }
        let len = queue.len().min(BATCH_MAX);
        Some((queue.drain(..len).collect(), connection.clone()))
    }
}

/// Sends what is in the queue.
async fn send_all(node: Rc<Node>, engine: Rc<Engine>) {
    loop {
        node.work.notified().await;
        while let Some((requests, connection)) = node.batch() {
            node.batches.set(node.batches.get() + 1);
            let batch = send_batch(node.clone(), engine.clone(), requests, connection);
            tokio::task::spawn_local(batch);
        }
    }
}

/// Sends some requests as one pipeline, and settles each.
async fn send_batch(
    node: Rc<Node>,
    engine: Rc<Engine>,
    requests: Vec<Box<Request>>,
    mut connection: MultiplexedConnection,
) {
    let (era, len) = (node.era.get(), requests.len());
    let mut pipeline = redis::Pipeline::with_capacity(len);
    let mut answers = 0;
    for request in &requests {
        if request.asking {
            pipeline.cmd("ASKING");
            answers += 1;
        }
        request.write(&mut pipeline);
        answers += 1;
    }
    let sent = Instant::now();
    node.used.set(sent);
    // What has expired keeps its place, so that its answers are not taken for another's.
    let mut waiting: Vec<(bool, Option<Box<Request>>)> =
        requests.into_iter().map(|request| (request.asking, Some(request))).collect();
    let outcome = {
        let mut exchange = pin!(connection.send_packed_commands(&pipeline, 0, answers));
        loop {
            let open = waiting.iter().filter_map(|(_, request)| request.as_ref());
            let deadlines = open.map(|request| request.deadline);
            let Some(next) = deadlines.min() else { break None };
            if let Ok(outcome) = timeout_at(next, &mut exchange).await {
                break Some(outcome);
            }
            let now = Instant::now();
            for (_, place) in &mut waiting {
                if let Some(late) = place.take_if(|request| request.deadline <= now) {
                    late.expire();
                }
            }
            if node.heard.get() < sent {
                node.lose(era, false);
            }
        }
    };
    node.batches.set(node.batches.get() - 1);
    node.load.set(node.load.get() - len);
    node.work.notify_one();
    match outcome {
        Some(Ok(values)) if values.len() == answers => {
            node.heard.set(Instant::now());
            let mut values = values.into_iter();
            for (asking, request) in waiting {
                if asking {
                    values.next();
                }
                if let (Some(request), Some(value)) = (request, values.next()) {
                    engine.settle(&node, request, value);
                }
            }
        }
        // Nothing came in time, and each was told so.
        None => {}
        Some(_) => {
            node.lose(era, true);
            let open = waiting.into_iter().filter_map(|(_, request)| request);
            let again = open.filter(|request| request.repeatable());
            again.for_each(|request| engine.resubmit(request));
        }
    }
}

/// Keeps a connection to the node.
async fn maintain(node: Rc<Node>, engine: Rc<Engine>) {
    let mut away = false;
    loop {
        let attempt = timeout(CONNECT_MAX, engine.config.connector.connect(&node.place)).await;
        let why = match attempt {
            Ok(Ok((connection, driver))) => {
                if std::mem::take(&mut away) {
                    engine.log(&format!("engine node {} is back", node.place));
                }
                node.era.set(node.era.get() + 1);
                node.heard.set(Instant::now());
                *node.link.borrow_mut() = Link::Up(connection);
                node.work.notify_one();
                hold(&node, driver).await;
                engine.shared.counters.lost.count();
                engine.stale.notify_one();
                if node.may_answer() {
                    // Only the connection is gone: the node may have closed it for its idleness.
                    sleep(Duration::from_millis(1)).await;
                    continue;
                }
                "it does not answer".to_owned()
            }
            Ok(Err(why)) => why,
            Err(_) => "it does not answer".to_owned(),
        };
        if !std::mem::replace(&mut away, true) {
            engine.log(&format!("engine node {} is unreachable ({why})", node.place));
            engine.stale.notify_one();
        }
        node.down();
        sleep(RETRY).await;
    }
}

/// Runs a connection until it ends, or is given up.
async fn hold(node: &Node, driver: impl Future<Output = ()> + 'static) {
    // Dropping the set ends the task, and so closes the connection.
    let mut tasks = JoinSet::new();
    tasks.spawn_local(driver);
    let era = node.era.get();
    loop {
        tokio::select! {
            _ = tasks.join_next() => return node.lose(era, true),
            () = node.lost.notified() => if node.connection().is_none() {
                return;
            },
            answered = beat(node) => if !answered {
                return node.lose(era, false);
            },
        }
    }
}

/// Finds out after a while whether the node answers, if nobody else asks it anything.
async fn beat(node: &Node) -> bool {
    sleep(HEARTBEAT).await;
    match node.connection() {
        Some(mut connection) if node.heard.get().elapsed() >= HEARTBEAT => {
            let ping = redis::cmd("PING");
            let answer = timeout(CONNECT_MAX, connection.send_packed_command(&ping)).await;
            node.heard.set(Instant::now());
            answer.is_ok()
        }
        _ => true,
    }
}
