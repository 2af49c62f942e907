//! Resolving host names without blocking the event loop.
//!
//! The system's resolver may block for seconds, opens files and sockets, and loads code. An address
//! that needs it gets a process of its own, started before the [sandbox](crate::process::sandbox) is
//! entered, which ends with this one. A numeric address is resolved once, at start.
//!
//! ```text
//!   event loop ── request, 1 byte ───────────────► process: getaddrinfo
//!              ◄── answer, of one length always ──
//! ```
//!
//! # Time
//!
//! At most one request is under way. If the next one comes before its answer, name service hangs:
//! then, and once the process has ended, the last known targets are the answer.
//!
//! # Trust
//!
//! The process parses what name servers send, so it may be taken over. Its answers can choose IP
//! addresses of the right family, as a name server can, and nothing else: the port is not in them, and
//! they are read one at a time. An answer that is malformed or was not requested ends the channel.

mod worker;

pub(crate) use worker::READS;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::net::address::{Address, Family, Targets};

/// The result of a resolution.
pub type Answer = Result<Targets, Unresolved>;

/// The name has no address of the family, or the name servers do not answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unresolved;

/// Resolves one address, each time on [`request`](Self::request).
///
/// When it is dropped, its process ends.
#[derive(Debug)]
pub struct Resolver(Kind);

#[derive(Debug)]
enum Kind {
    Known { targets: Box<Targets>, requested: bool },
    Asked(Box<Channel>),
}

impl Resolver {
    /// A resolver of `address`, whose process is restricted if `sandbox`.
    ///
    /// Call it after detaching and before allocating: it may fork, so the process must have a single
    /// thread.
    ///
    /// # Errors
    /// The system's error if it cannot start the process.
    pub fn new(address: &Address, sandbox: bool) -> io::Result<Self> {
        let (family, port) = match address {
            Address::Ip { family, port, .. } if !address.is_numeric() => (*family, *port),
            _ => {
                // Fails only for a number of the wrong family, which has no target.
                let targets = Box::new(address.resolve().unwrap_or_default());
                return Ok(Self(Kind::Known { targets, requested: false }));
            }
        };
        let channel = worker::start(address, sandbox)?;
        Ok(Self(Kind::Asked(Box::new(Channel::new(channel, family, port)))))
    }

    /// Requests an answer. Drops an earlier answer that was not taken.
    pub fn request(&mut self) {
        match &mut self.0 {
            Kind::Known { requested, .. } => *requested = true,
            Kind::Asked(channel) => channel.request(),
        }
    }

    /// Takes the answer to the last request; `None` before it arrives, and after it was taken.
    pub fn take(&mut self) -> Option<Answer> {
        match &mut self.0 {
            Kind::Known { targets, requested } => {
                std::mem::take(requested).then(|| answer(targets))
            }
            Kind::Asked(channel) => channel.answer.take(),
        }
    }

    /// The descriptor that is readable when [`receive`](Self::receive) has something to do; `None` for
    /// a numeric address.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.0 {
            Kind::Known { .. } => None,
            Kind::Asked(channel) => channel.fd.as_ref().map(AsFd::as_fd),
        }
    }

    /// Receives from its process, without waiting.
    pub fn receive(&mut self) {
        if let Kind::Asked(channel) = &mut self.0 {
            channel.receive();
        }
    }

    /// Whether its process has ended, or was given up, since the last call.
    pub fn take_loss(&mut self) -> bool {
        match &mut self.0 {
            Kind::Known { .. } => false,
            Kind::Asked(channel) => std::mem::take(&mut channel.lost),
        }
    }
}

fn answer(targets: &Targets) -> Answer {
    if targets.is_empty() { Err(Unresolved) } else { Ok(targets.clone()) }
}

/// The channel to a process that resolves.
#[derive(Debug)]
struct Channel {
    /// `None` once the process has ended.
    fd: Option<OwnedFd>,
    family: Family,
    port: u16,
    /// A request was sent and its answer has not arrived.
    in_flight: bool,
    received: [u8; worker::ANSWER_LEN],
    /// The bytes of the next answer that have arrived: less than its length.
    len: usize,
    answer: Option<Answer>,
    /// The targets of the last answer that had any.
    last: Targets,
    lost: bool,
}

impl Channel {
    fn new(fd: OwnedFd, family: Family, port: u16) -> Self {
        Self {
            fd: Some(fd),
            family,
            port,
            in_flight: false,
            received: [0; worker::ANSWER_LEN],
            len: 0,
            answer: None,
            last: Targets::new(),
            lost: false,
        }
    }

    fn request(&mut self) {
        self.answer = None;
        let Some(fd) = &self.fd else {
            self.answer = Some(answer(&self.last));
            return;
        };
        if self.in_flight {
            if !self.last.is_empty() {
                self.answer = Some(answer(&self.last));
            }
            return;
        }
        self.in_flight = true;
        // There is room for one byte, since every earlier one was answered.
        if rustix::io::write(fd, &[0]).is_err() {
            self.lose();
        }
    }

    fn receive(&mut self) {
        let Some(fd) = &self.fd else { return };
        let space = self.received.get_mut(self.len..).unwrap_or_default();
        match rustix::io::read(fd, space) {
            Ok(len) if len > 0 && self.in_flight => self.len += len,
            Err(Errno::AGAIN | Errno::INTR) => return,
            _ => return self.lose(),
        }
        if self.len < self.received.len() {
            return;
        }
        (self.len, self.in_flight) = (0, false);
        let Some(targets) = worker::decode(&self.received, self.family, self.port) else {
            return self.lose();
        };
        self.answer = Some(answer(&targets));
        if !targets.is_empty() {
            self.last = targets;
        }
    }

    /// Gives the process up. Closing the channel ends it.
    fn lose(&mut self) {
        self.fd = None;
        self.lost = true;
        self.in_flight = false;
        self.answer = Some(answer(&self.last));
    }
}

#[cfg(test)]
mod tests;
