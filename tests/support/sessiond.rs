//! One who asks over datagrams as stunnel does, written after its format and without the code under
//! test.

use std::io::ErrorKind;
use std::net::UdpSocket;

use crate::process::PATIENCE;

/// A socket that sends to one listener.
#[derive(Debug)]
pub struct Asker(UdpSocket);

/// A key of 32 bytes.
pub type Key = [u8; 32];

/// The key that a shorter id makes: zeros stand behind it.
///
/// # Panics
/// Where the id is longer than a key.
pub fn key(id: &[u8]) -> Key {
    let mut key = [0; 32];
    key[..id.len()].copy_from_slice(id);
    key
}

/// A packet of any type.
pub fn packet(code: u8, seconds: u16, key: &Key, value: &[u8]) -> Vec<u8> {
    [&[1, code][..], &seconds.to_be_bytes(), key, value].concat()
}

impl Asker {
    /// To an address as the programs print it.
    ///
    /// # Panics
    /// Where it is none.
    pub fn to(address: &str) -> Self {
        let place = address.strip_prefix("SESSIOND:").expect("an address for datagrams");
        let own = if place.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" };
        let socket = UdpSocket::bind(own).expect("a socket for datagrams");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        socket.connect(place).expect("an address to send to");
        Self(socket)
    }

    /// Sends any bytes; a listener that is gone is no matter.
    pub fn send(&self, bytes: &[u8]) {
        let _ = self.0.send(bytes);
    }

    /// Says that a session is new.
    pub fn new_session(&self, seconds: u16, key: &Key, value: &[u8]) {
        self.send(&packet(0, seconds, key, value));
    }

    /// Says that a session is to be removed.
    pub fn remove(&self, key: &Key) {
        self.send(&packet(2, 0, key, b""));
    }

    /// Asks for a session.
    ///
    /// # Panics
    /// Where no lawful answer comes.
    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        self.ask_for(key);
        self.answer(key)
    }

    /// Asks for a session, and does not wait.
    pub fn ask_for(&self, key: &Key) {
        self.send(&packet(1, 77, key, b""));
    }

    /// The next answer, which is to be about this key.
    ///
    /// # Panics
    /// Where no lawful answer comes.
    pub fn answer(&self, key: &Key) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        let len = self.0.recv(&mut buffer).expect("an answer");
        let (head, value) = buffer[..len].split_at(36);
        let found = head[1] == 0x81;
        assert_eq!(head, packet(if found { 0x81 } else { 0x80 }, 77, key, b""));
        assert!(found || value.is_empty(), "what is not there has no value");
        found.then(|| value.to_vec())
    }

    /// Whether no answer is there.
    ///
    /// # Panics
    /// Where a socket can't be told not to wait.
    pub fn is_silent(&self) -> bool {
        self.0.set_nonblocking(true).expect("a socket can be told not to wait");
        let received = self.0.recv(&mut [0; 9]);
        self.0.set_nonblocking(false).expect("and to wait again");
        received.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}
