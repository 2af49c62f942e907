//! What all programs share: from the command line to the exit status.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::net::address::Address;
use crate::options::table::{Command, Entry, Group};
use crate::options::{Options, OptionsError};
use crate::process::accounts::{self, LookupError};
use crate::process::start::Startup;

/// The most addresses that a daemon listens on. Each takes one of its extra descriptors.
pub(crate) const LISTENERS_MAX: usize = 16;

/// Why a program ends without having done its work.
#[derive(Debug)]
pub enum Stop {
    /// It failed; the reason, one line. Exit status 1.
    Failed(String),
    /// Print the usage. Exit status 0.
    Help,
    /// The command line is invalid. Exit status 1.
    Usage(OptionsError),
    /// Print the version. Exit status 0.
    Version,
}

impl Stop {
    /// A failure with the message of `error`.
    pub fn failed(error: impl Display) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<OptionsError> for Stop {
    fn from(error: OptionsError) -> Self {
        Self::Usage(error)
    }
}

/// Runs a program: calls `work` with its options, and prints usage, version or the reason of a failure.
///
/// Returns 0 after success, usage and version, else 1.
pub fn run(
    command: &'static Command,
    work: impl FnOnce(&mut Options) -> Result<(), Stop>,
) -> ExitCode {
    // Failed output is ignored: it does not change the outcome.
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

/// What to do about an option that the program itself does not read: `-help`, `-version`, or unknown.
pub fn common_option(name: &str, options: &Options) -> Stop {
    match name {
        "help" => Stop::Help,
        "version" => Stop::Version,
        _ => Stop::Usage(options.unknown()),
    }
}

/// The options that [`daemon_option`] reads, except `-listen`.
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
        Entry::valued(
            &["allowuid"],
            "user",
            "serve only this user (name or number) on UNIX sockets; with several and -allowgid, \
             whoever is one of them",
        )
        .repeated(),
        Entry::valued(
            &["allowgid"],
            "group",
            "serve only this group (name or number) on UNIX sockets; on Linux any group of the \
             client's process counts, elsewhere its primary one",
        )
        .repeated(),
        NOSANDBOX,
        Entry::switch(
            &["mlock"],
            "lock the memory that holds sessions, so that none is written to swap; fails if the \
             limit of locked memory is too low",
        ),
        Entry::switch(&["killable"], "let SIGUSR1 and SIGUSR2 end it too (else they are ignored)"),
    ],
};

/// The option that leaves out the sandbox.
pub const NOSANDBOX: Entry = Entry::switch(
    &["nosandbox"],
    "keep all privileges, files and system calls after the start; else, on Linux, only those that are \
     needed",
);

/// Reads an option that the daemons share; false for another option.
///
/// # Errors
/// [`OptionsError`] for a missing or invalid value.
pub fn daemon_option(
    startup: &mut Startup,
    name: &str,
    options: &mut Options,
) -> Result<bool, OptionsError> {
    match name {
        "allowgid" => {
            let group = accounts::group(&options.text()?);
            startup.allowed.gids.push(group.map_err(|error| not_allowed("-allowgid", &error))?);
        }
        "allowuid" => {
            let user = accounts::owner(&options.text()?);
            startup.allowed.uids.push(user.map_err(|error| not_allowed("-allowuid", &error))?);
        }
        "daemon" => startup.daemon = true,
        "killable" => startup.killable = true,
        "mlock" => startup.lock_memory = true,
        "listen" if startup.listen.len() == LISTENERS_MAX => {
            return Err(options.error(&format!("is given more than {LISTENERS_MAX} times")));
        }
        "listen" => startup.listen.push(options.service_address()?),
        "nosandbox" => startup.sandbox = false,
        "pidfile" => startup.pid_file = Some(options.absolute_path()?),
        "sockgroup" => startup.ownership.group = Some(options.text()?),
        "sockowner" => startup.ownership.owner = Some(options.text()?),
        "sockperms" => startup.ownership.mode = Some(options.mode()?),
        "user" => startup.user = Some(options.text()?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn not_allowed(option: &str, error: &LookupError) -> OptionsError {
    OptionsError::new(format!("{option}: {error}"))
}

/// The default settings of a daemon that listens on `listen` unless told otherwise.
///
/// # Errors
/// [`OptionsError`] if that address is invalid.
pub fn daemon(name: &'static str, listen: &str) -> Result<Startup, OptionsError> {
    let default_listen: Address =
        listen.parse().map_err(|error| OptionsError::new(format!("-listen: {error}")))?;
    Ok(Startup {
        name,
        listen: Vec::new(),
        default_listen,
        inherits: Vec::new(),
        ownership: Default::default(),
        allowed: Default::default(),
        daemon: false,
        pid_file: None,
        handover: None,
        user: None,
        killable: false,
        sandbox: true,
        lock_memory: false,
        reloads: false,
    })
}
