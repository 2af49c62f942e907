//! `dc_server`: the session cache that TLS servers share.

use std::process::ExitCode;
use std::time::Duration;

use distcache_core::Limits;
use distcache_core::message::TTL_MAX;
use distcache_core::table::Layout;
use distcache_posix::options::Options;
use distcache_posix::program::{self, Stop};
use distcache_posix::programs::DC_SERVER;
use distcache_posix::{server, state};

/// The default of `-maxtimeout`: the longest lifetime that TLS servers use.
const DAY: Duration = Duration::from_secs(86_400);
/// The longest lifetime that the protocol allows, in milliseconds.
const LIFETIME_MAX: u64 = TTL_MAX as u64;

fn main() -> ExitCode {
    program::run(&DC_SERVER, run)
}

fn run(options: &mut Options) -> Result<(), Stop> {
    let mut startup = program::daemon("dc_server", "IP:127.0.0.1:9001")?;
    let mut config = server::Config {
        sessions: 65_536,
        max_bytes: None,
        clients: 4096,
        limits: Limits::default(),
        min_lifetime: Duration::ZERO,
        max_lifetime: DAY,
        progress: 0,
        state: None,
        allow_copy: false,
        copy_from: Vec::new(),
        copy_share: None,
        proxy_retry: Duration::from_secs(5),
    };
    let (mut state, mut write_every, mut seal_keys) = (None, None, None);
    let mut max_lifetime = None;
    while let Some(name) = options.next()? {
        match name.as_str() {
            "handover" => startup.handover = Some(options.absolute_path()?),
            "allowcopy" => config.allow_copy = true,
            "copyfrom" => {
                if config.copy_from.len() >= server::SOURCES_MAX {
                    return Err(Stop::failed("-copyfrom can be given 31 times at most"));
                }
                config.copy_from.push(options.server_address()?);
            }
            "copyshare" => config.copy_share = Some(options.server_address()?),
            "idle" => config.limits.idle = options.limit(0..=3_600_000)?,
            "maxconn" => config.clients = options.count(1..=1_000_000)? as usize,
            "maxtimeout" => {
                max_lifetime = Some(Duration::from_millis(options.millis(1..=LIFETIME_MAX)?));
            }
            "maxmem" => config.max_bytes = Some(options.bytes(1..=1 << 40)?),
            "mintimeout" => {
                config.min_lifetime = Duration::from_millis(options.millis(0..=LIFETIME_MAX)?);
            }
            "progress" => config.progress = options.count(0..=u32::MAX.into())? as u32,
            "proxyretry" => {
                config.proxy_retry = Duration::from_millis(options.millis(0..=3_600_000)?);
            }
            "reqtimeout" => config.limits.patience = options.limit(0..=3_600_000)?,
            "sealkeys" => seal_keys = Some(options.absolute_path()?),
            "sessions" => {
                config.sessions = options.count(1..=Layout::SESSIONS_MAX.into())? as u32;
            }
            "state" => state = Some(options.absolute_path()?),
            "statewrite" => {
                write_every = Some(Duration::from_secs(options.seconds(1..=86_400)?));
            }
            name if program::daemon_option(&mut startup, name, options)? => {}
            name => return Err(program::common_option(name, options)),
        }
    }
    // A longer -mintimeout raises the default.
    config.max_lifetime = max_lifetime.unwrap_or(DAY.max(config.min_lifetime));
    if config.max_lifetime < config.min_lifetime {
        return Err(Stop::failed("-mintimeout is longer than -maxtimeout"));
    }
    for (given, option) in
        [(write_every.is_some(), "-statewrite"), (seal_keys.is_some(), "-sealkeys")]
    {
        if given && state.is_none() {
            return Err(Stop::failed(format_args!("{option} needs -state")));
        }
    }
    startup.reloads = seal_keys.is_some();
    config.state = state.map(|path| state::Config { path, every: write_every, seal_keys });
    if config.copy_share.is_some() && config.copy_from.is_empty() {
        return Err(Stop::failed("-copyshare needs -copyfrom, once for each other server"));
    }
    let started = startup.start().map_err(Stop::failed)?;
    server::run(&config, started).map_err(Stop::failed)
}
