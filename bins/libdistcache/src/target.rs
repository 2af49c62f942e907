//! What a target and the environment say about a new client.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::time::Duration;

use distcache_posix::client::{BuildError, Client};
use distcache_posix::net::address::Address;

use crate::reason::Reason;
use crate::reserve::BLOCK_LEN;

/// Milliseconds that each operation may take, where the usual time does not fit.
const TIMEOUT_VARIABLE: &CStr = c"DISTCACHE_TIMEOUT_MS";

/// The most bytes of a target. A host's name has 253; what is said of a target fits the reserve.
const TARGET_MAX: usize = 300;

const _: () = assert!(TARGET_MAX + 100 <= BLOCK_LEN);

/// `DC_CTX_FLAG_PERSISTENT`: keep connections.
const PERSISTENT: c_uint = 1;
/// `DC_CTX_FLAG_PERSISTENT_RETRY`: send a request again after a kept connection broke under it.
const RETRY: c_uint = 4;
/// `DC_CTX_FLAG_PERSISTENT_LATE`: connect in the first operation. `DC_CTX_FLAG_PERSISTENT_PIDCHECK`, 2,
/// has no effect: every client is safe to use after a fork.
const LATE: c_uint = 8;

/// How long the cache is left alone after a call that it did not answer in time.
const PAUSE: Duration = Duration::from_secs(1);

/// # Safety
/// `target` is null, or a C string that stays as it is for as long as the result is used.
pub(crate) unsafe fn text<'a>(target: *const c_char) -> Result<&'a str, Reason> {
    if target.is_null() {
        return Err(Reason::Said("the target is NULL"));
    }
    // SAFETY: the caller's promise.
    let target = unsafe { CStr::from_ptr(target) };
    if target.count_bytes() > TARGET_MAX {
        return Err(Reason::Said("the target is longer than any address"));
    }
    target.to_str().map_err(|_| Reason::Said("the target is not UTF-8"))
}

/// A client of `target`, and how long each of its operations may take.
pub(crate) fn client(target: &str, flags: c_uint) -> Result<(Client, Duration), Reason> {
    let address: Address = target.parse()?;
    address.connectable().map_err(BuildError::Address)?;
    if let Address::Fd { write: Some(number), .. } = address
        && !is_socket(number)
    {
        let why = "is no open socket: on a pipe that breaks the process would get SIGPIPE";
        return Err(Reason::Target(format!("{target}: descriptor {number} {why}")));
    }
    let mut builder = Client::builder(address).pause(PAUSE);
    if let Some(timeout) = environment(TIMEOUT_VARIABLE) {
        builder = builder.timeout(timeout);
    }
    if flags & PERSISTENT == 0 {
        builder = builder.connection_per_operation();
    } else if flags & LATE == 0 {
        builder = builder.connect_on_build();
    }
    if flags & RETRY != 0 {
        builder = builder.retry();
    }
    let client = builder.build()?;
    let timeout = client.timeout();
    Ok((client, timeout))
}

/// What a variable of the environment says, unless the program has rights that its caller has not:
/// whoever starts a setuid program must not decide how long it waits.
fn environment(name: &CStr) -> Option<Duration> {
    #[cfg(target_os = "linux")]
    // SAFETY: the name is a C string. Only another thread that changes the environment meanwhile, which
    // C programs must not do, could make the result invalid before it is read.
    let value = unsafe {
        // The libc crate has not declared it for Linux.
        unsafe extern "C" {
            fn secure_getenv(name: *const c_char) -> *mut c_char;
        }
        let value = secure_getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value))
    };
    #[cfg(not(target_os = "linux"))]
    // SAFETY: as above; the first call takes nothing and only tells.
    let value = unsafe {
        let value = match libc::issetugid() {
            0 => libc::getenv(name.as_ptr()),
            _ => std::ptr::null_mut(),
        };
        (!value.is_null()).then(|| CStr::from_ptr(value))
    };
    said(value?)
}

/// What the variable says; `None` where that is not a number above 0. There is nobody to tell of a
/// mistake, and a server that does not start for it would be worse than the usual time.
fn said(value: &CStr) -> Option<Duration> {
    let msecs: u64 = value.to_str().ok()?.trim().parse().ok()?;
    (msecs > 0).then(|| Duration::from_millis(msecs))
}

fn is_socket(number: c_int) -> bool {
    let mut kind: c_int = 0;
    let Ok(mut len) = libc::socklen_t::try_from(size_of::<c_int>()) else { return false };
    // SAFETY: it only looks, at whatever number, and `kind` has the `len` bytes that it may write.
    let status = unsafe {
        libc::getsockopt(
            number,
            libc::SOL_SOCKET,
            libc::SO_TYPE,
            (&raw mut kind).cast(),
            &raw mut len,
        )
    };
    status == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn the_environment_sets_the_time_if_it_is_a_number_above_0() {
        assert_eq!(said(c"1"), Some(Duration::from_millis(1)));
        assert_eq!(said(c" 2500\n"), Some(Duration::from_millis(2500)));
        for unfit in [c"", c"0", c"-1", c"1s", c"0.5", c"99999999999999999999999", c"\xff"] {
            assert_eq!(said(unfit), None, "{unfit:?}");
        }
    }

    #[test]
    fn only_open_sockets_are_sockets() {
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let (_reader, pipe) = std::io::pipe().unwrap();
        assert!(is_socket(socket.as_raw_fd()));
        assert!(!is_socket(pipe.as_raw_fd()));
        assert!(!is_socket(c_int::MAX));
    }
}
