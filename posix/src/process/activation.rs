//! Socket activation: sockets that a service manager such as systemd passes to this process.
//!
//! `LISTEN_FDS` is their number, from descriptor 3 on; `LISTEN_PID` is the process that they are for.

use std::fmt;
use std::ops::Range;
use std::os::fd::RawFd;

use super::detach::threads;
use crate::program::LISTENERS_MAX;
use crate::sys;

/// The first passed descriptor.
const FIRST: RawFd = 3;

/// The descriptors that were passed to this process; usually none.
///
/// Removes the variables from the environment, since they are not for its children.
///
/// # Errors
/// [`ActivationError`] if their number is invalid.
pub(crate) fn take() -> Result<Range<RawFd>, ActivationError> {
    let variable = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let passed = parse(variable("LISTEN_PID"), variable("LISTEN_FDS"), std::process::id());
    if threads() == 1 {
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            sys::remove_variable(name);
        }
    }
    passed
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

/// `LISTEN_FDS` is not a valid number of sockets.
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

    fn passed(pid: Option<&str>, count: Option<&str>) -> Result<Range<RawFd>, ActivationError> {
        parse(pid.map(str::to_owned), count.map(str::to_owned), 77)
    }

    #[test]
    fn sockets_are_for_the_process_in_listen_pid() {
        assert_eq!(passed(Some("77"), Some("2")).unwrap(), 3..5);
        assert_eq!(passed(Some("77"), Some("16")).unwrap(), 3..19);
        for (pid, count) in [
            (None, Some("2")),
            (Some("77"), None),
            (Some("78"), Some("2")),
            (Some(""), Some("2")),
            (Some("77"), Some("0")),
            (Some("78"), Some("x")),
        ] {
            assert!(passed(pid, count).unwrap().is_empty(), "{pid:?} {count:?}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_variables_are_removed_from_the_environment() {
        use crate::testing::{alone, is_child, spawn_with};
        if is_child() {
            alone(|| {
                let passed = take().unwrap();
                let of_it = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("LISTEN_");
                let left = std::env::vars_os().any(|(name, _)| of_it(&name));
                sys::exit_now(if passed.is_empty() && !left { 7 } else { 1 });
            });
        }
        let name = "process::activation::tests::the_variables_are_removed_from_the_environment";
        let variables = [("LISTEN_PID", "1"), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "a:b")];
        assert_eq!(spawn_with(name, "", &variables).status.code(), Some(7));
    }

    #[test]
    fn an_invalid_number_of_sockets_is_refused() {
        for count in ["", "x", "-1", "17", "4294967297"] {
            let error = passed(Some("77"), Some(count)).unwrap_err().to_string();
            assert!(error.contains(&format!("'{count}'")), "{error}");
        }
    }
}
