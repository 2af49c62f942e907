//! A server that begins to serve knows of no removals: it refuses repairs for a while, after a start and
//! after a handover, on the real program.
#![cfg(target_os = "linux")]

use distcache_testing::bytes::{
    FETCH, REPAIR, TAKE, add_payload, at_level, message, messages, status,
};
use distcache_testing::process::{Dir, Program, Signal, until};
use distcache_testing::raw_client::RawClient;

const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

fn server(dir: &Dir, proxy_retry: &str) -> Program {
    let (listen, door) = (dir.address("s"), dir.text("door"));
    let usual = ["-listen", &listen, "-handover", &door, "-sessions", "20000"];
    let server = Program::start(DC_SERVER, &[&usual[..], &["-proxyretry", proxy_retry]].concat());
    server.address();
    server
}

/// Has the server miss a session, and repairs it as a proxy would. Returns the status.
fn repair(client: &RawClient, id: &[u8]) -> u8 {
    let missed = client.ask(&at_level(2, message(0, 1, FETCH, id)));
    let (_, _, missed) = messages(&missed).remove(0);
    let (missing, stamp) = missed.split_first().unwrap();
    assert_eq!((*missing, stamp.len()), (1, 8), "it is missing, and there is a stamp");
    let payload = [stamp, &add_payload(60_000, id, b"session")].concat();
    let answer = client.ask(&at_level(2, message(0, 2, REPAIR, &payload)));
    let (_, _, status) = messages(&answer).remove(0);
    status[0]
}

/// Repairs sessions until one is stored.
fn wait_until_repaired(client: &RawClient) {
    let mut count = 0_u32;
    until("a repair", || {
        count += 1;
        (repair(client, format!("id {count}").as_bytes()) == 0).then_some(())
    });
}

#[test]
fn what_was_taken_shortly_before_a_restart_or_a_handover_is_not_repaired_after_it() {
    let dir = Dir::new();
    let old = server(&dir, "0");
    let client = RawClient::connect(&dir.address("s"));
    wait_until_repaired(&client);
    let take = at_level(1, message(0, 3, TAKE, b"taken"));
    assert_eq!(client.ask(&take), at_level(1, status(3, TAKE, 1)), "it is at the second server");
    // The client's connection passes over; the mark of what it has taken does not.
    let new = server(&dir, "1h");
    assert_eq!(old.ended().code, 0);
    assert_eq!(repair(&client, b"taken"), 105);
    assert_eq!(client.ask(&take), at_level(1, status(3, TAKE, 1)));
    new.end(Signal::KILL);
    let _again = server(&dir, "1h");
    let client = RawClient::connect(&dir.address("s"));
    assert_eq!(repair(&client, b"taken"), 105);
}
