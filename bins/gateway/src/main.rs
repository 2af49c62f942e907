//! `dc_gateway`: distcache in front of a Valkey or Redis Cluster.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use distcache_core::message::TTL_MAX;
use distcache_gateway::{Config, Credentials, Endpoint, Gateway, TlsOptions};
use distcache_posix::daemon_usage;
use distcache_posix::options::{Options, OptionsError};
use distcache_posix::program::{self, Stop};

const USAGE: &str = concat!(
    "usage: dc_gateway -engine url [options]

Keeps TLS sessions in a Valkey or Redis Cluster, for dc_client or for anything
else that speaks distcache.

  -engine url       where the sessions are kept:
                      redis://host:port,host:port,...  nodes of a cluster, or one server
                      rediss://host:port,...           the same over TLS
                      redis-sentinel://host:port,.../name   (or rediss-sentinel)
  -credentials file lines of 'user NAME' and 'password SECRET' for the engine,
                    'sentinel-user' and 'sentinel-password' for Sentinels;
                    refused if others can read it
  -cafile file      certificates that vouch for the engine (default: the system's)
  -tlscert file     our own certificate, and with -tlskey its key, as PEM
  -tlskey file
  -tlsname name     the name in the nodes' certificates (default: each node's host)
  -threads n        worker threads (default 1)
  -deadline ms      answer 'server away' to what takes the engine longer (default 250)
  -inflight n       requests of a thread on their way to the engine (default 16384)
  -overtake ms      let answers pass one that is so late (default 0: never). Only for
                    clients that tell answers by their uid, as dc_client does: a
                    node that stops then delays no other node's answers
  -listen addr      where to listen (default IP:127.0.0.1:9001), as often as wanted:
                      UNIX:/path  UNIX:@name  IP:port  IP:host:port  IP:[::1]:port
                      IPv6:port  FD:n  FD:r:w
                      SESSIOND:host:port for stunnel's sessiond, over UDP
  -maxconn n        how many clients at a time (default 4096); more are refused
  -idle ms          close a client that asks nothing for so long (default 0: never)
  -reqtimeout ms    close a client that leaves a request unfinished, or its answers
                    unread, for so long (default 10000, 0: never)
  -mintimeout ms    let sessions live for so long at least, whatever is asked for
                    (default 0: as is asked for)
",
    daemon_usage!(),
    "
Example: dc_gateway -listen IP:10.0.0.7:9001 -engine redis://10.0.1.1,10.0.1.2
"
);

fn main() -> ExitCode {
    program::run("dc_gateway", USAGE, serve)
}

fn serve(options: &mut Options) -> Result<(), Stop> {
    let mut service = program::daemon("dc_gateway", "IP:127.0.0.1:9001")?;
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
            "deadline" => deadline = options.number(1..=60_000)?,
            "engine" => {
                let url = options.text()?;
                engine = Some(Endpoint::parse(&url).map_err(|why| options.error(&why))?);
            }
            "idle" => idle = options.number(0..=3_600_000)?,
            "inflight" => in_flight = options.number(64..=1 << 20)? as usize,
            "maxconn" => clients = options.number(1..=1_000_000)? as usize,
            "mintimeout" => min_ttl = options.number(0..=TTL_MAX.into())? as u32,
            "overtake" => overtake = options.number(0..=60_000)?,
            "reqtimeout" => patience = options.number(0..=3_600_000)?,
            "threads" => threads = options.number(1..=1024)? as usize,
            "tlscert" => chain = Some(options.path()?),
            "tlskey" => key = Some(options.path()?),
            "tlsname" => tls.name = Some(options.text()?),
            name if program::daemon_option(&mut service, name, options)? => {}
            name => return Err(program::common_option(name, options)),
        }
    }
    let missing = |what: &str| Stop::Usage(OptionsError::new(what));
    let engine =
        engine.ok_or_else(|| missing("-engine is missing: where are the sessions kept?"))?;
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
        idle: millis(idle.into()),
        patience: millis(patience.into()),
        min_ttl,
    });
    // Files are read before the user changes; threads come after the program has detached.
    let gateway = gateway.map_err(Stop::failed)?;
    let running = service.start().map_err(Stop::failed)?;
    gateway.run(running).map_err(Stop::failed)
}
