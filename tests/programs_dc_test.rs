//! The program `dc_test`, against a correct cache and a wrong one.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use distcache_testing::bytes::{ADD, GET, HAVE, have, session, status};
use distcache_testing::process::{Dir, Ended, Program, Signal};
use distcache_testing::raw_client::RawClient;
use distcache_testing::start;

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const DC_TEST: &str = env!("CARGO_BIN_EXE_dc_test");

fn test(address: &str, arguments: &[&str]) -> Ended {
    Program::run(DC_TEST, &[&["-connect", address], arguments].concat())
}

/// Runs it in every mode at one address.
fn passes(address: &str) {
    for arguments in [
        &["-ops", "300", "-persistent"][..],
        &["-ops", "300"],
        &["-ops", "200", "-sessions", "50", "-datamin", "5", "-datamax", "30000", "-persistent"],
        &["-ops", "200", "-withcert", "5", "-timeout", "600", "-timevar", "99", "-persistent"],
        &["-sessions", "3", "-persistent"],
    ] {
        let ended = test(address, arguments);
        assert!(ended.code == 0 && ended.err.is_empty(), "{arguments:?}: {ended:?}");
        let operations = match arguments {
            ["-ops", operations, ..] => operations,
            _ => "90",
        };
        let report = format!("\n{operations} operations, all right, in ");
        assert!(ended.out.contains(&report), "{ended:?}");
        let latency = ended.out.lines().last().expect("a report");
        for part in ["latency: p50 ", " p90 ", " p99 ", " p99.9 ", " max "] {
            assert!(latency.contains(part), "{latency}");
        }
    }
}

#[test]
fn a_server_passes() {
    let dir = Dir::new();
    let over_tcp = Program::start(DC_SERVER, &["-listen", "IP:127.0.0.1:0"]);
    passes(&over_tcp.address());
    let over_unix = Program::start(DC_SERVER, &["-listen", &dir.address("s")]);
    passes(&over_unix.address());
}

#[test]
fn a_server_behind_a_proxy_passes() {
    let dir = Dir::new();
    let server = Program::start(DC_SERVER, &["-listen", "IP:127.0.0.1:0"]);
    let proxy = start::connected(DC_CLIENT, &dir.address("c"), &server.address(), &[]);
    passes(&proxy.address());
}

#[test]
fn several_checks_at_a_time_do_not_disturb_each_other() {
    let dir = Dir::new();
    let server = Program::start(DC_SERVER, &["-listen", &dir.address("s")]);
    let proxy = start::connected(DC_CLIENT, &dir.address("c"), &server.address(), &[]);
    let start = |_| {
        let address = proxy.address();
        Program::start(DC_TEST, &["-connect", &address, "-ops", "500", "-persistent"])
    };
    let tests: Vec<_> = (0..6).map(start).collect();
    for test in tests {
        let ended = test.ended();
        assert_eq!(ended.code, 0, "{ended:?}");
    }
}

#[test]
fn a_seed_repeats_a_run() {
    let server = Program::start(DC_SERVER, &["-listen", "IP:127.0.0.1:0"]);
    let arguments = ["-seed", "7", "-ops", "100", "-progress", "25", "-persistent"];
    for _ in 0..2 {
        let ended = test(&server.address(), &arguments);
        assert_eq!(ended.code, 0, "{ended:?}");
        let printed: Vec<&str> = ended.out.lines().take(5).collect();
        let progress = |done| format!("{done} of 100 operations, all right");
        assert_eq!(printed[0], "10 sessions, 100 operations, -seed 7");
        assert_eq!(printed[1..], [25, 50, 75, 100].map(progress));
    }
    let err = server.end(Signal::TERM).err;
    assert!(err.contains("220 requests"), "the same twice, each after 10 REMOVEs: {err}");
}

/// Runs it against a server that answers `right` requests right and the next one wrong.
fn wrong_answer_after(right: usize) -> Ended {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("IP:{}", listener.local_addr().expect("its address"));
    let server = Program::start(DC_SERVER, &["-listen", "IP:127.0.0.1:0"]);
    let truth = server.address();
    let truth = truth.strip_prefix("IP:").expect("a port");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("the test");
            let mut server = std::net::TcpStream::connect(truth).expect("the server");
            for _ in 0..right {
                pass(&mut stream, &mut server);
                pass(&mut server, &mut stream);
            }
            pass(&mut stream, &mut server);
            stream.write_all(&falsify(frame(&mut server))).expect("room");
            // The rest of its requests does not matter.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        test(&address, &["-persistent", "-ops", "5000", "-datamax", "1000"])
    })
}

/// Turns an answer into its opposite.
fn falsify(mut answer: Vec<u8>) -> Vec<u8> {
    let uid = u32::from_be_bytes([answer[5], answer[6], answer[7], answer[8]]);
    match (answer[10], &mut answer[14..]) {
        (GET, [_]) => return session(uid, b"a session that nobody stored"),
        (GET, data) => data[0] ^= 0x80,
        (ADD, payload) => payload[0] = if payload[0] == 0 { 101 } else { 0 },
        (_, payload) => payload[0] ^= 1,
    }
    answer
}

fn frame(from: &mut impl Read) -> Vec<u8> {
    let mut frame = vec![0; 14];
    from.read_exact(&mut frame).expect("a header");
    let len = u16::from_be_bytes([frame[12], frame[13]]);
    frame.resize(14 + usize::from(len), 0);
    from.read_exact(&mut frame[14..]).expect("its data");
    frame
}

fn pass(from: &mut impl Read, to: &mut impl Write) {
    to.write_all(&frame(from)).expect("room");
}

#[test]
fn the_first_wrong_answer_ends_the_check_with_the_number_of_right_ones() {
    for right in [0, 1, 250] {
        let ended = wrong_answer_after(right);
        assert_eq!(ended.code, 1, "{ended:?}");
        let printed = format!("the {right} before it were right (repeat with -seed ");
        assert!(ended.err.starts_with(&format!("dc_test: operation {}, ", right + 1)), "{ended:?}");
        assert!(ended.err.contains(&printed) && !ended.out.contains("all right, in"), "{ended:?}");
    }
}

/// The modes: one connection, one for each request, a seed, and a load.
const WAYS: [&[&str]; 5] =
    [&[], &["-persistent"], &["-seed", "1"], &["-seconds", "1"], &["-seconds", "1", "-shortlived"]];

#[test]
fn without_a_listener_it_names_the_program_to_start() {
    let dir = Dir::new();
    drop(UnixListener::bind(dir.join("stale")).expect("a free path"));
    let (none, stale) = (dir.address("none"), dir.address("stale"));
    for (address, reason) in [
        (&none, "no such socket. Is dc_client running?"),
        (&stale, "connection refused. Is dc_client running?"),
        (&"IP:127.0.0.1:1".to_owned(), "connection refused. Is dc_server running?"),
    ] {
        for way in WAYS {
            let ended = test(address, way);
            let line = format!("dc_test: cannot connect to {address}: {reason}\n");
            assert_eq!((ended.code, ended.err), (1, line), "{way:?}");
        }
    }
}

#[test]
fn a_server_with_all_its_clients_is_reported_as_refusing() {
    let dir = Dir::new();
    for listen in [dir.address("s"), "IP:127.0.0.1:0".to_owned()] {
        let server = Program::start(DC_SERVER, &["-listen", &listen, "-maxconn", "1"]);
        let address = server.address();
        let other = RawClient::connect(&address);
        assert_eq!(other.ask(&have(1, b"id")), status(1, HAVE, 1), "it has the one place");
        for way in WAYS {
            let ended = test(&address, way);
            let line = format!(
                "dc_test: {address} refused the connection: it was closed at once, as a server \
                 does beyond its -maxconn, and to users that -allowuid leaves out\n"
            );
            assert_eq!((ended.code, ended.err), (1, line), "{way:?}");
        }
        // One of several connections is accepted.
        drop(other);
        let ended = test(&address, &["-seconds", "10", "-conns", "5"]);
        assert!(ended.code == 1 && ended.err.contains(" refused the connection: "), "{ended:?}");
    }
}

#[test]
fn a_server_that_goes_away_is_an_error_with_a_reason() {
    let dir = Dir::new();
    let server = Program::start(DC_SERVER, &["-listen", &dir.address("s")]);
    let address = server.address();
    let words = ["-connect", &address, "-ops", "100000000", "-progress", "10", "-persistent"];
    let test = Program::start(DC_TEST, &words);
    test.out.wait_for("50 of 100000000 operations, all right");
    assert_eq!(server.end(Signal::KILL).code, -9);
    let ended = test.ended();
    assert!(ended.code == 1 && ended.err.contains("had no answer"), "{ended:?}");
}
