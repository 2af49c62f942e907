//! Programs as processes: started, observed, and always ended with their test.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

/// The limit for anything that a test waits for, far above what it takes.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Calls `poll` until it returns something.
///
/// # Panics
/// If it does not within [`TIMEOUT`].
pub fn until<T>(what: &str, found: impl FnMut() -> Option<T>) -> T {
    poll(found).unwrap_or_else(|| panic!("never happened: {what}"))
}

/// Calls `found` until it returns something; `None` if it does not within [`TIMEOUT`].
pub fn poll<T>(mut found: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let value = found();
        if value.is_some() || Instant::now() >= deadline {
            return value;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reports the test on this thread as skipped. `tests/run` lists these reports at its end.
pub fn skip(needs: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or_default();
    // Not `eprintln!`: libtest shows that only if the test fails.
    let _ = std::io::stderr().write_all(format!("SKIPPED in {test}: needs {needs}\n").as_bytes());
}

/// Returns whether this process may change users and owners. If not, reports the test as skipped.
pub fn is_root() -> bool {
    let root = runs_as_root();
    if !root {
        skip("root");
    }
    root
}

/// Returns whether this process may change users and owners.
pub fn runs_as_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns whether a tool is in `PATH`. If not, reports the test as skipped.
pub fn has_tool(name: &str) -> bool {
    let found = is_in_path(name);
    if !found {
        skip(name);
    }
    found
}

/// Returns whether a tool is in `PATH`.
pub fn is_in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// Returns whether this process may open `wanted` descriptors, after raising its limit. If not,
/// reports the test as skipped.
pub fn has_descriptors(wanted: u64) -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let most = now.maximum.unwrap_or(u64::MAX);
    if now.current.is_some_and(|current| current < wanted) {
        let current = Some(wanted.min(most));
        let _ = setrlimit(Resource::Nofile, Rlimit { current, maximum: now.maximum });
    }
    let found = getrlimit(Resource::Nofile).current.is_none_or(|current| current >= wanted);
    if !found {
        skip(&format!("{wanted} descriptors"));
    }
    found
}

/// A new directory that all users may enter, removed with its contents on drop.
#[derive(Debug)]
pub struct Dir(PathBuf);

impl Dir {
    /// Creates it.
    ///
    /// # Panics
    /// If that fails.
    #[allow(clippy::new_without_default, reason = "it makes something in the file system")]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dct-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("a directory for the test");
        let dir = Self(path);
        dir.permit(0o755);
        dir
    }

    /// Sets its permissions.
    ///
    /// # Panics
    /// If that fails.
    pub fn permit(&self, mode: u32) {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&self.0, mode).expect("permissions of our own directory");
    }

    /// Returns a path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Returns a path in it, as text.
    pub fn text(&self, name: &str) -> String {
        self.join(name).display().to_string()
    }

    /// Returns the address of a socket in it.
    pub fn address(&self, name: &str) -> String {
        format!("UNIX:{}", self.text(name))
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the names in it, sorted.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).expect("our own directory");
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.expect("an entry").file_name().to_string_lossy().into_owned()
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a process prints, as it comes.
#[derive(Clone)]
pub struct Output(Arc<(Mutex<Printed>, Condvar)>);

#[derive(Default)]
struct Printed {
    bytes: Vec<u8>,
    ended: bool,
}

impl Output {
    fn of(stream: Option<impl Read + Send + 'static>) -> Self {
        let output = Self(Arc::default());
        let Some(mut stream) = stream else {
            output.append(&[], true);
            return output;
        };
        let printed = output.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = stream.read(&mut buffer) {
                printed.append(&buffer[..len], false);
            }
            printed.append(&[], true);
        });
        output
    }

    fn append(&self, bytes: &[u8], ended: bool) {
        let mut printed = self.0.0.lock().expect("no thread panics with the lock");
        printed.bytes.extend(bytes);
        printed.ended |= ended;
        self.0.1.notify_all();
    }

    /// Returns what was printed so far.
    ///
    /// # Panics
    /// Never.
    pub fn so_far(&self) -> String {
        let printed = self.0.0.lock().expect("no thread panics with the lock");
        String::from_utf8_lossy(&printed.bytes).into_owned()
    }

    /// Waits until `found` finds something in all that was printed.
    ///
    /// # Panics
    /// If it does not.
    pub fn find<T>(&self, what: &str, found: impl FnMut(&str) -> Option<T>) -> T {
        self.find_within(TIMEOUT, what, found)
    }

    /// As [`find`](Self::find), with another timeout.
    ///
    /// # Panics
    /// If nothing is found.
    pub fn find_within<T>(
        &self,
        timeout: Duration,
        what: &str,
        mut found: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let (printed, changed) = &*self.0;
        let deadline = Instant::now() + timeout;
        let mut printed = printed.lock().expect("no thread panics with the lock");
        loop {
            let text = String::from_utf8_lossy(&printed.bytes);
            if let Some(value) = found(&text) {
                return value;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if printed.ended || left.is_zero() {
                let text = text.into_owned();
                drop(printed);
                panic!("no {what} in what was printed:\n{text}");
            }
            printed =
                changed.wait_timeout(printed, left).expect("no thread panics with the lock").0;
        }
    }

    /// Waits for a text, and returns everything up to the end of its line.
    ///
    /// # Panics
    /// If it does not come.
    pub fn wait_for(&self, wanted: &str) -> String {
        self.find(wanted, |text| {
            let at = text.find(wanted)?;
            let end = at + text[at..].find('\n')?;
            Some(text[..end].to_owned())
        })
    }

    /// Waits until `count` lines contain a text, and returns the last of them.
    ///
    /// Use this for what is printed more than once: [`wait_for`](Self::wait_for) returns at the
    /// first.
    ///
    /// # Panics
    /// If they do not come.
    pub fn wait_for_nth(&self, wanted: &str, count: usize) -> String {
        self.find(&format!("{count} lines with {wanted}"), |text| {
            lines(text)
                .filter(|line| line.contains(wanted))
                .nth(count.checked_sub(1)?)
                .map(str::to_owned)
        })
    }

    /// Waits for the end of the output, and returns all of it.
    ///
    /// # Panics
    /// If it does not end.
    pub fn all(&self) -> String {
        let ended = self.end();
        let text = self.so_far();
        assert!(ended, "the program has not ended, and printed:\n{text}");
        text
    }

    /// Waits until no process can print here any more. Returns whether that happened.
    ///
    /// # Panics
    /// Never.
    pub fn end(&self) -> bool {
        let (printed, changed) = &*self.0;
        let printed = printed.lock().expect("no thread panics with the lock");
        let ended = changed.wait_timeout_while(printed, TIMEOUT, |printed| !printed.ended);
        ended.expect("no thread panics with the lock").0.ended
    }
}

/// Returns the whole lines of a text, without an unfinished last one.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.rfind('\n').map_or("", |end| &text[..end]).lines()
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.so_far())
    }
}

/// A running program; killed on drop.
#[derive(Debug)]
pub struct Program {
    child: Child,
    /// What it prints on stdout, if that is a pipe of this process.
    pub out: Output,
    /// What it prints on stderr.
    pub err: Output,
}

/// How a program ended, and what it printed.
#[derive(Debug, Eq, PartialEq)]
pub struct Ended {
    /// Its exit code, or the negated number of the signal that ended it.
    pub code: i32,
    /// All of stdout.
    pub out: String,
    /// All of stderr.
    pub err: String,
}

impl Program {
    /// Starts a program with arguments.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        Self::spawn(command)
    }

    /// Starts a program whose stdin and stdout are set in `command`.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn spawn(mut command: Command) -> Self {
        let child = command.stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let (out, err) = (Output::of(child.stdout.take()), Output::of(child.stderr.take()));
        Self { child, out, err }
    }

    /// Runs a program to its end.
    ///
    /// # Panics
    /// If it can't be started, or does not end.
    pub fn run(program: &str, arguments: &[&str]) -> Ended {
        Self::start(program, arguments).ended()
    }

    /// Waits until it prints the address on which it listens, and returns it.
    ///
    /// # Panics
    /// If it does not.
    pub fn address(&self) -> String {
        let missing = || format!("line about where it listens; stderr: {}", self.err.so_far());
        self.out.find(&missing(), |text| {
            let (_, behind) = text.split_once(": listening on ")?;
            Some(behind.split_once('\n')?.0.to_owned())
        })
    }

    /// Waits until it prints `count` addresses on which it listens, and returns them.
    ///
    /// # Panics
    /// If it does not.
    pub fn addresses(&self, count: usize) -> Vec<String> {
        let missing = || format!("{count} lines; stderr: {}", self.err.so_far());
        self.out.find(&missing(), |text| {
            let whole = &text[..text.rfind('\n')?];
            let lines = whole.lines().filter_map(|line| line.split_once(": listening on "));
            let addresses: Vec<String> = lines.map(|(_, address)| address.to_owned()).collect();
            (addresses.len() >= count).then_some(addresses)
        })
    }

    /// Returns its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the pids of its children; none if it has ended.
    pub fn children(&self) -> Vec<u32> {
        let pid = self.pid();
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let text = text.unwrap_or_default();
        text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
    }

    /// Returns its resident memory, in bytes.
    ///
    /// # Panics
    /// If it has ended.
    pub fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the program runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        let kilobytes: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kilobytes * 1024
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it has been waited for.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our own child");
    }

    /// Kills what is left of its process group, if it was started as the leader of one.
    pub fn kill_group(&self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
    }

    /// Stops it with SIGSTOP, and waits until it is stopped.
    ///
    /// # Panics
    /// If it can't be stopped.
    pub fn freeze(&self) {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        self.signal(Signal::STOP);
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(Pid::from_child(&self.child)), options);
        assert!(status.is_ok_and(|status| status.is_some()), "it is stopped");
    }

    /// Returns whether it has not ended.
    ///
    /// # Panics
    /// Never.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn ended(mut self) -> Ended {
        let (out, err) = (self.out.all(), self.err.all());
        // Its streams are closed, so it ends soon.
        let status = self.child.wait().expect("our own child");
        let code = status.code().or_else(|| status.signal().map(|signal| -signal));
        Ended { code: code.unwrap_or(i32::MIN), out, err }
    }

    /// Sends it a signal, and waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn end(self, signal: Signal) -> Ended {
        self.signal(signal);
        self.ended()
    }
}

impl Program {
    /// Sends it a signal that kills it, waits for its end, and returns whether it dumped core.
    ///
    /// # Panics
    /// If it does not end by the signal.
    pub fn end_and_dump(mut self, signal: Signal) -> bool {
        self.signal(signal);
        assert!(self.out.end() && self.err.end(), "it ends");
        let status = self.child.wait().expect("our own child");
        assert_eq!(status.signal(), Some(signal.as_raw()));
        status.core_dumped()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("process {} printed: {}{}", self.pid(), self.out.so_far(), self.err.so_far());
        }
    }
}

#[cfg(test)]
mod tests;
