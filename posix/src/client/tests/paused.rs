//! The pause after a timeout.

use super::*;

/// Longer than any test takes.
const PAUSE: Duration = Duration::from_secs(3600);

/// A server that answers nothing until `well` is set, and a client after its first timeout.
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
    let client = server.builder().connection_per_operation().timeout(SHORT).build().unwrap();
    client.set_pause(pause);
    assert_eq!(client.pause(), pause);
    let failure = client.has(id(b"a")).unwrap_err();
    assert!(matches!(failure.kind(), FailureKind::TimedOut), "{failure}");
    wait_for_requests(&server, 1);
    (server, well, client)
}

/// Waits until this many connections have each sent a request.
fn wait_for_requests(server: &Server, connections: usize) {
    while (server.connections(), server.requests()) != (connections, connections) {
        thread::yield_now();
    }
}

fn is_paused<T>(result: Result<T, Failure>) -> bool {
    result.err().is_some_and(|failure| {
        failure.is_timeout() && matches!(failure.kind(), FailureKind::Paused)
    })
}

fn is_add_paused(result: Result<(), AddError>) -> bool {
    match result {
        Err(AddError::Failed(failure)) => is_paused::<()>(Err(failure)),
        _ => false,
    }
}

#[test]
fn during_a_pause_every_operation_fails_at_once_and_sends_nothing() {
    let (server, well, client) = paused(PAUSE);
    well.store(true, Ordering::SeqCst);
    client.set_timeout(LONG);
    for _ in 0..100 {
        assert!(is_paused(client.has(id(b"a"))) && is_paused(client.get(id(b"a"))));
        assert!(is_paused(client.take(id(b"a"))) && is_paused(client.remove(id(b"a"))));
        assert!(is_add_paused(client.add(id(b"a"), b"session", TTL)));
        assert!(is_add_paused(client.put(id(b"a"), b"session", TTL)));
    }
    client.set_pause(PAUSE);
    assert!(client.has(id(b"a")).unwrap(), "setting the pause ends it");
    assert!(client.has(id(b"a")).unwrap());
    wait_for_requests(&server, 3);
}

#[test]
fn after_a_pause_one_operation_tries_the_server_and_then_all_do() {
    let (_server, well, client) = paused(Duration::from_millis(1));
    well.store(true, Ordering::SeqCst);
    client.set_timeout(LONG);
    let has = || client.has(id(b"a"));
    while is_paused(has()) {
        thread::yield_now();
    }
    thread::scope(|scope| {
        let threads = [(); 4].map(|()| scope.spawn(has));
        assert!(threads.into_iter().all(|thread| thread.join().unwrap().unwrap()));
    });
}

#[test]
fn a_session_that_is_never_sent_does_not_end_a_pause() {
    let pause = Duration::from_millis(1);
    let (_server, well, client) = paused(pause);
    well.store(true, Ordering::SeqCst);
    client.set_timeout(LONG);
    // No event tells the end of a pause, and to ask would end it.
    thread::sleep(2 * pause);
    let long = [0; distcache_core::wire::PAYLOAD_MAX];
    let ttl = Duration::from_millis(1);
    assert!(matches!(client.add(id(b"a"), &long, ttl), Err(AddError::TooLarge)));
    assert!(matches!(client.put(id(b"a"), &long, ttl), Err(AddError::TooLarge)));
    assert!(client.has(id(b"a")).unwrap(), "the first that is sent asks again");
}

#[test]
fn without_a_pause_every_operation_waits_for_its_own_timeout() {
    let (server, _well, client) = paused(Duration::ZERO);
    let failure = client.has(id(b"a")).unwrap_err();
    assert!(matches!(failure.kind(), FailureKind::TimedOut), "{failure}");
    wait_for_requests(&server, 2);
}

#[test]
fn only_a_timeout_begins_a_pause() {
    let nobody = Dir::new();
    let address: Address = format!("UNIX:{}", nobody.join("socket").display()).parse().unwrap();
    let client = Client::connect(address).unwrap();
    client.set_pause(PAUSE);
    for _ in 0..2 {
        let failure = client.has(id(b"a")).unwrap_err();
        assert!(matches!(failure.kind(), FailureKind::Connect(_)), "{failure}");
    }
}
