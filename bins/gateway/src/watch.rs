//! Readiness of descriptors that other types own.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with tokio. Its owner must outlive the registration. Otherwise the number may
/// stand for another file, whose events wake a task in vain.
#[allow(
    deprecated,
    reason = "the replacement is unsafe, and what it guards against is harmless here"
)]
pub(crate) fn watch(fd: BorrowedFd<'_>, interest: Interest) -> io::Result<AsyncFd<RawFd>> {
    AsyncFd::with_interest(fd.as_raw_fd(), interest)
}
