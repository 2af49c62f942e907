//! A TLS server that shares its sessions: start two of them, and each resumes what the other began.
//!
//! `tls_server 127.0.0.1:4433 [UNIX:/run/distcache/scache]` answers every connection with one line that says
//! how its handshake went. The certificate is made at start, for `localhost`.

use std::env;
use std::error::Error;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use distcache_posix::client::{Client, Flags};
use distcache_posix::rustls::ServerSessions;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{HandshakeKind, ServerConfig, ServerConnection};

/// How long a session may be resumed.
const LIFETIME: Duration = Duration::from_secs(300);
/// How long a cache that does not answer in time is left alone.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a client may take over its side.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let listen = arguments.next().ok_or("usage: tls_server ADDRESS:PORT [CACHE]")?;
    let cache = arguments.next().unwrap_or_else(|| "UNIX:/run/distcache/scache".into());

    let client = Client::new(&cache.parse()?, Flags::PERSISTENT | Flags::LATE)?;
    client.set_pause(PAUSE);
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

/// Sessions are kept in the cache, and never in tickets, which servers with different keys could
/// not read.
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
