//! Becoming a daemon: leave the terminal, leave a pid file, leave root.
//!
//! In the order of a start: bind and listen, [`detach`], [`PidFile::create`], [`change_user`],
//! [`Detached::ready`], loop. Whoever started the program gets its prompt back at `ready`, and an
//! exit code that says whether the service is up.

use std::fmt;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};

use crate::sys;

/// A daemon that has left the terminal, while the process that was started still waits for its word.
///
/// Its standard streams are kept until then, so what goes wrong on the way can be printed. Dropping
/// it without a word lets the waiting process report a failure.
#[derive(Debug)]
pub struct Detached {
    starter: PipeWriter,
    null: File,
}

/// The word for "ready" in the pipe to the waiting process; whatever else comes is a reason.
const READY: &[u8] = b"\0";

/// Goes on as a daemon: a new process in a session of its own without a terminal, in `/`.
///
/// Returns in the daemon only. The process that called it waits, and exits with 0 once the daemon is
/// [`ready`](Detached::ready), or with 1 and the reason on stderr if it failed or ended before that.
/// It needs the process to have one thread: fork leaves the others behind with all that they hold.
pub fn detach() -> Result<Detached, DetachError> {
    if threads() > 1 {
        return Err(DetachError { doing: "fork a process with several threads", error: None });
    }
    let cannot = |doing| move |error| DetachError { doing, error: Some(error) };
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(cannot("open /dev/null"))?;
    let (word, starter) = io::pipe().map_err(cannot("make a pipe"))?;
    // What is buffered would be printed by each of the processes.
    let _ = io::stdout().flush();
    if !sys::fork().map_err(cannot("fork"))? {
        drop(starter);
        sys::exit_now(wait_for_word(word));
    }
    drop(word);
    let detached = Detached { starter, null };
    // From here on this is the child: errors go to the process that waits.
    if let Err(error) = rustix::process::setsid() {
        detached.fail(&format!("cannot start a session: {error}"));
    }
    // The leader of a session could acquire a terminal by opening one; its child cannot.
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
    /// Reports that the service is up, and turns the standard streams to /dev/null.
    pub fn ready(mut self) {
        let _ = io::stdout().flush();
        // Replacing an open descriptor by another needs nothing that could be lacking.
        let _ = rustix::stdio::dup2_stdin(&self.null);
        let _ = rustix::stdio::dup2_stdout(&self.null);
        let _ = rustix::stdio::dup2_stderr(&self.null);
        // Who does not wait any more was killed, and that is no reason not to serve.
        let _ = self.starter.write_all(READY);
    }

    /// Reports that the service is not up, and why, in a line; ends this process with 1.
    pub fn fail(mut self, reason: &str) -> ! {
        let _ = self.starter.write_all(reason.as_bytes());
        std::process::exit(1);
    }
}

/// Waits for what the daemon says, passes it on, and gives the exit code.
fn wait_for_word(mut word: PipeReader) -> i32 {
    let mut said = Vec::new();
    let heard = word.read_to_end(&mut said);
    if heard.is_ok() && said == READY {
        return 0;
    }
    let reason = match said.is_empty() {
        true => "the daemon ended before it was ready".into(),
        false => String::from_utf8_lossy(&said),
    };
    let _ = writeln!(io::stderr(), "{reason}");
    1
}

/// How many threads the process has, where that can be told cheaply; else 1.
pub(super) fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// The process could not be detached.
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

    /// A fact about the process, on each line: pid, session, directory, where it prints.
    #[cfg(target_os = "linux")]
    fn describe() -> String {
        let (pid, session) = (std::process::id(), session());
        let dir = std::env::current_dir().unwrap();
        let prints = std::fs::read_link("/proc/self/fd/1").unwrap_or("/dev/null".into());
        format!("{pid}\n{session}\n{}\n{}\n", dir.display(), prints.display())
    }

    /// The session that this process is in. Its number is 0, which getsid of rustix does not expect,
    /// where its leader is outside of the process namespace that this is in.
    #[cfg(target_os = "linux")]
    fn session() -> String {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (_, behind) = stat.rsplit_once(") ").unwrap();
        behind.split(' ').nth(3).unwrap().to_owned()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_starter_sees_success_once_the_daemon_is_ready() {
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
        let name = "process::detach::tests::the_starter_sees_success_once_the_daemon_is_ready";
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
    fn the_starter_sees_failure_with_its_reason() {
        if is_child() {
            alone(|| detach().unwrap().fail("cannot do it: no luck"));
        }
        let output = spawn("process::detach::tests::the_starter_sees_failure_with_its_reason", "");
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("cannot do it: no luck\n"));
    }

    #[test]
    fn the_starter_sees_a_daemon_that_ends_without_a_word() {
        if is_child() {
            alone(|| drop(detach().unwrap()));
        }
        let output =
            spawn("process::detach::tests::the_starter_sees_a_daemon_that_ends_without_a_word", "");
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("ended before it was ready"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_with_threads_is_not_forked() {
        let name = "process::detach::tests::a_process_with_threads_is_not_forked";
        crate::testing::in_child(name, || {
            let (end, ended) = std::sync::mpsc::channel::<()>();
            let thread = std::thread::spawn(move || ended.recv());
            assert!(detach().unwrap_err().to_string().contains("several threads"));
            drop(end);
            let _ = thread.join();
        });
    }
}
