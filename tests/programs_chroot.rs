//! Daemons in a directory without devices, /proc and user database.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::process::{Dir, Program, Signal, TIMEOUT, has_tool, is_root};
use distcache_testing::raw_client::RawClient;

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

/// Creates a directory with the two daemons, the libraries that they need, and an empty `tmp`.
/// `None` if the machine cannot do that.
fn chroot_dir() -> Option<Dir> {
    if !(is_root() && has_tool("chroot") && has_tool("ldd")) {
        return None;
    }
    let dir = Dir::new();
    for program in [DC_CLIENT, DC_SERVER] {
        let name = Path::new(program).file_name().expect("a name");
        fs::copy(program, dir.path().join(name)).expect("a copy");
        // A static program needs no libraries.
        let needed = Program::run("ldd", &[program]).out;
        for library in needed.split_whitespace().filter(|word| word.starts_with('/')) {
            let copy = dir.join(library.trim_start_matches('/'));
            fs::create_dir_all(copy.parent().expect("a directory")).expect("a directory");
            fs::copy(library, copy).expect("a copy");
        }
    }
    fs::create_dir(dir.join("tmp")).expect("a directory");
    Some(dir)
}

fn permit(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own directory");
}

/// Starts one of the daemons in the directory.
fn start(chroot_dir: &Dir, words: &[&str]) -> Program {
    start_as("0:0", chroot_dir, words)
}

/// Starts one of the daemons in the directory as a user without an entry.
fn start_as(user: &str, chroot_dir: &Dir, words: &[&str]) -> Program {
    let user = format!("--userspec={user}");
    Program::start("chroot", &[&[user.as_str(), &chroot_dir.text("")][..], words].concat())
}

/// Returns the user that a program runs as.
fn user(program: &Program) -> String {
    let file = fs::read_to_string(format!("/proc/{}/status", program.pid())).expect("a status");
    let line = file.lines().find(|line| line.starts_with("Uid:")).expect("its users");
    line.split_whitespace().nth(1).expect("a user").to_owned()
}

#[test]
fn a_foreground_daemon_needs_no_other_file() {
    let Some(chroot_dir) = chroot_dir() else { return };
    let server = ["/dc_server", "-listen", "IP:127.0.0.1:0", "-pidfile", "/tmp/pid"];
    let server = start(&chroot_dir, &[&server[..], &["-user", "54321:7"]].concat());
    let address = server.address();
    let client = ["/dc_client", "-server", &address, "-listen", "UNIX:/tmp/s", "-user", "54321"];
    let client = start(&chroot_dir, &client);
    client.err.wait_for("connected to ");
    let answer = RawClient::connect(&chroot_dir.address("tmp/s")).ask(&have(1, b"id"));
    assert_eq!(answer, status(1, HAVE, 1));
    for program in [client, server] {
        assert_eq!(user(&program), "54321");
        assert_eq!(program.end(Signal::TERM).code, 0);
    }
}

#[test]
fn a_daemon_that_cannot_detach_names_what_is_missing() {
    let Some(chroot_dir) = chroot_dir() else { return };
    let ended = start(&chroot_dir, &["/dc_server", "-daemon", "-listen", "UNIX:/tmp/s"]).ended();
    let reason = "cannot become a daemon: cannot open /dev/null: No such file or directory";
    assert_eq!(ended.code, 1);
    assert!(ended.err.starts_with(&format!("dc_server: {reason}")), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    assert!(fs::read_dir(chroot_dir.join("tmp")).expect("our own").next().is_none());
}

#[test]
fn inherited_descriptors_are_closed_without_proc() {
    let Some(chroot_dir) = chroot_dir() else { return };
    let (mut held, theirs) = UnixStream::pair().expect("two sockets");
    let line = "exec chroot \"$0\" /dc_server -listen UNIX:/tmp/s 9<&0 </dev/null";
    let mut command = Command::new("sh");
    command.args(["-c", line, &chroot_dir.text("")]);
    command.stdin(std::os::fd::OwnedFd::from(theirs)).stdout(Stdio::piped());
    let server = Program::spawn(command);
    held.set_read_timeout(Some(TIMEOUT)).expect("a socket takes a timeout");
    assert_eq!(held.read(&mut [0]).expect("the end of a connection that is no longer open"), 0);
    assert_eq!(server.address(), "UNIX:/tmp/s");
    assert_eq!(server.end(Signal::TERM).code, 0);
}

#[test]
fn a_default_socket_in_a_world_writable_directory_gives_a_warning() {
    let Some(chroot_dir) = chroot_dir() else { return };
    let tmp = chroot_dir.join("tmp");
    for (user, mode, listen, warnings) in [
        ("0:0", 0o1777, &[][..], 1),
        ("0:0", 0o755, &[], 0),
        ("0:0", 0o1777, &["-listen", "UNIX:/tmp/scache"], 0),
        ("54321:54321", 0o1777, &[], 0),
    ] {
        permit(&tmp, mode);
        let words = ["/dc_client", "-server", "IP:127.0.0.1:1"];
        let client = start_as(user, &chroot_dir, &[&words[..], listen].concat());
        assert_eq!(client.address(), "UNIX:/tmp/scache");
        let ended = client.end(Signal::TERM);
        let warned: Vec<_> = ended.err.lines().filter(|line| line.contains("warning: ")).collect();
        assert_eq!((ended.code, warned.len()), (0, warnings), "{ended:?}");
        assert!(
            warned.iter().all(|line| line.contains("UNIX:/run/distcache/scache")),
            "{warned:?}"
        );
    }
}
