//! `dc_test`: sends a cache random requests, and knows what it must answer; or as many as it takes.

use std::io::{self, Write};
use std::process::ExitCode;

use distcache_posix::address::Address;
use distcache_posix::hammer::{self, Config};
use distcache_posix::load::{self, protocol::Distcache};
use distcache_posix::options::{Options, OptionsError};
use distcache_posix::program::{self, Stop};

const USAGE: &str = "usage: dc_test [options]

Makes sessions, sends random ADD, GET, REMOVE and HAVE for them, one at a time,
and stops at the first wrong answer. At the end it prints how long that took,
operations a second, and latencies.

  -connect addr     the server or proxy (default UNIX:/tmp/scache):
                      UNIX:/path  UNIX:@name  IP:host:port  IP:[::1]:port
  -sessions n       how many sessions (default 10)
  -datamin n        least bytes of a session (default 50, from 5)
  -datamax n        most bytes of a session (default 2100, up to 32697)
  -withcert n       how many are as large as with a client's certificate (default 0)
  -timeout s        how long they live (default 60)
  -timevar s        by how much that varies (default 5, less with a short -timeout)
  -ops n            how many requests (default 10 x sessions x sessions)
  -progress n       print a line every n requests
  -persistent       keep one connection (else one for every request)
  -seed n           make the same requests again

With -seconds it measures instead: a number of connections ask all the time, every
answer is looked at, and one line of name=value says what came of it (times in us).

  -seconds s        for how long
  -conns n          how many connections (default 1)
  -depth n          how many requests are open on each (default 1)
  -keys n           how many sessions, stored before the clock runs (default 10000)
  -idlen n          bytes of each id (default 32, 8 to 64)
  -datalen n        bytes of each session (default 200, 5 to 32696)
  -get percent      how many requests are GETs (default 90); the others are REMOVE
                    and ADD in turn
  -shortlived       a connection for every request
  -nostore          the sessions are there from an earlier run

  -h, -help, -?     print this and exit
  -V, -version      print the version and exit
";

fn main() -> ExitCode {
    program::run("dc_test", USAGE, test)
}

fn test(options: &mut Options) -> Result<(), Stop> {
    let (mut config, mut load) = (Config::default(), load::Config::default());
    let (mut connect, mut timevar) = (None, None);
    let (mut of_test, mut of_load) = (None, None);
    while let Some(name) = options.next()? {
        match name.as_str() {
            "connect" => connect = Some(options.server_address()?),
            "timevar" => {
                of_test = Some(name);
                timevar = Some(options.number(0..=604_800)? as u32);
            }
            _ if test_option(&mut config, &name, options)? => of_test = Some(name),
            _ if load.option(&name, options)? => of_load = Some(name),
            name => return Err(program::common_option(name, options)),
        }
    }
    let usual = || "UNIX:/tmp/scache".parse();
    let connect = connect.map_or_else(usual, Ok).map_err(Stop::failed)?;
    match (of_test, of_load) {
        (Some(of_test), Some(of_load)) => {
            let line = format!("-{of_test} is no option of a load, and -{of_load} is one");
            Err(OptionsError::new(line).into())
        }
        (None, Some(_)) => measure(&load, &connect),
        (_, None) => {
            config.timevar = timevar.unwrap_or_else(|| config.timevar.min(config.timeout - 1));
            config.check().map_err(|error| OptionsError::new(error.to_string()))?;
            hammer::run(&config, &connect, &mut io::stdout()).map(drop).map_err(Stop::failed)
        }
    }
}

/// Reads an option of a test; false where it is none.
fn test_option(
    config: &mut Config,
    name: &str,
    options: &mut Options,
) -> Result<bool, OptionsError> {
    let any = 0..=u32::MAX.into();
    match name {
        "datamax" => config.datamax = options.number(any)? as usize,
        "datamin" => config.datamin = options.number(any)? as usize,
        "ops" => config.ops = Some(options.number(0..=u64::MAX)?),
        "persistent" => config.persistent = true,
        "progress" => config.progress = options.number(0..=u64::MAX)?,
        "seed" => config.seed = Some(options.number(0..=u64::MAX)?),
        "sessions" => config.sessions = options.number(1..=1_000_000)? as u32,
        "timeout" => config.timeout = options.number(1..=604_800)? as u32,
        "withcert" => config.withcert = options.number(any)? as u32,
        _ => return Ok(false),
    }
    Ok(true)
}

fn measure(load: &load::Config, connect: &Address) -> Result<(), Stop> {
    if load.time.is_zero() {
        return Err(OptionsError::new("-seconds is missing: say for how long").into());
    }
    load.check().map_err(|error| OptionsError::new(error.to_string()))?;
    let report = load::run(load, &Distcache, connect).map_err(Stop::failed)?;
    writeln!(io::stdout(), "{report}").map_err(Stop::failed)
}
