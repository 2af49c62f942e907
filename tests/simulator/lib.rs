//! The whole system in one process, over a virtual network and virtual time, driven by one seed.

pub mod ask;
pub mod caller;
pub mod checked;
mod finish;
pub mod ledger;
pub mod liar;
pub mod pipe;
pub mod plan;
pub mod scan;
pub mod shell;
pub mod subject;
pub mod trace;
pub mod villain;
pub mod wires;
pub mod world;

use distcache_testing::random::Random;
use plan::Plan;
use world::{Stock, World};

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// Things that happened.
    pub events: u64,
    /// A hash of all of them, in their order: the same seed has the same.
    pub hash: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Those of them that were answered that the server is away.
    pub away: u64,
    /// Requests that ended with their connection.
    pub lost: u64,
}

/// Runs one seed; `aloud` prints every event.
///
/// # Panics
/// Where a property does not hold; [`trace::report_panics`] says more about it.
pub fn run(seed: u64, aloud: bool) -> Outcome {
    trace::begin(seed, aloud);
    let mut random = Random::new(seed);
    let plan = Plan::draw(&mut random);
    if aloud {
        println!("{plan:#?}");
    }
    let mut stock = Stock::new(&plan);
    let mut world = World::new(&plan, &mut stock, random);
    world.storm();
    world.finish();
    let (events, hash) = trace::outcome();
    let ledger = world.ledger.borrow();
    Outcome { events, hash, answered: ledger.answered, away: ledger.away, lost: ledger.lost }
}

#[cfg(test)]
mod tests;
