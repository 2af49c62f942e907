//! Waits until descriptors can be read or written.
//!
//! Polling is level-triggered: a descriptor that stays ready is reported again. On Linux this is epoll
//! itself, one system call for each wait; elsewhere the `polling` crate, which makes four more.

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

/// The most events that one [`Poller::wait`] reports; the next one reports the others.
pub const EVENTS_MAX: usize = 1024;

/// The waker's key, which callers cannot use.
const WAKE_KEY: usize = usize::MAX;

/// Watches descriptors, each under a key that the caller chooses, below `usize::MAX`.
///
/// Closing a descriptor removes it from the poller, unless another process has the same file open:
/// [`remove`](Self::remove) such a descriptor before closing it. [`Watched`] does that.
#[derive(Debug)]
pub struct Poller(system::System);

/// What a descriptor is watched for. Hang-ups and errors are always reported.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Interest {
    /// Bytes can be read, or a connection accepted.
    pub read: bool,
    /// Bytes can be written.
    pub write: bool,
}

impl Interest {
    /// Only hang-ups and errors.
    pub const NONE: Self = Self { read: false, write: false };
    /// Reading.
    pub const READ: Self = Self { read: true, write: false };
    /// Writing.
    pub const WRITE: Self = Self { read: false, write: true };
    /// Both.
    pub const BOTH: Self = Self { read: true, write: true };
}

/// A descriptor that is ready.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Event {
    /// The key of the descriptor.
    pub key: usize,
    /// A read returns at once: with bytes, the end of the stream, or an error.
    pub readable: bool,
    /// A write returns at once: with bytes written, or an error.
    pub writable: bool,
    /// Both directions are closed, or the descriptor has failed. Bytes received before can still be
    /// read. It is reported until the descriptor is removed: read on, or close it.
    pub hangup: bool,
}

impl Poller {
    /// Creates a poller that watches nothing.
    pub fn new() -> io::Result<Self> {
        system::System::new().map(Self)
    }

    /// Watches `stream`; both descriptors of an `FD:r:w` stream share the key.
    pub fn add(&self, stream: &Stream, key: usize, interest: Interest) -> io::Result<()> {
        if stream.is_split() {
            return self.modify(stream, key, interest);
        }
        stream.read_fd().map_or(Ok(()), |fd| self.add_fd(fd, key, interest))
    }

    /// Watches `listener` for connections or datagrams. Does nothing for a listener without a
    /// descriptor: see [`Listener::ready`].
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
        self.watch_one(stream.read_fd(), key, Interest { write: false, ..interest })?;
        self.watch_one(stream.write_fd(), key, Interest { read: false, ..interest })
    }

    /// Watches `listener` again, or pauses; connections then wait in its backlog.
    pub fn modify_listener(&self, listener: &Listener, key: usize, accept: bool) -> io::Result<()> {
        let interest = Interest { read: accept, write: false };
        listener.fd().map_or(Ok(()), |fd| self.modify_fd(fd, key, interest))
    }

    /// Changes what any other descriptor is watched for.
    pub fn modify_fd(&self, fd: BorrowedFd<'_>, key: usize, interest: Interest) -> io::Result<()> {
        self.0.modify(fd, key, interest)
    }

    /// Stops watching `stream`. Events reported before may still have its key.
    pub fn remove(&self, stream: &Stream) -> io::Result<()> {
        if !stream.is_split() {
            return stream.read_fd().map_or(Ok(()), |fd| self.remove_fd(fd));
        }
        self.watch_one(stream.read_fd(), 0, Interest::NONE)?;
        self.watch_one(stream.write_fd(), 0, Interest::NONE)
    }

    /// Stops watching `listener`.
    pub fn remove_listener(&self, listener: &Listener) -> io::Result<()> {
        listener.fd().map_or(Ok(()), |fd| self.remove_fd(fd))
    }

    /// Stops watching any other descriptor.
    pub fn remove_fd(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.0.remove(fd)
    }

    /// Waits until a descriptor is ready, `timeout` has passed (`None` for no timeout), the waker is
    /// called or a signal arrives, and replaces the content of `events`, possibly with no events.
    /// Allocates nothing.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        match self.0.wait(&mut events.0, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns a function that wakes the current or next [`wait`](Self::wait) from any thread.
    pub fn waker(&self) -> impl Fn() + Clone + Send + Sync + use<> {
        self.0.waker()
    }

    /// Watches one descriptor of a split stream, only while there is interest: a pipe whose other end is
    /// closed is reported for ever, and does not end the other direction of the stream.
    fn watch_one(
        &self,
        fd: Option<BorrowedFd<'_>>,
        key: usize,
        interest: Interest,
    ) -> io::Result<()> {
        let Some(fd) = fd else { return Ok(()) };
        let result = if interest == Interest::NONE {
            self.remove_fd(fd)
        } else {
            match self.modify_fd(fd, key, interest) {
                Err(error) if is_not_watched(&error) => self.add_fd(fd, key, interest),
                result => result,
            }
        };
        match result {
            Err(error) if is_not_watched(&error) => Ok(()),
            result => result,
        }
    }
}

fn is_not_watched(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// A buffer for the events of one [`Poller::wait`], up to [`EVENTS_MAX`].
#[derive(Debug)]
pub struct Events(system::Events);

impl Events {
    /// Allocates the buffer; it serves any number of waits.
    pub fn new() -> Self {
        Self(system::Events::new())
    }

    /// The events of the last wait, in no particular order.
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
    fn unread_bytes_are_reported_again() {
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
    fn only_events_of_interest_are_reported() {
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
    fn a_hangup_differs_from_a_half_close_and_is_reported_without_interest() {
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
    fn the_last_key_is_refused() {
        let (a, _b) = Stream::pair().unwrap();
        assert!(Poller::new().unwrap().add(&a, usize::MAX, Interest::READ).is_err());
    }
}
