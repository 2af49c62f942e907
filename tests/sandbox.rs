//! The sandbox of the daemons: what code inside it can still do, and that the programs are in it.
//!
//! Code inside is this test program itself, started again as a process in which `a_probe` starts as
//! `dc_server` does, enters the sandbox, and tries one thing.
#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use distcache_posix::program;
use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::process::{Dir, Ended, Program, Signal, is_root, until};
use distcache_testing::raw_client::RawClient;
use distcache_testing::start;

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const DC_SNOOP: &str = env!("CARGO_BIN_EXE_dc_snoop");

/// What the probe is to try.
const PROBE: &str = "DISTCACHE_SANDBOX_PROBE";
/// The exit code of a probe whose try returned.
const RETURNED: i32 = 42;
const SIGSYS: i32 = 31;

type Try = fn();

/// Calls of all kinds that nobody needs in a loop, by name. All kill.
const FORBIDDEN: &[(&str, Try)] = &[
    ("run a program", || drop(Command::new("/bin/true").exec())),
    ("exec", || call(libc::SYS_execve, [0; 4])),
    ("exec of a descriptor", || call(libc::SYS_execveat, [0; 4])),
    ("start a program", || drop(Command::new("/bin/true").spawn())),
    ("fork", || call(libc::SYS_clone, [libc::SIGCHLD as _, 0, 0, 0])),
    ("fork by the newer call", || call(libc::SYS_clone3, [0; 4])),
    ("a thread", || drop(std::thread::Builder::new().spawn(|| ()))),
    ("open", || call(libc::SYS_openat, [0; 4])),
    ("open /etc/passwd", || drop(fs::File::open("/etc/passwd"))),
    ("open /proc/self/mem", || drop(fs::File::options().write(true).open("/proc/self/mem"))),
    ("list a directory", || drop(fs::read_dir("/"))),
    ("make a directory", || drop(fs::create_dir("/tmp/dc-sandbox-never"))),
    ("remove a file", || drop(fs::remove_file("/tmp/dc-sandbox-never"))),
    ("look at a file", || drop(fs::metadata("/etc/passwd"))),
    ("an IPv4 socket", || call(libc::SYS_socket, [libc::AF_INET as _, 1, 0, 0])),
    ("an IPv6 socket", || call(libc::SYS_socket, [libc::AF_INET6 as _, 2, 0, 0])),
    ("a netlink socket", || call(libc::SYS_socket, [libc::AF_NETLINK as _, 3, 0, 0])),
    ("a packet socket", || call(libc::SYS_socket, [libc::AF_PACKET as _, 3, 0, 0])),
    ("a VM socket", || call(libc::SYS_socket, [libc::AF_VSOCK as _, 1, 0, 0])),
    ("bind", || drop(std::os::unix::net::UnixListener::bind("/tmp/dc-sandbox-never"))),
    ("connect", || drop(std::os::unix::net::UnixStream::connect("/tmp/dc-sandbox-never"))),
    ("ptrace", || call(libc::SYS_ptrace, [libc::PTRACE_TRACEME as _, 0, 0, 0])),
    ("read another process", || call(libc::SYS_process_vm_readv, [1, 0, 0, 0])),
    ("kill", || call(libc::SYS_kill, [1, 0, 0, 0])),
    ("signal a thread of another process", || call(libc::SYS_tgkill, [1, 1, 0, 0])),
    ("map code", || call(libc::SYS_mmap, [0, 4096, READ_WRITE_EXEC, MAP_NEW])),
    ("turn data into code", || call(libc::SYS_mprotect, [0, 4096, READ_WRITE_EXEC, 0])),
    ("turn data into code with a key", || call(libc::SYS_pkey_mprotect, [0, 4096, 4, 0])),
    ("a memory file", || call(libc::SYS_memfd_create, [0, 0, 0, 0])),
    ("become root", || call(libc::SYS_setuid, [0; 4])),
    ("set groups", || call(libc::SYS_setgroups, [0; 4])),
    ("gain capabilities", || call(libc::SYS_capset, [0; 4])),
    ("be dumpable", || call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as _, 1, 0, 0])),
    ("a filter on a socket", || {
        call(libc::SYS_setsockopt, [0, libc::SOL_SOCKET as _, libc::SO_ATTACH_FILTER as _, 0]);
    }),
    // TIOCSTI: type on the terminal.
    ("control a device", || call(libc::SYS_ioctl, [0, 0x5412, 0, 0])),
    ("own a descriptor's signals", || call(libc::SYS_fcntl, [0, libc::F_SETOWN as _, 1, 0])),
    ("a namespace", || call(libc::SYS_unshare, [libc::CLONE_NEWUSER as _, 0, 0, 0])),
    ("chroot", || call(libc::SYS_chroot, [0; 4])),
    ("mount", || call(libc::SYS_mount, [0; 4])),
    ("io_uring", || call(libc::SYS_io_uring_setup, [1, 0, 0, 0])),
    ("bpf", || call(libc::SYS_bpf, [0; 4])),
    ("userfaultfd", || call(libc::SYS_userfaultfd, [0; 4])),
    ("a key", || call(libc::SYS_add_key, [0; 4])),
    ("raise a limit", || call(libc::SYS_prlimit64, [0, 7, 0, 0])),
    ("a call that does not exist", || call(1 << 20, [0; 4])),
];

/// What an ABI other than the processor's own offers.
#[cfg(target_arch = "x86_64")]
const OTHER_ABI: &[(&str, Try)] = &[
    ("read by way of the x32 ABI", || call(0x4000_0000 | libc::SYS_read, [0; 4])),
    ("getpid by way of the 32-bit ABI", || {
        // SAFETY: the call takes no argument and changes nothing but the register of its result.
        unsafe { std::arch::asm!("int 0x80", inout("rax") 20_u64 => _) };
    }),
];
#[cfg(not(target_arch = "x86_64"))]
const OTHER_ABI: &[(&str, Try)] = &[];

const READ_WRITE_EXEC: i64 = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as i64;
const MAP_NEW: i64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as i64;

/// Makes a system call that the sandbox ends, or the kernel refuses.
fn call(number: libc::c_long, [a, b, c, d]: [i64; 4]) {
    // SAFETY: no argument is an address of memory in use: pointers are null, and a change of protection
    // is of the page at 0, which is not mapped.
    unsafe { libc::syscall(number, a, b, c, d, 0, 0) };
}

#[test]
fn a_probe() {
    let Some(wanted) = std::env::var_os(PROBE) else { return };
    let mut startup = program::daemon("dc_server", "IP:127.0.0.1:0").expect("a valid address");
    startup.sandbox = true;
    let mut started = startup.start().expect("a start");
    started.enter_sandbox();
    // The loop's own work is still possible: memory, time, output.
    let memory = std::hint::black_box(vec![1_u8; 64 << 20]);
    let now = std::time::SystemTime::now();
    println!("{} is in the sandbox at {now:?}", memory.len());
    let mut tries = FORBIDDEN.iter().chain(OTHER_ABI);
    if let Some((_, attempt)) = tries.find(|(name, _)| *name == wanted) {
        attempt();
    }
    std::process::exit(RETURNED);
}

/// Runs the probe with one try.
fn probe(name: &str) -> Ended {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "a_probe", "--nocapture"]).env(PROBE, name);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Program::spawn(command).ended()
}

#[test]
fn what_the_loop_does_not_need_kills_the_process() {
    let nothing = probe("nothing");
    assert_eq!((nothing.code, nothing.err.as_str()), (RETURNED, ""), "{nothing:?}");
    for (name, _) in FORBIDDEN.iter().chain(OTHER_ABI) {
        let ended = probe(name);
        assert!(ended.out.contains("is in the sandbox"), "{name}: {ended:?}");
        assert_eq!(ended.code, -SIGSYS, "{name}: {ended:?}");
    }
}

/// A line of `/proc/PID/status`.
fn state(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    line.expect("a line").trim().to_owned()
}

fn is_in_sandbox(program: &Program) {
    let pid = program.pid();
    let state = |name| state(pid, name);
    assert_eq!((state("NoNewPrivs"), state("Seccomp")), ("1".into(), "2".into()));
    assert_eq!(state("Threads"), "1");
    let root = is_root();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"] {
        assert!(!root && set == "CapBnd" || state(set) == "0000000000000000", "{set}");
    }
}

fn serves(address: &str) {
    assert_eq!(RawClient::connect(address).ask(&have(1, b"id")), status(1, HAVE, 1));
}

/// A server, a proxy and an observer, each in front of the one before.
fn chain(dir: &Dir, arguments: &[&str]) -> [Program; 3] {
    let server = start::server(DC_SERVER, &dir.address("s"), arguments);
    let proxy = start::connected(DC_CLIENT, &dir.address("p"), &dir.address("s"), arguments);
    let snoop = start::before(DC_SNOOP, &dir.address("o"), &dir.address("p"), arguments);
    serves(&dir.address("o"));
    [server, proxy, snoop]
}

#[test]
fn each_program_is_in_its_sandbox_and_removes_its_socket_at_the_end() {
    let dir = Dir::new();
    let programs = chain(&dir, &[]);
    for program in &programs {
        is_in_sandbox(program);
    }
    for program in programs.into_iter().rev() {
        let ended = program.end(Signal::TERM);
        assert!(ended.code == 0 && !ended.err.contains("sandbox"), "{ended:?}");
    }
    assert!(dir.names().is_empty(), "{:?}", dir.names());
}

#[test]
fn nosandbox_leaves_it_out() {
    let dir = Dir::new();
    for program in chain(&dir, &["-nosandbox"]) {
        let state = |name| state(program.pid(), name);
        assert_eq!((state("NoNewPrivs"), state("Seccomp")), ("0".into(), "0".into()));
    }
}

#[test]
fn after_a_change_of_user_it_has_the_groups_of_that_user_only() {
    if !is_root() {
        return;
    }
    let dir = Dir::new();
    dir.permit(0o777);
    let arguments = ["-user", "nobody:12345"];
    let server = start::server(DC_SERVER, &dir.address("s"), &arguments);
    is_in_sandbox(&server);
    assert_eq!(state(server.pid(), "Groups"), "12345");
    assert_eq!(state(server.pid(), "Gid"), ["12345"; 4].join("\t"));
    serves(&dir.address("s"));
}

#[test]
fn root_without_capabilities_is_told_of_what_it_cannot_remove() {
    if !is_root() {
        return;
    }
    let dir = Dir::new();
    std::os::unix::fs::chown(dir.path(), Some(12345), None).expect("root");
    dir.permit(0o755);
    let server = start::server(DC_SERVER, &dir.address("s"), &[]);
    let ended = server.end(Signal::TERM);
    assert_eq!(ended.code, 0);
    let line = "cannot be removed at the end: root without its capabilities may not do so";
    assert!(ended.err.contains(line), "{ended:?}");
    assert_eq!(dir.names(), ["s"]);
    let server = start::server(DC_SERVER, &dir.address("s"), &["-nosandbox"]);
    let ended = server.end(Signal::TERM);
    assert!(!ended.err.contains("warning"), "{ended:?}");
    assert!(dir.names().is_empty());
}

/// The children of a process.
fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| pid.parse().expect("a number")).collect()
}

/// Whether a process runs, by its name.
fn is_resolver(pid: u32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| name == "dc_resolver\n")
}

fn kill(resolver: u32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(resolver.cast_signed()).expect("a process");
    rustix::process::kill_process(pid, signal).expect("a process");
}

/// A server on TCP, and a proxy that knows it by name.
fn named(dir: &Dir, arguments: &[&str]) -> (Program, Program, String) {
    let server = start::server(DC_SERVER, "IP:127.0.0.1:0", &[]);
    let name = server.address().replace("IP:127.0.0.1:", "IPv4:localhost:");
    let proxy = start::connected(DC_CLIENT, &dir.address("p"), &name, arguments);
    serves(&dir.address("p"));
    (server, proxy, name)
}

#[test]
fn names_are_resolved_by_a_process_that_has_nothing_else_and_ends_with_the_proxy() {
    let dir = Dir::new();
    for signal in [Signal::KILL, Signal::TERM] {
        let (_server, proxy, _) = named(&dir, &[]);
        is_in_sandbox(&proxy);
        let [resolver] = children(proxy.pid())[..] else { panic!("one name, one process") };
        assert!(is_resolver(resolver));
        assert_eq!(state(resolver, "CapEff"), "0000000000000000");
        let open = fs::read_dir(format!("/proc/{resolver}/fd")).expect("a process");
        let targets = open.map(|fd| fs::read_link(fd.expect("an entry").path()).expect("a link"));
        for target in targets {
            assert!(target.to_string_lossy().starts_with("socket:"), "{target:?}");
        }
        // A service manager signals all processes of the service.
        kill(resolver, Signal::TERM);
        let ended = proxy.end(signal);
        assert!(!ended.err.contains("not resolved any more"), "{ended:?}");
        until("end of the resolver", || (!is_resolver(resolver)).then_some(()));
    }
}

#[test]
fn without_its_resolver_a_proxy_goes_on_with_the_last_addresses() {
    let dir = Dir::new();
    let (server, proxy, name) = named(&dir, &["-retry", "10ms"]);
    let address = server.address();
    let [resolver] = children(proxy.pid())[..] else { panic!("one name, one process") };
    kill(resolver, Signal::KILL);
    proxy.err.wait_for(&format!("{name} is not resolved any more"));
    until("end of the resolver, without a zombie", || {
        children(proxy.pid()).is_empty().then_some(())
    });
    server.end(Signal::TERM);
    proxy.err.wait_for("is unreachable");
    let _server = start::server(DC_SERVER, &address, &[]);
    proxy.err.wait_for_nth(&format!("connected to {name}"), 2);
    serves(&dir.address("p"));
    let ended = proxy.end(Signal::TERM);
    assert_eq!(ended.err.matches("not resolved any more").count(), 1, "{ended:?}");
}
