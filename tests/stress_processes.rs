//! What clients suffer when programs are stopped, killed and restarted, or when nothing reads their
//! output.
//!
//! Each test prints rows of the table that `stress_connections` explains.
#![cfg(target_os = "linux")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::lan::{B, Lan};
use distcache_testing::load::{CONNECTIONS, Load, Tally, measure_alone};
use distcache_testing::process::{Dir, Program, Signal, is_in_path, runs_as_root, until};
use distcache_testing::raw_client::{RawClient, ask_until};
use distcache_testing::start;
use distcache_testing::stress::{
    Counters, ROUNDS, Target, can_make_namespaces, print_row, wait_until_idle,
};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

fn server(dir: &Dir) -> Program {
    start::server(DC_SERVER, &dir.address("s"), &["-sockperms", "666"])
}

fn proxy(dir: &Dir) -> Program {
    let words = ["-retry", "50", "-reqtimeout", "300"];
    start::before(DC_CLIENT, &dir.address("c"), &dir.address("s"), &words)
}

#[test]
fn a_server_that_is_stopped_again_and_again_answers_every_request() {
    let _alone = measure_alone();
    let target = Target::server(DC_SERVER, &[]);
    let (mut load, undisturbed) = target.load();
    let (stressed, stops) = load.run_during(ROUNDS, |state| {
        let mut stops = 0;
        while stops < 10 || (state.is_running() && stops < 100) {
            target.program.freeze();
            // There is no event to wait for: the time is what is tested.
            std::thread::sleep(Duration::from_millis(20));
            target.program.signal(Signal::CONT);
            state.wait_rounds(CONNECTIONS);
            stops += 1;
        }
        stops
    });
    let counters = target.finish("stopped for 20 ms, again and again", &undisturbed, &stressed);
    assert!(stops >= 10 && counters.stalled == 0);
}

/// Stops, kills and restarts both programs while clients use them.
fn disturb(dir: &Dir, both: (Program, Program), tally: &Tally) -> (Program, Program) {
    let (mut server, mut proxy) = both;
    let wait_for_more = |what: &str, counter: &AtomicU64| {
        let before = counter.load(Ordering::Relaxed);
        until(what, || (counter.load(Ordering::Relaxed) >= before + 50).then_some(()));
    };
    for _ in 0..3 {
        wait_for_more("what was stored", &tally.correct);
        server.freeze();
        wait_for_more("disconnected because the server is stopped", &tally.unreachable);
        server.signal(Signal::CONT);
        wait_for_more("what was stored, once it runs again", &tally.correct);
        assert_eq!(server.end(Signal::KILL).code, -9);
        wait_for_more("disconnected because the server is dead", &tally.unreachable);
        server = self::server(dir);
        wait_for_more("what was stored in the next server", &tally.correct);
        proxy.freeze();
        // There is no event to wait for while the proxy is stopped.
        std::thread::sleep(Duration::from_millis(100));
        proxy.signal(Signal::CONT);
        wait_for_more("what was stored, once the proxy runs again", &tally.correct);
        let broken = tally.broken.load(Ordering::Relaxed);
        assert_eq!(proxy.end(Signal::KILL).code, -9);
        proxy = self::proxy(dir);
        wait_for_more("what was stored through the next proxy", &tally.correct);
        let newly_broken = tally.broken.load(Ordering::Relaxed) - broken;
        // A client that reconnects at once may still reach the dying proxy.
        assert!(
            newly_broken >= CONNECTIONS as u64,
            "{newly_broken} connections broke with the proxy"
        );
    }
    (server, proxy)
}

#[test]
fn stopped_and_killed_programs_cause_no_wrong_answer_and_recover() {
    let _alone = measure_alone();
    let dir = Dir::new();
    let both = (server(&dir), proxy(&dir));
    both.1.err.wait_for("connected to ");
    let address = dir.address("c");
    let undisturbed = Load::connect(&address).run(ROUNDS);
    let (tally, running) = (Tally::default(), AtomicBool::new(true));
    let (server, proxy) = std::thread::scope(|scope| {
        for number in 0..CONNECTIONS {
            let (tally, address, running) = (&tally, &address, &running);
            scope.spawn(move || tally.use_cache(address, number, running));
        }
        let both =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| disturb(&dir, both, &tally)));
        running.store(false, Ordering::Relaxed);
        both.expect("what the clients see")
    });
    let unreachable = tally.unreachable.load(Ordering::Relaxed);
    Load::connect(&address).run(ROUNDS);
    wait_until_idle(proxy.pid());
    wait_until_idle(server.pid());
    let err = proxy.end(Signal::TERM).err;
    assert_eq!(server.end(Signal::TERM).code, 0);
    let counters = Counters::last(&err).expect("counters");
    println!(
        "while the server was unreachable, {unreachable} requests were answered with disconnected"
    );
    print_row(
        "both",
        "stopped, killed and started again",
        &undisturbed,
        &tally.timings(),
        &counters,
    );
    assert_eq!((counters.refused, counters.malformed, counters.stalled), (0, 0, 0));
}

#[test]
fn a_program_runs_on_whatever_happens_to_its_output() {
    let _alone = measure_alone();
    for (what, shell) in [
        ("on a full disk", "exec >/dev/full 2>&1"),
        ("closed", "exec >&- 2>&-"),
        ("without a reader", "mkfifo $D/f; exec 3<>$D/f >$D/f 2>&1 3>&-"),
        ("never read by its reader", "mkfifo $D/f; exec 3<>$D/f >$D/f 2>&1"),
    ] {
        let dir = Dir::new();
        let script = format!("D={}; {shell}; exec \"$0\" \"$@\"", dir.path().display());
        let address = dir.address("s");
        let words = ["-c", &script, DC_SERVER, "-listen", &address, "-progress", "1"];
        let program = Program::start("sh", &[&words[..], &["-maxconn", "8"]].concat());
        ask_until(&address, &have(1, b"id"), &status(1, HAVE, 1));
        let mut load = Load::connect(&address);
        let undisturbed = load.run(ROUNDS);
        let (stressed, ()) = load.run_during(ROUNDS, |_| {
            // Most are refused, which is reported too.
            let many: Vec<_> = (0..20).map(|_| RawClient::connect(&address)).collect();
            let (ask, answer) = (have(2, b"id"), status(2, HAVE, 1));
            let served = |client: &&RawClient| client.try_ask(&ask).is_ok_and(|got| got == answer);
            assert_eq!(many.iter().filter(served).count(), 8 - CONNECTIONS);
        });
        print_row(
            "dc_server",
            &format!("its output {what}"),
            &undisturbed,
            &stressed,
            &Counters::default(),
        );
        wait_until_idle(program.pid());
        assert_eq!(program.end(Signal::TERM).code, 0, "{what}");
    }
}

#[test]
fn a_proxy_whose_clients_hold_all_descriptors_still_reconnects_to_its_server() {
    assert!(is_in_path("prlimit"), "this test needs prlimit");
    let _alone = measure_alone();
    let dir = Dir::new();
    dir.permit(0o777);
    let first = server(&dir);
    // Root may raise every limit, so the program must not stay root.
    let user: &[&str] = if runs_as_root() { &["-user", "nobody"] } else { &[] };
    let (listen, connect) = (dir.address("c"), dir.address("s"));
    let words = ["--nofile=60:60", DC_CLIENT, "-listen", &listen, "-server", &connect];
    let proxy = Program::start("prlimit", &[&words[..], &["-retry", "50"], user].concat());
    proxy.err.wait_for("connected to ");
    let mut load = Load::connect(&listen);
    let undisturbed = load.run(ROUNDS);
    let crowd: Vec<_> = (0..200).map(|_| RawClient::connect(&listen)).collect();
    let running = AtomicBool::new(true);
    let (next, _served) = std::thread::scope(|scope| {
        // Some client always waits for the next free descriptor.
        let (listen, running) = (&listen, &running);
        let push = scope.spawn(move || {
            let (mut served, mut tries) = (Vec::new(), 0);
            while running.load(Ordering::Relaxed) && tries < 1_000_000 {
                let client = RawClient::connect(listen);
                if client.try_ask(&have(1, b"id")).is_ok() {
                    served.push(client);
                }
                tries += 1;
            }
            served
        });
        assert_eq!(first.end(Signal::KILL).code, -9);
        proxy.err.wait_for(" is unreachable (");
        let next = server(&dir);
        let connected = std::panic::catch_unwind(|| {
            // One of the two connections before may have been to the dying server.
            proxy.err.find("that its last report is about the next server", |text| {
                let last = text.lines().rfind(|line| line.contains(&connect))?;
                last.contains("connected to ").then_some(())
            });
        });
        running.store(false, Ordering::Relaxed);
        let served = push.join().expect("the new clients");
        connected.expect("a second connection");
        (next, served)
    });
    let stressed = load.run(ROUNDS);
    drop(crowd);
    let counters = Counters::last(&proxy.end(Signal::TERM).err).expect("counters");
    print_row("dc_client", "60 descriptors, its server killed", &undisturbed, &stressed, &counters);
    assert!(counters.refused >= 140, "{counters:?}");
    assert_eq!(next.end(Signal::TERM).code, 0);
}

#[test]
fn a_vanished_server_host_is_noticed_even_without_requests() {
    if !can_make_namespaces() {
        return;
    }
    let (lan, dir) = (Lan::new(), Dir::new());
    let (at, listen) = (format!("IP:{B}:9001"), dir.address("c"));
    let server = lan.start_on_b(&[DC_SERVER, "-listen", &at]);
    server.address();
    // It is reported as unreachable once an attempt to connect has failed.
    let words = [DC_CLIENT, "-listen", &listen, "-server", &at, "-retry", "100"];
    // A busy machine is no reason to give the server up.
    let patience = ["-reqtimeout", "500", "-servertimeout", "10s"];
    let proxy = lan.start_on_a(&[&words[..], &patience].concat());
    proxy.err.wait_for("connected to ");
    let (begun, address) = (Instant::now(), format!("{B}/24"));
    lan.on_b(&["ip", "address", "del", &address, "dev", "wire"]);
    // The documented time is 25 s.
    proxy.err.find_within(3 * Duration::from_secs(25), "a report that it is unreachable", |text| {
        let (_, since) = text.rsplit_once("connected to ")?;
        since.contains(" is unreachable (").then_some(())
    });
    let noticed = begun.elapsed();
    println!("a vanished host was noticed after {} ms", noticed.as_millis());
    assert!(noticed >= Duration::from_secs(10), "a silence of {noticed:?} is nothing unusual");
    lan.on_b(&["ip", "address", "add", &address, "dev", "wire"]);
    ask_until(&listen, &have(1, b"id"), &status(1, HAVE, 1));
    assert!(proxy.end(Signal::TERM).err.contains("; 2 connections, 1 lost"));
}
