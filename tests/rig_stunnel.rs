//! Two unmodified stunnels that share their sessions.
//!
//! ```text
//!               ┌─ stunnel ─ UDP ─ dc_client ─┐
//!  openssl ─────┤                             ├─ TCP ─ dc_server
//!               └─ stunnel ─ UDP ─ dc_client ─┘
//! ```
//!
//! With `sessiond`, stunnel sends no tickets that carry a session, and keeps only its own sessions in
//! memory. So a stunnel can resume a session of the other one only from the cache.
//!
//! stunnel waits for an answer for 200 us, which the system rounds up to one or two ticks of its clock. On
//! a busy machine an answer may be too late, and the handshake is a full one. So the tests offer a session
//! until it is resumed, and print how many full handshakes there were.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use distcache_testing::process::{Dir, Program, Signal, until};
use distcache_testing::rig::{can_run, certificate};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

const VERSIONS: [(&str, &str); 2] = [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")];

/// Both stunnels, the proxies and the cache.
struct Site {
    dir: Dir,
    cache: Option<Program>,
    machines: [Machine; 2],
}

/// A stunnel with the proxy of its machine.
struct Machine {
    proxy: Option<Program>,
    stunnel: Program,
    address: String,
}

/// How a handshake handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Handshake {
    Full,
    Resumed,
}

impl Site {
    fn new() -> Self {
        let dir = Dir::new();
        certificate(dir.path());
        let cache = Program::start(DC_SERVER, &["-listen", "IP:127.0.0.1:0"]);
        let server = cache.address();
        let machines = ["one", "two"].map(|name| Machine::new(&dir, name, &server));
        Self { dir, cache: Some(cache), machines }
    }

    /// Connects to a stunnel with more arguments of openssl, and checks its greeting.
    fn connect(&self, machine: usize, version: (&str, &str), arguments: &[&str]) -> Handshake {
        let mut command = Command::new("openssl");
        command.args([
            "s_client",
            "-connect",
            &self.machines[machine].address,
            "-ign_eof",
            version.0,
        ]);
        let output = command.args(arguments).stdin(Stdio::null()).output().expect("openssl");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("\nhello from "), "no service: {text}{output:?}");
        let is = |word: &str| text.contains(&format!("\n{word}, {}, Cipher is ", version.1));
        match (is("New"), is("Reused")) {
            (true, false) => Handshake::Full,
            (false, true) => Handshake::Resumed,
            _ => panic!("neither New nor Reused: {text}"),
        }
    }

    /// Begins a session. Returns the file that it is stored in.
    fn begin(&self, machine: usize, version: (&str, &str)) -> String {
        let file = self.dir.text(&format!("session{}", version.0));
        let begun = self.connect(machine, version, &["-sess_out", &file]);
        assert_eq!(begun, Handshake::Full);
        file
    }

    /// Offers a session until it is resumed. Returns the number of full handshakes before that.
    fn resume(&self, machine: usize, version: (&str, &str), file: &str) -> usize {
        let mut full = 0;
        until("a session that is resumed", || {
            let handshake = self.connect(machine, version, &["-sess_in", file]);
            full += usize::from(handshake == Handshake::Full);
            (handshake == Handshake::Resumed).then_some(full)
        })
    }
}

impl Machine {
    fn new(dir: &Dir, name: &str, server: &str) -> Self {
        let listen = ["-listen", "SESSIOND:127.0.0.1:0"];
        let words = [&listen[..], &["-server", server, "-retry", "50"]].concat();
        let proxy = Program::start(DC_CLIENT, &words);
        let sessiond = proxy.address().replace("SESSIOND:", "");
        proxy.err.wait_for("connected to ");
        let (address, config) = (free_address(), dir.text(name));
        let (key, certificate) = (dir.text("key.pem"), dir.text("cert.pem"));
        // stunnel derives its session context from the name in brackets, so it is the same on both.
        let text = format!(
            "foreground = yes\npid =\nsyslog = no\ndebug = info\n[shared]\naccept = {address}\n\
             exec = /bin/echo\nexecArgs = echo hello from {name}\n\
             key = {key}\ncert = {certificate}\nsessiond = {sessiond}\n"
        );
        std::fs::write(&config, text).expect("a configuration");
        let stunnel = Program::start("stunnel4", &[&config]);
        stunnel.err.wait_for("Configuration successful");
        Self { proxy: Some(proxy), stunnel, address }
    }

    /// Ends the proxy. Returns its numbers of hits and of gets.
    fn hits(&mut self) -> (u64, u64) {
        let proxy = self.proxy.take().expect("a proxy");
        let ended = proxy.end(Signal::TERM);
        let line = ended.err.lines().find(|line| line.contains(" gets found"));
        let words: Vec<&str> = line.expect("what it did").split(' ').collect();
        let at = words.iter().position(|word| *word == "of").expect("hits of gets");
        let number = |at: usize| words[at].parse().expect("a number");
        (number(at - 1), number(at + 1))
    }
}

/// Returns a free address, since stunnel does not print the port that the system assigns. Each test process
/// uses its own loopback address, so that no other process takes the port.
fn free_address() -> String {
    let [.., high, low] = std::process::id().to_be_bytes();
    let listener = TcpListener::bind(format!("127.77.{high}.{low}:0")).expect("a port");
    listener.local_addr().expect("its number").to_string()
}

#[test]
fn a_session_begun_at_one_stunnel_is_resumed_at_the_other() {
    let test = "a_session_begun_at_one_stunnel_is_resumed_at_the_other";
    if !can_run(test, false, &["stunnel4", "openssl"]) {
        return;
    }
    let mut site = Site::new();
    for version in VERSIONS {
        let mut full = 0;
        for round in 0..20 {
            let file = site.begin(round % 2, version);
            full += site.resume((round + 1) % 2, version, &file);
        }
        println!("{}: 20 sessions resumed, {full} full handshakes in between", version.1);
    }
    for machine in &mut site.machines {
        let (hits, gets) = machine.hits();
        println!("{hits} of {gets} gets found");
        assert!(hits >= 20, "10 sessions of each version came from the cache: {hits} of {gets}");
        assert!(machine.stunnel.is_running());
    }
    let cache = site.cache.take().expect("a cache");
    assert!(cache.end(Signal::TERM).err.contains(" 0 malformed"));
}

#[test]
fn without_the_cache_stunnel_goes_on_with_full_handshakes() {
    let test = "without_the_cache_stunnel_goes_on_with_full_handshakes";
    if !can_run(test, false, &["stunnel4", "openssl"]) {
        return;
    }
    let mut site = Site::new();
    let files = VERSIONS.map(|version| site.begin(0, version));
    let all_full = |site: &Site| {
        for (version, file) in VERSIONS.into_iter().zip(&files) {
            for _ in 0..3 {
                assert_eq!(site.connect(1, version, &["-sess_in", file]), Handshake::Full);
            }
        }
    };
    for (version, file) in VERSIONS.into_iter().zip(&files) {
        site.resume(1, version, file);
    }
    let cache = site.cache.take().expect("a cache");
    let address = cache.address();
    cache.freeze();
    all_full(&site);
    assert_eq!(cache.end(Signal::KILL).code, -9);
    all_full(&site);
    let second = Program::start(DC_SERVER, &["-listen", &address]);
    second.address();
    all_full(&site);
    until("a session that the second cache has", || {
        let file = site.begin(0, VERSIONS[0]);
        let handshake = site.connect(1, VERSIONS[0], &["-sess_in", &file]);
        (handshake == Handshake::Resumed).then_some(())
    });
    for machine in &mut site.machines {
        machine.proxy = None;
    }
    all_full(&site);
    assert!(site.machines.iter_mut().all(|machine| machine.stunnel.is_running()));
}
