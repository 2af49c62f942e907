//! The process that resolves one name: what it keeps, and what it writes.
//!
//! ```text
//!   request   any byte
//!   answer    count, then TARGETS_MAX times: kind (4 or 6), address (16 bytes), scope (4 bytes)
//! ```
//!
//! The count is [`FAILED`] if the name has no address. An answer has the same length always.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::net::address::{Address, Family, TARGETS_MAX, Target, Targets};
use crate::process::sandbox::Permit;
use crate::sys::{self, Disposition};

const ENTRY_LEN: usize = 21;
/// The length of an answer.
pub(super) const ANSWER_LEN: usize = 1 + TARGETS_MAX * ENTRY_LEN;
/// The count of an answer to a name that was not resolved.
const FAILED: u8 = 0;

/// What the resolver of a C library reads: its configuration, modules, and the sockets and files of
/// services that it asks.
pub(crate) const READS: [&str; 9] =
    ["/dev", "/etc", "/gnu", "/lib", "/lib32", "/lib64", "/nix", "/run", "/usr"];

/// Starts a process that resolves `address` on request, and returns the channel to it.
///
/// It ends with this process. It keeps no other descriptor of it; with `sandbox` it reads only
/// [`READS`], and has no capability. To be called while the process has a single thread.
pub(super) fn start(address: &Address, sandbox: bool) -> io::Result<OwnedFd> {
    let (ours, theirs) = pair()?;
    // Ended processes are removed at once: nobody waits for them.
    sys::set_signal(libc::SIGCHLD, Disposition::Ignore)?;
    if sys::fork()? {
        drop(ours);
        run(address, &theirs, sandbox);
        sys::exit_now(0);
    }
    crate::net::stream::prepare(&ours)?;
    Ok(ours)
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    #[cfg(not(target_vendor = "apple"))]
    let flags = SocketFlags::CLOEXEC;
    #[cfg(target_vendor = "apple")]
    let flags = SocketFlags::empty();
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// The process: prepares itself, then answers until the other end of the channel is closed.
fn run(address: &Address, channel: &OwnedFd, sandbox: bool) {
    // A terminal or a service manager signals all processes; this one ends when its parent does.
    for signal in
        [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGPIPE]
    {
        let _ = sys::set_signal(signal, Disposition::Ignore);
    }
    #[cfg(any(target_os = "linux", target_os = "freebsd"))]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::set_name(c"dc_resolver");
    silence(channel);
    sys::close_all_but(channel.as_raw_fd());
    if sandbox {
        let mut permit = Permit::any_connection();
        READS.iter().for_each(|dir| permit.read(*dir));
        // Where this is not to be had, the parent has warned of it.
        let _ = permit.enter_files();
    }
    while let Ok(true) = request(channel) {
        let targets = address.resolve().unwrap_or_default();
        if !send(channel, &encode(&targets)) {
            return;
        }
    }
}

/// Makes the standard streams dead ends: others wait for the end of the parent's.
fn silence(channel: &OwnedFd) {
    // Needs no file, which an empty chroot would not have.
    let end = pair().map(|(end, _)| end);
    let end = end.as_ref().unwrap_or(channel);
    let _ = rustix::stdio::dup2_stdin(end);
    let _ = rustix::stdio::dup2_stdout(end);
    let _ = rustix::stdio::dup2_stderr(end);
}

/// Waits for a request; false if there will be none.
fn request(channel: impl AsFd) -> Result<bool, Errno> {
    loop {
        match rustix::io::read(&channel, &mut [0; 1]) {
            Err(Errno::INTR) => {}
            read => return read.map(|len| len > 0),
        }
    }
}

fn send(channel: impl AsFd, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(&channel, bytes) {
            Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

/// The answer with these targets.
pub(super) fn encode(targets: &Targets) -> [u8; ANSWER_LEN] {
    let mut answer = [FAILED; ANSWER_LEN];
    let ips = targets.iter().filter_map(|target| match target {
        Target::Ip(ip) => Some(ip),
        _ => None,
    });
    for (entry, ip) in answer[1..].chunks_exact_mut(ENTRY_LEN).zip(ips.clone()) {
        match ip {
            SocketAddr::V4(ip) => {
                entry[0] = 4;
                entry[1..5].copy_from_slice(&ip.ip().octets());
            }
            SocketAddr::V6(ip) => {
                entry[0] = 6;
                entry[1..17].copy_from_slice(&ip.ip().octets());
                entry[17..].copy_from_slice(&ip.scope_id().to_ne_bytes());
            }
        }
    }
    answer[0] = ips.count().min(TARGETS_MAX) as u8;
    answer
}

/// The targets in an answer, with `port`; none if the name was not resolved. `None` if no resolver of a
/// name of this family writes such an answer.
pub(super) fn decode(answer: &[u8; ANSWER_LEN], family: Family, port: u16) -> Option<Targets> {
    let count = usize::from(answer[0]);
    if count > TARGETS_MAX {
        return None;
    }
    answer[1..].chunks_exact(ENTRY_LEN).take(count).map(|e| target(e, family, port)).collect()
}

fn target(entry: &[u8], family: Family, port: u16) -> Option<Target> {
    let (&kind, entry) = entry.split_first()?;
    let (octets, scope) = entry.split_first_chunk::<16>()?;
    let ip: IpAddr = match kind {
        4 => Ipv4Addr::from(*octets.first_chunk::<4>()?).into(),
        6 => Ipv6Addr::from(*octets).into(),
        _ => return None,
    };
    let fits = match family {
        Family::Any => true,
        Family::V4 => ip.is_ipv4(),
        Family::V6 => ip.is_ipv6(),
    };
    let address = match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(ip) => {
            let scope = u32::from_ne_bytes(scope.try_into().ok()?);
            SocketAddrV6::new(ip, port, 0, scope).into()
        }
    };
    fits.then_some(Target::Ip(address))
}
