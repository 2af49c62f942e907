//! A server that stands still, and is left alone for a while.

use super::*;

/// Longer than any test takes.
const PAUSE: Duration = Duration::from_secs(3600);

/// A server that answers nothing before `well` is set, and a client that has waited for it in vain.
fn paused(pause: Duration) -> (Server, Arc<AtomicBool>, Client) {
    let well = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&well);
    let server = Server::new(move |_, peer| {
        while let Some((header, _)) = peer.request() {
            if theirs.load(Ordering::SeqCst) {
                peer.answer(&header, &[0]);
            }
        }
    });
    let client = Client::with_timeout(&server.address, Flags::NONE, SHORT).unwrap();
    client.set_pause(pause);
    assert_eq!(client.pause(), pause);
    let failure = client.has(id(b"a")).unwrap_err();
    assert!(matches!(failure.kind(), FailureKind::TimedOut), "{failure}");
    seen(&server, 1);
    (server, well, client)
}

/// Waits until a request of each of so many connections has arrived, though its client has left.
fn seen(server: &Server, connections: usize) {
    while (server.connections(), server.requests()) != (connections, connections) {
        thread::yield_now();
    }
}

fn left_alone<T>(result: Result<T, Failure>) -> bool {
    result.err().is_some_and(|failure| {
        failure.is_timeout() && matches!(failure.kind(), FailureKind::LeftAlone)
    })
}

fn not_stored(result: Result<(), AddError>) -> bool {
    match result {
        Err(AddError::Failed(failure)) => left_alone::<()>(Err(failure)),
        _ => false,
    }
}

#[test]
fn after_a_timeout_every_operation_fails_at_once_and_the_server_is_not_asked() {
    let (server, well, client) = paused(PAUSE);
    well.store(true, Ordering::SeqCst);
    client.set_timeout(LONG);
    for _ in 0..100 {
        assert!(left_alone(client.has(id(b"a"))) && left_alone(client.get(id(b"a"))));
        assert!(left_alone(client.take(id(b"a"))) && left_alone(client.remove(id(b"a"))));
        assert!(not_stored(client.add(1, id(b"a"), b"session")));
        assert!(not_stored(client.put(1, id(b"a"), b"session")));
    }
    client.set_pause(PAUSE);
    assert!(client.has(id(b"a")).unwrap(), "setting it ends it");
    assert!(client.has(id(b"a")).unwrap());
    seen(&server, 3);
}

#[test]
fn when_the_pause_is_over_the_server_is_asked_again_and_then_by_everybody() {
    let (_server, well, client) = paused(Duration::from_millis(1));
    well.store(true, Ordering::SeqCst);
    client.set_timeout(LONG);
    let has = || client.has(id(b"a"));
    while left_alone(has()) {
        thread::yield_now();
    }
    thread::scope(|scope| {
        let threads = [(); 4].map(|()| scope.spawn(has));
        assert!(threads.into_iter().all(|thread| thread.join().unwrap().unwrap()));
    });
}

#[test]
fn what_is_never_sent_is_not_what_asks_again() {
    let pause = Duration::from_millis(1);
    let (_server, well, client) = paused(pause);
    well.store(true, Ordering::SeqCst);
    client.set_timeout(LONG);
    thread::sleep(2 * pause);
    let long = [0; distcache_core::wire::PAYLOAD_MAX];
    assert!(matches!(client.add(1, id(b"a"), &long), Err(AddError::TooLarge)));
    assert!(matches!(client.put(1, id(b"a"), &long), Err(AddError::TooLarge)));
    assert!(client.has(id(b"a")).unwrap(), "the first that is sent asks again");
}

#[test]
fn without_a_pause_every_operation_waits_for_itself() {
    let (server, _well, client) = paused(Duration::ZERO);
    let failure = client.has(id(b"a")).unwrap_err();
    assert!(matches!(failure.kind(), FailureKind::TimedOut), "{failure}");
    seen(&server, 2);
}

#[test]
fn only_a_deadline_begins_a_pause() {
    let nobody = Dir::new();
    let address: Address = format!("UNIX:{}", nobody.join("socket").display()).parse().unwrap();
    let client = Client::new(&address, Flags::NONE).unwrap();
    client.set_pause(PAUSE);
    for _ in 0..2 {
        let failure = client.has(id(b"a")).unwrap_err();
        assert!(matches!(failure.kind(), FailureKind::NotConnected(_)), "{failure}");
    }
}
