//! Servers that are slow, unreachable or wrong.

use std::sync::mpsc;

use super::*;

#[test]
fn operations_at_a_server_that_never_answers_end_at_the_deadline() {
    let server = Server::new(|_, peer| peer.idle());
    for client in server.clients() {
        client.set_timeout(SHORT);
        assert!(client.get(id(b"a")).unwrap_err().is_timeout());
        assert!(client.has(id(b"a")).unwrap_err().is_timeout());
        assert!(client.remove(id(b"a")).unwrap_err().is_timeout());
        let added = client.add(id(b"a"), &[0; 32_000], TTL);
        assert!(matches!(added, Err(AddError::Failed(failure)) if failure.is_timeout()));
        assert_eq!(client.kept.len(), 0);
    }
}

#[test]
fn single_bytes_of_an_answer_do_not_move_the_deadline() {
    let server = Server::new(|_, peer| {
        let (header, _) = peer.request().unwrap();
        let header =
            Header { direction: Direction::Response, complete: false, len: 2048, ..header };
        let mut wire = header.encode().to_vec();
        wire.resize(2062, 0);
        // The answer is incomplete at the deadline, though bytes keep coming. Ends when the client
        // leaves.
        while wire.iter().all(|&byte| {
            thread::sleep(Duration::from_millis(5));
            peer.stream.write_all(&[byte]).is_ok()
        }) {}
    });
    let client = server.builder().timeout(SHORT).build().unwrap();
    assert!(client.get(id(b"a")).unwrap_err().is_timeout());
}

#[test]
fn operations_at_a_server_that_accepts_nothing_end_at_the_deadline() {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    let dir = Dir::new();
    let unix = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let path = dir.join("socket");
    bind(&unix, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    let tcp = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&tcp, &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let port =
        std::net::SocketAddr::try_from(rustix::net::getsockname(&tcp).unwrap()).unwrap().port();
    for (fd, address) in
        [(unix, format!("UNIX:{}", path.display())), (tcp, format!("IP:127.0.0.1:{port}"))]
    {
        listen(&fd, 0).unwrap();
        let builder = || Client::builder(address.as_str()).timeout(SHORT);
        let client = builder().connection_per_operation().build().unwrap();
        // The first ones fit into the backlog.
        let held: Vec<_> =
            (0..8).map_while(|_| builder().connect_on_build().build().ok()).collect();
        assert!(held.len() < 8, "{address}: the backlog is full");
        let failure = client.has(id(b"a")).unwrap_err();
        assert!(failure.is_timeout(), "{failure}");
        drop(fd);
    }
}

#[test]
fn a_client_connects_once_a_full_backlog_has_room() {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    let dir = Dir::new();
    let fd = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let path = dir.join("socket");
    bind(&fd, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&fd, 0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let address: Address = format!("UNIX:{}", path.display()).parse().unwrap();
    thread::scope(|scope| {
        let second =
            scope.spawn(|| Client::builder(&address).timeout(LONG).connect_on_build().build());
        let listener = UnixListener::from(fd);
        let _accepted = listener.accept().unwrap();
        assert!(second.join().unwrap().is_ok());
    });
}

#[test]
fn a_late_answer_is_not_the_answer_to_a_later_request() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let server = Server::new(move |number, peer| {
        while let Some((header, payload)) = peer.request() {
            if number == 0 {
                let _ = gate.lock().unwrap().recv();
            }
            peer.answer(&header, &[&payload[..], b" has this session"].concat());
        }
    });
    let client = server.client();
    client.set_timeout(SHORT);
    assert!(client.get(id(b"first")).unwrap_err().is_timeout());
    drop(go);
    client.set_timeout(LONG);
    for name in [&b"second"[..], b"third"] {
        let session = client.get(id(name)).unwrap().unwrap();
        assert_eq!(session, [name, b" has this session"].concat());
    }
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_second_answer_to_one_request_is_not_the_answer_to_another() {
    let server = Server::new(|number, peer| {
        while let Some((header, payload)) = peer.request() {
            let answer = [&payload[..], b" has this session"].concat();
            if number == 0 {
                // In one packet, so that both arrive together.
                let mut both = Vec::new();
                for _ in 0..2 {
                    let header = Header {
                        direction: Direction::Response,
                        len: u16::try_from(answer.len()).unwrap(),
                        ..header
                    };
                    both.extend(header.encode());
                    both.extend(&answer);
                }
                peer.stream.write_all(&both).unwrap();
            } else {
                peer.answer(&header, &answer);
            }
        }
    });
    let client = server.client();
    for name in [&b"first"[..], b"second", b"third"] {
        let session = client.get(id(name)).unwrap().unwrap();
        assert_eq!(session, [name, b" has this session"].concat());
    }
    assert_eq!(server.connections(), 2, "the first connection is closed");
}

#[test]
fn bytes_that_are_not_an_answer_close_the_connection() {
    let answers: [fn(&mut Peer, Header); 4] = [
        |peer, header| peer.answer(&Header { uid: header.uid.wrapping_add(1), ..header }, &[0]),
        |peer, header| peer.answer(&Header { op: Op::Get, ..header }, &[0]),
        |peer, header| peer.answer(&header, b"longer than a status"),
        |peer, _| peer.stream.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap(),
    ];
    let server = Server::new(move |number, peer| {
        while let Some((header, _)) = peer.request() {
            match answers.get(number) {
                Some(answer) => answer(peer, header),
                None => peer.answer(&header, &[0]),
            }
        }
    });
    let client = server.retrying();
    for _ in answers {
        let failure = client.has(id(b"a")).unwrap_err();
        assert!(matches!(failure.kind(), FailureKind::Malformed(_)), "{failure}");
    }
    assert!(client.has(id(b"a")).unwrap());
    assert_eq!(server.connections(), answers.len() + 1);
}

#[test]
fn an_unreachable_server_behind_a_proxy_is_not_a_miss() {
    for payload in [&[2][..], &[]] {
        let server = Server::new(move |_, peer| {
            while let Some((header, _)) = peer.request() {
                peer.answer(&header, payload);
            }
        });
        let client = server.client();
        assert!(client.get(id(b"a")).unwrap_err().is_server_unreachable());
        assert!(client.has(id(b"a")).unwrap_err().is_server_unreachable());
        assert!(client.remove(id(b"a")).unwrap_err().is_server_unreachable());
        let added = client.add(id(b"a"), b"session", TTL);
        assert!(matches!(added, Err(AddError::Failed(failure)) if failure.is_server_unreachable()));
        assert_eq!(server.connections(), 1, "the connection to the proxy is kept");
    }
}

#[test]
fn short_sessions_are_a_miss_and_unknown_statuses_are_an_error() {
    let server = Server::new(|_, peer| {
        while let Some((header, payload)) = peer.request() {
            peer.answer(&header, &payload);
        }
    });
    let client = server.client();
    for (session, there) in
        [(&b"\x01"[..], false), (b"\x07", false), (b"1234", false), (b"12345", true)]
    {
        assert_eq!(client.get(id(session)).unwrap().is_some(), there);
    }
    let failure = client.has(id(b"\x07")).unwrap_err();
    assert!(matches!(failure.kind(), FailureKind::UnexpectedStatus(Status(7))), "{failure}");
    assert_eq!(server.connections(), 1);
}

#[test]
fn every_target_of_an_address_is_tried() {
    let server = Server::with_store();
    let mut client = server.one_shot();
    let nobody = Dir::new();
    let address: Address = format!("UNIX:{}", nobody.join("socket").display()).parse().unwrap();
    client.targets.insert(0, address.resolve().unwrap()[0]);
    for _ in 0..2 {
        client.has(id(b"a")).unwrap();
        assert_eq!(
            client.target.load(Ordering::Relaxed),
            1,
            "the target that accepted is tried first"
        );
    }
}
