//! What `dc_snoop` runs: it forwards bytes unchanged in both directions, and prints the messages.
//!
//! ```text
//!  client ── recv ──► Fifo ── send ──► server        each client has its own connection
//!            └──► Reader ──► line                    to the server
//! ```
//!
//! When one side closes its sending direction, the other side's is closed after the last byte; the
//! opposite direction continues. [`run`] returns when the reader of the lines has gone.

mod lines;
mod print;

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use distcache_core::buffer::{Fifo, Pool};
use distcache_core::snoop::Pairs;
use distcache_core::wire::Direction;

use crate::memory::{BUFFER_LEN, Memory};
use crate::net::address::{Address, Targets};
use crate::net::listener::Listener;
use crate::net::poller::{Event, Events, Interest, Poller, Watched};
use crate::net::spare_fd::{self, SpareFd};
use crate::net::stream::{Received, Stream};
use crate::process::limits;
use crate::process::sandbox::Permit;
use crate::process::signals::{Hangup, Signals};
use crate::process::start::keep_secrets;
use crate::reason::Unreachable;
use crate::secret::wipe_stack;

use print::{Decoder, Printer};

/// The most connections at a time; more are refused.
pub const CONNECTIONS_MAX: usize = 1024;

/// Descriptors other than connections: standard streams, listener, signals, poller, and the spare one.
const DESCRIPTORS: usize = 9;
/// How long no connections are accepted after accepting has failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const SIGNALS_KEY: usize = 0;
const LISTENER_KEY: usize = 1;
const OUT_KEY: usize = 2;
const ENDS_KEY: usize = 3;

/// Snoop configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on.
    pub listen: Address,
    /// The server to forward to.
    pub server: Address,
    /// Whether to print payloads too. They contain secrets.
    pub full: bool,
    /// Whether to enter the [sandbox](crate::process::sandbox) after the start.
    pub sandbox: bool,
}

/// Forwards until a signal ends it, until no client is left and none can come any more, or until the
/// reader of `out` has gone.
///
/// # Errors
/// A line that says what could not be opened, or that polling failed.
pub fn run(config: &Config, mut out: impl Write + AsFd) -> Result<(), String> {
    let line = |error: &dyn std::fmt::Display| error.to_string();
    keep_secrets("dc_snoop");
    let targets = config.server.resolve().map_err(|error| line(&error))?;
    let listener = Listener::open(&config.listen, &Default::default());
    let listener = listener.map_err(|error| line(&error))?;
    let signals = Signals::install(false, Hangup::Unchanged).map_err(|error| line(&error))?;
    provide_descriptors();
    let poller = Poller::new().map_err(|error| line(&error))?;
    // Fails for a file, which has no reader that could go.
    let _ = poller.add_fd(out.as_fd(), OUT_KEY, Interest::NONE);
    let _ = writeln!(out, "dc_snoop: listening on {}", listener.address());
    let _ = out.flush();
    let memory = Memory::zeroed(2 * CONNECTIONS_MAX * BUFFER_LEN);
    let mut memory = memory.map_err(|error| line(&error))?;
    memory.hide();
    let mut snoop = Snoop {
        poller,
        pool: Pool::new(&mut memory[..], BUFFER_LEN),
        printer: Printer::new(&mut out, config.full),
        spare_fd: SpareFd::new().map_err(|error| line(&error))?,
        accept_at: None,
        pipes: std::iter::repeat_with(|| None).take(CONNECTIONS_MAX).collect(),
        open: 0,
        count: 0,
        targets,
    };
    if config.sandbox {
        enter_sandbox(&listener, &snoop.targets);
    }
    snoop.run(&listener, &signals).map_err(|error| line(&error))
}

/// Raises the limit of descriptors to what the connections need, or warns how many it allows.
fn provide_descriptors() {
    let wanted = (2 * CONNECTIONS_MAX + DESCRIPTORS) as u64;
    let allowed = limits::raise_descriptors(wanted);
    if allowed < wanted {
        let enough = allowed.saturating_sub(DESCRIPTORS as u64) / 2;
        let _ = writeln!(
            io::stderr(),
            "dc_snoop: warning: only {allowed} descriptors: about {enough} connections instead of \
             {CONNECTIONS_MAX}; raise ulimit -n"
        );
    }
}

/// Keeps what forwarding to `targets` needs, and the removal of the listener's socket.
fn enter_sandbox(listener: &Listener, targets: &Targets) {
    let mut permit = Permit::default();
    targets.iter().for_each(|target| permit.connect_to(target));
    if let Some(path) = listener.path() {
        permit.remove(path);
    }
    if let Err(missing) = permit.enter() {
        let _ = writeln!(io::stderr(), "dc_snoop: warning: {missing}");
    }
}

struct Snoop<'m, 'o> {
    poller: Poller,
    pool: Pool<&'m mut [u8]>,
    printer: Printer<'o>,
    spare_fd: SpareFd,
    /// When to accept again after accepting has failed.
    accept_at: Option<Instant>,
    pipes: Vec<Option<Pipe>>,
    open: usize,
    /// The number of connections so far, including those refused: each is printed with its number.
    count: u64,
    targets: Targets,
}

/// A client's connection, and the connection to the server made for it.
struct Pipe {
    number: u64,
    /// The client's end and the server's.
    ends: [End; 2],
    pairs: Pairs<Instant>,
    /// While the server's end is connecting: the targets that have not been tried.
    connecting: Option<Targets>,
}

struct End {
    stream: Watched,
    /// Bytes received from this end that the other end has not taken.
    bytes: Fifo,
    decoder: Decoder,
    /// The peer has closed its sending side.
    ended: bool,
    /// Our sending side is closed.
    shut: bool,
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

impl End {
    fn new(stream: Watched, direction: Direction) -> Self {
        let decoder = Decoder::new(direction);
        Self { stream, bytes: Fifo::new(), decoder, ended: false, shut: false }
    }
}

impl Snoop<'_, '_> {
    fn run(&mut self, listener: &Listener, signals: &Signals) -> io::Result<()> {
        self.poller.add_fd(signals.fd(), SIGNALS_KEY, Interest::READ)?;
        self.poller.add_listener(listener, LISTENER_KEY)?;
        let mut events = Events::new();
        loop {
            if listener.ready() {
                self.accept(listener);
            }
            if listener.finished() && self.open == 0 {
                return Ok(());
            }
            let pause = self.accept_at.map(|at| at.saturating_duration_since(Instant::now()));
            self.poller.wait(&mut events, pause)?;
            if signals.take().is_some() {
                return Ok(());
            }
            for event in events.iter() {
                match event.key {
                    SIGNALS_KEY => {}
                    LISTENER_KEY => self.accept(listener),
                    OUT_KEY => self.printer.reader_has_gone(),
                    key => self.handle_event(key - ENDS_KEY, event),
                }
            }
            if self.accept_at.is_some_and(|at| at <= Instant::now()) {
                self.accept_at = None;
                self.poller.modify_listener(listener, LISTENER_KEY, true)?;
            }
            self.printer.flush();
            // Decoded messages have passed over the stack.
            wipe_stack();
            if self.printer.is_done() {
                return Ok(());
            }
        }
    }

    fn accept(&mut self, listener: &Listener) {
        match listener.accept() {
            Ok(Some(client)) => self.accept_one(client),
            Ok(None) => {}
            Err(error) if self.spare_fd.applies_to(&error) => {
                let before = self.spare_fd.refused();
                self.spare_fd.refuse_one(listener);
                if self.spare_fd.refused() > before {
                    self.count += 1;
                    self.printer.event(self.count, &format!("refused: {}", RefusalReason(&error)));
                }
            }
            // The connection stays in the backlog, and the poller would report it all the time.
            Err(_) => {
                self.accept_at = Some(Instant::now() + ACCEPT_PAUSE);
                let _ = self.poller.modify_listener(listener, LISTENER_KEY, false);
            }
        }
    }

    /// Connects a client to the server, or closes its connection.
    fn accept_one(&mut self, client: Stream) {
        self.count += 1;
        let Some(place) = self.pipes.iter().position(Option::is_none) else {
            let line = format!("refused: there are {CONNECTIONS_MAX} connections already");
            return self.printer.event(self.count, &line);
        };
        let mut left = self.targets.clone();
        let (server, connecting) = match connect(&mut left) {
            Ok(server) => server,
            Err(error) => {
                return self
                    .printer
                    .event(self.count, &format!("refused: {}", RefusalReason(&error)));
            }
        };
        self.open += 1;
        self.printer.event(self.count, "opened");
        let client = Watched::new(client, end_key(place, CLIENT));
        let server = Watched::new(server, end_key(place, SERVER));
        self.pipes[place] = Some(Pipe {
            number: self.count,
            ends: [End::new(client, Direction::Request), End::new(server, Direction::Response)],
            pairs: Pairs::new(),
            connecting: connecting.then_some(left),
        });
        self.watch(place);
    }

    #[inline(never)]
    fn handle_event(&mut self, end: usize, event: Event) {
        let (place, side) = (end / 2, end % 2);
        let Some(pipe) = self.pipes.get_mut(place).and_then(Option::as_mut) else { return };
        if pipe.connecting.is_some() {
            if side == SERVER {
                self.connected(place);
            } else if event.hangup {
                self.close(place, "closed: the client left before the server was connected");
            }
            return;
        }
        let End { stream, ended, .. } = &pipe.ends[side];
        let (ended, interest) = (*ended, stream.interest());
        let gone = event.hangup && interest == Interest::NONE;
        if gone && ended && pipe.ends[1 - side].bytes.is_empty() {
            // It has sent its last byte and was owed none: an orderly end.
            return self.close(place, "closed");
        }
        let moved = if gone {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            let read = event.readable || event.hangup;
            self.receive(place, side, read && interest.read)
                .and_then(|()| self.send(place, side))
                .and_then(|()| self.send(place, 1 - side))
        };
        match moved {
            Ok(()) => self.watch(place),
            Err(error) => self.close(place, &format!("closed: {}", error.kind())),
        }
    }

    /// Handles the end of an attempt to connect; tries the next target if it has failed.
    fn connected(&mut self, place: usize) {
        let Some(pipe) = &mut self.pipes[place] else { return };
        let Some(mut left) = pipe.connecting.take() else { return };
        if let Err(error) = pipe.ends[SERVER].stream.connected() {
            let next = if left.is_empty() { Err(error) } else { connect(&mut left) };
            let (server, connecting) = match next {
                Ok(server) => server,
                Err(error) => {
                    return self.close(place, &format!("closed: {}", RefusalReason(&error)));
                }
            };
            pipe.ends[SERVER].stream = Watched::new(server, end_key(place, SERVER));
            pipe.connecting = connecting.then_some(left);
        }
        self.watch(place);
    }

    /// Receives once from an end, and prints what that completes.
    fn receive(&mut self, place: usize, side: usize, readable: bool) -> io::Result<()> {
        let Some(pipe) = &mut self.pipes[place] else { return Ok(()) };
        let end = &mut pipe.ends[side];
        if !readable || !end.bytes.is_empty() {
            return Ok(());
        }
        let space = end.bytes.space(&mut self.pool);
        match end.stream.recv(space)? {
            Received::Nothing => end.bytes.filled(&mut self.pool, 0),
            Received::Ended => {
                end.bytes.filled(&mut self.pool, 0);
                end.ended = true;
            }
            Received::Bytes(len) => {
                let received = space.get(..len).unwrap_or_default();
                self.printer.print(pipe.number, &mut end.decoder, &mut pipe.pairs, received);
                end.bytes.filled(&mut self.pool, len);
            }
        }
        Ok(())
    }

    /// Sends once to an end what the other has sent, and closes its sending side after the last byte.
    fn send(&mut self, place: usize, side: usize) -> io::Result<()> {
        let Some(pipe) = &mut self.pipes[place] else { return Ok(()) };
        let [client, server] = &mut pipe.ends;
        let (to, from) = if side == CLIENT { (client, server) } else { (server, client) };
        if !from.bytes.is_empty() {
            let sent = to.stream.send(from.bytes.bytes(&self.pool))?;
            from.bytes.consume(&mut self.pool, sent);
        }
        if from.ended && from.bytes.is_empty() && !to.shut {
            to.shut = true;
            to.stream.shutdown_write()?;
        }
        Ok(())
    }

    /// Watches both ends for what can happen next, or closes a pipe that is done.
    fn watch(&mut self, place: usize) {
        let Some(pipe) = &mut self.pipes[place] else { return };
        let [client, server] = &pipe.ends;
        if client.shut && server.shut {
            return self.close(place, "closed");
        }
        let connecting = pipe.connecting.is_some();
        let wanted = |from: &End, to: &End| Interest {
            read: !connecting && !from.ended && from.bytes.is_empty(),
            write: !to.bytes.is_empty(),
        };
        let mut wants = [wanted(client, server), wanted(server, client)];
        wants[SERVER].write |= connecting;
        let mut watched = pipe.ends.iter_mut().zip(wants);
        if !watched.all(|(end, wants)| end.stream.watch(&self.poller, wants).is_ok()) {
            self.close(place, "closed: polling failed");
        }
    }

    fn close(&mut self, place: usize, why: &str) {
        let Some(Pipe { number, ends, .. }) = self.pipes[place].take() else { return };
        self.open -= 1;
        for mut end in ends {
            end.bytes.clear(&mut self.pool);
            end.stream.close(&self.poller);
            self.printer.print_unfinished(number, &mut end.decoder);
        }
        self.printer.event(number, why);
    }
}

/// The poller's key for one end of a pipe.
fn end_key(place: usize, side: usize) -> usize {
    ENDS_KEY + 2 * place + side
}

/// Connects to the first target that accepts, and removes those tried from `left`. The flag says that
/// the outcome is still open. The error is that of the last target.
fn connect(left: &mut Targets) -> io::Result<(Stream, bool)> {
    let mut failed = io::ErrorKind::NotFound.into();
    while !left.is_empty() {
        let target = left.remove(0);
        match Stream::connect(&target) {
            Ok(connecting) => return Ok(connecting),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Displays why a client is refused.
struct RefusalReason<'a>(&'a io::Error);

impl fmt::Display for RefusalReason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if spare_fd::out_of_descriptors(self.0) {
            return f.write_str("no descriptors left; raise ulimit -n");
        }
        write!(f, "the server is unreachable ({})", Unreachable(self.0.kind()))
    }
}
