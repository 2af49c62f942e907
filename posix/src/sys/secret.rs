//! Mappings that hold secrets: kept out of core dumps, out of children and out of swap.

use std::io;

use rustix::mm::{Advice, MlockFlags, madvise, mlock_with};

use super::Mapping;

impl Mapping {
    /// Leaves the mapping out of core dumps, and makes it read as zeros in every child of this process.
    pub(crate) fn hide(&mut self) -> io::Result<()> {
        let (start, len) = (self.start.as_ptr().cast(), self.len.max(1));
        for advice in [Advice::LinuxDontDump, Advice::LinuxWipeOnFork] {
            // SAFETY: the range is our mapping, and neither advice changes a byte of it in this process.
            unsafe { madvise(start, len, advice)? };
        }
        Ok(())
    }

    /// Keeps the pages of the mapping out of swap, each from its first use on. All of them count for the
    /// limit of locked memory, used or not.
    pub(crate) fn lock(&mut self) -> io::Result<()> {
        // SAFETY: the range is our mapping. A lock changes no byte of it, and ends with the mapping.
        unsafe { mlock_with(self.start.as_ptr().cast(), self.len.max(1), MlockFlags::ONFAULT)? };
        Ok(())
    }
}
