//! What clients suffer when others open many connections or misuse them.
//!
//! Each test prints a row of a table: the program, the kind of stress, how many answers a correct
//! client got (all of them right), its p50 and p99 undisturbed and under stress, and the program's
//! counters. To see it: `cargo test --test 'stress_*' -- --nocapture`.
#![cfg(target_os = "linux")]

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use distcache_testing::bytes::{GET, HAVE, add, get, have, session, status};
use distcache_testing::load::{CONNECTIONS, measure_alone};
use distcache_testing::process::{
    Program, Signal, TIMEOUT, has_descriptors, is_in_path, runs_as_root, until,
};
use distcache_testing::raw_client::{RawClient, ask_until};
use distcache_testing::stress::{self, Counters, ROUNDS, Target, cpu_ticks, wait_until_idle};
use distcache_testing::tcp::{connect, reset, try_send, wait_for_close};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

fn each(arguments: &[&str], test: impl FnMut(Target)) {
    stress::each(DC_CLIENT, DC_SERVER, arguments, test);
}

#[test]
fn five_thousand_silent_connections_cost_other_clients_no_answer() {
    assert!(has_descriptors(5_200), "this test needs 5200 descriptors");
    each(&["-maxconn", "6000"], |target| {
        let (mut load, undisturbed) = target.load();
        let mut silent = Vec::new();
        for _ in 0..10 {
            silent.extend((0..500).map(|_| connect(&target.address)));
            // This client came last, so all of the others have been accepted.
            let last = RawClient::connect(&target.address);
            assert_eq!(last.ask(&have(1, b"id")), status(1, HAVE, 1));
        }
        let (stressed, ()) = load.run_during(ROUNDS, |_| ());
        wait_until_idle(target.program.pid());
        drop(silent);
        let counters = target.finish("5000 connections that say nothing", &undisturbed, &stressed);
        assert_eq!(counters.clients, 5_010 + CONNECTIONS as u64);
        assert_eq!((counters.refused, counters.idle, counters.stalled), (0, 0, 0));
    });
}

/// Sends a byte of a request a second on each connection while `wanted` says so. Returns how many
/// connections still take them at the end.
fn trickle(connections: &[TcpStream], wanted: impl Fn(usize) -> bool) -> usize {
    // Too long to be complete before the test is over.
    let request = add(1, b"slow", &[7; 2000]);
    let mut open = connections.len();
    for (sent, byte) in request.iter().enumerate() {
        let take = |stream: &&TcpStream| try_send(stream, &[*byte]);
        let takers: Vec<_> = connections.iter().filter(take).collect();
        open = takers.len();
        match takers.first() {
            Some(first) if wanted(sent) => watch(first, Duration::from_secs(1)),
            _ => break,
        }
    }
    open
}

/// Waits for some time, or until the peer closes the connection.
fn watch(mut stream: &TcpStream, time: Duration) {
    stream.set_read_timeout(Some(time)).expect("a socket takes a timeout");
    let _ = stream.read(&mut [0]);
    stream.set_read_timeout(Some(TIMEOUT)).expect("a socket takes a timeout");
}

#[test]
fn a_thousand_clients_that_send_a_byte_a_second_cost_others_no_answer() {
    assert!(has_descriptors(1_200), "this test needs 1200 descriptors");
    each(&["-reqtimeout", "0"], |target| {
        let (mut load, undisturbed) = target.load();
        let slow: Vec<_> = (0..1_000).map(|_| connect(&target.address)).collect();
        let (stressed, open) =
            load.run_during(ROUNDS, |state| trickle(&slow, |sent| state.is_running() || sent < 2));
        assert_eq!(open, 1_000, "without a limit they may take for ever");
        let counters = target.finish("1000 that send a byte a second", &undisturbed, &stressed);
        assert_eq!(counters.clients, 1_000 + CONNECTIONS as u64);
        assert_eq!((counters.refused, counters.malformed, counters.stalled), (0, 0, 0));
    });
}

#[test]
fn a_thousand_clients_with_unfinished_requests_are_closed_after_reqtimeout() {
    assert!(has_descriptors(1_200), "this test needs 1200 descriptors");
    each(&["-reqtimeout", "1500"], |target| {
        let (mut load, undisturbed) = target.load();
        let slow: Vec<_> = (0..1_000).map(|_| connect(&target.address)).collect();
        let (stressed, open) = load.run_during(ROUNDS, |_| {
            let deadline = Instant::now() + Duration::from_secs(20);
            trickle(&slow, |_| Instant::now() < deadline)
        });
        assert_eq!(open, 0, "bytes that complete no request are no progress");
        assert_eq!(slow.iter().map(wait_for_close).sum::<usize>(), 0);
        let counters =
            target.finish("1000 unfinished requests, -reqtimeout 1500", &undisturbed, &stressed);
        assert_eq!(counters.clients, 1_000 + CONNECTIONS as u64);
        assert_eq!((counters.refused, counters.malformed, counters.stalled), (0, 0, 1_000));
    });
}

/// Returns where to cut a message: in its first bytes, and around the boundaries of its frames.
fn cuts(len: usize) -> impl Iterator<Item = usize> {
    let seams = [2061, 2062, 2063, 2076, 4124, len / 2, len - 1];
    (0..40).chain(seams).filter(move |at| *at < len)
}

#[test]
fn connections_reset_at_any_point_of_a_request_or_an_answer_cost_other_clients_nothing() {
    // A leaked place is noticed soon.
    each(&["-maxconn", "200"], |target| {
        let (mut load, undisturbed) = target.load();
        let large = vec![b'x'; 32_000];
        let stays = RawClient::connect(&target.address);
        stays.ask(&add(1, b"large", &large));
        let (ask, answer) = (get(2, b"large"), session(2, &large));
        let request = add(3, b"never stored", &[7; 5000]);
        let address = &target.address;
        let (stressed, resets) = load.run_during(ROUNDS, |state| {
            let mut resets = 0;
            for pass in 0..200 {
                for at in cuts(request.len()) {
                    let stream = connect(address);
                    try_send(&stream, &request[..at]);
                    reset(stream);
                    resets += 1;
                }
                for at in cuts(answer.len()) {
                    let stream = connect(address);
                    try_send(&stream, &ask.repeat(3));
                    let mut bytes = vec![0; at];
                    (&stream).read_exact(&mut bytes).expect("some of an answer");
                    assert!(bytes == answer[..at], "cut at {at}");
                    reset(stream);
                    resets += 1;
                }
                if pass >= 10 && !state.is_running() {
                    break;
                }
            }
            resets
        });
        assert_eq!(stays.ask(&get(4, b"large")), session(4, &large));
        assert_eq!(stays.ask(&get(5, b"never stored")), status(5, GET, 1));
        wait_until_idle(target.program.pid());
        let counters = target.finish("connections reset anywhere", &undisturbed, &stressed);
        assert_eq!(counters.clients + counters.refused, resets + 1 + CONNECTIONS as u64);
        assert_eq!((counters.refused, counters.malformed, counters.stalled), (0, 0, 0));
    });
}

#[test]
fn without_descriptors_new_clients_are_refused_and_connected_ones_are_served() {
    assert!(is_in_path("prlimit"), "this test needs prlimit");
    let _alone = measure_alone();
    // Root may raise every limit, so the program must not stay root.
    let user: &[&str] = if runs_as_root() { &["-user", "nobody"] } else { &[] };
    let few = ["--nofile=100:100", DC_SERVER];
    let words = ["-listen", "IP:127.0.0.1:0", "-maxconn", "1000"];
    let program = Program::start("prlimit", &[&few, &words[..], user].concat());
    let address = program.address();
    let target = Target { name: "dc_server", program, address, server: None };
    let (mut load, undisturbed) = target.load();
    let pid = target.program.pid();
    let (ask, answer) = (have(1, b"id"), status(1, HAVE, 1));
    let before = cpu_ticks(pid);
    let (stressed, (held, tried)) = load.run_during(ROUNDS, |state| {
        let (mut held, mut tried) = (Vec::new(), 0);
        while tried < 1_000 || (state.is_running() && tried < 20_000) {
            let client = RawClient::connect(&target.address);
            tried += 1;
            if client.try_ask(&ask).is_ok_and(|got| got == answer) {
                held.push(client);
            }
        }
        (held, tried)
    });
    let used = cpu_ticks(pid) - before;
    assert!((50..100).contains(&held.len()), "{} are served", held.len());
    assert!(held.iter().all(|client| client.ask(&ask) == answer));
    // The backlog is empty, and there is no descriptor to accept with.
    wait_until_idle(pid);
    let served = held.len() as u64;
    drop(held);
    ask_until(&target.address, &ask, &answer);
    until("places for all", || {
        let clients: Vec<_> = (0..40).map(|_| RawClient::connect(&target.address)).collect();
        let all = clients.iter().all(|client| client.try_ask(&ask).is_ok_and(|got| got == answer));
        all.then_some(())
    });
    println!("dc_server used {used}0 ms of processor time for {tried} clients and its load");
    let counters = target.finish("100 descriptors", &undisturbed, &stressed);
    assert!(counters.refused >= tried - served, "{counters:?}");
}

/// Lets one client run into each limit, and checks the report of the running program.
fn check_reports(target: Target) {
    let begun = Instant::now();
    let (ask, answer) = (have(1, b"id"), status(1, HAVE, 1));
    let four: Vec<_> = (0..4).map(|_| RawClient::connect(&target.address)).collect();
    assert!(four.iter().all(|client| client.ask(&ask) == answer));
    assert_eq!(RawClient::connect(&target.address).rest(), b"", "one more than -maxconn");
    drop(four);
    ask_until(&target.address, &ask, &answer);
    let [silent, half, garbage_client] = [(); 3].map(|()| RawClient::connect(&target.address));
    half.send(&ask[..9]);
    garbage_client.send(b"EHLO cache");
    for closed in [garbage_client, half, silent] {
        assert_eq!(closed.rest(), b"");
    }
    let reported = until("a report of all of them", || {
        let reported = Counters::last(&target.program.err.so_far())?;
        (reported.malformed == 1 && reported.stalled == 1 && reported.idle == 1).then_some(reported)
    });
    assert!(reported.refused >= 1, "{reported:?}");
    let ended = target.program.end(Signal::TERM);
    // Nothing has happened since.
    assert_eq!(Counters::last(&ended.err), Some(reported));
    // The first event is reported at once, and all of them at the end. How many reports come
    // between depends on time, not on clients.
    let times = ended.err.lines().filter_map(Counters::read).count() as u64;
    let most = 2 + begun.elapsed().as_secs() / 10;
    assert!((2..=most).contains(&times), "{}", ended.err);
}

const SHORT: [&str; 6] = ["-maxconn", "4", "-idle", "3000", "-reqtimeout", "1000"];

#[test]
fn a_running_server_reports_refused_and_closed_clients() {
    check_reports(Target::server(DC_SERVER, &SHORT));
}

#[test]
fn a_running_proxy_reports_refused_and_closed_clients() {
    check_reports(Target::proxy(DC_CLIENT, DC_SERVER, &SHORT));
}
