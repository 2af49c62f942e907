//! Counters of requests.

use crate::message::Status;
use crate::wire::Op;

/// The requests answered, by operation and result.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Operations {
    /// All requests.
    pub total: u64,
    /// Requests to fetch a session: GET, TAKE and FETCH.
    pub gets: u64,
    /// Those of `gets` that were answered with a session.
    pub hits: u64,
    /// Requests to store a session: ADD and PUT.
    pub adds: u64,
    /// Those of `adds` that were refused because a session with this id is stored.
    pub existing: u64,
    /// Those of `adds` that were refused because the store has no room.
    pub no_room: u64,
    /// Those of `adds` that were refused because a value is out of range.
    pub invalid: u64,
    /// Sessions stored by REPAIRs.
    pub repaired: u64,
}

impl Operations {
    pub(super) const NONE: Self = Self {
        total: 0,
        gets: 0,
        hits: 0,
        adds: 0,
        existing: 0,
        no_room: 0,
        invalid: 0,
        repaired: 0,
    };

    pub(super) fn count(&mut self, op: Op, status: Status) {
        let done = status == Status::OK;
        let add = |counter: &mut u64, one: bool| *counter = counter.wrapping_add(one.into());
        add(&mut self.total, true);
        match op {
            Op::Add | Op::Put => {
                add(&mut self.adds, true);
                match status {
                    Status::OK => {}
                    Status::ADD_EXISTS => add(&mut self.existing, true),
                    Status::NOT_OK | Status::ADD_DATA => add(&mut self.no_room, true),
                    _ => add(&mut self.invalid, true),
                }
            }
            Op::Get | Op::Take | Op::Fetch => {
                add(&mut self.gets, true);
                add(&mut self.hits, done);
            }
            Op::Repair => add(&mut self.repaired, done),
            Op::Remove | Op::Have | Op::Copy => (),
        }
    }
}
