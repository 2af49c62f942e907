//! The connection to one server: established, attempted, and attempted again.
//!
//! ```text
//!  Idle ── dial ──► Resolving ──► Connecting ──► Connected
//!   ▲                   │             │              │
//!   └────── fail ───────┴─────────────┘              │
//!   └────── close ───────────────────────────────────┘
//! ```
//!
//! The proxy says when to dial. An attempt resolves the address and tries its targets one after the
//! other. While there is no connection a descriptor is held for it, so that clients, which may take
//! all others, cannot keep the proxy from connecting again.

use std::fmt;
use std::io;
use std::time::Duration;

use distcache_core::machine::{Machine, Peer, ServerKey};
use distcache_core::proxy::{Dial, GivenUp, Memory, Proxy};
use distcache_core::time::Instant;

use super::EventLoop;
use super::sockets::Socket;
use crate::net::address::{Target, Targets};
use crate::net::poller::{Event, Interest, Poller, Watched};
use crate::net::resolver::Resolver;
use crate::net::spare_fd::HeldFd;
use crate::net::stream::Stream;
use crate::reason::Unreachable;

/// A silent peer whose host has vanished is noticed after `KEEPALIVE_IDLE` + 3 x `KEEPALIVE_INTERVAL`,
/// even if no request waits for it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_COUNT: u32 = 3;

/// One server that the machine is a client of.
pub(crate) struct Connection {
    /// The poller's key for its sockets.
    poll_key: usize,
    /// The machine's key for the last attempt; `None` before the first.
    key: Option<ServerKey>,
    resolver: Resolver,
    /// Targets that the current attempt has not tried.
    targets: Targets,
    state: State,
    held_fd: HeldFd,
    failure: Failure,
}

enum State {
    /// No connection, and no attempt to make one.
    Idle,
    /// The server's address is being resolved.
    Resolving,
    /// A target has not answered yet; `ready` once the poller has reported its outcome.
    Connecting { stream: Watched, ready: bool },
    /// Connected: the machine's bytes go through this socket.
    Connected(Socket),
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// The last target could not be connected to.
    Connect(io::ErrorKind),
    /// The connection broke.
    Lost,
    /// The proxy gave the connection up.
    GivenUp(GivenUp),
    /// Connecting took too long.
    TimedOut,
    /// The server's name could not be resolved.
    Unresolved,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(kind) => Unreachable(*kind).fmt(f),
            Self::Lost => f.write_str("connection lost"),
            Self::GivenUp(GivenUp::Silent(millis)) => write!(f, "no answer within {millis} ms"),
            Self::GivenUp(GivenUp::Strays) => f.write_str("too many unexpected answers"),
            Self::GivenUp(GivenUp::Malformed) => f.write_str("malformed answers"),
            Self::TimedOut => f.write_str("connecting timed out"),
            Self::Unresolved => f.write_str("host name not found"),
        }
    }
}

/// How an attempt to connect has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    Connected,
    Failed,
}

impl Connection {
    /// Prepares connections to what `resolver` finds, registered as `poll_key`.
    pub(super) fn new(resolver: Resolver, poll_key: usize) -> Self {
        Self {
            poll_key,
            key: None,
            resolver,
            targets: Targets::new(),
            state: State::Idle,
            held_fd: HeldFd::default(),
            failure: Failure::Lost,
        }
    }

    /// Handles an event of its resolver.
    pub(super) fn handle_resolver_event(&mut self) {
        self.resolver.receive();
    }

    /// Whether its resolver has ended since the last call.
    pub(crate) fn take_resolver_loss(&mut self) -> bool {
        self.resolver.take_loss()
    }

    /// Whether there is neither a connection nor an attempt to make one.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Why there is no connection.
    pub(crate) fn failure(&self) -> Failure {
        self.failure
    }

    /// Records why there is, or will be, no connection.
    pub(crate) fn set_failure(&mut self, failure: Failure) {
        self.failure = failure;
    }

    /// The established connection and its key.
    #[inline]
    pub(super) fn connected(&mut self) -> Option<(ServerKey, &mut Socket)> {
        match (&mut self.state, self.key) {
            (State::Connected(socket), Some(key)) => Some((key, socket)),
            _ => None,
        }
    }

    /// Handles an event of its socket. Returns the key of an established connection, whose events are
    /// the machine's business; the outcome of an attempt waits for [`EventLoop::connect_servers`].
    pub(super) fn handle_event(&mut self, event: Event) -> Option<ServerKey> {
        let writable = event.writable || event.hangup;
        match &mut self.state {
            State::Connected(socket) => {
                socket.full &= !writable;
                self.key
            }
            State::Connecting { ready, .. } => {
                *ready |= writable;
                None
            }
            State::Idle | State::Resolving => None,
        }
    }

    /// Closes the established connection `key`, if there is still that one.
    pub(super) fn take_connected(&mut self, key: ServerKey) -> Option<Socket> {
        if self.key != Some(key) {
            return None;
        }
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Connected(socket) => Some(socket),
            other => {
                self.state = other;
                None
            }
        }
    }

    /// Holds a descriptor for the next connection: best right after one was closed.
    pub(super) fn hold_fd(&mut self) {
        self.held_fd.hold();
    }

    /// Begins an attempt to connect.
    fn dial(&mut self, key: ServerKey) {
        self.key = Some(key);
        self.resolver.request();
        self.state = State::Resolving;
    }

    /// Continues an attempt to connect. Returns how it ended, once.
    fn advance(&mut self, poller: &Poller) -> Option<Outcome> {
        if let Some(stream) = self.take_ready() {
            return match stream.connected() {
                Ok(()) => Some(self.establish(poller, stream)),
                Err(error) => {
                    // Its descriptor may be the only one for the next target.
                    drop(stream);
                    self.try_targets(poller, Failure::Connect(error.kind()))
                }
            };
        }
        let State::Resolving = self.state else { return None };
        match self.resolver.take()? {
            Ok(targets) => {
                self.targets = targets;
                self.try_targets(poller, Failure::Unresolved)
            }
            Err(_) => Some(self.fail(Failure::Unresolved)),
        }
    }

    /// The stream whose attempt has an outcome.
    fn take_ready(&mut self) -> Option<Watched> {
        let State::Connecting { ready: true, .. } = self.state else { return None };
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Connecting { stream, .. } => Some(stream),
            _ => None,
        }
    }

    /// Tries one target after the other, until one connects or may still connect.
    fn try_targets(&mut self, poller: &Poller, mut failure: Failure) -> Option<Outcome> {
        self.held_fd.release();
        while !self.targets.is_empty() {
            let target = self.targets.remove(0);
            match self.try_target(poller, &target) {
                Ok((stream, true)) => {
                    self.state = State::Connecting { stream, ready: false };
                    return None;
                }
                Ok((stream, false)) => return Some(self.establish(poller, stream)),
                Err(error) => failure = Failure::Connect(error.kind()),
            }
        }
        Some(self.fail(failure))
    }

    /// Begins to connect; the flag says that the outcome is still open.
    fn try_target(&self, poller: &Poller, target: &Target) -> io::Result<(Watched, bool)> {
        let (stream, open) = Stream::connect(target)?;
        let mut stream = Watched::new(stream, self.poll_key);
        if open {
            stream.watch(poller, Interest::WRITE)?;
        }
        Ok((stream, open))
    }

    /// Makes a stream that has connected the machine's socket.
    fn establish(&mut self, poller: &Poller, mut stream: Watched) -> Outcome {
        // It fails where the peer has reset the connection already: reading tells.
        let _ = stream.keepalive(KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT);
        match stream.watch(poller, Interest::READ) {
            Ok(()) => {
                self.state = State::Connected(Socket::new(stream));
                Outcome::Connected
            }
            Err(error) => {
                stream.close(poller);
                self.fail(Failure::Connect(error.kind()))
            }
        }
    }

    /// Ends an attempt. Closing its stream removes that from the poller, since nobody else has it.
    fn fail(&mut self, failure: Failure) -> Outcome {
        self.state = State::Idle;
        self.hold_fd();
        self.failure = failure;
        Outcome::Failed
    }
}

/// A machine that connects to servers.
pub(crate) trait Dials: Machine {
    /// Returns an attempt to connect that must be started or cancelled now.
    fn dial(&mut self, now: Instant) -> Option<Dial>;

    /// Reports that a connection is made.
    fn connected(&mut self, now: Instant, key: ServerKey);
}

impl<M: Memory> Dials for Proxy<M> {
    fn dial(&mut self, now: Instant) -> Option<Dial> {
        self.dial(now)
    }

    fn connected(&mut self, now: Instant, key: ServerKey) {
        self.connected(now, key);
    }
}

impl<M: Dials> EventLoop<M> {
    /// Prepares connections to the machine's servers, each with its resolver. Call this once, before the
    /// first turn.
    pub(crate) fn set_servers(&mut self, resolvers: Vec<Resolver>) -> io::Result<()> {
        let (base, count) = (self.servers_key(), resolvers.len());
        for (number, resolver) in resolvers.iter().enumerate() {
            if let Some(fd) = resolver.fd() {
                self.poller.add_fd(fd, base + count + number, Interest::READ)?;
            }
        }
        let connection = |(number, resolver)| Connection::new(resolver, base + number);
        self.upstreams = resolvers.into_iter().enumerate().map(connection).collect();
        Ok(())
    }

    /// Begins the attempts to connect that are due, and continues those under way.
    pub(crate) fn connect_servers(&mut self, now: Instant) {
        while let Some(dial) = self.machine.dial(now) {
            match dial {
                Dial::Connect(key) => self.upstreams[usize::from(key.number())].dial(key),
                Dial::Cancel(key) => {
                    self.upstreams[usize::from(key.number())].fail(Failure::TimedOut);
                }
            }
        }
        for connection in &mut self.upstreams {
            let (State::Resolving | State::Connecting { .. }) = connection.state else { continue };
            let Some(key) = connection.key else { continue };
            match connection.advance(&self.poller) {
                Some(Outcome::Connected) => self.machine.connected(now, key),
                Some(Outcome::Failed) => self.machine.closed(Peer::Server(key)),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::poller::Events;
    use crate::testing::Dir;
    use std::net::{SocketAddr, TcpListener};
    use std::os::unix::net::UnixListener;

    const POLL_KEY: usize = 7;

    fn connection(address: &str) -> Connection {
        let resolver = Resolver::new(&address.parse().unwrap(), false).unwrap();
        Connection::new(resolver, POLL_KEY)
    }

    /// Begins an attempt as `dial` does.
    fn resolve(connection: &mut Connection) {
        connection.resolver.request();
        connection.state = State::Resolving;
    }

    /// Handles events until the attempt has ended.
    fn finish(connection: &mut Connection, poller: &Poller) -> Outcome {
        let mut events = Events::new();
        loop {
            if let Some(outcome) = connection.advance(poller) {
                return outcome;
            }
            poller.wait(&mut events, None).unwrap();
            for event in events.iter() {
                assert_eq!(event.key, POLL_KEY);
                connection.handle_event(event);
            }
        }
    }

    fn closed_port() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[test]
    fn the_next_target_is_tried_after_one_that_refuses() {
        let poller = Poller::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut connection = connection("IP:127.0.0.1:1");
        let targets = [closed_port(), closed_port(), listener.local_addr().unwrap()];
        connection.targets.extend(targets.map(Target::Ip));
        let begun = connection.try_targets(&poller, Failure::Unresolved);
        assert_eq!(begun.unwrap_or_else(|| finish(&mut connection, &poller)), Outcome::Connected);
        assert!(matches!(connection.state, State::Connected(_)));
        listener.accept().unwrap();
    }

    #[test]
    fn an_attempt_without_a_target_left_fails_and_holds_a_descriptor() {
        let poller = Poller::new().unwrap();
        let mut connection = connection(&format!("IP:{}", closed_port()));
        assert!(!connection.held_fd.is_held());
        resolve(&mut connection);
        assert_eq!(finish(&mut connection, &poller), Outcome::Failed);
        assert_eq!(connection.failure(), Failure::Connect(io::ErrorKind::ConnectionRefused));
        assert!(connection.is_idle() && connection.held_fd.is_held());
    }

    #[test]
    fn a_unix_socket_connects_without_an_event_and_releases_the_descriptor() {
        let poller = Poller::new().unwrap();
        let dir = Dir::new();
        let path = dir.join("s");
        let mut connection = connection(&format!("UNIX:{}", path.display()));
        resolve(&mut connection);
        assert_eq!(connection.advance(&poller), Some(Outcome::Failed));
        assert!(connection.held_fd.is_held());
        let _listener = UnixListener::bind(&path).unwrap();
        resolve(&mut connection);
        assert_eq!(connection.advance(&poller), Some(Outcome::Connected));
        assert!(!connection.held_fd.is_held() && !connection.is_idle());
    }
}
