//! Measurements of `dc_server` alone.

use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use super::compare::{median, which};
use super::process::{Server, Setup};
use super::{BenchError, Scale};

/// How many bytes of memory must be free for the largest table.
const LARGEST_BYTES: u64 = 6 << 30;
const LARGEST: u32 = 16_000_000;

/// The results; `None` for what could not be measured here.
#[derive(Clone, Debug, Default)]
pub(super) struct Alone {
    /// System calls per request, with one request at a time, by name.
    pub(super) calls: Option<Vec<(String, f64)>>,
    /// Seconds from its start with room for 16 M sessions until it listens.
    pub(super) start: f64,
    /// How many idle connections, and how many more bytes they and the room for them take.
    pub(super) idle: Option<(u32, u64)>,
    /// The rate with many idle connections, relative to ten.
    pub(super) crowd: f64,
    /// The rate with 16 M sessions, relative to 10 k.
    pub(super) growth: Option<f64>,
}

impl Alone {
    /// Measures everything.
    pub(super) fn measure(setup: &Setup, scale: &Scale) -> Result<Self, BenchError> {
        Ok(Self {
            calls: calls(setup)?,
            start: start(setup, scale)?,
            idle: idle(setup, scale)?,
            crowd: crowd(setup, scale)?,
            growth: growth(setup, scale)?,
        })
    }
}

fn arguments(clients: u32, depth: u32, keys: u32, seconds: f64, store: bool) -> Vec<String> {
    let line = format!("-conns {clients} -depth {depth} -keys {keys} -seconds {seconds}");
    let store = (!store).then_some("-nostore");
    line.split(' ').chain(store).map(str::to_owned).collect()
}

fn calls(setup: &Setup) -> Result<Option<Vec<(String, f64)>>, BenchError> {
    if !which("strace") {
        return Ok(None);
    }
    let stored = 100;
    let counts = setup.scratch.join("calls");
    let mut command = setup.on_server_core("strace");
    command.args(["-c", "-f", "-o"]).arg(&counts);
    command.args([&setup.program("dc_server"), "-listen", &setup.address("traced")]);
    // It ends at once if tracing other processes is not permitted.
    let Ok(server) = Server::start(command) else { return Ok(None) };
    let figures = setup.load(&server.address, &arguments(1, 1, stored, 1.0, true))?;
    server.end();
    let counts = std::fs::read_to_string(counts).map_err(BenchError::of)?;
    let asked = figures.ops + f64::from(stored);
    let mut each: Vec<_> = counts.lines().filter_map(|line| call(line, asked)).collect();
    each.retain(|(_, rate)| *rate >= 0.005);
    Ok(Some(each))
}

/// Reads `% time, seconds, usecs/call, calls, errors, name`. The errors may be absent.
fn call(line: &str, ops: f64) -> Option<(String, f64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, _, _, calls, .., name] = words[..] else { return None };
    let calls: f64 = calls.parse().ok()?;
    (name != "total").then(|| (name.to_owned(), calls / ops))
}

fn start(setup: &Setup, scale: &Scale) -> Result<f64, BenchError> {
    let mut times = Vec::new();
    for _ in 0..scale.rounds {
        let begun = Instant::now();
        let sessions = LARGEST.to_string();
        let arguments = ["-listen", &setup.address("start"), "-sessions", &sessions];
        let _server = setup.start("dc_server", &arguments)?;
        times.push(begun.elapsed().as_secs_f64());
    }
    Ok(median(times))
}

fn connect(server: &Server, count: u32) -> Result<Vec<UnixStream>, BenchError> {
    let path = server.address.trim_start_matches("UNIX:");
    let connect = |_| UnixStream::connect(path).map_err(BenchError::of);
    let idle = (0..count).map(connect).collect();
    // The last of them are still in the backlog.
    std::thread::sleep(Duration::from_millis(300));
    idle
}

fn idle(setup: &Setup, scale: &Scale) -> Result<Option<(u32, u64)>, BenchError> {
    let settled = |clients: u32, idle: u32| -> Result<Option<u64>, BenchError> {
        let clients = clients.to_string();
        let arguments = ["-listen", &setup.address("idle"), "-maxconn", &clients];
        let server = setup.start("dc_server", &arguments)?;
        let _idle = connect(&server, idle)?;
        Ok(server.resident())
    };
    let (without, with) = (settled(16, 0)?, settled(scale.idle + 16, scale.idle)?);
    let more = with.zip(without).map(|(with, without)| with.saturating_sub(without));
    Ok(more.map(|more| (scale.idle, more)))
}

fn crowd(setup: &Setup, scale: &Scale) -> Result<f64, BenchError> {
    let clients = (scale.idle + 100).to_string();
    let listen = ["-listen", &setup.address("crowd"), "-maxconn", &clients];
    let server = setup.start("dc_server", &listen)?;
    setup.load(&server.address, &arguments(50, 1, 10_000, 0.1, true))?;
    let busy = || setup.load(&server.address, &arguments(50, 1, 10_000, scale.seconds, false));
    let mut ratios = Vec::new();
    for _ in 0..scale.rounds {
        let few = connect(&server, 10)?;
        let among_few = busy()?;
        let many = connect(&server, scale.idle - 10)?;
        let among_many = busy()?;
        eprintln!("50 x 1 among 10 idle {among_few}");
        eprintln!("50 x 1 among {} idle {among_many}", scale.idle);
        ratios.push(among_many.rate / among_few.rate);
        drop((few, many));
        // The last of them are still being closed.
        std::thread::sleep(Duration::from_millis(300));
    }
    Ok(median(ratios))
}

fn growth(setup: &Setup, scale: &Scale) -> Result<Option<f64>, BenchError> {
    if !scale.largest || available().is_none_or(|bytes| bytes < LARGEST_BYTES) {
        return Ok(None);
    }
    let sessions = LARGEST.to_string();
    let listen = ["-listen", "IP:127.0.0.1:0"];
    let small = setup.start("dc_server", &listen)?;
    let large = setup.start("dc_server", &[&listen[..], &["-sessions", &sessions]].concat())?;
    let both = [(&small, 10_000), (&large, LARGEST)];
    for (server, keys) in both {
        setup.load(&server.address, &arguments(50, 16, keys, 0.1, true))?;
    }
    let mut ratios = Vec::new();
    for _ in 0..scale.rounds {
        let mut rates = [0.0; 2];
        for (rate, (server, keys)) in rates.iter_mut().zip(both) {
            let figures =
                setup.load(&server.address, &arguments(50, 16, keys, scale.seconds, false))?;
            eprintln!("50 x 16 at {keys} sessions {figures}");
            *rate = figures.rate;
        }
        ratios.push(rates[1] / rates[0]);
    }
    Ok(Some(median(ratios)))
}

fn available() -> Option<u64> {
    let all = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = all.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Returns the first line that a command prints about its version; empty if it can't be run.
pub(super) fn version(program: &str, option: &str) -> String {
    let output = Command::new(program).arg(option).output().map(|output| output.stdout);
    let words = String::from_utf8_lossy(&output.unwrap_or_default()).into_owned();
    let number =
        |word: &&str| word.trim_start_matches("v=").starts_with(|c: char| c.is_ascii_digit());
    let found = words.split_whitespace().find(number).unwrap_or_default();
    found.trim_start_matches("v=").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_strace_is_read() {
        let line = " 51.08    0.000071           7        10         2 epoll_wait";
        assert_eq!(call(line, 5.0), Some(("epoll_wait".to_owned(), 2.0)));
        assert_eq!(
            call(" 51.08    0.000071           7        10           sendto", 10.0).unwrap().1,
            1.0
        );
        assert_eq!(call("100.00    0.000139           7        18         2 total", 1.0), None);
        assert_eq!(call("------ ----------- ----------- --------- --------- --------", 1.0), None);
        assert_eq!(call("% time     seconds  usecs/call     calls    errors syscall", 1.0), None);
    }
}
