use std::os::fd::AsRawFd;

use super::*;
use crate::testing::in_child;

#[test]
fn only_what_was_inherited_and_is_not_kept_is_closed() {
    in_child("sys::tests::only_what_was_inherited_and_is_not_kept_is_closed", || {
        let (own, _) = std::io::pipe().unwrap();
        let inherited = || {
            let (end, _) = std::io::pipe().unwrap();
            rustix::io::fcntl_setfd(&end, rustix::io::FdFlags::empty()).unwrap();
            OwnedFd::from(end).into_raw_fd()
        };
        let (kept, closed) = (inherited(), inherited());
        close_inherited(&[kept]);
        // SAFETY: F_GETFD only looks, at whatever number.
        let is_open = |number| unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
        assert!(is_open(own.as_raw_fd()) && is_open(kept) && !is_open(closed));
        assert!((0..3).all(is_open));
    });
}
