//! PUT and TAKE, with servers that support them and servers that do not.

use super::*;

#[test]
fn put_replaces_a_session_at_every_patch_level() {
    for level in [0, 1, 2] {
        for kind in 0..3 {
            let server = Server::at_level(level);
            let client = &server.clients()[kind];
            for session in [b"first session", b"other session", b"third session"] {
                client.put(id(b"a"), session, TTL).unwrap();
                assert_eq!(client.get(id(b"a")).unwrap().as_deref(), Some(&session[..]));
            }
            assert!(matches!(client.put(id(b"a"), &[0; 32_760], TTL), Err(AddError::TooLarge)));
            assert_eq!(client.take(id(b"a")).unwrap().as_deref(), Some(&b"third session"[..]));
            assert_eq!(client.take(id(b"a")).unwrap(), None);
            assert!(!client.has(id(b"a")).unwrap());
        }
    }
}

#[test]
fn the_patch_level_is_learned_from_any_answer_and_then_one_request_is_enough() {
    let server = Server::with_store();
    let client = server.one_shot();
    client.put(id(b"a"), b"a session", TTL).unwrap();
    let requests = server.requests();
    client.put(id(b"a"), b"a session", TTL).unwrap();
    assert!(client.take(id(b"a")).unwrap().is_some());
    assert_eq!(server.requests() - requests, 2);
}

#[test]
fn of_several_clients_that_take_from_an_old_server_one_gets_the_session() {
    let server = Server::at_level(0);
    let client = server.client();
    for _ in 0..20 {
        client.put(id(b"a"), b"a session", TTL).unwrap();
        let taken = thread::scope(|scope| {
            let takers = [(); 4].map(|()| scope.spawn(|| client.take(id(b"a")).unwrap().is_some()));
            takers.map(|taker| usize::from(taker.join().unwrap())).iter().sum::<usize>()
        });
        assert_eq!(taken, 1);
    }
}

#[test]
fn an_old_server_that_replaces_a_new_one_gets_old_requests() {
    let store = Mutex::new(HashMap::new());
    let server = Server::new(move |_, peer| {
        peer.level = 0;
        while let Some((header, payload)) = peer.request() {
            if header.op.level() > 0 {
                return;
            }
            let answer = stored(&mut store.lock().unwrap(), header.op, &payload);
            peer.answer(&header, &answer);
        }
    });
    for client in server.clients() {
        client.level.store(1, Ordering::Relaxed);
        client.put(id(b"a"), b"a session", TTL).unwrap();
        client.level.store(1, Ordering::Relaxed);
        assert_eq!(client.take(id(b"a")).unwrap().as_deref(), Some(&b"a session"[..]));
    }
}

#[test]
fn a_proxy_that_does_not_know_its_server_gets_old_requests() {
    let store = Mutex::new(HashMap::new());
    let server = Server::new(move |_, peer| {
        while let Some((header, payload)) = peer.request() {
            if header.op.level() > 0 {
                peer.answer(&header, &[Status::UNSUPPORTED.0]);
                continue;
            }
            let answer = stored(&mut store.lock().unwrap(), header.op, &payload);
            peer.answer(&header, &answer);
        }
    });
    let client = server.client();
    for session in [b"first session", b"other session"] {
        client.put(id(b"a"), session, TTL).unwrap();
    }
    assert_eq!(client.take(id(b"a")).unwrap().as_deref(), Some(&b"other session"[..]));
    assert_eq!(client.take(id(b"a")).unwrap(), None);
}

#[test]
fn all_requests_of_an_operation_share_one_deadline() {
    // The first answer comes, and leads to a request that is never answered.
    let server = Server::new(|_, peer| {
        let (header, _) = peer.request().unwrap();
        peer.answer(&header, if header.op == Op::Get { b"a session" } else { &[101] });
        peer.idle();
    });
    let client = server.builder().timeout(SHORT).build().unwrap();
    assert!(client.take(id(b"a")).unwrap_err().is_timeout());
    let failure = client.put(id(b"a"), b"a session", TTL).unwrap_err();
    assert!(matches!(failure, AddError::Failed(failure) if failure.is_timeout()));
}
