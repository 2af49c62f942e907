//! What the daemons keep of sessions: a search through the memory of each process.
//!
//! ```text
//!  client ─ dc_snoop -full ─ dc_client ─ dc_server
//! ```
#![cfg(target_os = "linux")]

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use distcache_testing::bytes::{
    ADD, GET, PUT, REMOVE, TAKE, add, add_for, add_payload, at_level, get, have, message, remove,
    session, status,
};
use distcache_testing::process::{Dir, Program, Signal, is_root};
use distcache_testing::raw_client::RawClient;
use distcache_testing::secret::{SECRET_LEN, Secret};
use distcache_testing::sessiond::{DatagramClient, key};
use distcache_testing::start::{self, ANY_PORT};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const DC_SNOOP: &str = env!("CARGO_BIN_EXE_dc_snoop");

const ID: &[u8] = b"an id of thirty-two bytes, no le";

/// Status of an ADD whose id is taken.
const EXISTS: u8 = 101;

/// The programs, each in front of the next.
struct Chain {
    snoop: Program,
    proxy: Program,
    server: Program,
    _dir: Dir,
}

impl Chain {
    fn new(server_arguments: &[&str]) -> Self {
        let dir = Dir::new();
        let server = start::server(DC_SERVER, &dir.address("server"), server_arguments);
        let (listen, address) = (dir.address("proxy"), server.address());
        let proxy = start::connected(DC_CLIENT, &listen, &address, &["-retry", "50"]);
        let snoop = start::before(DC_SNOOP, &dir.address("snoop"), &listen, &["-full"]);
        Self { snoop, proxy, server, _dir: dir }
    }

    fn client(&self) -> RawClient {
        RawClient::connect(&self.snoop.address())
    }

    /// Checks that no process has any part of a secret.
    fn has_none(&self, secret: &Secret, when: &str) {
        for (name, program) in
            [("dc_server", &self.server), ("dc_client", &self.proxy), ("dc_snoop", &self.snoop)]
        {
            secret.until_none_in(program.pid(), &format!("{when}, {name}"));
        }
    }

    /// Checks that the server alone has a secret, once.
    fn has_it_in_the_server_alone(&self, secret: &Secret, when: &str) {
        secret.until_one_in(self.server.pid(), when);
        secret.until_none_in(self.proxy.pid(), when);
        secret.until_none_in(self.snoop.pid(), when);
    }
}

fn put(uid: u32, id: &[u8], session: &[u8]) -> Vec<u8> {
    at_level(1, message(0, uid, PUT, &add_payload(60_000, id, session)))
}

fn take(uid: u32, id: &[u8]) -> Vec<u8> {
    at_level(1, message(0, uid, TAKE, id))
}

#[test]
fn a_stored_session_is_once_in_the_server_and_in_no_other_process() {
    if !is_root() {
        return;
    }
    let (chain, secret) = (Chain::new(&[]), Secret::new());
    let client = chain.client();
    assert_eq!(client.ask(&add(1, ID, &secret.reveal())), status(1, ADD, 0));
    chain.has_it_in_the_server_alone(&secret, "after ADD");
    assert_eq!(client.ask(&get(2, ID)), session(2, &secret.reveal()));
    chain.has_it_in_the_server_alone(&secret, "after GET");
    assert_eq!(client.ask(&add(3, ID, &secret.reveal())), status(3, ADD, EXISTS));
    chain.has_it_in_the_server_alone(&secret, "after a second ADD");
}

#[test]
fn a_session_that_is_removed_taken_or_replaced_leaves_no_copy() {
    if !is_root() {
        return;
    }
    let chain = Chain::new(&[]);
    let client = chain.client();
    // In one frame, and in many with others' bytes around it.
    for around in [0, 1, 2000, 15_000] {
        let (secret, next) = (Secret::new(), Secret::new());
        let whole = |secret: &Secret| [vec![7; around], secret.reveal(), vec![9; around]].concat();
        let stored = |uid, op| at_level(1, status(uid, op, 0));
        let store = || assert_eq!(client.ask(&put(1, ID, &whole(&secret))), stored(1, PUT));
        store();
        secret.until_one_in(chain.server.pid(), "after PUT");
        assert_eq!(client.ask(&get(2, ID)), session(2, &whole(&secret)));
        assert_eq!(client.ask(&remove(3, ID)), status(3, REMOVE, 0));
        chain.has_none(&secret, "after REMOVE");
        store();
        let taken = at_level(1, message(1, 4, TAKE, &whole(&secret)));
        assert_eq!(client.ask(&take(4, ID)), taken);
        chain.has_none(&secret, "after TAKE");
        store();
        assert_eq!(client.ask(&put(5, ID, &whole(&next))), stored(5, PUT));
        chain.has_none(&secret, "after PUT");
        next.until_one_in(chain.server.pid(), "after PUT");
    }
}

#[test]
fn a_session_that_expires_leaves_no_copy_though_nobody_asks() {
    if !is_root() {
        return;
    }
    let (chain, secret) = (Chain::new(&[]), Secret::new());
    let client = chain.client();
    let request = add_for(1, 1000, ID, &secret.reveal());
    assert_eq!(client.ask(&request), status(1, ADD, 0));
    chain.has_none(&secret, "after its lifetime");
}

#[test]
fn a_session_that_is_evicted_leaves_no_copy() {
    if !is_root() {
        return;
    }
    let (chain, secret) = (Chain::new(&["-sessions", "8"]), Secret::new());
    let client = chain.client();
    assert_eq!(client.ask(&add(1, ID, &secret.reveal())), status(1, ADD, 0));
    for number in 0..8 {
        assert_eq!(client.ask(&add(2, &[number; 8], &[3; SECRET_LEN])), status(2, ADD, 0));
    }
    assert_eq!(client.ask(&get(3, ID)), status(3, GET, 1));
    chain.has_none(&secret, "after its eviction");
}

#[test]
fn a_session_that_is_not_stored_leaves_no_copy() {
    if !is_root() {
        return;
    }
    let (chain, secret) = (Chain::new(&["-maxmem", "64K"]), Secret::new());
    let client = chain.client();
    assert_eq!(client.ask(&add(1, ID, &[3; 40])), status(1, ADD, 0));
    assert_eq!(client.ask(&add(2, ID, &secret.reveal())), status(2, ADD, EXISTS));
    chain.has_none(&secret, "after an ADD of a stored id");
    let large = [secret.reveal().repeat(100), vec![1; 10_000]].concat();
    let answers = [[7; 4], [8; 4]].map(|id| client.ask(&add(3, &id, &large)));
    assert!(answers.iter().all(|answer| answer.len() == 15), "a status for each");
    for id in [[7; 4], [8; 4]] {
        client.ask(&remove(4, &id));
    }
    chain.has_none(&secret, "after an ADD without room");
    // Each closes the connection, behind the session.
    for bytes in [
        [add(5, b"other", &secret.reveal()), b"nonsense, but long enough".to_vec()].concat(),
        message(0, 5, 77, &secret.reveal()),
        message(1, 5, ADD, &secret.reveal()),
        secret.reveal(),
    ] {
        let stranger = chain.client();
        stranger.send(&bytes);
        stranger.rest();
        client.ask(&remove(6, b"other"));
        chain.has_none(&secret, "after a malformed message");
    }
}

#[test]
fn a_client_that_leaves_mid_request_leaves_no_copy() {
    if !is_root() {
        return;
    }
    let (chain, secret) = (Chain::new(&[]), Secret::new());
    let request = add(1, ID, &[secret.reveal(), vec![7; 20_000]].concat());
    for len in [14 + 8 + ID.len() + SECRET_LEN, 14 + 2048, request.len() - 1] {
        for address in [&chain.snoop, &chain.proxy, &chain.server].map(Program::address) {
            let client = RawClient::connect(&address);
            client.send(&request[..len]);
            let holder =
                if address == chain.server.address() { &chain.server } else { &chain.proxy };
            secret.until_some_in(holder.pid());
            drop(client);
            chain.has_none(&secret, "after half a request");
        }
    }
}

#[test]
fn answers_that_nobody_reads_leave_no_copy() {
    if !is_root() {
        return;
    }
    let (chain, secret) = (Chain::new(&[]), Secret::new());
    let client = chain.client();
    let large = [vec![7; 20_000], secret.reveal()].concat();
    assert_eq!(client.ask(&add(1, ID, &large)), status(1, ADD, 0));
    for address in [&chain.snoop, &chain.proxy, &chain.server].map(Program::address) {
        let reader = RawClient::connect(&address);
        // More than the sockets on the way have room for.
        reader.send_available(&get(2, ID).repeat(2000));
        reader.take(1);
        drop(reader);
    }
    assert_eq!(client.ask(&remove(3, ID)), status(3, REMOVE, 0));
    chain.has_none(&secret, "after answers that nobody has read");
}

#[test]
fn a_server_that_is_lost_leaves_no_copy_in_its_proxy() {
    if !is_root() {
        return;
    }
    let (chain, secret) = (Chain::new(&[]), Secret::new());
    let client = chain.client();
    assert_eq!(client.ask(&have(1, ID)).len(), 15);
    chain.server.freeze();
    client.send(&add(2, ID, &secret.reveal()));
    client.send(&get(3, ID));
    secret.until_none_in(chain.snoop.pid(), "while the server hangs");
    chain.server.signal(Signal::KILL);
    assert_eq!(client.message(), status(2, ADD, 2));
    assert_eq!(client.message(), status(3, GET, 2));
    secret.until_none_in(chain.proxy.pid(), "after the loss of its server");
    secret.until_none_in(chain.snoop.pid(), "after the loss of its server");
}

#[test]
fn a_session_in_datagrams_leaves_no_copy() {
    if !is_root() {
        return;
    }
    let datagrams = ["-listen", ANY_PORT, "-listen", "SESSIOND:127.0.0.1:0"];
    let server = Program::start(DC_SERVER, &datagrams);
    let [stream, to_server] = server.addresses(2).try_into().expect("two addresses");
    let behind = ["-server", &stream, "-servertimeout", "10000"];
    let proxy = Program::start(DC_CLIENT, &[&datagrams[..], &behind].concat());
    proxy.err.wait_for("connected to ");
    let [_, to_proxy] = proxy.addresses(2).try_into().expect("two addresses");
    for address in [to_server, to_proxy] {
        let udp = DatagramClient::connect(&address);
        for first in [true, false] {
            let secret = Secret::new();
            let key = key(ID);
            udp.new_session(300, &key, &secret.reveal());
            distcache_testing::process::until("the session", || {
                (udp.get(&key) == Some(secret.reveal())).then_some(())
            });
            secret.until_one_in(server.pid(), "after a new");
            secret.until_none_in(proxy.pid(), "after a new");
            if first {
                udp.remove(&key);
            } else {
                udp.new_session(300, &key, b"another session");
            }
            secret.until_none_in(server.pid(), "after its end");
            secret.until_none_in(proxy.pid(), "after its end");
        }
        for (number, bytes) in [[1, 0x55], [9, 0]].iter().enumerate() {
            let secret = Secret::new();
            udp.send(&[&bytes[..], &[0; 34], &secret.reveal()].concat());
            assert_eq!(udp.get(&key(&[number as u8 + 1])), None);
            secret.until_none_in(server.pid(), "after a malformed datagram");
            secret.until_none_in(proxy.pid(), "after a malformed datagram");
        }
    }
}

#[test]
fn an_upstream_connection_that_lies_leaves_no_copy() {
    if !is_root() {
        return;
    }
    let dir = Dir::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("IP:{}", listener.local_addr().expect("it has one"));
    let proxy = start::before(DC_CLIENT, &dir.address("c"), &address, &["-retry", "50"]);
    let secret = Secret::new();
    for _ in 0..3 {
        let (mut stream, _) = listener.accept().expect("the proxy");
        let answer = message(1, 0xffff, GET, &secret.reveal());
        let bytes = [answer, secret.reveal()].concat();
        std::io::Write::write_all(&mut stream, &bytes).expect("it reads");
        std::io::Read::read_to_end(&mut stream, &mut Vec::new()).ok();
        secret.until_none_in(proxy.pid(), "after a stray answer");
    }
}

#[test]
fn the_search_finds_a_copy_that_is_there() {
    if !is_root() {
        return;
    }
    let dir = Dir::new();
    let listener = UnixListener::bind(dir.join("s")).expect("a free path");
    let snoop = start::before(DC_SNOOP, &dir.address("c"), &dir.address("s"), &["-full"]);
    let secret = Secret::new();
    let client = RawClient::connect(&dir.address("c"));
    let (server, _) = listener.accept().expect("the snoop");
    // An unfinished message: the snoop keeps what it will print.
    let request = add(1, ID, &[secret.reveal(), vec![1; 100]].concat());
    client.send(&request[..request.len() - 1]);
    secret.until_some_in(snoop.pid());
    drop((client, server));
    secret.until_none_in(snoop.pid(), "after the connection");
}

/// What a log must not contain: an id or a session, raw, as hexadecimal digits or in Base64.
fn check_log(log: &str, secrets: &[&Secret]) {
    let lower = log.to_lowercase();
    for secret in secrets {
        // Pieces: a log may show a part.
        for at in 0..SECRET_LEN / 8 {
            let bytes = &secret.reveal()[8 * at..][..8];
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let decimal: Vec<_> = bytes.iter().map(u8::to_string).collect();
            for shown in [hex, decimal.join(", ")] {
                assert!(!lower.contains(&shown), "a log shows a secret: {log}");
            }
            let raw = String::from_utf8_lossy(bytes).into_owned();
            assert!(!log.contains(&raw), "a log shows a secret: {log}");
            let base64 =
                base64(&secret.reveal()[24 * (at / 3)..][..24.min(SECRET_LEN - 24 * (at / 3))]);
            assert!(!log.contains(&base64[..10]), "a log shows a secret: {log}");
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |three: &[u8], at: usize| {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize])
    };
    bytes.as_chunks::<3>().0.iter().flat_map(|three| (0..4).map(|at| digit(three, at))).collect()
}

#[test]
fn no_log_shows_an_id_or_a_session() {
    let dir = Dir::new();
    let datagrams = "SESSIOND:127.0.0.1:0";
    let server = Program::start(
        DC_SERVER,
        &["-listen", &dir.address("s"), "-listen", datagrams, "-progress", "1", "-sessions", "8"],
    );
    server.addresses(2);
    let more = ["-listen", datagrams, "-retry", "50", "-maxconn", "4"];
    let proxy = start::connected(DC_CLIENT, &dir.address("c"), &dir.address("s"), &more);
    let snoop = start::before(DC_SNOOP, &dir.address("n"), &dir.address("c"), &[]);
    let (ids, data) = (Secret::new(), Secret::new());
    let [id, other] = [0, 64].map(|at| ids.reveal()[at..at + 64].to_vec());
    for address in [dir.address("s"), dir.address("c")] {
        let client = RawClient::connect(&address);
        for id in [&id, &other] {
            let requests = [
                add(1, id, &data.reveal()),
                add(1, id, &data.reveal()),
                put(2, id, &data.reveal()),
                get(3, id),
                have(4, id),
                remove(5, id),
                remove(5, id),
                take(6, id),
                add_for(7, 0, id, &data.reveal()),
                add_for(7, u32::MAX, id, &data.reveal()),
                add(8, id, &data.reveal().repeat(157)),
            ];
            requests.iter().for_each(|request| drop(client.ask(request)));
            for bytes in [
                data.reveal(),
                message(0, 1, 77, &[&id[..], &data.reveal()].concat()),
                message(1, 1, ADD, &add_payload(1, id, &data.reveal())),
                message(
                    0,
                    1,
                    ADD,
                    &[&[0, 0, 0, 1, 0xff, 0, 0, 0][..], id, &data.reveal()].concat(),
                ),
            ] {
                let stranger = RawClient::connect(&address);
                stranger.send(&bytes);
                stranger.finish();
                stranger.rest();
            }
        }
        // Leaves in the middle of a request.
        client.send(&add(9, &id, &data.reveal())[..200]);
    }
    // The snoop shows the first 6 bytes of ids, and of sessions nothing.
    let client = RawClient::connect(&dir.address("n"));
    client.ask(&add(1, &id, &data.reveal()));
    client.ask(&get(2, &id));
    drop(client);
    let (proxy, server) = (proxy.end(Signal::TERM), server.end(Signal::TERM));
    let snooped = snoop.end(Signal::TERM);
    for ended in [&proxy, &server, &snooped] {
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.out.len() + ended.err.len() > 100, "{ended:?}");
    }
    for ended in [proxy, server] {
        check_log(&(ended.out + &ended.err), &[&ids, &data]);
    }
    check_log(&(snooped.out + &snooped.err), &[&data]);
}
