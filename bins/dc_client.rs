//! `dc_client`: the proxy between the TLS servers of one machine and the cache servers.

use std::io::{self, Write};
use std::process::ExitCode;

use distcache_core::Limits;
use distcache_core::message::TTL_MAX;
use distcache_core::proxy::{SERVER_PATIENCE, SERVERS_MAX};
use distcache_posix::net::address::Address;
use distcache_posix::options::{Options, OptionsError};
use distcache_posix::program::{self, Stop};
use distcache_posix::programs::DC_CLIENT;
use distcache_posix::proxy::{self, SealConfig};
use distcache_posix::seal_keys::{KeyFile, new_key};

fn main() -> ExitCode {
    program::run(&DC_CLIENT, run)
}

fn run(options: &mut Options) -> Result<(), Stop> {
    let mut startup = program::daemon("dc_client", "UNIX:/tmp/scache")?;
    let mut servers = Vec::new();
    let (mut copies, mut anycast, mut min_ttl) = (1, false, 0);
    let mut clients = 4096;
    let mut limits = Limits::default();
    let mut retry = 5000;
    let mut server_patience = SERVER_PATIENCE.as_millis() as u64;
    let (mut seal_keys, mut mixed) = (None, false);
    while let Some(name) = options.next()? {
        match name.as_str() {
            "anycast" => anycast = true,
            "server" => servers.push(options.server_address()?),
            "idle" => limits.idle = options.limit(0..=3_600_000)?,
            "maxconn" => clients = options.count(1..=1_000_000)? as usize,
            "mintimeout" => min_ttl = options.millis(0..=TTL_MAX.into())? as u32,
            "newkey" => return print_new_key(),
            "replicas" => copies = options.number(1..=2)? as u8,
            "reqtimeout" => limits.patience = options.limit(0..=3_600_000)?,
            "retry" => retry = options.millis(1..=3_600_000)?,
            "sealkeys" => seal_keys = Some(options.absolute_path()?),
            "sealkeys-mixed" => mixed = true,
            "servertimeout" => server_patience = options.millis(0..=3_600_000)?,
            name if program::daemon_option(&mut startup, name, options)? => {}
            name => return Err(program::common_option(name, options)),
        }
    }
    check(&servers, copies)?;
    check_own(&servers, startup.addresses())?;
    startup.inherits.clone_from(&servers);
    if anycast && copies > 1 {
        let line = "-anycast cannot be combined with -replicas: its servers share one store";
        return Err(OptionsError::new(line).into());
    }
    if mixed && seal_keys.is_none() {
        return Err(Stop::Usage(OptionsError::new("-sealkeys-mixed needs -sealkeys")));
    }
    startup.reloads = seal_keys.is_some();
    let seal = seal_keys.map(|path| SealConfig { keys: KeyFile::new(&path), mixed });
    let config = proxy::Config {
        servers,
        copies,
        anycast,
        clients,
        limits,
        server_patience,
        retry,
        min_ttl,
        seal,
    };
    let started = startup.start().map_err(Stop::failed)?;
    proxy::run(&config, started).map_err(Stop::failed)
}

/// Prints a new random key: one line of a key file.
fn print_new_key() -> Result<(), Stop> {
    let key = new_key().map_err(Stop::failed)?;
    let mut out = io::stdout();
    let written = out.write_all(key.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Stop::failed(format_args!("-newkey: cannot print the key: {error}")))
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
        format!("-replicas {copies} needs at least {copies} servers, not {count}")
    } else {
        return Ok(());
    };
    Err(OptionsError::new(line))
}

/// Refuses a proxy that is its own server: it would look healthy and answer nothing.
fn check_own(servers: &[Address], listen: &[Address]) -> Result<(), OptionsError> {
    let own = |server: &&Address| listen.iter().any(|listen| proxy::reaches(server, listen));
    match servers.iter().find(own) {
        Some(own) => Err(OptionsError::new(format!(
            "-server: {own} is where dc_client itself listens; give it the address of a dc_server"
        ))),
        None => Ok(()),
    }
}
