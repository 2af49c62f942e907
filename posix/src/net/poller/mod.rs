//! Waiting until something can be read or written.
//!
//! Level-triggered: what is ready and was not attended to is reported again. On Linux this is epoll
//! itself, one system call a wait; elsewhere the `polling` crate, which makes four more.

#[cfg(target_os = "linux")]
mod epoll;
#[cfg(any(test, not(target_os = "linux")))]
mod portable;
mod watched;

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

#[cfg(target_os = "linux")]
use epoll as system;
#[cfg(not(target_os = "linux"))]
use portable as system;

use crate::net::listener::Listener;
use crate::net::stream::Stream;
pub use watched::Watched;

/// The most events that one [`Poller::wait`] reports; the others come with the next.
pub const EVENTS_MAX: usize = 1024;

/// The key that callers cannot use: what wakes the wait has it.
const WAKE_KEY: usize = usize::MAX;

/// Watches descriptors, each under a key of the caller's choice below `usize::MAX`.
///
/// What another process may have open too must be taken out with [`remove`](Self::remove) before it
/// is dropped; of anything else, closing it takes it out.
#[derive(Debug)]
pub struct Poller(system::System);

/// What a descriptor is watched for. Hang-ups and errors are reported even for neither.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Interest {
    /// Bytes to read, or a connection to accept.
    pub read: bool,
    /// Room to write.
    pub write: bool,
}

impl Interest {
    /// Nothing but hang-ups and errors.
    pub const NONE: Self = Self { read: false, write: false };
    /// What can be read.
    pub const READ: Self = Self { read: true, write: false };
    /// Room to write.
    pub const WRITE: Self = Self { read: false, write: true };
    /// Both.
    pub const BOTH: Self = Self { read: true, write: true };
}

/// Something became ready.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Event {
    /// The key given with the descriptor.
    pub key: usize,
    /// Reading will not wait: bytes, an end or an error are there.
    pub readable: bool,
    /// Writing will not wait: there is room, or an error.
    pub writable: bool,
    /// Both directions are over, or the descriptor has failed. Reading still gives what came before.
    /// It is reported until the descriptor is removed, so whoever does not read then must close.
    pub hangup: bool,
}

impl Poller {
    /// A poller that watches nothing yet.
    pub fn new() -> io::Result<Self> {
        system::System::new().map(Self)
    }

    /// Watches `stream`; both descriptors of an `FD:r:w` stream have the one key.
    pub fn add(&self, stream: &Stream, key: usize, interest: Interest) -> io::Result<()> {
        if stream.is_split() {
            return self.modify(stream, key, interest);
        }
        stream.read_fd().map_or(Ok(()), |fd| self.add_fd(fd, key, interest))
    }

    /// Watches `listener` for connections to accept. One that is
    /// [`ready`](Listener::ready) without waiting has nothing to watch.
    pub fn add_listener(&self, listener: &Listener, key: usize) -> io::Result<()> {
        listener.fd().map_or(Ok(()), |fd| self.add_fd(fd, key, Interest::READ))
    }

    /// Watches any other descriptor.
    pub fn add_fd(&self, fd: BorrowedFd<'_>, key: usize, interest: Interest) -> io::Result<()> {
        if key == WAKE_KEY {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.0.add(fd, key, interest)
    }

    /// Changes what `stream` is watched for.
    pub fn modify(&self, stream: &Stream, key: usize, interest: Interest) -> io::Result<()> {
        if !stream.is_split() {
            return stream.read_fd().map_or(Ok(()), |fd| self.modify_fd(fd, key, interest));
        }
        self.watch(stream.read_fd(), key, Interest { write: false, ..interest })?;
        self.watch(stream.write_fd(), key, Interest { read: false, ..interest })
    }

    /// Watches `listener` again, or no longer: not accepting leaves connections in its backlog.
    pub fn modify_listener(&self, listener: &Listener, key: usize, accept: bool) -> io::Result<()> {
        let interest = Interest { read: accept, write: false };
        listener.fd().map_or(Ok(()), |fd| self.modify_fd(fd, key, interest))
    }

    /// Changes what any other descriptor is watched for.
    pub fn modify_fd(&self, fd: BorrowedFd<'_>, key: usize, interest: Interest) -> io::Result<()> {
        self.0.modify(fd, key, interest)
    }

    /// Forgets `stream`. Events already reported may still have its key.
    pub fn remove(&self, stream: &Stream) -> io::Result<()> {
        if !stream.is_split() {
            return stream.read_fd().map_or(Ok(()), |fd| self.remove_fd(fd));
        }
        self.watch(stream.read_fd(), 0, Interest::NONE)?;
        self.watch(stream.write_fd(), 0, Interest::NONE)
    }

    /// Forgets `listener`.
    pub fn remove_listener(&self, listener: &Listener) -> io::Result<()> {
        listener.fd().map_or(Ok(()), |fd| self.remove_fd(fd))
    }

    /// Forgets any other descriptor.
    pub fn remove_fd(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.0.remove(fd)
    }

    /// Waits until something is ready, `timeout` has passed (`None`: for ever) or somebody wakes it,
    /// and replaces what `events` holds. No events is an ordinary outcome. Allocates nothing.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        match self.0.wait(&mut events.0, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// Something that wakes the current or next [`wait`](Self::wait), from any thread.
    pub fn waker(&self) -> impl Fn() + Clone + Send + Sync + use<> {
        self.0.waker()
    }

    /// Watches one end of a split stream only while there is interest: an end of a pipe reports for
    /// ever that the other is gone, and says nothing about this stream's other end.
    fn watch(&self, fd: Option<BorrowedFd<'_>>, key: usize, interest: Interest) -> io::Result<()> {
        let Some(fd) = fd else { return Ok(()) };
        let result = if interest == Interest::NONE {
            self.remove_fd(fd)
        } else {
            match self.modify_fd(fd, key, interest) {
                Err(error) if absent(&error) => self.add_fd(fd, key, interest),
                result => result,
            }
        };
        match result {
            Err(error) if absent(&error) => Ok(()),
            result => result,
        }
    }
}

fn absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// Room for what one [`Poller::wait`] reports: [`EVENTS_MAX`].
#[derive(Debug)]
pub struct Events(system::Events);

impl Events {
    /// Takes the room, once for all waits.
    pub fn new() -> Self {
        Self(system::Events::new())
    }

    /// What the last wait reported, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = Event> {
        self.0.iter()
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::stream::Received;

    fn wait(poller: &Poller, timeout: Option<Duration>) -> Vec<Event> {
        let mut events = Events::new();
        poller.wait(&mut events, timeout).unwrap();
        events.iter().collect()
    }

    #[test]
    fn what_is_not_read_is_reported_again() {
        let (a, b) = Stream::pair().unwrap();
        let poller = Poller::new().unwrap();
        poller.add(&a, 7, Interest::READ).unwrap();
        assert_eq!(wait(&poller, Some(Duration::ZERO)), []);
        b.send(b"x").unwrap();
        for _ in 0..2 {
            let events = wait(&poller, None);
            assert_eq!(events.len(), 1);
            assert!(events[0].key == 7 && events[0].readable && !events[0].hangup);
        }
        assert_eq!(a.recv(&mut [0; 9]).unwrap(), Received::Bytes(1));
        assert_eq!(wait(&poller, Some(Duration::ZERO)), []);
    }

    #[test]
    fn only_what_is_of_interest_is_reported() {
        let (a, b) = Stream::pair().unwrap();
        let poller = Poller::new().unwrap();
        poller.add(&a, 1, Interest::NONE).unwrap();
        b.send(b"x").unwrap();
        assert_eq!(wait(&poller, Some(Duration::ZERO)), []);
        poller.modify(&a, 1, Interest::WRITE).unwrap();
        assert!(matches!(wait(&poller, None)[..], [Event { readable: false, writable: true, .. }]));
        poller.modify(&a, 1, Interest::BOTH).unwrap();
        assert!(matches!(wait(&poller, None)[..], [Event { readable: true, writable: true, .. }]));
        poller.remove(&a).unwrap();
        assert_eq!(wait(&poller, Some(Duration::ZERO)), []);
    }

    #[test]
    fn a_hangup_is_told_apart_from_an_end_and_even_without_interest() {
        let (a, mut b) = Stream::pair().unwrap();
        let poller = Poller::new().unwrap();
        poller.add(&a, 1, Interest::READ).unwrap();
        b.shutdown_write().unwrap();
        assert!(matches!(wait(&poller, None)[..], [Event { readable: true, hangup: false, .. }]));
        poller.modify(&a, 1, Interest::NONE).unwrap();
        drop(b);
        assert!(matches!(wait(&poller, None)[..], [Event { hangup: true, .. }]));
    }

    #[test]
    fn another_thread_wakes_the_wait() {
        let poller = Poller::new().unwrap();
        let wake = poller.waker();
        std::thread::spawn(wake.clone());
        assert_eq!(wait(&poller, None), []);
        wake();
        assert_eq!(wait(&poller, None), []);
    }

    #[test]
    fn the_last_key_is_not_for_callers() {
        let (a, _b) = Stream::pair().unwrap();
        assert!(Poller::new().unwrap().add(&a, usize::MAX, Interest::READ).is_err());
    }
}
