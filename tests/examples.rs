//! The example servers of `distcache-core`, each as a process, against `dc_test`.

use std::path::Path;
use std::process::Command;

use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::process::{Program, Signal};
use distcache_testing::raw_client::RawClient;

const DC_TEST: &str = env!("CARGO_BIN_EXE_dc_test");

/// Builds an example and starts it on a port of its own.
fn start(example: &str) -> Program {
    let profile_dir = Path::new(DC_TEST).parent().expect("a directory");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["build", "--quiet", "--profile", profile, "--package", "distcache-core"]);
    cargo.args(["--example", example]).arg("--target-dir");
    cargo.arg(profile_dir.parent().expect("a target directory"));
    assert!(cargo.status().expect("cargo").success(), "{example} does not build");
    let program = profile_dir.join("examples").join(example);
    Program::start(program.to_str().expect("a path in UTF-8"), &[])
}

/// Whether every answer is right, for one connection and for one to each request, for sessions that
/// fill many frames, and beside clients that are silent, that send nonsense, and that have left.
fn is_right(example: &str) {
    let server = start(example);
    let address = server.address();
    let silent = RawClient::connect(&address);
    let (halfway, malformed) = (RawClient::connect(&address), RawClient::connect(&address));
    let request = have(1, b"an id");
    let (first, second) = request.split_at(9);
    halfway.send(first);
    malformed.send(&[0xFF; 14]);
    assert_eq!(malformed.rest(), b"", "{example}");
    halfway.send(second);
    assert_eq!(halfway.message(), status(1, HAVE, 1), "{example}");
    drop(halfway);
    for arguments in [
        &["-ops", "300"][..],
        &["-ops", "300", "-persistent"],
        &["-ops", "200", "-datamin", "5", "-datamax", "30000", "-persistent"],
    ] {
        let ended = Program::run(DC_TEST, &[&["-connect", &address], arguments].concat());
        assert!(ended.code == 0 && ended.err.is_empty(), "{example}: {arguments:?}: {ended:?}");
        assert!(ended.out.contains("operations, all right, in "), "{example}: {ended:?}");
    }
    drop(silent);
    let ended = server.end(Signal::KILL);
    assert!(!ended.err.contains("panicked"), "{example}: {ended:?}");
}

#[test]
fn a_server_with_threads_is_right() {
    is_right("threads");
}

#[test]
fn a_server_with_mio_is_right() {
    is_right("mio");
}

#[test]
fn a_server_with_tokio_is_right() {
    is_right("tokio");
}
