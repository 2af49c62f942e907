//! What a program asks to keep.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::net::address::{Address, Family, Target};

/// What the process may still do in its sandbox, besides serving the connections it accepts.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has a sandbox"))]
pub struct Permit {
    pub(super) read: Vec<PathBuf>,
    pub(super) write: Vec<PathBuf>,
    pub(super) remove: Vec<PathBuf>,
    pub(super) devices: Vec<PathBuf>,
    pub(super) ports: Vec<u16>,
    /// Connect to any TCP port and UNIX socket.
    pub(super) any_port: bool,
    pub(super) ipv4: bool,
    pub(super) ipv6: bool,
    /// Connect to UNIX sockets.
    pub(super) unix: bool,
    /// Connect to abstract UNIX sockets of others.
    pub(super) abstract_unix: bool,
    pub(super) extras: Vec<Extra>,
}

/// System calls beyond those of files and connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extra {
    /// Fork a child that shares nothing but its descriptors, and wait for it.
    Fork,
    /// Make memory files (`memfd_create`) and seal them.
    MemoryFiles,
}

impl Permit {
    /// Connects to anything.
    pub(crate) fn any_connection() -> Self {
        Self {
            any_port: true,
            ipv4: true,
            ipv6: true,
            unix: true,
            abstract_unix: true,
            ..Self::default()
        }
    }

    /// Reads files below `dir`, a directory, or the one file `dir`. It has to exist when the sandbox is
    /// entered; for a file that is replaced by renaming, name its directory.
    pub fn read(&mut self, dir: impl Into<PathBuf>) {
        self.read.push(dir.into());
    }

    /// Creates, reads, writes, locks, renames and removes files below `dir`.
    pub fn write(&mut self, dir: impl Into<PathBuf>) {
        self.write.push(dir.into());
    }

    /// Removes the file `path`, or another in the same directory.
    pub fn remove(&mut self, path: &Path) {
        self.remove.push(path.parent().unwrap_or(Path::new("/")).to_owned());
    }

    /// Connects to `address`: for a host name, to the port on any host.
    pub fn connect(&mut self, address: &Address) {
        match address {
            Address::Unix(name) => {
                self.unix = true;
                self.abstract_unix |= name.path().is_none();
            }
            Address::Ip { .. } if address.is_numeric() => {
                let targets = address.resolve().unwrap_or_default();
                targets.iter().for_each(|target| self.connect_to(target));
            }
            Address::Ip { family, port, .. } => {
                self.ipv4 |= *family != Family::V6;
                self.ipv6 |= *family != Family::V4;
                self.ports.push(*port);
            }
            // Connecting to a standard stream replaces it by this.
            Address::Fd { read, write } => {
                if [read, write].into_iter().flatten().any(|&number| number <= 2) {
                    self.devices.push(PathBuf::from("/dev/null"));
                }
            }
            Address::Sessiond { .. } => {}
        }
    }

    /// Connects to `target`.
    pub fn connect_to(&mut self, target: &Target) {
        match target {
            Target::Unix(name) => self.connect(&Address::Unix(*name)),
            Target::Ip(ip) => {
                self.ipv4 |= ip.is_ipv4();
                self.ipv6 |= ip.is_ipv6();
                self.ports.push(ip.port());
            }
            Target::Fd { read, write } => {
                self.connect(&Address::Fd { read: *read, write: *write });
            }
        }
    }

    /// Makes system calls beyond those of files and connections.
    pub fn extra(&mut self, extra: Extra) {
        self.extras.push(extra);
    }

    /// Enters the sandbox, for good: privileges, then all else. The process must have one thread.
    ///
    /// # Errors
    /// [`Missing`]: the process is in a part of the sandbox only, and may go on.
    pub fn enter(&self) -> Result<(), Missing> {
        drop_privileges()?;
        self.restrict()
    }

    /// Drops privileges and restricts files, but no system calls: for a process whose calls are those of
    /// the C library's modules.
    pub(crate) fn enter_files(&self) -> Result<(), Missing> {
        drop_privileges()?;
        #[cfg(target_os = "linux")]
        super::files::restrict(self).map_err(|error| Missing::new("files (landlock)", error))?;
        Ok(())
    }

    /// Restricts files and system calls; see [`enter`](Self::enter).
    pub(crate) fn restrict(&self) -> Result<(), Missing> {
        #[cfg(target_os = "linux")]
        {
            // Without one of them, the other is still worth having.
            let files = super::files::restrict(self);
            let calls = super::filter::restrict(self);
            files.map_err(|error| Missing::new("files (landlock)", error))?;
            calls.map_err(|error| Missing::new("system calls (seccomp)", error))?;
        }
        Ok(())
    }
}

/// Drops all capabilities, and the right to gain privileges by an exec.
pub(crate) fn drop_privileges() -> Result<(), Missing> {
    #[cfg(target_os = "linux")]
    super::capabilities::drop_all().map_err(|error| Missing::new("privileges", error))?;
    Ok(())
}

/// What of the sandbox could not be had.
#[derive(Debug)]
pub struct Missing {
    what: &'static str,
    why: io::Error,
}

impl Missing {
    #[cfg(target_os = "linux")]
    fn new(what: &'static str, why: impl Into<io::Error>) -> Self {
        Self { what, why: why.into() }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, why } = self;
        write!(
            f,
            "the sandbox is incomplete: cannot restrict {what}: {why}; use a newer kernel, or \
             -nosandbox to run without a sandbox"
        )
    }
}

impl std::error::Error for Missing {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connecting(address: &str) -> Permit {
        let mut permit = Permit::default();
        permit.connect(&address.parse().unwrap());
        permit
    }

    #[test]
    fn a_server_allows_its_own_family_and_port_only() {
        for (address, ipv4, ipv6, unix) in [
            ("IP:host.example:9001", true, true, false),
            ("IPv4:host.example:9001", true, false, false),
            ("IPv6:host.example:9001", false, true, false),
            ("IP:127.0.0.1:9001", true, false, false),
            ("IP:[::1]:9001", false, true, false),
            ("UNIX:/run/s", false, false, true),
            ("UNIX:@s", false, false, true),
            ("FD:5", false, false, false),
        ] {
            let permit = connecting(address);
            assert_eq!((permit.ipv4, permit.ipv6, permit.unix), (ipv4, ipv6, unix), "{address}");
            assert_eq!(permit.ports, if ipv4 || ipv6 { vec![9001] } else { vec![] }, "{address}");
            assert_eq!(permit.abstract_unix, address == "UNIX:@s");
        }
    }
}
