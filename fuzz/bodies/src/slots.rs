//! Slots and the queues through them do what maps and plain queues do.

use crate::input::Input;
use distcache_core::Array;
use distcache_core::slots::{Key, Lane, Queue, QueueId, Slot, Slots};
use std::collections::VecDeque;

const ROOM: usize = 5;

struct Model {
    live: Vec<(Key, u32)>,
    gone: Vec<Key>,
    queues: [VecDeque<Key>; 3],
}

/// Input: two bytes an operation, for its kind and its key.
pub fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let mut memory = [const { Slot::EMPTY }; ROOM];
    let mut slots = Slots::new(&mut memory);
    let mut queues = [(Lane::Work, 0), (Lane::Work, 1), (Lane::Time, 0)]
        .map(|(lane, tag)| Queue::new(lane, QueueId(tag)));
    let (live, gone) = (Vec::new(), Vec::new());
    let mut model = Model { live, gone, queues: Default::default() };
    let mut item = 0;
    while !input.is_over() {
        let (what, which) = (input.below(8), input.byte());
        let number = usize::from(which) % 3;
        match (what, model.pick(which)) {
            (0 | 1, _) => {
                item += 1;
                match slots.insert(item) {
                    Ok(key) => model.live.push((key, item)),
                    Err(back) => assert_eq!((back, model.live.len()), (item, ROOM)),
                }
            }
            (2, Some(key)) => {
                for queue in &mut queues {
                    slots.unlink(queue, key);
                }
                assert_eq!(slots.remove(key), model.remove(key));
            }
            (3 | 4, Some(key)) => {
                slots.enqueue(&mut queues[number], key);
                model.enqueue(number, key);
            }
            (5, Some(key)) => {
                slots.unlink(&mut queues[number], key);
                model.queues[number].retain(|queued| *queued != key);
            }
            (6, _) => {
                assert_eq!(slots.dequeue(&mut queues[number]), model.queues[number].pop_front());
            }
            _ => (),
        }
        model.check(&mut slots, &queues);
    }
}

impl Model {
    /// Returns a key that is in use, or a stale one.
    fn pick(&self, which: u8) -> Option<Key> {
        let all = self.live.iter().map(|(key, _)| *key).chain(self.gone.iter().copied());
        all.clone().nth(usize::from(which) / 3 % all.count().max(1))
    }

    fn remove(&mut self, key: Key) -> Option<u32> {
        self.queues.iter_mut().for_each(|queue| queue.retain(|queued| *queued != key));
        let at = self.live.iter().position(|(live, _)| *live == key)?;
        self.gone.insert(0, key);
        self.gone.truncate(8);
        Some(self.live.remove(at).1)
    }

    fn enqueue(&mut self, number: usize, key: Key) {
        let lane = if number < 2 { 0..2 } else { 2..3 };
        let queued = lane.into_iter().any(|number| self.queues[number].contains(&key));
        if !queued && self.live.iter().any(|(live, _)| *live == key) {
            self.queues[number].push_back(key);
        }
    }

    fn check(&self, slots: &mut Slots<u32, impl Array<Slot<u32>>>, queues: &[Queue; 3]) {
        assert_eq!(slots.len(), self.live.len());
        for (key, item) in &self.live {
            assert_eq!(
                (slots.get(*key), slots.by_ticket(slots.ticket(*key))),
                (Some(item), Some(*key))
            );
        }
        for key in &self.gone {
            assert_eq!((slots.get(*key), slots.by_ticket(slots.ticket(*key))), (None, None));
        }
        for (queue, model) in queues.iter().zip(&self.queues) {
            assert_eq!((queue.len(), slots.front(queue)), (model.len(), model.front().copied()));
            for (key, _) in &self.live {
                assert_eq!(slots.is_queued(queue, *key), model.contains(key));
            }
        }
    }
}
