//! The sessions of a scripted server: what tests answer when they act as a server.

use std::collections::BTreeMap;

use crate::bytes::{ADD, FETCH, GET, PUT, REMOVE, REPAIR, TAKE};

/// The payload that answers an ADD or PUT without a whole id.
pub const MALFORMED: [u8; 1] = [100];

/// Sessions by id.
#[derive(Clone, Debug, Default)]
pub struct Sessions(pub BTreeMap<Vec<u8>, Vec<u8>>);

impl Sessions {
    /// Executes a request, and returns the payload of its answer.
    pub fn execute(&mut self, op: u8, payload: &[u8]) -> Vec<u8> {
        let status = |done: bool| vec![u8::from(!done)];
        match op {
            ADD | PUT => {
                let Some((id, session)) = split_add(payload) else {
                    return MALFORMED.to_vec();
                };
                if op == ADD && self.0.contains_key(id) {
                    return vec![101];
                }
                self.0.insert(id.to_vec(), session.to_vec());
                status(true)
            }
            GET => self.0.get(payload).cloned().unwrap_or_else(|| status(false)),
            FETCH => match self.0.get(payload) {
                Some(session) => [&[0, 0, 0, 234, 96][..], session].concat(),
                None => vec![1, 0, 0, 0, 0, 0, 0, 0, 9],
            },
            REPAIR => match payload.split_at_checked(8) {
                Some(([0, 0, 0, 0, 0, 0, 0, 9], add)) => self.execute(ADD, add),
                _ => vec![105],
            },
            TAKE => self.0.remove(payload).unwrap_or_else(|| status(false)),
            REMOVE => status(self.0.remove(payload).is_some()),
            _ => status(self.0.contains_key(payload)),
        }
    }
}

/// Splits an ADD into id and session. The lifetime does not matter here.
fn split_add(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let (fixed, rest) = payload.split_first_chunk::<8>()?;
    rest.split_at_checked(usize::from(fixed[7]))
}
