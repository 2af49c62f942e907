//! `dc_test`: sends a cache random requests, and knows what it must answer; or as many as it takes.

use std::io::{self, Write};
use std::process::ExitCode;

use distcache_posix::check::{self, Config};
use distcache_posix::load::{self, protocol::Distcache};
use distcache_posix::net::address::Address;
use distcache_posix::options::{Options, OptionsError};
use distcache_posix::program::{self, Stop};
use distcache_posix::programs::DC_TEST;

fn main() -> ExitCode {
    program::run(&DC_TEST, test)
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
                timevar = Some(options.seconds(0..=604_800)? as u32);
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
            let of_load = if load.time.is_zero() { of_load.as_str() } else { "seconds" };
            let line = format!("-{of_test} cannot be combined with -{of_load}");
            Err(OptionsError::new(line).into())
        }
        (None, Some(_)) => measure(&load, &connect),
        (_, None) => {
            config.timevar = timevar.unwrap_or_else(|| config.timevar.min(config.timeout - 1));
            config.check().map_err(|error| OptionsError::new(error.to_string()))?;
            check::run(&config, &connect, &mut io::stdout()).map(drop).map_err(Stop::failed)
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
        "datamax" => config.datamax = options.bytes(any)? as usize,
        "datamin" => config.datamin = options.bytes(any)? as usize,
        "ops" => config.ops = Some(options.count(0..=u64::MAX)?),
        "persistent" => config.persistent = true,
        "progress" => config.progress = options.count(0..=u64::MAX)?,
        "seed" => config.seed = Some(options.number(0..=u64::MAX)?),
        "sessions" => config.sessions = options.count(1..=1_000_000)? as u32,
        "timeout" => config.timeout = options.seconds(1..=604_800)? as u32,
        "withcert" => config.withcert = options.count(any)? as u32,
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
