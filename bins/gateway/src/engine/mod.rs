//! The engine: its nodes, and which node has which slot.
//!
//! ```text
//!  submit ──► slot ──► node ──► pipeline ──► redis-server
//!               ▲        │            │
//!            topology    └─ replies, MOVED, ASK ◄
//! ```
//!
//! Each worker has its own `Engine` with its own connections, all on the worker's thread. Workers share
//! nothing but their counters.

mod bounded;
mod connect;
mod in_flight;
mod node;
mod pipeline;
mod resp;
mod slot;
mod topology;

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
pub(crate) use self::in_flight::InFlight;
pub(crate) use self::node::Node;
pub(crate) use self::resp::RespValue;
pub(crate) use self::slot::{SLOTS, slot_of};
use crate::client::UNAVAILABLE;
use crate::command::{Outcome, Request, Shared};
use crate::endpoint::{Endpoint, HostPort};

/// The most times that a request is redirected or repeated.
const HOPS_MAX: u8 = 5;
/// The most nodes at a time. A cluster has at most 1000.
const NODES_MAX: usize = 1024;
/// How long a node without slots is kept.
const UNUSED_MAX: Duration = Duration::from_secs(10);
/// The time between two searches for requests whose deadline has passed.
const TICK: Duration = Duration::from_millis(5);
/// A search that is later than this is skipped.
const LATE: Duration = Duration::from_millis(50);

/// Engine configuration.
pub(crate) struct EngineConfig {
    pub(crate) endpoint: Endpoint,
    pub(crate) connector: Connector,
    /// The longest time of a request.
    pub(crate) deadline: Duration,
    /// Prints a line.
    pub(crate) log: Arc<dyn Fn(&str) + Send + Sync>,
}

/// The engine as one worker sees it.
pub(crate) struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) shared: Rc<Shared>,
    map: RefCell<Map>,
    /// Makes the topology be discovered again.
    stale: Notify,
    /// The number of nodes with slots.
    serving: Cell<usize>,
    /// Set after the first discovery, successful or not.
    discovered: watch::Sender<bool>,
}

/// What is known about the engine.
struct Map {
    /// The node of each slot.
    slots: Box<[Option<Rc<Node>>]>,
    nodes: HashMap<HostPort, Rc<Node>>,
    /// Replicas, which know the topology too.
    replicas: Vec<HostPort>,
}

impl Engine {
    /// An engine of unknown topology.
    pub(crate) fn new(config: EngineConfig, shared: Rc<Shared>) -> Rc<Self> {
        let slots = vec![None; SLOTS].into();
        let map = Map { slots, nodes: HashMap::new(), replicas: Vec::new() };
        let map = RefCell::new(map);
        let (stale, serving) = (Notify::new(), Cell::new(1));
        Rc::new(Self { config, shared, map, stale, serving, discovered: watch::channel(false).0 })
    }

    /// Starts the discovery and the deadlines. Needs a `LocalSet`.
    pub(crate) fn start(self: &Rc<Self>) {
        tokio::task::spawn_local(topology::follow(self.clone()));
        tokio::task::spawn_local(tick(self.clone()));
    }

    /// Waits for the end of the first discovery. No request can be answered before.
    pub(crate) async fn discovered(&self) {
        let _ = self.discovered.subscribe().wait_for(|discovered| *discovered).await;
    }

    /// Sends a request to its node, or answers it if its slot has none.
    ///
    /// # Errors
    /// Returns the request if its node has its share of all requests in flight. Try again later.
    pub(crate) fn submit(self: &Rc<Self>, request: Box<Request>) -> Result<(), Box<Request>> {
        let node = self.map.borrow().slots[request.slot()].clone();
        let Some(node) = node else {
            self.stale.notify_one();
            drop(request);
            return Ok(());
        };
        // A stopped node must leave room for the requests of others.
        let share = (self.shared.in_flight.limit() / self.serving.get().max(1)).max(1);
        if request.hops == 0 && node.may_answer() && node.in_flight() >= share {
            return Err(request);
        }
        node.push(request);
        Ok(())
    }

    /// Sends a request again.
    fn resubmit(self: &Rc<Self>, mut request: Box<Request>) {
        request.hops += 1;
        if request.hops > HOPS_MAX {
            return drop(request);
        }
        // A share limits only new requests.
        drop(self.submit(request));
    }

    /// Handles a node's reply to a request.
    fn receive(self: &Rc<Self>, from: &Node, mut request: Box<Request>, value: RespValue<'_>) {
        if !request.is_pending() {
            // It was answered at its deadline.
            return;
        }
        let counters = &self.shared.counters;
        request.asking = false;
        match request.outcome(value) {
            Outcome::Reply(reply) => {
                request.answer(reply);
                self.shared.recycle(request);
            }
            Outcome::Moved(to) => {
                counters.moved.count();
                self.stale.notify_one();
                if let Some(node) = self.node_at(from, to) {
                    self.map.borrow_mut().slots[request.slot()] = Some(node);
                    self.resubmit(request);
                }
            }
            Outcome::Ask(to) => {
                counters.asked.count();
                request.hops += 1;
                if let Some(node) = self.node_at(from, to).filter(|_| request.hops <= HOPS_MAX) {
                    request.asking = true;
                    node.push(request);
                }
            }
            Outcome::ReadOnly => {
                counters.readonly.count();
                self.stale.notify_one();
                request.answer(UNAVAILABLE);
            }
            // Dropping the request answers it.
            Outcome::Unavailable(why) => {
                if from.is_new_error(why) {
                    self.log(&format!("engine node {} answers with an error: {why}", from.address));
                }
                self.stale.notify_one();
            }
        }
    }

    /// The node that a redirection names.
    fn node_at(self: &Rc<Self>, from: &Node, to: &str) -> Option<Rc<Node>> {
        let (host, port) = to.rsplit_once(':')?;
        let port = port.parse().ok()?;
        // Without a host it is the same host. IPv6 addresses have no brackets here.
        let host = if host.is_empty() { &from.address.host } else { host };
        self.node(HostPort { host: host.to_owned(), port })
    }

    /// The node with an address, which is started if it is new. `None` if there are too many.
    fn node(self: &Rc<Self>, address: HostPort) -> Option<Rc<Node>> {
        let mut map = self.map.borrow_mut();
        if let Some(node) = map.nodes.get(&address) {
            return Some(node.clone());
        }
        if map.nodes.len() >= NODES_MAX {
            return None;
        }
        let node = Node::start(address.clone(), self);
        map.nodes.insert(address, node.clone());
        Some(node)
    }

    /// Applies a discovered topology. A slot that it does not mention stays with its node, because the
    /// node that was asked may not know the whole cluster yet.
    fn apply(
        self: &Rc<Self>,
        ranges: &[(RangeInclusive<usize>, HostPort)],
        replicas: Vec<HostPort>,
    ) {
        let mut slots = self.map.borrow().slots.clone();
        for (range, address) in ranges {
            if let Some(node) = self.node(address.clone()) {
                slots[range.clone()].fill(Some(node));
            }
        }
        let mut serving: Vec<Rc<Node>> = Vec::new();
        for node in slots.iter().flatten() {
            // Most slots have the node of the slot before.
            let last = serving.last().is_some_and(|last| Rc::ptr_eq(last, node));
            if !last && !serving.iter().any(|known| Rc::ptr_eq(known, node)) {
                serving.push(node.clone());
            }
        }
        let mut map = self.map.borrow_mut();
        map.slots = slots;
        map.replicas = replicas;
        let now = Instant::now();
        map.nodes.retain(|_, node| {
            let serves = serving.iter().any(|other| Rc::ptr_eq(node, other));
            let keep = serves || now - node.last_request() < UNUSED_MAX;
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

/// Answers requests whose deadline has passed, and lets later answers pass late ones.
async fn tick(engine: Rc<Engine>) {
    let mut nodes = Vec::new();
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(TICK).await;
        let now = Instant::now();
        // If this process got no time itself, replies may have arrived and wait to be read.
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
