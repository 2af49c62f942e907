//! `dc_client -sealkeys` with real servers: what they see, and how keys come and go.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use distcache_testing::bytes::{
    ADD, GET, HAVE, TAKE, add, add_payload, at_level, get, have, message, remove, session, status,
};
use distcache_testing::daemon::Daemon;
use distcache_testing::process::{Dir, Ended, Program, Signal, is_root, until};
use distcache_testing::raw_client::{RawClient, ask_until};
use distcache_testing::sessiond::{self, DatagramClient};
use distcache_testing::start;

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

/// A key of which every byte is `byte`, as a line.
fn line(byte: u8) -> String {
    format!("{byte:02x}").repeat(32) + "\n"
}

/// Writes a key file of mode 600 in one step, and returns its path.
fn write_keys(dir: &Dir, text: &str) -> String {
    let fresh = dir.join("keys.new");
    fs::write(&fresh, text).expect("a new file");
    fs::set_permissions(&fresh, Permissions::from_mode(0o600)).expect("its mode");
    fs::rename(&fresh, dir.join("keys")).expect("its name");
    dir.text("keys")
}

fn keys(dir: &Dir, bytes: &[u8]) -> String {
    write_keys(dir, &bytes.iter().map(|byte| line(*byte)).collect::<String>())
}

fn server(dir: &Dir) -> Program {
    start::server(DC_SERVER, &dir.address("server"), &[])
}

/// Starts a proxy called `name` in front of `server`, which it is connected to.
fn proxy(dir: &Dir, name: &str, server: &str, arguments: &[&str]) -> Program {
    let patient = ["-retry", "50", "-servertimeout", "10000"];
    start::connected(DC_CLIENT, &dir.address(name), server, &[&patient, arguments].concat())
}

/// Has a program read its keys again, and waits until it says `what`.
fn reload(program: &Program, what: &str) -> String {
    let before = program.err.so_far().matches(what).count();
    program.signal(Signal::HUP);
    program.err.wait_for_nth(what, before + 1)
}

/// Relays connections to `server`, and keeps all bytes that go by.
fn tap(dir: &Dir, server: String) -> (String, Arc<Mutex<Vec<u8>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let listener = UnixListener::bind(dir.join("tap")).expect("a socket");
    let kept = Arc::clone(&seen);
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let far = UnixStream::connect(server.trim_start_matches("UNIX:")).expect("the server");
            let ends = [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))];
            for (from, to) in ends {
                let (mut from, mut to) = (from.expect("a copy"), to.expect("a copy"));
                let seen = Arc::clone(&kept);
                std::thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Ok(len @ 1..) = from.read(&mut bytes) {
                        seen.lock().expect("no panic").extend(&bytes[..len]);
                        if to.write_all(&bytes[..len]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    (dir.address("tap"), seen)
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Whether `wanted` is in the memory of a process.
fn holds(pid: u32, wanted: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("its memory");
    let mut bytes = vec![0; 1 << 20];
    for map in maps.lines().filter(|map| !map.contains("[v") && map.contains(" rw")) {
        let (start, end) =
            map.split(' ').next().and_then(|range| range.split_once('-')).expect(map);
        let [mut at, end] = [start, end].map(|at| u64::from_str_radix(at, 16).expect("a number"));
        while at < end {
            let len = bytes.len().min((end - at) as usize);
            let Ok(read @ 1..) = memory.read_at(&mut bytes[..len], at) else { break };
            if contains(&bytes[..read], wanted) {
                return true;
            }
            // What lies across the end of a piece is found too.
            at += if at + (read as u64) < end {
                (read - wanted.len().min(read - 1)) as u64
            } else {
                read as u64
            };
        }
    }
    false
}

fn secret(number: u8) -> Vec<u8> {
    (0..600_u32).map(|at| (at.wrapping_mul(0x9E37_79B9) >> 11) as u8 ^ number).collect()
}

#[test]
fn no_byte_of_a_session_is_on_the_wire_or_in_the_memory_of_the_server() {
    for sealed in [false, true] {
        let dir = Dir::new();
        // Small, so that it is searched in no time.
        let small = ["-sessions", "1000", "-maxmem", "1M", "-maxconn", "8"];
        let server = start::server(DC_SERVER, &dir.address("server"), &small);
        let (tap, seen) = tap(&dir, dir.address("server"));
        let keys = keys(&dir, &[1]);
        let arguments: &[&str] = if sealed { &["-sealkeys", &keys] } else { &[] };
        let _proxy = proxy(&dir, "client", &tap, arguments);
        let caller = RawClient::connect(&dir.address("client"));
        for number in 0..50 {
            let id = [number; 32];
            assert_eq!(caller.ask(&add(1, &id, &secret(number))), status(1, ADD, 0));
            assert_eq!(caller.ask(&get(2, &id)), session(2, &secret(number)));
        }
        let taken = caller.ask(&at_level(1, message(0, 3, TAKE, &[0; 32])));
        assert_eq!(taken, at_level(1, message(1, 3, TAKE, &secret(0))));
        let wire = seen.lock().expect("no panic").clone();
        assert!(contains(&wire, &[7; 32]), "ids are not sealed");
        for number in 0..50 {
            let part = &secret(number)[100..116];
            assert_eq!(contains(&wire, part), !sealed, "session {number} on the wire");
        }
        if is_root() {
            for number in [1, 20, 49] {
                assert!(holds(server.pid(), &[number; 32]), "its id is there");
                let part = &secret(number)[100..116];
                assert_eq!(holds(server.pid(), part), !sealed, "session {number} in memory");
            }
        }
    }
}

/// Stores sessions through one proxy and fetches them through the other, while `running` is set.
fn exchange(addresses: [String; 2], thread: u8, running: &AtomicBool, done: &AtomicUsize) {
    let [stores, fetches] = addresses.map(|address| RawClient::connect(&address));
    let mut count = 0_u32;
    while running.load(Ordering::Relaxed) {
        let id = [&[thread][..], &count.to_be_bytes()].concat();
        assert_eq!(stores.ask(&add(count, &id, &secret(thread))), status(count, ADD, 0));
        let got = fetches.ask(&get(count, &id));
        assert!(got == session(count, &secret(thread)), "session {count} of {thread}");
        assert_eq!(fetches.ask(&remove(count, &id)), status(count, 2, 0));
        count += 1;
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn keys_rotate_under_load_without_a_miss() {
    let (dirs, dir) = ([Dir::new(), Dir::new()], Dir::new());
    let _server = server(&dir);
    let proxies = dirs.each_ref().map(|own| {
        let keys = keys(own, &[1]);
        proxy(own, "client", &dir.address("server"), &["-sealkeys", &keys])
    });
    let addresses = dirs.each_ref().map(|own| own.address("client"));
    let old = RawClient::connect(&addresses[0]);
    assert_eq!(old.ask(&add(1, b"old", b"an old session")), status(1, ADD, 0));
    let (running, done) = (AtomicBool::new(true), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let [near, far] = &addresses;
        for (thread, ways) in [(0, [near, far]), (1, [far, near]), (2, [near, far])] {
            let ways = ways.map(String::clone);
            let (running, done) = (&running, &done);
            scope.spawn(move || exchange(ways, thread, running, done));
        }
        // Even if a step fails, the threads must end.
        let stop = Stop(&running);
        for round in 0..3_u8 {
            let (before, after) = (1 + round, 2 + round);
            for step in [&[before, after][..], &[after, before], &[after]] {
                for (own, proxy) in dirs.iter().zip(&proxies) {
                    keys(own, step);
                    reload(proxy, &format!("read {} key", step.len()));
                    let so_far = done.load(Ordering::Relaxed);
                    until("requests", || (done.load(Ordering::Relaxed) > so_far + 9).then_some(()));
                }
                if round == 0 && step.len() > 1 {
                    for address in &addresses {
                        let caller = RawClient::connect(address);
                        assert_eq!(caller.ask(&get(2, b"old")), session(2, b"an old session"));
                    }
                }
            }
        }
        drop(stop);
    });
    // A session stays sealed with the key of its time.
    assert_eq!(old.ask(&get(3, b"old")), status(3, GET, 1));
    let errs = proxies.map(|proxy| proxy.end(Signal::TERM).err);
    let rejected = errs.each_ref().map(|err| err.matches(": 0 sessions did not open").count());
    assert_eq!(rejected, [0, 1], "{errs:?}");
}

/// Clears a flag at its end.
struct Stop<'f>(&'f AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn run(dir: &Dir, arguments: &[&str]) -> Ended {
    let usual = ["-server", &dir.address("server"), "-listen", &dir.address("client")];
    Program::run(DC_CLIENT, &[&usual, arguments].concat())
}

/// What may be wrong with a key file, and what is then said.
const BAD: [(&str, u32, &str); 6] = [
    ("", 0o600, "there is no key"),
    ("# none\n\n", 0o600, "there is no key"),
    ("0123456789abcdef\n", 0o600, "line 1 is not a key"),
    ("\u{0}\u{1}\u{ff}", 0o600, "line 1 is not a key"),
    ("GOOD", 0o644, "its mode is 644"),
    ("GOODGOOD", 0o600, "line 2 has the same key"),
];

/// Puts a bad key file in place of a good one.
fn spoil(dir: &Dir, text: &str, mode: u32) {
    let path = write_keys(dir, &text.replace("GOOD", &line(0xA7)));
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("its mode");
}

#[test]
fn a_bad_key_file_fails_the_start_with_one_line() {
    let dir = Dir::new();
    let path = dir.text("keys");
    let fails = |because: &str| {
        for arguments in [&["-sealkeys", &path][..], &["-sealkeys", &path, "-daemon"]] {
            let ended = run(&dir, arguments);
            assert_eq!((ended.code, ended.out.as_str()), (1, ""), "{ended:?}");
            assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
            assert!(ended.err.contains(because) && ended.err.contains(&path), "{ended:?}");
            assert!(!ended.err.contains("a7a7") && !ended.err.contains("012345"), "{ended:?}");
        }
        assert!(!dir.join("client").exists(), "its socket is removed");
    };
    fails("there is no such file");
    for (text, mode, because) in BAD {
        spoil(&dir, text, mode);
        fails(because);
    }
    let ended = run(&dir, &["-sealkeys-mixed"]);
    assert!(ended.code == 1 && ended.err.contains("-sealkeys-mixed needs -sealkeys"), "{ended:?}");
}

#[test]
fn a_bad_key_file_on_hup_leaves_the_old_keys() {
    let dir = Dir::new();
    let _server = server(&dir);
    let path = keys(&dir, &[1]);
    let proxy = proxy(&dir, "client", &dir.address("server"), &["-sealkeys", &path]);
    let caller = RawClient::connect(&dir.address("client"));
    assert_eq!(caller.ask(&add(1, b"id", b"session")), status(1, ADD, 0));
    let works = || assert_eq!(caller.ask(&get(2, b"id")), session(2, b"session"));
    for (text, mode, because) in BAD {
        spoil(&dir, text, mode);
        let said = reload(&proxy, "the old keys stay");
        assert!(said.contains(because), "{said}");
        works();
    }
    fs::remove_file(&path).expect("it was there");
    assert!(reload(&proxy, "the old keys stay").contains("no such file"));
    works();
    // A file that is good again counts again.
    keys(&dir, &[2]);
    reload(&proxy, "read 1 key from");
    assert_eq!(caller.ask(&get(3, b"id")), status(3, GET, 1));
    let err = proxy.end(Signal::TERM).err;
    assert!(!err.contains("a7a7"), "{err}");
}

#[test]
fn a_daemon_reads_its_keys_again_from_where_it_was_started() {
    let dir = Dir::new();
    let _server = server(&dir);
    keys(&dir, &[1]);
    let script = format!("cd '{}' && exec \"$0\" \"$@\"", dir.path().display());
    let (server, listen) = (dir.address("server"), dir.address("client"));
    let words = ["-c", &script, DC_CLIENT, "-server", &server, "-listen", &listen, "-retry", "50"];
    let daemon = ["-daemon", "-pidfile", "pid", "-sealkeys", "keys"];
    let ended = Program::run("sh", &[&words[..], &daemon].concat());
    assert_eq!(ended.code, 0, "{ended:?}");
    let daemon = Daemon::of(&dir.join("pid"));
    ask_until(&listen, &add(1, b"id", b"session"), &status(1, ADD, 0));
    keys(&dir, &[2]);
    daemon.signal(Signal::HUP);
    ask_until(&listen, &get(2, b"id"), &status(2, GET, 1));
    keys(&dir, &[2, 1]);
    daemon.signal(Signal::HUP);
    ask_until(&listen, &get(3, b"id"), &session(3, b"session"));
    daemon.end(Signal::TERM);
}

#[test]
fn the_keys_are_read_by_the_user_that_will_read_them_again() {
    if !distcache_testing::process::runs_as_root() {
        return;
    }
    let dir = Dir::new();
    dir.permit(0o777);
    let _server = server(&dir);
    fs::set_permissions(dir.join("server"), Permissions::from_mode(0o777)).expect("its mode");
    let path = keys(&dir, &[1]);
    let ended = run(&dir, &["-sealkeys", &path, "-user", "nobody"]);
    assert!(ended.code == 1 && ended.err.contains("Permission denied"), "{ended:?}");
    std::os::unix::fs::chown(&path, Some(65534), None).expect("root may");
    let arguments = ["-sealkeys", &path, "-user", "nobody"];
    let proxy = proxy(&dir, "client", &dir.address("server"), &arguments);
    reload(&proxy, "read 1 key from");
}

#[test]
fn a_new_key_is_one_line_that_makes_a_key_file() {
    let ended = [(); 2].map(|()| Program::run(DC_CLIENT, &["-newkey"]));
    assert!(ended.iter().all(|ended| ended.code == 0 && ended.err.is_empty()), "{ended:?}");
    assert_ne!(ended[0].out, ended[1].out);
    assert!(ended.iter().all(|ended| ended.out.len() == 65 && ended.out.lines().count() == 1));
    let dir = Dir::new();
    let _server = server(&dir);
    let path = write_keys(&dir, &format!("# two\n{}{}", ended[0].out, ended[1].out));
    let proxy = proxy(&dir, "client", &dir.address("server"), &["-sealkeys", &path]);
    reload(&proxy, "read 2 keys from");
}

#[test]
fn what_others_stored_is_refused_and_said_once_in_ten_seconds_or_read_if_mixed() {
    let dir = Dir::new();
    let _server = server(&dir);
    let path = keys(&dir, &[1]);
    let started = Instant::now();
    let strict = proxy(&dir, "strict", &dir.address("server"), &["-sealkeys", &path]);
    let arguments = ["-sealkeys", &path, "-sealkeys-mixed"];
    let mixed = proxy(&dir, "mixed", &dir.address("server"), &arguments);
    let [direct, strict_caller, mixed_caller] =
        ["server", "strict", "mixed"].map(|name| RawClient::connect(&dir.address(name)));
    assert_eq!(direct.ask(&add(1, b"id", b"in clear")), status(1, ADD, 0));
    for uid in 0..500 {
        assert_eq!(strict_caller.ask(&get(uid, b"id")), status(uid, GET, 1));
        assert_eq!(mixed_caller.ask(&get(uid, b"id")), session(uid, b"in clear"));
    }
    assert_eq!(strict_caller.ask(&have(2, b"id")), status(2, HAVE, 0));
    assert_eq!(strict_caller.ask(&add(3, b"id", b"sealed")), status(3, ADD, 101));
    let ended = strict.end(Signal::TERM);
    let lines = ended.err.matches("did not open and count as not found").count();
    let most = 1 + started.elapsed().as_secs() as usize / 10;
    assert!((1..=most).contains(&lines), "{}", ended.err);
    assert!(ended.err.contains(" 1 not sealed, 0 sealed with unknown keys"), "{}", ended.err);
    assert!(ended.err.contains(": 500 sessions did not open\n"), "{}", ended.err);
    let ended = mixed.end(Signal::TERM);
    assert!(ended.err.contains(": 0 sessions did not open\n"), "{}", ended.err);
}

#[test]
fn sealed_sessions_pass_another_proxy_and_two_replicas() {
    let dir = Dir::new();
    let servers =
        ["server", "second"].map(|name| start::server(DC_SERVER, &dir.address(name), &[]));
    let second = dir.address("second");
    let far = proxy(&dir, "far", &dir.address("server"), &["-server", &second, "-replicas", "2"]);
    far.err.wait_for(&format!("connected to {second}\n"));
    let path = keys(&dir, &[1]);
    let _near = proxy(&dir, "near", &dir.address("far"), &["-sealkeys", &path]);
    let caller = RawClient::connect(&dir.address("near"));
    let long = secret(9).repeat(50);
    assert_eq!(caller.ask(&add(1, b"id", &long)), status(1, ADD, 0));
    for name in ["server", "second"] {
        let stored = RawClient::connect(&dir.address(name)).ask(&get(2, b"id"));
        let data = message(1, 2, GET, &vec![0; long.len() + 48]);
        assert!(stored.len() == data.len() && !contains(&stored, &secret(9)[..16]), "{name}");
    }
    let [first, _second] = servers;
    assert!(caller.ask(&get(3, b"id")) == session(3, &long));
    drop(first);
    assert!(caller.ask(&get(4, b"id")) == session(4, &long));
}

#[test]
fn the_longest_session_is_48_bytes_shorter_and_a_longer_one_is_refused() {
    let dir = Dir::new();
    let _server = server(&dir);
    let path = keys(&dir, &[1]);
    let _proxy = proxy(&dir, "client", &dir.address("server"), &["-sealkeys", &path]);
    let caller = RawClient::connect(&dir.address("client"));
    let longest = vec![7; 32_768 - 48 - 8 - 2];
    let longer = add_payload(60_000, b"id", &[&longest[..], b"x"].concat());
    assert_eq!(caller.ask(&message(0, 1, ADD, &longer)), status(1, ADD, 104));
    assert_eq!(caller.ask(&add(2, b"id", &longest)), status(2, ADD, 0));
    assert!(caller.ask(&get(3, b"id")) == session(3, &longest));
}

#[test]
fn datagrams_of_stunnel_are_sealed_too() {
    let dir = Dir::new();
    let _server = server(&dir);
    let path = keys(&dir, &[1]);
    let listen = ["-listen", "SESSIOND:127.0.0.1:0", "-sealkeys", &path];
    let proxy = proxy(&dir, "client", &dir.address("server"), &listen);
    let datagrams = proxy.addresses(2)[1].clone();
    let udp = DatagramClient::connect(&datagrams);
    let (id, value) = ([8; 32], &secret(3)[..512]);
    let key = sessiond::key(&id);
    udp.new_session(300, &key, value);
    until("the session", || (udp.get(&key)? == value).then_some(()));
    let direct = RawClient::connect(&dir.address("server"));
    let stored = direct.ask(&get(1, &key));
    let stored = if stored.len() > 100 { stored } else { direct.ask(&get(1, &id)) };
    assert!(stored.len() == 14 + 512 + 48 && !contains(&stored, &value[..16]), "{}", stored.len());
}
