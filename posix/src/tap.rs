//! What `dc_snoop` does: pass bytes both ways unchanged, and print what goes by.
//!
//! ```text
//!  client ── recv ──► Fifo ── send ──► server        each client has a connection of its own
//!            └──► Reader ──► line                    to the server
//! ```
//!
//! A side that ends is ended on the other side once all its bytes have gone there; the other
//! direction goes on.

mod print;

use std::io::{self, Write};
use std::time;

use distcache_core::pool::{Fifo, Pool};
use distcache_core::snoop::{Pairs, Reader};
use distcache_core::wire::Direction;

use crate::address::{Address, Targets};
use crate::listener::Listener;
use crate::memory::Memory;
use crate::poller::{Event, Events, Interest, Poller};
use crate::serve::BUFFER_LEN;
use crate::signal::Signals;
use crate::socket::{Received, Stream};

use print::Printer;

/// The most connections at a time; more are refused.
pub const CONNECTIONS_MAX: usize = 1024;

const SIGNALS_KEY: usize = 0;
const LISTENER_KEY: usize = 1;
const ENDS_KEY: usize = 2;

/// How a tap is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients come from.
    pub listen: Address,
    /// Where they go.
    pub server: Address,
    /// Whether to print payloads too, which are secrets.
    pub full: bool,
}

/// Passes bytes on until a signal ends it, or no client can come any more.
///
/// # Errors
/// A line that says what can't be opened, or that polling failed.
pub fn run(config: &Config, out: &mut dyn Write) -> Result<(), String> {
    let line = |error: &dyn std::fmt::Display| error.to_string();
    let targets = config.server.resolve().map_err(|error| line(&error))?;
    let listener = Listener::open(&config.listen, &Default::default());
    let listener = listener.map_err(|error| line(&error))?;
    let signals = Signals::install(false, false).map_err(|error| line(&error))?;
    let _ = writeln!(out, "dc_snoop: listening on {}", listener.address());
    let _ = out.flush();
    let memory = Memory::zeroed(2 * CONNECTIONS_MAX * BUFFER_LEN);
    let mut memory = memory.map_err(|error| line(&error))?;
    let mut tap = Tap {
        poller: Poller::new().map_err(|error| line(&error))?,
        pool: Pool::new(&mut memory, BUFFER_LEN),
        printer: Printer::new(out, config.full),
        pipes: std::iter::repeat_with(|| None).take(CONNECTIONS_MAX).collect(),
        open: 0,
        opened: 0,
        targets,
    };
    tap.run(&listener, &signals).map_err(|error| line(&error))
}

struct Tap<'m, 'o> {
    poller: Poller,
    pool: Pool<'m>,
    printer: Printer<'o>,
    pipes: Vec<Option<Pipe>>,
    open: usize,
    /// How many connections there have been, which numbers them.
    opened: u64,
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
    reader: Reader,
    /// Nothing more comes from here.
    ended: bool,
    /// Nothing more can be sent to here.
    shut: bool,
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

impl End {
    fn new(stream: Stream, direction: Direction) -> Self {
        let reader = Reader::new(direction);
        let interest = Interest::NONE;
        Self { stream, interest, bytes: Fifo::new(), reader, ended: false, shut: false }
    }
}

impl Tap<'_, '_> {
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
            self.poller.wait(&mut events, None)?;
            if signals.take().is_some() {
                return Ok(());
            }
            for event in events.iter() {
                match event.key {
                    SIGNALS_KEY => {}
                    LISTENER_KEY => self.accept(listener),
                    key => self.attend(key - ENDS_KEY, event),
                }
            }
            self.printer.flush();
        }
    }

    fn accept(&mut self, listener: &Listener) {
        // What can't be accepted now waits in the backlog; the next turn tries again.
        let Ok(Some(client)) = listener.accept() else { return };
        let Some(place) = self.pipes.iter().position(Option::is_none) else { return };
        let mut left = self.targets.clone();
        let Some((server, dialing)) = connect(&mut left) else {
            self.printer.note(self.opened + 1, "refused: the server is away");
            return;
        };
        self.opened += 1;
        self.open += 1;
        self.printer.note(self.opened, "opened");
        self.pipes[place] = Some(Pipe {
            number: self.opened,
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

    fn attend(&mut self, end: usize, event: Event) {
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
        let End { interest, .. } = pipe.ends[side];
        let moved = if event.hangup && interest == Interest::NONE {
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
        if pipe.ends[SERVER].stream.connected().is_err() {
            let _ = self.poller.remove(&pipe.ends[SERVER].stream);
            let Some((server, dialing)) = connect(&mut left) else {
                return self.close(place, "closed: the server is away");
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
                self.printer.show(pipe.number, &mut end.reader, &mut pipe.pairs, came);
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
        }
        self.printer.note(pipe.number, why);
    }
}

/// Begins to connect to the first place that takes it, and drops those that were tried; the flag says
/// that the outcome is still open.
fn connect(left: &mut Targets) -> Option<(Stream, bool)> {
    while !left.is_empty() {
        let target = left.remove(0);
        if let Ok(connecting) = Stream::connect(&target) {
            return Some(connecting);
        }
    }
    None
}
