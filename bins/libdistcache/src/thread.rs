//! What each thread keeps from one call to the next.
//!
//! It uses a pthread key, not a `thread_local!`. If a program loads the library by dlopen, the system
//! allocates thread-local variables at a thread's first use, and aborts the process if there is no memory.
//! The same happens if their destructor cannot be registered.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::call::ReasonText;
use crate::recent::Recent;
use crate::reserve::BLOCK_LEN;

/// The data of a thread. Each field is borrowed only briefly, by one function, so none is borrowed twice.
#[derive(Default)]
pub(crate) struct Thread {
    /// Whether the thread is in a call.
    pub(crate) inside: Cell<bool>,
    /// Whether its call has allocated from the reserve.
    pub(crate) used_reserve: Cell<bool>,
    /// Why its last call failed.
    pub(crate) reason: RefCell<ReasonText>,
    /// What it fetched last.
    pub(crate) recent: RefCell<Recent>,
}

// It outlives a call, so it must not come from the reserve.
const _: () = assert!(size_of::<Thread>() > BLOCK_LEN);

/// Calls `work` with the data of this thread, which is created at the first use. Returns `None` if there is
/// no memory for it.
pub(crate) fn with<T>(work: impl FnOnce(&Thread) -> T) -> Option<T> {
    let key = key()?;
    let own = existing(key).or_else(|| new(key))?;
    // SAFETY: it belongs to this thread, and lives until the thread ends.
    Some(work(unsafe { own.as_ref() }))
}

/// Calls `work` with the data of this thread. Returns `None` if there is none yet.
pub(crate) fn with_existing<T>(work: impl FnOnce(&Thread) -> T) -> Option<T> {
    let own = existing(known_key()?)?;
    // SAFETY: as above.
    Some(work(unsafe { own.as_ref() }))
}

fn existing(key: libc::pthread_key_t) -> Option<NonNull<Thread>> {
    // SAFETY: the key was created and is never deleted; what it holds is null or from `new`.
    NonNull::new(unsafe { libc::pthread_getspecific(key) }.cast())
}

fn new(key: libc::pthread_key_t) -> Option<NonNull<Thread>> {
    // SAFETY: the layout is not empty.
    let place = unsafe { System.alloc(Layout::new::<Thread>()) };
    let place = NonNull::new(place.cast::<Thread>())?;
    // SAFETY: size and alignment fit.
    unsafe { place.write(Thread::default()) };
    // SAFETY: the key was created with `release`, which expects this pointer.
    if unsafe { libc::pthread_setspecific(key, place.as_ptr().cast()) } != 0 {
        // SAFETY: no other code has seen it.
        unsafe { release(place.as_ptr().cast()) };
        return None;
    }
    Some(place)
}

/// Frees the data of a thread when the thread ends.
unsafe extern "C" fn release(own: *mut c_void) {
    let own = own.cast::<Thread>();
    // SAFETY: `new` created it, and the key is cleared before this is called.
    unsafe {
        ptr::drop_in_place(own);
        System.dealloc(own.cast(), Layout::new::<Thread>());
    }
}

/// The key plus 1; 0 until it is created.
static KEY: AtomicUsize = AtomicUsize::new(0);

fn known_key() -> Option<libc::pthread_key_t> {
    libc::pthread_key_t::try_from(KEY.load(Ordering::Acquire).checked_sub(1)?).ok()
}

/// Returns the key, which the first caller creates; `None` if the process has no key left. It takes no lock:
/// after a fork, the child would wait for ever for one that another thread held.
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
        // SAFETY: no other code has seen it.
        unsafe { libc::pthread_key_delete(key) };
    }
    known_key()
}
