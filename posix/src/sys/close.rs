//! Descriptors of a forked child.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Closes all descriptors of this process beside its standard streams and `keep`.
///
/// For a child that never returns to what it was forked from: other values of it that own descriptors are
/// not used or dropped any more.
pub(crate) fn close_all_but(keep: BorrowedFd<'_>) {
    for number in super::inherited_numbers() {
        if number > 2 && number != keep.as_raw_fd() {
            // SAFETY: F_GETFD only looks, at whatever number.
            if unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0 {
                // SAFETY: it is open, and what owns it is not used any more, as the caller says.
                drop(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
    }
}
