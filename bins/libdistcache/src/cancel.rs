//! Defers the cancellation of a thread while a call runs.
//!
//! `pthread_cancel` unwinds the stack of a thread from its next blocking system call. If that unwinds Rust
//! code, the process aborts.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr;

// The libc crate does not declare it for Linux.
unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

/// `PTHREAD_CANCEL_DISABLE`.
const DISABLE: c_int = if cfg!(target_vendor = "apple") { 0 } else { 1 };

/// Defers cancellation of the current thread until it is dropped. A cancellation that arrives meanwhile takes
/// effect at the thread's next cancellation point after that.
pub(crate) struct Uncancelled {
    before: c_int,
    /// Not `Send`: the state belongs to the thread.
    not_send: PhantomData<*const ()>,
}

impl Uncancelled {
    pub(crate) fn new() -> Self {
        let mut before = DISABLE;
        // SAFETY: the state is valid, and `before` has room for the old one.
        unsafe { pthread_setcancelstate(DISABLE, &raw mut before) };
        Self { before, not_send: PhantomData }
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        // SAFETY: the state is the one that `new` has saved. A null pointer is allowed for the old one.
        unsafe { pthread_setcancelstate(self.before, ptr::null_mut()) };
    }
}
