//! Thread cancellation: held off while a call runs.
//!
//! `pthread_cancel` unwinds the stack of the thread from the next system call that waits. Rust code must
//! not be unwound by anything but a panic: the process would abort.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr;

// The libc crate has not declared it for Linux. In a process without threads it is there all the same.
unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

/// `PTHREAD_CANCEL_DISABLE`.
const DISABLE: c_int = if cfg!(target_vendor = "apple") { 0 } else { 1 };

/// While it lives, its thread is not cancelled. A cancellation that comes meanwhile takes effect at the
/// thread's next cancellation point afterwards.
pub(crate) struct Uncancelled {
    before: c_int,
    /// The state is the thread's, so it must be restored there.
    here: PhantomData<*const ()>,
}

impl Uncancelled {
    pub(crate) fn new() -> Self {
        let mut before = DISABLE;
        // SAFETY: the state is one of the two that there are, and `before` has room for the old one.
        unsafe { pthread_setcancelstate(DISABLE, &raw mut before) };
        Self { before, here: PhantomData }
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        // SAFETY: the state is the one that `new` was given, and nobody asks for this one.
        unsafe { pthread_setcancelstate(self.before, ptr::null_mut()) };
    }
}
