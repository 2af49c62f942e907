//! One node of the engine: its connection, and whether it answers.
//!
//! ```text
//!            connected, answers a PING
//!  Connecting ──────────────────────► Up ──┐ nothing heard within the deadline
//!      ▲  │ cannot connect                 │
//!      │  └─────────────────► Down ◄───────┘
//!      │ connection lost     answered with status 2 at once; tried again every RETRY
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
use super::wire::{self, Wire};
use crate::command::Request;
use crate::endpoint::Place;

/// Time between two attempts to reach a node.
const RETRY: Duration = Duration::from_millis(100);
/// How long an attempt to connect may take, a first answer included.
const CONNECT_MAX: Duration = Duration::from_millis(500);
/// How long a connection may be unused before it is tried out.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a node that has no slot any more may take to answer what it was sent.
const FAREWELL: Duration = Duration::from_secs(1);

/// One node.
pub(crate) struct Node {
    pub(crate) place: Place,
    /// What waits for a connection.
    queue: RefCell<VecDeque<Box<Request>>>,
    pub(super) wire: RefCell<Wire>,
    link: Cell<Link>,
    /// Requests that it has.
    load: Cell<usize>,
    /// When it last said something, and when it was last asked.
    heard: Cell<Instant>,
    used: Cell<Instant>,
    /// The connection is not to be used any more.
    lost: Notify,
    tasks: RefCell<Vec<AbortHandle>>,
    /// The last error that was printed.
    complaint: RefCell<String>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Link {
    Connecting,
    Up,
    Down,
}

impl Node {
    /// A node at `place`, and the task that connects to it.
    pub(super) fn start(place: Place, engine: &Rc<Engine>) -> Rc<Self> {
        let now = Instant::now();
        let node = Rc::new(Self {
            place,
            queue: RefCell::default(),
            wire: RefCell::default(),
            link: Cell::new(Link::Connecting),
            load: Cell::new(0),
            heard: Cell::new(now),
            used: Cell::new(now),
            lost: Notify::new(),
            tasks: RefCell::default(),
            complaint: RefCell::default(),
        });
        let task = tokio::task::spawn_local(maintain(node.clone(), engine.clone()));
        node.tasks.borrow_mut().push(task.abort_handle());
        node
    }

    /// Takes a request, or answers it where the node is down.
    pub(super) fn push(&self, request: Box<Request>) {
        match self.link.get() {
            Link::Down => return drop(request),
            Link::Connecting => self.queue.borrow_mut().push_back(request),
            Link::Up => self.wire.borrow_mut().push(request),
        }
        self.load.set(self.load.get() + 1);
    }

    /// How many requests it has.
    pub(super) fn load(&self) -> usize {
        self.load.get()
    }

    /// So many requests are done with.
    pub(super) fn unload(&self, requests: usize) {
        self.load.set(self.load.get() - requests);
    }

    /// When it was last sent something.
    pub(super) fn used(&self) -> Instant {
        self.used.get()
    }

    /// It has said something.
    pub(super) fn heard(&self) {
        self.heard.set(Instant::now());
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
        self.link.get() != Link::Down
    }

    /// Whether there is a connection to it.
    pub(super) fn is_up(&self) -> bool {
        self.link.get() == Link::Up
    }

    /// Answers the requests whose time is over, and gives the node up where it has said nothing while
    /// they waited.
    pub(super) fn expire(&self, now: Instant, deadline: Duration) {
        if self.load.get() == 0 {
            return;
        }
        self.used.set(now);
        let over = self.wire.borrow_mut().expire(now);
        if over && now - self.heard.get() >= deadline {
            return self.lose();
        }
        let mut queue = self.queue.borrow_mut();
        let before = queue.len();
        queue.retain_mut(|request| {
            let over = request.deadline <= now;
            if over {
                request.expire();
            }
            !over
        });
        self.unload(before - queue.len());
    }

    /// Ends its task, once what is on its way had time to be answered.
    pub(super) fn retire(self: &Rc<Self>) {
        let node = self.clone();
        tokio::task::spawn_local(async move {
            sleep(FAREWELL).await;
            node.tasks.borrow_mut().drain(..).for_each(|task| task.abort());
            node.down();
        });
    }

    /// Answers everything that it has, and everything that comes, with status 2.
    fn down(&self) {
        self.link.set(Link::Down);
        let queue = std::mem::take(&mut *self.queue.borrow_mut());
        let on_their_way: Vec<_> = self.wire.borrow_mut().clear().collect();
        self.load.set(0);
        drop((queue, on_their_way));
    }

    /// Gives up the connection because it does not answer.
    fn lose(&self) {
        if self.is_up() {
            self.down();
            self.lost.notify_one();
        }
    }

    /// Begins to send on a new connection: what has waited for it first.
    fn up(&self) {
        self.heard();
        self.link.set(Link::Up);
        let queue = std::mem::take(&mut *self.queue.borrow_mut());
        let mut wire = self.wire.borrow_mut();
        queue.into_iter().for_each(|request| wire.push(request));
    }

    /// Ends a connection that broke: what can be asked again is.
    fn broken(&self, engine: &Rc<Engine>) {
        if !self.is_up() {
            return;
        }
        self.link.set(Link::Connecting);
        let requests: Vec<_> = self.wire.borrow_mut().clear().collect();
        self.unload(requests.len());
        let again = requests.into_iter().filter(|request| request.repeatable());
        again.for_each(|request| engine.resubmit(request));
    }
}

/// Keeps a connection to the node.
async fn maintain(node: Rc<Node>, engine: Rc<Engine>) {
    let mut away = false;
    loop {
        let attempt = timeout(CONNECT_MAX, engine.config.connector.connect(&node.place)).await;
        let why = match attempt {
            Ok(Ok(stream)) => {
                if std::mem::take(&mut away) {
                    engine.log(&format!("engine node {} is back", node.place));
                }
                node.up();
                let why = tokio::select! {
                    error = wire::run(&node, &engine, stream) => error.to_string(),
                    () = given_up(&node) => "it does not answer".to_owned(),
                    () = falls_silent(&node, &engine) => "it does not answer".to_owned(),
                };
                engine.shared.counters.lost.count();
                engine.stale.notify_one();
                node.broken(&engine);
                if node.may_answer() {
                    // Only the connection is gone: the node may have closed it for its idleness.
                    sleep(Duration::from_millis(1)).await;
                    continue;
                }
                why
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

/// Waits until the connection is given up.
async fn given_up(node: &Node) {
    while node.is_up() {
        node.lost.notified().await;
    }
}

/// Tries a connection out whenever nothing was heard on it for a while; ends when it is dead.
async fn falls_silent(node: &Node, engine: &Engine) {
    loop {
        sleep(HEARTBEAT).await;
        if node.heard.get().elapsed() < HEARTBEAT || node.load() > 0 {
            continue;
        }
        // A second connection says as much, and nobody's answers have to be told from its answer.
        let attempt = timeout(CONNECT_MAX, engine.config.connector.connect(&node.place)).await;
        if attempt.is_err() && node.load() == 0 {
            return node.down();
        }
        node.heard();
    }
}
