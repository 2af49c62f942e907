//! Connections to nodes: TCP, TLS if asked for, and authentication.

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

use super::bounded::BoundedStream;
use super::resp::{Parser, RespValue};
use crate::command::write_command;
use crate::credentials::Credentials;
use crate::endpoint::HostPort;

/// The longest reply to the first commands.
const GREETING_MAX: usize = 4096;
/// The trusted root certificates of Debian and most other systems.
const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The configuration of TLS to the engine.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// The trusted certificates, as PEM; `None` for those of the system.
    pub roots: Option<PathBuf>,
    /// The certificate chain and key of the gateway, as PEM, if the engine asks for them.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the nodes' certificates; `None` for each node's host.
    pub name: Option<String>,
}

/// Connects to nodes and Sentinels.
#[derive(Clone)]
pub(crate) struct Connector {
    tls: Option<(TlsConnector, Option<ServerName<'static>>)>,
    credentials: Credentials,
}

/// The kind of a peer, which determines the credentials.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PeerKind {
    /// A node of the engine.
    Node,
    /// A Sentinel.
    Sentinel,
}

/// The future that runs a connection.
pub(crate) type Driver = Pin<Box<dyn Future<Output = ()>>>;

/// A connection with or without TLS.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

impl Connector {
    /// Reads all files.
    ///
    /// # Errors
    /// The file that cannot be used, and the reason.
    pub(crate) fn new(credentials: &Credentials, tls: Option<&TlsOptions>) -> Result<Self, String> {
        Ok(Self { tls: tls.map(tls_connector).transpose()?, credentials: credentials.clone() })
    }

    /// Connects to a node, and waits for its reply to a PING.
    ///
    /// # Errors
    /// The reason, in a few words.
    pub(crate) async fn connect(&self, address: &HostPort) -> Result<Box<dyn Duplex>, String> {
        let mut stream = self.open(address).await?;
        let login = &self.credentials.engine;
        let mut command = Vec::new();
        if let Some(password) = &login.password {
            let words: [&[u8]; 3] = [
                b"AUTH",
                login.user.as_deref().unwrap_or_default().as_bytes(),
                password.as_bytes(),
            ];
            match login.user {
                Some(_) => write_command(&mut command, &words),
                None => write_command(&mut command, &[words[0], words[2]]),
            }
            call(&mut stream, &command).await?;
        }
        command.clear();
        write_command(&mut command, &[b"PING"]);
        match call(&mut stream, &command).await {
            // An ACL may forbid PING. The node replies, which is enough.
            Err(why) if why.starts_with("NOPERM") => Ok(stream),
            Err(why) if why.starts_with("NOAUTH") => {
                Err("it asks for a password: see -credentials".into())
            }
            Err(why) => Err(why),
            Ok(()) => Ok(stream),
        }
    }

    /// Connects for queries about the topology. The future must run while the connection is used, and
    /// closes it when dropped.
    ///
    /// # Errors
    /// The reason, in a few words.
    pub(crate) async fn connect_for_queries(
        &self,
        address: &HostPort,
        of: PeerKind,
    ) -> Result<(MultiplexedConnection, Driver), String> {
        let login = match of {
            PeerKind::Node => &self.credentials.engine,
            PeerKind::Sentinel => &self.credentials.sentinel,
        };
        // An ACL may forbid CLIENT SETINFO.
        let mut info = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name();
        if let Some(user) = &login.user {
            info = info.set_username(user);
        }
        if let Some(password) = &login.password {
            info = info.set_password(password);
        }
        let stream = self.open(address).await?;
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let opened =
            MultiplexedConnection::new_with_config(&info, BoundedStream::new(stream), config);
        let (connection, driver) = opened.await.map_err(|error| one_line(&error))?;
        Ok((connection, Box::pin(driver)))
    }

    async fn open(&self, address: &HostPort) -> Result<Box<dyn Duplex>, String> {
        let tcp = TcpStream::connect((address.host.as_str(), address.port)).await;
        let tcp = tcp.map_err(|error| error.to_string())?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        let Some((connector, name)) = &self.tls else { return Ok(Box::new(tcp)) };
        let name = match name {
            Some(name) => name.clone(),
            None => server_name(&address.host)?,
        };
        let stream = connector.connect(name, tcp).await;
        Ok(Box::new(stream.map_err(|error| format!("TLS: {error}"))?))
    }
}

/// Sends a command, and waits for its reply.
async fn call(stream: &mut Box<dyn Duplex>, command: &[u8]) -> Result<(), String> {
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
            (_, Some(RespValue::Error(why))) => return Err(why.to_owned()),
            (used, Some(_)) if used == len => return Ok(()),
            (_, Some(_)) => return Err("it sends more than a reply".into()),
            (_, None) => {}
        }
    }
}

/// An error in one line. Engines do not quote passwords in errors.
fn one_line(error: &redis::RedisError) -> String {
    error.to_string().replace(['\n', '\r'], " ")
}

fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| format!("'{host}' is not a valid TLS server name"))
}

fn tls_connector(
    options: &TlsOptions,
) -> Result<(TlsConnector, Option<ServerName<'static>>), String> {
    let path = options.roots.clone().unwrap_or_else(|| ROOTS.into());
    let cannot = |path: &PathBuf, why: &dyn std::fmt::Display| {
        format!("cannot use {}: {why}", path.display())
    };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(&path).map_err(|e| cannot(&path, &e))?;
    roots.add_parsable_certificates(certificates.flatten());
    if roots.is_empty() {
        return Err(cannot(&path, &"it contains no certificate"));
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
