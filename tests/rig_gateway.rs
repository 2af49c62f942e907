//! httpd and rustls servers that share sessions through a gateway and a cluster.
//!
//! ```text
//!              ┌─ httpd 0, rustls 0 ─ dc_client 0 ─┐                ┌─ shard
//!  TLS client ─┤                                   ├─ dc_gateway ───┼─ shard
//!              └─ httpd 1, rustls 1 ─ dc_client 1 ─┘                └─ shard
//! ```
//!
//! No server issues tickets, so a session that another server resumes comes from the cluster.

#[path = "rig_apache/httpd.rs"]
#[allow(dead_code, reason = "the rig of httpd uses the rest")]
mod httpd;
#[path = "../bins/gateway/tests/rig/mod.rs"]
mod rig;
#[path = "rig_apache/site.rs"]
#[allow(dead_code, reason = "the rig of httpd uses the rest")]
mod site;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use distcache_posix::client::Client;
use distcache_posix::rustls::ServerSessions;
use distcache_testing::process::{Program, Signal, TIMEOUT, until};
use distcache_testing::rig::can_run;
use rustls::HandshakeKind::{Full, Resumed};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    Stream, SupportedProtocolVersion,
};

use rig::{Cluster, dc_gateway, engines};
use site::Site;

/// Starts a TLS server by rustls, which runs until the test ends.
fn rustls_server(cache: &str, made: &rcgen::CertifiedKey<rcgen::KeyPair>) -> String {
    let client = Client::connect(cache).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
        .unwrap();
    config.session_storage = Arc::new(ServerSessions::new(client, Duration::from_secs(300)));
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let (mut socket, config) = (socket.unwrap(), Arc::clone(&config));
            thread::spawn(move || {
                socket.set_read_timeout(Some(TIMEOUT)).unwrap();
                let mut connection = ServerConnection::new(config).unwrap();
                let mut stream = Stream::new(&mut connection, &mut socket);
                stream.write_all(b"hello").unwrap();
                connection.send_close_notify();
                while connection.wants_write() {
                    connection.write_tls(&mut socket).unwrap();
                }
                let _ = socket.shutdown(std::net::Shutdown::Write);
                let _ = socket.read_to_end(&mut Vec::new());
            });
        }
    });
    address
}

/// The kind of a handshake with a server.
fn shake(client: &Arc<ClientConfig>, server: &str) -> HandshakeKind {
    let mut socket = TcpStream::connect(server).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut words = String::new();
    Stream::new(&mut connection, &mut socket).read_to_string(&mut words).unwrap();
    assert_eq!(words, "hello");
    connection.handshake_kind().unwrap()
}

fn client(
    roots: &Arc<RootCertStore>,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_protocol_versions(&[version]);
    Arc::new(builder.with_root_certificates(Arc::clone(roots)).with_no_client_auth())
}

#[test]
fn httpd_and_rustls_share_sessions_through_a_gateway_and_a_cluster() {
    let tools = ["apache2", "apxs", "cc", "openssl", "pkg-config"];
    if !can_run("httpd through a gateway", false, &tools) {
        return;
    }
    for engine in engines("httpd through a gateway") {
        let cluster = Cluster::start(&engine, 3, 1);
        let words = ["-listen", "IP:127.0.0.1:0", "-engine", &cluster.url(), "-overtake", "10"];
        let gateway = Program::start(&dc_gateway(), &words);
        let address = gateway.address();
        let mut site = Site::new();
        for number in [0, 1] {
            site.proxies[number].signal(Signal::KILL);
            until("the end of a proxy", || (!site.proxies[number].is_running()).then_some(()));
            site.restart_proxy(number, &address);
        }
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let roots = Arc::new(roots);
        let servers =
            [0, 1].map(|number| rustls_server(&site.dirs[number].address("cache"), &made));
        let shares = |version| {
            // The first request fails on a connection to the old proxy.
            until("sessions of httpd that are shared", || {
                let client = site.client(version);
                let kinds = [0, 1, 0].map(|number| site.handshake(&client, number));
                (kinds == [Full, Resumed, Resumed]).then_some(())
            });
            until("sessions of rustls that are shared", || {
                let client = client(&roots, version);
                let kinds = [0, 1, 0].map(|number: usize| shake(&client, &servers[number]));
                (kinds == [Full, Resumed, Resumed]).then_some(())
            });
        };
        for version in [&TLS12, &TLS13] {
            shares(version);
        }
        let size = |node: &rig::Engine| node.ask(&["dbsize"]).parse::<u64>().unwrap();
        assert!(cluster.nodes.iter().map(size).sum::<u64>() >= 16, "sessions are in the cluster");
        // After the failure of a master, sessions are shared as before.
        let master = cluster.master_of(1).unwrap();
        cluster.node(master).program.signal(Signal::KILL);
        until("a new master", || cluster.master_of(1).filter(|now| *now != master));
        for version in [&TLS12, &TLS13] {
            shares(version);
        }
        gateway.end(Signal::TERM);
    }
}
