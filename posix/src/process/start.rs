//! Starting a daemon: everything that can fail, in the order that lets it drop privileges.
//!
//! Turn core dumps off, close inherited descriptors, listen, set owner, group and mode of the sockets,
//! detach, write the pid file, change the user. Then the program allocates its memory, enters the
//! [`sandbox`], reports that it is ready, and enters its loop.

mod threaded;

use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

use crate::handover::{Door, Predecessor, TakeError};
use crate::net::address::Address;
use crate::net::listener::{Allowed, ListenError, Listener, Ownership};
use crate::process::accounts;
use crate::process::limits;
use crate::process::log;
use crate::process::sandbox::{self, Permit};
use crate::process::signals::{Hangup, Signals};
use crate::process::{
    self, ActivationError, DetachError, Detached, PidFile, PidFileError, UserError,
};
use crate::sys;

pub use threaded::LockAllError;

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
    /// Who may connect to UNIX sockets.
    pub allowed: Allowed,
    /// Whether to detach from the terminal.
    pub daemon: bool,
    /// The path of the pid file.
    pub pid_file: Option<PathBuf>,
    /// The path of the socket for a successor, and for the server to take over from; absolute.
    pub handover: Option<PathBuf>,
    /// The user to switch to: `user` or `user:group`.
    pub user: Option<String>,
    /// Whether SIGUSR1 and SIGUSR2 end it.
    pub killable: bool,
    /// Whether to enter the [`sandbox`] after the start.
    pub sandbox: bool,
    /// Whether to lock the memory that holds sessions.
    pub lock_memory: bool,
    /// Whether it has files that SIGHUP makes it read again. Otherwise SIGHUP is ignored with `daemon`,
    /// and unchanged without.
    pub reloads: bool,
}

/// Why a daemon cannot start.
#[derive(Debug)]
pub enum StartError {
    /// The variables of socket activation are invalid.
    Activation(ActivationError),
    /// Listening failed.
    Listen(ListenError),
    /// Users or groups are allowed, and no listener is a UNIX socket.
    NoUsers,
    /// Detaching from the terminal failed.
    Detach(DetachError),
    /// The pid file could not be created.
    PidFile(PidFileError),
    /// Switching the user failed.
    User(UserError),
    /// Taking over from a running server failed, or its successor could not do so.
    Handover(TakeError),
    /// Installing the signal handlers failed.
    Signals(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Activation(error) => error.fmt(f),
            Self::Listen(error) => error.fmt(f),
            Self::NoUsers => f.write_str(
                "-allowuid and -allowgid apply to UNIX sockets, and it listens on none; leave them \
                 out, or give -listen UNIX:/path",
            ),
            Self::Detach(error) => error.fmt(f),
            Self::PidFile(error) => error.fmt(f),
            Self::User(error) => error.fmt(f),
            Self::Handover(error) => error.fmt(f),
            Self::Signals(error) => write!(f, "cannot take over signals: {error}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Activation(_) | Self::NoUsers => None,
            Self::Listen(error) => error.source(),
            Self::Detach(error) => error.source(),
            Self::PidFile(error) => error.source(),
            Self::User(error) => error.source(),
            Self::Handover(error) => error.source(),
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
    lock_memory: bool,
    addresses: Vec<String>,
    /// What the sandbox permits; `None` for no sandbox.
    permit: Option<Permit>,
    /// The user that was switched to.
    user: Option<String>,
    /// The files that are removed at the end.
    files: Vec<PathBuf>,
    pid_file: Option<PidFile>,
    door: Option<Door>,
    predecessor: Option<Predecessor>,
}

impl Startup {
    /// Listens, detaches, writes the pid file and drops privileges, in this order.
    ///
    /// With `daemon` it returns in the new process. The calling process exits once that is ready.
    ///
    /// # Errors
    /// [`StartError`]. All sockets are closed again.
    pub fn start(&self) -> Result<Started, StartError> {
        keep_secrets(self.name);
        let mut passed = process::take_activation().map_err(StartError::Activation)?;
        if !self.listen.is_empty() {
            passed = 0..0;
        }
        sys::close_inherited(&self.named_descriptors(passed.clone()));
        let mut predecessor = self.find_predecessor().map_err(StartError::Handover)?;
        let mut listeners = self.open(passed, &mut predecessor)?;
        self.allow(&mut listeners)?;
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
            permit: self.sandbox.then(Permit::default),
            user: self.user.clone(),
            files: Vec::new(),
            lock_memory: self.lock_memory,
            pid_file: None,
            door: None,
            predecessor,
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

    /// What SIGHUP does.
    const fn hangup(&self) -> Hangup {
        match (self.reloads, self.daemon) {
            (true, _) => Hangup::Reload,
            (false, true) => Hangup::Ignored,
            (false, false) => Hangup::Unchanged,
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

    /// Greets the server to take over from, if there is one.
    fn find_predecessor(&self) -> Result<Option<Predecessor>, TakeError> {
        let Some(path) = &self.handover else { return Ok(None) };
        Predecessor::find(path, self.user.as_deref().and_then(user_id))
    }

    /// Opens all listeners, except those of the predecessor.
    fn open(
        &self,
        passed: Range<RawFd>,
        predecessor: &mut Option<Predecessor>,
    ) -> Result<Vec<Listener>, StartError> {
        if !passed.is_empty() {
            let open = |number| Listener::passed(number, &self.ownership);
            return passed.map(open).collect::<Result<_, _>>().map_err(StartError::Listen);
        }
        let listen = self.addresses();
        let is_path =
            |address: &Address| matches!(address, Address::Unix(name) if name.path().is_some());
        let (some_path, default) = (listen.iter().any(is_path), Ownership::default());
        let open = |address| {
            if let Some(taken) = predecessor.as_mut().and_then(|old| old.listener(address)) {
                return Ok(taken);
            }
            // If a UNIX path is among the addresses, the ownership is meant for it alone.
            let applies = is_path(address) || !some_path;
            let ownership = if applies { &self.ownership } else { &default };
            Listener::open(address, ownership).map_err(StartError::Listen)
        };
        listen.iter().map(open).collect()
    }

    /// Restricts who may connect to the listeners that are UNIX sockets.
    fn allow(&self, listeners: &mut [Listener]) -> Result<(), StartError> {
        if self.allowed.is_everyone() {
            return Ok(());
        }
        let restricted =
            listeners.iter_mut().filter_map(|listener| listener.allow(&self.allowed).then_some(()));
        if restricted.count() == 0 { Err(StartError::NoUsers) } else { Ok(()) }
    }

    fn finish(&self, started: &mut Started) -> Result<(), StartError> {
        let signals = Signals::install(self.killable, self.hangup());
        started.signals = Some(signals.map_err(StartError::Signals)?);
        if self.lock_memory {
            limits::raise_locked_memory();
        }
        let old = &mut started.predecessor;
        if let Some(path) = &self.pid_file {
            let taken = old.as_mut().and_then(|old| old.pid_file(path));
            let pid_file = taken.map_or_else(|| PidFile::create(path), Ok);
            started.pid_file = Some(pid_file.map_err(StartError::PidFile)?);
        }
        if let Some(path) = &self.handover {
            let taken = old.as_mut().and_then(Predecessor::door);
            let door = taken.map_or_else(|| Door::open(path), Ok);
            let door = door.map_err(|error| TakeError::door(path, error));
            started.door = Some(door.map_err(StartError::Handover)?);
        }
        if let Some(user) = &self.user {
            process::change_user(user).map_err(StartError::User)?;
            keep_secrets(self.name);
        }
        let sockets = started.listeners.iter().filter_map(Listener::path);
        let files = sockets.chain(started.pid_file.as_ref().map(PidFile::path));
        started.files = files.map(Path::to_owned).collect();
        #[cfg(target_os = "linux")]
        if let Some(door) = &started.door {
            started.files.push(door.path().to_owned());
            started.permit(|permit| permit.extra(sandbox::Extra::MemoryFiles));
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
        let pid_file = usize::from(self.pid_file.is_some());
        let others = DESCRIPTORS_MIN + self.listeners.len() + servers + pid_file;
        let enough = allowed.saturating_sub(others as u64);
        if enough < clients as u64 {
            self.warn(&format!(
                "only {allowed} descriptors: about {enough} clients instead of {clients}; raise \
                 ulimit -n"
            ));
        }
    }

    /// Whether it will enter the sandbox.
    pub(crate) fn is_sandboxed(&self) -> bool {
        self.permit.is_some()
    }

    /// Asks to keep something in the sandbox; `ask` is not called if there will be none.
    pub fn permit(&mut self, ask: impl FnOnce(&mut Permit)) {
        if let Some(permit) = &mut self.permit {
            ask(permit);
        }
    }

    /// Enters the sandbox, unless `-nosandbox` was given. Prints a warning if it is incomplete.
    ///
    /// Call it when all that needs more has been done: files, memory, other processes.
    pub fn enter_sandbox(&mut self) {
        let permit = self.permit.take();
        let dropped = permit.as_ref().map(|_| sandbox::drop_privileges());
        if self.user.is_some() || (permit.is_some() && rustix::process::geteuid().is_root()) {
            self.warn_of_leftovers();
        }
        let restricted = permit.map(|mut permit| {
            self.files.iter().for_each(|path| permit.remove(path));
            permit.restrict()
        });
        for missing in [dropped, restricted].into_iter().flatten().filter_map(Result::err) {
            self.warn(&missing.to_string());
        }
    }

    /// Warns of files that this process cannot remove at the end.
    fn warn_of_leftovers(&self) {
        let (user, remedy) = match &self.user {
            Some(user) => (format!("user '{user}'"), "use a directory of that user's own"),
            None => (
                "root without its capabilities".to_owned(),
                "give -user the owner of that directory, or use a directory of root's own",
            ),
        };
        for path in self.files.iter().filter(|path| !process::can_remove(path)) {
            let dir = path.parent().unwrap_or(path).display();
            self.warn(&format!(
                "{} cannot be removed at the end: {user} may not do so in {dir}; {remedy}",
                path.display(),
            ));
        }
    }

    /// Whether it runs in the foreground.
    pub fn foreground(&self) -> bool {
        self.foreground
    }

    /// Whether to lock the memory that holds sessions.
    pub(crate) fn locks_memory(&self) -> bool {
        self.lock_memory
    }

    /// Takes the listeners and signals, for the event loop. Can be called once.
    pub fn take(&mut self) -> (Vec<Listener>, Signals) {
        let signals = self.signals.take().expect("taken once, by the event loop");
        (std::mem::take(&mut self.listeners), signals)
    }

    #[cfg(target_os = "linux")]
    /// The socket for successors. Can be taken once, by the event loop.
    pub(crate) fn take_door(&mut self) -> Option<Door> {
        self.door.take()
    }

    /// Whether there will be a socket for successors.
    pub(crate) fn has_door(&self) -> bool {
        self.door.is_some()
    }

    /// Whether there is a server to take over from.
    pub(crate) fn has_predecessor(&self) -> bool {
        self.predecessor.is_some()
    }

    #[cfg(target_os = "linux")]
    /// The server to take over from. Can be taken once.
    pub(crate) fn take_predecessor(&mut self) -> Option<Predecessor> {
        self.predecessor.take()
    }

    #[cfg(target_os = "linux")]
    /// Its pid file.
    pub(crate) fn pid_file(&self) -> Option<&PidFile> {
        self.pid_file.as_ref()
    }

    #[cfg(target_os = "linux")]
    /// Its pid file.
    pub(crate) fn pid_file_mut(&mut self) -> Option<&mut PidFile> {
        self.pid_file.as_mut()
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
                self.pid_file = None;
                self.door = None;
                detached.fail(&format!("{}: {error}", self.name))
            }
            None => Err(error),
        }
    }
}

/// Turns core dumps off, or warns that they stay on.
pub(crate) fn keep_secrets(name: &str) {
    if let Err(error) = limits::forbid_core_dumps() {
        warn(name, &format!("cannot turn off core dumps, which would contain sessions: {error}"));
    }
}

/// The number of a user; `None` if there is no such user, which is reported later.
fn user_id(name: &str) -> Option<u32> {
    accounts::account(name).ok().map(|account| account.uid)
}

fn warn(name: &str, line: &str) {
    let _ = writeln!(io::stderr(), "{name}: warning: {line}");
}
