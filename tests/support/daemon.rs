//! Daemons: processes that have left their parent.

use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::process::until;

/// A daemon, known by its pid; killed on drop.
#[derive(Debug)]
pub struct Daemon(Pid);

impl Daemon {
    /// Returns the daemon whose pid is in a file.
    ///
    /// # Panics
    /// If the file is anything but one line with a pid.
    pub fn of(pid_file: &Path) -> Self {
        let text = std::fs::read_to_string(pid_file).expect("a pid file");
        let number = text.strip_suffix('\n').and_then(|line| line.parse().ok());
        let pid = number.and_then(Pid::from_raw);
        Self(pid.unwrap_or_else(|| panic!("a pid and a line feed, not {text:?}")))
    }

    /// Returns the only child of a process.
    ///
    /// # Panics
    /// If it has none, or several.
    pub fn child_of(pid: u32) -> Self {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.expect("a process, and a kernel that lists its children");
        let number = children.trim().parse().ok().and_then(Pid::from_raw);
        Self(number.unwrap_or_else(|| panic!("one child, not {children:?}")))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn ended(self) {
        until("the end of the process", || (!self.is_running()).then_some(()));
        std::mem::forget(self);
    }

    /// Returns its pid.
    pub fn pid(&self) -> i32 {
        self.0.as_raw_pid()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.0, signal).expect("the daemon runs");
    }

    /// Sends it a signal, and waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn end(self, signal: Signal) {
        self.signal(signal);
        until("the end of the daemon", || (!self.is_running()).then_some(()));
        std::mem::forget(self);
    }

    /// Returns whether it runs.
    pub fn is_running(&self) -> bool {
        // After its end it is a zombie until its new parent has waited for it.
        test_kill_process(self.0) != Err(Errno::SRCH) && !self.is_zombie()
    }

    fn is_zombie(&self) -> bool {
        self.about("stat").is_some_and(|stat| stat.contains(") Z "))
    }

    /// Returns a file of `/proc/PID`, if there is one.
    pub fn about(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.pid())).ok()
    }

    /// Returns the words behind a key in `/proc/PID/status`.
    ///
    /// # Panics
    /// If that cannot be read.
    pub fn status(&self, key: &str) -> Vec<String> {
        let status = self.about("status").expect("the daemon runs");
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}
