//! Capabilities: root's rights, one by one.

use rustix::io::{self, Errno};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// Drops every capability of this thread, and its right to gain any by an exec.
///
/// The bounding set stays where it may not be changed: without `no_new_privs` that needs a privilege,
/// with it nothing can be gained.
pub(super) fn drop_all() -> io::Result<()> {
    drop_bounding_set();
    drop_held()?;
    thread::set_no_new_privs(true)
}

/// Drops all sets but the bounding set.
pub(crate) fn drop_held() -> io::Result<()> {
    match thread::clear_ambient_capability_set() {
        // Kernels before 4.3 have none.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error),
    }
    let none = CapabilitySet::empty();
    thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )
}

/// Empties the bounding set, if permitted.
pub(crate) fn drop_bounding_set() {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if thread::remove_capability_from_bounding_set(capability).is_err() {
            // This kernel has no more, or does not permit it.
            return;
        }
    }
}
