//! Signals as bytes in a pipe, which the event loop reads.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::net::stream;
use crate::sys::{self, Disposition};

/// What a signal asks of the process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signal {
    /// Finish the open requests, then end: SIGTERM, SIGINT.
    Drain,
    /// End at once: SIGUSR1 and SIGUSR2 with `-killable`.
    End,
    /// Read the configuration files again: SIGHUP with [`Hangup::Reload`].
    Reload,
}

/// What SIGHUP does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hangup {
    /// What it did before: it ends the process, unless the starter has it ignored.
    Unchanged,
    /// Nothing: a daemon has no terminal that could hang up.
    Ignored,
    /// It is [`Signal::Reload`].
    Reload,
}

/// The signals of the process. There can be one value at a time in a process.
#[derive(Debug)]
pub struct Signals(PipeReader);

impl Signals {
    /// Takes over the signals of the process until it ends.
    ///
    /// SIGUSR1 and SIGUSR2 are [`End`](Signal::End) if `killable`, else ignored. SIGHUP does what
    /// `hangup` says. SIGPIPE is ignored. All signals are unblocked, since the parent process may have
    /// blocked some.
    ///
    /// # Errors
    /// The system's error.
    pub fn install(killable: bool, hangup: Hangup) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
        stream::prepare(&reader)?;
        stream::prepare(&writer)?;
        sys::notify_signals(writer);
        let user = if killable { Disposition::Notify } else { Disposition::Ignore };
        sys::set_signal(libc::SIGPIPE, Disposition::Ignore)?;
        sys::set_signal(libc::SIGUSR1, user)?;
        sys::set_signal(libc::SIGUSR2, user)?;
        match hangup {
            Hangup::Unchanged => {}
            Hangup::Ignored => sys::set_signal(libc::SIGHUP, Disposition::Ignore)?,
            Hangup::Reload => sys::set_signal(libc::SIGHUP, Disposition::Notify)?,
        }
        sys::set_signal(libc::SIGTERM, Disposition::Notify)?;
        sys::set_signal(libc::SIGINT, Disposition::Notify)?;
        sys::unblock_signals()?;
        Ok(Self(reader.into()))
    }

    /// A descriptor that is readable while there are signals to [`take`](Self::take).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Takes the oldest pending signal; `None` if there is none.
    pub fn take(&self) -> Option<Signal> {
        let mut byte = [0];
        loop {
            match (&self.0).read(&mut byte) {
                Ok(1) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                _ => return None,
            }
            match i32::from(byte[0]) {
                libc::SIGTERM | libc::SIGINT => return Some(Signal::Drain),
                libc::SIGUSR1 | libc::SIGUSR2 => return Some(Signal::End),
                libc::SIGHUP => return Some(Signal::Reload),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::poller::{Events, Interest, Poller};
    use crate::testing::in_child;
    use rustix::process::{Signal as Number, getpid, kill_process};

    fn send(number: Number) {
        kill_process(getpid(), number).unwrap();
    }

    /// Sends `number` and waits for its effect. Any thread may receive it, so that takes a while.
    fn sent(signals: &Signals, number: Number) -> (Option<Signal>, Option<Signal>) {
        send(number);
        let poller = Poller::new().unwrap();
        poller.add_fd(signals.fd(), 3, Interest::READ).unwrap();
        let mut events = Events::new();
        poller.wait(&mut events, None).unwrap();
        assert!(events.iter().all(|event| event.key == 3 && event.readable));
        (signals.take(), signals.take())
    }

    #[test]
    fn term_and_int_ask_to_drain_and_wake_the_poller() {
        in_child("process::signals::tests::term_and_int_ask_to_drain_and_wake_the_poller", || {
            let signals = Signals::install(false, Hangup::Unchanged).unwrap();
            assert_eq!(signals.take(), None);
            assert_eq!(sent(&signals, Number::TERM), (Some(Signal::Drain), None));
            assert_eq!(sent(&signals, Number::INT), (Some(Signal::Drain), None));
        });
    }

    #[test]
    fn the_user_signals_end_only_a_killable_process() {
        in_child("process::signals::tests::the_user_signals_end_only_a_killable_process", || {
            let stubborn = Signals::install(false, Hangup::Unchanged).unwrap();
            send(Number::USR1);
            send(Number::USR2);
            assert_eq!(sent(&stubborn, Number::TERM), (Some(Signal::Drain), None));
            let killable = Signals::install(true, Hangup::Unchanged).unwrap();
            assert_eq!(sent(&killable, Number::USR1), (Some(Signal::End), None));
            assert_eq!(sent(&killable, Number::USR2), (Some(Signal::End), None));
        });
    }

    #[test]
    fn a_hangup_asks_to_reload_where_there_are_files_to_read() {
        in_child(
            "process::signals::tests::a_hangup_asks_to_reload_where_there_are_files_to_read",
            || {
                let signals = Signals::install(false, Hangup::Reload).unwrap();
                assert_eq!(sent(&signals, Number::HUP), (Some(Signal::Reload), None));
                assert_eq!(sent(&signals, Number::TERM), (Some(Signal::Drain), None));
            },
        );
    }

    #[test]
    fn a_daemon_survives_sighup_and_every_process_sigpipe() {
        in_child(
            "process::signals::tests::a_daemon_survives_sighup_and_every_process_sigpipe",
            || {
                let signals = Signals::install(true, Hangup::Ignored).unwrap();
                send(Number::HUP);
                send(Number::PIPE);
                assert_eq!(sent(&signals, Number::TERM), (Some(Signal::Drain), None));
            },
        );
    }
}
