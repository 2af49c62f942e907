//! Servers and loads as processes, each on its core.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::BenchError;

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where programs are, and on which core each runs.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    /// The directory of our programs.
    pub(super) programs: PathBuf,
    /// A new directory for sockets and files.
    pub(super) scratch: PathBuf,
    /// The core of servers.
    pub(super) server_core: usize,
    /// The core of the load.
    pub(super) load_core: usize,
}

impl Setup {
    /// Returns the path of one of our programs.
    pub(super) fn program(&self, name: &str) -> String {
        self.programs.join(name).display().to_string()
    }

    /// Returns the address of a socket in the scratch directory.
    pub(super) fn address(&self, name: &str) -> String {
        format!("UNIX:{}", self.scratch.join(name).display())
    }

    /// Returns a command on the core of servers.
    pub(super) fn on_server_core(&self, program: &str) -> Command {
        pinned(self.server_core, program)
    }

    /// Starts one of our servers, and waits until it listens.
    pub(super) fn start(&self, program: &str, arguments: &[&str]) -> Result<Server, BenchError> {
        let mut command = self.on_server_core(&self.program(program));
        command.args(arguments);
        Server::start(command)
    }

    /// Starts another project's server on a free port, which `arguments` gets, and waits until it
    /// listens.
    pub(super) fn start_foreign(
        &self,
        program: &str,
        arguments: impl Fn(u16) -> Vec<String>,
    ) -> Result<Server, BenchError> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0");
        let port =
            listener.and_then(|listener| listener.local_addr()).map_err(BenchError::of)?.port();
        let mut command = self.on_server_core(program);
        command.args(arguments(port)).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.current_dir(&self.scratch).spawn().map_err(BenchError::of)?;
        let server = Server { child, address: format!("IP:127.0.0.1:{port}") };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if begun.elapsed() > PATIENCE {
                return Err(BenchError(format!("{program} does not answer on port {port}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// Runs a load on a server.
    pub(super) fn load(&self, address: &str, arguments: &[String]) -> Result<Figures, BenchError> {
        let mut command = pinned(self.load_core, &self.program("distcache-load"));
        command.args(["-connect", address]).args(arguments);
        let output = command.output().map_err(BenchError::of)?;
        let words = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            return Err(BenchError(format!("{address} {}: {}", arguments.join(" "), error.trim())));
        }
        Figures::read(&words).ok_or_else(|| BenchError(format!("unexpected output: {words}")))
    }
}

fn pinned(core: usize, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string(), program]);
    command
}

/// A running server; killed on drop.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    /// Where it listens.
    pub(super) address: String,
}

impl Server {
    /// Starts a program that prints its address.
    pub(super) fn start(mut command: Command) -> Result<Self, BenchError> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(BenchError::of)?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line).map_err(BenchError::of)?;
        }
        let address = line.split_once(": listening on ").map(|(_, address)| address.trim());
        match address {
            Some(address) => Ok(Self { address: address.to_owned(), child }),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                Err(BenchError(format!("{command:?} does not say where it listens: {line}")))
            }
        }
    }

    /// Returns its resident memory in bytes.
    pub(super) fn resident(&self) -> Option<u64> {
        resident(&Path::new("/proc").join(self.child.id().to_string()))
    }

    /// Ends it, and waits for that.
    pub(super) fn end(mut self) {
        self.kill("TERM");
        let _ = self.child.wait();
    }

    /// Sends it a signal, or the program that it runs.
    fn kill(&self, signal: &str) {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let own = pid.to_string();
        let whom = children.split_whitespace().next().unwrap_or(&own);
        let _ = Command::new("kill").args(["-s", signal, whom]).status();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.kill("KILL");
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn resident(process: &Path) -> Option<u64> {
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// The results of one load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Figures {
    /// Requests answered per second.
    pub(super) rate: f64,
    /// The share of GETs that found their session.
    pub(super) hit: f64,
    /// The median latency, in us.
    pub(super) p50: f64,
    /// The 99th percentile, in us.
    pub(super) p99: f64,
    /// The 99.9th percentile, in us.
    pub(super) p999: f64,
    /// Requests answered.
    pub(super) ops: f64,
}

impl Figures {
    fn read(line: &str) -> Option<Self> {
        let value = |name: &str| {
            let mut pairs = line.split_whitespace().filter_map(|pair| pair.split_once('='));
            pairs.find(|(found, _)| *found == name)?.1.parse().ok()
        };
        Some(Self {
            rate: value("ops/s")?,
            hit: value("hit")?,
            p50: value("p50")?,
            p99: value("p99")?,
            p999: value("p99.9")?,
            ops: value("ops")?,
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rate, hit, p50, p99, .. } = self;
        write!(f, "{rate:>9.0} ops/s, hit {hit:.4}, p50 {p50:.1} us, p99 {p99:.1} us")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_load_is_read() {
        let line = "ops/s=5 hit=0.5000 p50=1.0 p90=2.0 p99=3.0 p99.9=4.0 max=9.0 ops=7 gets=6";
        let figures = Figures { rate: 5.0, hit: 0.5, p50: 1.0, p99: 3.0, p999: 4.0, ops: 7.0 };
        assert_eq!(Figures::read(line), Some(figures));
        assert_eq!(Figures::read("ops/s=5"), None);
    }
}
