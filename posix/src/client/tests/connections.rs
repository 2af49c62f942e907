//! How connections are made, kept and made again.

use std::env;
use std::sync::mpsc;

use super::*;
use crate::sys;
use crate::testing;

#[test]
fn with_a_connection_per_operation_no_connection_is_kept() {
    let server = Server::with_store();
    let client = server.one_shot();
    assert_eq!(server.connections(), 0);
    for connections in 1..4 {
        client.has(id(b"a")).unwrap();
        assert_eq!((server.connections(), client.kept.len()), (connections, 0));
    }
}

#[test]
fn the_first_operation_connects_and_the_others_share_its_connection() {
    let server = Server::with_store();
    let client = Client::connect(&server.address).unwrap();
    assert_eq!(client.kept.len(), 0);
    for _ in 0..3 {
        client.has(id(b"a")).unwrap();
        assert_eq!((server.connections(), client.kept.len()), (1, 1));
    }
}

#[test]
fn a_kept_connection_holds_no_session() {
    let server = Server::with_store();
    let client = Client::connect(&server.address).unwrap();
    client.add(id(b"a"), b"session", TTL).unwrap();
    assert_eq!(client.get(id(b"a")).unwrap().as_deref(), Some(&b"session"[..]));
    let connection = client.kept.take(|_| true).expect("a kept connection");
    assert_eq!(connection.reply(), None);
}

#[test]
fn with_connect_on_build_all_operations_share_the_connection_that_build_opened() {
    let server = Server::with_store();
    let client = server.builder().connect_on_build().build().unwrap();
    assert_eq!(client.kept.len(), 1);
    for _ in 0..3 {
        client.has(id(b"a")).unwrap();
    }
    assert_eq!((server.connections(), client.kept.len()), (1, 1));
}

#[test]
fn only_connect_on_build_fails_without_a_server() {
    let nobody = Dir::new();
    let address: Address = format!("UNIX:{}", nobody.join("socket").display()).parse().unwrap();
    let failed = Client::builder(&address).connect_on_build().build();
    assert!(
        matches!(&failed, Err(BuildError::Connect(f)) if matches!(f.kind(), FailureKind::Connect(_)))
    );
    let client = Client::connect(address).unwrap();
    assert!(matches!(client.has(id(b"a")).unwrap_err().kind(), FailureKind::Connect(_)));
}

/// A server whose first `deaths` connections break on their second request.
fn mortal(deaths: usize) -> Server {
    Server::new(move |number, peer| {
        while let Some((header, _)) = peer.request() {
            peer.answer(&header, &[0]);
            if number < deaths {
                let _ = peer.request();
                return;
            }
        }
    })
}

#[test]
fn with_retry_a_request_is_sent_again_if_a_kept_connection_breaks() {
    let server = mortal(1);
    let client = server.retrying();
    for _ in 0..3 {
        assert!(client.has(id(b"a")).unwrap());
    }
    assert_eq!((server.connections(), server.requests()), (2, 4));
}

#[test]
fn without_retry_a_broken_connection_fails_one_operation() {
    let server = mortal(1);
    let client = server.client();
    assert!(client.has(id(b"a")).unwrap());
    assert!(matches!(
        client.has(id(b"a")).unwrap_err().kind(),
        FailureKind::Closed | FailureKind::Io(_)
    ));
    assert!(client.has(id(b"a")).unwrap());
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_request_is_sent_twice_at_most_and_only_once_on_a_new_connection() {
    let server = Server::new(|number, peer| {
        if let (0, Some((header, _))) = (number, peer.request()) {
            peer.answer(&header, &[0]);
            let _ = peer.request();
        }
    });
    let client = server.retrying();
    assert!(client.has(id(b"a")).unwrap());
    assert!(client.has(id(b"a")).is_err());
    assert_eq!((server.connections(), server.requests()), (2, 3));
    assert!(client.has(id(b"a")).is_err());
    assert_eq!((server.connections(), server.requests()), (3, 4));
}

#[test]
fn a_kept_connection_that_the_server_has_closed_is_replaced() {
    let (closing, closed) = mpsc::channel();
    let closing = Mutex::new(closing);
    let server = Server::new(move |_, peer| {
        let (header, _) = peer.request().unwrap();
        peer.answer(&header, &[0]);
        peer.stream.shutdown(std::net::Shutdown::Both).unwrap();
        closing.lock().unwrap().send(()).unwrap();
    });
    let client = server.client();
    for connections in 1..4 {
        assert!(client.has(id(b"a")).unwrap());
        closed.recv().unwrap();
        assert_eq!(server.connections(), connections);
    }
}

#[test]
fn no_more_than_kept_max_connections_are_kept() {
    let server = Server::new(|number, peer| {
        while let Some((header, _)) = peer.request() {
            // No answer before all requests have arrived.
            let all = KEPT_MAX + 8;
            while number < all && peer.seen.requests.load(Ordering::SeqCst) < all {
                thread::yield_now();
            }
            peer.answer(&header, &[0]);
        }
    });
    let client = server.client();
    thread::scope(|scope| {
        for _ in 0..KEPT_MAX + 8 {
            scope.spawn(|| assert!(client.has(id(b"a")).unwrap()));
        }
    });
    assert_eq!(client.kept.len(), KEPT_MAX);
}

#[test]
fn after_a_fork_a_child_opens_its_own_connection_and_leaves_its_parent_s_alone() {
    let main = env::var_os("DISTCACHE_TEST_CHILD").is_none().then(Server::with_store);
    let address = main.as_ref().map_or(String::new(), |server| server.address.to_string());
    let test = "client::tests::connections::\
                after_a_fork_a_child_opens_its_own_connection_and_leaves_its_parent_s_alone";
    let output = testing::child_output(test, &address, || {
        let client = Client::builder(testing::word().as_str()).timeout(LONG).build().unwrap();
        client.has(id(b"a")).unwrap();
        if sys::fork().unwrap() {
            sys::exit_now(i32::from(client.has(id(b"a")).is_err()));
        }
        let (_, status) =
            rustix::process::wait(rustix::process::WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0));
        client.has(id(b"a")).unwrap();
    });
    let (Some(output), Some(server)) = (output, main) else { return };
    let text = testing::text(&output.stdout) + &testing::text(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert_eq!((server.connections(), server.requests()), (2, 3));
}
