//! `dc_client`: the proxy between the TLS servers of one machine and the cache.

use std::process::ExitCode;

use distcache_core::conns::Limits;
use distcache_posix::options::{Options, OptionsError};
use distcache_posix::program::{self, Stop};
use distcache_posix::{daemon_usage, relay};

const USAGE: &str = concat!(
    "usage: dc_client -server addr [options]

Takes requests from many short-lived connections and passes them to one server
over one connection that stays.

  -server addr      where the server is (required; -connect is the same):
                      UNIX:/path  UNIX:@name  IP:host:port  IP:[::1]:port  FD:n  FD:r:w
  -listen addr      where to listen (default UNIX:/tmp/scache): as -server, and
                      IP:port  IPv6:port
  -retry ms         time between attempts to connect to the server (default 5000,
                    1 to 3600000); until then every request is answered at once
  -idle ms          close a client that asks nothing for so long (default 0: never)
  -maxconn n        how many clients at a time (default 4096); more are refused
  -reqtimeout ms    close a client that leaves a request unfinished, or its answers
                    unread, for so long, and a server that leaves a request
                    unanswered for so long (default 10000, 0: never)
",
    daemon_usage!()
);

fn main() -> ExitCode {
    program::run("dc_client", USAGE, relay)
}

fn relay(options: &mut Options) -> Result<(), Stop> {
    let mut service = program::daemon("dc_client", "UNIX:/tmp/scache")?;
    let mut server = None;
    let mut clients = 4096;
    let mut limits = Limits { idle: 0, patience: 10_000 };
    let mut retry = 5000;
    while let Some(name) = options.next()? {
        match name.as_str() {
            "connect" | "server" => server = Some(options.server_address()?),
            "idle" => limits.idle = options.number(0..=3_600_000)?,
            "maxconn" => clients = options.number(1..=1_000_000)? as usize,
            "reqtimeout" => limits.patience = options.number(0..=3_600_000)?,
            "retry" => retry = options.number(1..=3_600_000)?,
            name if program::daemon_option(&mut service, name, options)? => {}
            name => return Err(program::common_option(name, options)),
        }
    }
    let missing = || OptionsError::new("-server is missing: say where the cache server is");
    let server = server.ok_or_else(missing)?;
    let config = relay::Config { server, clients, limits, retry };
    let running = service.start().map_err(Stop::failed)?;
    relay::run(&config, running).map_err(Stop::failed)
}
