//! `dc_test`: sends random requests to a cache, and checks every answer or measures the speed.

use std::io::{self, Write};
use std::process::ExitCode;

use distcache_posix::check::{self, Config};
use distcache_posix::load::{self, protocol::Distcache};
use distcache_posix::net::address::Address;
use distcache_posix::options::{Options, OptionsError};
use distcache_posix::program::{self, Stop};
use distcache_posix::programs::DC_TEST;

fn main() -> ExitCode {
    program::run(&DC_TEST, run)
}

fn run(options: &mut Options) -> Result<(), Stop> {
    let (mut config, mut load) = (Config::default(), load::Config::default());
    let (mut connect, mut timevar) = (None, None);
    let (mut check_option, mut load_option) = (None, None);
    while let Some(name) = options.next()? {
        match name.as_str() {
            "connect" => connect = Some(options.server_address()?),
            "timevar" => {
                check_option = Some(name);
                timevar = Some(options.seconds(0..=604_800)? as u32);
            }
            _ if read_check_option(&mut config, &name, options)? => check_option = Some(name),
            _ if load.option(&name, options)? => load_option = Some(name),
            name => return Err(program::common_option(name, options)),
        }
    }
    let default = || "UNIX:/tmp/scache".parse();
    let connect = connect.map_or_else(default, Ok).map_err(Stop::failed)?;
    match (check_option, load_option) {
        (Some(check_option), Some(load_option)) => {
            let load_option = if load.time.is_zero() { load_option.as_str() } else { "seconds" };
            let line = format!("-{check_option} cannot be combined with -{load_option}");
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

/// Reads an option of a check; false for another option.
fn read_check_option(
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
