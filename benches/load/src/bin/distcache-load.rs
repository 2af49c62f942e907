//! The load of `dc_test` on any of the caches that the benchmark compares.

use std::process::ExitCode;

use distcache_load::memcached::Memcached;
use distcache_load::resp::Resp;
use distcache_posix::load::{self, Config, protocol::Distcache};
use distcache_posix::options::{Options, OptionsError};
use distcache_posix::program::{self, Stop};

const USAGE: &str = "usage: distcache-load -connect addr -seconds s [-proto dc|mc|resp] [options]

The load of dc_test -seconds, whose options it has, also on memcached (mc) and
Redis (resp).
";

fn main() -> ExitCode {
    program::run("distcache-load", USAGE, load)
}

fn load(options: &mut Options) -> Result<(), Stop> {
    let (mut config, mut connect, mut proto) = (Config::default(), None, "dc".to_owned());
    while let Some(name) = options.next()? {
        match name.as_str() {
            "connect" => connect = Some(options.server_address()?),
            "proto" => proto = options.text()?,
            name if config.option(name, options)? => {}
            name => return Err(program::common_option(name, options)),
        }
    }
    let connect = connect.ok_or_else(|| OptionsError::new("-connect is missing"))?;
    let report = match proto.as_str() {
        "dc" => load::run(&config, &Distcache, &connect),
        "mc" => load::run(&config, &Memcached, &connect),
        "resp" => load::run(&config, &Resp, &connect),
        _ => return Err(OptionsError::new("-proto is dc, mc or resp").into()),
    };
    println!("{}", report.map_err(Stop::failed)?);
    Ok(())
}
