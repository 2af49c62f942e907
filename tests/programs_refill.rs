//! Servers that come back empty get back what they should have, on real programs: by `-copyfrom`, and
//! by read repair alone.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use distcache_testing::bytes::{
    PUT, REMOVE, TAKE, add_for, add_payload, at_level, get, message, remove, session, status,
};
use distcache_testing::process::{Dir, Program, Signal, until};
use distcache_testing::raw_client::RawClient;
use distcache_testing::start::{self, ANY_PORT};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

/// Sessions stored before any server is killed, and never fetched meanwhile.
const OLD: u32 = 3_000;
/// Numbers from here on are of sessions that are stored before as well, and then taken or removed.
const GONE: u32 = 1_000_000;
/// How many there are.
const GONE_COUNT: u32 = 3_000;

/// Lifetimes in milliseconds: longer than the tests.
const HOUR: u32 = 3_600_000;

fn id(number: u32) -> Vec<u8> {
    [&number.to_be_bytes()[..], b"an id of a session that comes back"].concat()
}

/// The session of an id: 5 to 300 bytes.
fn data(id: &[u8]) -> Vec<u8> {
    let mut data = distcache_testing::load::data(id);
    data.truncate(300);
    data
}

/// Starts a server that copies its share from the others.
fn server(addresses: &[String], number: usize, copies: bool) -> Program {
    let own = &addresses[number];
    let mut arguments = vec!["-allowcopy", "-sessions", "1M", "-maxmem", "600M"];
    arguments.extend(["-proxyretry", "20"]);
    let others = addresses.iter().filter(|address| *address != own);
    if copies {
        arguments.extend(others.flat_map(|address| ["-copyfrom", address]));
        arguments.extend(["-copyshare", own]);
    }
    start::server(DC_SERVER, own, &arguments)
}

fn proxy(addresses: &[String], retry: &str) -> Program {
    let mut arguments = vec!["-listen", ANY_PORT, "-servertimeout", "10000"];
    arguments.extend(["-replicas", "2", "-retry", retry]);
    arguments.extend(addresses.iter().flat_map(|address| ["-server", address]));
    let proxy = Program::start(DC_CLIENT, &arguments);
    proxy.address();
    for address in addresses {
        proxy.err.wait_for(&format!("connected to {address}\n"));
    }
    proxy
}

fn found(client: &RawClient, number: u32) -> bool {
    let id = id(number);
    let answer = client.ask(&get(number, &id));
    let right = answer == session(number, &data(&id));
    assert!(right || answer == status(number, 1, 1), "another answer than its session: {answer:?}");
    right
}

/// The numbers below `count` of the sessions that a server has.
fn held(address: &str, count: u32) -> BTreeSet<u32> {
    let client = RawClient::connect(address);
    (0..count).filter(|number| found(&client, *number)).collect()
}

fn put(number: u32, id: &[u8], data: &[u8]) -> Vec<u8> {
    at_level(1, message(0, number, PUT, &add_payload(HOUR, id, data)))
}

fn take(number: u32) -> Vec<u8> {
    at_level(1, message(0, number, TAKE, &id(number)))
}

/// Takes the session of an even number, and removes that of an odd one.
fn end(client: &RawClient, number: u32) {
    let id = id(number);
    if number.is_multiple_of(2) {
        let taken = at_level(1, message(1, number, TAKE, &data(&id)));
        assert_eq!(client.ask(&take(number)), taken, "{number}");
    } else {
        assert_eq!(client.ask(&remove(number, &id)), status(number, REMOVE, 0), "{number}");
    }
}

/// Whether a session that was taken or removed is there again.
fn is_back(client: &RawClient, number: u32) -> bool {
    found(client, number) || client.ask(&take(number)) != at_level(1, status(number, TAKE, 1))
}

/// Stores sessions one by one through two proxies in turn, puts some again, and fetches each at once and
/// again later. Takes and removes others. Until it is told to stop; returns how many are gone.
fn load(addresses: &[String; 2], running: &AtomicBool, stored: &AtomicU32) -> u32 {
    let clients = addresses.each_ref().map(|address| RawClient::connect(address));
    let mut gone = 0;
    while running.load(Ordering::Relaxed) {
        let number = stored.load(Ordering::Relaxed);
        let [client, other] = [number, number + 1].map(|turn| &clients[turn as usize % 2]);
        let id = id(number);
        let mut request = add_for(number, HOUR, &id, &data(&id));
        let mut expected = status(number, 0, 0);
        if number.is_multiple_of(3) {
            request = put(number, &id, &data(&id));
            expected = at_level(1, status(number, PUT, 0));
        }
        assert_eq!(client.ask(&request), expected);
        stored.store(number + 1, Ordering::Release);
        assert!(found(client, number));
        assert!(found(client, OLD + (number - OLD) / 2));
        if number.is_multiple_of(4) && gone < GONE_COUNT {
            assert!(found(client, GONE + gone));
            end(other, GONE + gone);
            gone += 1;
            assert!(!is_back(client, GONE + number % gone), "{} is back", number % gone);
        }
    }
    gone
}

/// Waits until the proxy stores sessions at this server.
fn wait_for_proxy(client: &RawClient, address: &str, nonce: usize) {
    let direct = RawClient::connect(address);
    let mut count = 0_u32;
    until("the proxy has it again", || {
        count += 1;
        let id = [&b"probe"[..], &nonce.to_be_bytes(), &count.to_be_bytes()].concat();
        assert_eq!(client.ask(&add_for(1, 10_000, &id, b"probe")), status(1, 0, 0));
        (direct.ask(&get(2, &id)) == session(2, b"probe")).then_some(())
    });
}

#[test]
fn three_servers_killed_in_turn_twice_round_lose_no_session_and_end_with_their_shares() {
    let dir = Dir::new();
    let addresses: Vec<_> = (0..3).map(|number| dir.address(&format!("s{number}"))).collect();
    let mut servers: Vec<_> = (0..3).map(|number| server(&addresses, number, false)).collect();
    let proxies = [0, 1].map(|_| proxy(&addresses, "20"));
    let fronts = proxies.each_ref().map(Program::address);
    let clients = fronts.each_ref().map(|front| RawClient::connect(front));
    let client = &clients[0];
    for number in (0..OLD).chain(GONE..GONE + GONE_COUNT) {
        let id = id(number);
        assert_eq!(client.ask(&add_for(number, HOUR, &id, &data(&id))), status(number, 0, 0));
    }
    let shares: Vec<_> = addresses.iter().map(|address| held(address, OLD)).collect();
    assert_eq!(shares.iter().map(BTreeSet::len).sum::<usize>(), 2 * OLD as usize);
    let (running, stored) = (AtomicBool::new(true), AtomicU32::new(OLD));
    let mut gone = 0;
    std::thread::scope(|scope| {
        // A failed check must end the load as well.
        let running = StopOnDrop(&running);
        let loader = scope.spawn(|| load(&fronts, running.0, &stored));
        for turn in 0..6 {
            let number = turn % 3;
            let more = stored.load(Ordering::Acquire) + 50;
            until("progress of the load", || {
                assert!(!loader.is_finished(), "the load has failed");
                (stored.load(Ordering::Acquire) > more).then_some(())
            });
            servers.remove(number).end(Signal::KILL);
            servers.insert(number, server(&addresses, number, true));
            for other in addresses.iter().filter(|address| **address != addresses[number]) {
                servers[number].err.wait_for(&format!("sessions from {other} in "));
            }
            for (client, half) in clients.iter().zip([0, 1]) {
                wait_for_proxy(client, &addresses[number], 2 * turn + half);
            }
            let now = held(&addresses[number], OLD);
            let lacks = shares[number].difference(&now).count();
            let err = servers[number].err.so_far();
            assert_eq!(lacks, 0, "turn {turn}: of its share of {}: {err}", shares[number].len());
            assert_eq!(now.len(), shares[number].len(), "turn {turn}: nothing but its share");
        }
        drop(running);
        gone = loader.join().unwrap();
    });
    let all = stored.load(Ordering::Acquire);
    let lost: Vec<_> = (0..all).filter(|number| !found(client, *number)).collect();
    assert!(lost.is_empty(), "{} of {all} are lost: {lost:?}", lost.len());
    assert!(gone > 100, "{gone}");
    let back: Vec<_> = (GONE..GONE + gone).filter(|number| is_back(client, *number)).collect();
    assert!(back.is_empty(), "{} of {gone} are back: {back:?}", back.len());
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// With the time between attempts to connect that proxies have by default. Until then they ask the other
/// server alone.
#[test]
fn what_was_taken_removed_or_replaced_before_proxies_have_connected_again_stays_so() {
    const COUNT: u32 = 400;
    let dir = Dir::new();
    let addresses: Vec<_> = (0..2).map(|number| dir.address(&format!("s{number}"))).collect();
    let both = |number: usize| {
        let arguments = ["-allowcopy", "-copyfrom", &addresses[1 - number]];
        start::server(DC_SERVER, &addresses[number], &arguments)
    };
    let (first, _second) = (both(0), both(1));
    let proxies = [0, 1].map(|_| proxy(&addresses, "5s"));
    let clients = proxies.each_ref().map(|proxy| RawClient::connect(&proxy.address()));
    for number in 0..COUNT {
        let id = id(number);
        let answer = clients[0].ask(&add_for(number, HOUR, &id, &data(&id)));
        assert_eq!(answer, status(number, 0, 0));
    }
    first.end(Signal::KILL);
    for client in &clients {
        // It has noticed once an id of the first server is answered by the other one.
        assert!((0..COUNT).all(|number| found(client, number)));
    }
    let first = both(0);
    let newer = |id: &[u8]| [data(id), b"newer".to_vec()].concat();
    for number in 0..COUNT {
        let [client, other] = [number, number + 1].map(|turn| &clients[(turn / 4) as usize % 2]);
        assert!(found(other, number), "a repair, perhaps");
        let id = id(number);
        match number % 4 {
            0 | 1 => end(client, number),
            2 => {
                let answer = client.ask(&put(number, &id, &newer(&id)));
                assert_eq!(answer, at_level(1, status(number, PUT, 0)));
            }
            _ => {}
        }
    }
    first.err.wait_for(&format!("sessions from {} in ", addresses[1]));
    for (turn, client) in clients.iter().enumerate() {
        wait_for_proxy(client, &addresses[0], turn);
    }
    for number in 0..COUNT {
        let (id, client) = (id(number), &clients[number as usize % 2]);
        match number % 4 {
            0 | 1 => assert!(!is_back(client, number), "{number} is back"),
            2 => assert_eq!(client.ask(&get(number, &id)), session(number, &newer(&id))),
            _ => assert!(found(client, number), "{number} is lost"),
        }
    }
    let untouched = (0..COUNT).filter(|number| number % 4 == 3);
    let direct = RawClient::connect(&addresses[0]);
    assert!(untouched.into_iter().all(|number| found(&direct, number)), "the copy itself works");
}

#[test]
fn what_is_fetched_returns_to_a_server_that_came_back_empty() {
    let dir = Dir::new();
    let addresses: Vec<_> = (0..3).map(|number| dir.address(&format!("s{number}"))).collect();
    let mut servers: Vec<_> = (0..3).map(|number| server(&addresses, number, false)).collect();
    let proxy = proxy(&addresses, "20");
    let client = RawClient::connect(&proxy.address());
    const COUNT: u32 = 600;
    for number in 0..COUNT {
        let id = id(number);
        client.ask(&add_for(number, HOUR, &id, &data(&id)));
    }
    let before: Vec<_> = addresses.iter().map(|address| held(address, COUNT)).collect();
    servers.remove(1).end(Signal::KILL);
    servers.insert(1, server(&addresses, 1, false));
    wait_for_proxy(&client, &addresses[1], 0);
    assert_eq!(held(&addresses[1], COUNT).len(), 0);
    // About half of its share has this server first: those are repaired, once it accepts repairs.
    let share = before[1].len();
    let repaired = until("the repairs", || {
        assert!((0..COUNT).all(|number| found(&client, number)));
        let now = held(&addresses[1], COUNT);
        (now.len() > share / 4).then_some(now)
    });
    assert!(repaired.is_subset(&before[1]));
    let err = proxy.end(Signal::TERM).err;
    let line = err.lines().rfind(|line| line.contains("sessions repaired"));
    assert!(line.is_some(), "{err}");
    assert!(err.contains(&format!("{} sessions repaired", repaired.len())), "{err}");
}

#[test]
fn copyfrom_gives_up_with_one_line_and_the_server_goes_on() {
    let dir = Dir::new();
    let source = dir.address("source");
    let refuses = start::server(DC_SERVER, &source, &[]);
    let program = start::server(DC_SERVER, ANY_PORT, &["-copyfrom", &source]);
    program.err.wait_for(&format!("copied 0 sessions from {source} in "));
    program.err.wait_for(" ms and gave up: it does not allow that; start it with -allowcopy\n");
    drop(refuses);
    let client = RawClient::connect(&program.address());
    assert_eq!(client.ask(&add_for(1, 1_000, b"an id", b"session")), status(1, 0, 0));
    let nowhere = dir.address("nowhere");
    let program = start::server(DC_SERVER, ANY_PORT, &["-copyfrom", &nowhere]);
    let client = RawClient::connect(&program.address());
    assert_eq!(client.ask(&add_for(1, 1_000, b"an id", b"session")), status(1, 0, 0));
    let line = program.err.wait_for(" and gave up: ");
    assert!(line.contains(&format!("copied 0 sessions from {nowhere} in ")), "{line}");
}

#[test]
fn without_allowcopy_nobody_lists_sessions_and_a_proxy_never_passes_it() {
    let dir = Dir::new();
    let copy = at_level(2, message(0, 7, 8, &[0, 0, 0, 0, 0, 0, 64, 0]));
    let closed = start::server(DC_SERVER, ANY_PORT, &[]);
    let refused = at_level(2, status(7, 8, 3));
    assert_eq!(RawClient::connect(&closed.address()).ask(&copy), refused);
    let open = dir.address("open");
    let _open = start::server(DC_SERVER, &open, &["-allowcopy"]);
    let answer = RawClient::connect(&open).ask(&copy);
    assert_eq!(answer, at_level(2, message(1, 7, 8, &[255; 4])));
    let proxy = Program::start(DC_CLIENT, &["-listen", ANY_PORT, "-server", &open]);
    let address = proxy.address();
    proxy.err.wait_for("connected to ");
    assert_eq!(RawClient::connect(&address).ask(&copy), refused);
}
