//! A server that takes the place of a running one: what clients see, and what happens if either of
//! the two dies or lies.
#![cfg(target_os = "linux")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use distcache_testing::bytes::{ADD, HAVE, REMOVE, add, get, have, remove, session, status};
use distcache_testing::daemon::Daemon;
use distcache_testing::load::{ANSWERS, CONNECTIONS, Load, Tally, data};
use distcache_testing::process::{Dir, Ended, Program, Signal, has_descriptors, until};
use distcache_testing::random::Random;
use distcache_testing::raw_client::RawClient;
use distcache_testing::sessiond::{DatagramClient, key};
use distcache_testing::start;

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

/// A server with a door in a directory.
fn server_at(dir: &Dir, door: &str, arguments: &[&str]) -> Program {
    let (listen, door) = (dir.address("s"), dir.text(door));
    let usual = ["-listen", &listen, "-handover", &door, "-sessions", "20000"];
    Program::start(DC_SERVER, &[&usual, arguments].concat())
}

fn server(dir: &Dir, arguments: &[&str]) -> Program {
    let server = server_at(dir, "door", arguments);
    assert_eq!(server.address(), dir.address("s"));
    server
}

/// Starts a successor, waits until it serves, and returns it and what the old server left.
fn replace(dir: &Dir, old: Program, arguments: &[&str]) -> (Program, Ended) {
    let new = server(dir, arguments);
    let ended = old.ended();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.err.contains(&format!("handed over to process {}", new.pid())), "{ended:?}");
    new.err.wait_for("took over from process ");
    (new, ended)
}

/// The number before a word in what a program printed.
fn count(text: &str, word: &str) -> u64 {
    let (before, _) = text.split_once(word).unwrap_or_else(|| panic!("no {word} in {text}"));
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

fn serves(address: &str) {
    assert_eq!(RawClient::connect(address).ask(&have(1, b"nobody's")), status(1, HAVE, 1));
}

fn id(number: usize) -> Vec<u8> {
    format!("session number {number}").into_bytes()
}

/// Stores sessions whose data follows from their ids.
fn store(address: &str, count: usize) {
    let client = RawClient::connect(address);
    for number in 0..count {
        let id = id(number);
        assert_eq!(client.ask(&add(1, &id, &data(&id))), status(1, ADD, 0));
    }
}

fn holds(address: &str, count: usize) {
    let client = RawClient::connect(address);
    for number in 0..count {
        let id = id(number);
        assert!(client.ask(&get(1, &id)) == session(1, &data(&id)), "session {number}");
    }
}

#[test]
fn several_handovers_under_load_lose_no_request_and_refuse_no_connection() {
    let dir = Dir::new();
    let mut old = server(&dir, &[]);
    let address = dir.address("s");
    // It must not take a handover on a busy machine for a server that hangs.
    let proxy = dir.address("proxy");
    let proxy = start::connected(DC_CLIENT, &proxy, &address, &["-servertimeout", "30s"]);
    store(&address, 500);
    let running = AtomicBool::new(true);
    let (asked, tally) = ([const { AtomicU64::new(0) }; 2], Tally::default());
    let goes_on = |number: usize| {
        asked[number].fetch_add(1, Ordering::Relaxed);
        running.load(Ordering::Relaxed)
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in (0..500).cycle() {
                let id = id(number);
                let answer = RawClient::connect(&address).ask(&get(1, &id));
                assert!(answer == session(1, &data(&id)), "session {number}");
                if !goes_on(0) {
                    return;
                }
            }
        });
        scope.spawn(|| {
            let mut load = Load::connect(&address);
            while goes_on(1) {
                assert_eq!(load.run(1).answers, CONNECTIONS * ANSWERS);
            }
        });
        scope.spawn(|| tally.use_cache(&proxy.address(), 200, &running));
        let stop = Stop(&running);
        for _ in 0..6 {
            let counts = [&asked[0], &asked[1], &tally.correct];
            let now = || counts.map(|count| count.load(Ordering::Relaxed));
            let before = now();
            until("some requests of each kind", || {
                now().iter().zip(before).all(|(now, before)| *now > before + 2).then_some(())
            });
            (old, _) = replace(&dir, std::mem::replace(&mut old, placeholder()), &[]);
        }
        drop(stop);
    });
    holds(&address, 500);
    let Tally { correct, unreachable, broken, .. } = &tally;
    let correct = correct.load(Ordering::Relaxed) as usize;
    let failed = [unreachable, broken].map(|count| count.load(Ordering::Relaxed));
    assert_eq!((failed, tally.timings().answers), ([0, 0], 4 * correct), "behind the proxy");
    let proxy = proxy.end(Signal::TERM);
    let told =
        proxy.err.contains(" 0 refused because") && proxy.err.contains(" 1 connections, 0 lost");
    assert!(told, "{proxy:?}");
    let ended = old.end(Signal::TERM);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(dir.names().is_empty(), "{:?}", dir.names());
}

#[test]
fn the_requests_of_all_servers_together_are_those_that_were_sent() {
    let dir = Dir::new();
    let mut old = server(&dir, &[]);
    let client = RawClient::connect(&dir.address("s"));
    let mut requests = 0;
    for round in 0..3 {
        for uid in 0..10 {
            assert_eq!(client.ask(&have(uid, b"x")), status(uid, HAVE, 1));
        }
        if round < 2 {
            let (new, ended) = replace(&dir, old, &[]);
            assert_eq!(count(&ended.err, " requests:"), 10);
            assert_eq!(count(&ended.err, " clients accepted"), u64::from(round == 0));
            requests += 10;
            old = new;
        }
    }
    let ended = old.end(Signal::TERM);
    assert_eq!(requests + count(&ended.err, " requests:"), 30);
    assert_eq!(count(&ended.err, " clients accepted"), 0, "it was handed over: {ended:?}");
}

#[test]
fn a_request_that_is_cut_at_any_byte_is_answered_once_by_the_successor() {
    let dir = Dir::new();
    let old = server(&dir, &[]);
    let address = dir.address("s");
    store(&address, 1);
    let request = [have(7, &id(0)), get(8, &id(0))].concat();
    let clients: Vec<RawClient> = (0..=request.len())
        .map(|cut| {
            let client = RawClient::connect(&address);
            client.send(&request[..cut]);
            client
        })
        .collect();
    // The answers to what is whole may come from either.
    let (new, _) = replace(&dir, old, &[]);
    for (cut, client) in clients.iter().enumerate() {
        client.send(&request[cut..]);
        assert_eq!(client.message(), status(7, HAVE, 0), "cut at {cut}");
        assert!(client.message() == session(8, &data(&id(0))), "cut at {cut}");
        assert!(client.is_silent(), "cut at {cut}");
    }
    assert_eq!(new.end(Signal::TERM).code, 0);
}

#[test]
fn a_client_that_does_not_read_gets_each_of_its_answers_once() {
    let dir = Dir::new();
    let old = server(&dir, &[]);
    let address = dir.address("s");
    store(&address, 1);
    let (slow, closing) = (RawClient::connect(&address), RawClient::connect(&address));
    let request = get(8, &id(0));
    // Far more answers than the socket takes.
    let count = 3000;
    let sent = slow.send_available(&request.repeat(count));
    closing.send(&request.repeat(50));
    closing.finish();
    let (old, _) = replace(&dir, old, &[]);
    let (new, _) = replace(&dir, old, &[]);
    let answer = session(8, &data(&id(0)));
    for _ in 0..50 {
        assert!(closing.message() == answer);
    }
    assert!(closing.is_closed());
    let requests = request.repeat(count);
    std::thread::scope(|scope| {
        scope.spawn(|| slow.send(&requests[sent..]));
        for number in 0..count {
            assert!(slow.message() == answer, "answer {number}");
        }
    });
    assert!(slow.is_silent());
    assert_eq!(new.end(Signal::TERM).code, 0);
}

#[test]
fn a_thousand_idle_clients_and_fifty_busy_ones_stay_connected() {
    if !has_descriptors(1200) {
        return;
    }
    let dir = Dir::new();
    let mut old = server(&dir, &["-maxconn", "1100"]);
    let address = dir.address("s");
    let idle: Vec<RawClient> = (0..1000).map(|_| RawClient::connect(&address)).collect();
    let running = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let busy = |number: usize| {
            let clients: Vec<RawClient> = (0..10).map(|_| RawClient::connect(&address)).collect();
            let mut round = 0;
            while running.load(Ordering::Relaxed) {
                round += 1;
                let id = [&[number as u8][..], &u32::to_be_bytes(round)].concat();
                assert_eq!(clients[0].ask(&add(1, &id, &data(&id))), status(1, ADD, 0));
                clients.iter().for_each(|client| client.send(&get(2, &id)));
                clients
                    .iter()
                    .for_each(|client| assert!(client.message() == session(2, &data(&id))));
            }
            round
        };
        let threads = [0, 1, 2, 3, 4].map(|number| scope.spawn(move || busy(number)));
        let stop = Stop(&running);
        for _ in 0..3 {
            let (new, ended) =
                replace(&dir, std::mem::replace(&mut old, placeholder()), &["-maxconn", "1100"]);
            let handed = count(&ended.err, " clients, ");
            assert!((1000..=1050).contains(&handed), "{ended:?}");
            old = new;
        }
        drop(stop);
        for thread in threads {
            assert!(thread.join().expect("each answer is right") > 0);
        }
    });
    for client in &idle {
        assert_eq!(client.ask(&have(3, b"x")), status(3, HAVE, 1));
    }
    // A successor with fewer places closes the others, and says so.
    let (new, _) = replace(&dir, old, &["-maxconn", "900"]);
    new.err.wait_for("closed 100 of these clients");
    let closed = idle.iter().filter(|client| client.is_closed()).count();
    assert_eq!(closed, 100);
    assert_eq!(new.end(Signal::TERM).code, 0);
}

/// Clears a flag on drop, so that threads end with a failed test.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A program that has nothing to do with the test.
fn placeholder() -> Program {
    Program::start("true", &[])
}

#[test]
fn sessions_keep_their_data_and_their_lifetimes() {
    let dir = Dir::new();
    let mut old = server(&dir, &[]);
    let address = dir.address("s");
    store(&address, 2000);
    let short = distcache_testing::bytes::add_for(1, 400, b"short", b"x");
    assert_eq!(RawClient::connect(&address).ask(&short), status(1, ADD, 0));
    for _ in 0..3 {
        (old, _) = replace(&dir, old, &[]);
    }
    holds(&address, 2000);
    until("the end of a lifetime", || {
        let answer = RawClient::connect(&address).ask(&have(1, b"short"));
        (answer == status(1, HAVE, 1)).then_some(())
    });
    assert_eq!(old.end(Signal::TERM).code, 0);
}

/// Adds, removes and looks up sessions until it is stopped, then checks each of them.
fn churn(address: &str, number: u8, stored: &AtomicU64, running: &AtomicBool) {
    let client = RawClient::connect(address);
    let mut random = Random::new(number.into());
    let id = |serial: u32| [&[number][..], &serial.to_be_bytes()].concat();
    let data = |serial: u32| data(&id(serial))[..5].to_vec();
    let add_one = |serial: u32| {
        let added = client.ask(&add(serial, &id(serial), &data(serial)));
        assert_eq!(added, status(serial, ADD, 0));
        stored.fetch_add(1, Ordering::Relaxed);
    };
    let mut live: Vec<u32> = (0..3000).collect();
    let mut gone = vec![];
    live.iter().for_each(|&serial| add_one(serial));
    let mut next = 3000;
    while running.load(Ordering::Relaxed) {
        let at = random.below(live.len());
        let serial = live.swap_remove(at);
        assert_eq!(client.ask(&remove(1, &id(serial))), status(1, REMOVE, 0), "{serial}");
        gone.push(serial);
        add_one(next);
        live.push(next);
        next += 1;
        let serial = live[random.below(live.len())];
        assert!(client.ask(&get(2, &id(serial))) == session(2, &data(serial)), "{serial}");
    }
    for serial in live {
        assert!(client.ask(&get(2, &id(serial))) == session(2, &data(serial)), "{serial}");
    }
    for serial in gone {
        assert_eq!(client.ask(&have(3, &id(serial))), status(3, HAVE, 1), "{serial} is back");
    }
}

#[test]
fn what_changes_while_the_sessions_are_copied_is_not_lost_and_does_not_come_back() {
    let dir = Dir::new();
    let mut old = server(&dir, &[]);
    let address = dir.address("s");
    let (stored, running) = (AtomicU64::new(0), AtomicBool::new(true));
    std::thread::scope(|scope| {
        let stop = Stop(&running);
        for number in 0..3 {
            let (address, stored, running) = (&address, &stored, &running);
            scope.spawn(move || churn(address, number, stored, running));
        }
        until("a large table", || (stored.load(Ordering::Relaxed) > 9_000).then_some(()));
        for _ in 0..5 {
            (old, _) = replace(&dir, std::mem::replace(&mut old, placeholder()), &[]);
        }
        drop(stop);
    });
    assert_eq!(old.end(Signal::TERM).code, 0);
}

#[test]
fn a_successor_takes_its_listeners_binds_new_ones_and_closes_the_others() {
    let dir = Dir::new();
    let (gone, added) = (dir.address("gone"), dir.address("added"));
    let old = server(&dir, &["-listen", &gone, "-listen", "IP:127.0.0.1:0"]);
    let before = old.addresses(3);
    let inode = |name| std::os::unix::fs::MetadataExt::ino(&dir.join(name).metadata().unwrap());
    let taken = inode("s");
    let (new, ended) = replace(&dir, old, &["-listen", "IP:127.0.0.1:0", "-listen", &added]);
    assert!(ended.err.contains(" 2 listeners"), "{ended:?}");
    assert_eq!(new.addresses(3), [before[0].clone(), before[2].clone(), added]);
    assert_eq!(
        (inode("s"), dir.names()),
        (taken, ["added", "door", "s"].map(String::from).to_vec())
    );
    for address in new.addresses(3) {
        serves(&address);
    }
    // By the address as it is bound, too.
    let port = before[2].clone();
    let (new, _) = replace(&dir, new, &["-listen", &port]);
    assert_eq!(new.addresses(2)[1], port);
    serves(&port);
    assert_eq!(new.end(Signal::TERM).code, 0);
    assert!(dir.names().is_empty(), "{:?}", dir.names());
}

#[test]
fn a_successor_that_cannot_bind_a_new_listener_leaves_the_old_server_alone() {
    let dir = Dir::new();
    let old = server(&dir, &[]);
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("IP:{}", other.local_addr().unwrap());
    let ended = server_at(&dir, "door", &["-listen", &taken]).ended();
    assert!(ended.code == 1 && ended.err.contains("in use"), "{ended:?}");
    serves(&dir.address("s"));
    assert_eq!(dir.names(), ["door", "s"]);
    assert_eq!(old.end(Signal::TERM).code, 0);
}

#[test]
fn the_pid_file_names_the_server_that_serves() {
    let dir = Dir::new();
    let (a, b) = (dir.text("a"), dir.text("b"));
    let read = |name| std::fs::read_to_string(dir.join(name)).unwrap();
    let old = server(&dir, &["-pidfile", &a]);
    let (new, _) = replace(&dir, old, &["-pidfile", &a]);
    assert_eq!(read("a"), format!("{}\n", new.pid()));
    // It is locked, as ever.
    let ended = Program::run(DC_SERVER, &["-listen", &dir.address("t"), "-pidfile", &a]);
    assert!(ended.code == 1 && ended.err.contains("holds it"), "{ended:?}");
    let (new, _) = replace(&dir, new, &["-pidfile", &b]);
    assert_eq!(read("b"), format!("{}\n", new.pid()));
    assert!(!dir.join("a").exists(), "the old server has removed its own");
    assert_eq!(new.end(Signal::TERM).code, 0);
    assert!(dir.names().is_empty(), "{:?}", dir.names());
}

#[test]
fn the_command_ends_once_the_daemon_has_taken_over() {
    let dir = Dir::new();
    let (listen, door, pid) = (dir.address("s"), dir.text("door"), dir.text("pid"));
    let arguments = ["-listen", &listen, "-handover", &door, "-pidfile", &pid, "-daemon"];
    let mut before = None;
    for _ in 0..3 {
        let ended = Program::run(DC_SERVER, &arguments);
        assert_eq!(ended.code, 0, "{ended:?}");
        let daemon = Daemon::of(&dir.join("pid"));
        if before.is_none() {
            store(&listen, 20);
        }
        let (new, old) = (daemon.pid(), before.replace(daemon));
        if let Some(old) = old {
            until("the end of the old server", || (!old.is_running()).then_some(()));
            assert_ne!(old.pid(), new);
            std::mem::forget(old);
        }
        holds(&listen, 20);
    }
    before.unwrap().end(Signal::TERM);
    assert!(dir.names().is_empty(), "{:?}", dir.names());
}

#[test]
fn datagrams_are_answered_by_the_successor() {
    let dir = Dir::new();
    let old = server(&dir, &["-listen", "SESSIOND:127.0.0.1:0"]);
    let address = old.addresses(2)[1].clone();
    let sessiond = DatagramClient::connect(&address);
    sessiond.new_session(60, &key(b"id"), b"value");
    assert_eq!(sessiond.get(&key(b"id")).as_deref(), Some(&b"value"[..]));
    let (new, _) = replace(&dir, old, &["-listen", "SESSIOND:127.0.0.1:0"]);
    assert_eq!(new.addresses(2)[1], address);
    assert_eq!(sessiond.get(&key(b"id")).as_deref(), Some(&b"value"[..]));
    assert_eq!(new.end(Signal::TERM).code, 0);
}

/// Starts a server the way systemd does: with a listening socket as descriptor 3.
fn activated(dir: &Dir, listener: &std::net::TcpListener) -> Program {
    use std::os::fd::{AsFd, AsRawFd};
    // Not closed on exec, so that the shell has it.
    let number = listener.as_fd().as_raw_fd();
    let script = format!("exec 3<&{number}; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"",);
    let state = dir.text("state");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script, "sh", DC_SERVER, "-state", &state]);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
    rustix::io::fcntl_setfd(listener, rustix::io::FdFlags::empty()).expect("our own socket");
    let server = Program::spawn(command);
    server.address();
    server
}

#[test]
fn a_service_manager_that_keeps_the_socket_restarts_a_server_with_a_state_without_a_refusal() {
    let dir = Dir::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("IP:{}", listener.local_addr().expect("its port"));
    let mut old = activated(&dir, &listener);
    store(&address, 300);
    let (running, asked) = (AtomicBool::new(true), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let stop = Stop(&running);
        for _ in 0..2 {
            scope.spawn(|| {
                for number in (0..300).cycle() {
                    if !running.load(Ordering::Relaxed) {
                        return;
                    }
                    // A connection that was accepted before the end may break, and is tried again. None
                    // is refused.
                    let client = RawClient::try_connect(&address).expect("the socket listens");
                    if let Ok(answer) = client.try_ask(&get(1, &id(number))) {
                        assert!(answer == session(1, &data(&id(number))), "session {number}");
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for _ in 0..3 {
            let before = asked.load(Ordering::Relaxed);
            until("requests", || (asked.load(Ordering::Relaxed) > before + 20).then_some(()));
            let ended = std::mem::replace(&mut old, placeholder()).end(Signal::TERM);
            assert_eq!(ended.code, 0, "{ended:?}");
            old = activated(&dir, &listener);
        }
        drop(stop);
    });
    holds(&address, 300);
    assert_eq!(old.end(Signal::TERM).code, 0);
}
