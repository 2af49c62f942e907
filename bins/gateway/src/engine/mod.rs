//! The engine: which node has which slot, and the nodes.
//!
//! ```text
//!  submit ──► slot ──► node ──► connection ──► redis-server
//!               ▲        │            │
//!            topology    └─ answers, MOVED, ASK ◄
//! ```
//!
//! A worker has an engine of its own, with its own connections: workers share nothing but the numbers
//! they count. All that is here runs on one thread.

mod connect;
mod guard;
mod load;
mod node;
mod reply;
mod slot;
mod topology;
mod wire;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub(crate) use self::connect::Connector;
pub use self::connect::TlsOptions;
pub(crate) use self::load::Load;
pub(crate) use self::node::Node;
pub(crate) use self::reply::Answer;
pub(crate) use self::slot::{SLOTS, slot_of};
use crate::command::{Request, Said, Shared};
use crate::endpoint::{Endpoint, Place};
use crate::parts::Status;

/// How often a request is sent to another node before it is given up.
const HOPS_MAX: u8 = 5;
/// The most nodes that are known at a time. A cluster has at most 1000.
const NODES_MAX: usize = 1024;
/// How long a node that has no slot is kept.
const UNUSED_MAX: Duration = Duration::from_secs(10);
/// How often queues are searched for requests whose time is over.
const TICK: Duration = Duration::from_millis(5);
/// From when on such a search is late by itself.
const LATE: Duration = Duration::from_millis(50);

/// What a worker's engine is told.
pub(crate) struct EngineConfig {
    pub(crate) endpoint: Endpoint,
    pub(crate) connector: Connector,
    /// How long a request may take.
    pub(crate) deadline: Duration,
    /// Prints a line.
    pub(crate) log: Arc<dyn Fn(&str) + Send + Sync>,
}

/// The engine as one worker sees it.
pub(crate) struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) shared: Rc<Shared>,
    map: RefCell<Map>,
    /// Asks for the topology to be looked at again.
    stale: Notify,
    /// How many nodes have slots.
    serving: Cell<usize>,
    /// Set once the topology has been looked at, whatever came of it.
    looked: watch::Sender<bool>,
}

/// What is known about the engine.
struct Map {
    /// The node of each slot.
    slots: Box<[Option<Rc<Node>>]>,
    nodes: HashMap<Place, Rc<Node>>,
    /// Places that may know more: replicas.
    others: Vec<Place>,
}

impl Engine {
    /// An engine of which nothing is known yet.
    pub(crate) fn new(config: EngineConfig, shared: Rc<Shared>) -> Rc<Self> {
        let slots = vec![None; SLOTS].into();
        let map = Map { slots, nodes: HashMap::new(), others: Vec::new() };
        let map = RefCell::new(map);
        let (stale, serving) = (Notify::new(), Cell::new(1));
        Rc::new(Self { config, shared, map, stale, serving, looked: watch::channel(false).0 })
    }

    /// Starts what runs beside the requests. Needs a `LocalSet`.
    pub(crate) fn start(self: &Rc<Self>) {
        tokio::task::spawn_local(topology::follow(self.clone()));
        tokio::task::spawn_local(tick(self.clone()));
    }

    /// Waits until the topology has been looked at for the first time: before that nothing could be
    /// answered.
    pub(crate) async fn looked(&self) {
        let _ = self.looked.subscribe().wait_for(|looked| *looked).await;
    }

    /// Sends a request on its way, or answers it where no node has its slot.
    ///
    /// # Errors
    /// The request: its node has its share of all that may be on its way. Try again later.
    pub(crate) fn submit(self: &Rc<Self>, request: Box<Request>) -> Result<(), Box<Request>> {
        let node = self.map.borrow().slots[request.slot()].clone();
        let Some(node) = node else {
            self.stale.notify_one();
            drop(request);
            return Ok(());
        };
        // A node that has stopped must leave room for the others' requests.
        let share = (self.shared.load.limit() / self.serving.get().max(1)).max(1);
        if request.hops == 0 && node.may_answer() && node.load() >= share {
            return Err(request);
        }
        node.push(request);
        Ok(())
    }

    /// Sends a request on its way again.
    fn resubmit(self: &Rc<Self>, mut request: Box<Request>) {
        request.hops += 1;
        if request.hops > HOPS_MAX {
            return drop(request);
        }
        // Only what comes from clients has to wait for its share.
        drop(self.submit(request));
    }

    /// Does what the engine's answer says.
    fn settle(self: &Rc<Self>, from: &Node, mut request: Box<Request>, answer: Answer<'_>) {
        if !request.is_asked() {
            // It was answered when its time was over.
            return;
        }
        let counters = &self.shared.counters;
        request.asking = false;
        match request.hear(answer) {
            Said::Reply(reply) => request.answer(reply),
            Said::Moved(to) => {
                counters.moved.count();
                self.stale.notify_one();
                if let Some(node) = self.node_at(from, to) {
                    self.map.borrow_mut().slots[request.slot()] = Some(node);
                    self.resubmit(request);
                }
            }
            Said::Ask(to) => {
                counters.asked.count();
                request.hops += 1;
                if let Some(node) = self.node_at(from, to).filter(|_| request.hops <= HOPS_MAX) {
                    request.asking = true;
                    node.push(request);
                }
            }
            Said::ReadOnly => {
                counters.readonly.count();
                self.stale.notify_one();
                request.answer(crate::answers::Reply::Status(Status::DISCONNECTED));
            }
            // Dropped, it is answered.
            Said::Unable(why) => {
                if from.complains(why) {
                    self.log(&format!("engine node {} says: {why}", from.place));
                }
                self.stale.notify_one();
            }
        }
    }

    /// The node that a redirection names.
    fn node_at(self: &Rc<Self>, from: &Node, to: &str) -> Option<Rc<Node>> {
        let (host, port) = to.rsplit_once(':')?;
        let port = port.parse().ok()?;
        // Without a host it is the same one; IPv6 comes without brackets.
        let host = if host.is_empty() { &from.place.host } else { host };
        self.node(Place { host: host.to_owned(), port })
    }

    /// The node at a place; a new one where none is known. `None` where there are too many.
    fn node(self: &Rc<Self>, place: Place) -> Option<Rc<Node>> {
        let mut map = self.map.borrow_mut();
        if let Some(node) = map.nodes.get(&place) {
            return Some(node.clone());
        }
        if map.nodes.len() >= NODES_MAX {
            return None;
        }
        let node = Node::start(place.clone(), self);
        map.nodes.insert(place, node.clone());
        Some(node)
    }

    /// Takes over what is known now: who has which slots, and who else may know. A slot of which
    /// nothing is said stays with its node: who answers may not know all of the cluster yet.
    fn adopt(self: &Rc<Self>, ranges: &[(RangeInclusive<usize>, Place)], others: Vec<Place>) {
        let mut slots = self.map.borrow().slots.clone();
        for (range, place) in ranges {
            if let Some(node) = self.node(place.clone()) {
                slots[range.clone()].fill(Some(node));
            }
        }
        let mut serving: Vec<Rc<Node>> = Vec::new();
        for node in slots.iter().flatten() {
            // Slots come in long ranges of one node.
            let last = serving.last().is_some_and(|last| Rc::ptr_eq(last, node));
            if !last && !serving.iter().any(|known| Rc::ptr_eq(known, node)) {
                serving.push(node.clone());
            }
        }
        let mut map = self.map.borrow_mut();
        map.slots = slots;
        map.others = others;
        let now = Instant::now();
        map.nodes.retain(|_, node| {
            let serves = serving.iter().any(|other| Rc::ptr_eq(node, other));
            let keep = serves || now - node.used() < UNUSED_MAX;
            if !keep {
                node.retire();
            }
            keep
        });
        self.serving.set(serving.len());
    }

    /// Prints a line.
    fn log(&self, line: &str) {
        (self.config.log)(line);
    }

    fn nodes(&self) -> Vec<Rc<Node>> {
        self.map.borrow().nodes.values().cloned().collect()
    }
}

/// Answers requests whose time is over, and lets others pass them.
async fn tick(engine: Rc<Engine>) {
    let mut nodes = Vec::new();
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(TICK).await;
        let now = Instant::now();
        // Where this process got no time itself, answers that are there have not been read yet.
        let late = now - std::mem::replace(&mut last, now) > LATE;
        if late {
            continue;
        }
        nodes.extend(engine.map.borrow().nodes.values().cloned());
        for node in nodes.drain(..) {
            node.expire(now, engine.config.deadline);
        }
        engine.shared.held.overtake(now);
    }
}
