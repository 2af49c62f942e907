use std::sync::Arc;

use redis::{Cmd, Value};

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

/// What an engine's error becomes on its way here.
fn error(line: &str) -> Value {
    redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).expect("an error is a value")
}

fn status(status: Status) -> Said {
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
        let mut pipeline = Pipeline::new();
        request(&wire).write(&mut pipeline);
        let mut expected = Cmd::new();
        expected.arg(words[0]).arg("dc:a\r\n");
        for word in &words[1..] {
            expected.arg(word);
        }
        assert_eq!(pipeline.get_packed_pipeline(), expected.get_packed_command(), "{words:?}");
    }
}

#[test]
fn the_engines_answers_are_those_of_a_server() {
    let (get, have, remove) = (bytes::get(1, b"a"), bytes::have(1, b"a"), bytes::remove(1, b"a"));
    let (add, add_0) = (bytes::add_for(1, 7, b"a", b"s"), bytes::add_for(1, 0, b"a", b"s"));
    let session = |bytes: &[u8]| Said::Reply(Reply::Session(bytes.to_vec()));
    let string = |bytes: &[u8]| Value::BulkString(bytes.to_vec());
    let cases = [
        (&get, string(b"s\0"), session(b"s\0")),
        (&get, Value::Nil, status(Status::NOT_OK)),
        (&take(), string(b"s"), session(b"s")),
        (&take(), Value::Nil, status(Status::NOT_OK)),
        (&have, Value::Int(7), status(Status::OK)),
        (&have, Value::Int(0), status(Status::NOT_OK)),
        (&remove, Value::Int(1), status(Status::OK)),
        (&remove, Value::Int(0), status(Status::NOT_OK)),
        (&add, Value::Okay, status(Status::OK)),
        (&add, Value::Nil, status(Status::ADD_EXISTS)),
        (&add, error("OOM command not allowed"), status(Status::NOT_OK)),
        (&add_0, Value::Int(0), status(Status::OK)),
        (&add_0, Value::Int(1), status(Status::ADD_EXISTS)),
        (&put(7, b"s"), Value::Okay, status(Status::OK)),
        (&put(0, b"s"), Value::Int(0), status(Status::OK)),
        (&get, error("MOVED 3999 127.0.0.1:6381"), Said::Moved("127.0.0.1:6381".into())),
        (&get, error("ASK 3999 ::1:6381"), Said::Ask("::1:6381".into())),
        (&add, error("READONLY You can't write"), Said::ReadOnly),
        (
            &get,
            error("CLUSTERDOWN The cluster is down"),
            Said::Unable("CLUSTERDOWN The cluster is down".into()),
        ),
        (&get, error("LOADING Redis is loading"), Said::Unable("LOADING Redis is loading".into())),
        (&get, error("NOPERM this user"), Said::Unable("NOPERM this user".into())),
        (&get, error("ERR something new"), Said::Unable("ERR something new".into())),
    ];
    for (wire, value, said) in cases {
        assert_eq!(request(wire).hear(value.clone()), said, "{value:?}");
    }
}

#[test]
fn what_is_no_session_is_a_miss_and_counted() {
    let (get, have) = (bytes::get(1, b"a"), bytes::have(1, b"a"));
    let string = |len: usize| Value::BulkString(vec![7; len]);
    // With an id of one byte a session of 32768 - 8 - 1 bytes is the longest.
    let wrong_type = || error("WRONGTYPE Operation against a key");
    let cases = [
        (&get, string(32_760), Status::NOT_OK),
        (&get, string(0), Status::NOT_OK),
        (&get, Value::Int(1), Status::NOT_OK),
        (&get, Value::Okay, Status::NOT_OK),
        (&get, Value::Array(vec![Value::Nil]), Status::NOT_OK),
        (&get, wrong_type(), Status::NOT_OK),
        (&get, error("OVERSIZE value"), Status::NOT_OK),
        (&take(), wrong_type(), Status::NOT_OK),
        (&have, Value::Int(32_760), Status::NOT_OK),
        (&have, Value::Int(-1), Status::NOT_OK),
        (&have, wrong_type(), Status::NOT_OK),
        (&put(7, b"s"), Value::Nil, Status::DISCONNECTED),
    ];
    for (wire, value, said) in cases {
        let request = request(wire);
        assert_eq!(request.hear(value.clone()), status(said), "{value:?}");
        assert_eq!(request.shared.counters.foreign.get(), 1, "{value:?}");
    }
    let longest = Value::BulkString(vec![7; 32_759]);
    assert_eq!(request(&get).hear(longest), Said::Reply(Reply::Session(vec![7; 32_759])));
    assert_eq!(request(&have).hear(Value::Int(32_759)), status(Status::OK));
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
    assert_eq!(answer.try_recv(), Ok(Reply::Status(Status::DISCONNECTED)));
    assert_eq!(shared.counters.unavailable.get(), 1);
}
