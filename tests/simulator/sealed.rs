//! Runs in which proxies seal sessions, and servers that lie about what they hold.
//!
//! The proxies in front of the servers have keys, so every client calls a proxy. A store must never
//! be given a session in clear: each one that reaches it is opened here, with the keys of the run,
//! and the oracle knows the plaintext. A server that lies changes, cuts, extends or exchanges the
//! sessions that it returns, or returns what is not sealed at all. Each lie must be a miss, so it is
//! recorded as one. In a run in which sessions must not be lost, one server alone lies, and the copy
//! at another one is the answer.

use crate::plan::{Plan, pick};
use distcache_core::id::Id;
use distcache_core::proxy::Seal;
use distcache_core::seal::{KEY_LEN, Keys, Nonces, OVERHEAD};
use distcache_core::time::Instant;
use distcache_testing::random::Random;
use std::rc::Rc;

/// The wall clock at the origin of time.
const UNIX: u32 = 1_700_000_000;

/// Makes it a run with sealed sessions, where that is possible.
pub fn seal(plan: &mut Plan, random: &mut Random) {
    let (servers, nodes) = (plan.servers, plan.nodes.len());
    if plan.faulty_server || nodes == servers || random.below(3) > 0 {
        return;
    }
    plan.sealed = true;
    let all = (1 << servers) - 1;
    plan.liars = match plan.durable {
        false => pick(random, &[0, 1, all, all]),
        true if plan.copies > 1 && servers > 1 => {
            1 << plan.victim.unwrap_or_else(|| random.below(servers))
        }
        true => 0,
    };
    // A server cannot prolong what is sealed.
    plan.nodes[..servers].iter_mut().for_each(|node| node.config.min_ttl = 0);
    let proxy = |node: &mut usize, random: &mut Random| {
        if *node < servers {
            *node = servers + random.below(nodes - servers);
        }
    };
    for client in &mut plan.clients {
        proxy(&mut client.node, random);
    }
    for hostile_client in &mut plan.hostile_clients {
        proxy(&mut hostile_client.node, random);
    }
}

fn keys() -> Keys {
    Keys::new(&[[1; KEY_LEN], [2; KEY_LEN]]).expect("two keys")
}

/// Returns the seal of a proxy; `run` differs for each of its starts.
pub fn of_proxy(run: u64) -> Seal {
    let nonces = Nonces::new(u128::from(run).to_le_bytes());
    Seal { keys: keys(), nonces, mixed: false }
}

/// Returns the time on the wall clock, in milliseconds since 1970.
pub fn unix_millis(now: Instant) -> u64 {
    u64::from(UNIX) * 1000 + now.as_millis()
}

/// Returns the time on the wall clock, in seconds since 1970.
///
/// # Panics
/// After 2106.
pub fn unix_time(now: Instant) -> u32 {
    u32::try_from(unix_millis(now) / 1000).expect("less than a century")
}

/// Opens a session, whether or not its lifetime is over.
///
/// # Panics
/// If it is not sealed for this id.
pub fn open(id: &[u8], envelope: &[u8]) -> Rc<[u8]> {
    let mut bytes = envelope.to_vec();
    let id = Id::new(id).expect("a valid id");
    let session = keys().open(0, id, &mut bytes);
    Rc::from(&*session.expect("only sealed sessions reach a store"))
}

/// Returns the last second in which a session opens.
pub fn expires(envelope: &[u8]) -> u32 {
    let (_, behind) = envelope.split_at(4);
    u32::from_be_bytes(*behind.first_chunk().expect("an envelope"))
}

/// Returns something of another content and the same length at most, and at least 5 bytes. `other` is
/// what is stored under another id.
pub fn lie(random: &mut Random, envelope: &[u8], other: Option<&[u8]>) -> Vec<u8> {
    let mut lie = envelope.to_vec();
    match (random.below(6), other) {
        (0, Some(other)) if other.len() <= envelope.len() => other.to_vec(),
        (1, _) => {
            lie.truncate(5 + random.below(envelope.len() - 5));
            lie
        }
        // It looks like a session in clear.
        (2, _) => lie
            .split_off(OVERHEAD - 8)
            .into_iter()
            .chain([0; 5])
            .take(5.max(envelope.len() - OVERHEAD))
            .collect(),
        // It is to live longer.
        (3, _) => {
            lie[5] = lie[5].wrapping_add(1);
            lie
        }
        _ => {
            let at = random.below(lie.len());
            lie[at] ^= 1 << random.below(8);
            lie
        }
    }
}
