//! Resource limits of the process.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open descriptors to `wanted`, or as near as is allowed, and returns the limit in
/// force; `u64::MAX` for no limit. Never lowers it.
pub fn raise_descriptors(wanted: u64) -> u64 {
    let now = getrlimit(Resource::Nofile);
    if now.current.is_some_and(|current| current < wanted) {
        // Only a privileged process can exceed the hard limit.
        let beyond =
            Rlimit { current: Some(wanted), maximum: now.maximum.map(|max| max.max(wanted)) };
        if setrlimit(Resource::Nofile, beyond).is_err() {
            let current = Some(now.maximum.map_or(wanted, |max| max.min(wanted)));
            let _ = setrlimit(Resource::Nofile, Rlimit { current, maximum: now.maximum });
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the limit of locked memory as far as is allowed: for a privileged process, to no limit.
pub(crate) fn raise_locked_memory() {
    let unlimited = Rlimit { current: None, maximum: None };
    if setrlimit(Resource::Memlock, unlimited).is_err() {
        let maximum = getrlimit(Resource::Memlock).maximum;
        let _ = setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum });
    }
}

/// Keeps the system from writing the memory of this process to a file when it crashes, and keeps other
/// processes of the same user from reading it. Children inherit both.
///
/// The limit alone is not enough: Linux ignores it where core dumps go to a program. After a change of
/// the user, call it again.
///
/// # Errors
/// The system refuses.
pub(crate) fn forbid_core_dumps() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_rises_to_what_is_wanted_and_never_falls() {
        let before = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert_eq!(raise_descriptors(1), before);
        let after = raise_descriptors(before.saturating_add(1));
        assert!(after >= before);
        assert_eq!(raise_descriptors(0), after);
    }
}
