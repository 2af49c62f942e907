//! The benchmark: the same loads on every cache in turn, and what came of it as a table and a chart.
//!
//! Servers are on one core and the load on another. Every shape runs in rounds, and in each round
//! every server has its turn, so that a ratio compares what was measured within seconds.

mod alone;
mod chart;
mod markdown;
mod process;
mod race;

use std::fmt;
use std::path::{Path, PathBuf};

use alone::Alone;
use process::HeldFd;
use race::{Field, Race, Shape};

/// Why there is no result.
#[derive(Debug)]
pub struct Fault(String);

impl Fault {
    fn of(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Rounds of each shape: an odd number.
    pub rounds: usize,
    /// Seconds of each load.
    pub seconds: f64,
    /// Sessions of the shape with many.
    pub many: u32,
    /// Idle connections.
    pub idle: u32,
    /// Whether the largest table is filled.
    pub largest: bool,
}

impl Scale {
    /// What the project's figures are made with.
    pub const FULL: Self =
        Self { rounds: 5, seconds: 3.0, many: 1_000_000, idle: 10_000, largest: true };
    /// Shows that it works; its figures say nothing.
    pub const QUICK: Self =
        Self { rounds: 1, seconds: 0.1, many: 20_000, idle: 200, largest: false };
}

/// All that was measured, and on what.
#[derive(Debug)]
struct Results {
    races: Vec<Race>,
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
/// [`Fault`] says what went wrong; then nothing is written.
pub fn run(scale: &Scale, out: &Path, command: &str) -> Result<(), Fault> {
    let programs = std::env::current_exe().map_err(Fault::of)?;
    let programs = programs.parent().map(Path::to_owned).unwrap_or_default();
    let scratch = Scratch::new()?;
    let place = HeldFd { programs, scratch: scratch.0.clone(), server_core: 0, load_core: 1 };
    distcache_posix::process::limits::raise_descriptors(u64::from(scale.idle) + 64);
    let field = Field::start(&place, scale)?;
    let shapes = Shape::all(scale);
    let races = shapes.iter().map(|shape| field.race(&place, scale, shape));
    let races = races.collect::<Result<_, _>>()?;
    let large_resident = field.large_resident();
    drop(field);
    let results = Results {
        races,
        alone: Alone::measure(&place, scale)?,
        large_resident,
        scale: *scale,
        machine: machine(),
        others: others(),
        command: command.to_owned(),
    };
    std::fs::create_dir_all(out).map_err(Fault::of)?;
    std::fs::write(out.join("bench.md"), markdown::page(&results)).map_err(Fault::of)?;
    std::fs::write(out.join("bench.svg"), chart::draw(&results.races)).map_err(Fault::of)
}

/// A directory that goes when the benchmark is over.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Fault> {
        let path = std::env::temp_dir().join(format!("dc-bench-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(Fault::of)?;
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
    let said = others.map(|(program, option)| match race::which(program) {
        true => format!("{program} {}", alone::version(program, option)),
        false => format!("{program} is not installed"),
    });
    said.join(", ")
}
