//! `dc_client` with several servers, and options beyond those of the original.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use distcache_core::id::Id;
use distcache_posix::client::Client;
use distcache_testing::bytes::{
    ADD, GET, PUT, add, add_for, add_payload, at_level, get, have, message, session, status,
};
use distcache_testing::load::data;
use distcache_testing::process::{Dir, Program, Signal, until};
use distcache_testing::random::Random;
use distcache_testing::raw_client::{RawClient, ask_until};
use distcache_testing::start::{self, ANY_PORT};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

fn server(listen: &str, arguments: &[&str]) -> Program {
    start::server(DC_SERVER, listen, arguments)
}

/// Starts a proxy that is connected to all these servers.
fn proxy(servers: &[String], arguments: &[&str]) -> Program {
    let mut usual = vec!["-listen", ANY_PORT, "-retry", "50", "-servertimeout", "10000"];
    usual.extend(servers.iter().flat_map(|server| ["-server", server]));
    let program = Program::start(DC_CLIENT, &[&usual, arguments].concat());
    program.address();
    for server in servers {
        program.err.wait_for(&format!("connected to {server}\n"));
    }
    program
}

/// Starts three servers in a directory. Returns their addresses.
fn three(dir: &Dir) -> (Vec<Program>, Vec<String>) {
    let addresses: Vec<_> = (0..3).map(|number| dir.address(&format!("server{number}"))).collect();
    (addresses.iter().map(|address| server(address, &[])).collect(), addresses)
}

fn client(address: &str) -> Client {
    Client::builder(address).timeout(Duration::from_secs(30)).connect_on_build().build().unwrap()
}

#[test]
fn each_id_is_on_one_server_and_all_proxies_agree_on_which() {
    let dir = Dir::new();
    let (servers, mut addresses) = three(&dir);
    let near = proxy(&addresses, &[]);
    addresses.reverse();
    let far = proxy(&addresses, &[]);
    let (near_client, far_client) = (client(&near.address()), client(&far.address()));
    for number in 0..200_u8 {
        let id = [number; 32];
        near_client.add(Id::new(&id).unwrap(), &data(&id), Duration::from_secs(60)).unwrap();
        assert_eq!(far_client.get(Id::new(&id).unwrap()).unwrap(), Some(data(&id)));
    }
    for program in servers {
        let err = program.end(Signal::TERM).err;
        let found = err.split("requests: ").nth(1).and_then(|rest| rest.split(' ').next());
        let found: usize = found.and_then(|found| found.parse().ok()).expect("its counters");
        assert!((30..150).contains(&found), "each server has its share: {err}");
    }
}

/// Stores sessions through a proxy and fetches them again, old ones too, while `running` is set;
/// then all of them once more.
fn use_sessions(address: &str, thread: u8, running: &AtomicBool, stored: &AtomicUsize) {
    let caller = RawClient::connect(address);
    let mut random = Random::new(thread.into());
    let id = |number: u32| [&[thread][..], &number.to_be_bytes(), b"of a thread"].concat();
    let found = |number: u32| {
        let id = id(number);
        let got = caller.ask(&get(number, &id));
        assert!(got == session(number, &data(&id)), "session {number} of {thread}: {got:02x?}");
    };
    let mut count = 0;
    while running.load(Ordering::Relaxed) {
        let id = id(count);
        let got = caller.ask(&add(count, &id, &data(&id)));
        assert!(got == status(count, ADD, 0), "session {count} of {thread}: {got:02x?}");
        count += 1;
        stored.fetch_add(1, Ordering::Relaxed);
        found(count - 1);
        found(random.below(count as usize) as u32);
    }
    (0..count).for_each(found);
}

#[test]
fn with_replicas_no_session_is_lost_when_a_server_is_killed_and_restarted_under_load() {
    for victim in 0..3 {
        let dir = Dir::new();
        let (mut servers, addresses) = three(&dir);
        let proxy = proxy(&addresses, &["-replicas", "2"]);
        let address = proxy.address();
        let (running, stored) = (AtomicBool::new(true), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            struct Stop<'a>(&'a AtomicBool);
            impl Drop for Stop<'_> {
                fn drop(&mut self) {
                    self.0.store(false, Ordering::Relaxed);
                }
            }
            let _stop = Stop(&running);
            for thread in 0..4 {
                let (address, running, stored) = (&address, &running, &stored);
                scope.spawn(move || use_sessions(address, thread, running, stored));
            }
            let more = |count: usize| {
                let wanted = stored.load(Ordering::Relaxed) + count;
                until("more sessions", || (stored.load(Ordering::Relaxed) >= wanted).then_some(()));
            };
            more(300);
            assert_eq!(servers.remove(victim).end(Signal::KILL).code, -9);
            more(300);
            let back = server(&addresses[victim], &["-progress", "1"]);
            // Only the proxy uses it.
            back.out.wait_for("total operations ");
            servers.push(back);
            more(300);
        });
        let err = proxy.end(Signal::TERM).err;
        assert!(err.contains(" 0 refused because"), "{err}");
        for (number, address) in addresses.iter().enumerate() {
            let line = err.lines().find(|line| line.contains(&format!("{address}: ")));
            let line = line.expect("a line for each server");
            // A proxy that reconnects at once may still reach the dying server.
            let lost = match number == victim {
                true => ["; 2 connections, 1 lost, 0 of", "; 3 connections, 2 lost, 0 of"],
                false => ["; 1 connections, 0 lost, 0 of"; 2],
            };
            assert!(lost.iter().any(|lost| line.contains(lost)), "{line}");
        }
    }
}

#[test]
fn of_two_clients_that_take_a_session_through_two_proxies_one_gets_it() {
    for replicas in ["1", "2"] {
        let dir = Dir::new();
        let (_servers, addresses) = three(&dir);
        let proxies = [(); 2].map(|()| proxy(&addresses, &["-replicas", replicas]));
        let clients: Vec<_> = proxies.iter().map(|proxy| client(&proxy.address())).collect();
        for number in 0..300_u32 {
            let id = [&number.to_be_bytes()[..], b" is taken once"].concat();
            let id = Id::new(&id).unwrap();
            clients[0].put(id, b"for a single use", Duration::from_secs(60)).unwrap();
            let taken = std::thread::scope(|scope| {
                let takers = [0, 1].map(|taker| {
                    let client = &clients[taker];
                    scope.spawn(move || client.take(id).unwrap().is_some())
                });
                takers.map(|taker| usize::from(taker.join().unwrap())).iter().sum::<usize>()
            });
            assert_eq!(taken, 1, "session {number}");
            assert!(!clients[0].has(id).unwrap());
        }
    }
}

#[test]
fn a_put_replaces_through_a_proxy_and_without_one() {
    let server = server(ANY_PORT, &[]);
    let proxy = proxy(&[server.address()], &[]);
    for address in [server.address(), proxy.address()] {
        let caller = RawClient::connect(&address);
        let put = |uid: u32, session: &[u8]| {
            at_level(1, message(0, uid, PUT, &add_payload(60_000, b"an id", session)))
        };
        let said = |bytes| at_level(1, bytes);
        caller.ask(&have(1, b"an id"));
        assert_eq!(caller.ask(&put(2, b"first")), said(status(2, PUT, 0)));
        assert_eq!(caller.ask(&put(3, b"other")), said(status(3, PUT, 0)));
        assert_eq!(caller.ask(&get(4, b"an id")), session(4, b"other"));
    }
}

#[test]
fn mintimeout_keeps_sessions_that_httpds_own_module_would_lose_at_once() {
    for (server_has, proxy_has) in [(true, false), (false, true)] {
        let raised = ["-mintimeout", "60000"];
        let of = |has: bool| if has { &raised[..] } else { &[] };
        let server = server(ANY_PORT, of(server_has));
        let proxy = proxy(&[server.address()], of(proxy_has));
        let caller = RawClient::connect(&proxy.address());
        assert_eq!(caller.ask(&add_for(1, 1, b"short", b"session")), status(1, ADD, 0));
        assert_eq!(caller.ask(&add_for(2, 604_800_001, b"long", b"session")), status(2, ADD, 102));
        // With its own lifetime of a millisecond the session is gone by then.
        let plain = self::server(ANY_PORT, &[]);
        let control = RawClient::connect(&plain.address());
        assert_eq!(control.ask(&add_for(1, 1, b"short", b"session")), status(1, ADD, 0));
        ask_until(&plain.address(), &get(3, b"short"), &status(3, GET, 1));
        assert_eq!(caller.ask(&get(4, b"short")), session(4, b"session"));
    }
}

#[test]
fn invalid_servers_and_replicas_are_refused_by_name() {
    let many: Vec<_> = (0..33).map(|number| format!("-server=UNIX:/nobody{number}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let cases: [(&[&str], &str); 5] = [
        (
            &["-server", "UNIX:/nobody", "-replicas", "2"],
            "-replicas 2 needs at least 2 servers, not 1",
        ),
        (&["-server", "UNIX:/one", "-server", "UNIX:/one"], "-server: UNIX:/one is given twice"),
        (&["-server", "UNIX:/nobody", "-replicas", "3"], "-replicas"),
        (&["-server", "UNIX:/nobody", "-mintimeout", "604800001"], "-mintimeout"),
        (&many, "-server: 33 servers are more than 32"),
    ];
    for (arguments, said) in cases {
        let ended = Program::run(DC_CLIENT, arguments);
        assert_eq!(ended.code, 1);
        assert!(ended.err.contains(said), "{}", ended.err);
    }
}
