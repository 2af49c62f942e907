//! Sessions of rustls servers in the cache, so that several servers resume each other's.
//!
//! ```ignore
//! let client = Client::new(&"UNIX:/run/distcache/scache".parse()?, Flags::PERSISTENT | Flags::LATE)?;
//! client.set_pause(Duration::from_secs(1));
//! server_config.session_storage = Arc::new(ServerSessions::new(client, Duration::from_secs(300)));
//! ```
//!
//! The servers must agree in what a session depends on: the certificate's names, ALPN, and whether
//! clients authenticate. Session tickets go before stored sessions: leave `ticketer` unset.
//!
//! A cache that is away costs each handshake at most one deadline of the client, and then a full
//! handshake: nothing here fails a connection. With [`Client::set_pause`] a cache that stands still costs
//! one deadline in each pause, whatever the number of handshakes.

use std::sync::Arc;
use std::time::Duration;

use ::rustls::server::StoresServerSessions;
use distcache_core::id::Id;
use distcache_core::message::TTL_MAX;

use crate::client::Client;

/// A store of server sessions on a [`Client`].
///
/// rustls asks from within handshakes, and waits: the client's deadline is what a handshake can lose.
/// Keys of more than 64 bytes, which rustls does not make, are refused.
#[derive(Clone, Debug)]
pub struct ServerSessions {
    client: Arc<Client>,
    ttl: u32,
}

impl ServerSessions {
    /// Sessions live for `lifetime`, counted in milliseconds and cut to the protocol's 7 days.
    pub fn new(client: impl Into<Arc<Client>>, lifetime: Duration) -> Self {
        let ttl = u32::try_from(lifetime.as_millis()).unwrap_or(TTL_MAX).min(TTL_MAX);
        Self { client: client.into(), ttl }
    }

    /// The client through which sessions go.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

impl StoresServerSessions for ServerSessions {
    /// Stores a session in place of what is there; false where that could not be done.
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        Id::new(&key).is_some_and(|id| self.client.put(self.ttl, id, &value).is_ok())
    }

    /// Fetches a session; none where the cache cannot tell.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.client.get(Id::new(key)?).ok()?
    }

    /// Fetches a session and removes it. Of several who take one session, one has it: a session for a
    /// single use is used once, so early data can't be replayed to another server.
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
    use crate::client::Flags;
    use crate::client::tests::Server;

    fn sessions(server: &Server) -> ServerSessions {
        let client = Client::new(&server.address, Flags::PERSISTENT).unwrap();
        ServerSessions::new(client, Duration::from_secs(300))
    }

    #[test]
    fn a_session_is_put_got_and_put_again() {
        let server = Server::with_store();
        let sessions = sessions(&server);
        assert!(sessions.can_cache());
        assert!(sessions.get(b"key").is_none());
        assert!(sessions.put(b"key".to_vec(), b"session".to_vec()));
        assert!(sessions.put(b"key".to_vec(), b"another".to_vec()), "it replaces");
        assert_eq!(sessions.get(b"key").as_deref(), Some(&b"another"[..]));
    }

    #[test]
    fn of_many_who_take_one_session_one_has_it() {
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
    fn keys_that_no_id_can_be_are_refused() {
        let server = Server::with_store();
        let sessions = sessions(&server);
        for key in [vec![], vec![7; 65]] {
            assert!(!sessions.put(key.clone(), b"session".to_vec()));
            assert!(sessions.get(&key).is_none() && sessions.take(&key).is_none());
        }
    }

    #[test]
    fn a_cache_that_is_away_stores_and_finds_nothing() {
        let server = Server::with_store();
        let sessions = sessions(&server);
        drop(server);
        assert!(!sessions.put(b"key".to_vec(), b"session".to_vec()));
        assert!(sessions.get(b"key").is_none() && sessions.take(b"key").is_none());
    }

    #[test]
    fn a_lifetime_is_cut_to_what_the_protocol_allows() {
        let server = Server::with_store();
        let client = Arc::new(Client::new(&server.address, Flags::NONE).unwrap());
        for (lifetime, ttl) in [
            (Duration::from_millis(1500), 1500),
            (Duration::from_secs(604_801), TTL_MAX),
            (Duration::MAX, TTL_MAX),
        ] {
            assert_eq!(ServerSessions::new(Arc::clone(&client), lifetime).ttl, ttl);
        }
    }
}
