//! A connection to a real program, for bytes that no client library sends.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

use crate::process::{TIMEOUT, until};
use crate::vectors::{Outcome, Responder};

/// A connection to a program.
#[derive(Debug)]
pub struct RawClient(Stream);

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Does the same with either kind of stream.
macro_rules! with {
    ($client:expr, $stream:ident => $work:expr) => {
        match &$client.0 {
            Stream::Tcp($stream) => $work,
            Stream::Unix($stream) => $work,
        }
    };
}

impl RawClient {
    /// Connects to an address as the programs print it.
    ///
    /// # Errors
    /// The connection fails.
    ///
    /// # Panics
    /// If it is not an address.
    pub fn try_connect(address: &str) -> io::Result<Self> {
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

    /// Connects to an address as the programs print it.
    ///
    /// # Panics
    /// If nothing listens there.
    pub fn connect(address: &str) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
    }

    /// Takes one end of a pair of sockets.
    ///
    /// # Panics
    /// If its timeouts can't be set.
    pub fn from_pair(stream: UnixStream) -> Self {
        Self(Stream::Unix(stream)).patient().expect("a socket takes a timeout")
    }

    fn patient(self) -> io::Result<Self> {
        with!(self, stream => {
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
        });
        Ok(self)
    }

    /// Sends bytes. A connection that the peer has closed is no error.
    ///
    /// # Panics
    /// If the peer neither takes them nor closes.
    pub fn send(&self, bytes: &[u8]) {
        let sent = with!(self, stream => (&*stream).write_all(bytes));
        if let Err(error) = sent {
            let closed = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
            assert!(closed.contains(&error.kind()), "send: {error}");
        }
    }

    /// Sends as much as there is room for without waiting, and returns how much that is.
    ///
    /// # Panics
    /// If sending fails otherwise.
    pub fn send_available(&self, bytes: &[u8]) -> usize {
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

    /// Ends the sending side.
    ///
    /// # Panics
    /// Never: an error means that the connection is gone.
    pub fn finish(&self) {
        let _ = with!(self, stream => stream.shutdown(Shutdown::Write));
    }

    /// Receives `len` bytes.
    ///
    /// # Panics
    /// If they do not come.
    pub fn take(&self, len: usize) -> Vec<u8> {
        self.try_take(len).unwrap_or_else(|error| panic!("receive {len} bytes: {error}"))
    }

    fn try_take(&self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        with!(self, stream => (&*stream).read_exact(&mut bytes))?;
        Ok(bytes)
    }

    /// Receives a whole message, as its bytes.
    ///
    /// # Panics
    /// If none comes.
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

    /// Sends a request, and receives its answer.
    ///
    /// # Panics
    /// If none comes.
    pub fn ask(&self, request: &[u8]) -> Vec<u8> {
        self.send(request);
        self.message()
    }

    /// As [`ask`](Self::ask), if the connection may be closed instead.
    ///
    /// # Errors
    /// The connection was closed.
    ///
    /// # Panics
    /// If there is neither an answer nor an end.
    pub fn try_ask(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        self.send(request);
        let answer = self.try_message();
        let stuck = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!stuck, "neither an answer nor an end");
        answer
    }

    /// Receives everything up to the end of the connection, even if it is reset.
    ///
    /// # Panics
    /// If it does not end.
    pub fn rest(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match with!(self, stream => (&*stream).read_to_end(&mut bytes)) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                panic!("no end of the connection after {} bytes: {error}", bytes.len())
            }
            _ => bytes,
        }
    }

    /// Returns whether the connection is open, and nothing is unread.
    ///
    /// # Panics
    /// If the socket can't be made non-blocking.
    pub fn is_silent(&self) -> bool {
        self.blocking(false);
        let read = with!(self, stream => (&*stream).read(&mut [0]));
        self.blocking(true);
        read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Returns whether the peer has closed the connection. Unread bytes do not matter.
    ///
    /// # Panics
    /// If the socket can't be made non-blocking.
    pub fn is_closed(&self) -> bool {
        self.blocking(false);
        let written = with!(self, stream => (&*stream).write(&[0]));
        self.blocking(true);
        written.is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
    }

    fn blocking(&self, blocking: bool) {
        let set = with!(self, stream => stream.set_nonblocking(!blocking));
        set.expect("a socket can be non-blocking");
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

/// Sends a request, on a new connection each time, until it gets this answer.
///
/// # Panics
/// If it never does.
pub fn ask_until(address: &str, request: &[u8], answer: &[u8]) {
    until("the expected answer", || {
        let client = RawClient::try_connect(address).ok()?;
        (client.try_ask(request).ok()? == answer).then_some(())
    });
}

/// A program that must answer the reference vectors.
#[derive(Debug)]
pub struct ProgramUnderTest<'a> {
    /// Where it listens.
    pub address: &'a str,
    /// A request that has the same answer in any state of the cache, and that answer.
    pub barrier: (Vec<u8>, Vec<u8>),
}

impl Responder for ProgramUnderTest<'_> {
    fn exchange(&mut self, request: &[u8], expected: &Outcome) -> Outcome {
        let client = RawClient::connect(self.address);
        client.send(request);
        if expected.close {
            return Outcome { reply: client.rest(), close: true };
        }
        let mut reply = client.take(expected.reply.len());
        // This client came later, so the first one has been sent all that it will be sent.
        let barrier = RawClient::connect(self.address).ask(&self.barrier.0);
        assert!(barrier == self.barrier.1, "another client gets its answer");
        let close = !client.is_silent();
        client.finish();
        reply.extend(client.rest());
        Outcome { reply, close }
    }
}
