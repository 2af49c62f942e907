//! Stale keys, tickets and queues.

use super::*;
use std::collections::VecDeque;
use std::vec::Vec;

#[test]
fn a_stale_key_finds_nothing_and_harms_nothing() {
    let mut slots = Slots::<char, [Slot<char>; 1]>::fixed();
    let old = slots.insert('a').unwrap();
    let old_ticket = slots.ticket(old);
    assert_eq!(slots.insert('b'), Err('b'));
    assert_eq!(slots.remove(old), Some('a'));
    let new = slots.insert('c').unwrap();
    assert_eq!(old.index(), new.index());
    assert_eq!(slots.get(old), None);
    assert_eq!(slots.remove(old), None);
    assert_eq!(
        (slots.by_ticket(old_ticket), slots.by_ticket(slots.ticket(new))),
        (None, Some(new))
    );
    assert_eq!((slots.get(new), slots.len()), (Some(&'c'), 1));
}

#[test]
fn a_ticket_is_found_whatever_the_capacity() {
    for capacity in [1_usize, 2, 3, 4, 5, 8, 9] {
        let memory: Vec<Slot<usize>> = (0..capacity).map(|_| Slot::EMPTY).collect();
        let mut slots = Slots::new(memory);
        for round in 0..5 {
            let keys: Vec<Key> = (0..capacity).map(|n| slots.insert(n).unwrap()).collect();
            for &key in &keys {
                assert_eq!(slots.by_ticket(slots.ticket(key)), Some(key), "round {round}");
                slots.remove(key);
                assert_eq!(slots.by_ticket(slots.ticket(key)), None);
            }
        }
    }
}

#[test]
fn a_broken_queue_is_seen() {
    let mut slots = Slots::new([Slot::EMPTY; 3]);
    let mut queue = Queue::new(Lane::Work, QueueId(1));
    let keys: Vec<Key> = (0..3).map(|n| slots.insert(n).unwrap()).collect();
    keys.iter().for_each(|key| slots.enqueue(&mut queue, *key));
    assert_eq!(slots.check([&queue].into_iter()), Ok(()));
    assert!(slots.check([].into_iter()).is_err(), "a queue that is not named");
    slots.memory[1].links[0].prev = 2;
    assert!(slots.check([&queue].into_iter()).is_err(), "a link back");
    slots.memory[1].links[0].prev = 0;
    slots.memory[1].links[0].next = NIL;
    assert!(slots.check([&queue].into_iter()).is_err(), "a link on");
    slots.memory[1].links[0].next = 0;
    assert!(slots.check([&queue].into_iter()).is_err(), "a circle");
    slots.memory[1].links[0].next = 2;
    queue.len = 2;
    assert!(slots.check([&queue].into_iter()).is_err(), "a wrong length");
    queue.len = 3;
    assert_eq!(slots.check([&queue].into_iter()), Ok(()));
}

#[test]
fn a_queue_keeps_its_order_through_removals_anywhere() {
    let mut memory = [Slot::EMPTY; 6];
    let mut slots = Slots::new(&mut memory);
    let mut queue = Queue::new(Lane::Work, QueueId(1));
    let mut other = Queue::new(Lane::Time, QueueId(1));
    let mut model = VecDeque::new();
    let keys: Vec<Key> = (0..6).map(|n| slots.insert(n).unwrap()).collect();
    let mut random = 7_u32;
    for _ in 0..2000 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let key = keys[(random >> 16) as usize % 6];
        match random >> 30 {
            0 => {
                slots.unlink(&mut queue, key);
                model.retain(|queued| *queued != key);
            }
            1 => assert_eq!(slots.dequeue(&mut queue), model.pop_front()),
            _ => {
                slots.enqueue(&mut queue, key);
                slots.enqueue(&mut other, key);
                if !model.contains(&key) {
                    model.push_back(key);
                }
            }
        }
        assert_eq!(slots.check([&queue, &other].into_iter()), Ok(()));
        assert_eq!(queue.len(), model.len());
        assert_eq!(slots.front(&queue), model.front().copied());
        assert!(keys.iter().all(|k| slots.is_queued(&queue, *k) == model.contains(k)));
    }
}

#[test]
fn a_transfer_is_an_unlink_and_an_enqueue() {
    let new = || {
        let mut slots = Slots::new([Slot::EMPTY; 5]);
        let queues = [QueueId(1), QueueId(2)].map(|id| Queue::new(Lane::Time, id));
        let keys: Vec<Key> = (0..5).map(|n| slots.insert(n).unwrap()).collect();
        (slots, queues, keys)
    };
    let (mut slots, [mut a, mut b], keys) = new();
    let (mut other, [mut c, mut d], _) = new();
    keys[..4].iter().for_each(|key| slots.enqueue(&mut a, *key));
    keys[..4].iter().for_each(|key| other.enqueue(&mut c, *key));
    for at in [1, 1, 3, 0, 4, 2, 1] {
        let key = keys[at];
        slots.transfer(&mut a, &mut b, key);
        if other.is_queued(&c, key) {
            other.unlink(&mut c, key);
            other.enqueue(&mut d, key);
        }
        assert_eq!(slots.check([&a, &b].into_iter()), Ok(()));
        assert_eq!((a.len(), b.len()), (c.len(), d.len()));
        assert_eq!((slots.front(&a), slots.front(&b)), (other.front(&c), other.front(&d)));
    }
    while let Some(key) = other.dequeue(&mut d) {
        assert_eq!(slots.dequeue(&mut b), Some(key));
    }
    assert!(a.is_empty() && b.is_empty() && slots.dequeue(&mut b).is_none());
}
