//! The client against scripted servers.

mod bounds;
mod faults;
mod flags;
mod levels;
mod lost;
mod paused;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::{array, thread};

use distcache_core::wire::{self, Direction, Envelope, HEADER_LEN, Header, Message};

use super::*;
use crate::testing::Dir;

/// What an operation is given where it is to end by its deadline, and where it is not.
const SHORT: Duration = Duration::from_millis(60);
const LONG: Duration = Duration::from_secs(30);

/// A server on a UNIX socket that does as its script says on each connection.
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
    /// At which patch level it answers.
    pub(crate) level: u16,
}

impl Peer {
    /// The next request, and what it carries; `None` where the client has left.
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

    /// Answers; a client that has left is nobody's concern.
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
    /// Runs `script` on every connection, with its number from 0, each in a thread of its own.
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

    fn client(&self, flags: Flags) -> Client {
        Client::with_timeout(&self.address, flags, LONG).unwrap()
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
    }
}

fn id(bytes: &[u8]) -> Id<'_> {
    Id::new(bytes).unwrap()
}

#[test]
fn each_operation_says_what_the_server_said() {
    let server = Server::with_store();
    for flags in [Flags::NONE, Flags::PERSISTENT] {
        let client = server.client(flags);
        let (a, session) = (id(b"a"), vec![7; 32_000]);
        assert!(!client.has(a).unwrap());
        assert_eq!(client.get(a).unwrap(), None);
        client.add(1000, a, &session).unwrap();
        assert!(matches!(
            client.add(1000, a, b"other"),
            Err(AddError::Refused(Status::ADD_EXISTS))
        ));
        assert!(client.has(a).unwrap());
        assert_eq!(client.get(a).unwrap(), Some(session));
        assert!(client.remove(a).unwrap());
        assert!(!client.remove(a).unwrap());
        assert!(matches!(
            client.add(u32::MAX, a, b"session"),
            Err(AddError::Refused(Status::ADD_TIMEOUT))
        ));
        assert!(matches!(client.add(1000, a, b""), Err(AddError::Refused(Status::ADD_CORRUPT))));
        assert!(matches!(client.add(1000, a, &[0; 32_760]), Err(AddError::TooLarge)));
        client.add(1000, a, &[0; 32_759]).unwrap();
        assert!(client.remove(a).unwrap());
    }
}

#[test]
fn a_short_buffer_gets_the_front_and_the_full_length() {
    let server = Server::with_store();
    let client = server.client(Flags::PERSISTENT);
    client.add(1000, id(b"a"), b"a session").unwrap();
    let mut out = *b"----";
    assert_eq!(client.get_into(id(b"a"), &mut out).unwrap(), Some(9));
    assert_eq!(&out, b"a se");
    let mut out = *b"------------";
    assert_eq!(client.get_into(id(b"a"), &mut out).unwrap(), Some(9));
    assert_eq!(&out, b"a session---");
    assert_eq!(client.get_into(id(b"b"), &mut out).unwrap(), None);
    assert_eq!(&out, b"a session---");
}

#[test]
fn many_threads_share_a_client_and_nothing_is_mixed_up() {
    let server = Server::with_store();
    let client = server.client(Flags::PERSISTENT);
    thread::scope(|scope| {
        for thread in 0..8_u8 {
            let client = &client;
            scope.spawn(move || {
                for round in 0..50_u8 {
                    let name = [thread, round];
                    let session: [u8; 3000] = array::from_fn(|at| name[at % 2]);
                    client.add(1000, id(&name), &session).unwrap();
                    assert_eq!(client.get(id(&name)).unwrap().as_deref(), Some(&session[..]));
                    assert!(client.has(id(&name)).unwrap());
                    assert!(client.remove(id(&name)).unwrap());
                }
            });
        }
    });
    // A slot that is looked at is passed by, so a few more than threads may have been made.
    assert!(server.connections() < 100, "{} connections", server.connections());
    assert!((1..=KEPT_MAX).contains(&client.kept.len()));
}

#[test]
fn a_name_that_leads_nowhere_is_an_error_of_new() {
    for (text, lawful) in [("IP:no-such-host.invalid:9001", true), ("IP:9001", false)] {
        let error = Client::new(&text.parse().unwrap(), Flags::LATE).unwrap_err();
        assert_eq!(matches!(error, NewError::Resolve(_)), lawful, "{error}");
    }
}

#[test]
fn a_failure_says_in_one_line_what_failed_where_and_why() {
    let nobody = Dir::new();
    let text = format!("UNIX:{}", nobody.join("socket").display());
    let client = Client::new(&text.parse().unwrap(), Flags::NONE).unwrap();
    let failure = client.get(id(b"a")).unwrap_err().to_string();
    assert!(failure.starts_with(&format!("GET at {text} failed: cannot connect: ")), "{failure}");
    assert!(!failure.contains('\n'));
}

#[test]
fn the_deadline_is_by_the_kind_of_socket_unless_it_is_set() {
    for (address, timeout) in [("UNIX:/nobody", TIMEOUT_UNIX), ("IP:127.0.0.1:1", TIMEOUT_TCP)] {
        let client = Client::new(&address.parse().unwrap(), Flags::NONE).unwrap();
        assert_eq!(client.timeout(), timeout);
        client.set_timeout(Duration::ZERO);
        assert_eq!(client.timeout(), Duration::from_millis(1));
        client.set_timeout(Duration::MAX);
        assert_eq!(client.timeout(), TIMEOUT_MAX);
    }
}

#[test]
fn a_client_can_be_given_to_threads() {
    fn given<T: Send + Sync + 'static>() {}
    given::<Client>();
    given::<Failure>();
}
