//! What rigs with other programs need: those programs, the C library installed, and a certificate.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::process::{is_in_path, runs_as_root, skip};

/// Returns whether a test has the tools that it needs, and root if `root` is set.
///
/// # Panics
/// If not, unless `DC_SKIP_RIGS` is 1: then it reports the test as skipped.
pub fn can_run(test: &str, root: bool, tools: &[&str]) -> bool {
    let mut missing: Vec<_> = tools.iter().copied().filter(|tool| !is_in_path(tool)).collect();
    if root && !runs_as_root() {
        missing.push("root");
    }
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    let may_skip = std::env::var_os("DC_SKIP_RIGS").is_some_and(|value| value == "1");
    assert!(may_skip, "{test} needs {missing}: tests/run installs it; DC_SKIP_RIGS=1 skips it");
    skip(&missing);
    false
}

/// Runs a command to its end, and returns what it printed.
///
/// # Panics
/// If it fails, with its output.
pub fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?} can't be run: {error}"));
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} ended with {}: {out}{err}", output.status);
    out.into_owned()
}

/// Returns where the C library is installed, with its headers and its pkg-config file. It is
/// installed once in a process, below `tmp`, which must be `CARGO_TARGET_TMPDIR`.
///
/// # Panics
/// If it can't be built.
pub fn installed(root: &str, tmp: &str) -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        // One for each process, since two installations at once would overwrite each other's files.
        let prefix = Path::new(tmp).join(format!("prefix-{}", std::process::id()));
        let (library, built) = (Path::new(root).join("bins/libdistcache"), prefix.join("built"));
        succeed(Command::new(library.join("build")).arg(&built));
        let mut install = Command::new(library.join("install"));
        install.env("PREFIX", &prefix).env("BUILD", built).env_remove("LIBDIR");
        succeed(install.env_remove("DESTDIR"));
        prefix
    })
}

/// Creates a key and a certificate for `localhost` and 127.0.0.1 in `dir`: `key.pem` and
/// `cert.pem`.
///
/// # Panics
/// If openssl fails.
pub fn certificate(dir: &Path) {
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
                     -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
                     -keyout key.pem -out cert.pem";
    succeed(Command::new("openssl").args(arguments.split_whitespace()).current_dir(dir));
}
