//! What each thread keeps from one call to the next.
//!
//! It hangs on a key of the thread library and not on a `thread_local!`. Where a program loads the library
//! while it runs, the system makes room for those at a thread's first use, and ends the process where
//! there is none; and so it does where their destructor cannot be registered.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::call::Words;
use crate::recent::Recent;
use crate::reserve::BLOCK_LEN;

/// A thread's own memory. Each part is borrowed for a moment, by one function, so none is ever borrowed
/// twice.
#[derive(Default)]
pub(crate) struct Thread {
    /// Whether it is in a call.
    pub(crate) inside: Cell<bool>,
    /// Whether its call took something from the reserve.
    pub(crate) used_reserve: Cell<bool>,
    /// Why its last call failed.
    pub(crate) reason: RefCell<Words>,
    /// What it fetched last.
    pub(crate) recent: RefCell<Recent>,
}

// It lives longer than a call, so it must not come from the reserve.
const _: () = assert!(size_of::<Thread>() > BLOCK_LEN);

/// Works with the memory of this thread, which it gets now if it has none yet; `None` where there is no
/// room for that.
pub(crate) fn with<T>(work: impl FnOnce(&Thread) -> T) -> Option<T> {
    let key = key()?;
    let own = there(key).or_else(|| new(key))?;
    // SAFETY: it is this thread's alone, and stays until the thread ends.
    Some(work(unsafe { own.as_ref() }))
}

/// The same, but without memory `work` is left out.
pub(crate) fn with_existing<T>(work: impl FnOnce(&Thread) -> T) -> Option<T> {
    let own = there(known_key()?)?;
    // SAFETY: as above.
    Some(work(unsafe { own.as_ref() }))
}

fn there(key: libc::pthread_key_t) -> Option<NonNull<Thread>> {
    // SAFETY: the key was created and is never deleted; what it holds is null or from `new`.
    NonNull::new(unsafe { libc::pthread_getspecific(key) }.cast())
}

fn new(key: libc::pthread_key_t) -> Option<NonNull<Thread>> {
    // SAFETY: the layout is not empty.
    let place = unsafe { System.alloc(Layout::new::<Thread>()) };
    let place = NonNull::new(place.cast::<Thread>())?;
    // SAFETY: it has the size and the alignment.
    unsafe { place.write(Thread::default()) };
    // SAFETY: the key was created, and `release` is what it does with the pointer.
    if unsafe { libc::pthread_setspecific(key, place.as_ptr().cast()) } != 0 {
        // SAFETY: nobody else has learned of it.
        unsafe { release(place.as_ptr().cast()) };
        return None;
    }
    Some(place)
}

/// Gives the memory back when its thread ends.
unsafe extern "C" fn release(own: *mut c_void) {
    let own = own.cast::<Thread>();
    // SAFETY: `new` made it, and the key forgets it before it calls this.
    unsafe {
        ptr::drop_in_place(own);
        System.dealloc(own.cast(), Layout::new::<Thread>());
    }
}

/// The key and 1; 0 before there is one.
static KEY: AtomicUsize = AtomicUsize::new(0);

fn known_key() -> Option<libc::pthread_key_t> {
    libc::pthread_key_t::try_from(KEY.load(Ordering::Acquire).checked_sub(1)?).ok()
}

/// The key, made by the first thread that asks; `None` where the process has no key left. No lock: a
/// thread that a fork leaves behind would hold it for ever.
fn key() -> Option<libc::pthread_key_t> {
    if let Some(key) = known_key() {
        return Some(key);
    }
    let mut key = 0;
    // SAFETY: there is room for a key, and `release` takes what is stored under it.
    if unsafe { libc::pthread_key_create(&raw mut key, Some(release)) } != 0 {
        return None;
    }
    let new = usize::try_from(key).ok()?.checked_add(1)?;
    if KEY.compare_exchange(0, new, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        // SAFETY: nobody else has learned of it.
        unsafe { libc::pthread_key_delete(key) };
    }
    known_key()
}
