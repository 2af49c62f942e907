//! A gateway in front of one server: its answers are those of a dc_server.

mod rig;

use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;

use distcache_testing::bytes::{
    ADD, FETCH, GET, HAVE, PUT, REMOVE, REPAIR, TAKE, add, add_for, add_payload, at_level, get,
    have, message, remove, session, status,
};
use distcache_testing::process::{Dir, Program, Signal, until};
use distcache_testing::raw_client::{ProgramUnderTest, RawClient, ask_until};
use distcache_testing::sessiond::{DatagramClient, key};
use distcache_testing::vectors::{lines, replay, replay_merged};

use rig::{Engine, dc_gateway, engines, gateway, number};

/// Runs a test with each kind of engine and a gateway in front of it.
fn with_each(test: &str, work: impl Fn(&Engine, &str)) {
    for name in engines(test) {
        let engine = Engine::start(&name, &[]);
        let dir = Dir::new();
        let (program, address) = gateway(&dir, &engine.url(), &[]);
        ask_until(&address, &have(1, b"nothing"), &status(1, HAVE, 1));
        work(&engine, &address);
        let ended = program.end(Signal::TERM);
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert_eq!(number(&ended.err, " timed out"), 0);
    }
}

fn put(uid: u32, id: &[u8], session: &[u8]) -> Vec<u8> {
    at_level(1, message(0, uid, PUT, &add_payload(60_000, id, session)))
}

fn take(uid: u32, id: &[u8]) -> Vec<u8> {
    at_level(1, message(0, uid, TAKE, id))
}

fn answer(uid: u32, op: u8, payload: &[u8]) -> Vec<u8> {
    at_level(1, message(1, uid, op, payload))
}

#[test]
fn the_reference_vectors_are_answered_as_the_original_answers_them() {
    with_each("the_reference_vectors", |engine, address| {
        let barrier = (have(99, b"the barrier"), status(99, HAVE, 1));
        for first in [None, Some(0), Some(1)] {
            engine.ask(&["flushall"]);
            let mut world = ProgramUnderTest { address, barrier: barrier.clone() };
            match first {
                None => replay(&mut world, lines()),
                Some(first) => replay_merged(&mut world, lines(), first),
            }
        }
    });
}

#[test]
fn requests_of_all_levels_cross_as_they_do_at_a_server() {
    with_each("requests_of_all_levels", |_, address| {
        let long = [8; 5000];
        let requests = [
            put(1, b"a", b"first"),
            put(2, b"a", &long),
            at_level(1, add(3, b"a", b"third")),
            take(4, b"a"),
            take(5, b"a"),
            at_level(1, get(6, b"a")),
            take(7, &[9; 65]),
            at_level(9, have(8, b"a")),
            remove(9, b"a"),
        ];
        let answers = [
            answer(1, PUT, &[0]),
            answer(2, PUT, &[0]),
            answer(3, ADD, &[101]),
            answer(4, TAKE, &long),
            answer(5, TAKE, &[1]),
            answer(6, GET, &[1]),
            answer(7, TAKE, &[1]),
            at_level(2, status(8, HAVE, 1)),
            status(9, REMOVE, 1),
        ];
        let client = RawClient::connect(address);
        client.send(&requests.concat());
        let expected = answers.concat();
        assert!(client.take(expected.len()) == expected, "all at once");
        let one_by_one = RawClient::connect(address);
        for (request, answer) in requests.iter().zip(&answers) {
            for piece in request.chunks(if request.len() > 1000 { 999 } else { 1 }) {
                one_by_one.send(piece);
            }
            assert!(one_by_one.take(answer.len()) == *answer, "in pieces");
        }
        // FETCH finds the lifetime too, and after a miss no REPAIR is accepted.
        let fetch = at_level(2, message(0, 1, FETCH, b"fetched"));
        let missing = at_level(2, message(1, 1, FETCH, &[1, 0, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(client.ask(&fetch), missing);
        let repair = [&[0; 8][..], &add_payload(60_000, b"fetched", &long)].concat();
        let refused = at_level(2, message(1, 2, REPAIR, &[3]));
        assert_eq!(client.ask(&at_level(2, message(0, 2, REPAIR, &repair))), refused);
        client.ask(&add_for(3, 60_000, b"fetched", &long));
        let fetched = client.ask(&fetch);
        let ttl = u32::from_be_bytes(fetched[15..19].try_into().expect("4 bytes"));
        assert!((50_000..=60_000).contains(&ttl), "{ttl}");
        let payload = [&[0][..], &ttl.to_be_bytes(), &long].concat();
        assert!(fetched == at_level(2, message(1, 1, FETCH, &payload)));
        // In a frame of level 0 the operations of level 1 close the connection, after earlier requests are
        // answered.
        for request in [put(1, b"a", b"session"), take(1, b"a")] {
            let client = RawClient::connect(address);
            client.send(&[have(1, b"a"), at_level(0, request)].concat());
            assert_eq!(client.rest(), status(1, HAVE, 1));
        }
    });
}

#[test]
fn data_and_lifetimes_are_stored_unchanged() {
    with_each("data_and_lifetimes", |engine, address| {
        let client = RawClient::connect(address);
        // The longest: 8 bytes, the id and the session fill 16 frames.
        let id = [b'i'; 64];
        let longest: Vec<u8> = (0..32_768_u32 - 8 - 64).map(|at| (at % 251) as u8).collect();
        assert_eq!(client.ask(&add_for(1, 604_800_000, &id, &longest)), status(1, ADD, 0));
        assert!(client.ask(&get(2, &id)) == session(2, &longest));
        let key = format!("dc:{}", "i".repeat(64));
        let left: u64 = engine.ask(&["pttl", &key]).parse().expect("milliseconds");
        assert!((604_700_000..=604_800_000).contains(&left), "{left}");
        assert_eq!(engine.ask(&["strlen", &key]), longest.len().to_string());
        // An id of any bytes, and a session of one.
        let odd = b"\0\r\n{}\xff ";
        assert_eq!(client.ask(&add(3, odd, b"\r")), status(3, ADD, 0));
        assert_eq!(client.ask(&get(4, odd)), session(4, b"\r"));
        assert_eq!(client.ask(&have(5, odd)), status(5, HAVE, 0));
        assert_eq!(client.ask(&remove(6, odd)), status(6, REMOVE, 0));
        assert_eq!(client.ask(&remove(7, odd)), status(7, REMOVE, 1));
        // An ADD with a lifetime of 0 stores nothing, and such a PUT removes.
        assert_eq!(client.ask(&add_for(8, 0, b"none", b"session")), status(8, ADD, 0));
        assert_eq!(client.ask(&have(9, b"none")), status(9, HAVE, 1));
        assert_eq!(client.ask(&add_for(10, 0, &id, b"session")), status(10, ADD, 101));
        let gone = at_level(1, message(0, 11, PUT, &add_payload(0, &id, b"session")));
        assert_eq!(client.ask(&gone), answer(11, PUT, &[0]));
        assert_eq!(client.ask(&have(12, &id)), status(12, HAVE, 1));
        // A short life ends.
        assert_eq!(client.ask(&add_for(13, 1, b"short", b"session")), status(13, ADD, 0));
        ask_until(address, &get(14, b"short"), &status(14, GET, 1));
        assert_eq!(engine.ask(&["dbsize"]), "0");
    });
}

#[test]
fn foreign_values_are_misses_and_counted() {
    for name in engines("foreign_values") {
        let engine = Engine::start(&name, &[]);
        let dir = Dir::new();
        let (program, address) = gateway(&dir, &engine.url(), &["-deadline", "20000"]);
        let client = RawClient::connect(&address);
        ask_until(&address, &have(1, b"list"), &status(1, HAVE, 1));
        engine.ask(&["rpush", "dc:list", "a"]);
        engine.ask(&["set", "dc:empty", ""]);
        // 100 MB, which the gateway must not hold.
        engine.ask(&["setrange", "dc:huge", "99999999", "x"]);
        let size = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid()));
            let status = status.expect("the status of a running process");
            let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("a peak");
            number(line, " kB")
        };
        let before = size();
        for id in [&b"list"[..], b"empty", b"huge"] {
            assert_eq!(client.ask(&have(2, id)), status(2, HAVE, 1), "{}", id.escape_ascii());
            assert_eq!(client.ask(&get(3, id)), status(3, GET, 1), "{}", id.escape_ascii());
        }
        assert!(size() < before + 20_000, "{before} and {} kB", size());
        ask_until(&address, &at_level(1, take(4, b"list")), &answer(4, TAKE, &[1]));
        assert_eq!(engine.ask(&["llen", "dc:list"]), "1", "a TAKE does not remove it");
        let err = program.end(Signal::TERM).err;
        assert_eq!(number(&err, " foreign values"), 6, "{err}");
    }
}

#[test]
fn a_full_engine_refuses_as_a_full_server_does() {
    for name in engines("a_full_engine") {
        let words = ["--maxmemory", "1", "--maxmemory-policy", "noeviction"];
        let engine = Engine::start(&name, &words);
        let dir = Dir::new();
        let (program, address) = gateway(&dir, &engine.url(), &[]);
        ask_until(&address, &add(1, b"a", b"session"), &status(1, ADD, 1));
        let err = program.end(Signal::TERM).err;
        assert!(number(&err, " refused as full") >= 1, "{err}");
    }
}

#[test]
fn passwords_come_from_a_file_and_appear_nowhere_else() {
    for name in engines("passwords_come_from_a_file") {
        let engine = Engine::start(&name, &["--requirepass", "hunter2"]).with_password("hunter2");
        engine.ask(&["acl", "setuser", "dc", "on", ">s3cret", "~dc:*", "+@all"]);
        let dir = Dir::new();
        let file = dir.join("login");
        let text = file.display().to_string();
        let write = |words: &str, mode| {
            std::fs::write(&file, words).expect("a file");
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&file, mode).expect("its mode");
        };
        write("user dc\npassword s3cret\n", 0o644);
        let words = ["-engine", &engine.url(), "-credentials", &text];
        let refused = Program::run(&dc_gateway(), &words);
        assert_eq!((refused.code, refused.out.as_str()), (1, ""));
        assert!(refused.err.contains("chmod"), "{}", refused.err);
        for (login, works) in [
            ("user dc\npassword s3cret\n", true),
            ("password hunter2\n", true),
            ("user dc\npassword wr0ng\n", false),
            ("# none\n", false),
        ] {
            write(login, 0o600);
            let (program, address) = gateway(&dir, &engine.url(), &["-credentials", &text]);
            if works {
                ask_until(&address, &have(1, b"a"), &status(1, HAVE, 1));
            } else {
                program.err.wait_for("cannot reach the engine");
                assert_eq!(RawClient::connect(&address).ask(&have(1, b"a")), status(1, HAVE, 2));
            }
            let line = std::fs::read_to_string(format!("/proc/{}/cmdline", program.pid()));
            let ended = program.end(Signal::TERM);
            let printed =
                [line.expect("the command line of a running process"), ended.out, ended.err]
                    .concat();
            for secret in ["s3cret", "hunter2", "wr0ng"] {
                assert!(!printed.contains(secret), "{printed}");
            }
        }
    }
}

#[test]
fn sessiond_and_streams_find_each_others_sessions() {
    for name in engines("sessiond_and_streams") {
        let engine = Engine::start(&name, &[]);
        let dir = Dir::new();
        let words = ["-listen", "SESSIOND:127.0.0.1:0"];
        let (program, address) = gateway(&dir, &engine.url(), &words);
        let addresses = program.addresses(2);
        let datagrams = addresses.iter().find(|one| one.starts_with("SESSIOND")).expect("one");
        ask_until(&address, &have(1, b"a"), &status(1, HAVE, 1));
        let (stunnel, key) = (DatagramClient::connect(datagrams), key(b"stunnel"));
        assert_eq!(stunnel.get(&key), None);
        stunnel.new_session(60, &key, b"the first session");
        ask_until(&address, &get(2, &key), &session(2, b"the first session"));
        stunnel.new_session(60, &key, b"another session");
        ask_until(&address, &get(3, &key), &session(3, b"another session"));
        assert_eq!(stunnel.get(&key).as_deref(), Some(&b"another session"[..]));
        stunnel.remove(&key);
        ask_until(&address, &get(4, &key), &status(4, GET, 1));
        stunnel.send(b"nonsense");
        until("the next answer", || stunnel.get(&key).is_none().then_some(()));
        let err = program.end(Signal::TERM).err;
        assert_eq!(number(&err, " dropped"), 1, "{err}");
    }
}

#[test]
fn an_unreachable_server_is_reported_once_and_found_again() {
    for name in engines("an_unreachable_server") {
        let port = rig::free_ports(1)[0];
        let dir = Dir::new();
        let (program, address) = gateway(&dir, &format!("redis://127.0.0.1:{port}"), &[]);
        program.err.wait_for("cannot reach the engine");
        let client = RawClient::connect(&address);
        for op in [get(1, b"a"), have(1, b"a"), remove(1, b"a"), add(1, b"a", b"session")] {
            assert_eq!(client.ask(&op), status(1, op[10], 2));
        }
        assert_eq!(client.ask(&add(2, b"a", b"")), status(2, ADD, 100), "this needs no engine");
        let at = port.to_string();
        let engine = Engine::at(&name, port, &["--port", &at, "--bind", "127.0.0.1"]);
        ask_until(&address, &add(3, b"a", b"session"), &status(3, ADD, 0));
        drop(engine);
        until("status 2", || (client.ask(&get(4, b"a")) == status(4, GET, 2)).then_some(()));
        program.err.find("second report that it is unreachable", |text| {
            (text.matches("cannot reach the engine").count() == 2).then_some(())
        });
        let err = program.end(Signal::TERM).err;
        assert_eq!(err.matches("cannot reach the engine").count(), 2, "{err}");
        assert_eq!(err.matches("is unreachable").count(), 1, "{err}");
        assert!(err.contains("the engine is reachable again"), "{err}");
    }
}

#[test]
fn a_replica_is_never_written_to() {
    for name in engines("a_replica_is_never_written_to") {
        let master = Engine::start(&name, &[]);
        let port = master.port.to_string();
        let replica = Engine::start(&name, &["--replicaof", "127.0.0.1", &port]);
        until("a replica", || replica.ask(&["role"]).contains("connected").then_some(()));
        let dir = Dir::new();
        // A replica alone is not used.
        let (program, address) = gateway(&dir, &replica.url(), &[]);
        program.err.wait_for("it is a replica");
        assert_eq!(RawClient::connect(&address).ask(&get(1, b"a")), status(1, GET, 2));
        program.end(Signal::TERM);
        // Of two servers the master is used, also after the roles have changed.
        let both = format!("{},127.0.0.1:{}", replica.url(), master.port);
        let (program, address) = gateway(&dir, &both, &[]);
        ask_until(&address, &add(1, b"a", b"session"), &status(1, ADD, 0));
        until("a copy", || (replica.ask(&["dbsize"]) == "1").then_some(()));
        replica.ask(&["replicaof", "no", "one"]);
        master.ask(&["replicaof", "127.0.0.1", &replica.port.to_string()]);
        ask_until(&address, &add(2, b"b", b"session"), &status(2, ADD, 0));
        until("the new copy", || (master.ask(&["dbsize"]) == "2").then_some(()));
        let err = program.end(Signal::TERM).err;
        assert!(err.contains("refused by a replica"), "{err}");
    }
}

#[test]
fn sentinels_name_the_master() {
    for name in engines("sentinels_name") {
        let master = Engine::start(&name, &[]);
        let port = master.port.to_string();
        let replica = Engine::start(&name, &["--replicaof", "127.0.0.1", &port]);
        until("a replica", || replica.ask(&["role"]).contains("connected").then_some(()));
        let sentinel_port = rig::free_ports(1)[0];
        let dir = Dir::new();
        let file = dir.text("sentinel.conf");
        let text = format!(
            "port {sentinel_port}\nbind 127.0.0.1\nsentinel monitor them 127.0.0.1 {port} 1\n\
             sentinel down-after-milliseconds them 500\nsentinel failover-timeout them 5000\n"
        );
        std::fs::write(&file, text).expect("a file");
        let sentinel = Program::start(&name, &[&file, "--sentinel"]);
        sentinel.out.wait_for("+monitor master them");
        sentinel.out.wait_for("+slave");
        let url = format!("redis-sentinel://127.0.0.1:{sentinel_port}/them");
        let (program, address) = gateway(&dir, &url, &[]);
        ask_until(&address, &add(1, b"a", b"session"), &status(1, ADD, 0));
        until("a copy", || (replica.ask(&["dbsize"]) == "1").then_some(()));
        drop(master);
        ask_until(&address, &get(2, b"a"), &session(2, b"session"));
        ask_until(&address, &add(3, b"b", b"session"), &status(3, ADD, 0));
        assert_eq!(replica.ask(&["dbsize"]), "2");
        program.end(Signal::TERM);
    }
}

#[test]
fn received_requests_are_answered_before_the_end_and_on_half_closed_connections() {
    for name in engines("received_requests") {
        let engine = Engine::start(&name, &[]);
        let dir = Dir::new();
        let words = ["-listen", "IP:127.0.0.1:0", "-threads", "3", "-maxconn", "20"];
        let (program, address) = gateway(&dir, &engine.url(), &words);
        let addresses = program.addresses(2);
        let tcp = addresses.iter().find_map(|one| one.strip_prefix("IP:")).expect("a port");
        ask_until(&address, &have(1, b"a"), &status(1, HAVE, 1));
        // As many as -maxconn.
        let clients: Vec<RawClient> = (0..20).map(|_| RawClient::connect(&address)).collect();
        until("20 clients", || {
            clients.iter().all(|c| c.ask(&have(2, b"a")) == status(2, HAVE, 1)).then_some(())
        });
        assert!(RawClient::connect(&format!("IP:{tcp}")).rest().is_empty(), "it is refused");
        clients[0].send(&have(3, b"a").repeat(500));
        clients[0].finish();
        assert!(clients[0].rest() == status(3, HAVE, 1).repeat(500));
        let half = TcpStream::connect(tcp);
        half.expect("a listener").shutdown(Shutdown::Both).expect("a socket");
        let ended = program.end(Signal::TERM);
        assert_eq!(ended.code, 0, "{}", ended.err);
        for client in &clients[1..] {
            assert!(client.rest().is_empty(), "closed without an answer");
        }
        assert!(!std::path::Path::new(&dir.text("gateway")).exists(), "its socket is gone");
    }
}

#[test]
fn invalid_command_lines_are_refused() {
    let cases: [(&[&str], &str); 6] = [
        (&[], "-engine is missing"),
        (&["-engine", "127.0.0.1:6379"], "redis://"),
        (&["-engine", "redis://u:p4ss@127.0.0.1"], "-credentials"),
        (&["-engine", "redis://127.0.0.1", "-cafile", "/x"], "rediss://"),
        (&["-engine", "rediss://127.0.0.1", "-tlskey", "/x"], "belong together"),
        (&["-engine", "rediss://127.0.0.1", "-cafile", "/none"], "cannot use /none"),
    ];
    for (words, why) in cases {
        let ended = Program::run(&dc_gateway(), words);
        assert_eq!(ended.code, 1, "{words:?}");
        assert!(ended.err.contains(why), "{words:?}: {}", ended.err);
        assert!(!ended.err.contains("p4ss"), "{}", ended.err);
    }
}
