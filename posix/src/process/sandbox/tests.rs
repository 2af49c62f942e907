//! Each test enters the sandbox in a process of its own. What kills is tried in `tests/sandbox.rs`.

use std::fs::{self, File};
use std::io::ErrorKind::PermissionDenied;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::process::WaitOptions;

use super::{Extra, Permit};
use crate::sys;
use crate::testing::in_child_dir;

fn kind<T>(result: io::Result<T>) -> Result<(), ErrorKind> {
    result.map(drop).map_err(|error| error.kind())
}

/// Enters, and fails where this kernel lacks a part: then these tests would prove nothing.
fn enter(ask: impl FnOnce(&mut Permit)) {
    let mut permit = Permit::default();
    ask(&mut permit);
    permit.enter().unwrap();
}

/// Runs `body` with a directory that it need not remove: it may be unable to.
fn in_sandbox(name: &str, body: impl FnOnce(&Path)) {
    in_child_dir(&format!("process::sandbox::tests::{name}"), body, |_| ());
}

#[test]
fn a_permit_to_read_is_for_files_below_its_directory() {
    in_sandbox("a_permit_to_read_is_for_files_below_its_directory", |dir| {
        fs::create_dir(dir.join("keys")).unwrap();
        fs::write(dir.join("keys/one"), "old").unwrap();
        fs::write(dir.join("beside"), "secret").unwrap();
        fs::write(dir.join("new"), "new").unwrap();
        std::os::unix::fs::symlink("../beside", dir.join("keys/link")).unwrap();
        // Another process replaces the file by renaming.
        let (mut waits, mut go) = UnixStream::pair().unwrap();
        let (from, to) = (dir.join("new"), dir.join("keys/one"));
        let replace = move || {
            waits.read_exact(&mut [0]).unwrap();
            fs::rename(from, to).unwrap();
            waits.write_all(&[0]).unwrap();
        };
        let other = std::thread::spawn(replace);
        enter(|permit| permit.read(dir.join("keys")));
        let read = |name: &str| {
            let mut text = String::new();
            File::open(dir.join(name))?.read_to_string(&mut text)?;
            io::Result::Ok(text)
        };
        assert_eq!(read("keys/one").unwrap(), "old");
        go.write_all(&[0]).unwrap();
        go.read_exact(&mut [0]).unwrap();
        assert_eq!(read("keys/one").unwrap(), "new");
        for outside in ["beside", "keys/link", "keys/../beside"] {
            assert_eq!(kind(read(outside)), Err(PermissionDenied), "{outside}");
        }
        assert_eq!(kind(File::open("/etc/passwd")), Err(PermissionDenied));
        assert_eq!(kind(File::open("/proc/self/mem")), Err(PermissionDenied));
        let write = File::options().write(true).open(dir.join("keys/one"));
        assert_eq!(kind(write), Err(PermissionDenied));
        drop(other);
    });
}

#[test]
fn a_permit_to_write_makes_renames_and_removes_files_below_its_directory() {
    let name = "a_permit_to_write_makes_renames_and_removes_files_below_its_directory";
    in_sandbox(name, |dir| {
        fs::create_dir(dir.join("state")).unwrap();
        fs::write(dir.join("beside"), "keep").unwrap();
        let state = File::open(dir.join("state")).unwrap();
        enter(|permit| permit.write(dir.join("state")));
        let path = dir.join("state/new");
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all(b"sessions").unwrap();
        rustix::fs::ftruncate(&file, 4).unwrap();
        rustix::fs::fchmod(&file, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        assert!(sys::lock_file(std::os::fd::AsFd::as_fd(&file), true).unwrap());
        file.sync_all().unwrap();
        fs::rename(&path, dir.join("state/now")).unwrap();
        state.sync_all().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 4);
        let mut text = String::new();
        File::open(dir.join("state/now")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "sess");
        fs::remove_file(dir.join("state/now")).unwrap();
        assert_eq!(kind(File::create(dir.join("other"))), Err(PermissionDenied));
        assert_eq!(kind(fs::remove_file(dir.join("beside"))), Err(PermissionDenied));
        assert!(fs::rename(dir.join("beside"), dir.join("state/b")).is_err());
    });
}

#[test]
fn a_permit_to_remove_is_for_one_directory_and_for_nothing_else_there() {
    in_sandbox("a_permit_to_remove_is_for_one_directory_and_for_nothing_else_there", |dir| {
        fs::create_dir(dir.join("run")).unwrap();
        let listener = UnixListener::bind(dir.join("run/s")).unwrap();
        fs::write(dir.join("beside"), "keep").unwrap();
        enter(|permit| permit.remove(&dir.join("run/s")));
        assert_eq!(kind(fs::remove_file(dir.join("beside"))), Err(PermissionDenied));
        fs::remove_file(dir.join("run/s")).unwrap();
        assert_eq!(kind(fs::symlink_metadata(dir.join("run/s"))), Err(ErrorKind::NotFound));
        drop(listener);
    });
}

#[test]
fn a_permit_to_connect_is_for_one_port() {
    in_sandbox("a_permit_to_connect_is_for_one_port", |_| {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [server, other] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let address = format!("IP:{server}").parse().unwrap();
        enter(|permit| permit.connect(&address));
        TcpStream::connect(server).unwrap();
        assert_eq!(kind(TcpStream::connect(other)), Err(PermissionDenied));
    });
}

fn connects_to_an_abstract_socket(name: &str, server: &str, reached: bool) {
    use std::os::linux::net::SocketAddrExt;
    in_sandbox(name, |_| {
        let name = format!("dc-sandbox-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        enter(|permit| permit.connect(&server.parse().unwrap()));
        assert_eq!(UnixStream::connect_addr(&address).is_ok(), reached);
    });
}

#[test]
fn a_permit_for_an_abstract_socket_reaches_it() {
    let name = "a_permit_for_an_abstract_socket_reaches_it";
    connects_to_an_abstract_socket(name, "UNIX:@dc-sandbox-test", true);
}

#[test]
fn a_permit_for_a_path_reaches_no_abstract_socket() {
    let name = "a_permit_for_a_path_reaches_no_abstract_socket";
    connects_to_an_abstract_socket(name, "UNIX:/nowhere", false);
}

#[test]
fn a_permit_to_fork_makes_a_child_that_is_in_the_sandbox() {
    in_sandbox("a_permit_to_fork_makes_a_child_that_is_in_the_sandbox", |dir| {
        fs::write(dir.join("file"), "").unwrap();
        enter(|permit| {
            permit.extra(Extra::Fork);
            permit.remove(Path::new("/nowhere/file"));
        });
        if sys::fork().unwrap() {
            let removed = fs::remove_file(dir.join("file"));
            sys::exit_now(if kind(removed) == Err(PermissionDenied) { 7 } else { 1 });
        }
        let (_, status) = rustix::process::wait(WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(7));
    });
}

#[test]
fn a_permit_for_memory_files_makes_and_seals_them() {
    in_sandbox("a_permit_for_memory_files_makes_and_seals_them", |_| {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
        enter(|permit| permit.extra(Extra::MemoryFiles));
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(memfd_create("state", flags).unwrap());
        rustix::fs::ftruncate(&file, 100).unwrap();
        fcntl_add_seals(&file, SealFlags::WRITE).unwrap();
        assert_eq!(kind(file.write(b"x")), Err(PermissionDenied));
    });
}

#[test]
fn no_capability_is_left_in_any_set() {
    in_sandbox("no_capability_is_left_in_any_set", |_| {
        let root = rustix::process::geteuid().is_root();
        let mut status = File::open("/proc/thread-self/status").unwrap();
        enter(|_| ());
        let mut text = vec![0; 1 << 16];
        let len = status.read(&mut text).unwrap();
        let text = str::from_utf8(&text[..len]).unwrap();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').trim().to_owned()
        };
        let sets: &[&str] = match root {
            true => &["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"],
            // Others may not change the bounding set, and cannot gain from it.
            false => &["CapInh", "CapPrm", "CapEff", "CapAmb"],
        };
        for set in sets {
            assert_eq!(value(set), "0000000000000000", "{set}");
        }
        assert_eq!((value("NoNewPrivs"), value("Seccomp")), ("1".into(), "2".into()));
    });
}

/// Makes the kernel one that lacks some system calls.
fn lack(calls: &[libc::c_long]) {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let rules = calls.iter().map(|&call| (call, Vec::new())).collect();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let (others, these) = (SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32));
    let filter = SeccompFilter::new(rules, others, these, arch).unwrap();
    seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

#[test]
fn without_landlock_system_calls_are_restricted_still() {
    in_sandbox("without_landlock_system_calls_are_restricted_still", |dir| {
        fs::write(dir.join("file"), "").unwrap();
        let kept = dir.join("elsewhere/file");
        lack(&[libc::SYS_landlock_create_ruleset]);
        let mut status = File::open("/proc/thread-self/status").unwrap();
        let mut permit = Permit::default();
        permit.remove(&kept);
        let missing = permit.enter().unwrap_err().to_string();
        assert!(missing.starts_with("the sandbox is incomplete: "), "{missing}");
        assert!(missing.contains("files (landlock)") && !missing.contains("seccomp"), "{missing}");
        let mut text = vec![0; 1 << 16];
        let len = status.read(&mut text).unwrap();
        let text = str::from_utf8(&text[..len]).unwrap();
        assert!(text.contains("Seccomp_filters:\t2\n"), "{text}");
        fs::remove_file(dir.join("file")).unwrap();
    });
}

#[test]
fn without_seccomp_files_are_restricted_still() {
    in_sandbox("without_seccomp_files_are_restricted_still", |_| {
        lack(&[libc::SYS_seccomp]);
        let missing = Permit::default().enter().unwrap_err().to_string();
        assert!(missing.contains("system calls (seccomp): Function not impl"), "{missing}");
        assert!(!missing.contains("landlock"), "{missing}");
        assert_eq!(kind(File::open("/etc/passwd")), Err(PermissionDenied));
    });
}

/// Nanoseconds of one call, the least of many rounds.
fn nanoseconds(mut call: impl FnMut()) -> f64 {
    const CALLS: u32 = 20_000;
    let mut round = || {
        let start = std::time::Instant::now();
        (0..CALLS).for_each(|_| call());
        start.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    (0..30).map(|_| round()).fold(f64::INFINITY, f64::min)
}

#[test]
#[ignore = "a measurement: it asserts nothing"]
fn measure_what_the_filter_costs() {
    let name = "process::sandbox::tests::measure_what_the_filter_costs";
    let report = Path::new("/dev/stderr");
    let body = || {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut out = File::options().append(true).open(report).unwrap();
        let receive = || {
            let _ = rustix::net::recv(&ours, &mut [0; 8], rustix::net::RecvFlags::empty());
        };
        let set = || {
            let _ = rustix::net::sockopt::set_socket_keepalive(&ours, true);
        };
        let socket = || {
            let kind = rustix::net::SocketType::STREAM;
            drop(rustix::net::socket(rustix::net::AddressFamily::UNIX, kind, None));
        };
        let measure = || [nanoseconds(receive), nanoseconds(set), nanoseconds(socket)];
        let before = measure();
        enter(|permit| permit.remove(Path::new("/nowhere/file")));
        for (what, (before, after)) in
            ["recv", "setsockopt", "socket and close"].iter().zip(before.iter().zip(measure()))
        {
            let _ = writeln!(out, "{what}: {before:.0} ns outside, {after:.0} ns in the sandbox");
        }
    };
    if crate::testing::is_child() {
        return body();
    }
    let program = std::env::current_exe().unwrap();
    let mut child = std::process::Command::new(program);
    child.args(["--exact", name, "--ignored", "--nocapture"]).env("DISTCACHE_TEST_CHILD", "+");
    assert!(child.status().unwrap().success());
}
