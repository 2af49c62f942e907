//! What tests share: places of their own, and processes of their own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::WaitOptions;

use crate::sys;

/// A fresh directory, removed with all that is in it on drop.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("dc-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const CHILD: &str = "DISTCACHE_TEST_CHILD";

/// Runs `body` in a process of its own, as the test named `test` of this same program, and fails
/// where it fails. For what a process has one of; and for tests that close a descriptor and count on
/// its being closed, which here takes until the children of other tests have got to their exec.
pub(crate) fn in_child(test: &str, body: impl FnOnce()) {
    if let Some(output) = child_output(test, "", body) {
        succeeded(&output);
    }
}

/// The same, but hands back how the process ended; `None` in the child, where `body` returned.
/// `word` is for the child to find with [`word`].
pub(crate) fn child_output(test: &str, word: &str, body: impl FnOnce()) -> Option<Output> {
    if is_child() {
        body();
        return None;
    }
    Some(spawn(test, word))
}

/// The same with a directory of this process, which sees what is left there, and may remove it
/// whatever became of the child's rights.
pub(crate) fn in_child_dir(test: &str, body: impl FnOnce(&Path), after: impl FnOnce(&Dir)) {
    if is_child() {
        return body(Path::new(&word()));
    }
    let dir = Dir::new();
    succeeded(&spawn(test, dir.path().to_str().unwrap()));
    after(&dir);
}

/// Whether this is a process that another test started.
pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs the test named `test` in a process of its own, where `word` is to be found with [`word`].
pub(crate) fn spawn(test: &str, word: &str) -> Output {
    spawn_with(test, word, &[])
}

/// The same with more in its environment.
pub(crate) fn spawn_with(test: &str, word: &str, variables: &[(&str, &str)]) -> Output {
    let arguments = ["--exact", test, "--nocapture"];
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments).env(CHILD, format!("+{word}"));
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let printed = text(&output.stdout);
    assert!(printed.contains("running 1 test\n"), "there is no test {test}: {printed}");
    output
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

/// Runs `body` in a fork of this child, which has but the one thread, and ends as that ends.
pub(crate) fn alone(body: impl FnOnce()) -> ! {
    if sys::fork().unwrap() {
        body();
        sys::exit_now(0);
    }
    let (_, status) = rustix::process::wait(WaitOptions::empty()).unwrap().unwrap();
    sys::exit_now(status.exit_status().unwrap_or(255));
}

/// What the parent wants this child to know.
pub(crate) fn word() -> String {
    std::env::var(CHILD).unwrap()[1..].to_owned()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether this process may change users; says so loudly where a test must be left out.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped("this test needs root and proves nothing without");
    }
    root
}

/// Says that something was left out. Past libtest, which shows what a test prints only if it fails.
pub(crate) fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED in {name}: {why}");
}
