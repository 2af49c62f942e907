//! Programs that detach: what their starter sees, and which user they become.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::daemon::Daemon;
use distcache_testing::process::{Dir, Ended, Program, Signal, has_tool, is_root};
use distcache_testing::raw_client::RawClient;

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

fn quiet() -> Ended {
    Ended { code: 0, out: String::new(), err: String::new() }
}

/// Starts a server as a daemon in a directory.
fn server(dir: &Dir, arguments: &[&str]) -> Daemon {
    let (listen, pid_file) = (dir.address("s"), dir.text("pid"));
    let usual = ["-daemon", "-listen", &listen, "-pidfile", &pid_file];
    assert_eq!(Program::run(DC_SERVER, &[&usual, arguments].concat()), quiet());
    Daemon::of(&dir.join("pid"))
}

/// Returns the error of a daemon that does not start.
fn failure(program: &str, arguments: &[&str]) -> String {
    let ended = Program::run(program, &[&["-daemon"], arguments].concat());
    assert!(ended.code == 1 && ended.out.is_empty(), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    ended.err
}

fn serves(address: &str) {
    assert_eq!(RawClient::connect(address).ask(&have(1, b"id")), status(1, HAVE, 1));
}

/// Returns user and group of `nobody`.
fn nobody() -> (String, String) {
    let users = fs::read_to_string("/etc/passwd").expect("users");
    let line = users.lines().find(|line| line.starts_with("nobody:")).expect("nobody");
    let fields: Vec<&str> = line.split(':').collect();
    (fields[2].to_owned(), fields[3].to_owned())
}

#[test]
fn a_daemon_can_be_used_as_soon_as_its_starter_returns() {
    let dir = Dir::new();
    let daemon = server(&dir, &[]);
    serves(&dir.address("s"));
    assert_eq!(dir.names(), ["pid", "s"]);
    daemon.end(Signal::TERM);
    assert!(dir.names().is_empty());
}

#[test]
fn a_daemon_keeps_nothing_of_its_starter() {
    let dir = Dir::new();
    let daemon = server(&dir, &[]);
    let link = |name: &str| {
        let link = fs::read_link(format!("/proc/{}/{name}", daemon.pid())).expect("a link");
        link.display().to_string()
    };
    assert_eq!(link("cwd"), "/");
    for fd in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(link(fd), "/dev/null");
    }
    let stat = daemon.about("stat").expect("the daemon runs");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
    let (session, terminal) = (fields[3], fields[4]);
    let own = fs::read_to_string("/proc/self/stat").expect("our own");
    let own: Vec<&str> = own.rsplit_once(") ").expect("a name").1.split(' ').collect();
    assert!(session != own[3] && session != daemon.pid().to_string(), "{stat}");
    assert_eq!(terminal, "0");
    daemon.signal(Signal::HUP);
    serves(&dir.address("s"));
    daemon.end(Signal::INT);
}

#[test]
fn the_pid_file_has_mode_644_whatever_the_umask() {
    let dir = Dir::new();
    for umask in ["0", "022", "077"] {
        let (listen, pid_file) = (dir.address("s"), dir.text("pid"));
        let script = format!("umask {umask}; exec \"$0\" \"$@\"");
        let words =
            ["-c", &script, DC_SERVER, "-daemon", "-listen", &listen, "-pidfile", &pid_file];
        assert_eq!(Program::run("sh", &words), quiet());
        let daemon = Daemon::of(&dir.join("pid"));
        let mode = fs::metadata(&pid_file).expect("a file").permissions().mode();
        assert_eq!(mode & 0o7777, 0o644, "umask {umask}");
        daemon.end(Signal::TERM);
    }
}

#[test]
fn the_pid_file_of_a_running_daemon_is_not_taken() {
    let dir = Dir::new();
    let daemon = server(&dir, &[]);
    let before = fs::read(dir.join("pid")).expect("a file");
    let reason =
        failure(DC_SERVER, &["-listen", &dir.address("other"), "-pidfile", &dir.text("pid")]);
    assert!(reason.contains(&format!("process {} holds it", daemon.pid())), "{reason}");
    assert_eq!(fs::read(dir.join("pid")).expect("a file"), before);
    assert_eq!(dir.names(), ["pid", "s"]);
    // A killed daemon holds no lock.
    daemon.end(Signal::KILL);
    server(&dir, &[]).end(Signal::TERM);
}

#[test]
fn a_relative_pid_file_and_socket_are_in_the_starters_directory() {
    let dir = Dir::new();
    let script = format!("cd '{}' && exec \"$0\" \"$@\"", dir.path().display());
    let words = ["-c", &script, DC_SERVER, "-daemon", "-listen", "UNIX:s", "-pidfile", "pid"];
    assert_eq!(Program::run("sh", &words), quiet());
    let daemon = Daemon::of(&dir.join("pid"));
    serves(&dir.address("s"));
    daemon.end(Signal::TERM);
    assert!(dir.names().is_empty());
}

/// Starts a server as root with groups, in a directory of root's, which becomes `user`. Returns its
/// warnings too.
fn as_user(dir: &Dir, user: &str) -> (Daemon, Vec<String>) {
    let (listen, pid_file) = (dir.address("s"), dir.text("pid"));
    let server = ["--groups=4,20", DC_SERVER, "-daemon", "-listen", &listen, "-pidfile", &pid_file];
    let user: &[&str] = if user.is_empty() { &[] } else { &["-user", user] };
    let ended = Program::run("setpriv", &[&server, user].concat());
    assert_eq!((ended.code, ended.out.as_str()), (0, ""), "{ended:?}");
    let warned = ended.err.lines().map(str::to_owned).collect();
    (Daemon::of(&dir.join("pid")), warned)
}

#[test]
fn a_daemon_of_another_user_keeps_no_privilege_of_root() {
    if !(is_root() && has_tool("setpriv")) {
        return;
    }
    let (uid, gid) = nobody();
    for user in ["nobody", uid.as_str()] {
        let dir = Dir::new();
        let (root, warned) = as_user(&dir, "");
        assert!(warned.is_empty(), "{warned:?}");
        assert_eq!(
            (root.status("Uid")[1].as_str(), root.status("Groups").join(" ")),
            ("0", "4 20".into())
        );
        root.end(Signal::TERM);
        let (daemon, _) = as_user(&dir, user);
        assert_eq!(daemon.status("Uid"), vec![uid.as_str(); 4]);
        assert_eq!(daemon.status("Gid"), vec![gid.as_str(); 4]);
        assert_eq!(daemon.status("Groups"), vec![gid.as_str(); 1]);
        for capabilities in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(daemon.status(capabilities), ["0000000000000000"], "{capabilities}");
        }
        serves(&dir.address("s"));
        daemon.end(Signal::TERM);
    }
}

#[test]
fn a_daemon_of_another_user_removes_its_files_if_permitted() {
    if !(is_root() && has_tool("setpriv")) {
        return;
    }
    let dir = Dir::new();
    dir.permit(0o777);
    let (daemon, warned) = as_user(&dir, "nobody");
    assert!(warned.is_empty(), "{warned:?}");
    daemon.end(Signal::TERM);
    assert!(dir.names().is_empty());
    // In a directory of root's it may not, and says so; the pid file must not name another process
    // then.
    for mode in [0o1777, 0o755] {
        dir.permit(mode);
        let (daemon, warned) = as_user(&dir, "nobody");
        assert_eq!(warned.len(), 2, "{warned:?}");
        for (warning, path) in warned.iter().zip([dir.text("s"), dir.text("pid")]) {
            let line = format!("dc_server: warning: {path} cannot be removed at the end: ");
            assert!(warning.starts_with(&line), "{warning}");
        }
        daemon.end(Signal::TERM);
    }
    assert_eq!(dir.names(), ["pid", "s"]);
    let number = fs::read_to_string(dir.join("pid")).expect("a file");
    let number: i32 = number.trim_end().parse().expect("a number that no process has");
    assert!(!fs::exists(format!("/proc/{number}")).expect("/proc"), "{number}");
    if has_tool("start-stop-daemon") {
        // LSB's "dead, and its pid file exists"; with an empty file it would be "unknown".
        let ended = Program::run("start-stop-daemon", &["--status", "--pidfile", &dir.text("pid")]);
        assert_eq!(ended.code, 1, "{ended:?}");
    }
    // The files that are left do not prevent the next start.
    let (daemon, _) = as_user(&dir, "nobody");
    serves(&dir.address("s"));
    daemon.end(Signal::TERM);
}

#[test]
fn the_pid_file_of_another_users_daemon_belongs_to_root() {
    if !(is_root() && has_tool("setpriv")) {
        return;
    }
    let dir = Dir::new();
    let (daemon, _) = as_user(&dir, "nobody");
    let file = fs::metadata(dir.join("pid")).expect("a file");
    assert_eq!((file.uid(), file.permissions().mode() & 0o7777), (0, 0o644));
    daemon.end(Signal::TERM);
}

#[test]
fn a_proxy_detaches_like_a_server() {
    let dir = Dir::new();
    let daemon = server(&dir, &[]);
    let (listen, connect, pid_file) = (dir.address("c"), dir.address("s"), dir.text("cpid"));
    let words = ["-daemon", "-listen", &listen, "-server", &connect, "-pidfile", &pid_file];
    let ended = Program::run(DC_CLIENT, &words);
    assert_eq!((ended.code, ended.out.as_str()), (0, ""));
    let proxy = Daemon::of(&dir.join("cpid"));
    serves(&listen);
    proxy.end(Signal::TERM);
    daemon.end(Signal::TERM);
    assert!(dir.names().is_empty());
}

#[test]
fn an_unwritable_pid_file_is_an_error_with_a_reason() {
    let dir = Dir::new();
    let listen = dir.address("s");
    let missing = dir.text("none/pid");
    let directory = dir.text("");
    for pid_file in [missing.as_str(), directory.trim_end_matches('/')] {
        for program in [DC_SERVER, DC_CLIENT] {
            let arguments = ["-server", "IP:127.0.0.1:1", "-listen", &listen, "-pidfile", pid_file];
            let arguments = if program == DC_SERVER { &arguments[2..] } else { &arguments };
            let reason = failure(program, arguments);
            assert!(reason.contains(&format!("cannot use pid file {pid_file}: ")), "{reason}");
        }
    }
    assert!(dir.names().is_empty());
}

#[test]
fn an_unknown_user_is_an_error_with_a_reason() {
    let dir = Dir::new();
    for daemon in [&["-daemon"][..], &[]] {
        let (listen, pid_file) = (dir.address("s"), dir.text("pid"));
        let arguments = ["-listen", &listen, "-pidfile", &pid_file, "-user", "no-such-user"];
        let ended = Program::run(DC_SERVER, &[daemon, &arguments].concat());
        assert!(ended.code == 1 && ended.out.is_empty(), "{ended:?}");
        assert_eq!(ended.err, "dc_server: there is no user 'no-such-user'\n");
        assert!(dir.names().is_empty(), "nothing is left of it");
    }
}

#[test]
fn without_root_the_user_cannot_be_changed() {
    if !(is_root() && has_tool("setpriv")) {
        return;
    }
    let (uid, gid) = nobody();
    let (uid, gid) = (format!("--reuid={uid}"), format!("--regid={gid}"));
    let words =
        [&uid, &gid, "--clear-groups", DC_SERVER, "-listen", "IP:127.0.0.1:0", "-user", "root"];
    let ended = Program::run("setpriv", &words);
    assert!(ended.code == 1 && ended.out.is_empty(), "{ended:?}");
    assert!(ended.err.contains("cannot become user 'root'"), "{ended:?}");
}

#[test]
fn a_daemon_that_cannot_listen_or_allocate_is_an_error_with_a_reason() {
    let dir = Dir::new();
    let daemon = server(&dir, &[]);
    let reason = failure(DC_SERVER, &["-listen", &dir.address("s")]);
    assert!(reason.contains("in use by another server"), "{reason}");
    daemon.end(Signal::TERM);
    if has_tool("prlimit") {
        let (listen, pid_file) = (dir.address("s"), dir.text("pid"));
        let words = ["--as=200000000", DC_SERVER, "-daemon", "-listen", &listen];
        let more = ["-pidfile", &pid_file, "-sessions", "1000000"];
        let ended = Program::run("prlimit", &[&words[..], &more].concat());
        assert!(ended.code == 1 && ended.err.contains("cannot allocate"), "{ended:?}");
        assert!(dir.names().is_empty(), "nothing is left of it");
    }
}
