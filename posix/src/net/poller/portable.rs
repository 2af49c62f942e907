//! The poller on other systems: the `polling` crate.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use polling::PollMode;

use super::{EVENTS_MAX, Event, Interest};
use crate::sys;

#[derive(Debug)]
pub(super) struct System(Arc<polling::Poller>);

impl System {
    pub(super) fn new() -> io::Result<Self> {
        polling::Poller::new().map(|poller| Self(Arc::new(poller)))
    }

    pub(super) fn add(&self, fd: BorrowedFd<'_>, key: usize, interest: Interest) -> io::Result<()> {
        sys::poll_add(&self.0, fd, event(key, interest))
    }

    pub(super) fn modify(
        &self,
        fd: BorrowedFd<'_>,
        key: usize,
        interest: Interest,
    ) -> io::Result<()> {
        self.0.modify_with_mode(fd, event(key, interest), PollMode::Level)
    }

    pub(super) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.0.delete(fd)
    }

    pub(super) fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.0.clear();
        self.0.wait(&mut events.0, timeout).map(drop)
    }

    pub(super) fn waker(&self) -> impl Fn() + Clone + Send + Sync + use<> {
        let poller = Arc::clone(&self.0);
        move || {
            // Fails only if the poller itself is broken, which the next wait reports.
            let _ = poller.notify();
        }
    }
}

fn event(key: usize, interest: Interest) -> polling::Event {
    polling::Event::new(key, interest.read, interest.write)
}

#[derive(Debug)]
pub(super) struct Events(polling::Events);

impl Events {
    pub(super) fn new() -> Self {
        const CAPACITY: NonZeroUsize = NonZeroUsize::new(EVENTS_MAX).unwrap();
        Self(polling::Events::with_capacity(CAPACITY))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Event> {
        self.0.iter().map(|event| Event {
            key: event.key,
            readable: event.readable,
            writable: event.writable,
            hangup: event.is_interrupt() || event.is_err() == Some(true),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::stream::Stream;

    fn wait(system: &System, timeout: Option<Duration>) -> Vec<Event> {
        let mut events = Events::new();
        system.wait(&mut events, timeout).unwrap();
        events.iter().collect()
    }

    #[test]
    fn it_reports_the_same_events_as_epoll() {
        let (a, b) = Stream::pair().unwrap();
        let system = System::new().unwrap();
        let fd = a.read_fd().unwrap();
        system.add(fd, 7, Interest::READ).unwrap();
        assert_eq!(wait(&system, Some(Duration::ZERO)), []);
        b.send(b"x").unwrap();
        for _ in 0..2 {
            assert!(matches!(
                wait(&system, None)[..],
                [Event { key: 7, readable: true, writable: false, hangup: false }]
            ));
        }
        system.modify(fd, 7, Interest::WRITE).unwrap();
        assert!(matches!(wait(&system, None)[..], [Event { readable: false, writable: true, .. }]));
        system.modify(fd, 7, Interest::NONE).unwrap();
        drop(b);
        assert!(matches!(wait(&system, None)[..], [Event { hangup: true, .. }]));
        system.remove(fd).unwrap();
        std::thread::spawn(system.waker());
        assert_eq!(wait(&system, None), []);
    }
}
