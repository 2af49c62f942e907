//! Thousands of connections at once.
#![cfg(target_os = "linux")]

use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::process::{Dir, Program, Signal, has_descriptors};
use distcache_testing::raw_client::RawClient;
use distcache_testing::start;

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

/// Connects until there are `wanted` clients, each of which is served once and then idle.
fn gather(idle: &mut Vec<RawClient>, wanted: usize, address: &str) {
    while idle.len() < wanted {
        let len = (wanted - idle.len()).min(200);
        let batch: Vec<_> = (0..len).map(|_| RawClient::connect(address)).collect();
        ask_all(&batch, 1);
        idle.extend(batch);
    }
}

/// Lets all send `requests` requests at once, and checks every answer.
fn ask_all(callers: &[RawClient], requests: usize) {
    for (uid, caller) in (0..).zip(callers) {
        caller.send(&have(uid, b"nobody's").repeat(requests));
    }
    for (uid, caller) in (0..).zip(callers) {
        assert_eq!(caller.take(15 * requests), status(uid, HAVE, 1).repeat(requests));
    }
}

/// Starts a server with so many idle clients. Returns its memory.
fn crowd(clients: usize, places: usize) -> ((Program, Vec<RawClient>), usize) {
    let places = places.to_string();
    let program = Program::start(DC_SERVER, &["-listen", "IP:127.0.0.1:0", "-maxconn", &places]);
    let mut idle = Vec::new();
    gather(&mut idle, clients, &program.address());
    let memory = program.resident();
    ((program, idle), memory)
}

#[test]
fn ten_thousand_idle_and_five_hundred_busy_clients_are_served() {
    if !has_descriptors(10_700) {
        return;
    }
    // Memory for connections is allocated at the start, so two servers show what a place takes.
    let (few, before) = crowd(1_000, 1_000);
    drop(few);
    let ((program, mut idle), after) = crowd(10_000, 10_500);
    let each = after.saturating_sub(before) / 9_000;
    eprintln!("an idle connection takes {each} bytes of dc_server's memory");
    assert!(each <= 1024, "{each} bytes");
    let address = program.address();
    let mut busy = Vec::new();
    gather(&mut busy, 500, &address);
    for _ in 0..20 {
        ask_all(&busy, 4);
    }
    idle.append(&mut busy);
    ask_all(&idle, 1);
    assert_eq!(RawClient::connect(&address).rest(), b"", "one more than 10500");
    drop(idle);
    assert_eq!(program.end(Signal::TERM).code, 0);
}

#[test]
fn two_thousand_idle_and_hundreds_of_busy_clients_share_one_connection() {
    if !has_descriptors(13_500) {
        return;
    }
    let dir = Dir::new();
    let server = Program::start(DC_SERVER, &["-listen", &dir.address("s")]);
    let proxy = start::connected(DC_CLIENT, &dir.address("c"), &server.address(), &[]);
    let address = proxy.address();
    let mut idle = Vec::new();
    gather(&mut idle, 2_000, &address);
    let mut busy = Vec::new();
    gather(&mut busy, 300, &address);
    for _ in 0..10 {
        ask_all(&busy, 4);
    }
    ask_all(&idle, 1);
    drop((idle, busy));
    assert_eq!(proxy.end(Signal::TERM).code, 0);
    let err = server.end(Signal::TERM).err;
    assert!(err.contains("1 clients"), "{err}");
}
