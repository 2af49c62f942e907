//! Where the daemons listen: paths and their permissions, sockets that exist already, and inherited
//! descriptors.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use distcache_testing::bytes::{ADD, HAVE, add, get, have, session, status};
use distcache_testing::process::{Dir, Program, Signal, has_tool, is_root};
use distcache_testing::raw_client::RawClient;
use distcache_testing::start;

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const DC_SNOOP: &str = env!("CARGO_BIN_EXE_dc_snoop");

/// Starts a server on `s` in a directory.
fn server(dir: &Dir, arguments: &[&str]) -> Program {
    let program = start::server(DC_SERVER, &dir.address("s"), arguments);
    assert_eq!(program.address(), dir.address("s"));
    program
}

fn serves(address: &str) {
    assert_eq!(RawClient::connect(address).ask(&have(1, b"id")), status(1, HAVE, 1));
}

/// Returns why a program does not start with this address.
fn refusal(program: &str, address: &str) -> String {
    let server: &[&str] = if program == DC_SERVER { &[] } else { &["-server", "IP:127.0.0.1:1"] };
    let ended = Program::run(program, &[&["-listen", address], server].concat());
    assert!(ended.code == 1 && ended.out.is_empty(), "{ended:?}");
    assert!(ended.err.lines().count() == 1 && ended.err.contains(address), "{ended:?}");
    ended.err
}

#[test]
fn a_socket_has_the_owner_group_and_mode_of_the_options() {
    if !is_root() {
        return;
    }
    let dir = Dir::new();
    let of = |arguments: &[&str]| {
        let program = server(&dir, arguments);
        let file = fs::metadata(dir.join("s")).expect("a socket");
        let ended = program.end(Signal::TERM);
        assert_eq!(ended.code, 0);
        let warned = ended.err.contains("warning");
        (file.uid(), file.gid(), file.permissions().mode() & 0o7777, warned)
    };
    let asked = ["-sockowner", "nobody", "-sockgroup", "7", "-sockperms", "620"];
    let nobody = of(&asked).0;
    assert_ne!(nobody, 0);
    assert_eq!(of(&asked), (nobody, 7, 0o620, false));
    assert_eq!(of(&["-sockowner", "12345"]).0, 12345);
    assert_eq!(of(&["-sockperms", "0"]).2, 0);
}

#[test]
fn the_mode_of_a_socket_applies_to_other_users() {
    if !(is_root() && has_tool("setpriv")) {
        return;
    }
    let dir = Dir::new();
    for (mode, expected) in [("600", 2), ("606", 1)] {
        let server = server(&dir, &["-sockperms", mode]);
        // An unprivileged proxy tries to connect.
        let (listen, connect) =
            (format!("UNIX:@dct-{}-{mode}", std::process::id()), dir.address("s"));
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", DC_CLIENT];
        let words = ["-listen", &listen, "-server", &connect, "-retry", "3600000"];
        let proxy = Program::start("setpriv", &[&nobody[..], &words].concat());
        let answer = RawClient::connect(&proxy.address()).ask(&have(1, b"id"));
        assert_eq!(answer, status(1, HAVE, expected), "mode {mode}");
        assert_eq!(server.end(Signal::TERM).code, 0);
    }
}

#[test]
fn a_program_does_not_start_if_it_cannot_set_the_owner_of_its_socket() {
    let dir = Dir::new();
    for (option, what) in [("-sockowner", "owner"), ("-sockgroup", "group")] {
        let address = dir.address("s");
        let ended = Program::run(DC_SERVER, &["-listen", &address, option, "no-such-name"]);
        assert!(ended.code == 1 && ended.out.is_empty(), "{ended:?}");
        let line = format!(
            "dc_server: cannot listen on {address}: cannot set the socket's {what} to \
             no-such-name: there is no "
        );
        assert!(ended.err.starts_with(&line) && ended.err.lines().count() == 1, "{ended:?}");
        assert!(dir.names().is_empty());
    }
}

#[test]
fn an_owner_for_a_socket_without_one_is_a_warning() {
    let program = Program::start(DC_SERVER, &["-listen", "IP:127.0.0.1:0", "-sockperms", "600"]);
    program.err.wait_for("it is no UNIX path");
    serves(&program.address());
}

#[test]
fn a_path_with_a_listener_is_refused() {
    let dir = Dir::new();
    let program = server(&dir, &[]);
    for other in [DC_SERVER, DC_CLIENT, DC_SNOOP] {
        let reason = refusal(other, &dir.address("s"));
        assert!(reason.contains("in use by another server"), "{reason}");
        serves(&dir.address("s"));
    }
    assert_eq!(program.end(Signal::TERM).code, 0);
    let _other = UnixListener::bind(dir.join("s")).expect("a free path");
    refusal(DC_SERVER, &dir.address("s"));
}

#[test]
fn a_stale_socket_is_replaced() {
    let dir = Dir::new();
    assert_eq!(server(&dir, &[]).end(Signal::KILL).code, -9);
    assert_eq!(dir.names(), ["s"]);
    let program = server(&dir, &[]);
    serves(&dir.address("s"));
    assert_eq!(program.end(Signal::TERM).code, 0);
    assert!(dir.names().is_empty());
}

#[test]
fn a_file_that_is_not_a_socket_is_left_alone() {
    let dir = Dir::new();
    fs::write(dir.join("s"), "dear diary").expect("a file");
    fs::create_dir(dir.join("d")).expect("a directory");
    std::os::unix::fs::symlink(dir.join("s"), dir.join("l")).expect("a link");
    for name in ["s", "d", "l"] {
        let reason = refusal(DC_SERVER, &dir.address(name));
        assert!(reason.contains("left alone"), "{reason}");
    }
    assert_eq!(fs::read_to_string(dir.join("s")).expect("the file"), "dear diary");
    assert_eq!(dir.names(), ["d", "l", "s"]);
}

#[test]
fn a_socket_of_another_program_is_not_removed_at_the_end() {
    let dir = Dir::new();
    let program = server(&dir, &[]);
    fs::remove_file(dir.join("s")).expect("its socket");
    let other = UnixListener::bind(dir.join("s")).expect("a free path");
    assert_eq!(program.end(Signal::TERM).code, 0);
    assert!(
        fs::symlink_metadata(dir.join("s"))
            .expect("the other program's socket")
            .file_type()
            .is_socket()
    );
    drop(other);
}

#[test]
fn a_used_port_is_refused() {
    let program = Program::start(DC_SERVER, &["-listen", "IP:127.0.0.1:0"]);
    for other in [DC_SERVER, DC_CLIENT, DC_SNOOP] {
        let reason = refusal(other, &program.address());
        assert!(reason.contains("in use by another server"), "{reason}");
    }
    serves(&program.address());
}

#[test]
fn an_impossible_path_is_refused() {
    let dir = Dir::new();
    refusal(DC_SERVER, &dir.address("none/s"));
    let ended = Program::run(DC_SERVER, &["-listen", &dir.address(&"long".repeat(100))]);
    assert!(ended.code == 1 && ended.err.contains("longer than the"), "{ended:?}");
    assert!(dir.names().is_empty());
}

fn ends(server: Program) {
    assert_eq!(server.ended().code, 0);
}

/// Uses every operation, and leaves.
fn use_all_operations(caller: RawClient) {
    assert_eq!(caller.ask(&add(1, b"id", b"session")), status(1, ADD, 0));
    caller.send(&get(2, b"id").repeat(2));
    caller.finish();
    assert_eq!(caller.rest(), session(2, b"session").repeat(2));
}

#[test]
fn a_program_serves_the_client_on_its_stdin_and_stdout_and_then_ends() {
    let (ours, theirs) = UnixStream::pair().expect("two sockets");
    let again = theirs.try_clone().expect("a descriptor");
    let mut command = Command::new(DC_SERVER);
    command.args(["-listen", "FD:0:1"]).stdin(OwnedFd::from(theirs)).stdout(OwnedFd::from(again));
    let program = Program::spawn(command);
    use_all_operations(RawClient::from_pair(ours));
    ends(program);
}

#[test]
fn two_pipes_serve_as_stdin_and_stdout() {
    let mut command = Command::new(DC_SERVER);
    command.args(["-listen", "FD:0:1"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("a program");
    let mut input = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut input, &have(7, b"id")).expect("room in the pipe");
    drop(input);
    let output = child.wait_with_output().expect("an end");
    assert_eq!((output.status.code(), output.stdout), (Some(0), status(7, HAVE, 1)));
}

/// Starts a program with `given` as its descriptor 3.
fn start_with_descriptor(program: &str, arguments: &[&str], given: OwnedFd) -> Program {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 3<&0 </dev/null", program]).args(arguments);
    command.stdin(given).stdout(Stdio::piped());
    Program::spawn(command)
}

#[test]
fn an_inherited_connection_is_served_and_then_the_program_ends() {
    let (ours, theirs) = UnixStream::pair().expect("two sockets");
    let program = start_with_descriptor(DC_SERVER, &["-listen", "FD:3"], theirs.into());
    assert_eq!(program.address(), "FD:3");
    use_all_operations(RawClient::from_pair(ours));
    ends(program);
}

#[test]
fn an_inherited_listener_serves_one_client_after_the_other() {
    let dir = Dir::new();
    let listener = UnixListener::bind(dir.join("s")).expect("a free path");
    let program = start_with_descriptor(DC_SERVER, &["-listen", "FD:3"], listener.into());
    assert_eq!(program.address(), dir.address("s"));
    use_all_operations(RawClient::connect(&dir.address("s")));
    let later = RawClient::connect(&dir.address("s"));
    assert_eq!(later.ask(&get(2, b"id")), session(2, b"session"));
    assert_eq!(program.end(Signal::TERM).code, 0);
    assert_eq!(dir.names(), ["s"], "it belongs to its creator");
}

#[test]
fn a_proxy_can_inherit_the_connection_to_its_server() {
    let dir = Dir::new();
    let _server = server(&dir, &[]);
    let connected = UnixStream::connect(dir.join("s")).expect("a server");
    let listen = dir.address("c");
    let proxy = start_with_descriptor(
        DC_CLIENT,
        &["-listen", &listen, "-server", "FD:3"],
        connected.into(),
    );
    use_all_operations(RawClient::connect(&proxy.address()));
    assert_eq!(proxy.end(Signal::TERM).code, 0);
}

#[test]
fn a_descriptor_that_is_not_open_is_refused() {
    for address in ["FD:77", "FD:0:77"] {
        let ended = Program::run(DC_SERVER, &["-listen", address]);
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(ended.err.contains("descriptor 77 is not open"), "{ended:?}");
    }
}
