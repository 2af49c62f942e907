//! Handovers need sealed memory files, pidfds and sockets of packets, which only Linux has. Elsewhere
//! `-handover` is refused at the start.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use distcache_core::Instant;

use crate::event_loop::EventLoop;
use crate::net::address::Address;
use crate::net::listener::Listener;
use crate::net::poller::Events;
use crate::process::PidFile;
use crate::process::start::Started;

/// A system without handovers.
#[derive(Debug)]
#[allow(unreachable_pub, reason = "it is in public errors")]
pub struct TakeError(PathBuf);

impl fmt::Display for TakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot use -handover {}: this system cannot do that; use -state",
            self.0.display()
        )
    }
}

impl std::error::Error for TakeError {}

impl TakeError {
    pub(crate) fn door(path: &Path, _: Infallible) -> Self {
        Self(path.to_owned())
    }
}

#[derive(Debug)]
pub(crate) struct Door(Infallible);

impl Door {
    pub(crate) fn open(_: &Path) -> Result<Self, Infallible> {
        unreachable!("the start has refused the option")
    }
}

#[derive(Debug)]
pub(crate) struct Predecessor(Infallible);

impl Predecessor {
    pub(crate) fn find(path: &Path, _: Option<u32>) -> Result<Option<Self>, TakeError> {
        Err(TakeError(path.to_owned()))
    }

    pub(crate) fn listener(&mut self, _: &Address) -> Option<Listener> {
        match self.0 {}
    }

    pub(crate) fn pid_file(&mut self, _: &Path) -> Option<PidFile> {
        match self.0 {}
    }

    pub(crate) fn door(&mut self) -> Option<Door> {
        match self.0 {}
    }
}

/// No log of changes is needed.
pub(crate) const LOG_LEN: usize = 0;

pub(crate) struct Handover;

impl Handover {
    pub(crate) fn start<M>(_: &mut Started, _: &EventLoop<M>) -> io::Result<Self> {
        Ok(Self)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        None
    }

    pub(crate) fn end_turn<M>(
        &mut self,
        _: Instant,
        _: &Events,
        _: &mut EventLoop<M>,
        _: &mut Started,
    ) -> bool {
        false
    }
}

pub(crate) fn take_over<M>(
    _: &mut Started,
    _: &mut EventLoop<M>,
    _: &mut Handover,
    _: u32,
) -> Result<(), TakeError> {
    Ok(())
}
