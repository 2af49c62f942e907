//! A small reserve of memory for when the system has none.
//!
//! Most allocations of Rust's collections abort the process if they fail. Here large allocations use the
//! fallible methods. The others, such as the text of an address or a reason, are small and freed when
//! their call ends. If the system refuses one of them, it comes from a fixed reserve: so the call can end
//! with an ordinary failure, and the process goes on.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::thread::with_existing;

/// The size of a block, in bytes. More than the longest text: see `TARGET_MAX`.
pub(crate) const BLOCK_LEN: usize = 512;

/// The number of blocks. A call holds a dozen at most, so this serves about twenty threads. Unused blocks
/// take no physical memory.
const BLOCKS: usize = 256;

#[global_allocator]
static ALLOCATOR: Reserve =
    Reserve { taken: [const { AtomicBool::new(false) }; BLOCKS], blocks: Blocks::new() };

/// Returns whether this thread has allocated from the reserve since it last asked. Memory that outlives a
/// call must not come from there.
pub(crate) fn take_used() -> bool {
    with_existing(|thread| thread.used_reserve.replace(false)).unwrap_or(false)
}

/// Boxes a value. Returns `None`, and drops the value, if there is no memory.
pub(crate) fn try_box<T>(value: T) -> Option<Box<T>> {
    const { assert!(size_of::<T>() > 0) };
    // SAFETY: the layout is not empty.
    let place = unsafe { std::alloc::alloc(Layout::new::<T>()) }.cast::<T>();
    if place.is_null() {
        return None;
    }
    // SAFETY: size and alignment fit, and the box frees it with the allocator that it came from.
    unsafe {
        place.write(value);
        Some(Box::from_raw(place))
    }
}

#[repr(align(16))]
struct Block(UnsafeCell<[u8; BLOCK_LEN]>);

struct Blocks([Block; BLOCKS]);

// SAFETY: a block belongs to the thread that has set its flag.
unsafe impl Sync for Blocks {}

impl Blocks {
    const fn new() -> Self {
        Self([const { Block(UnsafeCell::new([0; BLOCK_LEN])) }; BLOCKS])
    }
}

/// The system's allocator, with blocks for what it refuses. It has no lock, so a child process cannot hang
/// on one that another thread held during the fork.
struct Reserve {
    taken: [AtomicBool; BLOCKS],
    blocks: Blocks,
}

impl Reserve {
    /// Takes a block. Returns null if a block is too small or none is left.
    fn take(&self, layout: Layout) -> *mut u8 {
        if layout.size() > BLOCK_LEN || layout.align() > align_of::<Block>() {
            return ptr::null_mut();
        }
        for (taken, block) in self.taken.iter().zip(&self.blocks.0) {
            if !taken.load(Ordering::Relaxed) && !taken.swap(true, Ordering::Acquire) {
                with_existing(|thread| thread.used_reserve.set(true));
                return block.0.get().cast();
            }
        }
        ptr::null_mut()
    }

    /// Returns the flag of the block at `place`, or `None` if that is memory of the system.
    fn taken(&self, place: *mut u8) -> Option<&AtomicBool> {
        let offset = place.addr().checked_sub((&raw const self.blocks).addr())?;
        self.taken.get(offset.checked_div(size_of::<Block>())?)
    }
}

// SAFETY: memory comes from the system, or is a block that is large enough, aligned, and used by nobody
// else until it is freed; nothing here unwinds or allocates.
unsafe impl GlobalAlloc for Reserve {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let place = unsafe { System.alloc(layout) };
        if place.is_null() { self.take(layout) } else { place }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let place = unsafe { System.alloc_zeroed(layout) };
        if !place.is_null() {
            return place;
        }
        let block = self.take(layout);
        if !block.is_null() {
            // SAFETY: a block has as many bytes.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        match self.taken(place) {
            Some(taken) => taken.store(false, Ordering::Release),
            // SAFETY: the caller's promise, and it is no block.
            None => unsafe { System.dealloc(place, layout) },
        }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        // SAFETY: the caller promises a length that a layout can have.
        let wanted = unsafe { Layout::from_size_align_unchecked(len, layout.align()) };
        let new = match self.taken(place) {
            Some(_) if len <= BLOCK_LEN => return place,
            // SAFETY: the caller's promise.
            Some(_) => unsafe { System.alloc(wanted) },
            None => {
                // SAFETY: the caller's promise, and it is no block.
                let moved = unsafe { System.realloc(place, layout, len) };
                if !moved.is_null() {
                    return moved;
                }
                self.take(wanted)
            }
        };
        if !new.is_null() {
            // SAFETY: both places have that many bytes, and do not overlap.
            unsafe {
                ptr::copy_nonoverlapping(place, new, layout.size().min(len));
                self.dealloc(place, layout);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve() -> Box<Reserve> {
        let blocks = Blocks::new();
        Box::new(Reserve { taken: [const { AtomicBool::new(false) }; BLOCKS], blocks })
    }

    #[test]
    fn blocks_do_not_overlap_and_are_reused_when_freed() {
        let (reserve, layout) = (reserve(), Layout::from_size_align(BLOCK_LEN, 16).unwrap());
        assert!(!crate::thread::with(|thread| thread.used_reserve.get()).unwrap());
        let blocks: Vec<_> = (0..BLOCKS).map(|_| reserve.take(layout)).collect();
        for (number, block) in blocks.iter().enumerate() {
            assert!(!block.is_null() && reserve.taken(*block).is_some());
            // SAFETY: it is a block of ours.
            unsafe { block.write_bytes(u8::try_from(number).unwrap(), BLOCK_LEN) };
        }
        assert!(reserve.take(layout).is_null() && take_used());
        for (number, block) in blocks.iter().enumerate() {
            // SAFETY: as above.
            let bytes = unsafe { std::slice::from_raw_parts(*block, BLOCK_LEN) };
            assert!(bytes.iter().all(|byte| usize::from(*byte) == number));
        }
        // SAFETY: the block is ours and is not used any more.
        unsafe { reserve.dealloc(blocks[7], layout) };
        assert_eq!(reserve.take(layout), blocks[7]);
        assert!(reserve.take(layout).is_null());
    }

    #[test]
    fn an_allocation_larger_than_a_block_is_refused() {
        let reserve = reserve();
        for (size, align) in [(BLOCK_LEN + 1, 1), (1, 32)] {
            assert!(reserve.take(Layout::from_size_align(size, align).unwrap()).is_null());
        }
    }

    #[test]
    fn a_block_that_grows_keeps_its_bytes_and_is_freed() {
        let (reserve, small) = (reserve(), Layout::from_size_align(5, 1).unwrap());
        let block = reserve.take(small);
        // SAFETY: the block is ours, and each place is used with its own length.
        unsafe {
            block.copy_from_nonoverlapping(b"bytes".as_ptr(), 5);
            let same = reserve.realloc(block, small, BLOCK_LEN);
            assert_eq!(same, block);
            let layout = Layout::from_size_align(BLOCK_LEN, 1).unwrap();
            let moved = reserve.realloc(block, layout, 4000);
            assert_eq!(std::slice::from_raw_parts(moved, 5), b"bytes");
            assert!(reserve.taken(moved).is_none());
            assert_eq!(reserve.take(small), block);
            reserve.dealloc(moved, Layout::from_size_align(4000, 1).unwrap());
        }
    }
}
