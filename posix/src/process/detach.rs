//! Becoming a daemon.
//!
//! The process that was started waits until the daemon calls [`Detached::ready`] or
//! [`Detached::fail`]. So the shell prompt returns when the service is up, and the exit status says
//! whether it is.

use std::fmt;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};

use crate::sys;

/// A daemon that has left the terminal and is not ready yet.
///
/// Its standard streams stay open until it is ready, so the start can print warnings. Dropping it makes
/// the waiting process report a failure.
#[derive(Debug)]
pub struct Detached {
    /// To the waiting process.
    report: PipeWriter,
    null: File,
}

/// What the pipe to the waiting process carries for "ready". Anything else is the reason of a failure.
const READY: &[u8] = b"\0";

/// Continues as a daemon: in a new process, in its own session without a terminal, in `/`.
///
/// Returns only in the daemon. The calling process waits. It exits with 0 once the daemon is
/// [`ready`](Detached::ready), or with 1 and the reason on stderr if the daemon fails or ends before.
///
/// # Errors
/// [`DetachError`], also if the process has more than one thread: fork copies only the calling one.
pub fn detach() -> Result<Detached, DetachError> {
    if threads() > 1 {
        return Err(DetachError { doing: "fork a process with several threads", error: None });
    }
    let cannot = |doing| move |error| DetachError { doing, error: Some(error) };
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(cannot("open /dev/null"))?;
    let (receiver, report) = io::pipe().map_err(cannot("make a pipe"))?;
    // Each of the processes would print what is buffered.
    let _ = io::stdout().flush();
    if !sys::fork().map_err(cannot("fork"))? {
        drop(report);
        sys::exit_now(wait_for_report(receiver));
    }
    drop(receiver);
    let detached = Detached { report, null };
    // This is the child: errors go to the waiting process.
    if let Err(error) = rustix::process::setsid() {
        detached.fail(&format!("cannot start a session: {error}"));
    }
    // A session leader acquires a terminal by opening one; its child cannot.
    match sys::fork() {
        Ok(true) => {}
        Ok(false) => sys::exit_now(0),
        Err(error) => detached.fail(&format!("cannot fork: {error}")),
    }
    if let Err(error) = rustix::process::chdir("/") {
        detached.fail(&format!("cannot change to the directory /: {error}"));
    }
    Ok(detached)
}

impl Detached {
    /// Reports that the service is up, and redirects the standard streams to /dev/null.
    pub fn ready(mut self) {
        let _ = io::stdout().flush();
        // Cannot fail: dup2 onto an open descriptor needs no resources.
        let _ = rustix::stdio::dup2_stdin(&self.null);
        let _ = rustix::stdio::dup2_stdout(&self.null);
        let _ = rustix::stdio::dup2_stderr(&self.null);
        // The waiting process may have been killed; the service is up all the same.
        let _ = self.report.write_all(READY);
    }

    /// Reports the reason of a failure, one line, and exits with 1.
    pub fn fail(mut self, reason: &str) -> ! {
        let _ = self.report.write_all(reason.as_bytes());
        std::process::exit(1);
    }
}

/// Waits for the daemon's report, prints the reason of a failure, and returns the exit status.
fn wait_for_report(mut receiver: PipeReader) -> i32 {
    let mut report = Vec::new();
    let received = receiver.read_to_end(&mut report);
    if received.is_ok() && report == READY {
        return 0;
    }
    let reason = match report.is_empty() {
        true => "the daemon ended before it was ready".into(),
        false => String::from_utf8_lossy(&report),
    };
    let _ = writeln!(io::stderr(), "{reason}");
    1
}

/// The number of threads of the process where /proc has it, else 1.
pub(super) fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// Detaching failed.
#[derive(Debug)]
pub struct DetachError {
    doing: &'static str,
    error: Option<io::Error>,
}

impl fmt::Display for DetachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot become a daemon: cannot {}", self.doing)?;
        self.error.as_ref().map_or(Ok(()), |error| write!(f, ": {error}"))
    }
}

impl std::error::Error for DetachError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.as_ref().map(|error| error as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Dir, alone, is_child, spawn, text, word};
    use std::io::BufRead;
    use std::os::unix::net::{UnixListener, UnixStream};

    /// Facts about the process, one a line: pid, session, directory, standard output.
    #[cfg(target_os = "linux")]
    fn describe() -> String {
        let (pid, session) = (std::process::id(), session());
        let dir = std::env::current_dir().unwrap();
        let prints = std::fs::read_link("/proc/self/fd/1").unwrap_or("/dev/null".into());
        format!("{pid}\n{session}\n{}\n{}\n", dir.display(), prints.display())
    }

    /// The session of this process. It is 0, which rustix's getsid does not expect, if the leader is
    /// outside of this process namespace.
    #[cfg(target_os = "linux")]
    fn session() -> String {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (_, behind) = stat.rsplit_once(") ").unwrap();
        behind.split(' ').nth(3).unwrap().to_owned()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_waiting_process_succeeds_once_the_daemon_is_ready() {
        if is_child() {
            alone(|| {
                let path = std::path::PathBuf::from(word()).join("s");
                let detached = detach().unwrap();
                println!("a warning on the way");
                detached.ready();
                println!("nobody sees this");
                let mut line = UnixStream::connect(path).unwrap();
                line.write_all(describe().as_bytes()).unwrap();
            });
        }
        let dir = Dir::new();
        let listener = UnixListener::bind(dir.join("s")).unwrap();
        let name = "process::detach::tests::the_waiting_process_succeeds_once_the_daemon_is_ready";
        let output = spawn(name, dir.path().to_str().unwrap());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let printed = text(&output.stdout);
        assert!(printed.contains("a warning") && !printed.contains("nobody"), "{printed}");
        let (line, _) = listener.accept().unwrap();
        let facts: Vec<_> = io::BufReader::new(line).lines().map(Result::unwrap).collect();
        assert_ne!(facts[0], facts[1], "not the leader of its session");
        assert_ne!(facts[1], session());
        assert_eq!(facts[2..], ["/", "/dev/null"]);
    }

    #[test]
    fn the_waiting_process_prints_the_reason_of_a_failure() {
        if is_child() {
            alone(|| detach().unwrap().fail("cannot do it: no luck"));
        }
        let output =
            spawn("process::detach::tests::the_waiting_process_prints_the_reason_of_a_failure", "");
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("cannot do it: no luck\n"));
    }

    #[test]
    fn the_waiting_process_reports_a_daemon_that_ends_without_a_report() {
        if is_child() {
            alone(|| drop(detach().unwrap()));
        }
        let output = spawn(
            "process::detach::tests::the_waiting_process_reports_a_daemon_that_ends_without_a_report",
            "",
        );
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("ended before it was ready"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_with_several_threads_does_not_fork() {
        let name = "process::detach::tests::a_process_with_several_threads_does_not_fork";
        crate::testing::in_child(name, || {
            let (end, ended) = std::sync::mpsc::channel::<()>();
            let thread = std::thread::spawn(move || ended.recv());
            assert!(detach().unwrap_err().to_string().contains("several threads"));
            drop(end);
            let _ = thread.join();
        });
    }
}
