//! The connections to servers: how each is made, and made again.

use std::fmt;
use std::io;
use std::time::Duration;

use distcache_core::machine::{Machine, Peer, ServerKey};
use distcache_core::proxy::GivenUp;
use distcache_core::time::Instant;

use super::OwnedProxy;
use crate::event_loop::EventLoop;
use crate::net::address::{Address, Targets};
use crate::net::poller::Event;
use crate::net::resolver::Resolver;
use crate::net::stream::Stream;
use crate::process::start::Started;
use crate::reason::Unreachable;

/// A server whose host has vanished is noticed after `KEEPALIVE_IDLE` + 3 x `KEEPALIVE_INTERVAL`
/// even if nothing is asked of it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_COUNT: u32 = 3;

/// Goes on with all attempts to connect, and begins those for which it is time.
pub(super) fn dial(
    now: Instant,
    dialers: &mut [Dialer<'_>],
    event_loop: &mut EventLoop<OwnedProxy>,
) {
    while let Some(key) = event_loop.machine.dial(now) {
        let dialer = &mut dialers[usize::from(key.number())];
        dialer.key = Some(key);
        dialer.resolver.request();
        dialer.state = Dial::Resolving;
    }
    for dialer in dialers {
        dialer.go_on(now, event_loop);
    }
}

/// Prints which servers have come or gone, once each.
pub(super) fn report(
    dialers: &mut [Dialer<'_>],
    event_loop: &EventLoop<OwnedProxy>,
    started: &Started,
) {
    for dialer in dialers {
        dialer.report(event_loop, started);
    }
}

/// Makes the connection to one server, again and again.
pub(super) struct Dialer<'c> {
    number: u8,
    /// The key of the last attempt.
    key: Option<ServerKey>,
    server: &'c Address,
    retry: u64,
    resolver: Resolver,
    state: Dial,
    /// The places that are still to be tried.
    left: Targets,
    failure: Failure,
    reported_up: Option<bool>,
    /// How many connections the proxy had given up when that was last looked at.
    given_up: u64,
}

/// Why there is no connection; kept without allocating, as is all that the loop does.
#[derive(Clone, Copy)]
enum Failure {
    /// The last attempt failed.
    Connect(io::ErrorKind),
    /// There was one, and it broke.
    Lost,
    /// There was one, and the proxy gave it up.
    GivenUp(GivenUp),
    /// Nothing came of the last attempt in time.
    TimedOut,
    /// The server's name was not found.
    Unresolved,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(kind) => Unreachable(*kind).fmt(f),
            Self::Lost => f.write_str("connection lost"),
            Self::GivenUp(GivenUp::Silent(millis)) => write!(f, "no answer within {millis} ms"),
            Self::GivenUp(GivenUp::Strays) => f.write_str("it sends answers that nobody asked for"),
            Self::GivenUp(GivenUp::Malformed) => f.write_str("it sends malformed answers"),
            Self::TimedOut => f.write_str("the attempt to connect timed out"),
            Self::Unresolved => f.write_str("its name was not found"),
        }
    }
}

enum Dial {
    /// There is a connection, or it is not time for one.
    Rest,
    /// The server's address is being looked up.
    Resolving,
    /// One of its places is being tried.
    Connecting(Stream),
}

impl Dial {
    /// Ends an attempt that has got as far as to a socket, and gives that.
    fn take_connecting(&mut self) -> Option<Stream> {
        match std::mem::replace(self, Self::Rest) {
            Self::Connecting(stream) => Some(stream),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl<'c> Dialer<'c> {
    pub(super) fn new(
        number: u8,
        server: &'c Address,
        retry: u64,
        event_loop: &EventLoop<OwnedProxy>,
    ) -> io::Result<Self> {
        Ok(Self {
            number,
            key: None,
            server,
            retry,
            resolver: Resolver::new(server, event_loop.poller.waker())?,
            state: Dial::Rest,
            left: Targets::new(),
            failure: Failure::Lost,
            reported_up: None,
            given_up: 0,
        })
    }

    /// Goes on with an attempt to connect.
    fn go_on(&mut self, now: Instant, event_loop: &mut EventLoop<OwnedProxy>) {
        let over = self.key.is_some_and(|key| event_loop.machine.wants(Peer::Server(key)).close);
        if over && !matches!(self.state, Dial::Rest) {
            return self.give_up(event_loop, Failure::TimedOut);
        }
        if let Dial::Resolving = self.state
            && let Some(answer) = self.resolver.take()
        {
            match answer {
                Ok(targets) => {
                    self.left = targets;
                    self.try_next(now, event_loop, Failure::Unresolved);
                }
                Err(_) => self.give_up(event_loop, Failure::Unresolved),
            }
        }
    }

    /// Looks how the attempt under way has ended.
    pub(super) fn handle_event(
        &mut self,
        now: Instant,
        event: Event,
        event_loop: &mut EventLoop<OwnedProxy>,
    ) {
        if !event.writable && !event.hangup {
            return;
        }
        if let Some(stream) = self.state.take_connecting() {
            event_loop.forget_dial(&stream);
            match stream.connected() {
                Ok(()) => self.succeed(now, event_loop, stream),
                Err(error) => self.try_next(now, event_loop, Failure::Connect(error.kind())),
            }
        }
    }

    /// Tries one place after the other until one can be waited for.
    fn try_next(
        &mut self,
        now: Instant,
        event_loop: &mut EventLoop<OwnedProxy>,
        mut failure: Failure,
    ) {
        event_loop.place(self.number).give_up();
        while !self.left.is_empty() {
            let target = self.left.remove(0);
            match Stream::connect(&target) {
                Ok((stream, false)) => return self.succeed(now, event_loop, stream),
                Ok((stream, true)) => match event_loop.watch_dial(self.number, &stream) {
                    Ok(()) => return self.state = Dial::Connecting(stream),
                    Err(error) => failure = Failure::Connect(error.kind()),
                },
                Err(error) => failure = Failure::Connect(error.kind()),
            }
        }
        self.give_up(event_loop, failure);
    }

    fn succeed(&mut self, now: Instant, event_loop: &mut EventLoop<OwnedProxy>, stream: Stream) {
        self.state = Dial::Rest;
        // Only TCP has it; the others need none.
        let _ = stream.keepalive(KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT);
        let Some(key) = self.key else { return };
        match event_loop.take_server(key, stream) {
            Ok(()) => event_loop.machine.connected(now, key),
            Err(error) => self.give_up(event_loop, Failure::Connect(error.kind())),
        }
    }

    fn give_up(&mut self, event_loop: &mut EventLoop<OwnedProxy>, failure: Failure) {
        if let Some(stream) = self.state.take_connecting() {
            event_loop.forget_dial(&stream);
        }
        self.state = Dial::Rest;
        event_loop.place(self.number).keep();
        self.failure = failure;
        if let Some(key) = self.key {
            event_loop.machine.closed(Peer::Server(key));
        }
    }

    fn report(&mut self, event_loop: &EventLoop<OwnedProxy>, started: &Started) {
        let count = event_loop.machine.server_traffic(self.number).given_up;
        let up = event_loop.machine.is_up(self.number);
        let given_up = std::mem::replace(&mut self.given_up, count) < count;
        if given_up && let Some(why) = event_loop.machine.given_up(self.number) {
            self.failure = Failure::GivenUp(why);
        }
        // One that was given up is tried again at once, and most often in vain.
        let lost = given_up && self.reported_up == Some(true);
        let resting = matches!(self.state, Dial::Rest) && !event_loop.is_connected(self.number);
        let (settled, up) = (up || lost || resting, up && !lost);
        if !settled || self.reported_up == Some(up) {
            return;
        }
        if up {
            started.info(format_args!("connected to {}", self.server));
        } else {
            let (server, failure, retry) = (self.server, self.failure, self.retry);
            started
                .info(format_args!("{server} is unreachable ({failure}); trying every {retry} ms"));
        }
        self.failure = Failure::Lost;
        self.reported_up = Some(up);
    }
}
