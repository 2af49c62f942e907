//! Copying the sessions of other servers at the start: the connections to them, and the lines about it.

use std::fmt;

use distcache_core::machine::ServerKey;
use distcache_core::proxy::Dial;
use distcache_core::server::{ClientSlot, Copied, CopyFailure, Store};
use distcache_core::{Array, Instant, Server};

use crate::event_loop::EventLoop;
use crate::event_loop::upstream::{Dials, Failure};
use crate::net::address::Address;
use crate::process::start::Started;

impl<S: Store, C: Array<ClientSlot>, B: Array<u8>> Dials for Server<S, C, B> {
    fn dial(&mut self, now: Instant) -> Option<Dial> {
        self.dial(now)
    }

    fn connected(&mut self, now: Instant, key: ServerKey) {
        self.connected(now, key);
    }
}

/// Continues to copy, and prints a line for each server that it is done with.
pub(super) fn advance<S: Store, C: Array<ClientSlot>, B: Array<u8>>(
    now: Instant,
    event_loop: &mut EventLoop<Server<S, C, B>>,
    sources: &[Address],
    started: &Started,
) {
    if sources.is_empty() {
        return;
    }
    loop {
        if !event_loop.machine.copy_is_done() {
            event_loop.connect_servers(now);
        }
        let Some(copied) = event_loop.machine.copied() else { return };
        let number = usize::from(copied.source);
        let failure = event_loop.upstreams()[number].failure();
        report(&copied, &sources[number], failure, started);
    }
}

fn report(copied: &Copied, source: &Address, last: Failure, started: &Started) {
    let &Copied { sessions, removed, millis, failure, .. } = copied;
    match failure {
        None => started.info(format_args!(
            "copied {sessions} sessions from {source} in {millis} ms; {removed} left out, because \
             they may have been removed here meanwhile"
        )),
        Some(failure) => started.info(format_args!(
            "copied {sessions} sessions from {source} in {millis} ms and gave up: {}",
            Reason(failure, last)
        )),
    }
}

/// Why not all sessions were copied; with it why there was no connection.
struct Reason(CopyFailure, Failure);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            CopyFailure::Unreachable => return self.1.fmt(f),
            CopyFailure::Silent(millis) => return write!(f, "no answer within {millis} ms"),
            CopyFailure::Lost => "connection lost",
            CopyFailure::OldLevel => "it does not support COPY; upgrade it first",
            CopyFailure::Refused => "it does not allow that; start it with -allowcopy",
            CopyFailure::Slow => "it was too slow",
            CopyFailure::Full => "no room for more; raise -sessions or -maxmem",
            CopyFailure::Malformed => "malformed answers",
        })
    }
}
