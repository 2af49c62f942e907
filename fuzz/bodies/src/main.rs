//! Runs the fuzz bodies on stable Rust: `distcache-fuzz [--seconds n] [--seed n] [body]`.
//!
//! Each body gets its seeds, then mutations of them, and the number of inputs is printed. If a body
//! panics, its input is kept in a file under `fuzz/artifacts`, and the run ends with 1.
//! `distcache-fuzz --once body < file` repeats it. `distcache-fuzz --corpus` writes the seeds to
//! `fuzz/corpus`, where cargo-fuzz starts.

use distcache_fuzz::seeds::{self, Mutator};
use distcache_fuzz::{BODIES, Body};
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::{ExitCode, exit};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The running body and its input, to report if it panics.
static CURRENT: Mutex<(&str, Vec<u8>)> = Mutex::new(("", Vec::new()));

struct Options {
    seconds: u64,
    seed: u64,
    body: Option<String>,
    once: bool,
    corpus: bool,
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("usage: distcache-fuzz [--seconds n] [--seed n] [--once] [--corpus] [body]");
        return ExitCode::from(2);
    };
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        keep();
        exit(1);
    }));
    let chosen = |name: &str| options.body.as_deref().is_none_or(|body| body == name);
    for (name, body) in BODIES.into_iter().filter(|(name, _)| chosen(name)) {
        run(name, body, &options);
    }
    ExitCode::SUCCESS
}

fn options() -> Option<Options> {
    let mut options = Options { seconds: 2, seed: 1, body: None, once: false, corpus: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match &arg[..] {
            "--seconds" => options.seconds = args.next()?.parse().ok()?,
            "--seed" => options.seed = args.next()?.parse().ok()?,
            "--corpus" => options.corpus = true,
            "--once" if !std::io::stdin().is_terminal() => options.once = true,
            body if BODIES.iter().any(|(name, _)| *name == body) => options.body = Some(arg),
            _ => return None,
        }
    }
    Some(options)
}

fn run(name: &'static str, body: Body, options: &Options) {
    if options.once {
        let mut input = Vec::new();
        if std::io::stdin().read_to_end(&mut input).is_ok() {
            body(&input);
        }
        return;
    }
    let seeds = seeds::of(name);
    if options.corpus {
        return write(name, &seeds);
    }
    let mut mutator = Mutator::new(&seeds, options.seed);
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let mut executions = 0_u64;
    let mut attempt = |input: &[u8]| {
        executions += 1;
        if let Ok(mut current) = CURRENT.lock() {
            current.0 = name;
            current.1.clear();
            current.1.extend(input);
        }
        body(input);
    };
    seeds.iter().for_each(|seed| attempt(seed));
    while Instant::now() < end {
        attempt(mutator.next());
    }
    println!("{name:8} {executions:9} executions");
}

fn write(name: &str, seeds: &[Vec<u8>]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(name);
    let file = |number: usize| folder.join(format!("seed-{number}"));
    let written = std::fs::create_dir_all(&folder);
    let written = written.and_then(|()| {
        seeds.iter().enumerate().try_for_each(|(number, seed)| std::fs::write(file(number), seed))
    });
    match written {
        Ok(()) => println!("{name:8} {:9} seeds", seeds.len()),
        Err(error) => println!("{name:8} no seeds: {error}"),
    }
}

fn keep() {
    let Ok(current) = CURRENT.lock() else { return };
    let (name, input) = &*current;
    if name.is_empty() {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../artifacts").join(name);
    let file = folder.join("failed");
    let kept = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, input));
    match kept {
        Ok(()) => eprintln!("{} bytes kept in {}", input.len(), file.display()),
        Err(error) => eprintln!("could not keep {} bytes: {error}", input.len()),
    }
}
