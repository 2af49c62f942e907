//! What all programs do alike: options in, exit code out.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::net::address::Address;
use crate::options::table::{Command, Entry, Group};
use crate::options::{Options, OptionsError};
use crate::process::start::Startup;

/// The most places that a daemon listens in: each takes one of the descriptors that it has to spare.
pub(crate) const LISTENERS_MAX: usize = 16;

/// Why a program ends otherwise than by having done its work.
#[derive(Debug)]
pub enum Stop {
    /// It could not do its work: a line that says why. Exit code 1.
    Failed(String),
    /// Its usage was asked for. Exit code 0.
    Help,
    /// The command line can't be followed: a line that says why. Exit code 1.
    Usage(OptionsError),
    /// Its version was asked for. Exit code 0.
    Version,
}

impl Stop {
    /// A failure that prints as `error` does.
    pub fn failed(error: impl Display) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<OptionsError> for Stop {
    fn from(error: OptionsError) -> Self {
        Self::Usage(error)
    }
}

/// Runs a program, and says on stdout or stderr how it ended, as far as that is to be said.
///
/// 0 is success, help and version; 1 is everything else.
pub fn run(
    command: &'static Command,
    work: impl FnOnce(&mut Options) -> Result<(), Stop>,
) -> ExitCode {
    // Whoever reads our words may be gone; that does not change how the work ended.
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let name = command.name;
    let _ = match work(&mut Options::from_env(command)) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Stop::Help) => {
            let _ = write!(out, "{command}");
            return ExitCode::SUCCESS;
        }
        Err(Stop::Version) => {
            let _ = writeln!(out, "{name} {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Err(Stop::Failed(line)) => writeln!(err, "{name}: {line}"),
        Err(Stop::Usage(error)) => {
            let line = error.to_string();
            let see = if line.ends_with('?') { " See" } else { "; see" };
            writeln!(err, "{name}: {line}{see} {name} -h")
        }
    };
    ExitCode::FAILURE
}

/// Reads an option that every program has; `Err` where it is none of the program's either.
pub fn common_option(name: &str, options: &Options) -> Stop {
    match name {
        "help" => Stop::Help,
        "version" => Stop::Version,
        _ => Stop::Usage(options.unknown()),
    }
}

/// The options that [`daemon_option`] reads, `-listen` apart.
pub const DAEMON: Group = Group {
    title: "Process",
    options: &[
        Entry::switch(
            &["daemon"],
            "detach from the terminal; from then on nothing is printed: all output is lost",
        ),
        Entry::valued(&["pidfile"], "path", "write the process id there"),
        Entry::valued(
            &["user"],
            "name[:group]",
            "switch to this user (name or number) after the start, and to the user's own group or \
             this one; drop all other groups",
        ),
        Entry::valued(&["sockowner"], "name", "user that UNIX sockets belong to"),
        Entry::valued(&["sockgroup"], "name", "group that UNIX sockets belong to"),
        Entry::valued(&["sockperms"], "octal", "permissions of UNIX sockets, such as 660"),
        Entry::switch(&["killable"], "let SIGUSR1 and SIGUSR2 end it too (else they are ignored)"),
    ],
};

/// Reads an option that daemons have in common; false where it is none of those.
///
/// # Errors
/// A value that is missing or unfit.
pub fn daemon_option(
    service: &mut Startup,
    name: &str,
    options: &mut Options,
) -> Result<bool, OptionsError> {
    match name {
        "daemon" => service.daemon = true,
        "killable" => service.killable = true,
        "listen" if service.listen.len() == LISTENERS_MAX => {
            return Err(options.error(&format!("is given more than {LISTENERS_MAX} times")));
        }
        "listen" => service.listen.push(options.service_address()?),
        "pidfile" => {
            let path = options.path()?;
            let path = std::path::absolute(path).map_err(|error| {
                options.error(&format!("needs a path that can be made absolute: {error}"))
            })?;
            service.pid_file = Some(path);
        }
        "sockgroup" => service.ownership.group = Some(options.text()?),
        "sockowner" => service.ownership.owner = Some(options.text()?),
        "sockperms" => service.ownership.mode = Some(options.mode()?),
        "user" => service.user = Some(options.text()?),
        _ => return Ok(false),
    }
    Ok(true)
}

/// The service of a daemon that is told nothing more than where to listen, if nothing else is said.
///
/// # Errors
/// The address is none.
pub fn daemon(name: &'static str, listen: &str) -> Result<Startup, OptionsError> {
    let default_listen: Address =
        listen.parse().map_err(|error| OptionsError::new(format!("-listen: {error}")))?;
    Ok(Startup {
        name,
        listen: Vec::new(),
        default_listen,
        inherits: Vec::new(),
        ownership: Default::default(),
        daemon: false,
        pid_file: None,
        user: None,
        killable: false,
    })
}
