//! Processes that nobody is the parent of.

use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::process::until;

/// A daemon by its number; killed on drop.
#[derive(Debug)]
pub struct Daemon(Pid);

impl Daemon {
    /// The daemon whose number is in a file.
    ///
    /// # Panics
    /// Where the file has no such number, or more than that.
    pub fn of(pid_file: &Path) -> Self {
        let text = std::fs::read_to_string(pid_file).expect("a pid file");
        let number = text.strip_suffix('\n').and_then(|line| line.parse().ok());
        let pid = number.and_then(Pid::from_raw);
        Self(pid.unwrap_or_else(|| panic!("a number and a line's end, not {text:?}")))
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.0.as_raw_pid()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// Where it is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.0, signal).expect("a daemon that runs");
    }

    /// Sends it a signal, and waits until it is gone.
    ///
    /// # Panics
    /// Where it goes on.
    pub fn end(self, signal: Signal) {
        self.signal(signal);
        until("the end of the daemon", || (!self.is_running()).then_some(()));
        std::mem::forget(self);
    }

    /// Whether it is there.
    pub fn is_running(&self) -> bool {
        // One that has ended is there until whoever became its parent has looked at it.
        test_kill_process(self.0) != Err(Errno::SRCH) && !self.is_zombie()
    }

    fn is_zombie(&self) -> bool {
        self.about("stat").is_some_and(|stat| stat.contains(") Z "))
    }

    /// What the system tells about it under a name, where it does tell.
    pub fn about(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.pid())).ok()
    }

    /// The words behind a key of its status.
    ///
    /// # Panics
    /// Where the system does not tell.
    pub fn status(&self, key: &str) -> Vec<String> {
        let status = self.about("status").expect("a daemon that runs");
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}
