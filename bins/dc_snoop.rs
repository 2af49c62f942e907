//! `dc_snoop`: prints the messages between distcache clients and a server.

use std::io;
use std::process::ExitCode;

use distcache_posix::options::{Options, OptionsError};
use distcache_posix::program::{self, Stop};
use distcache_posix::programs::DC_SNOOP;
use distcache_posix::snoop;

fn main() -> ExitCode {
    program::run(&DC_SNOOP, snoop)
}

fn snoop(options: &mut Options) -> Result<(), Stop> {
    let (mut listen, mut server, mut full) = (None, None, false);
    let mut sandbox = true;
    while let Some(name) = options.next()? {
        match name.as_str() {
            "server" => server = Some(options.server_address()?),
            "full" => full = true,
            "nosandbox" => sandbox = false,
            "listen" => listen = Some(options.listen_address()?),
            name => return Err(program::common_option(name, options)),
        }
    }
    let missing = |what| move || OptionsError::new(what);
    let listen = listen.ok_or_else(missing("-listen is missing: say where clients connect to"))?;
    let server = server.ok_or_else(missing("-server is missing: say where to pass them on to"))?;
    let config = snoop::Config { listen, server, full, sandbox };
    snoop::run(&config, io::stdout()).map_err(Stop::Failed)
}
