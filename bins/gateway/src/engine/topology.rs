//! Which node has which slots, asked of the engine itself.
//!
//! A cluster is asked with `CLUSTER SLOTS`. An engine that has no cluster is one server with all
//! slots: of several the one whose `ROLE` is master, or the one that the Sentinels name. Nodes that
//! answer are asked first. Whatever one node says wrongly is set right by the next MOVED.

use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::{sleep, timeout};

use super::connect::Whom;
use super::{Engine, Node, SLOTS};
use crate::endpoint::Place;

/// How often the topology is looked at without a reason.
const PERIOD: Duration = Duration::from_secs(5);
/// The same while something is wrong with it.
const HURRY: Duration = Duration::from_millis(200);
/// The least time between two looks, whatever asks for them.
const PAUSE: Duration = Duration::from_millis(50);
/// How long one node may take to answer.
const ANSWER_MAX: Duration = Duration::from_millis(250);

/// Slots and their node.
type Ranges = Vec<(RangeInclusive<usize>, Place)>;

/// What was found out.
#[derive(Debug, Eq, PartialEq)]
struct Found {
    ranges: Ranges,
    /// Replicas, which can be asked when masters are gone.
    others: Vec<Place>,
}

/// Keeps the engine's map right.
pub(super) async fn follow(engine: Rc<Engine>) {
    let mut unknown = false;
    let mut turn = 0_usize;
    loop {
        turn = turn.wrapping_add(1);
        let found = find(&engine, turn).await;
        let lost = found.is_err();
        match found {
            Ok(Found { ranges, others }) => {
                if std::mem::take(&mut unknown) {
                    engine.log("the engine is back");
                }
                engine.adopt(&ranges, others);
            }
            Err(why) if !std::mem::replace(&mut unknown, true) => {
                engine.log(&format!("no engine node can be asked: {why}"));
            }
            Err(_) => {}
        }
        let _ = engine.looked.send_replace(true);
        sleep(PAUSE).await;
        let wrong = lost || engine.nodes().iter().any(|node| !node.may_answer());
        let period = if wrong { HURRY } else { PERIOD };
        let _ = timeout(period, engine.stale.notified()).await;
    }
}

async fn find(engine: &Rc<Engine>, turn: usize) -> Result<Found, String> {
    let endpoint = &engine.config.endpoint;
    if let Some(name) = &endpoint.sentinel {
        return find_by_sentinel(engine, name, turn).await;
    }
    let mut why = String::from("there is none");
    let mut nodes = engine.nodes();
    if !nodes.is_empty() {
        let by = turn % nodes.len();
        nodes.rotate_left(by);
    }
    // Those that answer first, then those who may know, and then those who were named at the start.
    let (up, down): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.is_up());
    let mut others = engine.map.borrow().others.clone();
    others.extend(endpoint.seeds.iter().cloned());
    if !others.is_empty() {
        let by = turn % others.len();
        others.rotate_left(by);
    }
    let place = |node: &Rc<Node>| node.place.clone();
    let places = up.into_iter().map(place).chain(others).chain(down.into_iter().map(place));
    let mut asked = Vec::new();
    for place in places {
        if asked.contains(&place) {
            continue;
        }
        match timeout(ANSWER_MAX, ask_at(engine, &place)).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => why = format!("{place}: {error}"),
            Err(_) => why = format!("{place} does not answer"),
        }
        asked.push(place);
    }
    Err(why)
}

/// Asks a place to which there is no connection.
async fn ask_at(engine: &Engine, place: &Place) -> Result<Found, String> {
    let (mut connection, driver) = engine.config.connector.question(place, Whom::Node).await?;
    tokio::select! {
        found = ask(&mut connection, place) => found,
        () = driver => Err("it closed the connection".into()),
    }
}

async fn ask(
    connection: &mut redis::aio::MultiplexedConnection,
    place: &Place,
) -> Result<Found, String> {
    let mut slots = redis::cmd("CLUSTER");
    match query(connection, slots.arg("SLOTS")).await? {
        Value::ServerError(error) => {
            // An engine without a cluster; or a Redis that was told to hide the command.
            let details = error.details().unwrap_or_default();
            if !details.contains("cluster support disabled") && !details.contains("unknown") {
                return Err(format!("{}: {details}", error.code()));
            }
        }
        answer => return read_slots(&answer, place).ok_or_else(|| "no slots".into()),
    }
    if is_master(connection).await? {
        return Ok(single(place.clone()));
    }
    Err("it is a replica".into())
}

fn single(place: Place) -> Found {
    Found { ranges: vec![(0..=SLOTS - 1, place)], others: Vec::new() }
}

/// Whether a server is a master. One that does not say counts as one.
async fn is_master(connection: &mut redis::aio::MultiplexedConnection) -> Result<bool, String> {
    let role = query(connection, &redis::cmd("ROLE")).await?;
    let Value::Array(role) = role else { return Ok(true) };
    Ok(role.first().and_then(text).is_none_or(|role| role == "master"))
}

/// One command and its answer, an error of the engine among them.
async fn query(
    connection: &mut redis::aio::MultiplexedConnection,
    command: &Cmd,
) -> Result<Value, String> {
    connection.send_packed_command(command).await.map_err(|error| error.to_string())
}

async fn find_by_sentinel(engine: &Engine, name: &str, turn: usize) -> Result<Found, String> {
    let seeds = &engine.config.endpoint.seeds;
    let mut why = String::new();
    for step in 0..seeds.len() {
        let seed = &seeds[(turn + step) % seeds.len()];
        match timeout(ANSWER_MAX, ask_sentinel(engine, seed, name)).await {
            Ok(Ok(place)) => match timeout(ANSWER_MAX, ask_at(engine, &place)).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error)) => why = format!("{place}: {error}"),
                Err(_) => why = format!("{place} does not answer"),
            },
            Ok(Err(error)) => why = format!("{seed}: {error}"),
            Err(_) => why = format!("{seed} does not answer"),
        }
    }
    Err(why)
}

async fn ask_sentinel(engine: &Engine, seed: &Place, name: &str) -> Result<Place, String> {
    let connector = &engine.config.connector;
    let (mut connection, driver) = connector.question(seed, Whom::Sentinel).await?;
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let answer = tokio::select! {
        answer = query(&mut connection, &command) => answer?,
        () = driver => return Err("it closed the connection".into()),
    };
    let Value::Array(parts) = answer else { return Err(format!("it knows no master '{name}'")) };
    let (host, port) = (parts.first().and_then(text), parts.get(1).and_then(text));
    let port = port.and_then(|port| port.parse().ok());
    match (host, port) {
        (Some(host), Some(port)) => Ok(Place { host: host.to_owned(), port }),
        _ => Err("its answer makes no sense".into()),
    }
}

/// Reads the answer to `CLUSTER SLOTS`: first and last slot, then the master and its replicas, each as
/// host and port. `from` is who answered. `None` where it makes no sense, or no slot has a node.
fn read_slots(answer: &Value, from: &Place) -> Option<Found> {
    let Value::Array(rows) = answer else { return None };
    let (mut ranges, mut others) = (Ranges::new(), Vec::new());
    for row in rows {
        let Value::Array(row) = row else { return None };
        let [Value::Int(first), Value::Int(last), nodes @ ..] = row.as_slice() else { return None };
        let (first, last) = (usize::try_from(*first).ok()?, usize::try_from(*last).ok()?);
        if first > last || last >= SLOTS {
            return None;
        }
        let mut places = nodes.iter().map(|node| node_place(node, from));
        if let Some(Some(master)) = places.next() {
            ranges.push((first..=last, master));
        }
        for replica in places.flatten() {
            if !others.contains(&replica) {
                others.push(replica);
            }
        }
    }
    (!ranges.is_empty()).then_some(Found { ranges, others })
}

fn node_place(node: &Value, from: &Place) -> Option<Place> {
    let Value::Array(node) = node else { return None };
    let [host, Value::Int(port), ..] = node.as_slice() else { return None };
    let host = match host {
        // A node that does not know its own address means the one that it was asked at.
        Value::Nil => from.host.as_str(),
        host => match text(host)? {
            "" => from.host.as_str(),
            "?" => return None,
            host => host,
        },
    };
    let port = u16::try_from(*port).ok().filter(|&port| port != 0)?;
    Some(Place { host: host.to_owned(), port })
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

    fn place(host: &str, port: u16) -> Place {
        Place { host: host.into(), port }
    }

    #[test]
    fn slots_belong_to_the_first_node_of_a_row() {
        let from = place("me", 7);
        let answer = Value::Array(vec![
            row(0, 9, vec![node(string("a"), 1), node(string("b"), 2)]),
            row(10, 10, vec![node(string(""), 3), node(string("b"), 2)]),
            row(11, 12, vec![node(Value::Nil, 4)]),
            row(13, 14, vec![node(string("?"), 4)]),
        ]);
        let ranges =
            vec![(0..=9, place("a", 1)), (10..=10, place("me", 3)), (11..=12, place("me", 4))];
        let found = Found { ranges, others: vec![place("b", 2)] };
        assert_eq!(read_slots(&answer, &from), Some(found));
    }

    #[test]
    fn an_answer_that_makes_no_sense_changes_nothing() {
        let from = place("me", 7);
        let good = || vec![node(string("a"), 1)];
        let answers = [
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
        for answer in answers {
            assert_eq!(read_slots(&answer, &from), None, "{answer:?}");
        }
    }
}
