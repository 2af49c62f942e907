//! A started daemon allocates nothing: every allocation of the thread of its loop is counted.
//!
//! The daemons are this test program itself, started again as a process in which the test
//! `a_daemon` runs the loop of `dc_server` or `dc_client`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use distcache_core::Limits;
use distcache_posix::load::{self, Config, protocol::Distcache};
use distcache_posix::proxy::SealConfig;
use distcache_posix::seal_keys::KeyFile;
use distcache_posix::{program, proxy, server, state};
use distcache_testing::bytes::{add, add_for, frame, get, have, message, remove, status};
use distcache_testing::memory::limits;
use distcache_testing::process::{Dir, Program, Signal, until};
use distcache_testing::raw_client::{RawClient, ask_until};
use distcache_testing::sessiond::{self, DatagramClient};

/// Counts the allocations of one thread.
struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if COUNTED.try_with(Cell::get) == Ok(true) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on unchanged to an allocator that keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ROLE: &str = "NO_ALLOC_ROLE";
const LISTEN: &str = "NO_ALLOC_LISTEN";
const SERVER: &str = "NO_ALLOC_SERVER";
const COUNTER: &str = "NO_ALLOC_COUNTER";

const CLIENTS: usize = 8;
const SESSIONS: u32 = 64;
const PATIENCE: u64 = 400;
const LIMITS: Limits = limits(900, PATIENCE);

/// What runs in the processes that other tests start. By itself it does nothing.
#[test]
fn a_daemon() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let [listen, server, counter] =
        [LISTEN, SERVER, COUNTER].map(|name| std::env::var(name).unwrap());
    let counter_path = counter.clone();
    let counter = UnixListener::bind(counter).unwrap();
    std::thread::spawn(move || {
        for udp in counter.incoming() {
            let _ = writeln!(udp.unwrap(), "{}", COUNT.load(Ordering::Relaxed));
        }
    });
    let mut service = program::daemon("daemon", &listen).unwrap();
    let listen = [&listen, "SESSIOND:127.0.0.1:0"];
    service.listen = listen.map(|address| address.parse().unwrap()).to_vec();
    service.reloads = role == "sealing";
    let running = service.start().unwrap();
    COUNTED.set(true);
    if role == "server" {
        let config = server::Config {
            sessions: SESSIONS,
            max_bytes: Some(1 << 18),
            clients: CLIENTS,
            limits: LIMITS,
            min_lifetime: Duration::ZERO,
            max_lifetime: Duration::from_secs(86_400),
            progress: 50,
            state: Some(state::Config {
                path: state_file(&counter_path),
                every: Some(Duration::from_secs(1)),
                seal_keys: None,
            }),
            allow_copy: false,
            proxy_retry: Duration::ZERO,
            copy_from: Vec::new(),
            copy_share: None,
        };
        server::run(&config, running).unwrap();
    } else {
        let servers: Vec<_> = server.split(' ').map(|server| server.parse().unwrap()).collect();
        let config = proxy::Config {
            anycast: false,
            copies: servers.len() as u8,
            servers,
            clients: CLIENTS,
            limits: LIMITS,
            server_patience: PATIENCE,
            retry: 50,
            min_ttl: 0,
            seal: (role == "sealing").then(|| SealConfig {
                keys: KeyFile::new(Path::new(&format!(
                    "{}.keys",
                    listen[0].trim_start_matches("UNIX:")
                ))),
                mixed: false,
            }),
        };
        proxy::run(&config, running).unwrap();
    }
    COUNTED.set(false);
    println!("\nin all {} allocations", COUNT.load(Ordering::Relaxed));
}

/// The state file of a server whose counter is at `counter`.
fn state_file(counter: &str) -> PathBuf {
    format!("{counter}.state").into()
}

/// A daemon whose allocations are counted.
struct Daemon {
    program: Program,
    address: String,
    datagrams: String,
    counter: String,
}

impl Daemon {
    fn start(role: &str, listen: &str, server: &str) -> Self {
        let counter = format!("{}.count", listen.trim_start_matches("UNIX:"));
        let _ = std::fs::remove_file(&counter);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "a_daemon", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, role).env(LISTEN, listen).env(SERVER, server).env(COUNTER, &counter);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let program = Program::spawn(command);
        let [address, datagrams] = program.addresses(2).try_into().unwrap();
        assert_eq!(address, listen);
        Self { program, address, datagrams, counter }
    }

    fn server(dir: &Dir) -> Self {
        Self::server_at(&dir.address("server"))
    }

    fn server_at(address: &str) -> Self {
        Self::start("server", address, "")
    }

    fn allocations(&self) -> u64 {
        let mut count = String::new();
        UnixStream::connect(&self.counter).unwrap().read_to_string(&mut count).unwrap();
        count.trim().parse().unwrap()
    }

    /// Ends it with SIGTERM, and returns how many allocations it made.
    fn end(self) -> u64 {
        let ended = self.program.end(Signal::TERM);
        assert_eq!(ended.code, 0, "{ended:?}");
        let (_, count) = ended.out.split_once("in all ").expect("how much");
        count.split_whitespace().next().unwrap().parse().unwrap()
    }
}

fn id(number: u32) -> [u8; 32] {
    let mut id = [7; 32];
    id[..4].copy_from_slice(&number.to_be_bytes());
    id
}

#[test]
fn a_server_that_writes_its_state_allocates_nothing() {
    let dir = Dir::new();
    let daemon = Daemon::server(&dir);
    send_all_requests(&daemon.address);
    let before = daemon.allocations();
    let state = state_file(&daemon.counter);
    for _ in 0..2 {
        until("a state", || state.exists().then_some(()));
        std::fs::remove_file(&state).unwrap();
    }
    assert_eq!(daemon.allocations(), before);
    daemon.end();
}

const LARGE: usize = 30_000;

/// Returns a client with a place, once one is free: earlier clients may still be leaving.
fn connect_when_possible(address: &str) -> RawClient {
    until("a place is free", || {
        let caller = RawClient::try_connect(address).ok()?;
        caller.try_ask(&have(1, b"id")).ok()?;
        Some(caller)
    })
}

/// Sends every kind of request, valid and invalid.
fn send_all_requests(address: &str) {
    let caller = connect_when_possible(address);
    let large = vec![5; LARGE];
    let requests = [
        add(1, &id(1), b"session"),
        add(2, &id(1), b"session"),
        get(3, &id(1)),
        get(4, &id(2)),
        have(5, &id(1)),
        have(6, &id(2)),
        remove(7, &id(1)),
        remove(8, &id(1)),
        add(9, &id(3), &large),
        get(10, &id(3)),
        add_for(11, u32::MAX, &id(4), b"session"),
        add(12, &id(4), b""),
        add(13, &[1; 65], b"session"),
        add(14, b"", b"session"),
        get(15, &[1; 65]),
        get(16, b""),
        remove(17, &[2; 5000]),
    ];
    for request in &requests {
        assert!(!caller.ask(request).is_empty());
    }
    caller.send(&requests.concat());
    for _ in &requests {
        caller.message();
    }
    for byte in get(18, &id(3)) {
        caller.send(&[byte]);
    }
    assert!(caller.message().len() > LARGE);
}

/// Sends garbage, and leaves at any time.
fn send_garbage(address: &str) {
    for wrong in [
        b"GET / HTTP/1.0\r\n\r\n".to_vec(),
        frame(1, 1, 1, 1, b"id"),
        frame(0, 1, 4, 1, b"id"),
        frame(0, 1, 1, 0, b"id"),
        message(0, 1, 0, b"short"),
        [frame(0, 1, 1, 0, &[1; 2048]), frame(0, 2, 1, 1, b"")].concat(),
    ] {
        let caller = RawClient::connect(address);
        caller.send(&[get(1, &id(2)), wrong].concat());
        caller.rest();
    }
    for cut in [0, 5, 14, 20] {
        RawClient::connect(address).send(&get(1, &id(3))[..cut]);
        let caller = RawClient::connect(address);
        caller.send(&get(1, &id(3)));
        caller.send(&get(2, &id(3))[..cut]);
        caller.finish();
        caller.rest();
    }
    let crowd: Vec<_> = (0..3 * CLIENTS).map(|_| RawClient::connect(address)).collect();
    crowd.iter().for_each(|caller| caller.send(&get(1, &id(3))));
    drop(crowd);
}

/// Connects clients that send nothing, that do not finish, and that do not read.
fn connect_idle(address: &str) {
    let [idle, begun, deaf] = [(); 3].map(|()| connect_when_possible(address));
    begun.send(&get(1, &id(3))[..20]);
    let requests = get(1, &id(3)).repeat(200);
    while deaf.send_available(&requests) == requests.len() {}
    begun.rest();
    idle.rest();
    until("the client that never reads is closed", || deaf.is_closed().then_some(()));
}

/// Sends every kind of datagram, valid and invalid, and more at a time than there are places.
fn send_datagrams(datagrams: &str) {
    let udp = DatagramClient::connect(datagrams);
    let key = sessiond::key(&[8; 32]);
    until("a place", || {
        udp.new_session(300, &key, b"a session");
        udp.get(&key)
    });
    until("what is new", || {
        udp.new_session(300, &key, &[9; 512]);
        (udp.get(&key)? == [9; 512]).then_some(())
    });
    for wrong in [&b""[..], b"nonsense", &[1; 9000]] {
        udp.send(wrong);
    }
    for _ in 0..5 {
        (0..4 * CLIENTS).for_each(|_| udp.ask_for(&key));
        (0..4 * CLIENTS).for_each(|_| drop(udp.answer(&key)));
    }
    until("that it is gone", || {
        udp.remove(&key);
        udp.get(&key).is_none().then_some(())
    });
}

/// Stores more sessions than there is room for, some of which expire.
fn fill_table(address: &str) {
    let caller = connect_when_possible(address);
    for number in 100..100 + 4 * SESSIONS {
        let stored = caller.ask(&add_for(number, 100 + number, &id(number), &[1; 700]));
        assert_eq!(stored, status(number, 0, 0));
    }
    let last = 100 + 4 * SESSIONS - 1;
    ask_until(address, &get(1, &id(last)), &status(1, 1, 1));
}

/// Waits until a full server has reported that it has dropped all expired sessions.
fn wait_until_expired(server: &Daemon) {
    server.program.out.find("a report that all are gone", |text| {
        let whole = &text[..text.rfind('\n')?];
        let lines = whole.lines().filter_map(|line| line.split_once("total sessions "));
        let counts = lines.filter_map(|(_, behind)| behind.split(' ').next()?.parse::<u32>().ok());
        let counts: Vec<_> = counts.collect();
        (counts.contains(&SESSIONS) && counts.last() == Some(&0)).then_some(())
    });
}

#[test]
fn a_started_server_allocates_nothing() {
    let dir = Dir::new();
    let server = Daemon::server(&dir);
    let address = server.address.as_str();
    ask_until(address, &get(1, b"id"), &status(1, 1, 1));
    let before = server.allocations();
    assert!(before > 0, "allocations at the start are counted");
    for visit in [send_all_requests, send_garbage, send_all_requests, connect_idle, fill_table] {
        visit(address);
        send_datagrams(&server.datagrams);
        assert_eq!(server.allocations() - before, 0);
    }
    wait_until_expired(&server);
    assert_eq!(server.end() - before, 0, "the end allocates nothing");
}

#[test]
fn a_proxy_allocates_nothing_whatever_happens_to_its_server() {
    let dir = Dir::new();
    let server = Daemon::server(&dir);
    let proxy = Daemon::start("client", &dir.address("proxy"), &server.address);
    let address = proxy.address.as_str();
    ask_until(address, &get(1, b"id"), &status(1, 1, 1));
    let before = proxy.allocations();
    assert!(before > 0, "allocations at the start are counted");
    for visit in [send_all_requests, send_garbage, send_all_requests, connect_idle, fill_table] {
        visit(address);
        send_datagrams(&proxy.datagrams);
        assert_eq!(proxy.allocations() - before, 0);
    }
    let server = replace_server(&dir, server, &proxy);
    send_all_requests(address);
    send_datagrams(&proxy.datagrams);
    assert_eq!(proxy.allocations() - before, 0);
    assert_eq!(proxy.end() - before, 0, "the end allocates nothing");
    drop(server);
}

#[test]
fn a_proxy_that_seals_allocates_nothing_when_it_reads_its_keys_again_either() {
    let dir = Dir::new();
    let server = Daemon::server(&dir);
    let keys = dir.join("proxy.keys");
    let write_keys = |text: &str| {
        std::fs::write(&keys, text).unwrap();
        std::fs::set_permissions(&keys, Permissions::from_mode(0o600)).unwrap();
    };
    write_keys(&"01".repeat(32));
    let proxy = Daemon::start("sealing", &dir.address("proxy"), &server.address);
    let address = proxy.address.as_str();
    ask_until(address, &get(1, b"id"), &status(1, 1, 1));
    let before = proxy.allocations();
    for visit in [send_all_requests, send_garbage, send_all_requests, fill_table] {
        visit(address);
        send_datagrams(&proxy.datagrams);
        assert_eq!(proxy.allocations() - before, 0);
    }
    // Sessions that do not open, keys that change, and keys that are refused.
    let direct = connect_when_possible(&server.address);
    direct.ask(&add(1, b"in clear", b"a session"));
    assert_eq!(connect_when_possible(address).ask(&get(2, b"in clear")), status(2, 1, 1));
    write_keys(&"02".repeat(32));
    proxy.program.signal(Signal::HUP);
    proxy.program.err.wait_for("read 1 key from");
    write_keys("no key");
    proxy.program.signal(Signal::HUP);
    proxy.program.err.wait_for("the old keys stay");
    assert_eq!(proxy.allocations() - before, 0);
    assert_eq!(proxy.end() - before, 0, "the end allocates nothing");
    drop(server);
}

#[test]
fn a_proxy_with_replicas_allocates_nothing_when_a_server_dies_and_comes_back() {
    let dir = Dir::new();
    let addresses = ["first", "second"].map(|name| dir.address(name));
    let [first, second] = [0, 1].map(|number| Daemon::server_at(&addresses[number]));
    let proxy = Daemon::start("client", &dir.address("proxy"), &addresses.join(" "));
    let address = proxy.address.as_str();
    ask_until(address, &get(1, b"id"), &status(1, 1, 1));
    let before = proxy.allocations();
    for visit in [send_all_requests, send_garbage, fill_table] {
        visit(address);
        send_datagrams(&proxy.datagrams);
        assert_eq!(proxy.allocations() - before, 0);
    }
    // The server may have closed the proxy's connection as idle, which is made again first.
    let served = || ask_until(address, &get(1, b"id"), &status(1, 1, 1));
    drop(second);
    served();
    send_all_requests(address);
    let second = Daemon::server_at(&addresses[1]);
    ask_until(&addresses[1], &get(1, b"id"), &status(1, 1, 1));
    drop(first);
    served();
    send_all_requests(address);
    assert_eq!(proxy.end() - before, 0);
    drop(second);
}

#[test]
fn a_load_allocates_nothing_while_it_is_timed() {
    let dir = Dir::new();
    let server = Program::start(env!("CARGO_BIN_EXE_dc_server"), &["-listen", &dir.address("s")]);
    let address = server.address().parse().unwrap();
    for short_lived in [false, true] {
        let allocations = [50, 400].map(|millis| {
            let time = Duration::from_millis(millis);
            let config = Config { clients: 5, keys: 100, time, short_lived, ..Config::default() };
            let before = COUNT.load(Ordering::Relaxed);
            COUNTED.set(true);
            let report = load::run(&config, &Distcache, &address);
            COUNTED.set(false);
            let report = report.unwrap();
            assert!(report.hits > 0 && report.adds > 0, "{report}");
            COUNT.load(Ordering::Relaxed) - before
        });
        assert_eq!(allocations[0], allocations[1], "the same number, however long it takes");
    }
}

/// Kills the server with a request in flight, leaves it away, and brings it back: one that sends
/// garbage, one that sends nothing, and the real one.
fn replace_server(dir: &Dir, server: Daemon, proxy: &Daemon) -> Daemon {
    let address = proxy.address.as_str();
    let away = status(1, 1, 2);
    let caller = connect_when_possible(address);
    server.program.freeze();
    caller.send(&get(1, b"id"));
    drop(server);
    assert_eq!(caller.message(), away);
    proxy.program.err.wait_for(" is unreachable (");
    for _ in 0..20 {
        assert_eq!(connect_when_possible(address).ask(&get(1, b"id")), away);
        // Failed attempts to connect are not reported, so only time can be waited for.
        std::thread::sleep(Duration::from_millis(20));
    }
    for (nonsense, name) in [(&b"nonsense, and more than a header"[..], "odd"), (b"", "silent")] {
        let path = dir.join("server");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let mut stream = listener.accept().unwrap().0;
        let caller = RawClient::connect(address);
        caller.send(&get(1, b"id"));
        let _ = stream.write_all(nonsense);
        assert_eq!(caller.message(), away, "{name}");
    }
    let _ = std::fs::remove_file(dir.join("server"));
    let server = Daemon::server(dir);
    ask_until(address, &get(1, b"id"), &status(1, 1, 1));
    server
}
