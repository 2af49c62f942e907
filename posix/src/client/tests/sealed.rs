//! Sealed sessions, on a server that keeps them, and on one that lies about them.

use distcache_core::seal::{self, Keys};
use distcache_core::wire::PAYLOAD_MAX;

use super::*;
use crate::seal_keys::tests::{Directory, line};
use crate::seal_keys::unix_now;

const SESSION: &[u8] = b"the master secret of a session";

fn sealing(server: &Server, directory: &Directory, keys: &[u8]) -> Client {
    let keys: String = keys.iter().map(|&key| line(key)).collect();
    server.builder().seal_keys(directory.file(&keys)).build().unwrap()
}

fn has_plaintext(bytes: &[u8]) -> bool {
    bytes.windows(8).any(|eight| SESSION.windows(8).any(|secret| secret == eight))
}

#[test]
fn a_sealed_session_comes_back_and_its_server_never_sees_it() {
    for level in [0, 1] {
        let (server, directory) = (Server::at_level(level), Directory::new());
        let plain = server.client();
        let client = sealing(&server, &directory, &[1]);
        for round in 0..3_u8 {
            client.put(id(b"a"), &[SESSION, &[round]].concat(), TTL).unwrap();
            assert_eq!(client.get(id(b"a")).unwrap().unwrap(), [SESSION, &[round]].concat());
            let stored = plain.get(id(b"a")).unwrap().unwrap();
            assert_eq!(stored.len(), SESSION.len() + 1 + seal::OVERHEAD);
            assert!(seal::is_sealed(&stored) && !has_plaintext(&stored));
        }
        client.add(id(b"b"), b"x", TTL).unwrap();
        assert_eq!(client.get(id(b"b")).unwrap().as_deref(), Some(&b"x"[..]));
        assert!(matches!(client.add(id(b"b"), SESSION, TTL), Err(AddError::Refused(_))));
        assert_eq!(client.take(id(b"a")).unwrap().unwrap(), [SESSION, &[2]].concat());
        assert_eq!(client.take(id(b"a")).unwrap(), None);
        assert_eq!(client.unopened(), UnopenedCount::default());
    }
}

#[test]
fn no_connection_keeps_a_session_that_was_sealed() {
    let (server, directory) = (Server::with_store(), Directory::new());
    let client = sealing(&server, &directory, &[1]);
    client.put(id(b"a"), SESSION, TTL).unwrap();
    assert!(client.get(id(b"a")).unwrap().is_some());
    let connection = client.kept.take(|_| true).unwrap();
    assert!(!has_plaintext(&connection.close()), "in the connection's memory");
}

#[test]
fn a_session_that_is_too_large_with_its_seal_is_refused_and_not_sent() {
    let (server, directory) = (Server::with_store(), Directory::new());
    let (plain, client) = (server.client(), sealing(&server, &directory, &[1]));
    let largest = PAYLOAD_MAX - 8 - 1;
    plain.put(id(b"a"), &vec![7; largest], TTL).unwrap();
    let sent = server.requests();
    let refused = client.put(id(b"a"), &vec![7; largest - seal::OVERHEAD + 1], TTL);
    assert!(matches!(refused, Err(AddError::TooLarge)));
    assert_eq!(server.requests(), sent);
    let session = vec![7; largest - seal::OVERHEAD];
    client.put(id(b"a"), &session, TTL).unwrap();
    assert_eq!(client.get(id(b"a")).unwrap(), Some(session));
}

#[test]
fn no_nonce_is_used_twice() {
    let (server, directory) = (Server::with_store(), Directory::new());
    let (plain, client) = (server.client(), sealing(&server, &directory, &[1]));
    let mut seen = std::collections::HashSet::new();
    for _ in 0..100 {
        client.put(id(b"a"), SESSION, TTL).unwrap();
        let stored = plain.get(id(b"a")).unwrap().unwrap();
        assert!(seen.insert(stored[8..seal::HEADER_LEN].to_vec()));
    }
}

#[test]
fn what_a_lying_server_returns_is_a_miss_and_counted() {
    let (server, directory) = (Server::with_store(), Directory::new());
    let (plain, client) = (server.client(), sealing(&server, &directory, &[1]));
    client.put(id(b"a"), SESSION, TTL).unwrap();
    let sealed = plain.get(id(b"a")).unwrap().unwrap();
    let late = {
        let mut envelope = vec![0; SESSION.len() + seal::OVERHEAD];
        let (keys, past) = (Keys::new(&[[1; 32]]).unwrap(), unix_now() - 1);
        keys.seal([1; 24], past, id(b"a"), SESSION, &mut envelope).unwrap();
        envelope
    };
    let changed = |at: usize| {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        changed
    };
    let (zero, mut expected) = (UnopenedCount::default(), UnopenedCount::default());
    for (lie, counts) in [
        (SESSION.to_vec(), UnopenedCount { not_sealed: 1, ..zero }),
        (changed(0), UnopenedCount { not_sealed: 1, ..zero }),
        (changed(1), UnopenedCount { unknown_key: 1, ..zero }),
        (changed(5), UnopenedCount { forged: 1, ..zero }),
        (changed(40), UnopenedCount { forged: 1, ..zero }),
        (sealed[..sealed.len() - 1].to_vec(), UnopenedCount { forged: 1, ..zero }),
        (sealed[..20].to_vec(), UnopenedCount { not_sealed: 1, ..zero }),
        (late, UnopenedCount { expired: 1, ..zero }),
    ] {
        expected.not_sealed += counts.not_sealed;
        expected.unknown_key += counts.unknown_key;
        expected.forged += counts.forged;
        expected.expired += counts.expired;
        plain.put(id(b"a"), &lie, TTL).unwrap();
        assert_eq!(client.get(id(b"a")).unwrap(), None);
        assert_eq!(client.unopened(), expected);
    }
    plain.put(id(b"b"), &sealed, TTL).unwrap();
    assert_eq!(client.take(id(b"b")).unwrap(), None, "sealed for another id");
    assert_eq!(client.unopened().total(), 9);
}

#[test]
fn unsealed_sessions_are_found_only_in_mixed_mode() {
    let (server, directory) = (Server::with_store(), Directory::new());
    let file = directory.file(&line(1));
    let mixed = server.builder().seal_keys(&file).seal_mixed().build().unwrap();
    server.client().put(id(b"a"), SESSION, TTL).unwrap();
    assert_eq!(mixed.get(id(b"a")).unwrap().as_deref(), Some(SESSION));
    mixed.put(id(b"b"), SESSION, TTL).unwrap();
    assert!(
        seal::is_sealed(&server.client().get(id(b"b")).unwrap().unwrap()),
        "it seals all the same"
    );
    assert_eq!(mixed.take(id(b"b")).unwrap().as_deref(), Some(SESSION));
    assert_eq!(mixed.take(id(b"a")).unwrap().as_deref(), Some(SESSION));
    assert_eq!(mixed.unopened().total(), 0);
}

#[test]
fn two_clients_with_keys_in_another_order_read_each_other() {
    let server = Server::with_store();
    let directories = [(); 3].map(|()| Directory::new());
    let old = sealing(&server, &directories[0], &[1]);
    let moving = sealing(&server, &directories[1], &[1, 2]);
    let new = sealing(&server, &directories[2], &[2, 1]);
    for (writer, reader) in [(&old, &moving), (&moving, &old), (&moving, &new), (&new, &moving)] {
        writer.put(id(b"a"), SESSION, TTL).unwrap();
        assert_eq!(reader.get(id(b"a")).unwrap().as_deref(), Some(SESSION));
    }
}

#[test]
fn a_session_sealed_twice_comes_back() {
    let (server, directory) = (Server::with_store(), Directory::new());
    let (plain, client) = (server.client(), sealing(&server, &directory, &[1]));
    // What a sealing dc_client makes of a session that its sealing client sends, and back.
    client.put(id(b"a"), SESSION, TTL).unwrap();
    let once = plain.get(id(b"a")).unwrap().unwrap();
    client.put(id(b"a"), &once, TTL).unwrap();
    let twice = plain.get(id(b"a")).unwrap().unwrap();
    assert_eq!(twice.len(), SESSION.len() + 2 * seal::OVERHEAD);
    let opened = client.get(id(b"a")).unwrap().unwrap();
    plain.put(id(b"a"), &opened, TTL).unwrap();
    assert_eq!(client.get(id(b"a")).unwrap().as_deref(), Some(SESSION));
}

#[test]
fn sessions_that_do_not_open_are_reported_once_in_ten_seconds() {
    let (server, directory) = (Server::with_store(), Directory::new());
    let lines = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&lines);
    let client = server
        .builder()
        .seal_keys(directory.file(&line(1)))
        .seal_report(move |line| told.lock().unwrap().push(line.to_owned()))
        .build()
        .unwrap();
    server.client().put(id(b"a"), SESSION, TTL).unwrap();
    for _ in 0..5 {
        assert_eq!(client.get(id(b"a")).unwrap(), None);
    }
    client.expire_report_pause();
    assert_eq!(client.get(id(b"a")).unwrap(), None);
    let lines = lines.lock().unwrap();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains(&server.address.to_string()), "{lines:?}");
    assert!(lines[0].contains(": 1 more; in all 1 not sealed, 0 sealed"), "{lines:?}");
    assert!(lines[1].contains(": 5 more; in all 6 not sealed, 0 sealed"), "{lines:?}");
}

#[test]
fn keys_that_cannot_be_used_make_the_build_fail_and_leave_a_client_as_it_was() {
    let (server, directory) = (Server::with_store(), Directory::new());
    let bad = directory.file("nonsense\n");
    let error = server.builder().seal_keys(&bad).build().unwrap_err();
    assert!(error.to_string().contains("line 1 is not a key"), "{error}");

    let other = Directory::new();
    let mut client = sealing(&server, &other, &[1]);
    client.put(id(b"a"), SESSION, TTL).unwrap();
    assert!(client.set_seal_keys(Some(&bad), false).is_err());
    assert_eq!(client.get(id(b"a")).unwrap().as_deref(), Some(SESSION));
    client.set_seal_keys(None, false).unwrap();
    assert!(seal::is_sealed(&client.get(id(b"a")).unwrap().unwrap()) && !client.is_sealing());
    client.set_seal_keys(Some(&directory.file(&line(1))), false).unwrap();
    assert_eq!(client.get(id(b"a")).unwrap().as_deref(), Some(SESSION));
}
