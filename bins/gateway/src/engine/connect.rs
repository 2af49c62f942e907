//! A connection to one node: TCP, perhaps TLS, and who we are.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::guard::Guard;
use super::reply::{Answer, Parser};
use crate::command::write_command;
use crate::credentials::Credentials;
use crate::endpoint::Place;

/// Bytes of the longest answer to the first commands.
const GREETING_MAX: usize = 4096;
/// Where Debian and most others keep the roots that are trusted.
const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What TLS to the engine is told.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// The certificates that are trusted, as PEM; the system's where it is `None`.
    pub roots: Option<PathBuf>,
    /// Our own certificate chain and its key, as PEM, where the engine asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that a node's certificate must have, where it is not the node's host.
    pub name: Option<String>,
}

/// Makes connections to nodes.
#[derive(Clone)]
pub(crate) struct Connector {
    tls: Option<(TlsConnector, Option<ServerName<'static>>)>,
    credentials: Credentials,
}

/// Who is asked about the engine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Whom {
    /// One of its nodes.
    Node,
    /// A Sentinel.
    Sentinel,
}

/// What makes a connection work.
pub(crate) type Driver = Pin<Box<dyn Future<Output = ()>>>;

/// A connected stream of either kind.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

impl Connector {
    /// Reads all files.
    ///
    /// # Errors
    /// What can't be used, and why.
    pub(crate) fn new(credentials: &Credentials, tls: Option<&TlsOptions>) -> Result<Self, String> {
        Ok(Self { tls: tls.map(secure).transpose()?, credentials: credentials.clone() })
    }

    /// Connects to a node, which has answered a PING when this returns.
    ///
    /// # Errors
    /// Why not, in a few words.
    pub(crate) async fn connect(&self, place: &Place) -> Result<Box<dyn Duplex>, String> {
        let mut stream = self.open(place).await?;
        let login = &self.credentials.engine;
        let mut hello = Vec::new();
        if let Some(password) = &login.password {
            let words: [&[u8]; 3] = [
                b"AUTH",
                login.user.as_deref().unwrap_or_default().as_bytes(),
                password.as_bytes(),
            ];
            match login.user {
                Some(_) => write_command(&mut hello, &words),
                None => write_command(&mut hello, &[words[0], words[2]]),
            }
            greet(&mut stream, &hello).await?;
        }
        hello.clear();
        write_command(&mut hello, &[b"PING"]);
        match greet(&mut stream, &hello).await {
            // An ACL may forbid to ask so; it is an answer all the same.
            Err(why) if why.starts_with("NOPERM") => Ok(stream),
            Err(why) if why.starts_with("NOAUTH") => {
                Err("it wants a password: see -credentials".into())
            }
            Err(why) => Err(why),
            Ok(()) => Ok(stream),
        }
    }

    /// Connects to a node, to ask it about the engine. The future must be run for as long as the
    /// connection is used, and closes it when it is dropped.
    ///
    /// # Errors
    /// Why not, in a few words.
    pub(crate) async fn question(
        &self,
        place: &Place,
        of: Whom,
    ) -> Result<(MultiplexedConnection, Driver), String> {
        let login = match of {
            Whom::Node => &self.credentials.engine,
            Whom::Sentinel => &self.credentials.sentinel,
        };
        // Nothing is said about this client that an ACL may forbid to say.
        let mut info = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name();
        if let Some(user) = &login.user {
            info = info.set_username(user);
        }
        if let Some(password) = &login.password {
            info = info.set_password(password);
        }
        let stream = self.open(place).await?;
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let opened = MultiplexedConnection::new_with_config(&info, Guard::new(stream), config);
        let (connection, driver) = opened.await.map_err(|error| brief(&error))?;
        Ok((connection, Box::pin(driver)))
    }

    async fn open(&self, place: &Place) -> Result<Box<dyn Duplex>, String> {
        let tcp = TcpStream::connect((place.host.as_str(), place.port)).await;
        let tcp = tcp.map_err(|error| error.to_string())?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        let Some((connector, name)) = &self.tls else { return Ok(Box::new(tcp)) };
        let name = match name {
            Some(name) => name.clone(),
            None => server_name(&place.host)?,
        };
        let stream = connector.connect(name, tcp).await;
        Ok(Box::new(stream.map_err(|error| format!("TLS: {error}"))?))
    }
}

/// Sends a first command, and waits for its answer.
async fn greet(stream: &mut Box<dyn Duplex>, command: &[u8]) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    stream.write_all(command).await.map_err(text)?;
    stream.flush().await.map_err(text)?;
    let (mut parser, mut buffer, mut len) = (Parser::default(), [0; GREETING_MAX], 0);
    loop {
        let new = stream.read(&mut buffer[len..]).await.map_err(text)?;
        if new == 0 {
            return Err("it closes the connection".into());
        }
        len += new;
        match parser.next(&buffer[..len]).map_err(text)? {
            (_, Some(Answer::Error(why))) => return Err(why.to_owned()),
            (used, Some(_)) if used == len => return Ok(()),
            (_, Some(_)) => return Err("it says more than it was asked".into()),
            (_, None) => {}
        }
    }
}

/// An error in one line. It never has a password in it: engines do not repeat them.
fn brief(error: &redis::RedisError) -> String {
    error.to_string().replace(['\n', '\r'], " ")
}

fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned()).map_err(|_| format!("'{host}' is no name for TLS"))
}

fn secure(options: &TlsOptions) -> Result<(TlsConnector, Option<ServerName<'static>>), String> {
    let path = options.roots.clone().unwrap_or_else(|| ROOTS.into());
    let cannot = |path: &PathBuf, why: &dyn std::fmt::Display| {
        format!("cannot use {}: {why}", path.display())
    };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(&path).map_err(|e| cannot(&path, &e))?;
    roots.add_parsable_certificates(certificates.flatten());
    if roots.is_empty() {
        return Err(cannot(&path, &"there is no certificate in it"));
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let config = match &options.identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let certificates: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(chain).and_then(Iterator::collect);
            let certificates = certificates.map_err(|error| cannot(chain, &error))?;
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| cannot(key, &error))?;
            let built = builder.with_client_auth_cert(certificates, secret);
            built.map_err(|error| cannot(chain, &error))?
        }
    };
    let name = options.name.as_deref().map(server_name).transpose()?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}
