//! Windows over a pool hold what a plain queue holds, buffers are neither lost nor shared, and no byte
//! stays behind that was consumed.

use crate::input::Input;
use distcache_core::buffer::{Fifo, Pool};

const LEN: usize = 16;
/// More than the index of free buffers holds.
const BUFFERS: usize = 8;
const RUNS: usize = 10;
/// The bytes that are queued. The pool's own numbers of buffers have others.
const QUEUED: std::ops::RangeInclusive<u8> = 0x20..=0xdf;

/// Input: two bytes an operation, for its kind, its window and its amount.
pub fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let mut memory = [0xee; BUFFERS * LEN + 3];
    let mut pool = Pool::new(&mut memory, LEN);
    let mut runs: Vec<(Fifo, Vec<u8>)> = (0..RUNS).map(|_| (Fifo::new(), Vec::new())).collect();
    let mut next = *QUEUED.start();
    while !input.is_over() {
        let (what, which, len) = (input.below(7), input.below(RUNS), input.below(LEN + 4));
        let (fifo, model) = &mut runs[which];
        match what {
            0 | 1 => {
                let had = fifo.has_buffer();
                let free = pool.free();
                let space = fifo.space(&mut pool);
                assert_eq!(space.len(), if had || free > 0 { LEN - model.len() } else { 0 });
                let len = len.min(space.len());
                for byte in &mut space[..len] {
                    next = if QUEUED.contains(&(next + 1)) { next + 1 } else { *QUEUED.start() };
                    *byte = next;
                    model.push(next);
                }
                fifo.filled(&mut pool, len);
            }
            2 | 3 => {
                fifo.consume(&mut pool, len);
                model.drain(..len.min(model.len()));
            }
            4 => {
                fifo.clear(&mut pool);
                model.clear();
            }
            5 => assert_eq!(fifo.reserve(&mut pool), fifo.has_buffer()),
            _ => {
                let (keep, most, before) = (1 + which as u32 % 3, len as u32, pool.touched());
                let mut discarded = 0;
                let set_aside = pool.trim(keep, most, |bytes| {
                    bytes.fill(which as u8);
                    discarded += 1;
                });
                assert!(set_aside <= most && set_aside == discarded);
                assert_eq!(pool.touched(), before - set_aside);
                assert!(set_aside == 0 || pool.touched() >= keep);
            }
        }
        let lent = runs.iter().filter(|(fifo, _)| fifo.has_buffer()).count();
        assert_eq!(pool.free() as usize, BUFFERS - lent);
        for (fifo, model) in &runs {
            assert!(fifo.has_buffer() || model.is_empty());
            assert_eq!((fifo.bytes(&pool), fifo.len()), (&model[..], model.len()));
        }
    }
    let held: Vec<u8> = runs.into_iter().flat_map(|(_, model)| model).collect();
    let sorted = |bytes: Vec<u8>| {
        let mut bytes: Vec<u8> = bytes.into_iter().filter(|byte| QUEUED.contains(byte)).collect();
        bytes.sort_unstable();
        bytes
    };
    assert_eq!(sorted(memory.to_vec()), sorted(held), "bytes stay behind");
}
