use super::*;
use crate::counters::Counters;
use crate::engine::InFlight;
use distcache_core::wire::Direction;
use distcache_testing::bytes::{self, FETCH, PUT, TAKE, add_payload, at_level, message};

fn shared() -> Rc<Shared> {
    let counters: Arc<Counters> = Arc::default();
    Shared::new(counters, InFlight::new(100), Held::new(None))
}

fn parse(wire: &[u8], shared: &Rc<Shared>) -> Parsed {
    let mut wire = wire.to_vec();
    let message = Message::measure(&wire, Direction::Request).expect("valid").expect("complete");
    Request::parse(&message, &mut wire, Instant::now(), shared)
}

fn request(wire: &[u8]) -> Box<Request> {
    match parse(wire, &shared()) {
        Parsed::Command(request) => request,
        Parsed::Reply(_) | Parsed::Malformed => panic!("a request for the engine"),
    }
}

fn put(ttl: u32, session: &[u8]) -> Vec<u8> {
    at_level(1, message(0, 1, PUT, &add_payload(ttl, b"a\r\n", session)))
}

fn take() -> Vec<u8> {
    at_level(1, message(0, 1, TAKE, b"a\r\n"))
}

fn status(status: Status) -> Outcome<'static> {
    Outcome::Reply(Reply::Status(status))
}

#[test]
fn each_request_becomes_its_command() {
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
fn a_fetch_is_two_commands_and_two_replies() {
    let fetch = at_level(2, message(0, 1, FETCH, b"a"));
    let (asking, pttl) = ("*1\r\n$6\r\nASKING\r\n", "*2\r\n$4\r\nPTTL\r\n$4\r\ndc:a\r\n");
    let get = "*2\r\n$3\r\nGET\r\n$4\r\ndc:a\r\n";
    let mut redirected = request(&fetch);
    redirected.asking = true;
    for (request, later, commands) in
        [(request(&fetch), 1, [pttl, get].concat()), (redirected, 2, [pttl, asking, get].concat())]
    {
        let mut out = Vec::new();
        request.write(&mut out);
        assert_eq!((request.later_replies(), out), (later, commands.into_bytes()));
    }
    let session = RespValue::Bulk(b"session");
    let found = |ttl| Outcome::Reply(Reply::Fetched(ttl, b"session"));
    let missing = Outcome::Reply(Reply::Missing);
    for (pttl, value, outcome) in [
        (7, session, found(7)),
        (0, session, found(0)),
        (i64::MAX, session, found(604_800_000)),
        (-1, session, found(604_800_000)),
        (-2, session, missing),
        (7, RespValue::Nil, Outcome::Reply(Reply::Missing)),
        (7, RespValue::Error("WRONGTYPE"), Outcome::Reply(Reply::Missing)),
        (7, RespValue::Error("MOVED 1 a:1"), Outcome::Moved("a:1")),
    ] {
        let mut request = request(&fetch);
        assert!(request.take_first(RespValue::Int(pttl)), "waits for the session");
        assert_eq!(request.outcome(value), outcome, "{pttl} {value:?}");
        // Sent again, it waits for both replies again.
        request.restart();
        assert!(request.take_first(RespValue::Int(1)));
    }
    // An error instead of the lifetime decides.
    assert!(!request(&fetch).take_first(RespValue::Error("MOVED 1 a:1")));
}

#[test]
fn replies_of_the_engine_become_the_answers_of_a_server() {
    let (get, have, remove) = (bytes::get(1, b"a"), bytes::have(1, b"a"), bytes::remove(1, b"a"));
    let (add, add_0) = (bytes::add_for(1, 7, b"a", b"s"), bytes::add_for(1, 0, b"a", b"s"));
    let session = |bytes: &'static [u8]| Outcome::Reply(Reply::Session(bytes));
    let string = |bytes: &'static [u8]| RespValue::Bulk(bytes);
    let error = RespValue::Error;
    let cases = [
        (&get, string(b"s\0"), session(b"s\0")),
        (&get, RespValue::Nil, status(Status::NOT_OK)),
        (&take(), string(b"s"), session(b"s")),
        (&take(), RespValue::Nil, status(Status::NOT_OK)),
        (&have, RespValue::Int(7), status(Status::OK)),
        (&have, RespValue::Int(0), status(Status::NOT_OK)),
        (&remove, RespValue::Int(1), status(Status::OK)),
        (&remove, RespValue::Int(0), status(Status::NOT_OK)),
        (&add, RespValue::Okay, status(Status::OK)),
        (&add, RespValue::Nil, status(Status::ADD_EXISTS)),
        (&add, error("OOM command not allowed"), status(Status::NOT_OK)),
        (&add_0, RespValue::Int(0), status(Status::OK)),
        (&add_0, RespValue::Int(1), status(Status::ADD_EXISTS)),
        (&put(7, b"s"), RespValue::Okay, status(Status::OK)),
        (&put(0, b"s"), RespValue::Int(0), status(Status::OK)),
        (&get, error("MOVED 3999 127.0.0.1:6381"), Outcome::Moved("127.0.0.1:6381")),
        (&get, error("ASK 3999 ::1:6381"), Outcome::Ask("::1:6381")),
        (&add, error("READONLY You can't write"), Outcome::ReadOnly),
        (
            &get,
            error("CLUSTERDOWN The cluster is down"),
            Outcome::Unavailable("CLUSTERDOWN The cluster is down"),
        ),
        (&get, error("LOADING Redis is loading"), Outcome::Unavailable("LOADING Redis is loading")),
        (&get, error("NOPERM this user"), Outcome::Unavailable("NOPERM this user")),
        (&get, error("ERR something new"), Outcome::Unavailable("ERR something new")),
    ];
    for (wire, value, outcome) in cases {
        assert_eq!(request(wire).outcome(value), outcome, "{value:?}");
    }
}

#[test]
fn a_value_that_is_not_a_session_is_a_miss_and_counted() {
    let (get, have) = (bytes::get(1, b"a"), bytes::have(1, b"a"));
    let long = vec![7; 32_760];
    let string = |len: usize| RespValue::Bulk(&long[..len]);
    // With an id of one byte a session of 32768 - 8 - 1 bytes is the longest.
    let error = RespValue::Error;
    let wrong_type = || error("WRONGTYPE Operation against a key");
    let cases = [
        (&get, string(32_760), Status::NOT_OK),
        (&get, string(0), Status::NOT_OK),
        (&get, RespValue::Int(1), Status::NOT_OK),
        (&get, RespValue::Okay, Status::NOT_OK),
        (&get, RespValue::Other, Status::NOT_OK),
        (&get, wrong_type(), Status::NOT_OK),
        (&get, RespValue::Oversize, Status::NOT_OK),
        (&take(), wrong_type(), Status::NOT_OK),
        (&have, RespValue::Int(32_760), Status::NOT_OK),
        (&have, RespValue::Int(-1), Status::NOT_OK),
        (&have, wrong_type(), Status::NOT_OK),
        (&put(7, b"s"), RespValue::Nil, Status::DISCONNECTED),
    ];
    for (wire, value, answer) in cases {
        let request = request(wire);
        assert_eq!(request.outcome(value), status(answer), "{value:?}");
        assert_eq!(request.shared.counters.foreign.get(), 1, "{value:?}");
    }
    let longest = &long[..32_759];
    assert_eq!(request(&get).outcome(string(32_759)), Outcome::Reply(Reply::Session(longest)));
    assert_eq!(request(&have).outcome(RespValue::Int(32_759)), status(Status::OK));
}

#[test]
fn a_request_that_needs_no_engine_is_answered_at_once() {
    let shared = shared();
    let answer = |wire: &[u8]| match parse(wire, &shared) {
        Parsed::Reply(Reply::Status(status)) => Some(status.0),
        Parsed::Malformed => None,
        Parsed::Reply(_) | Parsed::Command(_) => panic!("needs no engine"),
    };
    assert_eq!(answer(&bytes::get(1, &[7; 65])), Some(1));
    assert_eq!(answer(&bytes::remove(1, b"")), Some(1));
    assert_eq!(answer(&bytes::add_for(1, 604_800_001, b"a", b"s")), Some(102));
    assert_eq!(answer(&bytes::add_for(1, 7, b"a", b"")), Some(100));
    assert_eq!(answer(&bytes::add_for(1, 7, &[7; 65], b"s")), Some(103));
    assert_eq!(answer(&message(0, 1, bytes::ADD, &[0; 7])), None);
    let repair = |payload: &[u8]| answer(&at_level(2, message(0, 1, 7, payload)));
    let stamped = |ttl| [&[0; 8][..], &add_payload(ttl, b"a", b"session")].concat();
    assert_eq!(repair(&stamped(7)), Some(3));
    assert_eq!(repair(&stamped(604_800_001)), Some(102));
    assert_eq!(repair(&[0; 15]), None);
    assert_eq!(answer(&at_level(2, message(0, 1, 8, &[0, 0, 0, 0, 0, 0, 0, 99]))), Some(3));
    assert_eq!(answer(&at_level(2, message(0, 1, 8, &[0; 7]))), None);
}

#[test]
fn a_dropped_request_is_answered_with_status_2() {
    let shared = shared();
    let (sender, mut receiver) = oneshot::channel();
    let Parsed::Command(request) = parse(&bytes::get(1, b"a"), &shared) else {
        panic!("a request")
    };
    let request = request.with_reply_to(ReplyTo::Channel(sender));
    drop(request);
    assert_eq!(receiver.try_recv(), Ok(OwnedReply::Status(Status::DISCONNECTED)));
    assert_eq!(shared.counters.unavailable.get(), 1);
}
