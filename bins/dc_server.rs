//! `dc_server`: the cache that TLS servers share.

use std::process::ExitCode;

use distcache_core::conns::Limits;
use distcache_core::message::TTL_MAX;
use distcache_core::table::Geometry;
use distcache_posix::options::Options;
use distcache_posix::program::{self, Stop};
use distcache_posix::{daemon_usage, serve};

const USAGE: &str = concat!(
    "usage: dc_server [options]

Keeps TLS sessions for dc_client, or for anything else that speaks distcache.

  -listen addr      where to listen (default IP:127.0.0.1:9001), as often as wanted:
                      UNIX:/path  UNIX:@name  IP:port  IP:host:port  IP:[::1]:port
                      IPv6:port  FD:n  FD:r:w
                      SESSIOND:host:port for stunnel's sessiond, over UDP
  -sessions n       how many sessions to hold (default 65536, up to 16777216);
                    when it is full, the oldest of each class of lifetimes leave
  -maxmem bytes     how many bytes of sessions to hold, also with K, M or G
                    (default 2 KiB a session, 64M at least); whichever of
                    -sessions and -maxmem is reached first, sessions leave
  -maxconn n        how many clients at a time (default 4096); more are refused
  -idle ms          close a client that asks nothing for so long (default 0: never)
  -reqtimeout ms    close a client that leaves a request unfinished, or its answers
                    unread, for so long (default 10000, 0: never)
  -mintimeout ms    let sessions live for so long at least, whatever is asked for
                    (default 0: as is asked for)
  -maxtimeout ms    let sessions live for so long at most, whatever is asked for
                    (default 86400000: a day; up to 604800000: 7 days)
  -progress n       print a line every n operations at least
",
    daemon_usage!()
);

/// What TLS servers need at most, in milliseconds.
const DAY: u32 = 86_400_000;

fn main() -> ExitCode {
    program::run("dc_server", USAGE, serve)
}

fn serve(options: &mut Options) -> Result<(), Stop> {
    let mut service = program::daemon("dc_server", "IP:127.0.0.1:9001")?;
    let mut config = serve::Config {
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
            "idle" => config.limits.idle = options.number(0..=3_600_000)?,
            "maxconn" => config.clients = options.number(1..=1_000_000)? as usize,
            "maxtimeout" => max_ttl = Some(options.number(1..=TTL_MAX.into())? as u32),
            "maxmem" => config.max_bytes = Some(options.bytes(1..=1 << 40)?),
            "mintimeout" => config.min_ttl = options.number(0..=TTL_MAX.into())? as u32,
            "progress" => config.progress = options.number(0..=u32::MAX.into())? as u32,
            "reqtimeout" => config.limits.patience = options.number(0..=3_600_000)?,
            "sessions" => {
                config.sessions = options.number(1..=Geometry::SESSIONS_MAX.into())? as u32;
            }
            name if program::daemon_option(&mut service, name, options)? => {}
            name => return Err(program::common_option(name, options)),
        }
    }
    // Lives that an operator made longer than a day stay so.
    config.max_ttl = max_ttl.unwrap_or(DAY.max(config.min_ttl));
    if config.max_ttl < config.min_ttl {
        return Err(Stop::failed("-mintimeout is longer than -maxtimeout"));
    }
    let running = service.start().map_err(Stop::failed)?;
    serve::run(&config, running).map_err(Stop::failed)
}
