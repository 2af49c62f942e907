//! Servers that are slow, away or wrong.

use std::sync::mpsc;

use super::*;

#[test]
fn a_server_that_never_answers_is_waited_for_until_the_deadline() {
    let server = Server::new(|_, peer| peer.idle());
    for flags in [Flags::NONE, Flags::PERSISTENT | Flags::RETRY] {
        let client = Client::with_timeout(&server.address, flags, SHORT).unwrap();
        assert!(client.get(id(b"a")).unwrap_err().is_timeout());
        assert!(client.has(id(b"a")).unwrap_err().is_timeout());
        assert!(client.remove(id(b"a")).unwrap_err().is_timeout());
        let added = client.add(1, id(b"a"), &[0; 32_000]);
        assert!(matches!(added, Err(AddError::Failed(failure)) if failure.is_timeout()));
        assert_eq!(client.kept.len(), 0);
    }
}

#[test]
fn a_server_that_answers_in_drops_is_waited_for_no_longer() {
    let server = Server::new(|_, peer| {
        let (header, _) = peer.request().unwrap();
        let header =
            Header { direction: Direction::Response, complete: false, len: 2048, ..header };
        let mut wire = header.encode().to_vec();
        wire.resize(2062, 0);
        // So slow that the answer is not whole by the deadline, though each byte comes soon after the
        // last. Stops when the client is gone.
        while wire.iter().all(|&byte| {
            thread::sleep(Duration::from_millis(5));
            peer.stream.write_all(&[byte]).is_ok()
        }) {}
    });
    let client = Client::with_timeout(&server.address, Flags::PERSISTENT, SHORT).unwrap();
    assert!(client.get(id(b"a")).unwrap_err().is_timeout());
}

#[test]
fn a_server_that_accepts_nothing_is_waited_for_until_the_deadline() {
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
        let client = Client::with_timeout(&address.parse().unwrap(), Flags::NONE, SHORT).unwrap();
        // The first ones still find room in the backlog, and no answer.
        let held: Vec<_> = (0..8)
            .map_while(|_| {
                Client::with_timeout(&address.parse().unwrap(), Flags::PERSISTENT, SHORT).ok()
            })
            .collect();
        assert!(held.len() < 8, "{address}: the backlog is full");
        let failure = client.has(id(b"a")).unwrap_err();
        assert!(failure.is_timeout(), "{failure}");
        drop(fd);
    }
}

#[test]
fn room_in_a_full_backlog_is_found_when_it_comes() {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    let dir = Dir::new();
    let fd = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let path = dir.join("socket");
    bind(&fd, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&fd, 0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let address: Address = format!("UNIX:{}", path.display()).parse().unwrap();
    thread::scope(|scope| {
        let second = scope.spawn(|| Client::with_timeout(&address, Flags::PERSISTENT, LONG));
        let listener = UnixListener::from(fd);
        let _accepted = listener.accept().unwrap();
        assert!(second.join().unwrap().is_ok());
    });
}

#[test]
fn an_answer_that_comes_after_its_deadline_reaches_nobody() {
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
    let client = server.client(Flags::PERSISTENT);
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
fn a_second_answer_to_one_request_is_taken_for_no_other_s() {
    let server = Server::new(|number, peer| {
        while let Some((header, payload)) = peer.request() {
            let answer = [&payload[..], b" has this session"].concat();
            if number == 0 {
                // In one packet, so that both are there when the first is looked for.
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
    let client = server.client(Flags::PERSISTENT);
    for name in [&b"first"[..], b"second", b"third"] {
        let session = client.get(id(name)).unwrap().unwrap();
        assert_eq!(session, [name, b" has this session"].concat());
    }
    assert_eq!(server.connections(), 2, "whoever answers twice is not asked again");
}

#[test]
fn what_is_no_answer_closes_the_connection() {
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
    let client = server.client(Flags::PERSISTENT | Flags::RETRY);
    for _ in answers {
        let failure = client.has(id(b"a")).unwrap_err();
        assert!(matches!(failure.kind(), FailureKind::Malformed(_)), "{failure}");
    }
    assert!(client.has(id(b"a")).unwrap());
    assert_eq!(server.connections(), answers.len() + 1);
}

#[test]
fn a_proxy_whose_server_is_away_is_told_from_a_miss() {
    for payload in [&[2][..], &[]] {
        let server = Server::new(move |_, peer| {
            while let Some((header, _)) = peer.request() {
                peer.answer(&header, payload);
            }
        });
        let client = server.client(Flags::PERSISTENT);
        assert!(client.get(id(b"a")).unwrap_err().is_unavailable());
        assert!(client.has(id(b"a")).unwrap_err().is_unavailable());
        assert!(client.remove(id(b"a")).unwrap_err().is_unavailable());
        let added = client.add(1, id(b"a"), b"session");
        assert!(matches!(added, Err(AddError::Failed(failure)) if failure.is_unavailable()));
        assert_eq!(server.connections(), 1, "the proxy itself is well");
    }
}

#[test]
fn short_sessions_are_a_miss_and_unknown_statuses_are_an_error() {
    let server = Server::new(|_, peer| {
        while let Some((header, payload)) = peer.request() {
            peer.answer(&header, &payload);
        }
    });
    let client = server.client(Flags::PERSISTENT);
    for (session, there) in
        [(&b"\x01"[..], false), (b"\x07", false), (b"1234", false), (b"12345", true)]
    {
        assert_eq!(client.get(id(session)).unwrap().is_some(), there);
    }
    let failure = client.has(id(b"\x07")).unwrap_err();
    assert!(matches!(failure.kind(), FailureKind::Unexpected(Status(7))), "{failure}");
    assert_eq!(server.connections(), 1);
}

#[test]
fn every_place_that_a_name_leads_to_is_tried() {
    let server = Server::with_store();
    let mut client = server.client(Flags::NONE);
    let nobody = Dir::new();
    let address: Address = format!("UNIX:{}", nobody.join("socket").display()).parse().unwrap();
    client.targets.insert(0, address.resolve().unwrap()[0]);
    for _ in 0..2 {
        client.has(id(b"a")).unwrap();
        assert_eq!(client.target.load(Ordering::Relaxed), 1, "it is remembered who answered");
    }
}
