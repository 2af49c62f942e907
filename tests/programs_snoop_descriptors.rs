//! `dc_snoop` with few descriptors: it raises its limit, refuses clients, and does not spin.

use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::process::{Dir, Program, Signal, has_tool, runs_as_root, until};
use distcache_testing::raw_client::RawClient;
use distcache_testing::start;

const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const DC_SNOOP: &str = env!("CARGO_BIN_EXE_dc_snoop");

/// Returns what runs a program without root's right to raise limits.
fn nobody() -> &'static [&'static str] {
    if runs_as_root() {
        &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    } else {
        &[]
    }
}

/// Starts a snoop with these soft and hard limits of descriptors.
fn with_descriptors(soft: u32, hard: u32, dir: &Dir) -> Option<(Program, Program)> {
    if !(has_tool("prlimit") && (!runs_as_root() || has_tool("setpriv"))) {
        return None;
    }
    dir.permit(0o777);
    let server = start::server(DC_SERVER, &dir.address("s"), &["-sockperms", "666"]);
    let limit = format!("--nofile={soft}:{hard}");
    let (listen, address) = (dir.address("c"), dir.address("s"));
    let words = [DC_SNOOP, "-listen", &listen, "-server", &address];
    let snoop = Program::start("prlimit", &[&[limit.as_str()], nobody(), &words].concat());
    snoop.address();
    Some((server, snoop))
}

#[test]
fn it_raises_its_limit_of_descriptors() {
    let dir = Dir::new();
    let Some((_server, snoop)) = with_descriptors(32, 2500, &dir) else { return };
    let clients: Vec<_> = (0..100).map(|_| RawClient::connect(&dir.address("c"))).collect();
    for client in &clients {
        assert_eq!(client.ask(&have(1, b"id")), status(1, HAVE, 1));
    }
    assert_eq!(snoop.end(Signal::TERM).err, "");
}

#[test]
fn without_descriptors_clients_are_refused_and_that_is_reported() {
    let dir = Dir::new();
    // Enough for the client's end of one more connection but not for the server's; or for neither.
    for limit in [30, 31] {
        let Some((_server, snoop)) = with_descriptors(limit, limit, &dir) else { return };
        snoop.err.wait_for(&format!("dc_snoop: warning: only {limit} descriptors: about "));
        let clients: Vec<_> = (0..40).map(|_| RawClient::connect(&dir.address("c"))).collect();
        let is_served = |client: &&RawClient| {
            client.try_ask(&have(1, b"id")).is_ok_and(|answer| answer == status(1, HAVE, 1))
        };
        let served = clients.iter().filter(is_served).count();
        assert!((5..=11).contains(&served), "{served} are served");
        snoop.out.wait_for("#40 refused: no descriptors left; raise ulimit -n");
        let printed = snoop.out.so_far();
        assert_eq!(printed.matches(" refused: no descriptors left").count(), 40 - served);
        assert_eq!(
            clients.iter().filter(is_served).count(),
            served,
            "connected clients are served"
        );
        drop(clients);
        snoop.out.find("the end of all", |text| {
            (text.matches(" closed").count() == served).then_some(())
        });
        let ask = have(2, b"id");
        assert_eq!(RawClient::connect(&dir.address("c")).ask(&ask), status(2, HAVE, 1));
        assert_eq!(snoop.end(Signal::TERM).code, 0);
    }
}

/// Sets the limit of descriptors of a running program.
fn limit(program: &Program, descriptors: u32) {
    let pid = format!("--pid={}", program.pid());
    let limit = format!("--nofile={descriptors}:100");
    // A process of the same user may do that.
    let words = [nobody(), &["prlimit", &pid, &limit]].concat();
    let ended = Program::run(words[0], &words[1..]);
    assert_eq!(ended.code, 0, "{ended:?}");
}

/// Returns how often a process has waited for something.
fn waits(program: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid()));
    let status = status.expect("our own child");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).expect("a count")
}

#[test]
fn without_any_descriptor_it_waits_and_tries_again() {
    let dir = Dir::new();
    let Some((_server, snoop)) = with_descriptors(100, 100, &dir) else { return };
    let listen = dir.address("c");
    assert_eq!(RawClient::connect(&listen).ask(&have(1, b"id")), status(1, HAVE, 1));
    snoop.out.wait_for("#1 closed");
    // Fewer than it has open: not even the reserved one can be opened again.
    limit(&snoop, 3);
    let client = RawClient::connect(&listen);
    let before = waits(&snoop);
    until("a pause between two attempts", || (waits(&snoop) > before + 5).then_some(()));
    limit(&snoop, 100);
    assert_eq!(client.ask(&have(2, b"id")), status(2, HAVE, 1));
    assert_eq!(snoop.end(Signal::TERM).code, 0);
}
