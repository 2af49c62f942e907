//! How long operations take at most, and unrequested bytes.

use std::sync::mpsc;

use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

use super::connection::{Connection, Deadline};
use super::*;

/// A UNIX socket that takes no connection any more: its backlog is full.
struct Full {
    target: Target,
    _queued: UnixStream,
    _listener: UnixListener,
    _dir: Dir,
}

impl Full {
    fn new() -> Self {
        let dir = Dir::new();
        let path = dir.join("socket");
        let fd = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind(&fd, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&fd, 0).unwrap();
        let queued = UnixStream::connect(&path).unwrap();
        let address: Address = format!("UNIX:{}", path.display()).parse().unwrap();
        let target = address.resolve().unwrap()[0];
        Self { target, _queued: queued, _listener: fd.into(), _dir: dir }
    }
}

/// Which of the places took a connection, and how much of the time was left then. Opening may not end.
fn open(targets: Vec<Target>, timeout: Duration) -> (Result<usize, FailureKind>, Duration) {
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || {
        let deadline = Deadline::after(timeout);
        let opened = Connection::open(&targets, 0, deadline, None).map(|(_, place)| place);
        let _ = sender.send((opened, deadline.left()));
    });
    ended.recv_timeout(LONG).expect("it ends")
}

#[test]
fn a_place_that_takes_no_connection_leaves_the_next_one_its_share_of_the_time() {
    let (full, server) = (Full::new(), Server::with_store());
    let targets = vec![full.target, server.address.resolve().unwrap()[0]];
    let (opened, left) = open(targets, Duration::from_secs(2));
    assert_eq!(opened.unwrap(), 1);
    assert!(!left.is_zero(), "the first place has had its share and no more");
}

#[test]
fn each_of_several_tries_gets_an_equal_share_of_what_is_left() {
    let deadline = Deadline::after(LONG);
    let shares: [_; 3] = array::from_fn(|at| deadline.share(3 - at).left());
    assert!(shares[0] <= LONG / 3 && shares[1] <= LONG / 2, "{shares:?}");
    assert!(shares[0] > LONG / 4 && shares[1] > LONG / 3 && shares[2] > LONG / 2, "{shares:?}");
    let over = Deadline::after(Duration::ZERO);
    assert!(over.share(1).left().is_zero() && over.share(0).left().is_zero());
}

#[test]
fn a_full_backlog_is_waited_for_until_the_deadline_and_never_past_it() {
    let full = Full::new();
    let (opened, left) = open(vec![full.target], SHORT);
    assert!(matches!(opened, Err(FailureKind::TimedOut)), "{opened:?}");
    assert!(left.is_zero());
    drop(full);
}

#[test]
fn a_wait_for_room_in_a_backlog_ends_with_the_deadline() {
    let mut waits = connection::BacklogWaits::new();
    let ms = Duration::from_millis;
    let slept: Vec<_> = [ms(900), ms(900), ms(900), ms(900), ms(900), ms(900), ms(7), ms(0)]
        .map(|left| waits.next(left))
        .into();
    let expected = [1, 2, 4, 8, 16, 16, 7].map(|wait| Some(ms(wait)));
    assert_eq!(slept[..7], expected);
    assert_eq!(slept[7], None);
}

/// A server that sends unrequested bytes after its first answer, once the sender tells it to. The
/// receiver reports that they are sent.
fn talkative(unasked: fn(&Header) -> Vec<u8>) -> (Server, mpsc::Sender<()>, mpsc::Receiver<()>) {
    let (go, gate) = mpsc::channel();
    let (sender, said) = mpsc::channel();
    let gate = Mutex::new(gate);
    let server = Server::new(move |number, peer| {
        while let Some((header, _)) = peer.request() {
            peer.answer(&header, &[0]);
            if number == 0 && gate.lock().unwrap().recv().is_ok() {
                peer.stream.write_all(&unasked(&header)).unwrap();
                sender.send(()).unwrap();
            }
        }
    });
    (server, go, said)
}

#[test]
fn a_connection_with_unrequested_bytes_is_not_used_again() {
    let answer = |request: &Header| {
        let uid = request.uid.wrapping_add(1);
        let header = Header { direction: Direction::Response, uid, len: 1, ..*request };
        [&header.encode()[..], &[1]].concat()
    };
    // The answer to the next request before that was made; a part of a message; and no message.
    let cases: [fn(&Header) -> Vec<u8>; 3] = [answer, |_| vec![0], |_| b"HTTP/1.1 200 OK".to_vec()];
    for unasked in cases {
        let (server, go, said) = talkative(unasked);
        let client = server.client();
        assert!(client.has(id(b"a")).unwrap());
        go.send(()).unwrap();
        said.recv_timeout(LONG).unwrap();
        assert!(client.has(id(b"a")).unwrap(), "that it is there says the second connection");
        assert_eq!((server.connections(), server.requests()), (2, 2));
    }
}
