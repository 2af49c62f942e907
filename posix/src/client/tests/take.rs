//! TAKE, while connections break or memory runs out.

use std::cell::RefCell;
use std::sync::mpsc;

use super::*;

/// A server with a store that executes the first `unanswered` request and then hangs up instead of
/// answering it.
fn hangs_up_once(level: u16, unanswered: Op) -> Server {
    let store = Mutex::new(HashMap::new());
    let due = AtomicBool::new(true);
    Server::new(move |_, peer| {
        peer.level = level;
        while let Some((header, payload)) = peer.request() {
            assert!(header.op.level() <= level);
            let answer = stored(&mut store.lock().unwrap(), header.op, &payload);
            if header.op == unanswered && due.swap(false, Ordering::SeqCst) {
                return;
            }
            peer.answer(&header, &answer);
        }
    })
}

#[test]
fn a_session_lost_with_its_connection_is_a_failure_and_not_a_miss() {
    for (level, op) in [(1, Op::Take), (0, Op::Remove)] {
        for kind in 0..3 {
            let server = hangs_up_once(level, op);
            let client = &server.clients()[kind];
            client.put(id(b"a"), b"a session", TTL).unwrap();
            let failure = client.take(id(b"a")).unwrap_err();
            assert!(failure.kind().is_broken_connection(), "kind {kind}: {failure}");
            assert_eq!(client.take(id(b"a")).unwrap(), None, "a second answer is certain");
        }
    }
}

#[test]
fn a_take_that_the_server_did_not_execute_is_made_again() {
    let (store, due) = (Mutex::new(HashMap::new()), AtomicBool::new(true));
    let server = Server::new(move |_, peer| {
        while let Some((header, payload)) = peer.request() {
            if header.op == Op::Take && due.swap(false, Ordering::SeqCst) {
                return;
            }
            let answer = stored(&mut store.lock().unwrap(), header.op, &payload);
            peer.answer(&header, &answer);
        }
    });
    let client = server.client();
    client.put(id(b"a"), b"a session", TTL).unwrap();
    assert_eq!(client.take(id(b"a")).unwrap().as_deref(), Some(&b"a session"[..]));
}

/// Takes a session when it is dropped, at the end of its thread.
struct Last(Option<(Arc<Client>, mpsc::Sender<Taken>)>);

type Taken = Option<Vec<u8>>;

impl Drop for Last {
    fn drop(&mut self) {
        if let Some((client, taken)) = self.0.take() {
            taken.send(client.take(id(b"a")).unwrap()).unwrap();
        }
    }
}

#[test]
fn a_thread_can_take_a_session_while_its_thread_locals_are_destroyed() {
    thread_local! {
        static LAST: RefCell<Last> = const { RefCell::new(Last(None)) };
    }
    let server = Server::at_level(0);
    let client = Arc::new(server.client());
    client.put(id(b"a"), b"a session", TTL).unwrap();
    let (sender, taken) = mpsc::channel();
    let theirs = Arc::clone(&client);
    let thread = thread::spawn(move || {
        LAST.with(|last| last.borrow_mut().0 = Some((Arc::clone(&theirs), sender)));
        // A thread-local that this call may create is destroyed before `Last`.
        theirs.get(id(b"a")).unwrap();
    });
    thread.join().unwrap();
    assert_eq!(taken.recv().unwrap().as_deref(), Some(&b"a session"[..]));
}
