//! What a child of this process gives back.

use std::os::fd::RawFd;

use super::inherited_numbers;

/// Closes all descriptors but the standard streams and `keep`.
///
/// Only for a child that never returns to code that owns one of them: it would find another file under
/// its number, or none.
pub(crate) fn close_all_but(keep: RawFd) {
    for number in inherited_numbers() {
        if number > 2 && number != keep {
            // SAFETY: the caller sees to it that no owner uses or closes it again.
            unsafe { libc::close(number) };
        }
    }
}
