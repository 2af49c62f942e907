//! A gateway in front of a hostile engine.
//!
//! Whatever the engine replies, the answers are misses or status 2, and the gateway keeps serving.

mod rig;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use distcache_testing::bytes::{ADD, GET, HAVE, REMOVE, add, get, have, remove, session, status};
use distcache_testing::process::{Dir, Signal, until};
use distcache_testing::raw_client::RawClient;

use rig::{gateway, number};

/// Starts an engine that replies to each command with what `reply` makes of its words.
fn engine(reply: impl Fn(&[String]) -> Vec<u8> + Send + Sync + Clone + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its number").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, reply) = (stream.expect("a connection"), reply.clone());
            std::thread::spawn(move || serve(&stream, &reply));
        }
    });
    format!("redis://127.0.0.1:{port}")
}

/// Replies to commands until the connection ends. An empty reply ends it.
fn serve(stream: &TcpStream, reply: &impl Fn(&[String]) -> Vec<u8>) -> Option<()> {
    let mut input = BufReader::new(stream);
    loop {
        let words = (0..number_of(&mut input)?).map(|_| {
            let mut word = vec![0; number_of(&mut input)? + 2];
            input.read_exact(&mut word).ok()?;
            word.truncate(word.len() - 2);
            Some(String::from_utf8_lossy(&word).into_owned())
        });
        let words: Vec<String> = words.collect::<Option<_>>()?;
        let bytes = match words[0].as_str() {
            "PING" => b"+PONG\r\n".to_vec(),
            _ => reply(&words),
        };
        if bytes.is_empty() {
            return None;
        }
        (&*stream).write_all(&bytes).ok()?;
    }
}

fn number_of(input: &mut impl BufRead) -> Option<usize> {
    let mut line = String::new();
    input.read_line(&mut line).ok().filter(|&len| len > 0)?;
    line.trim_end()[1..].parse().ok()
}

/// Starts an engine without a cluster that replies to every request with `reply`.
fn single(reply: &'static [u8]) -> String {
    engine(move |words| match words[0].as_str() {
        "CLUSTER" => b"-ERR This instance has cluster support disabled\r\n".to_vec(),
        "ROLE" => b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n".to_vec(),
        _ => reply.to_vec(),
    })
}

#[test]
fn an_invalid_reply_is_a_miss_or_an_unreachable_server() {
    let long = [b"$100000\r\n", &[7_u8; 100_000][..], b"\r\n"].concat().leak();
    let cases: [(&'static [u8], u8, u8); 9] = [
        // The reply of the engine, and the answers to GET and ADD.
        (b":1\r\n", 1, 2),
        (b"+QUEUED\r\n", 1, 2),
        (b"*1\r\n$1\r\na\r\n", 1, 2),
        (b"$0\r\n\r\n", 1, 2),
        (long, 1, 2),
        (b"-WRONGTYPE Operation against a key\r\n", 1, 2),
        (b"-ERR unknown command\r\n", 2, 2),
        (b"-MOVED 1 nowhere\r\n", 2, 2),
        (b"-ASK\r\n", 2, 2),
    ];
    for (reply, to_get, to_add) in cases {
        let dir = Dir::new();
        let (program, address) = gateway(&dir, &single(reply), &[]);
        let client = RawClient::connect(&address);
        for uid in 0..3 {
            assert_eq!(client.ask(&get(uid, b"a")), status(uid, GET, to_get));
            assert_eq!(client.ask(&add(uid, b"a", b"session")), status(uid, ADD, to_add));
        }
        let err = program.end(Signal::TERM).err;
        let foreign = number(&err, " foreign values");
        assert_eq!(foreign, if to_get == 1 { 6 } else { 0 }, "{err}");
    }
}

#[test]
fn a_reply_that_is_not_resp_costs_only_the_connection() {
    // The last one closes without a reply.
    for reply in [&b"HTTP/1.1 400 Bad Request\r\n"[..], b"$x\r\n", b"*99999999\r\n", b"\r\n", b""] {
        let dir = Dir::new();
        let (program, address) = gateway(&dir, &single(reply), &[]);
        let client = RawClient::connect(&address);
        for uid in 0..5 {
            assert_eq!(client.ask(&have(uid, b"a")), status(uid, HAVE, 2));
            assert_eq!(client.ask(&remove(uid, b"a")), status(uid, REMOVE, 2));
        }
        let err = program.end(Signal::TERM).err;
        assert!(number(&err, " connections lost") >= 2, "{err}");
    }
}

#[test]
fn a_silent_engine_is_answered_for_at_the_deadline() {
    // An incomplete reply.
    let dir = Dir::new();
    let (program, address) = gateway(&dir, &single(b"$9\r\nhalf"), &["-deadline", "100"]);
    let client = RawClient::connect(&address);
    assert_eq!(client.ask(&get(1, b"a")), status(1, GET, 2));
    // The connection is abandoned: the next request does not wait.
    until("answers at once", || (client.ask(&get(2, b"a")) == status(2, GET, 2)).then_some(()));
    let err = program.end(Signal::TERM).err;
    assert!(number(&err, " timed out") >= 1, "{err}");
}

#[test]
fn redirections_in_a_circle_end() {
    for kind in ["MOVED", "ASK"] {
        let url = engine(move |words| match words[0].as_str() {
            "CLUSTER" => b"-ERR This instance has cluster support disabled\r\n".to_vec(),
            "ROLE" => b"*1\r\n$6\r\nmaster\r\n".to_vec(),
            "ASKING" => b"+OK\r\n".to_vec(),
            _ if words[1].ends_with("good") => b"$7\r\nsession\r\n".to_vec(),
            // Nothing listens on port 1.
            _ if words[1].ends_with("nowhere") => format!("-{kind} 1 127.0.0.1:1\r\n").into_bytes(),
            // The id is the port of this engine.
            _ => format!("-{kind} 1 127.0.0.1:{}\r\n", &words[1][3..]).into_bytes(),
        });
        let port = url.rsplit(':').next().expect("a port").to_owned();
        let dir = Dir::new();
        let (program, address) = gateway(&dir, &url, &[]);
        let client = RawClient::connect(&address);
        assert_eq!(client.ask(&get(1, port.as_bytes())), status(1, GET, 2));
        assert_eq!(client.ask(&get(2, b"nowhere")), status(2, GET, 2));
        assert_eq!(client.ask(&get(3, b"good")), session(3, b"session"));
        program.end(Signal::TERM);
    }
}
