//! Two real TLS servers in two processes, which share their sessions through `dc_client` and `dc_server`.
//!
//! ```text
//!              ┌─ TLS server A ─┐
//!  TLS client ─┤                ├─ UNIX socket ─ dc_client ─ TCP ─ dc_server
//!              └─ TLS server B ─┘
//! ```
//!
//! No server has tickets, so a session that one resumes and the other created comes from the cache.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use distcache_posix::client::Client;
use distcache_posix::rustls::ServerSessions;
use distcache_testing::process::{Dir, Program, Signal, TIMEOUT, until};
use rustls::HandshakeKind::{self, Full, Resumed};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, Stream,
    SupportedProtocolVersion,
};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

/// Where the child process finds its certificate, its key and the cache.
const ROLE: &str = "DISTCACHE_TLS_SERVER";
/// The test that is a TLS server in a child process.
const SERVER: &str = "this_test_is_a_tls_server_in_a_child_process";

/// How long sessions live.
const LIFETIME: Duration = Duration::from_secs(300);
/// How long a handshake may take while the cache is silent. A server asks it up to three times with
/// a deadline of 250 ms each; this is far more, and yet finite.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Both TLS servers, with what is between them.
struct Site {
    cache: Program,
    proxy: Program,
    servers: [(Program, String); 2],
    roots: Arc<RootCertStore>,
    dir: Dir,
}

impl Site {
    fn new() -> Self {
        let dir = Dir::new();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(dir.join("certificate"), made.cert.der()).unwrap();
        fs::write(dir.join("key"), made.signing_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();

        let cache = Program::start(DC_SERVER, &["-listen", "IP:127.0.0.1:0"]);
        let proxy = start_proxy(&dir, &cache.address());
        let servers = [(); 2].map(|()| {
            let mut command = Command::new(env::current_exe().unwrap());
            command.args(["--exact", SERVER, "--nocapture", "--test-threads=1"]);
            command.env(ROLE, dir.path()).stdin(Stdio::null()).stdout(Stdio::piped());
            let server = Program::spawn(command);
            let address = server.address();
            (server, address)
        });
        Self { cache, proxy, servers, roots: Arc::new(roots), dir }
    }

    /// Creates a client that remembers sessions and uses one version only.
    fn client(&self, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_protocol_versions(&[version]);
        Arc::new(builder.with_root_certificates(Arc::clone(&self.roots)).with_no_client_auth())
    }

    /// Connects to server A or B, and returns how the handshake went.
    fn connect(&self, client: &Arc<ClientConfig>, server: usize) -> HandshakeKind {
        let started = Instant::now();
        let mut socket = TcpStream::connect(&self.servers[server].1).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut connection = ClientConnection::new(Arc::clone(client), name).unwrap();
        let mut words = String::new();
        Stream::new(&mut connection, &mut socket).read_to_string(&mut words).unwrap();
        let kind = connection.handshake_kind().unwrap();
        assert_eq!(words, format!("{kind:?}"), "client and server agree");
        assert!(started.elapsed() < HANDSHAKE_MAX, "{kind:?} took {:?}", started.elapsed());
        kind
    }

    /// Checks that a session of one server is resumed at the other.
    fn check_shared(&self, version: &'static SupportedProtocolVersion) {
        for (first, second) in [(0, 1), (1, 0)] {
            let client = self.client(version);
            assert_eq!(self.connect(&client, first), Full);
            assert_eq!(self.connect(&client, second), Resumed, "{version:?}");
        }
    }

    /// Checks that a session from before `away` cannot be resumed after it, and that the handshake
    /// succeeds.
    fn check_full_handshake(
        &self,
        version: &'static SupportedProtocolVersion,
        away: impl FnOnce(),
    ) {
        let client = self.client(version);
        assert_eq!(self.connect(&client, 0), Full);
        assert_eq!(self.connect(&client, 1), Resumed);
        away();
        for server in [1, 0] {
            assert_eq!(self.connect(&client, server), Full, "{version:?}");
        }
    }
}

fn start_proxy(dir: &Dir, cache: &str) -> Program {
    let listen = dir.address("cache");
    let proxy = Program::start(DC_CLIENT, &["-listen", &listen, "-server", cache, "-retry", "50"]);
    proxy.address();
    proxy.err.wait_for("connected to ");
    proxy
}

#[test]
fn this_test_is_a_tls_server_in_a_child_process() {
    let Some(dir) = env::var_os(ROLE).map(std::path::PathBuf::from) else { return };
    let cache = format!("UNIX:{}", dir.join("cache").display());
    let client = Client::connect(cache.as_str()).unwrap();
    let certificate = CertificateDer::from(fs::read(dir.join("certificate")).unwrap());
    let key = PrivatePkcs8KeyDer::from(fs::read(dir.join("key")).unwrap());
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key))
        .unwrap();
    config.session_storage = Arc::new(ServerSessions::new(client, LIFETIME));
    assert!(!config.ticketer.enabled(), "sessions are resumed from the cache, or not at all");
    let config = Arc::new(config);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("tls server: listening on {}", listener.local_addr().unwrap());
    for socket in listener.incoming() {
        let config = Arc::clone(&config);
        thread::spawn(move || serve(socket.unwrap(), config));
    }
}

/// Sends on a connection how its handshake went, and closes it.
fn serve(mut socket: TcpStream, config: Arc<ServerConfig>) {
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut connection = ServerConnection::new(config).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).unwrap();
    }
    let kind = connection.handshake_kind().unwrap();
    write!(connection.writer(), "{kind:?}").unwrap();
    connection.send_close_notify();
    while connection.wants_write() {
        connection.write_tls(&mut socket).unwrap();
    }
    // Closing with unread bytes would send a reset, which may overtake what was sent.
    let _ = socket.shutdown(std::net::Shutdown::Write);
    let _ = socket.read_to_end(&mut Vec::new());
}

#[test]
fn a_session_of_one_tls_server_is_resumed_at_the_other() {
    let site = Site::new();
    for version in [&TLS12, &TLS13] {
        site.check_shared(version);
    }
}

#[test]
fn a_session_can_still_be_resumed_after_two_seconds() {
    let site = Site::new();
    let clients = [&TLS12, &TLS13].map(|version| site.client(version));
    for client in &clients {
        assert_eq!(site.connect(client, 0), Full);
    }
    // Sessions must survive this time, for which there is no event. The sender stays, so only the
    // timeout ends the wait.
    let (_sender, nothing) = mpsc::channel::<()>();
    assert!(nothing.recv_timeout(Duration::from_secs(2)).is_err());
    for client in &clients {
        assert_eq!(site.connect(client, 1), Resumed);
    }
}

#[test]
fn many_handshakes_at_once_lose_no_session() {
    let site = Site::new();
    thread::scope(|scope| {
        for number in 0..8 {
            let site = &site;
            scope.spawn(move || {
                let client = site.client([&TLS12, &TLS13][number % 2]);
                assert_eq!(site.connect(&client, number % 2), Full);
                for round in 1..20 {
                    assert_eq!(site.connect(&client, (number + round) % 2), Resumed);
                }
            });
        }
    });
}

#[test]
fn while_the_cache_is_stopped_handshakes_are_full_and_succeed() {
    for version in [&TLS12, &TLS13] {
        let site = Site::new();
        site.check_full_handshake(version, || site.cache.freeze());
        site.cache.signal(Signal::CONT);
        wait_until_shared(&site, version);
    }
}

#[test]
fn while_the_proxy_is_stopped_handshakes_are_full_and_succeed() {
    for version in [&TLS12, &TLS13] {
        let site = Site::new();
        site.check_full_handshake(version, || site.proxy.freeze());
        site.proxy.signal(Signal::CONT);
        wait_until_shared(&site, version);
    }
}

#[test]
fn when_the_cache_is_dead_handshakes_are_full_until_a_new_one_starts() {
    for version in [&TLS12, &TLS13] {
        let mut site = Site::new();
        let address = site.cache.address();
        site.check_full_handshake(version, || kill(&site.cache));
        site.cache = Program::start(DC_SERVER, &["-listen", &address]);
        site.cache.address();
        wait_until_shared(&site, version);
    }
}

#[test]
fn when_the_proxy_is_dead_handshakes_are_full_until_a_new_one_starts() {
    for version in [&TLS12, &TLS13] {
        let mut site = Site::new();
        site.check_full_handshake(version, || kill(&site.proxy));
        site.proxy = start_proxy(&site.dir, &site.cache.address());
        wait_until_shared(&site, version);
    }
}

/// Kills a program and waits for its end, since a signal alone may still be in flight.
fn kill(program: &Program) {
    program.freeze();
    program.signal(Signal::KILL);
}

/// Waits until sessions are shared again: a broken connection may have to be noticed first.
fn wait_until_shared(site: &Site, version: &'static SupportedProtocolVersion) {
    until("sessions are shared again", || {
        let client = site.client(version);
        (site.connect(&client, 0) == Full && site.connect(&client, 1) == Resumed).then_some(())
    });
}
