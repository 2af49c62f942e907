//! One connection to a program that runs, used as no client of ours would use it: byte by byte.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

use crate::process::{PATIENCE, until};
use crate::vectors::{Outcome, World};

/// A connection to a program.
#[derive(Debug)]
pub struct Caller(Stream);

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Does the same with either stream.
macro_rules! with {
    ($caller:expr, $stream:ident => $work:expr) => {
        match &$caller.0 {
            Stream::Tcp($stream) => $work,
            Stream::Unix($stream) => $work,
        }
    };
}

impl Caller {
    /// Connects to an address as the programs print it.
    ///
    /// # Errors
    /// It does not answer.
    ///
    /// # Panics
    /// Where it is no address.
    pub fn try_to(address: &str) -> io::Result<Self> {
        let (kind, place) = address.split_once(':').expect("an address");
        let stream = match kind {
            "UNIX" => Stream::Unix(unix(place)?),
            _ => {
                let stream = TcpStream::connect(place)?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
        };
        Self(stream).patient()
    }

    /// Connects to where something listens.
    ///
    /// # Panics
    /// Where nothing does.
    pub fn to(address: &str) -> Self {
        Self::try_to(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
    }

    /// Takes one end of a pair of sockets.
    ///
    /// # Panics
    /// Where the socket can't be told to give up after a while.
    pub fn from_pair(stream: UnixStream) -> Self {
        Self(Stream::Unix(stream)).patient().expect("a socket takes a timeout")
    }

    fn patient(self) -> io::Result<Self> {
        with!(self, stream => {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
        });
        Ok(self)
    }

    /// Sends bytes; whether the other side still takes them is not looked at.
    ///
    /// # Panics
    /// Where it neither takes them nor closes.
    pub fn send(&self, bytes: &[u8]) {
        let sent = with!(self, stream => (&*stream).write_all(bytes));
        if let Err(error) = sent {
            let closed = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
            assert!(closed.contains(&error.kind()), "send: {error}");
        }
    }

    /// Sends as much as the other side has room for, and says how much that is.
    ///
    /// # Panics
    /// Where sending fails otherwise.
    pub fn cram(&self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        self.blocking(false);
        while sent < bytes.len() {
            match with!(self, stream => (&*stream).write(&bytes[sent..])) {
                Ok(len) => sent += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("send: {error}"),
            }
        }
        self.blocking(true);
        sent
    }

    /// Says that nothing more will be sent.
    ///
    /// # Panics
    /// Never: a connection that is gone will not be sent anything either.
    pub fn finish(&self) {
        let _ = with!(self, stream => stream.shutdown(Shutdown::Write));
    }

    /// The next `len` bytes.
    ///
    /// # Panics
    /// Where they do not come.
    pub fn take(&self, len: usize) -> Vec<u8> {
        self.try_take(len).unwrap_or_else(|error| panic!("receive {len} bytes: {error}"))
    }

    fn try_take(&self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        with!(self, stream => (&*stream).read_exact(&mut bytes))?;
        Ok(bytes)
    }

    /// The next whole message, as its bytes.
    ///
    /// # Panics
    /// Where none comes.
    pub fn message(&self) -> Vec<u8> {
        self.try_message().unwrap_or_else(|error| panic!("receive a message: {error}"))
    }

    fn try_message(&self) -> io::Result<Vec<u8>> {
        let mut message = Vec::new();
        loop {
            let header = self.try_take(14)?;
            let len = u16::from_be_bytes([header[12], header[13]]);
            message.extend(&header);
            message.extend(self.try_take(len.into())?);
            if header[11] == 1 {
                return Ok(message);
            }
        }
    }

    /// Sends a request, and waits for its answer.
    ///
    /// # Panics
    /// Where none comes.
    pub fn ask(&self, request: &[u8]) -> Vec<u8> {
        self.send(request);
        self.message()
    }

    /// The same, where the connection may be closed instead.
    ///
    /// # Errors
    /// It was.
    ///
    /// # Panics
    /// Where nothing at all comes of it.
    pub fn try_ask(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        self.send(request);
        let answer = self.try_message();
        let stuck = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!stuck, "neither an answer nor an end");
        answer
    }

    /// Everything up to the end of the connection, however that comes.
    ///
    /// # Panics
    /// Where it does not end.
    pub fn rest(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match with!(self, stream => (&*stream).read_to_end(&mut bytes)) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                panic!("no end of the connection after {} bytes: {error}", bytes.len())
            }
            _ => bytes,
        }
    }

    /// Whether the connection stands, without a byte that was not taken.
    ///
    /// # Panics
    /// Where a socket can't be told not to wait.
    pub fn is_silent(&self) -> bool {
        self.blocking(false);
        let read = with!(self, stream => (&*stream).read(&mut [0]));
        self.blocking(true);
        read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Whether the other side has closed the connection, whatever it had said before.
    ///
    /// # Panics
    /// Where a socket can't be told not to wait.
    pub fn is_gone(&self) -> bool {
        self.blocking(false);
        let written = with!(self, stream => (&*stream).write(&[0]));
        self.blocking(true);
        written.is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
    }

    fn blocking(&self, blocking: bool) {
        let set = with!(self, stream => stream.set_nonblocking(!blocking));
        set.expect("a socket can be told not to wait");
    }
}

fn unix(place: &str) -> io::Result<UnixStream> {
    #[cfg(target_os = "linux")]
    if let Some(name) = place.strip_prefix('@') {
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        return UnixStream::connect_addr(&address);
    }
    UnixStream::connect(place)
}

/// Asks at an address, on a connection each time, until the answer is the one that is waited for.
///
/// # Panics
/// Where that never comes.
pub fn ask_until(address: &str, request: &[u8], answer: &[u8]) {
    until("the answer that was waited for", || {
        let caller = Caller::try_to(address).ok()?;
        (caller.try_ask(request).ok()? == answer).then_some(())
    });
}

/// A program that is to answer the reference vectors.
#[derive(Debug)]
pub struct Answers<'a> {
    /// Where it listens.
    pub address: &'a str,
    /// Something that is answered whatever the state of the cache is, and its answer.
    pub barrier: (Vec<u8>, Vec<u8>),
}

impl World for Answers<'_> {
    fn exchange(&mut self, request: &[u8], expected: &Outcome) -> Outcome {
        let caller = Caller::to(self.address);
        caller.send(request);
        if expected.close {
            return Outcome { reply: caller.rest(), close: true };
        }
        let mut reply = caller.take(expected.reply.len());
        // Whoever is answered now came later: what was to be said to the first has been said.
        let barrier = Caller::to(self.address).ask(&self.barrier.0);
        assert!(barrier == self.barrier.1, "another client is answered");
        let close = !caller.is_silent();
        caller.finish();
        reply.extend(caller.rest());
        Outcome { reply, close }
    }
}
