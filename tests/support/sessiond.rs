//! A client that uses datagrams as stunnel does, written from their format and without the code
//! under test.

use std::io::ErrorKind;
use std::net::UdpSocket;

use crate::process::TIMEOUT;

/// A socket that sends to one listener.
#[derive(Debug)]
pub struct DatagramClient(UdpSocket);

/// A key of 32 bytes.
pub type Key = [u8; 32];

/// Returns the key of a shorter id, with zeros behind it.
///
/// # Panics
/// If the id is longer than a key.
pub fn key(id: &[u8]) -> Key {
    let mut key = [0; 32];
    key[..id.len()].copy_from_slice(id);
    key
}

/// Returns a packet of any type.
pub fn packet(code: u8, seconds: u16, key: &Key, value: &[u8]) -> Vec<u8> {
    [&[1, code][..], &seconds.to_be_bytes(), key, value].concat()
}

impl DatagramClient {
    /// Creates a client of an address as the programs print it.
    ///
    /// # Panics
    /// If it is not an address.
    pub fn connect(address: &str) -> Self {
        let place = address.strip_prefix("SESSIOND:").expect("an address for datagrams");
        let own = if place.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" };
        let socket = UdpSocket::bind(own).expect("a socket for datagrams");
        socket.set_read_timeout(Some(TIMEOUT)).expect("a socket takes a timeout");
        socket.connect(place).expect("an address to send to");
        Self(socket)
    }

    /// Sends any bytes. It is no error if nothing listens.
    pub fn send(&self, bytes: &[u8]) {
        let _ = self.0.send(bytes);
    }

    /// Stores a session.
    pub fn new_session(&self, seconds: u16, key: &Key, value: &[u8]) {
        self.send(&packet(0, seconds, key, value));
    }

    /// Removes a session.
    pub fn remove(&self, key: &Key) {
        self.send(&packet(2, 0, key, b""));
    }

    /// Fetches a session.
    ///
    /// # Panics
    /// If no valid answer comes.
    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        self.ask_for(key);
        self.answer(key)
    }

    /// Sends a request to fetch a session, and does not wait.
    pub fn ask_for(&self, key: &Key) {
        self.send(&packet(1, 77, key, b""));
    }

    /// Receives the answer for this key.
    ///
    /// # Panics
    /// If no valid answer comes.
    pub fn answer(&self, key: &Key) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        let len = self.0.recv(&mut buffer).expect("an answer");
        let (head, value) = buffer[..len].split_at(36);
        let found = head[1] == 0x81;
        assert_eq!(head, packet(if found { 0x81 } else { 0x80 }, 77, key, b""));
        assert!(found || value.is_empty(), "a miss has no value");
        found.then(|| value.to_vec())
    }

    /// Returns whether no answer has come.
    ///
    /// # Panics
    /// If the socket can't be made non-blocking.
    pub fn is_silent(&self) -> bool {
        self.0.set_nonblocking(true).expect("a socket can be non-blocking");
        let received = self.0.recv(&mut [0; 9]);
        self.0.set_nonblocking(false).expect("a socket can be blocking");
        received.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}
