//! Programs as processes: started, listened to, waited for, and ended when a test is over, whatever
//! came of it.

use std::fmt;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

/// How long anything may take before a test fails: far longer than anything takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks for something until it is so.
///
/// # Panics
/// Where it is not so for [`PATIENCE`].
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether this process may change users and owners; says so loudly where a test must be left out.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: this test needs root and proves nothing without");
    }
    root
}

/// Whether a tool of the system is there; says so loudly where a test must be left out.
pub fn has_tool(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    if !there {
        eprintln!("SKIPPED: this test needs {name} and proves nothing without");
    }
    there
}

/// Makes sure that this process may open `wanted` descriptors; says so loudly where it may not.
pub fn has_descriptors(wanted: u64) -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let most = now.maximum.unwrap_or(u64::MAX);
    if now.current.is_some_and(|current| current < wanted) {
        let current = Some(wanted.min(most));
        let _ = setrlimit(Resource::Nofile, Rlimit { current, maximum: now.maximum });
    }
    let enough = getrlimit(Resource::Nofile).current.is_none_or(|current| current >= wanted);
    if !enough {
        eprintln!("SKIPPED: this test needs {wanted} descriptors and proves nothing without");
    }
    enough
}

/// A fresh directory that everybody may enter, removed with all that is in it on drop.
#[derive(Debug)]
pub struct Dir(PathBuf);

impl Dir {
    /// Makes it.
    ///
    /// # Panics
    /// Where that can't be done.
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

    /// Sets who may do what there.
    ///
    /// # Panics
    /// Where that can't be done.
    pub fn permit(&self, mode: u32) {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&self.0, mode).expect("permissions of our own directory");
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A path in it, as text.
    pub fn text(&self, name: &str) -> String {
        self.join(name).display().to_string()
    }

    /// The address of a socket in it.
    pub fn address(&self, name: &str) -> String {
        format!("UNIX:{}", self.text(name))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What is in it, in order.
    ///
    /// # Panics
    /// Where it can't be read.
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
pub struct Words(Arc<(Mutex<Heard>, Condvar)>);

#[derive(Default)]
struct Heard {
    bytes: Vec<u8>,
    ended: bool,
}

impl Words {
    fn of(stream: Option<impl Read + Send + 'static>) -> Self {
        let words = Self(Arc::default());
        let Some(mut stream) = stream else {
            words.heard(&[], true);
            return words;
        };
        let heard = words.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = stream.read(&mut buffer) {
                heard.heard(&buffer[..len], false);
            }
            heard.heard(&[], true);
        });
        words
    }

    fn heard(&self, bytes: &[u8], ended: bool) {
        let mut heard = self.0.0.lock().expect("nobody panics with it");
        heard.bytes.extend(bytes);
        heard.ended |= ended;
        self.0.1.notify_all();
    }

    /// What was printed so far.
    ///
    /// # Panics
    /// Never.
    pub fn so_far(&self) -> String {
        let heard = self.0.0.lock().expect("nobody panics with it");
        String::from_utf8_lossy(&heard.bytes).into_owned()
    }

    /// Waits until `enough` finds what it looks for in all that was printed.
    ///
    /// # Panics
    /// Where it does not come.
    pub fn find<T>(&self, what: &str, enough: impl FnMut(&str) -> Option<T>) -> T {
        self.find_within(PATIENCE, what, enough)
    }

    /// The same for what takes its time.
    ///
    /// # Panics
    /// Where it does not come.
    pub fn find_within<T>(
        &self,
        patience: Duration,
        what: &str,
        mut enough: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let (heard, changed) = &*self.0;
        let deadline = Instant::now() + patience;
        let mut heard = heard.lock().expect("nobody panics with it");
        loop {
            let text = String::from_utf8_lossy(&heard.bytes);
            if let Some(found) = enough(&text) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if heard.ended || left.is_zero() {
                let text = text.into_owned();
                drop(heard);
                panic!("no {what} in what was printed:\n{text}");
            }
            heard = changed.wait_timeout(heard, left).expect("nobody panics with it").0;
        }
    }

    /// Waits for a text, and hands out all up to the end of the line in which it first is.
    ///
    /// # Panics
    /// Where it does not come.
    pub fn wait_for(&self, wanted: &str) -> String {
        self.find(wanted, |text| {
            let at = text.find(wanted)?;
            let end = at + text[at..].find('\n')?;
            Some(text[..end].to_owned())
        })
    }

    /// Waits until `count` lines contain a text, and hands out the last of them.
    ///
    /// For what is printed more than once: [`wait_for`](Self::wait_for) is satisfied by the first.
    ///
    /// # Panics
    /// Where they do not come.
    pub fn wait_for_nth(&self, wanted: &str, count: usize) -> String {
        self.find(&format!("{count} lines with {wanted}"), |text| {
            lines(text)
                .filter(|line| line.contains(wanted))
                .nth(count.checked_sub(1)?)
                .map(str::to_owned)
        })
    }

    /// Waits for the end, and hands out everything.
    ///
    /// # Panics
    /// Where it does not come.
    pub fn all(&self) -> String {
        let ended = self.end();
        let text = self.so_far();
        assert!(ended, "the program goes on, and printed:\n{text}");
        text
    }

    /// Waits for the end, when nobody is left who could print here; false where it does not come.
    ///
    /// # Panics
    /// Never.
    pub fn end(&self) -> bool {
        let (heard, changed) = &*self.0;
        let heard = heard.lock().expect("nobody panics with it");
        let ended = changed.wait_timeout_while(heard, PATIENCE, |heard| !heard.ended);
        ended.expect("nobody panics with it").0.ended
    }
}

/// The whole lines of a text: without what is behind the last line's end.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.rfind('\n').map_or("", |end| &text[..end]).lines()
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.so_far())
    }
}

/// A program that runs; killed on drop.
#[derive(Debug)]
pub struct Program {
    child: Child,
    /// What it prints on stdout, where that is not somebody else's.
    pub out: Words,
    /// What it prints on stderr.
    pub err: Words,
}

/// How a program ended, and what it printed.
#[derive(Debug, Eq, PartialEq)]
pub struct Ended {
    /// Its exit code, or the negative number of the signal that ended it.
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
    /// Where it can't be started.
    pub fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        Self::adopt(command)
    }

    /// Starts a program whose stdin and stdout the caller has seen to.
    ///
    /// # Panics
    /// Where it can't be started.
    pub fn adopt(mut command: Command) -> Self {
        let child = command.stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let (out, err) = (Words::of(child.stdout.take()), Words::of(child.stderr.take()));
        Self { child, out, err }
    }

    /// Runs a program to its end.
    ///
    /// # Panics
    /// Where it can't be started, or does not end.
    pub fn run(program: &str, arguments: &[&str]) -> Ended {
        Self::start(program, arguments).ended()
    }

    /// Waits until it says where it listens.
    ///
    /// # Panics
    /// Where it never says so.
    pub fn address(&self) -> String {
        let heard = || format!("line about where it listens; stderr: {}", self.err.so_far());
        self.out.find(&heard(), |text| {
            let (_, behind) = text.split_once(": listening on ")?;
            Some(behind.split_once('\n')?.0.to_owned())
        })
    }

    /// Waits until it says where it listens, in several places.
    ///
    /// # Panics
    /// Where it never says so.
    pub fn addresses(&self, count: usize) -> Vec<String> {
        let heard = || format!("{count} lines; stderr: {}", self.err.so_far());
        self.out.find(&heard(), |text| {
            let whole = &text[..text.rfind('\n')?];
            let lines = whole.lines().filter_map(|line| line.split_once(": listening on "));
            let addresses: Vec<String> = lines.map(|(_, address)| address.to_owned()).collect();
            (addresses.len() >= count).then_some(addresses)
        })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// Where it has ended and was waited for.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our own child");
    }

    /// Kills what is left of the process group that it was started as the leader of, if anything is.
    pub fn kill_group(&self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
    }

    /// Stops it as if it did not get any time from the system; waits until it stands still.
    ///
    /// # Panics
    /// Where it can't be stopped.
    pub fn freeze(&self) {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        self.signal(Signal::STOP);
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(Pid::from_child(&self.child)), options);
        assert!(status.is_ok_and(|status| status.is_some()), "it stands still");
    }

    /// Whether it has not ended.
    ///
    /// # Panics
    /// Never.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// Where it goes on.
    pub fn ended(mut self) -> Ended {
        let (out, err) = (self.out.all(), self.err.all());
        // Its streams are closed: what is left of its end does not take long.
        let status = self.child.wait().expect("our own child");
        let code = status.code().or_else(|| status.signal().map(|signal| -signal));
        Ended { code: code.unwrap_or(i32::MIN), out, err }
    }

    /// Asks it to end with a signal, and waits for that.
    ///
    /// # Panics
    /// Where it goes on.
    pub fn end(self, signal: Signal) -> Ended {
        self.signal(signal);
        self.ended()
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
