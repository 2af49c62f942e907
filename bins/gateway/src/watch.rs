//! Descriptors that others own, watched by tokio.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor. Its owner must outlive the watch: then what is watched is what was meant.
/// Otherwise another file's events may come, and that wakes a task for nothing.
#[allow(
    deprecated,
    reason = "the other way to say it is unsafe, for the sake of what is said above"
)]
pub(crate) fn watch(fd: BorrowedFd<'_>, interest: Interest) -> io::Result<AsyncFd<RawFd>> {
    AsyncFd::with_interest(fd.as_raw_fd(), interest)
}
