//! A TLS server with shared sessions. Start two of them, and each resumes the sessions of the other.
//!
//! ```text
//! cargo run --example tls_server --features rustls -- 127.0.0.1:4433 UNIX:/run/distcache/scache
//! ```
//!
//! It answers every connection with one line that names the kind of handshake, and makes its
//! certificate, for `localhost`, at start.

use std::env;
use std::error::Error;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use distcache_posix::Client;
use distcache_posix::rustls::ServerSessions;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{HandshakeKind, ServerConfig, ServerConnection};

/// The lifetime of a session.
const LIFETIME: Duration = Duration::from_secs(300);
/// How long handshakes skip the cache after a timeout.
const PAUSE: Duration = Duration::from_secs(1);
/// The read and write timeout of a TLS client.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let listen = arguments.next().ok_or("usage: tls_server ADDRESS:PORT [CACHE]")?;
    let cache = arguments.next().unwrap_or_else(|| "UNIX:/run/distcache/scache".into());

    let client = Client::builder(cache.as_str()).pause(PAUSE).build()?;
    let config = Arc::new(config(client)?);
    let listener = TcpListener::bind(&listen)?;
    println!("tls_server: listening on {}", listener.local_addr()?);
    for stream in listener.incoming() {
        let (stream, config) = (stream?, Arc::clone(&config));
        thread::spawn(move || match greet(stream, config) {
            Ok(kind) => println!("{kind:?}"),
            Err(error) => println!("{error}"),
        });
    }
    Ok(())
}

/// Without a `ticketer`, sessions are stored in the cache. Tickets would take precedence, and servers
/// with different ticket keys cannot read each other's.
fn config(client: Client) -> Result<ServerConfig, Box<dyn Error>> {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.into()], PrivateKeyDer::Pkcs8(key))?;
    config.session_storage = Arc::new(ServerSessions::new(client, LIFETIME));
    Ok(config)
}

fn greet(
    mut stream: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<HandshakeKind, Box<dyn Error>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut connection = ServerConnection::new(config)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    let kind = connection.handshake_kind().ok_or("the handshake did not end")?;
    writeln!(connection.writer(), "hello, the handshake was {kind:?}")?;
    connection.send_close_notify();
    connection.complete_io(&mut stream)?;
    Ok(kind)
}
