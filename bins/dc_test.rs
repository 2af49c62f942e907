//! `dc_test`: sends a cache random requests, and knows what it must answer.

use std::io;
use std::process::ExitCode;

use distcache_posix::hammer::{self, Config};
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
  -h, -help, -?     print this and exit
  -V, -version      print the version and exit
";

fn main() -> ExitCode {
    program::run("dc_test", USAGE, test)
}

fn test(options: &mut Options) -> Result<(), Stop> {
    let mut config = Config::default();
    let (mut connect, mut timevar) = (None, None);
    let any = 0..=u32::MAX.into();
    while let Some(name) = options.next()? {
        match name.as_str() {
            "connect" => connect = Some(options.server_address()?),
            "datamax" => config.datamax = options.number(any.clone())? as usize,
            "datamin" => config.datamin = options.number(any.clone())? as usize,
            "ops" => config.ops = Some(options.number(0..=u64::MAX)?),
            "persistent" => config.persistent = true,
            "progress" => config.progress = options.number(0..=u64::MAX)?,
            "seed" => config.seed = Some(options.number(0..=u64::MAX)?),
            "sessions" => config.sessions = options.number(1..=1_000_000)? as u32,
            "timeout" => config.timeout = options.number(1..=604_800)? as u32,
            "timevar" => timevar = Some(options.number(0..=604_800)? as u32),
            "withcert" => config.withcert = options.number(any.clone())? as u32,
            name => return Err(program::common_option(name, options)),
        }
    }
    config.timevar = timevar.unwrap_or_else(|| config.timevar.min(config.timeout - 1));
    config.check().map_err(|error| OptionsError::new(error.to_string()))?;
    let usual = || "UNIX:/tmp/scache".parse();
    let connect = connect.map_or_else(usual, Ok).map_err(Stop::failed)?;
    hammer::run(&config, &connect, &mut io::stdout()).map(drop).map_err(Stop::failed)
}
