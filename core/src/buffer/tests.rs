//! The pool, and the queues that take its buffers.

use super::*;
use crate::memory::Array;

fn put(fifo: &mut Fifo, pool: &mut Pool<impl Array<u8>>, bytes: &[u8]) {
    fifo.space(pool)[..bytes.len()].copy_from_slice(bytes);
    fifo.filled(pool, bytes.len());
}

#[test]
fn a_fifo_without_bytes_has_no_buffer() {
    let mut pool = Pool::<[u8; 16]>::fixed(8);
    let mut fifo = Fifo::new();
    assert_eq!(fifo.space(&mut pool).len(), 8);
    assert_eq!(pool.free(), 1);
    fifo.filled(&mut pool, 0);
    assert_eq!(pool.free(), 2);
    put(&mut fifo, &mut pool, b"abc");
    fifo.consume(&mut pool, 2);
    assert_eq!((fifo.bytes(&pool), pool.free()), (&b"c"[..], 1));
    fifo.consume(&mut pool, 1);
    assert_eq!(pool.free(), 2);
}

#[test]
fn bytes_move_to_the_front_when_room_is_asked_for() {
    let mut memory = [0; 8];
    let mut pool = Pool::new(&mut memory, 8);
    let mut fifo = Fifo::new();
    put(&mut fifo, &mut pool, b"abcdefgh");
    assert!(fifo.space(&mut pool).is_empty());
    fifo.consume(&mut pool, 5);
    assert_eq!(fifo.space(&mut pool).len(), 5);
    put(&mut fifo, &mut pool, b"ijklm");
    assert_eq!(fifo.bytes(&pool), b"fghijklm");
}

#[test]
fn a_buffer_that_is_kept_stays_without_bytes() {
    let mut memory = [0; 8];
    let mut pool = Pool::new(&mut memory, 8);
    let mut fifo = Fifo::new();
    assert!(fifo.keep(&mut pool));
    put(&mut fifo, &mut pool, b"abc");
    fifo.clear(&mut pool);
    assert_eq!((fifo.len(), pool.free()), (0, 0));
    assert!(!Fifo::new().keep(&mut pool));
}

#[test]
fn a_pool_that_is_dry_lends_nothing_and_takes_back_everything() {
    let mut memory = [0; 17];
    let mut pool = Pool::new(&mut memory, 8);
    let (mut a, mut b, mut c) = (Fifo::new(), Fifo::new(), Fifo::new());
    put(&mut a, &mut pool, b"a");
    put(&mut b, &mut pool, b"b");
    assert!(c.space(&mut pool).is_empty() && !c.reserve(&mut pool));
    a.clear(&mut pool);
    b.clear(&mut pool);
    assert_eq!(pool.free(), 2);
    assert!(c.reserve(&mut pool) && a.reserve(&mut pool) && !b.reserve(&mut pool));
}

#[test]
fn buffers_of_a_peak_are_set_aside_once_they_are_not_needed() {
    for len in [8, 12, 16, 64] {
        let mut memory = std::vec![0; 200 * len];
        let mut pool = Pool::new(&mut memory[..], len);
        let mut crowd: std::vec::Vec<_> = (0..100).map(|_| Fifo::new()).collect();
        crowd.iter_mut().for_each(|fifo| put(fifo, &mut pool, b"a"));
        let mut discarded = 0;
        let mut trim = |pool: &mut Pool<&mut [u8]>, most| {
            pool.trim(10, most, |bytes| {
                bytes.fill(0xEE);
                discarded += 1;
            })
        };
        assert_eq!(trim(&mut pool, 99), 0, "all are in use");
        crowd.iter_mut().for_each(|fifo| fifo.clear(&mut pool));
        assert_eq!((pool.touched(), pool.free()), (100, 200));
        assert_eq!(trim(&mut pool, 99), 0, "they were in use a moment ago");
        // Thirty of them are needed again, so seventy are not.
        crowd[..30].iter_mut().for_each(|fifo| put(fifo, &mut pool, b"b"));
        crowd[..30].iter_mut().for_each(|fifo| fifo.clear(&mut pool));
        assert_eq!((trim(&mut pool, 40), trim(&mut pool, 40)), (40, 20));
        assert_eq!((pool.touched(), pool.free()), (40, 200));
        assert_eq!((trim(&mut pool, 40), trim(&mut pool, 40)), (30, 0));
        assert_eq!((discarded, pool.touched(), pool.free()), (90, 10, 200));

        // All are lent again, each once, those set aside before those never used.
        let mut everybody: std::vec::Vec<_> = (0..200).map(|_| Fifo::new()).collect();
        for (n, fifo) in (0..).zip(&mut everybody) {
            assert_eq!(pool.touched_ever(), 100.max(u32::from(n)));
            put(fifo, &mut pool, &[n; 4]);
        }
        assert!(!Fifo::new().reserve(&mut pool));
        for (n, fifo) in (0..).zip(&everybody) {
            assert_eq!(fifo.bytes(&pool), [n; 4]);
        }
    }
}

#[test]
fn buffers_of_dropped_fifos_can_be_reclaimed_and_those_in_use_stay() {
    let mut memory = [0; 64];
    let mut pool = Pool::new(&mut memory, 8);
    let mut fifos: std::vec::Vec<_> = (0..6).map(|_| Fifo::new()).collect();
    for (n, fifo) in (0..).zip(&mut fifos) {
        put(fifo, &mut pool, &[n; 3]);
    }
    fifos[1].clear(&mut pool);
    fifos.truncate(4);
    assert_eq!(pool.free(), 3, "two are lost");
    assert_eq!(pool.reclaim(fifos.iter()), 2);
    assert_eq!((pool.free(), pool.reclaim(fifos.iter())), (5, 0));
    let mut others: std::vec::Vec<_> = (0..5).map(|_| Fifo::new()).collect();
    others.iter_mut().for_each(|fifo| put(fifo, &mut pool, &[9; 8]));
    assert!(!Fifo::new().reserve(&mut pool));
    for (n, fifo) in (0..).zip(&fifos).filter(|(n, _)| *n != 1) {
        assert_eq!(fifo.bytes(&pool), [n; 3]);
    }
}

#[test]
fn a_reclaimed_buffer_is_wiped() {
    let mut memory = [0; 200];
    let mut pool = Pool::new(&mut memory, 100);
    put(&mut Fifo::new(), &mut pool, &[9; 100]);
    assert_eq!(pool.reclaim([].iter()), 1);
    assert!(!memory.contains(&9));
}

#[test]
fn bytes_that_are_consumed_or_move_are_wiped() {
    for len in [10, 64, 100, 128, 200] {
        let mut memory = std::vec![0; 2 * len];
        let mut pool = Pool::new(&mut memory[..], len);
        for cut in 0..len {
            let (mut fifo, mut kept) = (Fifo::new(), Fifo::new());
            assert!(kept.keep(&mut pool));
            for fifo in [&mut fifo, &mut kept] {
                put(fifo, &mut pool, &std::vec![0x99; len]);
                fifo.consume(&mut pool, cut);
                assert_eq!(fifo.space(&mut pool).len(), cut);
                assert_eq!(fifo.bytes(&pool), std::vec![0x99; len - cut]);
            }
            let traces = [&fifo, &kept].map(|fifo| {
                let bytes = fifo.buffer.as_ref().map_or(&[][..], |buffer| pool.bytes(buffer));
                bytes.iter().filter(|byte| **byte == 0x99).count()
            });
            assert_eq!(traces, [len - cut; 2]);
            fifo.consume(&mut pool, len);
            kept.clear(&mut pool);
            let bytes = kept.buffer.as_ref().map_or(&[][..], |buffer| pool.bytes(buffer));
            assert!(!bytes.contains(&0x99), "{cut} of {len}");
            pool.give(kept.buffer.take().expect("it is kept"), 0);
        }
        assert!(!memory.contains(&0x99), "{len}");
    }
}

#[test]
fn bytes_go_from_one_fifo_to_another_and_never_within_one() {
    let mut memory = [0; 16];
    let mut pool = Pool::new(&mut memory, 8);
    let (mut a, mut b) = (Fifo::new(), Fifo::new());
    put(&mut a, &mut pool, b"abc");
    assert!(pool.between(&a, &b).is_none());
    assert!(b.reserve(&mut pool));
    let (held, room) = pool.between(&a, &b).expect("both have buffers");
    assert_eq!((&*held, room.len()), (&b"abc"[..], 8));
    assert!(pool.between(&a, &a).is_some(), "the room behind is disjoint");
}
