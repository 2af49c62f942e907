//! What `dc_snoop` does: pass bytes both ways unchanged, and print what goes by.
//!
//! ```text
//!  client ── recv ──► Fifo ── send ──► server        each client has a connection of its own
//!            └──► Reader ──► line                    to the server
//! ```
//!
//! A side that ends is ended on the other side once all its bytes have gone there; the other
//! direction goes on. Once nobody reads what is printed, there is no reason to go on: `run` returns.

mod print;

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::time::{self, Duration, Instant};

use distcache_core::buffer::{Fifo, Pool};
use distcache_core::snoop::Pairs;
use distcache_core::wire::Direction;

use crate::memory::Memory;
use crate::net::address::{Address, Targets};
use crate::net::listener::Listener;
use crate::net::poller::{Event, Events, Interest, Poller};
use crate::net::spare_fd::{self, SpareFd};
use crate::net::stream::{Received, Stream};
use crate::process::limits;
use crate::process::signals::Signals;
use crate::reason::Unreachable;
use crate::server::BUFFER_LEN;

use print::{Printer, Watch};

/// The most connections at a time; more are refused.
pub const CONNECTIONS_MAX: usize = 1024;

/// Descriptors beside those of connections: standard streams, listener, signals, poller, the one in
/// reserve.
const DESCRIPTORS: usize = 9;
/// How long a listener that failed is left alone.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const SIGNALS_KEY: usize = 0;
const LISTENER_KEY: usize = 1;
const OUT_KEY: usize = 2;
const ENDS_KEY: usize = 3;

/// Snoop configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients come from.
    pub listen: Address,
    /// Where they go.
    pub server: Address,
    /// Whether to print payloads too, which are secrets.
    pub full: bool,
}

/// Passes bytes on until a signal ends it, no client can come any more, or nobody reads `out` any more.
///
/// # Errors
/// A line that says what can't be opened, or that polling failed.
pub fn run(config: &Config, out: impl Write + AsFd) -> Result<(), String> {
    let line = |error: &dyn std::fmt::Display| error.to_string();
    let targets = config.server.resolve().map_err(|error| line(&error))?;
    let listener = Listener::open(&config.listen, &Default::default());
    let listener = listener.map_err(|error| line(&error))?;
    let signals = Signals::install(false, false).map_err(|error| line(&error))?;
    provide_descriptors();
    let poller = Poller::new().map_err(|error| line(&error))?;
    // A file can't be watched, and has nobody who might stop to read it.
    let _ = poller.add_fd(out.as_fd(), OUT_KEY, Interest::NONE);
    let mut out = BufWriter::new(out);
    let _ = writeln!(out, "dc_snoop: listening on {}", listener.address());
    let _ = out.flush();
    let memory = Memory::zeroed(2 * CONNECTIONS_MAX * BUFFER_LEN);
    let mut memory = memory.map_err(|error| line(&error))?;
    let mut snoop = Snoop {
        poller,
        pool: Pool::new(&mut memory[..], BUFFER_LEN),
        printer: Printer::new(&mut out, config.full),
        reserve: SpareFd::new().map_err(|error| line(&error))?,
        accept_at: None,
        pipes: std::iter::repeat_with(|| None).take(CONNECTIONS_MAX).collect(),
        open: 0,
        came: 0,
        targets,
    };
    snoop.run(&listener, &signals).map_err(|error| line(&error))
}

/// Has the system allow as many descriptors as the connections need, or says for how many there are
/// enough.
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

struct Snoop<'m, 'o> {
    poller: Poller,
    pool: Pool<&'m mut [u8]>,
    printer: Printer<'o>,
    reserve: SpareFd,
    /// When a listener that failed is asked again.
    accept_at: Option<Instant>,
    pipes: Vec<Option<Pipe>>,
    open: usize,
    /// How many connections there have been, those that were refused too, which numbers them.
    came: u64,
    targets: Targets,
}

/// One client's connection, and the one to the server that belongs to it.
struct Pipe {
    number: u64,
    /// The client's end and the server's.
    ends: [End; 2],
    pairs: Pairs<time::Instant>,
    /// The places that have not been tried while the server's end is still being connected.
    dialing: Option<Targets>,
}

struct End {
    stream: Stream,
    interest: Interest,
    /// What came from here and is on its way to the other end.
    bytes: Fifo,
    watch: Watch,
    /// Nothing more comes from here.
    ended: bool,
    /// Nothing more can be sent to here.
    shut: bool,
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

impl End {
    fn new(stream: Stream, direction: Direction) -> Self {
        let watch = Watch::new(direction);
        let interest = Interest::NONE;
        Self { stream, interest, bytes: Fifo::new(), watch, ended: false, shut: false }
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
                    OUT_KEY => self.printer.end(),
                    key => self.handle_event(key - ENDS_KEY, event),
                }
            }
            if self.accept_at.is_some_and(|at| at <= Instant::now()) {
                self.accept_at = None;
                self.poller.modify_listener(listener, LISTENER_KEY, true)?;
            }
            self.printer.flush();
            if self.printer.ended() {
                return Ok(());
            }
        }
    }

    fn accept(&mut self, listener: &Listener) {
        match listener.accept() {
            Ok(Some(client)) => self.accept_one(client),
            Ok(None) => {}
            Err(error) if self.reserve.covers(&error) => {
                let before = self.reserve.refused();
                self.reserve.refuse_one(listener);
                if self.reserve.refused() > before {
                    self.came += 1;
                    self.printer.note(self.came, &format!("refused: {}", FailureKind(&error)));
                }
            }
            // What can't be accepted now waits in the backlog, and would be reported all the time.
            Err(_) => {
                self.accept_at = Some(Instant::now() + ACCEPT_PAUSE);
                let _ = self.poller.modify_listener(listener, LISTENER_KEY, false);
            }
        }
    }

    /// Connects a client to the server, or closes its connection.
    fn accept_one(&mut self, client: Stream) {
        self.came += 1;
        let Some(place) = self.pipes.iter().position(Option::is_none) else {
            let line = format!("refused: there are {CONNECTIONS_MAX} connections already");
            return self.printer.note(self.came, &line);
        };
        let mut left = self.targets.clone();
        let (server, dialing) = match connect(&mut left) {
            Ok(connecting) => connecting,
            Err(error) => {
                return self.printer.note(self.came, &format!("refused: {}", FailureKind(&error)));
            }
        };
        self.open += 1;
        self.printer.note(self.came, "opened");
        self.pipes[place] = Some(Pipe {
            number: self.came,
            ends: [End::new(client, Direction::Request), End::new(server, Direction::Response)],
            pairs: Pairs::new(),
            dialing: dialing.then_some(left),
        });
        for side in [CLIENT, SERVER] {
            if self.register(place, side).is_err() {
                return self.close(place, "closed: it can't be polled");
            }
        }
        self.watch(place);
    }

    fn register(&mut self, place: usize, side: usize) -> io::Result<()> {
        let Some(pipe) = &mut self.pipes[place] else { return Ok(()) };
        pipe.ends[side].interest = Interest::NONE;
        self.poller.add(&pipe.ends[side].stream, ENDS_KEY + 2 * place + side, Interest::NONE)
    }

    fn handle_event(&mut self, end: usize, event: Event) {
        let (place, side) = (end / 2, end % 2);
        let Some(pipe) = self.pipes.get_mut(place).and_then(Option::as_mut) else { return };
        if pipe.dialing.is_some() {
            if side == SERVER {
                self.connected(place);
            } else if event.hangup {
                self.close(place, "closed: the client left before the server was there");
            }
            return;
        }
        let End { interest, ended, .. } = pipe.ends[side];
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

    /// Looks how the attempt to connect has ended, and goes on to the next place if it failed.
    fn connected(&mut self, place: usize) {
        let Some(pipe) = &mut self.pipes[place] else { return };
        let Some(mut left) = pipe.dialing.take() else { return };
        if let Err(error) = pipe.ends[SERVER].stream.connected() {
            let _ = self.poller.remove(&pipe.ends[SERVER].stream);
            let next = if left.is_empty() { Err(error) } else { connect(&mut left) };
            let (server, dialing) = match next {
                Ok(connecting) => connecting,
                Err(error) => {
                    return self.close(place, &format!("closed: {}", FailureKind(&error)));
                }
            };
            pipe.ends[SERVER].stream = server;
            pipe.dialing = dialing.then_some(left);
            if self.register(place, SERVER).is_err() {
                return self.close(place, "closed: it can't be polled");
            }
        }
        self.watch(place);
    }

    /// One receive from an end, and the lines about it.
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
                let came = space.get(..len).unwrap_or_default();
                self.printer.show(pipe.number, &mut end.watch, &mut pipe.pairs, came);
                end.bytes.filled(&mut self.pool, len);
            }
        }
        Ok(())
    }

    /// One send to an end of what came from the other; passes the other's end on after the last byte.
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

    /// Watches both ends for what they now wait for, or closes what is over.
    fn watch(&mut self, place: usize) {
        let Some(pipe) = &mut self.pipes[place] else { return };
        let [client, server] = &pipe.ends;
        if client.shut && server.shut {
            return self.close(place, "closed");
        }
        let dialing = pipe.dialing.is_some();
        let wanted = |from: &End, to: &End| Interest {
            read: !dialing && !from.ended && from.bytes.is_empty(),
            write: !to.bytes.is_empty(),
        };
        let mut wants = [wanted(client, server), wanted(server, client)];
        wants[SERVER].write |= dialing;
        let mut watched = Ok(());
        for (side, (end, wants)) in pipe.ends.iter_mut().zip(wants).enumerate() {
            if end.interest != wants {
                end.interest = wants;
                let key = ENDS_KEY + 2 * place + side;
                watched = watched.and(self.poller.modify(&end.stream, key, wants));
            }
        }
        if watched.is_err() {
            self.close(place, "closed: it can't be polled");
        }
    }

    fn close(&mut self, place: usize, why: &str) {
        let Some(mut pipe) = self.pipes[place].take() else { return };
        self.open -= 1;
        for end in &mut pipe.ends {
            end.bytes.clear(&mut self.pool);
            let _ = self.poller.remove(&end.stream);
            self.printer.unfinished(pipe.number, &mut end.watch);
        }
        self.printer.note(pipe.number, why);
    }
}

/// Begins to connect to the first place that takes it, and drops those that were tried; the flag says
/// that the outcome is still open. The error is the last one's.
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

/// Prints why a client is not served.
struct FailureKind<'a>(&'a io::Error);

impl fmt::Display for FailureKind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if spare_fd::out_of_descriptors(self.0) {
            return f.write_str("no descriptor is left; raise ulimit -n");
        }
        write!(f, "the server is unreachable ({})", Unreachable(self.0.kind()))
    }
}
