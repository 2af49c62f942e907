//! Runs seeds until there are enough, the time is over, or one fails.

use distcache_simulator::{Outcome, run, trace};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const USAGE: &str = "\
usage: distcache-simulator [--seeds n | --minutes m] [--from s]   runs many seeds (default 3000)
       distcache-simulator --seed s [--trace]                     repeats one";

/// Command-line options.
#[derive(Default)]
struct Options {
    seeds: Option<u64>,
    minutes: Option<u64>,
    from: u64,
    seed: Option<u64>,
    verbose: bool,
}

fn options() -> Option<Options> {
    let mut options = Options::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--trace" {
            options.verbose = true;
            continue;
        }
        let number = words.next()?.parse().ok()?;
        match word.as_str() {
            "--seeds" => options.seeds = Some(number),
            "--minutes" => options.minutes = Some(number),
            "--from" => options.from = number,
            "--seed" => options.seed = Some(number),
            _ => return None,
        }
    }
    Some(options)
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    trace::report_panics();
    if let Some(seed) = options.seed {
        println!("seed {seed} holds: {:?}", run(seed, options.verbose));
        return ExitCode::SUCCESS;
    }
    run_many(&options);
    ExitCode::SUCCESS
}

fn run_many(options: &Options) {
    let begun = Instant::now();
    let time = options.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let most = match (options.seeds, time) {
        (Some(seeds), _) => seeds,
        (None, Some(_)) => u64::MAX,
        (None, None) => 3_000,
    };
    let (next, sum) = (AtomicU64::new(0), Mutex::new((0_u64, Outcome::default())));
    let work = || {
        while time.is_none_or(|time| begun.elapsed() < time) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= most {
                break;
            }
            let outcome = run(options.from + number, false);
            let mut sum = sum.lock().expect("no thread has panicked");
            sum.0 += 1;
            sum.1.events += outcome.events;
            sum.1.answered += outcome.answered;
            sum.1.unreachable += outcome.unreachable;
            sum.1.unsupported += outcome.unsupported;
            sum.1.lost += outcome.lost;
            sum.1.repaired += outcome.repaired;
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let (seeds, total) = *sum.lock().expect("no thread has panicked");
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds hold ({:.0} a second): {} events; {} requests answered, {} of them that the \
         server is unreachable and {} that the operation is unsupported; {} lost with their \
         connections; {} sessions repaired",
        seeds as f64 / seconds,
        total.events,
        total.answered,
        total.unreachable,
        total.unsupported,
        total.lost,
        total.repaired
    );
}
