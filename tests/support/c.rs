//! C programs for the tests, built with what [`installed`](crate::rig::installed) has installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rig::succeed;

/// Warnings for our own C.
const STRICT: [&str; 6] =
    ["-g", "-Wall", "-Wextra", "-pedantic", "-Werror", "-Wno-unused-function"];

/// Builds programs with a C library that is installed at `prefix`.
#[derive(Debug)]
pub struct CBuilder<'a> {
    /// Where the library is installed.
    pub prefix: &'a Path,
    /// Where the programs go.
    pub dir: &'a Path,
}

impl CBuilder<'_> {
    /// Returns what pkg-config prints. It finds the library and what the system has.
    ///
    /// # Panics
    /// If pkg-config fails.
    pub fn flags(&self, arguments: &[&str]) -> Vec<String> {
        let mut command = Command::new("pkg-config");
        command.env("PKG_CONFIG_PATH", self.prefix.join("lib/pkgconfig")).args(arguments);
        succeed(&mut command).split_whitespace().map(str::to_owned).collect()
    }

    /// Compiles and links `source` with shared libraries: pkg-config's `packages`, and the
    /// arguments in `more`.
    ///
    /// # Panics
    /// If the compiler warns or fails.
    pub fn make(&self, source: &str, packages: &[&str], more: &[&str]) -> String {
        let found = self.flags(&[&["--cflags", "--libs"], packages].concat());
        let rpath = format!("-Wl,-rpath,{}", self.prefix.join("lib").display());
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        self.build("cc", source, &[&["-std=gnu99"], &found[..], more, &[&rpath]].concat())
    }

    /// As [`make`](Self::make), with exactly these arguments behind the source.
    ///
    /// # Panics
    /// If the compiler warns or fails.
    pub fn build(&self, compiler: &str, source: &str, arguments: &[&str]) -> String {
        let source = Path::new(source);
        let name = source.file_stem().expect("a name").to_string_lossy();
        // One source may become several programs, linked in several ways.
        let program: PathBuf = (0..)
            .map(|number| self.dir.join(format!("{name}-{number}")))
            .find(|path| !path.exists())
            .expect("a name");
        let mut command = Command::new(compiler);
        command.args(STRICT).arg(source).arg("-o").arg(&program).args(arguments);
        succeed(&mut command);
        program.display().to_string()
    }
}
