//! Wiping copies of sessions that are made outside of the core's buffers.
//!
//! What has a place of its own is wiped there, when it is dropped. A value that is moved leaves copies on
//! the stack that no code can name any more, so [`wipe_stack`] wipes what the stack no longer uses.

use zeroize::Zeroize;

/// Words of stack that are wiped: twice what the functions of a call take, unoptimized ones too.
const STACK_WORDS: usize = 2048;

/// Wipes the part of the stack that the caller's calls have used and do not use any more: 16 KiB.
///
/// Call it where the functions that have handled sessions have returned. Those must not be inlined into
/// the caller, whose own part of the stack stays.
#[inline(never)]
pub(crate) fn wipe_stack() {
    let mut words = [0_u64; STACK_WORDS];
    words.as_mut_slice().zeroize();
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::hint::black_box;
    use std::os::unix::fs::FileExt;

    /// Leaves bytes on the stack, and returns where.
    #[inline(never)]
    fn leave(byte: u8) -> usize {
        let mut bytes = [0; 4096];
        bytes.fill(byte);
        black_box(&mut bytes).as_ptr().addr()
    }

    /// How many groups of 8 of the bytes there are still what was left.
    fn left(at: usize, byte: u8) -> usize {
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        let mut bytes = vec![0; 4096];
        memory.read_exact_at(&mut bytes, at as u64).unwrap();
        bytes.as_chunks().0.iter().filter(|found| **found == [byte; 8]).count()
    }

    #[test]
    fn what_a_call_has_left_on_the_stack_is_wiped() {
        let at = leave(0x5a);
        assert!(left(at, 0x5a) > 100, "a call alone leaves its bytes");
        let at = leave(0x5a);
        wipe_stack();
        assert_eq!(left(at, 0x5a), 0);
    }
}
