//! Two httpd that share a cache, and clients of both.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use distcache_testing::process::{Dir, Program, TIMEOUT};
use rustls::pki_types::ServerName;
use rustls::version::TLS12;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, Stream, SupportedProtocolVersion,
};

use super::httpd::{Httpd, LONG_TIMEOUT, free_port, preamble};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

/// mod_ssl derives its session context from name and port, so both servers have the same port.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)];

/// ```text
///              ┌─ httpd 0 ─ UNIX socket ─ dc_client 0 ─┐
///  TLS client ─┤                                       ├─ TCP ─ dc_server
///              └─ httpd 1 ─ UNIX socket ─ dc_client 1 ─┘
/// ```
pub(crate) struct Site {
    pub(crate) servers: [Httpd; 2],
    pub(crate) proxies: [Program; 2],
    pub(crate) cache: Program,
    /// A directory for each of the two machines.
    pub(crate) dirs: [Dir; 2],
    port: u16,
    roots: Arc<RootCertStore>,
}

/// What a test changes about a site.
#[derive(Debug)]
pub(crate) struct Setup {
    /// More configuration, in which `CACHE` is replaced by the address of the machine's proxy, and `PORT` by
    /// the port of the cache.
    pub(crate) more: String,
    /// The timeout of the module.
    pub(crate) timeout: Duration,
    /// More options of the proxies.
    pub(crate) proxy: Vec<&'static str>,
    /// A command that starts httpd, in front of its own.
    pub(crate) before: Vec<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { more: String::new(), timeout: LONG_TIMEOUT, proxy: Vec::new(), before: Vec::new() }
    }
}

/// A handshake, and the page that was fetched.
pub(crate) struct Visit {
    pub(crate) kind: HandshakeKind,
    /// From connecting to the end of the response.
    pub(crate) took: Duration,
    pub(crate) page: String,
}

impl Site {
    /// A site with sessions in the cache.
    pub(crate) fn new() -> Self {
        Self::set_up(&Setup::default())
    }

    /// A site with the changes of a test.
    pub(crate) fn set_up(setup: &Setup) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        Self::with(&made.cert.pem(), &made.signing_key.serialize_pem(), setup, roots)
    }

    /// The same with a certificate of the caller.
    pub(crate) fn with(cert: &str, key: &str, setup: &Setup, roots: RootCertStore) -> Self {
        let cache = Program::start(DC_SERVER, &["-listen", "IP:127.0.0.1:0"]);
        let dirs = [(); 2].map(|()| Dir::new());
        for dir in &dirs {
            fs::write(dir.join("cert.pem"), cert).unwrap();
            fs::write(dir.join("key.pem"), key).unwrap();
            fs::create_dir(dir.join("pages")).unwrap();
            fs::write(dir.join("pages/index.html"), "hello\n").unwrap();
        }
        let address = cache.address();
        let proxies = [0, 1].map(|number| start_proxy(&dirs[number], &address, &setup.proxy));
        let cache_port = address.rsplit(':').next().expect("a port");
        let more = setup.more.replace("PORT", cache_port);
        let (servers, port) = loop {
            let port = free_port(&ADDRESSES);
            let start = |number: usize| {
                let (dir, at) = (&dirs[number], ADDRESSES[number]);
                Httpd::start(dir, &config(dir, at, port, &more), &setup.before, setup.timeout)
            };
            if let (Some(one), Some(other)) = (start(0), start(1)) {
                break ([one, other], port);
            }
        };
        Self { servers, proxies, cache, dirs, port, roots: Arc::new(roots) }
    }

    /// Returns the address of a server.
    pub(crate) fn address(&self, server: usize) -> String {
        format!("{}:{}", ADDRESSES[server], self.port)
    }

    /// Restarts the proxy of a machine, for the cache at `address`.
    pub(crate) fn restart_proxy(&mut self, number: usize, address: &str) {
        self.proxies[number] = start_proxy(&self.dirs[number], address, &[]);
    }

    /// Returns a client that remembers sessions and supports one version only.
    pub(crate) fn client(&self, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_protocol_versions(&[version]);
        Arc::new(builder.with_root_certificates(Arc::clone(&self.roots)).with_no_client_auth())
    }

    /// Connects to a server and fetches a page.
    pub(crate) fn visit(&self, client: &Arc<ClientConfig>, server: usize, page: &str) -> Visit {
        let began = Instant::now();
        let mut socket = TcpStream::connect((ADDRESSES[server], self.port)).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut connection = ClientConnection::new(Arc::clone(client), name).unwrap();
        let mut stream = Stream::new(&mut connection, &mut socket);
        write!(stream, "GET {page} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let took = began.elapsed();
        assert!(text.starts_with("HTTP/1.1 200 "), "{page}: {text}");
        let page = text.split_once("\r\n\r\n").expect("a page").1.to_owned();
        Visit { kind: connection.handshake_kind().unwrap(), took, page }
    }

    /// Returns a counter from a server's status page.
    pub(crate) fn counter(&self, server: usize, name: &str) -> u64 {
        let page = self.visit(&self.client(&TLS12), server, "/server-status?auto").page;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{name} in {page}"))
    }

    /// Connects to a server and returns the kind of handshake.
    pub(crate) fn handshake(&self, client: &Arc<ClientConfig>, server: usize) -> HandshakeKind {
        let visit = self.visit(client, server, "/index.html");
        assert_eq!(visit.page, "hello\n");
        visit.kind
    }
}

fn start_proxy(dir: &Dir, cache: &str, more: &[&str]) -> Program {
    // If the tests run as root, httpd's children are another user.
    let listen = dir.address("cache");
    let arguments = ["-listen", &listen, "-server", cache, "-retry", "50", "-sockperms", "666"];
    let proxy = Program::start(DC_CLIENT, &[&arguments[..], more].concat());
    proxy.address();
    proxy.err.wait_for("connected to ");
    proxy
}

fn config(dir: &Dir, at: Ipv4Addr, port: u16, more: &str) -> String {
    let mut config = preamble(dir.path());
    let (cache, dir) = (dir.address("cache"), dir.path().display());
    // Several children, so that no child can resume from its own memory.
    let ours = format!(
        "StartServers 2\nServerLimit 4\nThreadsPerChild 16\nMaxRequestWorkers 64\n\
         MinSpareThreads 16\nMaxSpareThreads 64\n\
         Listen {at}:{port}\nDocumentRoot {dir}/pages\n\
         SSLSessionCache dc:{cache}\nSSLSessionTickets off\n{}\n\
         <VirtualHost *:{port}>\nServerName localhost\nSSLEngine on\n\
         SSLCertificateFile {dir}/cert.pem\nSSLCertificateKeyFile {dir}/key.pem\n</VirtualHost>\n\
         <Directory {dir}/pages>\nRequire all granted\n</Directory>\n\
         <Location /server-status>\nSetHandler server-status\n</Location>\n",
        more.replace("CACHE", &cache)
    );
    config.write_str(&ours).expect("text has room");
    config
}
