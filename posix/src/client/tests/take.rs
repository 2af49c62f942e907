//! Sessions that are taken, and the connection that breaks or the memory that is not there meanwhile.

use std::cell::RefCell;
use std::sync::mpsc;

use super::*;

/// A server with a store that hangs up instead of answering the first request that is one of `unanswered`,
/// after it has done what that asks for.
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
fn a_session_that_was_lost_with_its_connection_is_a_failure_and_no_miss() {
    for (level, op) in [(1, Op::Take), (0, Op::Remove)] {
        for flags in [Flags::NONE, Flags::PERSISTENT, Flags::PERSISTENT | Flags::RETRY] {
            let server = hangs_up_once(level, op);
            let client = server.client(flags);
            client.put(1000, id(b"a"), b"a session").unwrap();
            let failure = client.take(id(b"a")).unwrap_err();
            assert!(failure.kind().is_network(), "{flags:?}: {failure}");
            assert_eq!(client.take(id(b"a")).unwrap(), None, "now it is known to be gone");
        }
    }
}

#[test]
fn a_take_that_never_arrived_is_made_again() {
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
    let client = server.client(Flags::PERSISTENT);
    client.put(1000, id(b"a"), b"a session").unwrap();
    assert_eq!(client.take(id(b"a")).unwrap().as_deref(), Some(&b"a session"[..]));
}

/// Takes a session when its thread ends.
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
fn a_thread_that_ends_and_has_no_memory_of_its_own_any_more_loses_no_session() {
    thread_local! {
        static LAST: RefCell<Last> = const { RefCell::new(Last(None)) };
    }
    let server = Server::at_level(0);
    let client = Arc::new(server.client(Flags::PERSISTENT));
    client.put(1000, id(b"a"), b"a session").unwrap();
    let (sender, taken) = mpsc::channel();
    let theirs = Arc::clone(&client);
    let thread = thread::spawn(move || {
        LAST.with(|last| last.borrow_mut().0 = Some((Arc::clone(&theirs), sender)));
        // What this may keep for the thread is gone before the session is taken.
        theirs.get(id(b"a")).unwrap();
    });
    thread.join().unwrap();
    assert_eq!(taken.recv().unwrap().as_deref(), Some(&b"a session"[..]));
}
