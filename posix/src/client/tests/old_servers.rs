//! PUT and TAKE, with servers that have them and servers that do not.

use super::*;

#[test]
fn a_session_is_replaced_whatever_the_server_can_do() {
    for level in [0, 1, 2] {
        for flags in [Flags::NONE, Flags::PERSISTENT, Flags::PERSISTENT | Flags::RETRY] {
            let server = Server::at_level(level);
            let client = server.client(flags);
            for session in [b"first session", b"other session", b"third session"] {
                client.put(1000, id(b"a"), session).unwrap();
                assert_eq!(client.get(id(b"a")).unwrap().as_deref(), Some(&session[..]));
            }
            assert!(matches!(client.put(1000, id(b"a"), &[0; 32_760]), Err(AddError::TooLarge)));
            assert_eq!(client.take(id(b"a")).unwrap().as_deref(), Some(&b"third session"[..]));
            assert_eq!(client.take(id(b"a")).unwrap(), None);
            assert!(!client.has(id(b"a")).unwrap());
        }
    }
}

#[test]
fn what_the_server_can_do_is_learned_from_any_answer_and_then_one_request_is_enough() {
    let server = Server::with_store();
    let client = server.client(Flags::NONE);
    client.put(1000, id(b"a"), b"a session").unwrap();
    let requests = server.requests();
    client.put(1000, id(b"a"), b"a session").unwrap();
    assert!(client.take(id(b"a")).unwrap().is_some());
    assert_eq!(server.requests() - requests, 2);
}

#[test]
fn of_two_who_take_from_a_server_of_old_one_gets_it() {
    let server = Server::at_level(0);
    let client = server.client(Flags::PERSISTENT);
    for _ in 0..20 {
        client.put(1000, id(b"a"), b"a session").unwrap();
        let taken = thread::scope(|scope| {
            let takers = [(); 4].map(|()| scope.spawn(|| client.take(id(b"a")).unwrap().is_some()));
            takers.map(|taker| usize::from(taker.join().unwrap())).iter().sum::<usize>()
        });
        assert_eq!(taken, 1);
    }
}

#[test]
fn a_server_of_old_in_the_place_of_a_new_one_is_asked_in_the_old_way() {
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
    for flags in [Flags::PERSISTENT, Flags::PERSISTENT | Flags::RETRY, Flags::NONE] {
        let client = server.client(flags);
        client.level.store(1, Ordering::Relaxed);
        client.put(1000, id(b"a"), b"a session").unwrap();
        client.level.store(1, Ordering::Relaxed);
        assert_eq!(client.take(id(b"a")).unwrap().as_deref(), Some(&b"a session"[..]));
    }
}

#[test]
fn a_proxy_that_does_not_know_its_server_is_asked_in_the_old_way() {
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
    let client = server.client(Flags::PERSISTENT);
    for session in [b"first session", b"other session"] {
        client.put(1000, id(b"a"), session).unwrap();
    }
    assert_eq!(client.take(id(b"a")).unwrap().as_deref(), Some(&b"other session"[..]));
    assert_eq!(client.take(id(b"a")).unwrap(), None);
}

#[test]
fn all_that_one_operation_takes_ends_within_its_one_deadline() {
    // The first answer comes, and leads to a request that is never answered.
    let server = Server::new(|_, peer| {
        let (header, _) = peer.request().unwrap();
        peer.answer(&header, if header.op == Op::Get { b"a session" } else { &[101] });
        peer.idle();
    });
    let client = Client::with_timeout(&server.address, Flags::PERSISTENT, SHORT).unwrap();
    assert!(client.take(id(b"a")).unwrap_err().is_timeout());
    let failure = client.put(1000, id(b"a"), b"a session").unwrap_err();
    assert!(matches!(failure, AddError::Failed(failure) if failure.is_timeout()));
}
