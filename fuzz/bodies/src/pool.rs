//! Runs of bytes over a pool hold what a plain queue holds, and buffers are neither lost nor shared.

use crate::input::Input;
use distcache_core::pool::{Fifo, Pool};

const LEN: usize = 16;

/// Two bytes an operation: what, and on which run how much.
pub fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let mut memory = [0xee; 4 * LEN + 3];
    let mut pool = Pool::new(&mut memory, LEN);
    let mut runs: Vec<(Fifo, Vec<u8>)> = (0..6).map(|_| (Fifo::new(), Vec::new())).collect();
    let mut next = 0_u8;
    while !input.is_over() {
        let (what, which, len) = (input.below(6), input.below(6), input.below(LEN + 4));
        let (fifo, model) = &mut runs[which];
        match what {
            0 | 1 => {
                let had = fifo.has_buffer();
                let free = pool.free();
                let space = fifo.space(&mut pool);
                assert_eq!(space.len(), if had || free > 0 { LEN - model.len() } else { 0 });
                let len = len.min(space.len());
                for byte in &mut space[..len] {
                    next = next.wrapping_add(1);
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
            _ => assert_eq!(fifo.reserve(&mut pool), fifo.has_buffer()),
        }
        let lent = runs.iter().filter(|(fifo, _)| fifo.has_buffer()).count();
        assert_eq!(pool.free() as usize, 4 - lent);
        for (fifo, model) in &runs {
            assert!(fifo.has_buffer() || model.is_empty());
            assert_eq!((fifo.bytes(&pool), fifo.len()), (&model[..], model.len()));
        }
    }
}
