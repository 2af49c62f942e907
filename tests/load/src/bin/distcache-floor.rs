//! The server that stores nothing: `distcache-floor UNIX:/path` or `IP:127.0.0.1:0`.

use std::process::ExitCode;

use distcache_load::floor;

fn main() -> ExitCode {
    let address = std::env::args().nth(1).unwrap_or_default();
    let served = match address.parse() {
        Ok(address) => floor::run(&address, |at| println!("floor: listening on {at}"))
            .map_err(|error| error.to_string()),
        Err(error) => Err(format!("{error}")),
    };
    if let Err(error) = served {
        eprintln!("distcache-floor: {error}");
    }
    ExitCode::FAILURE
}
