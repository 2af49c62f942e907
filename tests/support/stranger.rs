//! Connections of those who do not mean well: bare sockets, that are dropped or reset at will.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use crate::process::{PATIENCE, until};

/// Connects to where a program says that it listens, which must be a port.
///
/// # Panics
/// Where nobody listens.
pub fn stranger(address: &str) -> TcpStream {
    let (_, place) = address.split_once(':').expect("an address");
    // A backlog that is full for a moment is no failure of anybody's.
    let stream = until("a connection", || TcpStream::connect(place).ok());
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
    stream
}

/// Closes a connection in such a way that the other side gets a reset.
///
/// # Panics
/// Where a socket can't be told so.
pub fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).expect("a socket takes a linger time");
}

/// Whether the other side has taken these bytes and not closed the connection, as far as is known.
pub fn takes(mut stream: &TcpStream, bytes: &[u8]) -> bool {
    stream.write_all(bytes).is_ok()
}

/// Waits for the end of a connection, however it comes, and says how many bytes came before it.
///
/// # Panics
/// Where it does not come.
pub fn end(mut stream: &TcpStream) -> usize {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => {
            panic!("no end of the connection after {} bytes: {error}", bytes.len())
        }
        _ => bytes.len(),
    }
}
