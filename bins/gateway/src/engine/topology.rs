//! Discovery of the topology: which node has which slots.
//!
//! A cluster reports it by `CLUSTER SLOTS`. An engine without a cluster is one server with all slots: the
//! one whose `ROLE` is master, or the one that the Sentinels name. Nodes that are up are asked first. A
//! wrong report is corrected by the next MOVED.

use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::{sleep, timeout};

use super::connect::PeerKind;
use super::{Engine, Node, SLOTS};
use crate::endpoint::HostPort;

/// The time between two discoveries.
const PERIOD: Duration = Duration::from_secs(5);
/// The same while a node is down or no node reports the topology.
const RETRY_PERIOD: Duration = Duration::from_millis(200);
/// The shortest time between two discoveries.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest time of a query to one node.
const QUERY_MAX: Duration = Duration::from_millis(250);

/// Ranges of slots and their nodes.
type Ranges = Vec<(RangeInclusive<usize>, HostPort)>;

/// A discovered topology.
#[derive(Debug, Eq, PartialEq)]
struct Topology {
    ranges: Ranges,
    /// Replicas, which can be asked when masters are down.
    replicas: Vec<HostPort>,
}

/// Keeps the engine's map up to date.
pub(super) async fn follow(engine: Rc<Engine>) {
    let mut unknown = false;
    let mut turn = 0_usize;
    loop {
        turn = turn.wrapping_add(1);
        let discovered = discover(&engine, turn).await;
        let failed = discovered.is_err();
        match discovered {
            Ok(Topology { ranges, replicas }) => {
                if std::mem::take(&mut unknown) {
                    engine.log("the engine is reachable again");
                }
                engine.apply(&ranges, replicas);
            }
            Err(why) if !std::mem::replace(&mut unknown, true) => {
                engine.log(&format!("cannot reach the engine: {why}"));
            }
            Err(_) => {}
        }
        let _ = engine.discovered.send_replace(true);
        sleep(PAUSE).await;
        let unstable = failed || engine.nodes().iter().any(|node| !node.may_answer());
        let period = if unstable { RETRY_PERIOD } else { PERIOD };
        let _ = timeout(period, engine.stale.notified()).await;
    }
}

async fn discover(engine: &Rc<Engine>, turn: usize) -> Result<Topology, String> {
    let endpoint = &engine.config.endpoint;
    if let Some(name) = &endpoint.sentinel {
        return discover_by_sentinel(engine, name, turn).await;
    }
    let mut why = String::from("there is none");
    let mut nodes = engine.nodes();
    if !nodes.is_empty() {
        let by = turn % nodes.len();
        nodes.rotate_left(by);
    }
    // Nodes that are up, then replicas, then the addresses of `-engine`, then nodes that are down.
    let (up, down): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.is_up());
    let mut replicas = engine.map.borrow().replicas.clone();
    replicas.extend(endpoint.seeds.iter().cloned());
    if !replicas.is_empty() {
        let by = turn % replicas.len();
        replicas.rotate_left(by);
    }
    let address = |node: &Rc<Node>| node.address.clone();
    let addresses =
        up.into_iter().map(address).chain(replicas).chain(down.into_iter().map(address));
    let mut asked = Vec::new();
    for address in addresses {
        if asked.contains(&address) {
            continue;
        }
        match timeout(QUERY_MAX, query_at(engine, &address)).await {
            Ok(Ok(topology)) => return Ok(topology),
            Ok(Err(error)) => why = format!("{address}: {error}"),
            Err(_) => why = format!("{address} does not reply"),
        }
        asked.push(address);
    }
    Err(why)
}

/// Connects to an address and queries it.
async fn query_at(engine: &Engine, address: &HostPort) -> Result<Topology, String> {
    let (mut connection, driver) =
        engine.config.connector.connect_for_queries(address, PeerKind::Node).await?;
    tokio::select! {
        topology = query_node(&mut connection, address) => topology,
        () = driver => Err("it closed the connection".into()),
    }
}

async fn query_node(
    connection: &mut redis::aio::MultiplexedConnection,
    address: &HostPort,
) -> Result<Topology, String> {
    let mut slots = redis::cmd("CLUSTER");
    match query(connection, slots.arg("SLOTS")).await? {
        Value::ServerError(error) => {
            // A server without a cluster, or one whose administrator has renamed the command.
            let details = error.details().unwrap_or_default();
            if !details.contains("cluster support disabled") && !details.contains("unknown") {
                return Err(format!("{}: {details}", error.code()));
            }
        }
        reply => {
            return parse_slots(&reply, address)
                .ok_or_else(|| "its CLUSTER SLOTS is invalid or empty".into());
        }
    }
    if is_master(connection).await? {
        return Ok(single(address.clone()));
    }
    Err("it is a replica".into())
}

/// The topology of a single server.
fn single(address: HostPort) -> Topology {
    Topology { ranges: vec![(0..=SLOTS - 1, address)], replicas: Vec::new() }
}

/// Whether a server is a master. One that does not support `ROLE` counts as one.
async fn is_master(connection: &mut redis::aio::MultiplexedConnection) -> Result<bool, String> {
    let role = query(connection, &redis::cmd("ROLE")).await?;
    let Value::Array(role) = role else { return Ok(true) };
    Ok(role.first().and_then(text).is_none_or(|role| role == "master"))
}

/// Sends a command and returns its reply, which may be an error of the engine.
async fn query(
    connection: &mut redis::aio::MultiplexedConnection,
    command: &Cmd,
) -> Result<Value, String> {
    connection.send_packed_command(command).await.map_err(|error| error.to_string())
}

async fn discover_by_sentinel(
    engine: &Engine,
    name: &str,
    turn: usize,
) -> Result<Topology, String> {
    let seeds = &engine.config.endpoint.seeds;
    let mut why = String::new();
    for step in 0..seeds.len() {
        let seed = &seeds[(turn + step) % seeds.len()];
        match timeout(QUERY_MAX, query_sentinel(engine, seed, name)).await {
            Ok(Ok(address)) => match timeout(QUERY_MAX, query_at(engine, &address)).await {
                Ok(Ok(topology)) => return Ok(topology),
                Ok(Err(error)) => why = format!("{address}: {error}"),
                Err(_) => why = format!("{address} does not reply"),
            },
            Ok(Err(error)) => why = format!("{seed}: {error}"),
            Err(_) => why = format!("{seed} does not reply"),
        }
    }
    Err(why)
}

async fn query_sentinel(engine: &Engine, seed: &HostPort, name: &str) -> Result<HostPort, String> {
    let connector = &engine.config.connector;
    let (mut connection, driver) = connector.connect_for_queries(seed, PeerKind::Sentinel).await?;
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let reply = tokio::select! {
        reply = query(&mut connection, &command) => reply?,
        () = driver => return Err("it closed the connection".into()),
    };
    let Value::Array(parts) = reply else { return Err(format!("it knows no master '{name}'")) };
    let (host, port) = (parts.first().and_then(text), parts.get(1).and_then(text));
    let port = port.and_then(|port| port.parse().ok());
    match (host, port) {
        (Some(host), Some(port)) => Ok(HostPort { host: host.to_owned(), port }),
        _ => Err("its reply is invalid".into()),
    }
}

/// Parses the reply to `CLUSTER SLOTS` of the node at `from`: rows of the first and last slot, the master
/// and its replicas, each as host and port. `None` if it is invalid, or no slot has a node.
fn parse_slots(reply: &Value, from: &HostPort) -> Option<Topology> {
    let Value::Array(rows) = reply else { return None };
    let (mut ranges, mut replicas) = (Ranges::new(), Vec::new());
    for row in rows {
        let Value::Array(row) = row else { return None };
        let [Value::Int(first), Value::Int(last), nodes @ ..] = row.as_slice() else { return None };
        let (first, last) = (usize::try_from(*first).ok()?, usize::try_from(*last).ok()?);
        if first > last || last >= SLOTS {
            return None;
        }
        let mut addresses = nodes.iter().map(|node| node_address(node, from));
        if let Some(Some(master)) = addresses.next() {
            ranges.push((first..=last, master));
        }
        for replica in addresses.flatten() {
            if !replicas.contains(&replica) {
                replicas.push(replica);
            }
        }
    }
    (!ranges.is_empty()).then_some(Topology { ranges, replicas })
}

fn node_address(node: &Value, from: &HostPort) -> Option<HostPort> {
    let Value::Array(node) = node else { return None };
    let [host, Value::Int(port), ..] = node.as_slice() else { return None };
    let host = match host {
        // A node that does not know its own host stands for the one that was asked.
        Value::Nil => from.host.as_str(),
        host => match text(host)? {
            "" => from.host.as_str(),
            "?" => return None,
            host => host,
        },
    };
    let port = u16::try_from(*port).ok().filter(|&port| port != 0)?;
    Some(HostPort { host: host.to_owned(), port })
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn node(host: Value, port: i64) -> Value {
        Value::Array(vec![host, Value::Int(port), string("0123"), Value::Array(Vec::new())])
    }

    fn row(first: i64, last: i64, nodes: Vec<Value>) -> Value {
        Value::Array([vec![Value::Int(first), Value::Int(last)], nodes].concat())
    }

    fn address(host: &str, port: u16) -> HostPort {
        HostPort { host: host.into(), port }
    }

    #[test]
    fn slots_belong_to_the_first_node_of_a_row() {
        let from = address("me", 7);
        let reply = Value::Array(vec![
            row(0, 9, vec![node(string("a"), 1), node(string("b"), 2)]),
            row(10, 10, vec![node(string(""), 3), node(string("b"), 2)]),
            row(11, 12, vec![node(Value::Nil, 4)]),
            row(13, 14, vec![node(string("?"), 4)]),
        ]);
        let ranges = vec![
            (0..=9, address("a", 1)),
            (10..=10, address("me", 3)),
            (11..=12, address("me", 4)),
        ];
        let topology = Topology { ranges, replicas: vec![address("b", 2)] };
        assert_eq!(parse_slots(&reply, &from), Some(topology));
    }

    #[test]
    fn an_invalid_reply_changes_nothing() {
        let from = address("me", 7);
        let good = || vec![node(string("a"), 1)];
        let replies = [
            Value::Okay,
            Value::Array(Vec::new()),
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![row(5, 4, good())]),
            Value::Array(vec![row(0, 16_384, good())]),
            Value::Array(vec![row(-1, 4, good())]),
            Value::Array(vec![row(0, 4, Vec::new())]),
            Value::Array(vec![row(0, 4, vec![node(string("a"), 0)])]),
            Value::Array(vec![row(0, 4, vec![node(string("a"), 65_536)])]),
        ];
        for reply in replies {
            assert_eq!(parse_slots(&reply, &from), None, "{reply:?}");
        }
    }
}
