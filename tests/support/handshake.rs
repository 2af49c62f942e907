//! TLS connections made by `openssl s_client`, and whether they resumed a session.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::Program;

/// A version of TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl Version {
    const fn option(self) -> &'static str {
        match self {
            Self::Tls12 => "-tls1_2",
            Self::Tls13 => "-tls1_3",
        }
    }

    /// Returns its name in the output of programs that use OpenSSL.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        }
    }
}

/// A finished connection.
#[derive(Debug)]
pub struct Handshake {
    /// Whether the offered session was resumed.
    pub resumed: bool,
    /// The id of the session.
    pub session_id: Vec<u8>,
    /// The time it took, including the start of s_client.
    pub took: Duration,
    /// All that s_client printed, including what the server sent.
    pub said: String,
}

/// A TLS client that keeps its session in a file.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The only version that it uses.
    pub version: Version,
    /// The file of the session.
    pub session: &'a Path,
}

impl Client<'_> {
    /// Connects without a session, and keeps the new one. `place` is s_client's option and value
    /// for the address: `-unix path` or `-connect host:port`.
    ///
    /// # Panics
    /// If the handshake fails.
    pub fn begin(&self, place: [&str; 2]) -> Handshake {
        self.shake(place, false)
    }

    /// Connects with the kept session, and keeps the resulting one.
    ///
    /// # Panics
    /// If the handshake fails.
    pub fn go_on(&self, place: [&str; 2]) -> Handshake {
        self.shake(place, true)
    }

    fn shake(&self, place: [&str; 2], resume: bool) -> Handshake {
        // The servers send something and close, one after an HTTP request, the other at once.
        let request = self.session.with_extension("request");
        fs::write(&request, "GET / HTTP/1.0\r\n\r\n").expect("a file of our own");
        let mut command = Command::new("openssl");
        command.args(["s_client", "-ign_eof", "-servername", "localhost", self.version.option()]);
        command.args(place).arg("-sess_out").arg(self.session);
        if resume {
            command.arg("-sess_in").arg(self.session);
        }
        command.stdin(File::open(request).expect("a file of our own")).stdout(Stdio::piped());
        let started = Instant::now();
        let ended = Program::spawn(command).ended();
        let took = started.elapsed();
        let line = |start: &str| ended.out.lines().find_map(|line| line.trim().strip_prefix(start));
        let wanted = format!("{}, ", self.version.name());
        let resumed = match (line("New, "), line("Reused, ")) {
            (Some(made), None) if made.starts_with(&wanted) => false,
            (None, Some(made)) if made.starts_with(&wanted) => true,
            _ => panic!("no handshake of {:?} at {place:?}: {ended:?}", self.version),
        };
        let session_id = line("Session-ID: ").map(unhex).unwrap_or_default();
        Handshake { resumed, session_id, took, said: ended.out }
    }
}

fn unhex(digits: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| {
        let pair = str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    };
    let bytes = digits.as_bytes().chunks(2).map(byte).collect::<Option<Vec<_>>>();
    bytes.unwrap_or_else(|| panic!("hexadecimal digits, not {digits:?}"))
}
