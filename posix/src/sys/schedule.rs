//! How the system schedules this process.

/// Asks that this process never interrupts another one when it wakes up. It gets its full share of the
/// processors nevertheless. Does nothing on systems without such a class.
pub(crate) fn be_batch() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: all zero is a valid value of it: priority 0, the only one of this class.
        let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
        // SAFETY: the parameters are ours for the call. A refusal changes nothing.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
    }
}
