//! Memory for small things, where the system has none.
//!
//! Rust's collections end the process where an allocation is refused, unless they are asked with care.
//! What takes much memory here is asked for with care. The rest, such as the text of an address or of a
//! reason, is small and gone when its call ends: it comes from a fixed reserve where the system refuses
//! it, so the call ends with a failure of its own and the process goes on.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::thread::with_existing;

/// The most bytes that come from the reserve at once. More than the longest text: see `TARGET_MAX`.
pub(crate) const BLOCK_LEN: usize = 512;

/// A call holds no more than a dozen at a time, so this serves some twenty threads. What is never used
/// takes no memory.
const BLOCKS: usize = 256;

#[global_allocator]
static ALLOCATOR: Reserve =
    Reserve { taken: [const { AtomicBool::new(false) }; BLOCKS], blocks: Blocks::new() };

/// Whether this thread's call had to take something from the reserve, since the last time this was asked.
/// What outlives the call must not stay there.
pub(crate) fn used() -> bool {
    with_existing(|thread| thread.used_reserve.replace(false)).unwrap_or(false)
}

/// A value on the heap; `None` where there is no room for it, and the value is dropped.
pub(crate) fn boxed<T>(value: T) -> Option<Box<T>> {
    const { assert!(size_of::<T>() > 0) };
    // SAFETY: the layout is not empty.
    let place = unsafe { std::alloc::alloc(Layout::new::<T>()) }.cast::<T>();
    if place.is_null() {
        return None;
    }
    // SAFETY: it has the size and the alignment, and came from the allocator that the box gives it to.
    unsafe {
        place.write(value);
        Some(Box::from_raw(place))
    }
}

#[repr(align(16))]
struct Block(UnsafeCell<[u8; BLOCK_LEN]>);

struct Blocks([Block; BLOCKS]);

// SAFETY: a block belongs to the one that has set its flag.
unsafe impl Sync for Blocks {}

impl Blocks {
    const fn new() -> Self {
        Self([const { Block(UnsafeCell::new([0; BLOCK_LEN])) }; BLOCKS])
    }
}

/// The system's allocator, and blocks for what that refuses. No lock: what a thread held when its process
/// forked is lost to the child, and nobody waits for it.
struct Reserve {
    taken: [AtomicBool; BLOCKS],
    blocks: Blocks,
}

impl Reserve {
    /// A block; null where none fits or is left.
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

    /// The flag of the block at `place`; `None` where that is the system's memory.
    fn taken(&self, place: *mut u8) -> Option<&AtomicBool> {
        let offset = place.addr().checked_sub((&raw const self.blocks).addr())?;
        self.taken.get(offset.checked_div(size_of::<Block>())?)
    }
}

// SAFETY: what it gives out is the system's, or a block that is large enough, aligned, and nobody else's
// until it is given back; nothing here unwinds or allocates.
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
            // SAFETY: the caller's promise, and it is not one of ours.
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
                // SAFETY: the caller's promise, and it is not one of ours.
                let moved = unsafe { System.realloc(place, layout, len) };
                if !moved.is_null() {
                    return moved;
                }
                self.take(wanted)
            }
        };
        if !new.is_null() {
            // SAFETY: both have as many bytes, and the new place is nobody else's.
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
    fn blocks_are_apart_and_are_given_again_when_they_came_back() {
        let (reserve, layout) = (reserve(), Layout::from_size_align(BLOCK_LEN, 16).unwrap());
        assert!(!crate::thread::with(|thread| thread.used_reserve.get()).unwrap());
        let blocks: Vec<_> = (0..BLOCKS).map(|_| reserve.take(layout)).collect();
        for (number, block) in blocks.iter().enumerate() {
            assert!(!block.is_null() && reserve.taken(*block).is_some());
            // SAFETY: it is a block of ours.
            unsafe { block.write_bytes(u8::try_from(number).unwrap(), BLOCK_LEN) };
        }
        assert!(reserve.take(layout).is_null() && used());
        for (number, block) in blocks.iter().enumerate() {
            // SAFETY: as above.
            let bytes = unsafe { std::slice::from_raw_parts(*block, BLOCK_LEN) };
            assert!(bytes.iter().all(|byte| usize::from(*byte) == number));
        }
        // SAFETY: it came from there, and is not used any more.
        unsafe { reserve.dealloc(blocks[7], layout) };
        assert_eq!(reserve.take(layout), blocks[7]);
        assert!(reserve.take(layout).is_null());
    }

    #[test]
    fn what_is_larger_than_a_block_is_refused() {
        let reserve = reserve();
        for (size, align) in [(BLOCK_LEN + 1, 1), (1, 32)] {
            assert!(reserve.take(Layout::from_size_align(size, align).unwrap()).is_null());
        }
    }

    #[test]
    fn a_block_that_grows_keeps_its_bytes_and_its_place_is_free_again() {
        let (reserve, small) = (reserve(), Layout::from_size_align(5, 1).unwrap());
        let block = reserve.take(small);
        // SAFETY: the block is ours, and each place is used with the length that it has.
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
