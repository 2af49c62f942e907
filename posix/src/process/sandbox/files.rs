//! Landlock: which files the process may open, change and remove, and which ports it may connect to.
//!
//! Descriptors that are open already are not affected.

use std::io;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::Permit;

/// The newest set of rules that is used. Older kernels get those they know.
const NEWEST: ABI = ABI::V6;

/// Denies this thread all files and ports but those of `permit`.
pub(super) fn restrict(permit: &Permit) -> io::Result<()> {
    let status = rules(permit).and_then(RulesetCreated::restrict_self);
    // What can fail here is a system call. The crate's own errors have texts for much that cannot, and
    // those make the program larger.
    match status.map_err(|_| io::Error::last_os_error())?.ruleset {
        RulesetStatus::NotEnforced => Err(io::ErrorKind::Unsupported.into()),
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
    }
}

fn rules(permit: &Permit) -> Result<RulesetCreated, RulesetError> {
    let mut scopes = Scope::from_all(NEWEST);
    scopes.set(Scope::AbstractUnixSocket, !permit.abstract_unix);
    let all_ports = AccessNet::from_all(NEWEST);
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(if permit.any_port { AccessNet::BindTcp.into() } else { all_ports })?
        .scope(scopes)?
        .create()?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write =
        read | AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile | AccessFs::Truncate;
    let device = AccessFs::ReadFile | AccessFs::WriteFile;
    for (paths, access) in [
        (&permit.read, read),
        (&permit.write, write),
        (&permit.remove, AccessFs::RemoveFile.into()),
        (&permit.devices, device),
    ] {
        rules = allow(rules, paths, access)?;
    }
    for &port in &permit.ports {
        rules = rules.add_rule(NetPort::new(port, AccessNet::ConnectTcp))?;
    }
    Ok(rules)
}

/// Allows `access` below each of `paths`; one that does not exist needs no rule.
fn allow(
    mut rules: RulesetCreated,
    paths: &[PathBuf],
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    for path in paths {
        let Ok(fd) = PathFd::new(path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
        rules = rules.add_rule(PathBeneath::new(fd, access))?;
    }
    Ok(rules)
}
