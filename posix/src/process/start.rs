//! Starting a daemon: everything that can fail, in the order that lets it drop privileges.
//!
//! Close inherited descriptors, listen, set owner, group and mode of the sockets, detach, write the pid
//! file, change the user. Then the program allocates its memory, reports that it is ready, and enters
//! its loop.

use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

use crate::net::address::Address;
use crate::net::listener::{ListenError, Listener, Ownership};
use crate::process::limits;
use crate::process::log;
use crate::process::signals::Signals;
use crate::process::{
    self, ActivationError, DetachError, Detached, PidFile, PidFileError, UserError,
};
use crate::sys;

/// Descriptors of a daemon besides those of its clients: standard streams, poller, signals, listeners,
/// upstream connections, the spare one, and some more.
const DESCRIPTORS: usize = 64;
/// Descriptors that every daemon has: three standard streams, two for signals, two of the poller, and
/// the spare one.
const DESCRIPTORS_MIN: usize = 8;

/// Settings of a daemon's start.
#[derive(Clone, Debug)]
pub struct Startup {
    /// The program's name, which begins its log lines.
    pub name: &'static str,
    /// Addresses to listen on. If empty: the sockets that a service manager passes (`LISTEN_FDS`), or
    /// else `default_listen`.
    pub listen: Vec<Address>,
    /// The address to listen on by default.
    pub default_listen: Address,
    /// Other addresses of the program. Descriptors that they name stay open; all other inherited ones
    /// are closed.
    pub inherits: Vec<Address>,
    /// Owner, group and mode of UNIX sockets.
    pub ownership: Ownership,
    /// Whether to detach from the terminal.
    pub daemon: bool,
    /// The path of the pid file.
    pub pid_file: Option<PathBuf>,
    /// The user to switch to: `user` or `user:group`.
    pub user: Option<String>,
    /// Whether SIGUSR1 and SIGUSR2 end it.
    pub killable: bool,
}

/// Why a daemon cannot start.
#[derive(Debug)]
pub enum StartError {
    /// The variables of socket activation are invalid.
    Activation(ActivationError),
    /// Listening failed.
    Listen(ListenError),
    /// Detaching from the terminal failed.
    Detach(DetachError),
    /// The pid file could not be created.
    PidFile(PidFileError),
    /// Switching the user failed.
    User(UserError),
    /// Installing the signal handlers failed.
    Signals(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Activation(error) => error.fmt(f),
            Self::Listen(error) => error.fmt(f),
            Self::Detach(error) => error.fmt(f),
            Self::PidFile(error) => error.fmt(f),
            Self::User(error) => error.fmt(f),
            Self::Signals(error) => write!(f, "cannot take over signals: {error}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Activation(_) => None,
            Self::Listen(error) => error.source(),
            Self::Detach(error) => error.source(),
            Self::PidFile(error) => error.source(),
            Self::User(error) => error.source(),
            Self::Signals(error) => Some(error),
        }
    }
}

/// A daemon that has started and does not serve yet.
#[derive(Debug)]
pub struct Started {
    name: &'static str,
    listeners: Vec<Listener>,
    signals: Option<Signals>,
    detached: Option<Detached>,
    foreground: bool,
    addresses: Vec<String>,
    _pid_file: Option<PidFile>,
}

impl Startup {
    /// Listens, detaches, writes the pid file and drops privileges, in this order.
    ///
    /// With `daemon` it returns in the new process. The calling process exits once that is ready.
    ///
    /// # Errors
    /// [`StartError`]. All sockets are closed again.
    pub fn start(&self) -> Result<Started, StartError> {
        let mut passed = process::take_activation().map_err(StartError::Activation)?;
        if !self.listen.is_empty() {
            passed = 0..0;
        }
        sys::close_inherited(&self.named_descriptors(passed.clone()));
        let listeners = self.open(passed)?;
        for warning in listeners.iter().flat_map(Listener::warnings) {
            warn(self.name, warning);
        }
        if let Some(socket) = listeners.iter().find_map(|listener| self.is_exposed(listener)) {
            warn(
                self.name,
                &format!(
                    "the default socket {} is in a directory that everybody can write to, so \
                     others can listen in its place; use -listen UNIX:/run/distcache/scache",
                    socket.display()
                ),
            );
        }
        let detached = self.daemon.then(process::detach).transpose().map_err(StartError::Detach)?;
        let mut started = Started {
            name: self.name,
            addresses: listeners.iter().map(Listener::address).collect(),
            listeners,
            signals: None,
            detached,
            foreground: !self.daemon,
            _pid_file: None,
        };
        match self.finish(&mut started) {
            Ok(()) => Ok(started),
            Err(error) => started.fail(error),
        }
    }

    /// The addresses to listen on: those given, or the default.
    pub fn addresses(&self) -> &[Address] {
        match &self.listen[..] {
            [] => std::slice::from_ref(&self.default_listen),
            listen => listen,
        }
    }

    /// The inherited descriptors that an option or the service manager names.
    fn named_descriptors(&self, passed: Range<RawFd>) -> Vec<RawFd> {
        let named = |address: &Address| match *address {
            Address::Fd { read, write } => [read, write],
            _ => [None, None],
        };
        let addresses = self.listen.iter().chain(&self.inherits);
        passed.chain(addresses.flat_map(named).flatten()).collect()
    }

    /// The path of the default socket, if root listens in a directory that everybody can write to.
    fn is_exposed<'l>(&self, listener: &'l Listener) -> Option<&'l Path> {
        let path = listener.path().filter(|_| self.listen.is_empty())?;
        let mode = rustix::fs::stat(path.parent()?).ok()?.st_mode;
        let open = Mode::from_raw_mode(mode).contains(Mode::WOTH);
        (open && rustix::process::geteuid().is_root()).then_some(path)
    }

    /// Opens all listeners.
    fn open(&self, passed: Range<RawFd>) -> Result<Vec<Listener>, StartError> {
        if !passed.is_empty() {
            let open = |number| Listener::passed(number, &self.ownership);
            return passed.map(open).collect::<Result<_, _>>().map_err(StartError::Listen);
        }
        let listen = self.addresses();
        let is_path =
            |address: &Address| matches!(address, Address::Unix(name) if name.path().is_some());
        let (some_path, default) = (listen.iter().any(is_path), Ownership::default());
        let open = |address| {
            // If a UNIX path is among the addresses, the ownership is meant for it alone.
            let applies = is_path(address) || !some_path;
            let ownership = if applies { &self.ownership } else { &default };
            Listener::open(address, ownership).map_err(StartError::Listen)
        };
        listen.iter().map(open).collect()
    }

    fn finish(&self, started: &mut Started) -> Result<(), StartError> {
        let signals = Signals::install(self.killable, self.daemon);
        started.signals = Some(signals.map_err(StartError::Signals)?);
        let pid_file = self.pid_file.as_deref().map(PidFile::create).transpose();
        started._pid_file = pid_file.map_err(StartError::PidFile)?;
        if let Some(user) = &self.user {
            process::change_user(user).map_err(StartError::User)?;
            warn_of_leftovers(user, started);
        }
        Ok(())
    }
}

impl Started {
    /// Prints a warning line on stderr, with the program's name.
    pub fn warn(&self, line: &str) {
        warn(self.name, line);
    }

    /// Prints a log line on stderr, with the program's name.
    pub fn info(&self, line: fmt::Arguments<'_>) {
        log::line(io::stderr(), format_args!("{}: {line}", self.name));
    }

    /// Prints a line on stdout.
    pub(crate) fn print(&self, line: fmt::Arguments<'_>) {
        log::line(io::stdout(), line);
    }

    /// Raises the descriptor limit for this many clients and servers. If it stays too low, prints for how
    /// many clients it is enough.
    pub fn provide_descriptors(&self, clients: usize, servers: usize) {
        let wanted = (clients + servers + DESCRIPTORS) as u64;
        let allowed = limits::raise_descriptors(wanted);
        let pid_file = usize::from(self._pid_file.is_some());
        let others = DESCRIPTORS_MIN + self.listeners.len() + servers + pid_file;
        let enough = allowed.saturating_sub(others as u64);
        if enough < clients as u64 {
            self.warn(&format!(
                "only {allowed} descriptors: about {enough} clients instead of {clients}; raise \
                 ulimit -n"
            ));
        }
    }

    /// Whether it runs in the foreground.
    pub fn foreground(&self) -> bool {
        self.foreground
    }

    /// Takes the listeners and signals, for the event loop. Can be called once.
    pub fn take(&mut self) -> (Vec<Listener>, Signals) {
        let signals = self.signals.take().expect("taken once, by the event loop");
        (std::mem::take(&mut self.listeners), signals)
    }

    /// Reports that the service is up: in the foreground by a line for each address, else to the waiting
    /// process.
    pub fn ready(&mut self) {
        if let Some(detached) = self.detached.take() {
            return detached.ready();
        }
        for address in &self.addresses {
            let _ = writeln!(io::stdout(), "{}: listening on {address}", self.name);
        }
        let _ = io::stdout().flush();
    }

    /// Reports a failure after detaching to the waiting process, and exits; otherwise returns the error.
    pub fn fail<T, E: fmt::Display>(&mut self, error: E) -> Result<T, E> {
        match self.detached.take() {
            Some(detached) => {
                // `fail` exits without dropping anything.
                self.listeners.clear();
                self._pid_file = None;
                detached.fail(&format!("{}: {error}", self.name))
            }
            None => Err(error),
        }
    }
}

/// Warns of files that `user` cannot remove at the end.
fn warn_of_leftovers(user: &str, started: &Started) {
    let sockets = started.listeners.iter().filter_map(Listener::path);
    for path in sockets.chain(started._pid_file.as_ref().map(PidFile::path)) {
        if !process::can_remove(path) {
            let dir = path.parent().unwrap_or(path).display();
            started.warn(&format!(
                "{} cannot be removed at the end: user '{user}' may not do so in {dir}; use a \
                 directory of that user's own, such as /run/distcache",
                path.display()
            ));
        }
    }
}

fn warn(name: &str, line: &str) {
    let _ = writeln!(io::stderr(), "{name}: warning: {line}");
}
