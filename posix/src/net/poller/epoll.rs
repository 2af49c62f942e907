//! The poller on Linux: epoll.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use super::{EVENTS_MAX, Event, Interest, WAKE_KEY};

#[derive(Debug)]
pub(super) struct System {
    epoll: OwnedFd,
    /// An eventfd, readable once the waker was called.
    woken: Arc<OwnedFd>,
}

impl System {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let woken = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let system = Self { epoll, woken: Arc::new(woken) };
        system.add(system.woken.as_fd(), WAKE_KEY, Interest::READ)?;
        Ok(system)
    }

    pub(super) fn add(&self, fd: BorrowedFd<'_>, key: usize, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(key as u64), flags(interest))?)
    }

    pub(super) fn modify(
        &self,
        fd: BorrowedFd<'_>,
        key: usize,
        interest: Interest,
    ) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(key as u64), flags(interest))?)
    }

    pub(super) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    pub(super) fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.list.clear();
        events.woken = false;
        // A timeout that overflows the system's type is as good as none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        epoll::wait(&self.epoll, spare_capacity(&mut events.list), timeout.as_ref())?;
        events.woken = events.list.iter().any(|event| event.data.u64() == WAKE_KEY as u64);
        if events.woken {
            // Fails only if another wait has read it first.
            let _ = rustix::io::read(&*self.woken, &mut [0; 8]);
        }
        Ok(())
    }

    pub(super) fn waker(&self) -> impl Fn() + Clone + Send + Sync + use<> {
        let woken = Arc::clone(&self.woken);
        move || {
            // Fails only at 2^64 - 2 calls without a wait.
            let _ = rustix::io::write(&*woken, &1_u64.to_ne_bytes());
        }
    }
}

/// RDHUP is reported as readable, with interest in reading only: a half-closed peer is no hang-up.
fn flags(interest: Interest) -> EventFlags {
    let mut flags = EventFlags::empty();
    flags.set(EventFlags::IN | EventFlags::RDHUP, interest.read);
    flags.set(EventFlags::OUT, interest.write);
    flags
}

pub(super) struct Events {
    list: Vec<epoll::Event>,
    /// Whether one of the events is the waker's, which callers do not see.
    woken: bool,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Events {
    pub(super) fn new() -> Self {
        Self { list: Vec::with_capacity(EVENTS_MAX), woken: false }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Event> {
        let events = self.list.iter().map(|event| {
            let (flags, data) = (event.flags, event.data);
            let failed = flags.intersects(EventFlags::HUP | EventFlags::ERR);
            Event {
                key: data.u64() as usize,
                readable: failed || flags.intersects(EventFlags::IN | EventFlags::RDHUP),
                writable: failed || flags.contains(EventFlags::OUT),
                hangup: failed,
            }
        });
        events.filter(|event| !self.woken || event.key != WAKE_KEY)
    }
}
