//! Plain TCP sockets of hostile clients, which may be reset.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use crate::process::{TIMEOUT, until};

/// Connects to the TCP address that a program prints.
///
/// # Panics
/// If nothing listens.
pub fn connect(address: &str) -> TcpStream {
    let (_, place) = address.split_once(':').expect("an address");
    // The backlog may be full for a moment.
    let stream = until("a connection", || TcpStream::connect(place).ok());
    stream.set_read_timeout(Some(TIMEOUT)).expect("a socket takes a timeout");
    stream.set_write_timeout(Some(TIMEOUT)).expect("a socket takes a timeout");
    stream
}

/// Closes a connection with a reset.
///
/// # Panics
/// If the socket option can't be set.
pub fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).expect("a socket takes a linger time");
}

/// Sends bytes. Returns whether the connection took them.
pub fn try_send(mut stream: &TcpStream, bytes: &[u8]) -> bool {
    stream.write_all(bytes).is_ok()
}

/// Waits for the end of a connection, even if it is reset, and returns how many bytes came before.
///
/// # Panics
/// If it does not end.
pub fn wait_for_close(mut stream: &TcpStream) -> usize {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => {
            panic!("no end of the connection after {} bytes: {error}", bytes.len())
        }
        _ => bytes.len(),
    }
}
