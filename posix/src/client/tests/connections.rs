//! How connections are made, kept and made again.

use std::env;
use std::sync::mpsc;

use super::*;
use crate::sys;
use crate::testing;

#[test]
fn without_persistent_every_operation_has_a_connection_of_its_own() {
    let server = Server::with_store();
    let client = server.client(Flags::NONE);
    assert_eq!(server.connections(), 0);
    for connections in 1..4 {
        client.has(id(b"a")).unwrap();
        assert_eq!((server.connections(), client.kept.len()), (connections, 0));
    }
}

#[test]
fn with_persistent_all_operations_share_the_connection_that_new_made() {
    let server = Server::with_store();
    let client = server.client(Flags::PERSISTENT);
    assert_eq!(client.kept.len(), 1);
    for _ in 0..3 {
        client.has(id(b"a")).unwrap();
    }
    assert_eq!((server.connections(), client.kept.len()), (1, 1));
}

#[test]
fn with_late_the_first_operation_connects_and_not_new() {
    let server = Server::with_store();
    let client = server.client(Flags::PERSISTENT | Flags::LATE);
    assert_eq!(client.kept.len(), 0);
    client.has(id(b"a")).unwrap();
    assert_eq!((server.connections(), client.kept.len()), (1, 1));

    let nobody = Dir::new();
    let address: Address = format!("UNIX:{}", nobody.join("socket").display()).parse().unwrap();
    let failed = Client::new(&address, Flags::PERSISTENT);
    assert!(
        matches!(&failed, Err(NewError::Connect(f)) if matches!(f.kind(), FailureKind::NotConnected(_)))
    );
    let client = Client::new(&address, Flags::PERSISTENT | Flags::LATE).unwrap();
    assert!(matches!(client.has(id(b"a")).unwrap_err().kind(), FailureKind::NotConnected(_)));
}

/// A server whose connections die as the second request comes in, the first `deaths` of them.
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
fn with_retry_a_request_is_sent_once_more_where_a_kept_connection_broke_under_it() {
    let server = mortal(1);
    let client = server.client(Flags::PERSISTENT | Flags::RETRY);
    for _ in 0..3 {
        assert!(client.has(id(b"a")).unwrap());
    }
    assert_eq!((server.connections(), server.requests()), (2, 4));
}

#[test]
fn without_retry_a_kept_connection_that_breaks_is_a_failure_and_the_next_operation_is_not() {
    let server = mortal(1);
    let client = server.client(Flags::PERSISTENT);
    assert!(client.has(id(b"a")).unwrap());
    assert!(matches!(
        client.has(id(b"a")).unwrap_err().kind(),
        FailureKind::Closed | FailureKind::Lost(_)
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
    let client = server.client(Flags::PERSISTENT | Flags::RETRY);
    assert!(client.has(id(b"a")).unwrap());
    assert!(client.has(id(b"a")).is_err());
    assert_eq!((server.connections(), server.requests()), (2, 3));
    assert!(client.has(id(b"a")).is_err());
    assert_eq!((server.connections(), server.requests()), (3, 4));
}

#[test]
fn a_connection_that_the_server_closed_meanwhile_is_replaced_without_any_flag() {
    let (closing, closed) = mpsc::channel();
    let closing = Mutex::new(closing);
    let server = Server::new(move |_, peer| {
        let (header, _) = peer.request().unwrap();
        peer.answer(&header, &[0]);
        peer.stream.shutdown(std::net::Shutdown::Both).unwrap();
        closing.lock().unwrap().send(()).unwrap();
    });
    let client = server.client(Flags::PERSISTENT);
    for connections in 1..4 {
        assert!(client.has(id(b"a")).unwrap());
        closed.recv().unwrap();
        assert_eq!(server.connections(), connections);
    }
}

#[test]
fn connections_beyond_those_that_are_kept_are_closed() {
    let server = Server::new(|number, peer| {
        while let Some((header, _)) = peer.request() {
            // All at once: nobody is answered before everybody has asked.
            let all = KEPT_MAX + 8;
            while number < all && peer.seen.requests.load(Ordering::SeqCst) < all {
                thread::yield_now();
            }
            peer.answer(&header, &[0]);
        }
    });
    let client = server.client(Flags::PERSISTENT | Flags::LATE);
    thread::scope(|scope| {
        for _ in 0..KEPT_MAX + 8 {
            scope.spawn(|| assert!(client.has(id(b"a")).unwrap()));
        }
    });
    assert_eq!(client.kept.len(), KEPT_MAX);
}

/// Uses a client before and after a fork, in parent and child, and says how many connections and
/// requests the server saw.
fn around_a_fork(test: &str, flags: Flags) -> Option<(usize, usize)> {
    let main = env::var_os("DISTCACHE_TEST_CHILD").is_none().then(Server::with_store);
    let path = main.as_ref().map_or(String::new(), |server| server.address.to_string());
    let output = testing::child_output(test, &path, || {
        let client = Client::with_timeout(&testing::word().parse().unwrap(), flags, LONG).unwrap();
        client.has(id(b"a")).unwrap();
        if sys::fork().unwrap() {
            sys::exit_now(i32::from(client.has(id(b"a")).is_err()));
        }
        let (_, status) =
            rustix::process::wait(rustix::process::WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0));
        client.has(id(b"a")).unwrap();
    })?;
    let text = testing::text(&output.stdout) + &testing::text(&output.stderr);
    assert!(output.status.success(), "{text}");
    main.map(|server| (server.connections(), server.requests()))
}

#[test]
fn after_a_fork_a_child_with_pidcheck_connects_anew_and_leaves_its_parent_s_connection_alone() {
    let test = "client::tests::flags::after_a_fork_a_child_with_pidcheck_connects_anew_and_leaves_its_parent_s_connection_alone";
    let seen = around_a_fork(test, Flags::PERSISTENT | Flags::PIDCHECK);
    assert!(seen.is_none_or(|seen| seen == (2, 3)), "{seen:?}");
}

#[test]
fn after_a_fork_a_child_without_pidcheck_goes_on_with_its_parent_s_connection() {
    let test = "client::tests::flags::after_a_fork_a_child_without_pidcheck_goes_on_with_its_parent_s_connection";
    let seen = around_a_fork(test, Flags::PERSISTENT);
    assert!(seen.is_none_or(|seen| seen == (1, 3)), "{seen:?}");
}
