//! What a new client of any node gets at the end, answer for answer: every operation does what it
//! is for, and those of level 1 are there if the servers have them.

use crate::network::{Dial, End};
use crate::pipe::Readable;
use crate::request::session;
use crate::trace::Actor;
use crate::world::World;
use distcache_testing::bytes::{
    ADD, GET, HAVE, PUT, REMOVE, TAKE, add_payload, at_level, message, whole_messages,
};

/// Its number in the trace.
const ACTOR: Actor = Actor::Client(400);

impl World<'_> {
    /// Lets a client of this node use one operation after the other.
    ///
    /// # Panics
    /// If it gets another answer than it must.
    pub(crate) fn verify(&mut self, node: usize) {
        let end = self.network.dial(ACTOR, node);
        while self.network.dialed(end) == Dial::Waiting {
            self.round();
        }
        // The table may have a single block.
        let id = [b"id of verify", &[node as u8][..]].concat();
        let (one, other) = (session(&id, 1, 40), session(&id, 2, 50));
        let store = |session: &[u8]| add_payload(60_000, &id, session);
        let level_zero: [(u8, Vec<u8>, &[u8]); 7] = [
            (HAVE, id.clone(), &[1]),
            (ADD, store(&one), &[0]),
            (ADD, store(&other), &[101]),
            (GET, id.clone(), &one),
            (REMOVE, id.clone(), &[0]),
            (HAVE, id.clone(), &[1]),
            (GET, id.clone(), &[1]),
        ];
        let new: [(u8, Vec<u8>, &[u8]); 6] = [
            (ADD, store(&one), &[0]),
            (PUT, store(&other), &[0]),
            (HAVE, id.clone(), &[0]),
            (TAKE, id.clone(), &other),
            (TAKE, id.clone(), &[1]),
            (GET, id.clone(), &[1]),
        ];
        let new = if self.plan.leads_to_level_zero(node) { &new[..0] } else { &new[..] };
        for (op, payload, wanted) in level_zero.iter().chain(new) {
            let got = self.exchange(node, end, *op, payload);
            assert_eq!(got[..], **wanted, "node {node} gives another answer to {op} at the end");
        }
        self.network.close(ACTOR, end);
    }

    /// Sends one request, and waits for the answer.
    fn exchange(&mut self, node: usize, end: End, op: u8, payload: &[u8]) -> Vec<u8> {
        let (wire, mut sent) = (at_level(1, message(0, 7, op, payload)), 0);
        let (mut received, begun) = (Vec::new(), self.network.now);
        loop {
            let taken = self.network.write(ACTOR, end, &wire[sent..]);
            sent += taken;
            let mut bytes = match self.network.readable(end) {
                Readable::Bytes(here) => vec![0; here],
                Readable::Ended(_) => panic!("node {node} closes the connection of a new client"),
                Readable::Nothing => Vec::new(),
            };
            let len = self.network.read(ACTOR, end, &mut bytes);
            received.extend(&bytes[..len]);
            // Time stands still while anything moves, here too.
            match taken + len {
                0 => self.round(),
                _ => drop(self.turns()),
            }
            if let Some((uid, answers, payload)) = whole_messages(&received).0.pop() {
                assert_eq!((uid, answers), (7, op), "an answer to another request");
                return payload;
            }
            let waited = self.network.now.since(begun);
            assert!(waited <= self.longest_wait(), "a new client is not answered in {waited} ms");
        }
    }
}
