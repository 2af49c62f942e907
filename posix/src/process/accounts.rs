//! Users and groups by name or number.

use std::fmt;
use std::io;

use crate::sys;

/// An entry of the user database.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    /// The user's primary group.
    pub(crate) gid: u32,
}

/// Looks up `user` or `user:group`, each a name or a number.
///
/// The default group is the user's primary one. A number needs no entry in the database, which may not
/// exist; without an entry, the default group has the same number.
pub(crate) fn account(name: &str) -> Result<User, LookupError> {
    let (name, group_name) = match name.split_once(':') {
        Some((name, group_name)) => (name, Some(group_name)),
        None => (name, None),
    };
    let found = match (user(name), number(name)) {
        (Err(LookupError { error: None, .. }), Some(uid)) => User { uid, gid: uid },
        (found, _) => found?,
    };
    let gid = group_name.map(group).transpose()?;
    Ok(User { gid: gid.unwrap_or(found.gid), ..found })
}

/// Looks up a user by name, then by number. A number without an entry is unknown: it has no group.
fn user(name: &str) -> Result<User, LookupError> {
    let found = sys::user_by_name(name).and_then(|found| match (found, number(name)) {
        (None, Some(uid)) => sys::user_by_id(uid),
        _ => Ok(found),
    });
    let (uid, gid) = known("user", name, found)?;
    Ok(User { uid, gid })
}

/// The user id of a name or number. A number needs no entry to own a file.
pub(crate) fn owner(name: &str) -> Result<u32, LookupError> {
    match number(name) {
        Some(uid) => Ok(uid),
        None => user(name).map(|user| user.uid),
    }
}

/// The group id of a name or number.
pub(crate) fn group(name: &str) -> Result<u32, LookupError> {
    match number(name) {
        Some(gid) => Ok(gid),
        None => known("group", name, sys::group_by_name(name)),
    }
}

/// The id in `name`, except the greatest: to chown it means "no change".
fn number(name: &str) -> Option<u32> {
    name.parse().ok().filter(|&id| id != u32::MAX)
}

fn known<T>(
    kind: &'static str,
    name: &str,
    found: io::Result<Option<T>>,
) -> Result<T, LookupError> {
    let error = match found {
        Ok(Some(found)) => return Ok(found),
        Ok(None) => None,
        Err(error) => Some(error),
    };
    Err(LookupError { kind, name: name.to_owned(), error })
}

/// The user or group does not exist, or the database cannot be read.
#[derive(Debug)]
pub struct LookupError {
    kind: &'static str,
    name: String,
    error: Option<io::Error>,
}

impl std::error::Error for LookupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.as_ref().map(|error| error as _)
    }
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, error } = self;
        match error {
            None => write!(f, "there is no {kind} '{name}'"),
            Some(error) => write!(f, "cannot look up {kind} '{name}': {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        let root = user("root").unwrap();
        assert_eq!(root, User { uid: 0, gid: user("0").unwrap().gid });
        assert_eq!(owner("root").unwrap(), 0);
        assert_eq!(owner("12345").unwrap(), 12345);
        assert_eq!(group("12345").unwrap(), 12345);
    }

    #[test]
    fn a_group_can_be_given_and_a_number_needs_no_entry() {
        let of = |name| account(name).unwrap();
        assert_eq!(of("root"), user("root").unwrap());
        assert_eq!(of("4294967290"), User { uid: 4_294_967_290, gid: 4_294_967_290 });
        assert_eq!(of("4294967290:7"), User { uid: 4_294_967_290, gid: 7 });
        assert_eq!(of("root:4294967290"), User { uid: 0, gid: 4_294_967_290 });
        assert_eq!(of("0:root"), User { uid: 0, gid: 0 });
        for (name, part) in [
            ("no-such-user:0", "user 'no-such-user'"),
            ("0:no-such-group", "group 'no-such-group'"),
            ("0:", "group ''"),
            (":0", "user ''"),
            ("4294967295", "user '4294967295'"),
            ("0:4294967295", "group '4294967295'"),
            ("-1", "user '-1'"),
        ] {
            let error = account(name).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_unknown_user_or_group_is_named() {
        for name in ["no-such-user-here", "4294967290", "a\0b", ""] {
            let error = user(name).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        assert!(owner("4294967295").is_err() && group("4294967295").is_err());
        assert!(group("no-such-group-here").unwrap_err().to_string().contains("group 'no-such"));
    }
}
