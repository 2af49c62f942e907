//! Limits that the system puts on a process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the number of descriptors that the process may have open to `wanted`, or as near as is
/// allowed, and says what is in force. Never lowers it; `u64::MAX` stands for no limit.
pub fn raise_descriptors(wanted: u64) -> u64 {
    let now = getrlimit(Resource::Nofile);
    if now.current.is_some_and(|current| current < wanted) {
        // Beyond the hard limit for those who may; up to it for everybody.
        let beyond =
            Rlimit { current: Some(wanted), maximum: now.maximum.map(|max| max.max(wanted)) };
        if setrlimit(Resource::Nofile, beyond).is_err() {
            let current = Some(now.maximum.map_or(wanted, |max| max.min(wanted)));
            let _ = setrlimit(Resource::Nofile, Rlimit { current, maximum: now.maximum });
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
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
