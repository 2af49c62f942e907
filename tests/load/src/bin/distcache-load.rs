//! The load of `dc_test` on any of the caches that the benchmark compares.

use std::process::ExitCode;

use distcache_load::memcached::Memcached;
use distcache_load::resp::Resp;
use distcache_posix::load::{self, Config, protocol::Distcache};
use distcache_posix::options::table::{Command, Entry, Group};
use distcache_posix::options::{Options, OptionsError};
use distcache_posix::program::{self, Stop};

const COMMAND: Command = Command {
    name: "distcache-load",
    synopsis: "-connect addr -seconds s [options]",
    about: "The load of dc_test -seconds, also on memcached and Redis.",
    groups: &[
        &Group {
            title: "Where",
            options: &[
                Entry::valued(&["connect"], "addr", "the cache (required)"),
                Entry::valued(&["proto"], "name", "dc, mc (memcached) or resp (Redis)")
                    .default("dc"),
            ],
        },
        &load::OPTIONS,
    ],
    notes: &[],
    example: "distcache-load -connect IP:127.0.0.1:11211 -proto mc -seconds 2",
};

fn main() -> ExitCode {
    program::run(&COMMAND, load)
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
