//! A session store for rustls servers, so that several servers resume each other's sessions.
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use distcache_posix::Client;
//! use distcache_posix::rustls::ServerSessions;
//! use rustls::ServerConfig;
//! use rustls::pki_types::{CertificateDer, PrivateKeyDer};
//!
//! # fn config(
//! #     certificates: Vec<CertificateDer<'static>>,
//! #     key: PrivateKeyDer<'static>,
//! # ) -> Result<ServerConfig, Box<dyn std::error::Error>> {
//! let mut config =
//!     ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key)?;
//! let client =
//!     Client::builder("UNIX:/run/distcache/scache").pause(Duration::from_secs(1)).build()?;
//! config.session_storage = Arc::new(ServerSessions::new(client, Duration::from_secs(300)));
//! # Ok(config) }
//! ```
//!
//! Leave `ticketer` unset: tickets take precedence over stored sessions. The servers must agree in what
//! a session depends on: the names in the certificate, ALPN, and whether clients authenticate.
//!
//! If the cache is slow or unreachable, a handshake waits for at most the client's deadline and is then
//! a full one; no connection fails. With a [pause](crate::client::Builder::pause) only one handshake a
//! pause waits.
//!
//! Sessions are secrets. If the cache or the way to it is not as trusted as this server, give the client
//! [keys](crate::client::Builder::seal_keys): then the cache stores what it cannot read, and a session
//! that it changed leads to a full handshake.

use std::sync::Arc;
use std::time::Duration;

use ::rustls::server::StoresServerSessions;

use zeroize::Zeroizing;

use crate::client::Client;
use crate::{Id, TTL_MAX};

/// A [`StoresServerSessions`] that stores sessions through a [`Client`].
///
/// rustls calls it during handshakes and waits. Keys of more than 64 bytes, which rustls does not
/// generate, are refused.
#[derive(Clone, Debug)]
pub struct ServerSessions {
    client: Arc<Client>,
    lifetime: Duration,
}

impl ServerSessions {
    /// Stores sessions for `lifetime`: whole milliseconds, reduced to the protocol's 7 days.
    pub fn new(client: impl Into<Arc<Client>>, lifetime: Duration) -> Self {
        Self { client: client.into(), lifetime: lifetime.min(TTL_MAX) }
    }

    /// The client that sessions are stored through.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

impl StoresServerSessions for ServerSessions {
    /// Stores a session, in place of one under the same key; false if that failed. Wipes `value`.
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        let value = Zeroizing::new(value);
        Id::new(&key).is_some_and(|id| self.client.put(id, &value, self.lifetime).is_ok())
    }

    /// Fetches a session; `None` also if the cache does not answer.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.client.get(Id::new(key)?).ok()?
    }

    /// Fetches a session and removes it. Of several servers that take one session, one gets it, so
    /// early data cannot be replayed to another server.
    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.client.take(Id::new(key)?).ok()?
    }

    /// Always true.
    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::Server;
    use crate::seal_keys::tests::{Directory, line};

    fn sessions(server: &Server) -> ServerSessions {
        let client = Client::connect(&server.address).unwrap();
        ServerSessions::new(client, Duration::from_secs(300))
    }

    #[test]
    fn a_session_can_be_stored_fetched_and_replaced() {
        let server = Server::with_store();
        let sessions = sessions(&server);
        assert!(sessions.can_cache());
        assert!(sessions.get(b"key").is_none());
        assert!(sessions.put(b"key".to_vec(), b"session".to_vec()));
        assert!(sessions.put(b"key".to_vec(), b"another".to_vec()), "it replaces");
        assert_eq!(sessions.get(b"key").as_deref(), Some(&b"another"[..]));
    }

    #[test]
    fn with_keys_servers_share_sessions_that_their_cache_cannot_read() {
        let (server, directory) = (Server::with_store(), Directory::new());
        let file = directory.file(&line(1));
        let [one, two] = [(); 2].map(|()| {
            let client = Client::builder(&server.address).seal_keys(&file).build().unwrap();
            ServerSessions::new(client, Duration::from_secs(300))
        });
        assert!(one.put(b"key".to_vec(), b"session".to_vec()));
        assert_eq!(two.get(b"key").as_deref(), Some(&b"session"[..]));
        let stored = sessions(&server).get(b"key").unwrap();
        assert!(distcache_core::seal::is_sealed(&stored));
        assert!(!stored.windows(7).any(|seven| seven == b"session"));
        assert!(sessions(&server).put(b"key".to_vec(), b"planted".to_vec()));
        assert!(two.take(b"key").is_none(), "what was not sealed was planted");
    }

    #[test]
    fn of_several_threads_that_take_one_session_one_gets_it() {
        let server = Server::with_store();
        let sessions = sessions(&server);
        for _ in 0..20 {
            assert!(sessions.put(b"key".to_vec(), b"session".to_vec()));
            let taken = std::thread::scope(|scope| {
                let takers = [(); 4].map(|()| scope.spawn(|| sessions.take(b"key").is_some()));
                takers.map(|taker| usize::from(taker.join().unwrap())).iter().sum::<usize>()
            });
            assert_eq!(taken, 1);
        }
    }

    #[test]
    fn keys_that_are_not_ids_are_refused() {
        let server = Server::with_store();
        let sessions = sessions(&server);
        for key in [vec![], vec![7; 65]] {
            assert!(!sessions.put(key.clone(), b"session".to_vec()));
            assert!(sessions.get(&key).is_none() && sessions.take(&key).is_none());
        }
    }

    #[test]
    fn an_unreachable_cache_stores_and_finds_nothing() {
        let server = Server::with_store();
        let sessions = sessions(&server);
        drop(server);
        assert!(!sessions.put(b"key".to_vec(), b"session".to_vec()));
        assert!(sessions.get(b"key").is_none() && sessions.take(b"key").is_none());
    }

    #[test]
    fn a_lifetime_is_reduced_to_the_longest_of_the_protocol() {
        let server = Server::with_store();
        let client = Arc::new(Client::connect(&server.address).unwrap());
        for (lifetime, cut) in [
            (Duration::from_millis(1500), Duration::from_millis(1500)),
            (Duration::from_secs(604_801), TTL_MAX),
            (Duration::MAX, TTL_MAX),
        ] {
            assert_eq!(ServerSessions::new(Arc::clone(&client), lifetime).lifetime, cut);
        }
    }
}
