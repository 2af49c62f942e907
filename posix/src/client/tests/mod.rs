//! The client against scripted servers.

mod bounds;
mod connections;
mod faults;
mod old_servers;
mod paused;
mod sealed;
mod take;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::{array, thread};

use distcache_core::wire::{self, Direction, Envelope, HEADER_LEN, Header, Message};

use super::*;
use crate::testing::Dir;
use distcache_core::message::Status;
use distcache_core::wire::Op;

/// A deadline that the test waits for.
const SHORT: Duration = Duration::from_millis(60);
/// A deadline that never passes.
const LONG: Duration = Duration::from_secs(30);
const TTL: Duration = Duration::from_secs(1);

/// A server on a UNIX socket that runs a script on each connection.
pub(crate) struct Server {
    pub(crate) address: Address,
    dir: Dir,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    requests: AtomicUsize,
    stopped: AtomicBool,
    open: Mutex<Vec<UnixStream>>,
}

/// The server's end of one connection.
pub(crate) struct Peer {
    stream: UnixStream,
    seen: Arc<Seen>,
    bytes: Vec<u8>,
    /// The patch level of its answers.
    pub(crate) level: u16,
}

impl Peer {
    /// The next request and its payload; `None` once the client has left.
    pub(crate) fn request(&mut self) -> Option<(Header, Vec<u8>)> {
        loop {
            if let Some(message) = Message::measure(&self.bytes, Direction::Request).unwrap() {
                let payload = message.payload(&mut self.bytes[..message.wire_len]).to_vec();
                self.bytes.drain(..message.wire_len);
                self.seen.requests.fetch_add(1, Ordering::SeqCst);
                return Some((message.header, payload));
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(len) => self.bytes.extend_from_slice(&buffer[..len]),
            }
        }
    }

    /// Answers a request; ignores that the client may have left.
    pub(crate) fn answer(&mut self, request: &Header, payload: &[u8]) {
        let mut out = vec![0; wire::MESSAGE_MAX];
        out[HEADER_LEN..][..payload.len()].copy_from_slice(payload);
        let envelope = Envelope::answer(request, self.level);
        let len = wire::frame(&mut out, &envelope, payload.len()).unwrap();
        let _ = self.stream.write_all(&out[..len]);
    }

    /// Waits until the client has left.
    fn idle(&mut self) {
        while self.request().is_some() {}
    }
}

impl Server {
    /// Runs `script` on every connection, in a thread each, with the connection's number from 0.
    pub(crate) fn new(script: impl Fn(usize, &mut Peer) + Send + Sync + 'static) -> Self {
        let dir = Dir::new();
        let path = dir.join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let seen = Arc::new(Seen::default());
        let (script, theirs) = (Arc::new(script), Arc::clone(&seen));
        thread::spawn(move || {
            for stream in listener.incoming().map(Result::unwrap) {
                if theirs.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let number = theirs.connections.fetch_add(1, Ordering::SeqCst);
                theirs.open.lock().unwrap().push(stream.try_clone().unwrap());
                let mut peer = Peer {
                    stream,
                    seen: Arc::clone(&theirs),
                    bytes: Vec::new(),
                    level: wire::LEVEL,
                };
                let script = Arc::clone(&script);
                thread::spawn(move || {
                    script(number, &mut peer);
                    let _ = peer.stream.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        let address = format!("UNIX:{}", path.display()).parse().unwrap();
        Self { address, dir, seen }
    }

    /// A server that does what it should, except that nothing expires.
    pub(crate) fn with_store() -> Self {
        Self::at_level(wire::LEVEL)
    }

    /// The same, but it answers at this patch level, and at 0 it hangs up on what was not there then.
    pub(crate) fn at_level(level: u16) -> Self {
        let store = Mutex::new(HashMap::new());
        Self::new(move |_, peer| {
            peer.level = level;
            while let Some((header, payload)) = peer.request() {
                if header.op.level() > level {
                    return;
                }
                let answer = stored(&mut store.lock().unwrap(), header.op, &payload);
                peer.answer(&header, &answer);
            }
        })
    }

    fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }

    fn builder(&self) -> Builder {
        Client::builder(&self.address).timeout(LONG)
    }

    /// A client that keeps connections.
    fn client(&self) -> Client {
        self.builder().build().unwrap()
    }

    /// A client with a connection for each operation.
    fn one_shot(&self) -> Client {
        self.builder().connection_per_operation().build().unwrap()
    }

    /// A client that keeps connections and sends a request again.
    fn retrying(&self) -> Client {
        self.builder().retry().build().unwrap()
    }

    /// A client of each kind.
    fn clients(&self) -> [Client; 3] {
        [self.one_shot(), self.client(), self.retrying()]
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.seen.stopped.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(self.dir.join("socket"));
        for stream in self.seen.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

pub(crate) fn stored(store: &mut HashMap<Vec<u8>, Vec<u8>>, op: Op, payload: &[u8]) -> Vec<u8> {
    let code = |good: bool| vec![u8::from(!good)];
    match op {
        Op::Add => match Add::parse(payload).unwrap() {
            Err(Status(code)) => vec![code],
            Ok(add) if store.contains_key(add.id.bytes()) => vec![Status::ADD_EXISTS.0],
            Ok(add) => code(store.insert(add.id.bytes().to_vec(), add.session.to_vec()).is_none()),
        },
        Op::Put => {
            let add = Add::parse(payload).unwrap().unwrap();
            store.insert(add.id.bytes().to_vec(), add.session.to_vec());
            code(true)
        }
        Op::Get => store.get(payload).cloned().unwrap_or_else(|| code(false)),
        Op::Take => store.remove(payload).unwrap_or_else(|| code(false)),
        Op::Remove => code(store.remove(payload).is_some()),
        Op::Have => code(store.contains_key(payload)),
        Op::Fetch | Op::Repair | Op::Copy => unreachable!("no client asks for this"),
    }
}

fn id(bytes: &[u8]) -> Id<'_> {
    Id::new(bytes).unwrap()
}

#[test]
fn each_operation_returns_the_server_s_answer() {
    let server = Server::with_store();
    for client in server.clients() {
        let (a, session) = (id(b"a"), vec![7; 32_000]);
        assert!(!client.has(a).unwrap());
        assert_eq!(client.get(a).unwrap(), None);
        client.add(a, &session, TTL).unwrap();
        assert!(matches!(client.add(a, b"other", TTL), Err(AddError::Refused(Status::ADD_EXISTS))));
        assert!(client.has(a).unwrap());
        assert_eq!(client.get(a).unwrap(), Some(session));
        assert!(client.remove(a).unwrap());
        assert!(!client.remove(a).unwrap());
        assert!(matches!(
            client.add(a, b"session", Duration::MAX),
            Err(AddError::Refused(Status::ADD_TIMEOUT))
        ));
        assert!(matches!(client.add(a, b"", TTL), Err(AddError::Refused(Status::ADD_CORRUPT))));
        assert!(matches!(client.add(a, &[0; 32_760], TTL), Err(AddError::TooLarge)));
        client.add(a, &[0; 32_759], TTL).unwrap();
        assert!(client.remove(a).unwrap());
    }
}

#[test]
fn sessions_can_be_read_without_a_copy() {
    let server = Server::with_store();
    for client in server.clients() {
        client.put(id(b"a"), b"a session", TTL).unwrap();
        assert_eq!(client.get_with(id(b"a"), <[u8]>::len).unwrap(), Some(9));
        assert_eq!(client.take_with(id(b"a"), <[u8]>::len).unwrap(), Some(9));
        let unread = |_: &[u8]| panic!("there is no session");
        assert!(client.get_with(id(b"a"), unread).unwrap().is_none());
        assert!(client.take_with(id(b"a"), unread).unwrap().is_none());
    }
}

#[test]
fn threads_that_share_a_client_get_their_own_answers() {
    let server = Server::with_store();
    let client = server.client();
    thread::scope(|scope| {
        for thread in 0..8_u8 {
            let client = &client;
            scope.spawn(move || {
                for round in 0..50_u8 {
                    let name = [thread, round];
                    let session: [u8; 3000] = array::from_fn(|at| name[at % 2]);
                    client.add(id(&name), &session, TTL).unwrap();
                    assert_eq!(client.get(id(&name)).unwrap().as_deref(), Some(&session[..]));
                    assert!(client.has(id(&name)).unwrap());
                    assert!(client.remove(id(&name)).unwrap());
                }
            });
        }
    });
    // Locked slots are skipped, so there may be a few more connections than threads.
    assert!(server.connections() < 100, "{} connections", server.connections());
    assert!((1..=KEPT_MAX).contains(&client.kept.len()));
}

#[test]
fn an_invalid_address_or_an_unknown_host_is_an_error_of_connect() {
    let error = |text| Client::connect(text).unwrap_err();
    assert!(matches!(error("IP:no-such-host.invalid:9001"), BuildError::Resolve(_)));
    for text in ["IP:9001", "SESSIOND:localhost:9001", "/run/scache", ""] {
        assert!(matches!(error(text), BuildError::Address(_)), "{text}");
    }
}

#[test]
fn a_failure_prints_operation_address_and_reason_in_one_line() {
    let nobody = Dir::new();
    let text = format!("UNIX:{}", nobody.join("socket").display());
    let client = Client::connect(text.as_str()).unwrap();
    let failure = client.get(id(b"a")).unwrap_err().to_string();
    assert!(failure.starts_with(&format!("GET at {text} failed: cannot connect: ")), "{failure}");
    assert!(!failure.contains('\n'));
}

#[test]
fn the_default_deadline_depends_on_the_kind_of_socket() {
    for (address, timeout) in [("UNIX:/nobody", TIMEOUT_UNIX), ("IP:127.0.0.1:1", TIMEOUT_TCP)] {
        let client = Client::connect(address).unwrap();
        assert_eq!(client.timeout(), timeout);
        client.set_timeout(Duration::ZERO);
        assert_eq!(client.timeout(), Duration::from_millis(1));
        client.set_timeout(Duration::MAX);
        assert_eq!(client.timeout(), TIMEOUT_MAX);
    }
}

#[test]
fn a_client_and_its_failures_can_move_between_threads() {
    fn is_shareable<T: Send + Sync + 'static>() {}
    is_shareable::<Client>();
    is_shareable::<Failure>();
}
