//! What tests with other people's programs need: those programs, our C library installed somewhere, and
//! a certificate.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::process::has_tool;

/// Whether a test can run that needs these tools, and root where `root` says so.
///
/// # Panics
/// Where it can't, unless `DC_SKIP_RIGS` is 1: then it says by its name that it proves nothing.
pub fn can_run(test: &str, root: bool, tools: &[&str]) -> bool {
    let mut missing: Vec<_> = tools.iter().copied().filter(|tool| !has_tool(tool)).collect();
    if root && !rustix::process::geteuid().is_root() {
        missing.push("root");
    }
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    eprintln!("SKIPPED: {test} needs {missing}, and proves nothing without");
    let skip = std::env::var_os("DC_SKIP_RIGS").is_some_and(|value| value == "1");
    assert!(skip, "{test} needs {missing}: tests/run installs it; DC_SKIP_RIGS=1 goes on without");
    false
}

/// Runs a command to its end, and gives what it printed.
///
/// # Panics
/// Where it fails, with what it said.
pub fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?} can't be run: {error}"));
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} ended with {}: {out}{err}", output.status);
    out.into_owned()
}

/// Where the C library is installed with its headers and its pkg-config file: once in a process, into a
/// directory below `tmp`, which is to be `CARGO_TARGET_TMPDIR`.
///
/// # Panics
/// Where it can't be built.
pub fn installed(root: &str, tmp: &str) -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        // Every process its own: two that install into one place would cut each other's files short.
        let prefix = Path::new(tmp).join(format!("prefix-{}", std::process::id()));
        let (library, built) = (Path::new(root).join("bins/libdistcache"), prefix.join("built"));
        succeed(Command::new(library.join("build")).arg(&built));
        let mut install = Command::new(library.join("install"));
        install.env("PREFIX", &prefix).env("BUILD", built).env_remove("LIBDIR");
        succeed(install.env_remove("DESTDIR"));
        prefix
    })
}

/// Makes a key and a certificate for `localhost` and 127.0.0.1 in `dir`: `key.pem` and `cert.pem`.
///
/// # Panics
/// Where openssl fails.
pub fn certificate(dir: &Path) {
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
                     -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
                     -keyout key.pem -out cert.pem";
    succeed(Command::new("openssl").args(arguments.split_whitespace()).current_dir(dir));
}
