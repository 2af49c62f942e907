//! How a socket comes to its path, seen while the program looks up the socket's owner: what says where
//! users are looked up is a pipe that the test writes to. And a change of user that takes no rights away.
#![cfg(target_os = "linux")]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::process::{Dir, Program, Signal, TIMEOUT, is_in_path, runs_as_root};
use distcache_testing::raw_client::RawClient;

const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

/// What the C library reads before its first look at the user database.
const LOOKUPS: &str = "/etc/nsswitch.conf";

/// Whether a process may have mounts of its own here; says so loudly where a test must be left out.
fn has_mounts() -> bool {
    let may = runs_as_root()
        && ["unshare", "mount", "mkfifo"].iter().all(|tool| is_in_path(tool))
        && fs::exists(LOOKUPS).is_ok_and(|there| there)
        && Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|s| s.success());
    if !may {
        eprintln!("SKIPPED: this test needs mounts of its own and proves nothing without");
    }
    may
}

/// A server that has made its socket, has set group and mode, and waits to learn where it can look up
/// the owner.
struct Halted {
    server: Program,
    lookups: File,
    dir: Dir,
    _pipes: Dir,
}

impl Halted {
    fn start() -> Self {
        let (dir, pipes) = (Dir::new(), Dir::new());
        let pipe = pipes.text("lookups");
        assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
        let line = "mount --bind \"$0\" \"$1\" && shift && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", line, &pipe, LOOKUPS]);
        command.args([DC_SERVER, "-listen", &dir.address("s")]);
        command.args(["-sockgroup", "34", "-sockperms", "640", "-sockowner", "nobody"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let server = Program::spawn(command);
        // This waits for whoever reads it.
        let (sender, opened) = mpsc::channel();
        thread::spawn(move || sender.send(OpenOptions::new().write(true).open(&pipe)));
        let lookups = opened.recv_timeout(TIMEOUT).expect("a look-up");
        let lookups = lookups.expect("our own pipe");
        Self { server, lookups, dir, _pipes: pipes }
    }

    /// Tells that users are in the usual file.
    fn go_on(mut self) -> (Program, Dir) {
        self.lookups.write_all(b"passwd: files\n").expect("room in the pipe");
        (self.server, self.dir)
    }
}

/// The number of the user `nobody`.
fn nobody() -> u32 {
    let users = fs::read_to_string("/etc/passwd").expect("users");
    let line = users.lines().find_map(|line| line.strip_prefix("nobody:x:")).expect("nobody");
    line.split(':').next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn a_socket_listens_and_is_at_its_path_only_once_group_mode_and_owner_are_set() {
    if !has_mounts() {
        return;
    }
    let halted = Halted::start();
    let names = halted.dir.names();
    assert!(matches!(&names[..], [one] if one.starts_with(".dc")), "{names:?}");
    let staged = halted.dir.join(&names[0]);
    assert_eq!(fs::metadata(&staged).expect("a directory").mode() & 0o7777, 0o700);
    let refused = UnixStream::connect(staged.join("s")).expect_err("it does not listen");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let stat = fs::metadata(staged.join("s")).expect("a socket");
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o640, 0, 34));
    let turn = File::open(halted.dir.path()).expect("our own directory").try_lock();
    assert!(turn.is_err(), "another that starts here waits for this one");
    let (server, dir) = halted.go_on();
    assert_eq!(server.address(), dir.address("s"));
    let stat = fs::metadata(dir.join("s")).expect("a socket");
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o640, nobody(), 34));
    assert_eq!(RawClient::connect(&dir.address("s")).ask(&have(1, b"id")), status(1, HAVE, 1));
    assert_eq!(server.end(Signal::TERM).code, 0);
    assert!(dir.names().is_empty());
}

#[test]
fn what_comes_to_the_path_during_a_start_is_not_replaced() {
    if !has_mounts() {
        return;
    }
    let halted = Halted::start();
    fs::write(halted.dir.join("s"), "somebody else's").expect("a free path");
    let (server, dir) = halted.go_on();
    let ended = server.ended();
    assert!(ended.code == 1 && ended.err.contains("in use by another server"), "{ended:?}");
    assert_eq!(fs::read_to_string(dir.join("s")).expect("the file"), "somebody else's");
    assert_eq!(dir.names(), ["s"]);
}

#[test]
fn a_program_that_could_become_root_again_does_not_serve() {
    if !runs_as_root() || !is_in_path("setpriv") {
        return;
    }
    let dir = Dir::new();
    dir.permit(0o777);
    let start = |securebits: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(securebits).args([DC_SERVER, "-listen", &dir.address("s"), "-user", "nobody"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Program::spawn(command)
    };
    let server = start(&[]);
    assert_eq!(server.address(), dir.address("s"));
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("a process");
    for rights in ["CapPrm", "CapEff"] {
        let line = status.lines().find(|line| line.starts_with(rights)).expect("a line");
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
    assert_eq!(server.end(Signal::TERM).code, 0);
    // With this a change of user takes no right away.
    let ended = start(&["--securebits", "+no_setuid_fixup"]).ended();
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("'nobody': former rights remain"), "{ended:?}");
    assert!(dir.names().is_empty());
}
