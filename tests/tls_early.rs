//! Early data (0-RTT) at two TLS servers that share sessions: a session is for single use, so
//! recorded early data is refused when it is replayed to the other server.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use distcache_posix::client::Client;
use distcache_posix::rustls::ServerSessions;
use distcache_testing::process::{Dir, Program};
use rustls::HandshakeKind;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const EARLY: &[u8] = b"POST /transfer";
const LONG: Duration = Duration::from_secs(30);

/// A cache, two proxies, and the configurations of two TLS servers behind them.
struct Site {
    servers: [Arc<ServerConfig>; 2],
    client: Arc<ClientConfig>,
    _programs: Vec<Program>,
    _dir: Dir,
}

impl Site {
    fn new() -> Self {
        let dir = Dir::new();
        let cache = Program::start(DC_SERVER, &["-listen", &dir.address("cache")]);
        let server = cache.address();
        let mut programs = vec![cache];
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.der().clone(), made.signing_key.serialize_der());
        let servers = ["near", "far"].map(|name| {
            let listen = dir.address(name);
            let proxy = Program::start(DC_CLIENT, &["-listen", &listen, "-server", &server]);
            proxy.address();
            proxy.err.wait_for("connected to ");
            programs.push(proxy);
            Arc::new(server_config(&listen, certificate.clone(), &key))
        });
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let builder = ClientConfig::builder_with_protocol_versions(&[&TLS13]);
        let mut client = builder.with_root_certificates(roots).with_no_client_auth();
        client.enable_early_data = true;
        Self { servers, client: Arc::new(client), _programs: programs, _dir: dir }
    }

    fn client(&self) -> ClientConnection {
        let name = ServerName::try_from("localhost").unwrap();
        ClientConnection::new(Arc::clone(&self.client), name).unwrap()
    }

    fn server(&self, number: usize) -> ServerConnection {
        ServerConnection::new(Arc::clone(&self.servers[number])).unwrap()
    }
}

fn server_config(cache: &str, certificate: CertificateDer<'static>, key: &[u8]) -> ServerConfig {
    let client = Client::builder(cache).timeout(LONG).connect_on_build().build().unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    let builder = ServerConfig::builder_with_protocol_versions(&[&TLS13]).with_no_client_auth();
    let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
    config.session_storage = Arc::new(ServerSessions::new(client, Duration::from_secs(300)));
    config.max_early_data_size = 1000;
    config
}

/// Returns what one end wants to send.
fn output(write: impl FnOnce(&mut Vec<u8>) -> usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes);
    bytes
}

fn input(server: &mut ServerConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        server.read_tls(&mut bytes).unwrap();
        server.process_new_packets().unwrap();
    }
}

fn all_of_client(client: &mut ClientConnection) -> Vec<u8> {
    output(|out| {
        while client.wants_write() {
            client.write_tls(out).unwrap();
        }
        out.len()
    })
}

/// Moves bytes until neither end has anything to send.
fn exchange(client: &mut ClientConnection, server: &mut ServerConnection) {
    while client.wants_write() || server.wants_write() {
        input(server, &all_of_client(client));
        let mut back = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut back).unwrap();
        }
        let mut back = &back[..];
        while !back.is_empty() {
            client.read_tls(&mut back).unwrap();
            client.process_new_packets().unwrap();
        }
    }
}

/// Returns the early data that the server accepted; `None` if it was refused.
fn early_data(server: &mut ServerConnection) -> Option<Vec<u8>> {
    let mut early = server.early_data()?;
    let mut bytes = Vec::new();
    early.read_to_end(&mut bytes).unwrap();
    Some(bytes)
}

#[test]
fn early_data_is_accepted_once_and_refused_when_replayed() {
    for (first, replayed_at) in [(0, 1), (1, 0), (0, 0)] {
        let site = Site::new();
        let (mut client, mut server) = (site.client(), site.server(0));
        exchange(&mut client, &mut server);
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));

        let (mut client, mut server) = (site.client(), site.server(first));
        let mut early = client.early_data().expect("a session that allows early data");
        early.write_all(EARLY).unwrap();
        let recorded = all_of_client(&mut client);
        input(&mut server, &recorded);
        assert_eq!(early_data(&mut server).as_deref(), Some(EARLY));
        exchange(&mut client, &mut server);
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Resumed));
        assert!(client.is_early_data_accepted());

        let mut other = site.server(replayed_at);
        input(&mut other, &recorded);
        assert_eq!(early_data(&mut other), None, "replayed at server {replayed_at}");
    }
}
