//! Malformed input closes only the connection it came on.

use std::io::Write;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};

use distcache_testing::bytes::{
    ADD, GET, HAVE, REMOVE, add, frame, get, have, message, messages, remove, session, status,
};
use distcache_testing::net::probe;
use distcache_testing::process::{Dir, Program, Signal};
use distcache_testing::random::Random;
use distcache_testing::raw_client::RawClient;
use distcache_testing::start;
use distcache_testing::vectors::lines;

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

/// A server, with a proxy in front of it.
struct Site {
    server: Program,
    proxy: Program,
    _dir: Dir,
}

impl Site {
    fn start() -> Self {
        let dir = Dir::new();
        let server = Program::start(DC_SERVER, &["-listen", "IP:127.0.0.1:0"]);
        let proxy = start::connected(DC_CLIENT, &dir.address("c"), &server.address(), &[]);
        Self { server, proxy, _dir: dir }
    }

    /// Attacks both while other clients use both and get every answer.
    fn run_during(self, attack: impl Fn(&str) + Sync) {
        let addresses = [self.server.address(), self.proxy.address()];
        for address in &addresses {
            let is_over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let good = addresses.each_ref().map(|address| {
                    let is_over = &is_over;
                    scope.spawn(move || use_cache(address, is_over))
                });
                let attacked = scope.spawn(|| attack(address)).join();
                is_over.store(true, Ordering::Relaxed);
                for good in good {
                    good.join().expect("every answer");
                }
                attacked.expect("what the attackers get");
            });
        }
        assert_eq!(self.proxy.end(Signal::TERM).code, 0);
        assert_eq!(self.server.end(Signal::TERM).code, 0);
    }
}

/// Uses a cache on one connection until `is_over`, and checks each answer.
fn use_cache(address: &str, is_over: &AtomicBool) {
    let client = RawClient::connect(address);
    let data = [address.as_bytes(), &[b'x'; 3000]].concat();
    let mut round = 0_u32;
    while round == 0 || !is_over.load(Ordering::Relaxed) {
        round += 1;
        let id = [address.as_bytes(), &round.to_be_bytes()].concat();
        assert_eq!(client.ask(&add(1, &id, &data)), status(1, ADD, 0));
        client.send(&[get(2, &id), have(3, &id), remove(4, &id), have(5, &id)].concat());
        assert_eq!(client.message(), session(2, &data));
        assert_eq!(client.message(), status(3, HAVE, 0));
        assert_eq!(client.message(), status(4, REMOVE, 0));
        assert_eq!(client.message(), status(5, HAVE, 1));
    }
}

/// Returns the first bytes of a TLS client.
fn tls_hello() -> Vec<u8> {
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.extend((0..506_u32).map(|byte| (byte * 7) as u8));
    hello
}

/// Returns 17 frames; the protocol allows 16.
fn too_many_frames() -> Vec<u8> {
    frame(0, 1, GET, 0, &[0; 2048]).repeat(17)
}

#[test]
fn clients_of_other_protocols_are_closed_without_an_answer() {
    let mixed = [frame(0, 1, GET, 0, &[0; 2048]), frame(0, 2, GET, 1, b"rest")].concat();
    let answer = message(1, 1, GET, b"an answer that nobody asked for");
    let strangers = [
        b"GET / HTTP/1.1\r\nHost: cache\r\n\r\n".to_vec(),
        b"\0".repeat(20_000),
        b"\xff".repeat(200_000),
        tls_hello(),
        too_many_frames(),
        mixed,
        answer,
        frame(0, 1, GET, 0, b"short"),
        message(0, 1, 4, b"no such operation"),
        message(0, 1, ADD, &[0; 7]),
    ];
    Site::start().run_during(|address| {
        for _ in 0..10 {
            for stranger in &strangers {
                let client = RawClient::connect(address);
                client.send(stranger);
                assert_eq!(client.rest(), b"");
            }
        }
    });
}

#[test]
fn a_valid_request_before_an_invalid_one_is_answered() {
    Site::start().run_during(|address| {
        let client = RawClient::connect(address);
        client
            .send(&[have(1, b"id"), have(2, b"id"), b"nonsense".to_vec(), have(3, b"id")].concat());
        assert_eq!(client.rest(), [status(1, HAVE, 1), status(2, HAVE, 1)].concat());
    });
}

#[test]
fn random_bytes_are_closed() {
    Site::start().run_during(|address| {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            // No version of the protocol begins like this.
            let mut bytes = vec![1 + random.below(255) as u8];
            bytes.extend((0..random.below(5000)).map(|_| random.next() as u8));
            let client = RawClient::connect(address);
            client.send(&bytes);
            assert_eq!(client.rest(), b"", "seed {seed}");
        }
    });
}

#[test]
fn randomly_changed_requests_harm_no_other_client() {
    Site::start().run_during(|address| {
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let line = &lines()[random.below(lines().len())];
            let mut bytes = line.request.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len().min(40));
                bytes[at] = random.next() as u8;
            }
            let client = RawClient::connect(address);
            client.send(&bytes);
            client.finish();
            client.rest();
        }
    });
}

#[test]
fn vectors_cut_anywhere_harm_no_other_client() {
    Site::start().run_during(|address| {
        for line in lines() {
            let request = &line.request;
            let more = [16, 2047, 2061, 2062, 2063, request.len() / 2, request.len() - 1];
            for at in (1..15).chain(more).filter(|at| *at < request.len()) {
                let client = RawClient::connect(address);
                client.send(&request[..at]);
                // Every other client closes; the rest end their sending side and wait.
                if at % 2 == 0 {
                    client.finish();
                    // Nothing, or the answers to requests that were complete.
                    messages(&client.rest());
                }
            }
        }
    });
}

#[test]
fn unfinished_requests_of_many_clients_delay_no_other_client() {
    let request = add(1, b"id", &[7; 20_000]);
    Site::start().run_during(|address| {
        let half = |number: usize| {
            let client = RawClient::connect(address);
            client.send(&request[..1 + number * 67]);
            client
        };
        let halves: Vec<_> = (0..250).map(half).collect();
        assert!(halves.iter().all(RawClient::is_silent));
        let fresh = RawClient::connect(address);
        assert_eq!(fresh.ask(&have(1, b"id")), status(1, HAVE, 1));
        for (number, client) in halves.iter().enumerate().take(3) {
            client.send(&request[1 + number * 67..]);
            let stored = if number == 0 { 0 } else { 101 };
            assert_eq!(client.message(), status(1, ADD, stored));
        }
        assert_eq!(fresh.ask(&remove(2, b"id")), status(2, REMOVE, 0));
    });
}

#[test]
fn clients_that_read_nothing_delay_no_other_client() {
    let large = vec![b'x'; 30_000];
    Site::start().run_during(|address| {
        let fresh = RawClient::connect(address);
        assert_eq!(fresh.ask(&add(1, b"large", &large)), status(1, ADD, 0));
        let lazy: Vec<_> = (0..20).map(|_| RawClient::connect(address)).collect();
        for client in &lazy {
            client.send_available(&get(2, b"large").repeat(5000));
        }
        assert_eq!(fresh.ask(&get(3, b"large")), session(3, &large));
        assert_eq!(fresh.ask(&remove(4, b"large")), status(4, REMOVE, 0));
    });
}

/// Runs a proxy with a server that answers with `answer`. Returns what the proxy's client gets.
fn answers_through_proxy(answer: impl Fn(u32) -> Vec<u8> + Send) -> (Vec<u8>, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let server = format!("IP:{}", listener.local_addr().expect("its address"));
    let arguments =
        ["-listen", "IP:127.0.0.1:0", "-server", &server, "-retry", "50", "-reqtimeout", "300"];
    let proxy = Program::start(DC_CLIENT, &arguments);
    let client = RawClient::connect(&proxy.address());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // The second server is a correct one.
            for correct in [false, true] {
                let (mut stream, _) = listener.accept().expect("the proxy");
                let mut asked = probe();
                std::io::Read::read_exact(&mut stream, &mut asked).expect("the probe");
                assert_eq!(asked, probe());
                stream.write_all(&status(u32::MAX, HAVE, 1)).expect("room");
                let mut request = [0; 16];
                std::io::Read::read_exact(&mut stream, &mut request).expect("a request");
                let uid = u32::from_be_bytes([request[5], request[6], request[7], request[8]]);
                let answer = if correct { status(uid, HAVE, 0) } else { answer(uid) };
                stream.write_all(&answer).expect("room");
                // After a valid answer the connection stays in use.
                if !correct && std::io::Read::read_exact(&mut stream, &mut request).is_ok() {
                    let uid = u32::from_be_bytes([request[5], request[6], request[7], request[8]]);
                    stream.write_all(&status(uid, HAVE, 0)).expect("room");
                    return;
                }
            }
        });
        proxy.err.wait_for("connected to ");
        let first = client.ask(&have(1, b"id"));
        proxy.err.find("a connection", |text| {
            let lost = text.matches(" is unreachable (").count();
            (text.matches("connected to ").count() > lost).then_some(())
        });
        let second = distcache_testing::process::until("an answer that is not a proxy's", || {
            let answer = client.ask(&have(2, b"id"));
            (answer != status(2, HAVE, 2)).then_some(answer)
        });
        (first, second)
    })
}

#[test]
fn a_server_that_sends_a_stray_answer_is_disconnected_and_dialed_again() {
    let (away, there) = (status(1, HAVE, 2), status(2, HAVE, 0));
    // Another uid, another operation, a request, and garbage.
    assert_eq!(
        answers_through_proxy(|uid| status(uid ^ 0x40, HAVE, 0)),
        (away.clone(), there.clone())
    );
    assert_eq!(
        answers_through_proxy(|uid| session(uid, b"a secret")),
        (away.clone(), there.clone())
    );
    assert_eq!(answers_through_proxy(|uid| have(uid, b"id")), (away.clone(), there.clone()));
    assert_eq!(answers_through_proxy(|_| b"220 welcome\r\n".to_vec()), (away, there));
}

#[test]
fn a_second_answer_to_a_request_reaches_no_client() {
    let (first, second) =
        answers_through_proxy(|uid| [status(uid, HAVE, 1), status(uid, HAVE, 1)].concat());
    assert_eq!(first, status(1, HAVE, 1));
    assert_eq!(second, status(2, HAVE, 0));
}
