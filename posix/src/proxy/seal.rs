//! Sealing in `dc_client`: its key file, its clock, and what it says about sessions that do not open.
//!
//! The file is read once at the start, after the privileges are dropped, so that a file that SIGHUP could
//! not read again fails the start. On SIGHUP it is read again: a good file replaces the keys, also for
//! requests under way, and a bad one changes nothing. Each time one line says so.
//!
//! A turn that has events first gives the proxy the wall clock, so seals expire by a clock that is at most
//! one turn old. Sessions that did not open are reported at once, and then at most once in ten seconds:
//! whoever controls a server decides how many there are.

use std::io;
use std::time::SystemTime;

use distcache_core::proxy::{Rejected, Seal};
use distcache_core::seal::Nonces;
use distcache_core::time::Instant;

use super::{Config, OwnedProxy};
use crate::event_loop::EventLoop;
use crate::net::address::Address;
use crate::process::start::Started;
use crate::seal_keys::KeyFile;
use crate::server::RunError;
use crate::sys;

/// The least time between two reports, in milliseconds.
const PAUSE: u64 = 10_000;

/// Sealing configuration.
#[derive(Clone, Debug)]
pub struct SealConfig {
    /// The keys: the first one seals, all of them open.
    pub keys: KeyFile,
    /// Whether sessions that are not sealed pass unchanged.
    pub mixed: bool,
}

/// The sealing of a proxy that runs.
#[derive(Debug)]
pub(super) struct Sealer<'c> {
    keys: &'c KeyFile,
    servers: &'c [Address],
    /// The sum in the last report, and the part of it of each server.
    reported: Rejected,
    reported_of: Box<[u64]>,
    reported_at: Option<Instant>,
    /// The sum has changed since.
    changed: bool,
}

impl<'c> Sealer<'c> {
    /// Reads the keys and has the proxy seal; `None` without a configuration.
    pub(super) fn start(
        config: &'c Config,
        event_loop: &mut EventLoop<OwnedProxy>,
    ) -> Result<Option<Self>, RunError> {
        let Some(SealConfig { keys: file, mixed }) = &config.seal else {
            return Ok(None);
        };
        let keys = file.read().map_err(RunError::SealKeys)?;
        let seal = Seal { keys, nonces: nonces()?, mixed: *mixed };
        let now = event_loop.now();
        event_loop.machine.set_seal(now, unix_millis(), seal);
        Ok(Some(Self {
            keys: file,
            servers: &config.servers,
            reported: Rejected::NONE,
            reported_of: vec![0; config.servers.len()].into(),
            reported_at: None,
            changed: false,
        }))
    }

    /// Begins a turn: gives the proxy the wall clock.
    pub(super) fn begin_turn(now: Instant, proxy: &mut OwnedProxy) {
        proxy.set_unix_time(now, unix_millis());
    }

    /// Ends a turn: reads the keys again if a signal asked for that, and reports sessions that did not open
    /// if that is due.
    pub(super) fn end_turn(
        &mut self,
        now: Instant,
        event_loop: &mut EventLoop<OwnedProxy>,
        started: &Started,
    ) {
        if event_loop.take_reload() {
            self.reload(&mut event_loop.machine, started);
        }
        self.report(now, &event_loop.machine, started);
    }

    /// When a report is due even if nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.reported_at.filter(|_| self.changed).map(|at| at.after(PAUSE))
    }

    fn reload(&self, proxy: &mut OwnedProxy, started: &Started) {
        let path = self.keys.path().display();
        match self.keys.read() {
            Ok(keys) => {
                let count = keys.len();
                proxy.set_keys(keys);
                let keys = if count == 1 { "key" } else { "keys" };
                started.info(format_args!("read {count} {keys} from {path}; the first one seals"));
            }
            Err(error) => started.info(format_args!("{error}; the old keys stay")),
        }
    }

    fn report(&mut self, now: Instant, proxy: &OwnedProxy, started: &Started) {
        let sum = proxy.traffic().rejected;
        self.changed = sum != self.reported;
        if !self.changed || self.deadline().is_some_and(|deadline| now < deadline) {
            return;
        }
        let before = self.reported;
        let [all, not_sealed, unknown_key, forged, expired] = [
            sum.total() - before.total(),
            sum.not_sealed - before.not_sealed,
            sum.unknown_key - before.unknown_key,
            sum.forged - before.forged,
            sum.expired - before.expired,
        ];
        let (most, server) = self.most_of(proxy);
        started.info(format_args!(
            "{all} sessions did not open and count as not found: {not_sealed} not sealed, \
             {unknown_key} sealed with unknown keys, {forged} changed, {expired} past their \
             lifetimes; {most} of them from {server}"
        ));
        (self.reported, self.reported_at, self.changed) = (sum, Some(now), false);
    }

    /// The server with the most such sessions since the last report, and how many those are.
    fn most_of(&mut self, proxy: &OwnedProxy) -> (u64, &Address) {
        let mut most = (0, &self.servers[0]);
        for ((number, server), reported) in (0..).zip(self.servers).zip(&mut *self.reported_of) {
            let now = proxy.server_traffic(number).rejected.total();
            let new = now - std::mem::replace(reported, now);
            if new > most.0 {
                most = (new, server);
            }
        }
        most
    }
}

/// The wall clock in milliseconds since 1970.
fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Nonces that no other process uses.
fn nonces() -> io::Result<Nonces> {
    let mut random = [0; 16];
    sys::random(&mut random)?;
    Ok(Nonces::new(random))
}
