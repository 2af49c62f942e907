//! `dc_gateway`: distcache in front of a Valkey or Redis Cluster.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use distcache_core::message::TTL_MAX;
use distcache_gateway::{Config, Credentials, DC_GATEWAY, Endpoint, Gateway, TlsOptions};
use distcache_posix::options::{Options, OptionsError};
use distcache_posix::program::{self, Stop};

fn main() -> ExitCode {
    program::run(&DC_GATEWAY, run)
}

fn run(options: &mut Options) -> Result<(), Stop> {
    let mut startup = program::daemon("dc_gateway", "IP:127.0.0.1:9001")?;
    let mut engine = None;
    let (mut chain, mut key): (Option<PathBuf>, Option<PathBuf>) = (None, None);
    let (mut tls, mut credentials) = (TlsOptions::default(), None);
    let (mut threads, mut deadline, mut in_flight) = (1, 250, 16_384);
    let mut overtake = 0;
    let (mut clients, mut idle, mut patience, mut min_ttl) = (4096, 0, 10_000, 0);
    while let Some(name) = options.next()? {
        match name.as_str() {
            "cafile" => tls.roots = Some(options.path()?),
            "credentials" => credentials = Some(options.path()?),
            "deadline" => deadline = options.millis(1..=60_000)?,
            "engine" => {
                let url = options.text()?;
                engine = Some(Endpoint::parse(&url).map_err(|why| options.error(&why))?);
            }
            "idle" => idle = options.millis(0..=3_600_000)?,
            "inflight" => in_flight = options.count(64..=1 << 20)? as usize,
            "maxconn" => clients = options.count(1..=1_000_000)? as usize,
            "mintimeout" => min_ttl = options.millis(0..=TTL_MAX.into())? as u32,
            "overtake" => overtake = options.millis(0..=60_000)?,
            "reqtimeout" => patience = options.millis(0..=3_600_000)?,
            "threads" => threads = options.number(1..=1024)? as usize,
            "tlscert" => chain = Some(options.path()?),
            "tlskey" => key = Some(options.path()?),
            "tlsname" => tls.name = Some(options.text()?),
            name if program::daemon_option(&mut startup, name, options)? => {}
            name => return Err(program::common_option(name, options)),
        }
    }
    let missing = |what: &str| Stop::Usage(OptionsError::new(what));
    let engine =
        engine.ok_or_else(|| missing("-engine is missing: give it the address of the cluster"))?;
    tls.identity = match (chain, key) {
        (Some(chain), Some(key)) => Some((chain, key)),
        (None, None) => None,
        _ => return Err(missing("-tlscert and -tlskey belong together")),
    };
    let tls_options = tls.roots.is_some() || tls.identity.is_some() || tls.name.is_some();
    if tls_options && !engine.tls {
        return Err(missing("-cafile, -tlscert, -tlskey and -tlsname need rediss://"));
    }
    let credentials = credentials.map(|path| Credentials::read(&path)).transpose();
    let credentials = credentials.map_err(Stop::failed)?.unwrap_or_default();
    let millis = Duration::from_millis;
    let gateway = Gateway::new(Config {
        engine,
        credentials,
        tls,
        threads,
        deadline: millis(deadline),
        in_flight,
        overtake: (overtake > 0).then(|| millis(overtake)),
        clients,
        idle: millis(idle),
        patience: millis(patience),
        min_ttl,
    });
    // Files are read before the user changes, and threads start after the program has detached.
    let gateway = gateway.map_err(Stop::failed)?;
    let started = startup.start().map_err(Stop::failed)?;
    gateway.run(started).map_err(Stop::failed)
}
