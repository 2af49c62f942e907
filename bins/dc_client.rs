//! `dc_client`: the proxy between the TLS servers of one machine and the cache.

use std::process::ExitCode;

use distcache_core::conns::Limits;
use distcache_core::message::TTL_MAX;
use distcache_core::proxy::{SERVER_PATIENCE, SERVERS_MAX};
use distcache_posix::address::Address;
use distcache_posix::options::{Options, OptionsError};
use distcache_posix::program::{self, Stop};
use distcache_posix::{daemon_usage, relay};

const USAGE: &str = concat!(
    "usage: dc_client -server addr [-server addr ...] [options]

Takes requests from many short-lived connections and passes them to a server over
one connection that stays; or to several servers, by what the session's id is.

  -server addr      where a server is (required; -connect is the same; up to 32):
                      UNIX:/path  UNIX:@name  IP:host:port  IP:[::1]:port  FD:n  FD:r:w
                    with several, give all proxies the same addresses, letter by letter
  -replicas n       how many servers hold each session: 1 or 2 (default 1)
  -listen addr      where to listen (default UNIX:/tmp/scache), as often as wanted:
                    as -server, and  IP:port  IPv6:port
                      SESSIOND:host:port for stunnel's sessiond, over UDP
  -retry ms         time between attempts to connect to a server (default 5000,
                    1 to 3600000); until then it is left out, and where there is no
                    other every request is answered at once
  -mintimeout ms    let sessions live for so long at least, whatever is asked for
                    (default 0: as is asked for)
  -idle ms          close a client that asks nothing for so long (default 0: never)
  -maxconn n        how many clients at a time (default 4096); more are refused
  -reqtimeout ms    close a client that leaves a request unfinished, or its answers
                    unread, for so long, and a server that leaves one request
                    unanswered for so long (default 10000, 0: never)
  -servertimeout ms  give up a server that answers nothing for so long while a
                    request waits for it (default 250, 0: never); its requests go to
                    the next server, or are answered that there is none
",
    daemon_usage!()
);

fn main() -> ExitCode {
    program::run("dc_client", USAGE, relay)
}

fn relay(options: &mut Options) -> Result<(), Stop> {
    let mut service = program::daemon("dc_client", "UNIX:/tmp/scache")?;
    let mut servers = Vec::new();
    let (mut copies, mut min_ttl) = (1, 0);
    let mut clients = 4096;
    let mut limits = Limits { idle: 0, patience: 10_000 };
    let mut retry = 5000;
    let mut server_patience = SERVER_PATIENCE;
    while let Some(name) = options.next()? {
        match name.as_str() {
            "connect" | "server" => servers.push(options.server_address()?),
            "idle" => limits.idle = options.number(0..=3_600_000)?,
            "maxconn" => clients = options.number(1..=1_000_000)? as usize,
            "mintimeout" => min_ttl = options.number(0..=TTL_MAX.into())? as u32,
            "replicas" => copies = options.number(1..=2)? as u8,
            "reqtimeout" => limits.patience = options.number(0..=3_600_000)?,
            "servertimeout" => server_patience = options.number(0..=3_600_000)?,
            "retry" => retry = options.number(1..=3_600_000)?,
            name if program::daemon_option(&mut service, name, options)? => {}
            name => return Err(program::common_option(name, options)),
        }
    }
    check(&servers, copies)?;
    check_own(&servers, service.addresses())?;
    let config =
        relay::Config { servers, copies, clients, limits, server_patience, retry, min_ttl };
    let running = service.start().map_err(Stop::failed)?;
    relay::run(&config, running).map_err(Stop::failed)
}

fn check(servers: &[Address], copies: u8) -> Result<(), OptionsError> {
    let count = servers.len();
    let twice = (1..count).find(|last| servers[..*last].contains(&servers[*last]));
    let line = if count == 0 {
        "-server is missing: say where the cache server is".to_owned()
    } else if count > SERVERS_MAX {
        format!("-server: {count} servers are more than {SERVERS_MAX}")
    } else if let Some(twice) = twice {
        format!("-server: {} is given twice", servers[twice])
    } else if usize::from(copies) > count {
        format!("-replicas: each session can't be on {copies} servers where there is {count}")
    } else {
        return Ok(());
    };
    Err(OptionsError::new(line))
}

/// A proxy that is its own server looks healthy and serves nobody.
fn check_own(servers: &[Address], listen: &[Address]) -> Result<(), OptionsError> {
    let own = |server: &&Address| listen.iter().any(|listen| relay::reaches(server, listen));
    match servers.iter().find(own) {
        Some(own) => Err(OptionsError::new(format!(
            "-server: {own} is where dc_client itself listens; give it the address of a dc_server"
        ))),
        None => Ok(()),
    }
}
