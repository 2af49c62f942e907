//! The last steps of a program that has threads, allocates while it runs and connects to addresses that it
//! learns later: `dc_gateway`.

use std::fmt;
use std::io;

use rustix::process::{Resource, getrlimit};

use super::Started;
use crate::net::resolver::READS;
use crate::process::sandbox::{self, Permit};

impl Started {
    /// Locks all memory of the process, present and future, if `-mlock` was given.
    ///
    /// # Errors
    /// [`LockAllError`].
    pub fn lock_all_memory(&self) -> Result<(), LockAllError> {
        if !self.lock_memory {
            return Ok(());
        }
        // At a limit, later allocations would fail and end the program.
        if let Some(limit) = getrlimit(Resource::Memlock).current {
            return Err(LockAllError::Limit(limit));
        }
        lock_all().map_err(LockAllError::Io)
    }

    /// Enters a sandbox of files and privileges, unless `-nosandbox` was given. Prints a warning if it is
    /// incomplete. All system calls stay allowed, and connections to any address.
    ///
    /// Call it after files were read and before threads start.
    pub fn enter_file_sandbox(&mut self) {
        let wanted = self.permit.take().is_some();
        let dropped = if wanted { sandbox::drop_privileges() } else { Ok(()) };
        if self.user.is_some() || (wanted && rustix::process::geteuid().is_root()) {
            self.warn_of_leftovers();
        }
        let restricted = if wanted {
            let mut permit = Permit::any_connection();
            READS.iter().for_each(|dir| permit.read(*dir));
            self.files.iter().for_each(|path| permit.remove(path));
            permit.enter_files()
        } else {
            Ok(())
        };
        if let Err(missing) = dropped.and(restricted) {
            self.warn(&missing.to_string());
        }
    }
}

#[cfg(target_os = "linux")]
fn lock_all() -> io::Result<()> {
    use rustix::mm::{MlockAllFlags, mlockall};
    Ok(mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?)
}

#[cfg(not(target_os = "linux"))]
fn lock_all() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The memory of the process cannot be locked.
#[derive(Debug)]
pub enum LockAllError {
    /// There is a limit, in bytes.
    Limit(u64),
    /// The system's error.
    Io(io::Error),
}

impl fmt::Display for LockAllError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(limit) => write!(
                f,
                "cannot lock memory for -mlock: it grows with the requests in flight, and the limit \
                 of locked memory is {limit} bytes; use ulimit -l unlimited"
            ),
            Self::Io(error) => write!(f, "cannot lock memory for -mlock: {error}"),
        }
    }
}

impl std::error::Error for LockAllError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Limit(_) => None,
            Self::Io(error) => Some(error),
        }
    }
}
