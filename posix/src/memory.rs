//! Memory for the core's machines, allocated before the event loop starts.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};

use rustix::process::{Resource, getrlimit};

/// The length of each of a pool's buffers: larger than the largest message, to receive many requests at
/// once. Not a power of two, so that the starts of buffers do not share the same lines of the cache.
pub(crate) const BUFFER_LEN: usize = 17 << 12;

#[cfg(target_os = "linux")]
use crate::sys::Mapping;

/// Zeroed bytes from the system, freed on drop. Derefs to a slice.
///
/// On Linux this is one private mapping without reserved memory: a page takes memory once it has been
/// written to, so a large cache costs only what it holds. Elsewhere it is a zeroed `Vec`.
pub struct Memory(Mapping);

impl Memory {
    /// Allocates `len` bytes; 0 is allowed.
    ///
    /// # Errors
    /// The address space or a limit of the process is too small.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        Mapping::zeroed(len).map(Self)
    }

    /// Asks for huge pages, which save a large table most of its TLB misses. Memory use then grows in
    /// steps of megabytes. Returns whether the system supports it.
    pub fn advise_huge(&mut self) -> bool {
        self.0.advise_huge().is_ok()
    }

    /// Leaves this memory out of core dumps, and makes it read as zeros in every child of this process.
    /// Returns whether the system supports both; Linux does since 4.14.
    pub fn hide(&mut self) -> bool {
        self.0.hide().is_ok()
    }
}

/// Locks memory, so that it is never written to swap. On Linux an untouched page stays without memory, but
/// all pages count for the limit of locked memory.
///
/// # Errors
/// [`LockError`] if the limit of the process is too low for all of it together, or if the system has no
/// such locks.
pub(crate) fn lock(memories: &mut [&mut Memory]) -> Result<(), LockError> {
    let bytes = memories.iter().map(|memory| memory.len()).sum();
    let mut locked = memories.iter_mut().map(|memory| memory.0.lock());
    let limit = getrlimit(Resource::Memlock).current;
    locked.try_for_each(|locked| locked).map_err(|error| LockError { bytes, limit, error })
}

/// Memory could not be locked.
#[derive(Debug)]
pub struct LockError {
    bytes: usize,
    /// The limit of locked memory; `None` for no limit.
    limit: Option<u64>,
    error: io::Error,
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, limit, error } = self;
        write!(f, "cannot lock {bytes} bytes of memory for -mlock: ")?;
        match limit {
            // The system's own words would be that it is out of memory.
            Some(limit) if (*limit as u128) < *bytes as u128 => write!(
                f,
                "the limit is {limit} bytes; raise it (ulimit -l, or LimitMEMLOCK= in the unit), or \
                 lower -maxconn, -sessions or -maxmem"
            ),
            _ => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for LockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Returns the whole pages in `bytes` to the system; what they contain afterwards is unspecified. Does
/// nothing on systems without such a call.
pub(crate) fn discard(bytes: &mut [u8]) {
    #[cfg(target_os = "linux")]
    crate::sys::discard(bytes);
    #[cfg(not(target_os = "linux"))]
    let _ = bytes;
}

/// Shows the length only, since the content is secret: sessions.
impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes)", self.len())
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for Memory {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

#[cfg(not(target_os = "linux"))]
struct Mapping(Vec<u8>);

#[cfg(not(target_os = "linux"))]
impl Mapping {
    fn zeroed(len: usize) -> io::Result<Self> {
        if isize::try_from(len).is_err() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(Self(vec![0; len]))
    }

    fn advise_huge(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn hide(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn lock(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_and_keeps_what_is_written() {
        for len in [0, 1, 4096, 1 << 22] {
            let mut memory = Memory::zeroed(len).unwrap();
            memory.advise_huge();
            assert_eq!(memory.len(), len);
            assert!(memory.iter().all(|&byte| byte == 0));
            memory.fill(7);
            assert!(memory.iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    fn discarded_bytes_can_be_written_again_and_their_neighbours_do_not_change() {
        let mut memory = Memory::zeroed(1 << 20).unwrap();
        memory.fill(7);
        discard(&mut memory[5_000..900_001]);
        assert!(memory[..5_000].iter().chain(&memory[900_001..]).all(|&byte| byte == 7));
        if cfg!(target_os = "linux") {
            assert!(memory[1 << 17..1 << 19].iter().all(|&byte| byte == 0));
        }
        memory[5_000..900_001].fill(9);
        assert!(memory[5_000..900_001].iter().all(|&byte| byte == 9));
        discard(&mut memory[1..20]);
        assert!(memory[..5_000].iter().all(|&byte| byte == 7));
        discard(&mut []);
    }

    #[test]
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    fn a_terabyte_can_be_allocated_and_takes_memory_only_where_it_is_used() {
        let mut memory = Memory::zeroed(1 << 40).unwrap();
        let last = memory.len() - 1;
        memory[last] = 1;
        assert_eq!((memory[0], memory[last / 2], memory[last]), (0, 0, 1));
    }

    #[test]
    fn more_than_the_address_space_is_an_error() {
        assert!(Memory::zeroed(usize::MAX).is_err());
    }
}
