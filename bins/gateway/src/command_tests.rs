use std::sync::Arc;

use super::*;
use crate::counters::Counters;
use crate::engine::Load;
use crate::parts::Direction;
use distcache_testing::bytes::{self, PUT, TAKE, add_payload, at_level, message};

fn shared() -> Rc<Shared> {
    let counters: Arc<Counters> = Arc::default();
    Rc::new(Shared { counters, load: Load::new(100), held: Held::new(None) })
}

fn read(wire: &[u8], shared: &Rc<Shared>) -> Asked {
    let mut wire = wire.to_vec();
    let message = Message::measure(&wire, Direction::Request).expect("lawful").expect("whole");
    Request::read(&message, &mut wire, Instant::now(), shared)
}

fn request(wire: &[u8]) -> Box<Request> {
    match read(wire, &shared()) {
        Asked::Engine(request) => request,
        Asked::Nobody(_) | Asked::Malformed => panic!("a request for the engine"),
    }
}

fn put(ttl: u32, session: &[u8]) -> Vec<u8> {
    at_level(1, message(0, 1, PUT, &add_payload(ttl, b"a\r\n", session)))
}

fn take() -> Vec<u8> {
    at_level(1, message(0, 1, TAKE, b"a\r\n"))
}

fn status(status: Status) -> Said<'static> {
    Said::Reply(Reply::Status(status))
}

#[test]
fn each_request_is_the_command_that_does_the_same() {
    let cases: [(Vec<u8>, &[&str]); 8] = [
        (bytes::get(1, b"a\r\n"), &["GET"]),
        (take(), &["GETDEL"]),
        (bytes::have(1, b"a\r\n"), &["STRLEN"]),
        (bytes::remove(1, b"a\r\n"), &["UNLINK"]),
        (bytes::add_for(1, 0, b"a\r\n", b"s\0"), &["EXISTS"]),
        (put(0, b"s\0"), &["UNLINK"]),
        (bytes::add_for(1, 7, b"a\r\n", b"s\0"), &["SET", "s\0", "NX", "PX", "7"]),
        (put(604_800_000, b"s\0"), &["SET", "s\0", "PX", "604800000"]),
    ];
    for (wire, words) in cases {
        let mut out = Vec::new();
        request(&wire).write(&mut out);
        let mut expected = redis::Cmd::new();
        expected.arg(words[0]).arg("dc:a\r\n");
        for word in &words[1..] {
            expected.arg(word);
        }
        assert_eq!(out, expected.get_packed_command(), "{words:?}");
    }
}

#[test]
fn the_engines_answers_are_those_of_a_server() {
    let (get, have, remove) = (bytes::get(1, b"a"), bytes::have(1, b"a"), bytes::remove(1, b"a"));
    let (add, add_0) = (bytes::add_for(1, 7, b"a", b"s"), bytes::add_for(1, 0, b"a", b"s"));
    let session = |bytes: &'static [u8]| Said::Reply(Reply::Session(bytes));
    let string = |bytes: &'static [u8]| Answer::Bulk(bytes);
    let error = Answer::Error;
    let cases = [
        (&get, string(b"s\0"), session(b"s\0")),
        (&get, Answer::Nil, status(Status::NOT_OK)),
        (&take(), string(b"s"), session(b"s")),
        (&take(), Answer::Nil, status(Status::NOT_OK)),
        (&have, Answer::Int(7), status(Status::OK)),
        (&have, Answer::Int(0), status(Status::NOT_OK)),
        (&remove, Answer::Int(1), status(Status::OK)),
        (&remove, Answer::Int(0), status(Status::NOT_OK)),
        (&add, Answer::Okay, status(Status::OK)),
        (&add, Answer::Nil, status(Status::ADD_EXISTS)),
        (&add, error("OOM command not allowed"), status(Status::NOT_OK)),
        (&add_0, Answer::Int(0), status(Status::OK)),
        (&add_0, Answer::Int(1), status(Status::ADD_EXISTS)),
        (&put(7, b"s"), Answer::Okay, status(Status::OK)),
        (&put(0, b"s"), Answer::Int(0), status(Status::OK)),
        (&get, error("MOVED 3999 127.0.0.1:6381"), Said::Moved("127.0.0.1:6381")),
        (&get, error("ASK 3999 ::1:6381"), Said::Ask("::1:6381")),
        (&add, error("READONLY You can't write"), Said::ReadOnly),
        (
            &get,
            error("CLUSTERDOWN The cluster is down"),
            Said::Unable("CLUSTERDOWN The cluster is down"),
        ),
        (&get, error("LOADING Redis is loading"), Said::Unable("LOADING Redis is loading")),
        (&get, error("NOPERM this user"), Said::Unable("NOPERM this user")),
        (&get, error("ERR something new"), Said::Unable("ERR something new")),
    ];
    for (wire, value, said) in cases {
        assert_eq!(request(wire).hear(value), said, "{value:?}");
    }
}

#[test]
fn what_is_no_session_is_a_miss_and_counted() {
    let (get, have) = (bytes::get(1, b"a"), bytes::have(1, b"a"));
    let long = vec![7; 32_760];
    let string = |len: usize| Answer::Bulk(&long[..len]);
    // With an id of one byte a session of 32768 - 8 - 1 bytes is the longest.
    let error = Answer::Error;
    let wrong_type = || error("WRONGTYPE Operation against a key");
    let cases = [
        (&get, string(32_760), Status::NOT_OK),
        (&get, string(0), Status::NOT_OK),
        (&get, Answer::Int(1), Status::NOT_OK),
        (&get, Answer::Okay, Status::NOT_OK),
        (&get, Answer::Other, Status::NOT_OK),
        (&get, wrong_type(), Status::NOT_OK),
        (&get, Answer::Oversize, Status::NOT_OK),
        (&take(), wrong_type(), Status::NOT_OK),
        (&have, Answer::Int(32_760), Status::NOT_OK),
        (&have, Answer::Int(-1), Status::NOT_OK),
        (&have, wrong_type(), Status::NOT_OK),
        (&put(7, b"s"), Answer::Nil, Status::DISCONNECTED),
    ];
    for (wire, value, said) in cases {
        let request = request(wire);
        assert_eq!(request.hear(value), status(said), "{value:?}");
        assert_eq!(request.shared.counters.foreign.get(), 1, "{value:?}");
    }
    let longest = &long[..32_759];
    assert_eq!(request(&get).hear(string(32_759)), Said::Reply(Reply::Session(longest)));
    assert_eq!(request(&have).hear(Answer::Int(32_759)), status(Status::OK));
}

#[test]
fn what_no_engine_needs_to_be_asked_is_answered_at_once() {
    let shared = shared();
    let asked = |wire: &[u8]| match read(wire, &shared) {
        Asked::Nobody(Reply::Status(status)) => Some(status.0),
        Asked::Malformed => None,
        Asked::Nobody(Reply::Session(_)) | Asked::Engine(_) => panic!("nothing for the engine"),
    };
    assert_eq!(asked(&bytes::get(1, &[7; 65])), Some(1));
    assert_eq!(asked(&bytes::remove(1, b"")), Some(1));
    assert_eq!(asked(&bytes::add_for(1, 604_800_001, b"a", b"s")), Some(102));
    assert_eq!(asked(&bytes::add_for(1, 7, b"a", b"")), Some(100));
    assert_eq!(asked(&bytes::add_for(1, 7, &[7; 65], b"s")), Some(103));
    assert_eq!(asked(&message(0, 1, bytes::ADD, &[0; 7])), None);
}

#[test]
fn a_request_that_is_dropped_is_answered_all_the_same() {
    let shared = shared();
    let (sender, mut answer) = oneshot::channel();
    let Asked::Engine(request) = read(&bytes::get(1, b"a"), &shared) else { panic!("a request") };
    let request = request.asked_by(Asker::Once(sender));
    drop(request);
    assert_eq!(answer.try_recv(), Ok(Owned::Status(Status::DISCONNECTED)));
    assert_eq!(shared.counters.unavailable.get(), 1);
}
