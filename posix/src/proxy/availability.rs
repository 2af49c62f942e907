//! Which servers are reachable, printed whenever that changes.

use super::{Config, OwnedProxy};
use crate::event_loop::EventLoop;
use crate::event_loop::upstream::Failure;
use crate::net::address::Address;
use crate::process::start::Started;

/// What was last printed about one server.
#[derive(Debug, Default)]
pub(super) struct Availability {
    /// Whether it was reported as reachable; `None` before the first report.
    reported_up: Option<bool>,
    /// The number of connections that the proxy had given up at the last look.
    given_up: u64,
}

/// Prints which servers have become reachable or unreachable, once each.
pub(super) fn report(
    servers: &mut [Availability],
    event_loop: &mut EventLoop<OwnedProxy>,
    config: &Config,
    started: &Started,
) {
    for ((number, availability), address) in (0..=u8::MAX).zip(servers).zip(&config.servers) {
        if event_loop.upstreams()[usize::from(number)].take_resolver_loss() {
            started.info(format_args!(
                "{address} is not resolved any more: the process that did has ended; the last \
                 addresses stay in use until a restart"
            ));
        }
        let Some((up, failure)) = availability.changed(number, event_loop) else { continue };
        print(up, failure, address, config.retry, started);
    }
}

fn print(up: bool, failure: Failure, server: &Address, retry: u64, started: &Started) {
    if up {
        started.info(format_args!("connected to {server}"));
    } else {
        started.info(format_args!("{server} is unreachable ({failure}); trying every {retry} ms"));
    }
}

impl Availability {
    /// Whether the server is now reachable, and if not, why; `None` if that is reported already, or not
    /// certain yet.
    fn changed(
        &mut self,
        number: u8,
        event_loop: &mut EventLoop<OwnedProxy>,
    ) -> Option<(bool, Failure)> {
        let up = event_loop.machine.is_up(number);
        let count = event_loop.machine.server_traffic(number).given_up;
        let given_up = std::mem::replace(&mut self.given_up, count) < count;
        let reason = event_loop.machine.given_up(number).filter(|_| given_up);
        let connection = event_loop.upstreams().get_mut(usize::from(number))?;
        if let Some(reason) = reason {
            connection.set_failure(Failure::GivenUp(reason));
        }
        // The next attempt begins at once, and mostly connects to a server that still hangs.
        let lost = given_up && self.reported_up == Some(true);
        let certain = up || lost || connection.is_idle();
        let up = up && !lost;
        if !certain || self.reported_up == Some(up) {
            return None;
        }
        self.reported_up = Some(up);
        let failure = connection.failure();
        connection.set_failure(Failure::Lost);
        Some((up, failure))
    }
}
