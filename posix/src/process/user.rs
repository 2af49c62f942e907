//! Dropping root privileges for good.

use std::fmt;
use std::io;
use std::path::Path;

use rustix::fs::{self, Access, Mode};
use rustix::process::geteuid;

use crate::process::accounts::{self, LookupError};
use crate::sys;

/// Switches to the user `name` for good. `name` is `user` or `user:group`, each a name or a number; the
/// default is the user's primary group.
///
/// The group becomes the only group of the process: the socket, which other groups may be needed for, is
/// open already. Then this checks that no former privilege is left and that root cannot be regained. It does
/// nothing else if the process has that user and group already and is not root. No capability is left, even
/// one that does not go with root's id.
///
/// # Errors
/// [`UserError`]. Privileges may be dropped in part, so the process must end.
pub fn change_user(name: &str) -> Result<(), UserError> {
    let user = accounts::account(name).map_err(UserError::Lookup)?;
    let cannot = |error| UserError::System(name.to_owned(), error);
    let wanted = ([user.uid; 3], [user.gid; 3]);
    if user.uid != 0 && sys::ids().map_err(cannot)? == wanted {
        return drop_capabilities().map_err(cannot);
    }
    // What needs root comes first.
    #[cfg(target_os = "linux")]
    super::sandbox::capabilities::drop_bounding_set();
    sys::set_only_group(user.gid).map_err(cannot)?;
    sys::set_gid(user.gid).map_err(cannot)?;
    sys::set_uid(user.uid).map_err(cannot)?;
    let groups = rustix::process::getgroups().map_err(|error| cannot(error.into()))?;
    let alone = groups.iter().all(|group| group.as_raw() == user.gid);
    let regained = user.uid != 0 && sys::set_uid(0).is_ok();
    if sys::ids().map_err(cannot)? != wanted || !alone || regained {
        return Err(UserError::PrivilegesRemain(name.to_owned()));
    }
    if user.uid != 0 { drop_capabilities().map_err(cannot) } else { Ok(()) }
}

fn drop_capabilities() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    super::sandbox::capabilities::drop_held()?;
    Ok(())
}

/// Whether this process may remove `path`, by the owner and mode of its directory.
pub(crate) fn can_remove(path: &Path) -> bool {
    let dir = path.parent().unwrap_or(Path::new("/"));
    // `access` checks the real ids. After a change of user they are the effective ones, too.
    if fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return false;
    }
    let (Ok(dir), Ok(file)) = (fs::stat(dir), fs::lstat(path)) else { return false };
    let sticky = Mode::from_raw_mode(dir.st_mode).contains(Mode::SVTX);
    !sticky || owns_all() || [dir.st_uid, file.st_uid].contains(&geteuid().as_raw())
}

/// Whether this process may do with any file what its owner may.
fn owns_all() -> bool {
    #[cfg(target_os = "linux")]
    return rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::FOWNER));
    #[cfg(not(target_os = "linux"))]
    return geteuid().is_root();
}

/// Switching the user failed. The process must end.
#[derive(Debug)]
pub enum UserError {
    /// Former privileges remain.
    PrivilegesRemain(String),
    /// The user or group does not exist.
    Lookup(LookupError),
    /// The user, and the system's error.
    System(String, io::Error),
}

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PrivilegesRemain(name) => {
                write!(f, "cannot become user '{name}': former rights remain")
            }
            Self::Lookup(error) => error.fmt(f),
            Self::System(name, error) => write!(f, "cannot become user '{name}': {error}"),
        }
    }
}

impl std::error::Error for UserError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::PrivilegesRemain(_) => None,
            Self::Lookup(error) => error.source(),
            Self::System(_, error) => Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{in_child, is_root};
    use rustix::process::{Gid, getgroups};

    fn becomes_nobody(written: &str) {
        let nobody = accounts::account("nobody").unwrap();
        sys::set_only_group(7).unwrap();
        assert_eq!(getgroups().unwrap(), [Gid::from_raw(7)]);
        change_user(written).unwrap();
        assert_eq!(sys::ids().unwrap(), ([nobody.uid; 3], [nobody.gid; 3]));
        assert_eq!(getgroups().unwrap(), [Gid::from_raw(nobody.gid)]);
        assert!(sys::set_uid(0).is_err() && sys::set_gid(0).is_err());
        assert!(sys::set_only_group(0).is_err());
        change_user(written).expect("is that user already");
        let error = change_user("root").unwrap_err().to_string();
        assert!(error.contains("'root'"), "{error}");
    }

    #[test]
    fn after_a_change_of_user_no_group_of_root_is_left() {
        if is_root() {
            let name = "process::user::tests::after_a_change_of_user_no_group_of_root_is_left";
            in_child(name, || becomes_nobody("nobody"));
        }
    }

    #[test]
    fn a_user_can_be_given_by_number() {
        if is_root() {
            let name = "process::user::tests::a_user_can_be_given_by_number";
            let uid = accounts::account("nobody").unwrap().uid.to_string();
            in_child(name, || becomes_nobody(&uid));
        }
    }

    #[test]
    fn a_number_without_an_entry_can_have_any_group() {
        if !is_root() {
            return;
        }
        let name = "process::user::tests::a_number_without_an_entry_can_have_any_group";
        in_child(name, || {
            change_user("54321:7").unwrap();
            assert_eq!(sys::ids().unwrap(), ([54321; 3], [7; 3]));
            assert_eq!(getgroups().unwrap(), [Gid::from_raw(7)]);
            assert!(sys::set_uid(0).is_err() && sys::set_gid(54321).is_err());
            change_user("54321:7").expect("is that user already");
            assert!(change_user("54321:8").is_err());
        });
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn capabilities_end_even_if_they_are_not_tied_to_the_user_of_root() {
        if !is_root() {
            return;
        }
        let name = "process::user::tests::\
                    capabilities_end_even_if_they_are_not_tied_to_the_user_of_root";
        in_child(name, || {
            use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, capabilities};
            // Neither the kernel nor a change of user takes away what is left here.
            let untied = CapabilitiesSecureBits::NO_SETUID_FIXUP;
            rustix::thread::set_capabilities_secure_bits(untied).unwrap();
            let nobody = accounts::account("nobody").unwrap();
            sys::set_only_group(nobody.gid).unwrap();
            sys::set_gid(nobody.gid).unwrap();
            sys::set_uid(nobody.uid).unwrap();
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(CapabilitySet::SETUID | CapabilitySet::SETGID);
            sets.permitted = sets.effective;
            assert!(sets.effective.contains(CapabilitySet::SYS_PTRACE));
            rustix::thread::set_capabilities(None, sets).unwrap();
            change_user("nobody").unwrap();
            let left = capabilities(None).unwrap();
            assert!(left.effective.is_empty() && left.permitted.is_empty());
            assert!(left.inheritable.is_empty());
        });
    }

    #[test]
    fn an_unknown_user_is_named_and_changes_nothing() {
        let before = sys::ids().unwrap();
        let error = change_user("no-such-user").unwrap_err().to_string();
        assert!(error.contains("no user 'no-such-user'"), "{error}");
        assert!(change_user("4294967295").is_err());
        assert_eq!(sys::ids().unwrap(), before);
    }
}
