//! The benchmark; `tests/bench` builds what it needs and runs it.

use std::path::PathBuf;
use std::process::ExitCode;

use distcache_load::bench::{self, Scale};
use distcache_posix::options::Options;
use distcache_posix::options::table::{Command, Entry, Group};
use distcache_posix::program::{self, Stop};

const COMMAND: Command = Command {
    name: "distcache-bench",
    synopsis: "[options]",
    about: "Measures dc_server and dc_client beside other caches, and writes bench.md and bench.svg \
            to a directory.",
    groups: &[&Group {
        title: "How much",
        options: &[
            Entry::switch(&["quick"], "only show that it works, in target/bench"),
            Entry::valued(&["rounds"], "n", "how many rounds, 1 to 99"),
            Entry::valued(&["seconds"], "n", "how long each measurement takes, 1 to 600"),
            Entry::valued(&["out"], "directory", "where to write (default: docs)"),
        ],
    }],
    notes: &[],
    example: "distcache-bench -quick",
};

fn main() -> ExitCode {
    program::run(&COMMAND, bench)
}

fn bench(options: &mut Options) -> Result<(), Stop> {
    let (mut scale, mut out) = (Scale::FULL, PathBuf::from("docs"));
    let mut command = String::from("tests/bench");
    while let Some(name) = options.next()? {
        match name.as_str() {
            "out" => out = options.path()?,
            "quick" => (scale, out) = (Scale::QUICK, PathBuf::from("target/bench")),
            "rounds" => scale.rounds = options.number(1..=99)? as usize | 1,
            "seconds" => scale.seconds = options.number(1..=600)? as f64,
            name => return Err(program::common_option(name, options)),
        }
        if name != "out" {
            command = format!("{command} --{name}");
            match name.as_str() {
                "rounds" => command = format!("{command} {}", scale.rounds),
                "seconds" => command = format!("{command} {}", scale.seconds),
                _ => {}
            }
        }
    }
    bench::run(&scale, &out, &command).map_err(Stop::failed)?;
    println!("written: {}", out.join("bench.md").display());
    Ok(())
}
