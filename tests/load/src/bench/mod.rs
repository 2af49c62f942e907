//! The benchmark: the same loads on every cache in turn, with the results as a table and a chart.
//!
//! Servers run on one core and the load on another. Every load runs in rounds, and in each round
//! every server has its turn, so a ratio compares values that were measured within seconds.

mod alone;
mod chart;
mod compare;
mod markdown;
mod process;

use std::fmt;
use std::path::{Path, PathBuf};

use alone::Alone;
use compare::{Comparison, Servers, Shape};
use process::Setup;

/// Why there is no result.
#[derive(Debug)]
pub struct BenchError(String);

impl BenchError {
    fn of(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BenchError {}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Rounds of each load: an odd number.
    pub rounds: usize,
    /// Seconds of each load.
    pub seconds: f64,
    /// Sessions of the load with many.
    pub many: u32,
    /// Idle connections.
    pub idle: u32,
    /// Whether the largest table is filled.
    pub largest: bool,
}

impl Scale {
    /// For the project's figures.
    pub const FULL: Self =
        Self { rounds: 5, seconds: 3.0, many: 1_000_000, idle: 10_000, largest: true };
    /// Shows that it works. Its figures mean nothing.
    pub const QUICK: Self =
        Self { rounds: 1, seconds: 0.1, many: 20_000, idle: 200, largest: false };
}

/// All results, and the machine.
#[derive(Debug)]
struct Results {
    comparisons: Vec<Comparison>,
    alone: Alone,
    large_resident: Option<u64>,
    scale: Scale,
    machine: String,
    others: String,
    command: String,
}

/// Measures, and writes `bench.md` and `bench.svg` to the directory `out`.
///
/// # Errors
/// [`BenchError`] says what went wrong; then nothing is written.
pub fn run(scale: &Scale, out: &Path, command: &str) -> Result<(), BenchError> {
    let programs = std::env::current_exe().map_err(BenchError::of)?;
    let programs = programs.parent().map(Path::to_owned).unwrap_or_default();
    let scratch = Scratch::new()?;
    let setup = Setup { programs, scratch: scratch.0.clone(), server_core: 0, load_core: 1 };
    distcache_posix::process::limits::raise_descriptors(u64::from(scale.idle) + 64);
    let servers = Servers::start(&setup, scale)?;
    let shapes = Shape::all(scale);
    let comparisons = shapes.iter().map(|shape| servers.compare(&setup, scale, shape));
    let comparisons = comparisons.collect::<Result<_, _>>()?;
    let large_resident = servers.large_resident();
    drop(servers);
    let results = Results {
        comparisons,
        alone: Alone::measure(&setup, scale)?,
        large_resident,
        scale: *scale,
        machine: machine(),
        others: others(),
        command: command.to_owned(),
    };
    std::fs::create_dir_all(out).map_err(BenchError::of)?;
    std::fs::write(out.join("bench.md"), markdown::page(&results)).map_err(BenchError::of)?;
    std::fs::write(out.join("bench.svg"), chart::draw(&results.comparisons)).map_err(BenchError::of)
}

/// A directory that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, BenchError> {
        let path = std::env::temp_dir().join(format!("dc-bench-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(BenchError::of)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let models = cpus.lines().filter(|line| line.starts_with("model name"));
    let model = models.clone().next().and_then(|line| line.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model.trim());
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model}, {} cores, Linux {}", models.count(), kernel.trim())
}

fn others() -> String {
    let others = [("redis-server", "--version"), ("memcached", "-V")];
    let said = others.map(|(program, option)| match compare::which(program) {
        true => format!("{program} {}", alone::version(program, option)),
        false => format!("{program} is not installed"),
    });
    said.join(", ")
}
