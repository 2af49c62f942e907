//! A connection to one node: TCP, perhaps TLS, and who we are.

use std::path::PathBuf;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::guard::Guard;
use crate::credentials::{Credentials, Login};
use crate::endpoint::Place;

/// Pipelines that wait for the connection's task at a time.
const PIPELINES: usize = 16;
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
    engine: RedisConnectionInfo,
    sentinel: RedisConnectionInfo,
}

/// A connected stream of either kind.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

impl Connector {
    /// Reads all files.
    ///
    /// # Errors
    /// What can't be used, and why.
    pub(crate) fn new(credentials: &Credentials, tls: Option<&TlsOptions>) -> Result<Self, String> {
        let info = |login: &Login| {
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
            info
        };
        let (engine, sentinel) = (info(&credentials.engine), info(&credentials.sentinel));
        Ok(Self { tls: tls.map(secure).transpose()?, engine, sentinel })
    }

    /// Connects to a node, which has answered a PING when this returns. The future must be run for
    /// as long as the connection is used, and closes it when it is dropped.
    ///
    /// # Errors
    /// Why not, in a few words.
    pub(crate) async fn connect(
        &self,
        place: &Place,
    ) -> Result<(MultiplexedConnection, impl Future<Output = ()> + 'static), String> {
        self.open(place, &self.engine).await
    }

    /// Connects to a Sentinel.
    ///
    /// # Errors
    /// Why not, in a few words.
    pub(crate) async fn connect_sentinel(
        &self,
        place: &Place,
    ) -> Result<(MultiplexedConnection, impl Future<Output = ()> + 'static), String> {
        self.open(place, &self.sentinel).await
    }

    async fn open(
        &self,
        place: &Place,
        info: &RedisConnectionInfo,
    ) -> Result<(MultiplexedConnection, impl Future<Output = ()> + 'static), String> {
        let tcp = TcpStream::connect((place.host.as_str(), place.port)).await;
        let tcp = tcp.map_err(|error| error.to_string())?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        let stream: Box<dyn Duplex> = match &self.tls {
            None => Box::new(tcp),
            Some((connector, name)) => {
                let name = match name {
                    Some(name) => name.clone(),
                    None => server_name(&place.host)?,
                };
                let stream = connector.connect(name, tcp).await;
                Box::new(stream.map_err(|error| format!("TLS: {error}"))?)
            }
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINES);
        let opened = MultiplexedConnection::new_with_config(info, Guard::new(stream), config);
        let (mut connection, driver) = opened.await.map_err(|error| brief(&error))?;
        let mut driver = Box::pin(driver);
        let ping = redis::cmd("PING");
        tokio::select! {
            () = &mut driver => return Err("it closes the connection".into()),
            // An error is an answer too, unless it says that nothing else will be answered.
            pong = connection.send_packed_command(&ping) => match pong {
                Err(error) => return Err(brief(&error)),
                Ok(redis::Value::ServerError(error)) if error.code() == "NOAUTH" => {
                    return Err("it wants a password: see -credentials".into());
                }
                Ok(_) => {}
            },
        }
        Ok((connection, driver))
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
