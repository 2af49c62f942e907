//! Sockets that a service manager has opened for this process, as systemd hands them over.
//!
//! `LISTEN_FDS` says how many there are, from descriptor 3 on, and `LISTEN_PID` for which process.

use std::fmt;
use std::ops::Range;
use std::os::fd::RawFd;

use super::detach::threads;
use crate::program::LISTENERS_MAX;
use crate::sys;

/// The first descriptor that is handed over.
const FIRST: RawFd = 3;

/// The descriptors that were handed over to this process; none in most cases.
///
/// Takes the variables out of the environment, since they are not for any other process.
pub(crate) fn take() -> Result<Range<RawFd>, ActivationError> {
    let variable = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let handed = parse(variable("LISTEN_PID"), variable("LISTEN_FDS"), std::process::id());
    if threads() == 1 {
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            sys::remove_variable(name);
        }
    }
    handed
}

fn parse(
    pid: Option<String>,
    count: Option<String>,
    own: u32,
) -> Result<Range<RawFd>, ActivationError> {
    let (Some(pid), Some(count)) = (pid, count) else { return Ok(FIRST..FIRST) };
    if pid.parse() != Ok(own) {
        return Ok(FIRST..FIRST);
    }
    match count.parse::<u8>() {
        Ok(number) if usize::from(number) <= LISTENERS_MAX => {
            Ok(FIRST..FIRST + RawFd::from(number))
        }
        _ => Err(ActivationError(count)),
    }
}

/// The number of sockets that were handed over is none.
#[derive(Debug)]
pub struct ActivationError(String);

impl fmt::Display for ActivationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.escape_debug();
        write!(f, "LISTEN_FDS is '{count}' and must be a number from 0 to {LISTENERS_MAX}")
    }
}

impl std::error::Error for ActivationError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(pid: Option<&str>, count: Option<&str>) -> Result<Range<RawFd>, ActivationError> {
        parse(pid.map(str::to_owned), count.map(str::to_owned), 77)
    }

    #[test]
    fn sockets_are_for_the_process_that_is_named() {
        assert_eq!(handed(Some("77"), Some("2")).unwrap(), 3..5);
        assert_eq!(handed(Some("77"), Some("16")).unwrap(), 3..19);
        for (pid, count) in [
            (None, Some("2")),
            (Some("77"), None),
            (Some("78"), Some("2")),
            (Some(""), Some("2")),
            (Some("77"), Some("0")),
            (Some("78"), Some("x")),
        ] {
            assert!(handed(pid, count).unwrap().is_empty(), "{pid:?} {count:?}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_variables_are_gone_once_they_were_read() {
        use crate::testing::{alone, is_child, spawn_with};
        if is_child() {
            alone(|| {
                let handed = take().unwrap();
                let of_it = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("LISTEN_");
                let left = std::env::vars_os().any(|(name, _)| of_it(&name));
                sys::exit_now(if handed.is_empty() && !left { 7 } else { 1 });
            });
        }
        let name = "process::activation::tests::the_variables_are_gone_once_they_were_read";
        let variables = [("LISTEN_PID", "1"), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "a:b")];
        assert_eq!(spawn_with(name, "", &variables).status.code(), Some(7));
    }

    #[test]
    fn a_number_of_sockets_that_is_none_is_refused() {
        for count in ["", "x", "-1", "17", "4294967297"] {
            let error = handed(Some("77"), Some(count)).unwrap_err().to_string();
            assert!(error.contains(&format!("'{count}'")), "{error}");
        }
    }
}
