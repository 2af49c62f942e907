//! How a daemon starts: what may fail first, and in the order that lets it drop what it needs for it.
//!
//! Close what was inherited and nobody named, bind and listen, owner, group and mode of the socket,
//! detach, pid file, change of user; then the program takes its memory, says that it is ready, and
//! loops.

use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use distcache_core::clients::Counters;
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

/// Descriptors that a daemon has beside its clients': standard streams, poller, signals, listeners,
/// the server's, the one in reserve, and some to spare.
const DESCRIPTORS: usize = 64;
/// Those of them that every daemon has: three standard streams, two of signals, two of the poller, and
/// the one in reserve.
const DESCRIPTORS_MIN: usize = 8;

/// What a daemon is told about itself.
#[derive(Clone, Debug)]
pub struct Startup {
    /// The program's name, at the front of its lines.
    pub name: &'static str,
    /// Where clients come from. Where it is empty, from the sockets that a service manager has handed
    /// over (`LISTEN_FDS`), or else from `usual`.
    pub listen: Vec<Address>,
    /// Where clients come from where nothing else was said.
    pub usual: Address,
    /// Other addresses of the program: descriptors that they name stay open, while everything else
    /// that the process was started with is closed.
    pub inherits: Vec<Address>,
    /// To whom UNIX sockets belong.
    pub ownership: Ownership,
    /// Whether to detach from the terminal.
    pub daemon: bool,
    /// Where to write the process id.
    pub pid_file: Option<PathBuf>,
    /// As whom to go on.
    pub user: Option<String>,
    /// Whether SIGUSR1 and SIGUSR2 end it.
    pub killable: bool,
}

/// Why a daemon can't start.
#[derive(Debug)]
pub enum StartError {
    /// It can't tell which sockets were handed over.
    Activation(ActivationError),
    /// It can't listen.
    Listen(ListenError),
    /// It can't leave the terminal.
    Detach(DetachError),
    /// It can't write its process id.
    PidFile(PidFileError),
    /// It can't become that user.
    User(UserError),
    /// It can't take over its signals.
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

/// A daemon that has all it asked of the system, and does not serve yet.
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
    /// Opens, detaches and drops, in this order.
    ///
    /// Returns in the daemon where one is asked for; the process that called it ends when that is
    /// ready.
    ///
    /// # Errors
    /// [`StartError`]. What was opened is closed again.
    pub fn start(&self) -> Result<Started, StartError> {
        let mut handed = process::take_activation().map_err(StartError::Activation)?;
        if !self.listen.is_empty() {
            handed = 0..0;
        }
        sys::close_inherited(&self.named_descriptors(handed.clone()));
        let listeners = self.open(handed)?;
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

    /// The addresses to listen on: those given, or the usual one.
    pub fn addresses(&self) -> &[Address] {
        match &self.listen[..] {
            [] => std::slice::from_ref(&self.usual),
            listen => listen,
        }
    }

    /// The inherited descriptors that somebody has a use for.
    fn named_descriptors(&self, handed: Range<RawFd>) -> Vec<RawFd> {
        let named = |address: &Address| match *address {
            Address::Fd { read, write } => [read, write],
            _ => [None, None],
        };
        let addresses = self.listen.iter().chain(&self.inherits);
        handed.chain(addresses.flat_map(named).flatten()).collect()
    }

    /// The path of the default socket, where root listens in a directory that is everybody's.
    fn is_exposed<'l>(&self, listener: &'l Listener) -> Option<&'l Path> {
        let path = listener.path().filter(|_| self.listen.is_empty())?;
        let mode = rustix::fs::stat(path.parent()?).ok()?.st_mode;
        let open = Mode::from_raw_mode(mode).contains(Mode::WOTH);
        (open && rustix::process::geteuid().is_root()).then_some(path)
    }

    /// Opens all that is to be listened on.
    fn open(&self, handed: Range<RawFd>) -> Result<Vec<Listener>, StartError> {
        if !handed.is_empty() {
            let open = |number| Listener::handed_over(number, &self.ownership);
            return handed.map(open).collect::<Result<_, _>>().map_err(StartError::Listen);
        }
        let listen = self.addresses();
        let is_path =
            |address: &Address| matches!(address, Address::Unix(name) if name.path().is_some());
        let (some_path, nobodys) = (listen.iter().any(is_path), Ownership::default());
        let open = |address| {
            // Where one of several has an owner to set, the others are not meant.
            let meant = is_path(address) || !some_path;
            let ownership = if meant { &self.ownership } else { &nobodys };
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
    /// Prints a warning: a line on stderr with the program's name.
    pub fn warn(&self, line: &str) {
        warn(self.name, line);
    }

    /// Prints what has happened: a line on stderr with the program's name.
    pub fn info(&self, line: fmt::Arguments<'_>) {
        log::line(io::stderr(), format_args!("{}: {line}", self.name));
    }

    /// Prints a line on stdout as it is.
    pub(crate) fn print(&self, line: fmt::Arguments<'_>) {
        log::line(io::stdout(), line);
    }

    /// Prints what became of clients, of which `unheard` were refused for want of descriptors.
    pub(crate) fn report_clients(&self, counters: &Counters, unheard: u64) {
        let Counters { accepted, refused, malformed, idle, stalled } = counters;
        let refused = refused + unheard;
        self.info(format_args!(
            "{accepted} clients, {refused} more refused; closed: {malformed} malformed, {idle} idle, \
             {stalled} stalled"
        ));
    }

    /// Has the system allow as many descriptors as this many clients and servers need, or says for how
    /// many clients there are enough.
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

    /// Gives away what the loop works with. Signals are given once.
    pub fn take(&mut self) -> (Vec<Listener>, Signals) {
        let signals = self.signals.take().expect("a loop takes what a start has opened, once");
        (std::mem::take(&mut self.listeners), signals)
    }

    /// Says that the service is up: in the foreground a line for each address, else to the process
    /// that started it.
    pub fn ready(&mut self) {
        if let Some(detached) = self.detached.take() {
            return detached.ready();
        }
        for address in &self.addresses {
            let _ = writeln!(io::stdout(), "{}: listening on {address}", self.name);
        }
        let _ = io::stdout().flush();
    }

    /// Ends a start that failed after detaching: the process that waits is told why.
    pub fn fail<T, E: fmt::Display>(&mut self, error: E) -> Result<T, E> {
        match self.detached.take() {
            Some(detached) => {
                // The process ends there, and nothing is dropped on its way.
                self.listeners.clear();
                self._pid_file = None;
                detached.fail(&format!("{}: {error}", self.name))
            }
            None => Err(error),
        }
    }
}

/// Names the files that the process can't remove in the end, now that it is `user`.
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
