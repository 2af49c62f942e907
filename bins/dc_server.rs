//! `dc_server`: the session cache that TLS servers share.

use std::process::ExitCode;

use distcache_core::clients::Limits;
use distcache_core::message::TTL_MAX;
use distcache_core::table::Layout;
use distcache_posix::options::Options;
use distcache_posix::program::{self, Stop};
use distcache_posix::programs::DC_SERVER;
use distcache_posix::server;

/// The default of `-maxtimeout`, in milliseconds: the longest lifetime that TLS servers use.
const DAY: u32 = 86_400_000;

fn main() -> ExitCode {
    program::run(&DC_SERVER, run)
}

fn run(options: &mut Options) -> Result<(), Stop> {
    let mut startup = program::daemon("dc_server", "IP:127.0.0.1:9001")?;
    let mut config = server::Config {
        sessions: 65_536,
        max_bytes: None,
        clients: 4096,
        limits: Limits { idle: 0, patience: 10_000 },
        min_ttl: 0,
        max_ttl: DAY,
        progress: 0,
    };
    let mut max_ttl = None;
    while let Some(name) = options.next()? {
        match name.as_str() {
            "idle" => config.limits.idle = options.millis(0..=3_600_000)?,
            "maxconn" => config.clients = options.count(1..=1_000_000)? as usize,
            "maxtimeout" => max_ttl = Some(options.millis(1..=TTL_MAX.into())? as u32),
            "maxmem" => config.max_bytes = Some(options.bytes(1..=1 << 40)?),
            "mintimeout" => config.min_ttl = options.millis(0..=TTL_MAX.into())? as u32,
            "progress" => config.progress = options.count(0..=u32::MAX.into())? as u32,
            "reqtimeout" => config.limits.patience = options.millis(0..=3_600_000)?,
            "sessions" => {
                config.sessions = options.count(1..=Layout::SESSIONS_MAX.into())? as u32;
            }
            name if program::daemon_option(&mut startup, name, options)? => {}
            name => return Err(program::common_option(name, options)),
        }
    }
    // A longer -mintimeout raises the default.
    config.max_ttl = max_ttl.unwrap_or(DAY.max(config.min_ttl));
    if config.max_ttl < config.min_ttl {
        return Err(Stop::failed("-mintimeout is longer than -maxtimeout"));
    }
    let started = startup.start().map_err(Stop::failed)?;
    server::run(&config, started).map_err(Stop::failed)
}
