//! Creates a client from a target and the environment.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::time::Duration;

use distcache_posix::client::{BuildError, Client};
use distcache_posix::net::address::Address;

use crate::reason::Reason;
use crate::reserve::BLOCK_LEN;
use crate::seal;

/// The variable that overrides the default timeout of operations, in milliseconds.
const TIMEOUT_VARIABLE: &CStr = c"DISTCACHE_TIMEOUT_MS";

/// The most bytes of a target. A host name has up to 253; a message with a target fits in a reserve block.
const TARGET_MAX: usize = 300;

const _: () = assert!(TARGET_MAX + 100 <= BLOCK_LEN);

/// `DC_CTX_FLAG_PERSISTENT`: keep connections.
const PERSISTENT: c_uint = 1;
/// `DC_CTX_FLAG_PERSISTENT_RETRY`: send a request again after a kept connection broke under it.
const RETRY: c_uint = 4;
/// `DC_CTX_FLAG_PERSISTENT_LATE`: connect in the first operation. `DC_CTX_FLAG_PERSISTENT_PIDCHECK`, 2,
/// has no effect: every client is safe to use after a fork.
const LATE: c_uint = 8;

/// How long a new context pauses after a timeout.
const PAUSE: Duration = Duration::from_secs(1);

/// Checks a target from C.
///
/// # Safety
/// `target` is null, or a C string that does not change for as long as the result is used.
pub(crate) unsafe fn text<'a>(target: *const c_char) -> Result<&'a str, Reason> {
    if target.is_null() {
        return Err(Reason::Text("the target is NULL"));
    }
    // SAFETY: the caller's promise.
    let target = unsafe { CStr::from_ptr(target) };
    if target.count_bytes() > TARGET_MAX {
        return Err(Reason::Text("the target is longer than any address"));
    }
    target.to_str().map_err(|_| Reason::Text("the target is not UTF-8"))
}

/// Returns a client of `target`, and its timeout.
pub(crate) fn client(target: &str, flags: c_uint) -> Result<(Client, Duration), Reason> {
    let address: Address = target.parse()?;
    address.connectable().map_err(BuildError::Address)?;
    if let Address::Fd { write: Some(number), .. } = address
        && !is_socket(number)
    {
        let why = "is not an open socket: writing to a broken pipe would raise SIGPIPE";
        return Err(Reason::Target(format!("{target}: descriptor {number} {why}")));
    }
    let mut builder = Client::builder(address).pause(PAUSE);
    if let Some(timeout) = environment(TIMEOUT_VARIABLE).and_then(parse_millis) {
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
    let client = seal::from_environment(builder)?.build()?;
    let timeout = client.timeout();
    Ok((client, timeout))
}

/// Reads a variable of the environment. Ignores it in setuid programs: their caller must not decide how
/// long they wait, nor which file they read.
pub(crate) fn environment(name: &CStr) -> Option<&'static CStr> {
    #[cfg(target_os = "linux")]
    // SAFETY: the name is a C string. The result stays valid until another thread changes the environment,
    // which C programs must not do.
    let value = unsafe {
        // The libc crate does not declare it for Linux.
        unsafe extern "C" {
            fn secure_getenv(name: *const c_char) -> *mut c_char;
        }
        let value = secure_getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value))
    };
    #[cfg(not(target_os = "linux"))]
    // SAFETY: as above; `issetugid` has no arguments.
    let value = unsafe {
        let value = match libc::issetugid() {
            0 => libc::getenv(name.as_ptr()),
            _ => std::ptr::null_mut(),
        };
        (!value.is_null()).then(|| CStr::from_ptr(value))
    };
    value
}

/// Parses milliseconds. Returns `None` unless it is a number above 0: the default timeout is better than a
/// server that does not start, and there is no log to write to.
fn parse_millis(value: &CStr) -> Option<Duration> {
    let msecs: u64 = value.to_str().ok()?.trim().parse().ok()?;
    (msecs > 0).then(|| Duration::from_millis(msecs))
}

fn is_socket(number: c_int) -> bool {
    let mut kind: c_int = 0;
    let Ok(mut len) = libc::socklen_t::try_from(size_of::<c_int>()) else { return false };
    // SAFETY: any number is allowed, and `kind` has `len` bytes.
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
    fn the_environment_sets_the_timeout_if_it_is_a_number_above_0() {
        assert_eq!(parse_millis(c"1"), Some(Duration::from_millis(1)));
        assert_eq!(parse_millis(c" 2500\n"), Some(Duration::from_millis(2500)));
        for unfit in [c"", c"0", c"-1", c"1s", c"0.5", c"99999999999999999999999", c"\xff"] {
            assert_eq!(parse_millis(unfit), None, "{unfit:?}");
        }
    }

    #[test]
    fn only_an_open_socket_is_recognized_as_one() {
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let (_reader, pipe) = std::io::pipe().unwrap();
        assert!(is_socket(socket.as_raw_fd()));
        assert!(!is_socket(pipe.as_raw_fd()));
        assert!(!is_socket(c_int::MAX));
    }
}
