//! The daemons as stunnel's `sessiond`: valid and invalid datagrams.
//!
//! ```text
//!  datagram client ─┬─ UDP ─ dc_server
//!                   └─ UDP ─ dc_client ─ TCP ─ dc_server
//! ```

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use distcache_testing::bytes::{ADD, GET, HAVE, add, get, have, session, status};
use distcache_testing::process::{Dir, Program, Signal, until};
use distcache_testing::raw_client::RawClient;
use distcache_testing::sessiond::{DatagramClient, key, packet};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const DC_SNOOP: &str = env!("CARGO_BIN_EXE_dc_snoop");
const ANY_PORT: &str = "IP:127.0.0.1:0";
const ANY_DATAGRAMS: &str = "SESSIOND:127.0.0.1:0";

/// A program that takes datagrams and connections; a proxy with its server.
struct Site {
    program: Program,
    server: Option<Program>,
    stream: String,
    datagrams: String,
}

impl Site {
    /// Starts a server.
    fn server(arguments: &[&str]) -> Self {
        let usual = ["-listen", ANY_PORT, "-listen", ANY_DATAGRAMS];
        Self::of(Program::start(DC_SERVER, &[&usual, arguments].concat()), None)
    }

    /// Starts a proxy that is connected to a server of its own.
    fn proxy(arguments: &[&str]) -> Self {
        let server = Program::start(DC_SERVER, &["-listen", ANY_PORT]);
        let address = server.address();
        let site = Self::proxy_to(&address, Some(server), arguments);
        site.program.err.wait_for("connected to ");
        site
    }

    fn proxy_to(address: &str, server: Option<Program>, arguments: &[&str]) -> Self {
        let usual =
            ["-listen", ANY_PORT, "-listen", ANY_DATAGRAMS, "-retry", "50", "-server", address];
        Self::of(Program::start(DC_CLIENT, &[&usual, arguments].concat()), server)
    }

    fn of(program: Program, server: Option<Program>) -> Self {
        let [stream, datagrams] = program.addresses(2).try_into().expect("two addresses");
        Self { program, server, stream, datagrams }
    }

    /// Starts both kinds with the same arguments.
    fn both(arguments: &[&str]) -> [Self; 2] {
        [Self::server(arguments), Self::proxy(arguments)]
    }

    fn udp(&self) -> DatagramClient {
        DatagramClient::connect(&self.datagrams)
    }

    fn client(&self) -> RawClient {
        RawClient::connect(&self.stream)
    }

    /// Ends it with SIGTERM, and returns its counts of datagrams.
    fn end_with_counts(self) -> String {
        let ended = self.program.end(Signal::TERM);
        assert_eq!(ended.code, 0, "{}", ended.err);
        let line = ended.err.lines().rev().find(|line| line.contains(" datagrams: "));
        line.unwrap_or_else(|| panic!("nothing about datagrams in {}", ended.err)).to_owned()
    }
}

#[test]
fn a_new_session_is_found_until_it_is_removed() {
    for site in Site::both(&[]) {
        let udp = site.udp();
        let (one, other) = (key(&[1; 32]), key(&[2; 32]));
        assert_eq!(udp.get(&one), None);
        udp.new_session(300, &one, b"a session");
        assert_eq!(udp.get(&one), Some(b"a session".to_vec()));
        assert_eq!(site.udp().get(&one), Some(b"a session".to_vec()), "for anybody");
        assert_eq!(udp.get(&other), None);
        udp.remove(&other);
        udp.remove(&one);
        assert_eq!(udp.get(&one), None);
        assert!(udp.is_silent(), "only a get is answered");
        let end_with_counts = site.end_with_counts();
        assert!(
            end_with_counts.contains(": 8 datagrams: 2 of 5 gets found, 0 refused"),
            "{end_with_counts}"
        );
    }
}

#[test]
fn a_new_session_replaces_an_old_one() {
    for site in Site::both(&[]) {
        replaces(&site);
    }
}

/// Through a proxy, a get may overtake a new session that replaces another.
fn replaces(site: &Site) {
    let (udp, key) = (site.udp(), key(&[1; 32]));
    for value in [&b"first"[..], &[2; 512], b"third", &[4; 5], &[4; 5]] {
        udp.new_session(300, &key, value);
        until("the new one", || (udp.get(&key)? == value).then_some(()));
    }
    // The lifetime is that of the last packet.
    udp.new_session(1, &key, b"short-lived");
    until("the end of it", || udp.get(&key).is_none().then_some(()));
}

#[test]
fn it_replaces_even_at_a_server_of_level_0() {
    let server = Program::start(DC_SERVER, &["-listen", ANY_PORT]);
    let old = OldServer::before(&server.address());
    let site = Site::proxy_to(&old.address, None, &[]);
    site.program.err.wait_for("connected to ");
    replaces(&site);
    assert_eq!(site.program.end(Signal::TERM).code, 0);
    let err = server.end(Signal::TERM).err;
    assert!(err.contains(" 0 malformed"), "no new operation was used: {err}");
}

/// One connection to a server that looks as if it had level 0: the level of each frame is set to 0.
struct OldServer {
    address: String,
}

impl OldServer {
    fn before(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("IP:{}", listener.local_addr().expect("its port"));
        let server = server.trim_start_matches("IP:").to_owned();
        // It ends with its connection.
        thread::spawn(move || {
            let near = listener.accept().expect("a proxy").0;
            let far = TcpStream::connect(server).expect("a server");
            thread::scope(|scope| {
                scope.spawn(|| clear_levels(&near, &far));
                scope.spawn(|| clear_levels(&far, &near));
            });
        });
        Self { address }
    }
}

fn clear_levels(mut from: &TcpStream, mut to: &TcpStream) {
    let mut frame = [0; 14 + 2048];
    loop {
        let (header, data) = frame.split_at_mut(14);
        if from.read_exact(header).is_err() {
            break;
        }
        header[3] = 0;
        let len = usize::from(u16::from_be_bytes([header[12], header[13]]));
        if from.read_exact(&mut data[..len]).is_err() || to.write_all(&frame[..14 + len]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[test]
fn an_invalid_packet_is_dropped_and_counted() {
    for site in Site::both(&[]) {
        let (udp, key) = (site.udp(), key(&[1; 32]));
        udp.new_session(300, &key, b"a session");
        let good = packet(1, 0, &key, b"");
        let foreign = [&[2], &good[1..]].concat();
        let strange = [
            b"".to_vec(),
            b"GET / HTTP/1.0\r\n\r\n".to_vec(),
            good[..35].to_vec(),
            foreign,
            packet(3, 0, &key, b""),
            packet(0x80, 0, &key, b""),
            packet(0x81, 0, &key, b"a session"),
            packet(0, 300, &key, b""),
            packet(0, 300, &key, &[7; 513]),
            packet(1, 0, &key, &[7; 513]),
            vec![1; 9000],
            vec![0; 60_000],
        ];
        for (number, datagram) in strange.iter().enumerate() {
            udp.send(datagram);
            assert_eq!(udp.get(&key), Some(b"a session".to_vec()), "after number {number}");
        }
        assert!(udp.is_silent(), "invalid packets get no answer");
        let end_with_counts = site.end_with_counts();
        assert!(end_with_counts.ends_with("; 12 malformed datagrams dropped"), "{end_with_counts}");
        assert!(
            end_with_counts.contains(": 13 datagrams: 12 of 12 gets found"),
            "{end_with_counts}"
        );
    }
}

#[test]
fn datagrams_and_connections_share_sessions_with_ids_of_32_bytes() {
    for site in Site::both(&[]) {
        let (udp, client) = (site.udp(), site.client());
        for len in [5, 512] {
            let (id, value) = ([len as u8; 32], vec![len as u8; len]);
            assert_eq!(client.ask(&add(1, &id, &value)), status(1, ADD, 0));
            assert_eq!(udp.get(&key(&id)), Some(value));
        }
        // Sessions too long for stunnel count as misses.
        for len in [513, 2048, 30_000] {
            let id = [len as u8 ^ 0x55; 32];
            assert_eq!(client.ask(&add(2, &id, &vec![7; len])), status(2, ADD, 0));
            assert_eq!(udp.get(&key(&id)), None, "{len} bytes");
        }
        udp.new_session(300, &key(&[9; 32]), b"a session");
        assert_eq!(udp.get(&key(&[9; 32])), Some(b"a session".to_vec()));
        assert_eq!(client.ask(&get(3, &[9; 32])), session(3, b"a session"));
        // Zeros behind a shorter id are part of it there.
        assert_eq!(client.ask(&add(4, b"short", b"a session")), status(4, ADD, 0));
        assert_eq!(udp.get(&key(b"short")), None);
    }
}

#[test]
fn while_the_server_is_unreachable_a_get_is_a_miss_at_once() {
    let dir = Dir::new();
    let patient = ["-retry", "3600000", "-reqtimeout", "0"];
    let site = Site::proxy_to(&dir.address("nobody"), None, &patient);
    site.program.err.wait_for(" is unreachable (");
    let (udp, key) = (site.udp(), key(&[1; 32]));
    for _ in 0..100 {
        udp.new_session(300, &key, b"a session");
        udp.remove(&key);
        assert_eq!(udp.get(&key), None);
    }
    let end_with_counts = site.end_with_counts();
    assert!(
        end_with_counts.contains(": 300 datagrams: 0 of 100 gets found, 0 refused"),
        "{end_with_counts}"
    );
}

#[test]
fn a_server_that_dies_leaves_no_get_unanswered() {
    let mut site = Site::proxy(&["-retry", "20"]);
    let (udp, key) = (site.udp(), key(&[1; 32]));
    udp.new_session(300, &key, b"a session");
    assert!(udp.get(&key).is_some());
    let server = site.server.take().expect("a server");
    let address = server.address();
    server.freeze();
    for _ in 0..20 {
        udp.ask_for(&key);
    }
    assert_eq!(server.end(Signal::KILL).code, -9);
    for _ in 0..20 {
        assert_eq!(udp.answer(&key), None);
    }
    let second = Program::start(DC_SERVER, &["-listen", &address]);
    second.address();
    until("the second server", || {
        udp.new_session(300, &key, b"another");
        (udp.get(&key)? == b"another").then_some(())
    });
}

#[test]
fn datagrams_take_at_most_half_of_the_places() {
    let site = Site::proxy(&["-maxconn", "8"]);
    let server = site.server.as_ref().expect("a server");
    let (udp, key) = (site.udp(), key(&[1; 32]));
    assert_eq!(udp.get(&key), None);
    server.freeze();
    let waits = [(); 4].map(|()| site.udp());
    for udp in &waits {
        udp.ask_for(&key);
    }
    assert_eq!(udp.get(&key), None, "a miss comes at once");
    assert!(waits.iter().all(DatagramClient::is_silent));
    let clients = [(); 4].map(|()| site.client());
    for client in &clients {
        client.send(&have(7, b"id"));
    }
    server.signal(Signal::CONT);
    for udp in &waits {
        assert_eq!(udp.answer(&key), None);
    }
    for client in &clients {
        assert_eq!(client.message(), status(7, HAVE, 1));
    }
    let end_with_counts = site.end_with_counts();
    assert!(
        end_with_counts
            .contains(": 6 datagrams: 0 of 6 gets found, 1 refused because no place was free"),
        "{end_with_counts}"
    );
}

#[test]
fn when_connections_hold_all_places_a_get_is_a_miss_at_once() {
    for site in Site::both(&["-maxconn", "4"]) {
        let (udp, key) = (site.udp(), key(&[1; 32]));
        udp.new_session(300, &key, b"a session");
        assert!(udp.get(&key).is_some());
        let clients = [(); 4].map(|()| site.client());
        for client in &clients {
            assert_eq!(client.ask(&have(7, b"id")), status(7, HAVE, 1));
        }
        assert_eq!(udp.get(&key), None);
        drop(clients);
        until("a place", || udp.get(&key));
        let ended = site.program.end(Signal::TERM);
        assert!(ended.err.contains(": 4 clients accepted, 0 refused;"), "{}", ended.err);
    }
}

#[test]
fn a_flood_of_datagrams_starves_no_client() {
    for site in Site::both(&[]) {
        let (udp, client) = (site.udp(), site.client());
        let quiet = key(&[1; 32]);
        udp.new_session(300, &quiet, b"a session");
        // No answer says when it is stored, and connections may come first.
        assert!(udp.get(&quiet).is_some());
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let flood = site.udp();
                let packets: Vec<_> = (0..4).map(|code| packet(code, 9, &[9; 32], b"x")).collect();
                let mut sent = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    packets.iter().for_each(|packet| flood.send(packet));
                    sent += packets.len() as u64;
                }
                sent
            });
            let whole = |work: &dyn Fn()| {
                let panics = std::panic::AssertUnwindSafe(work);
                let worked = std::panic::catch_unwind(panics);
                over.store(true, Ordering::Relaxed);
                worked
            };
            let worked = whole(&|| {
                for uid in 0..300 {
                    assert_eq!(client.ask(&have(uid, b"id")), status(uid, HAVE, 1));
                    let other = site.client();
                    assert_eq!(other.ask(&get(uid, &[1; 32])), session(uid, b"a session"));
                }
            });
            let sent = flood.join().expect("a flood");
            assert!(worked.is_ok() && sent > 1000, "{sent} datagrams");
        });
        // While the rest of the flood arrives, the system may have no room for a get.
        until("quiet", || {
            udp.ask_for(&quiet);
            (!udp.is_silent()).then_some(())
        });
        let last = site.udp();
        until("a value", || last.get(&quiet));
    }
}

#[test]
fn packets_before_the_signal_are_answered_before_the_end() {
    for site in Site::both(&[]) {
        let (udp, key) = (site.udp(), key(&[1; 32]));
        udp.new_session(300, &key, b"a session");
        assert!(udp.get(&key).is_some());
        site.program.freeze();
        for _ in 0..10 {
            udp.ask_for(&key);
        }
        site.program.signal(Signal::TERM);
        site.program.signal(Signal::CONT);
        for _ in 0..10 {
            assert_eq!(udp.answer(&key), Some(b"a session".to_vec()));
        }
        assert_eq!(site.program.ended().code, 0);
    }
}

#[test]
fn a_program_that_listens_only_for_datagrams_keeps_running() {
    let dir = Dir::new();
    let proxy = ["-server", &dir.address("nobody")];
    for (program, arguments) in [(DC_SERVER, &[][..]), (DC_CLIENT, &proxy[..])] {
        let program = Program::start(program, &[&["-listen", ANY_DATAGRAMS], arguments].concat());
        let address = program.address();
        assert!(!address.ends_with(":0"), "it says its real port: {address}");
        let udp = DatagramClient::connect(&address);
        for _ in 0..3 {
            assert_eq!(udp.get(&key(b"")), None);
        }
        let ended = program.end(Signal::TERM);
        assert_eq!((ended.code, ended.out.lines().count()), (0, 1), "{ended:?}");
    }
}

#[test]
fn one_daemon_listens_on_several_addresses() {
    let dir = Dir::new();
    let (one, other) = (dir.address("one"), dir.address("other"));
    let places = [&one, &other, ANY_PORT, "IPv6:[::1]:0", ANY_DATAGRAMS, "SESSIOND:[::1]:0"];
    let words: Vec<_> = places.iter().flat_map(|place| ["-listen", place]).collect();
    let program = Program::start(DC_SERVER, &[&words[..], &["-sockperms", "600"]].concat());
    let addresses = program.addresses(places.len());
    assert_eq!(
        RawClient::connect(&addresses[0]).ask(&add(1, &[1; 32], b"a session")),
        status(1, ADD, 0)
    );
    for address in &addresses[..3] {
        assert_eq!(RawClient::connect(address).ask(&get(1, &[1; 32])), session(1, b"a session"));
    }
    let over_6 = addresses[3].replace("IPv6:", "IP:");
    assert_eq!(RawClient::connect(&over_6).ask(&get(1, &[1; 32])), session(1, b"a session"));
    for address in &addresses[4..] {
        assert_eq!(DatagramClient::connect(address).get(&[1; 32]), Some(b"a session".to_vec()));
    }
    let ended = program.end(Signal::TERM);
    assert!(ended.code == 0 && !ended.err.contains("warning"), "{ended:?}");
    assert!(dir.names().is_empty());
}

#[test]
fn an_invalid_address_for_datagrams_is_refused() {
    let program = Program::start(DC_SERVER, &["-listen", ANY_DATAGRAMS]);
    let taken = program.address();
    let refused = |program: &str, arguments: &[&str], reason: &str| {
        let ended = Program::run(program, arguments);
        let line = ended.err.lines().next().unwrap_or_default();
        assert!(ended.code == 1 && line.contains(reason), "{ended:?}");
    };
    refused(DC_SERVER, &["-listen", &taken], "in use by another server");
    refused(DC_SERVER, &["-listen", "SESSIOND:54321"], "its host is missing");
    refused(
        DC_SERVER,
        &["-listen", ANY_DATAGRAMS].repeat(17),
        "-listen is given more than 16 times",
    );
    refused(DC_CLIENT, &["-server", &taken], "SESSIOND is only for listening");
    refused(DC_SNOOP, &["-listen", &taken, "-server", &taken], "only dc_server and dc_client");
    let again = DatagramClient::connect(&taken);
    assert_eq!(again.get(&key(b"still there")), None);
    // A request of the stream protocol is no packet, and an answer needs no answer.
    again.send(&[&b"\0\x11\0\0\0\0\0\0\x07\0"[..], &[GET, 1, 0, 2], b"id"].concat());
    assert_eq!(again.get(&key(b"still there")), None);
}
