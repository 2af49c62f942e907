//! `dc_gateway`: distcache in front of a Valkey or Redis Cluster.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use distcache_core::message::TTL_MAX;
use distcache_gateway::{Config, Credentials, Endpoint, Gateway, TlsOptions};
use distcache_posix::options::table::{Command, Entry, Group};
use distcache_posix::options::{Options, OptionsError};
use distcache_posix::program::{self, Stop};

/// The command line.
const DC_GATEWAY: Command = Command {
    name: "dc_gateway",
    synopsis: "-engine url [options]",
    about: "Keeps TLS sessions in a Valkey or Redis Cluster, for dc_client, or for anything else \
            that speaks distcache.",
    groups: &[
        &Group {
            title: "Where",
            options: &[
                Entry::valued(
                    &["engine"],
                    "url",
                    "where the sessions are stored (required): redis://host:port,host:port,... for \
                     nodes of a cluster or one server; rediss:// for the same over TLS; \
                     redis-sentinel://host:port,.../name or rediss-sentinel:// for Sentinels",
                ),
                Entry::valued(&["listen"], "addr", "where to listen, up to 16 times")
                    .default("IP:127.0.0.1:9001")
                    .repeated(),
            ],
        },
        &Group {
            title: "Engine",
            options: &[
                Entry::valued(
                    &["credentials"],
                    "file",
                    "lines of 'user NAME' and 'password SECRET' for the engine, 'sentinel-user' and \
                     'sentinel-password' for Sentinels; refused if others can read it",
                ),
                Entry::valued(
                    &["cafile"],
                    "file",
                    "certificates to trust for the engine, as PEM (default: the system's)",
                ),
                Entry::valued(&["tlscert"], "file", "the client certificate for the engine, as PEM, with -tlskey"),
                Entry::valued(&["tlskey"], "file", "its key, as PEM"),
                Entry::valued(
                    &["tlsname"],
                    "name",
                    "the name in the nodes' certificates (default: each node's host)",
                ),
                Entry::valued(
                    &["deadline"],
                    "time",
                    "the longest time of a request, up to 1m; after that the answer is 'server \
                     unreachable'",
                )
                .default("250ms"),
                Entry::valued(&["threads"], "n", "worker threads").default("1"),
                Entry::valued(
                    &["inflight"],
                    "n",
                    "the most requests of a thread in flight, shared equally among the nodes",
                )
                .default("16384"),
                Entry::valued(
                    &["mintimeout"],
                    "time",
                    "let sessions live at least that long, whatever is asked for",
                )
                .default("0, as long as asked for"),
            ],
        },
        &Group {
            title: "Clients",
            options: &[
                Entry::valued(
                    &["overtake"],
                    "time",
                    "let answers pass one that is that late, so that a stopped node does not delay \
                     the answers of others; only for clients that match answers by uid, as dc_client \
                     does",
                )
                .default("0, never"),
                Entry::valued(&["maxconn"], "n", "how many clients at a time; more are refused")
                    .default("4096"),
                Entry::valued(&["idle"], "time", "close a client that asks nothing for that long")
                    .default("0, never"),
                Entry::valued(
                    &["reqtimeout"],
                    "time",
                    "close a client that leaves a request unfinished, or its answers unread, for \
                     that long; 0: never",
                )
                .default("10s"),
            ],
        },
        &program::DAEMON,
    ],
    notes: &[
        "Addresses: UNIX:/path, UNIX:@name, IP:host:port, IP:[::1]:port, IP:port for all \
         interfaces, FD:n; SESSIOND:host:port for stunnel's sessiond, over UDP.",
        "Times take ms, s, m, h or d, as in 250ms or 5s; without a unit they are in milliseconds.",
        "SIGTERM and SIGINT end it in order, once everything received so far is answered.",
    ],
    example: "dc_gateway -listen IP:10.0.0.7:9001 -engine redis://10.0.1.1,10.0.1.2",
};

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
