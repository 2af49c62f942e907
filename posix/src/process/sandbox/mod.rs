//! The sandbox: what the process gives up between its start and its loop.
//!
//! A daemon needs the system while it starts, and little of it afterwards. So once the start is over,
//! [`Permit::enter`] takes away, for good and in this order:
//!
//! ```text
//!  capabilities     ambient, bounding and all other sets; no_new_privs
//!  landlock         files, TCP ports, abstract UNIX sockets, signals to other processes
//!  seccomp          system calls: any other than those listed kills the process
//! ```
//!
//! Each step needs what the next one takes away, and seccomp forbids the other two. The process must
//! have one thread: filter and rules apply to the thread that enters.
//!
//! # What remains
//!
//! Reading, writing, accepting, polling and closing descriptors, memory that is not executable, time,
//! random bytes, and the end of the process. All else is asked for in a [`Permit`], which the start
//! collects:
//!
//! ```text
//!   -pidfile, -listen UNIX:/path ──► remove(path)     unlink in that directory
//!   -server addr                 ──► connect(address) socket of that family, connect to that port
//!   a file that is read again    ──► read(dir)        open for reading below that directory
//!   a file that is written       ──► write(dir)       create, rename, remove below that directory
//! ```
//!
//! # Time
//!
//! The kernel decides about a call that is allowed whatever its arguments without running the filter
//! (since Linux 5.11). Those are all the calls of a request. Calls with rules for their arguments,
//! `socket` or `setsockopt`, are made once a connection.
//!
//! # Systems without it
//!
//! Where the kernel lacks landlock or seccomp, the process gets what there is and prints one warning.
//! On other systems than Linux nothing is taken away, and nothing is printed.

#[cfg(target_os = "linux")]
pub(crate) mod capabilities;
#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod filter;
mod permit;

pub(crate) use permit::drop_privileges;
pub use permit::{Extra, Missing, Permit};

#[cfg(all(
    test,
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
mod tests;
