//! A stream together with what the poller watches it for.

use std::io;
use std::ops::{Deref, DerefMut};

use super::{Interest, Poller};
use crate::net::stream::Stream;

/// A stream, its key, and the interest it is registered with. Derefs to the stream.
///
/// Every loop sets the interest of a stream after each send and receive; most of the time it has not
/// changed, and then no system call is made.
#[derive(Debug)]
pub struct Watched {
    stream: Stream,
    key: usize,
    /// `None` before the first [`watch`](Self::watch).
    interest: Option<Interest>,
}

impl Watched {
    /// A stream that is not registered yet.
    pub fn new(stream: Stream, key: usize) -> Self {
        Self { stream, key, interest: None }
    }

    /// Watches the stream for `interest` and nothing else. Always the same poller.
    ///
    /// # Errors
    /// The system refuses. Close the stream then: what it is watched for is unknown.
    pub fn watch(&mut self, poller: &Poller, interest: Interest) -> io::Result<()> {
        match self.interest.replace(interest) {
            Some(before) if before == interest => Ok(()),
            Some(_) => poller.modify(&self.stream, self.key, interest),
            None => poller.add(&self.stream, self.key, interest),
        }
    }

    /// What the stream is watched for.
    pub fn interest(&self) -> Interest {
        self.interest.unwrap_or(Interest::NONE)
    }

    /// Closes the stream.
    pub fn close(mut self, poller: &Poller) {
        self.unwatch(poller);
    }

    /// Prepares for closing: removes the stream from the poller where closing alone would not, since
    /// another process has it open too.
    pub fn unwatch(&mut self, poller: &Poller) {
        if self.interest.take().is_some() && self.stream.is_shared() {
            // A failure leaves nothing to do: the descriptor is closed next.
            let _ = poller.remove(&self.stream);
        }
    }
}

impl Deref for Watched {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

impl DerefMut for Watched {
    fn deref_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::poller::Events;
    use std::io::ErrorKind;
    use std::time::Duration;

    fn ready(poller: &Poller) -> usize {
        let mut events = Events::new();
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        events.iter().count()
    }

    #[test]
    fn only_a_change_of_interest_reaches_the_system() {
        let (a, _b) = Stream::pair().unwrap();
        let poller = Poller::new().unwrap();
        let mut a = Watched::new(a, 1);
        assert_eq!(a.interest(), Interest::NONE);
        a.watch(&poller, Interest::WRITE).unwrap();
        assert_eq!((a.interest(), ready(&poller)), (Interest::WRITE, 1));
        a.watch(&poller, Interest::READ).unwrap();
        assert_eq!((a.interest(), ready(&poller)), (Interest::READ, 0));
        // A system call would fail from here on.
        poller.remove(&a).unwrap();
        a.watch(&poller, Interest::READ).unwrap();
        let changed = a.watch(&poller, Interest::BOTH);
        assert_eq!(changed.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_closed_stream_is_reported_no_more_even_if_another_process_has_it_open() {
        let (a, _b) = Stream::pair().unwrap();
        let poller = Poller::new().unwrap();
        let _theirs = a.read_fd().unwrap().try_clone_to_owned().unwrap();
        let mut a = Watched::new(a, 1);
        a.watch(&poller, Interest::WRITE).unwrap();
        assert_eq!(ready(&poller), 1);
        a.close(&poller);
        assert_eq!(ready(&poller), 0);
    }
}
