//! What restarts, copies and repairs keep of sessions: a search through the memory of each process.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use distcache_testing::bytes::{ADD, REMOVE, add, get, remove, session, status};
use distcache_testing::daemon::Daemon;
use distcache_testing::process::{Dir, Program, Signal, is_root, until};
use distcache_testing::raw_client::{RawClient, ask_until};
use distcache_testing::secret::Secret;
use distcache_testing::start;

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

const ID: &[u8] = b"an id of thirty-two bytes, no le";

fn store(client: &RawClient, secret: &Secret) {
    assert_eq!(client.ask(&add(1, ID, &secret.reveal())), status(1, ADD, 0));
}

#[test]
fn a_state_that_was_written_leaves_no_copy_in_the_server_or_its_writer() {
    if !is_root() {
        return;
    }
    let (dir, secret) = (Dir::new(), Secret::new());
    let state = dir.text("state");
    let arguments = ["-state", &state, "-statewrite", "1s"];
    let server = start::server(DC_SERVER, &dir.address("s"), &arguments);
    let writer = Daemon::child_of(server.pid());
    let client = RawClient::connect(&server.address());
    store(&client, &secret);
    let hex = secret.hex();
    let has_it = |bytes: &[u8]| {
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        text.contains(&hex[..64])
    };
    until("a state with the session", || {
        fs::read(&state).ok().filter(|bytes| has_it(bytes)).map(drop)
    });
    secret.until_one_in(server.pid(), "after it was written");
    secret.until_none_in(writer.pid().cast_unsigned(), "after it was written");
    assert_eq!(client.ask(&remove(2, ID)), status(2, REMOVE, 0));
    secret.until_none_in(server.pid(), "after REMOVE");
    secret.until_none_in(writer.pid().cast_unsigned(), "after REMOVE");
    store(&client, &secret);
    assert_eq!(server.end(Signal::TERM).code, 0);
    writer.ended();
    // What is read comes to lie in one place, too.
    let server = start::server(DC_SERVER, &dir.address("s"), &["-state", &state]);
    secret.until_one_in(server.pid(), "after it was read");
    let client = RawClient::connect(&server.address());
    assert_eq!(client.ask(&remove(2, ID)), status(2, REMOVE, 0));
    secret.until_none_in(server.pid(), "after REMOVE");
}

#[test]
fn keys_are_in_the_server_alone_and_gone_once_they_are_replaced() {
    if !is_root() {
        return;
    }
    let (dir, old, new) = (Dir::new(), Secret::new(), Secret::new());
    let (state, keys) = (dir.text("state"), dir.text("keys"));
    let write = |secret: &Secret| {
        fs::write(&keys, format!("{}\n", &secret.hex()[..64])).expect("our own");
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).expect("our own");
    };
    write(&old);
    let arguments = ["-state", &state, "-statewrite", "1s", "-sealkeys", &keys];
    let server = start::server(DC_SERVER, &dir.address("s"), &arguments);
    let writer = Daemon::child_of(server.pid());
    old.until_some_in(server.pid());
    assert!(old.copies_in(writer.pid().cast_unsigned()).is_none(), "the writer knows no key");
    write(&new);
    server.signal(Signal::HUP);
    server.err.wait_for("read 1 key from ");
    new.until_some_in(server.pid());
    old.until_none_in(server.pid(), "after HUP");
    let listen = dir.address("p");
    let arguments = ["-sealkeys", &keys];
    let proxy = start::connected(DC_CLIENT, &listen, &server.address(), &arguments);
    new.until_some_in(proxy.pid());
    write(&old);
    proxy.signal(Signal::HUP);
    proxy.err.wait_for("read 1 key from ");
    new.until_none_in(proxy.pid(), "after HUP");
}

#[test]
fn copies_and_handovers_leave_each_session_in_one_place() {
    if !is_root() {
        return;
    }
    let (dir, secret) = (Dir::new(), Secret::new());
    let door = dir.text("door");
    let source = start::server(DC_SERVER, &dir.address("a"), &["-allowcopy"]);
    store(&RawClient::connect(&source.address()), &secret);
    let from = source.address();
    let arguments = ["-copyfrom", &from, "-handover", &door];
    let copy = start::server(DC_SERVER, &dir.address("b"), &arguments);
    ask_until(&copy.address(), &get(1, ID), &session(1, &secret.reveal()));
    secret.until_one_in(source.pid(), "after COPY");
    secret.until_one_in(copy.pid(), "after COPY");
    let successor = start::server(DC_SERVER, &dir.address("b"), &["-handover", &door]);
    assert_eq!(copy.ended().code, 0);
    secret.until_one_in(successor.pid(), "after a handover");
    let client = RawClient::connect(&successor.address());
    assert_eq!(client.ask(&remove(2, ID)), status(2, REMOVE, 0));
    secret.until_none_in(successor.pid(), "after REMOVE");
}

#[test]
fn a_repair_leaves_no_copy_in_the_proxy() {
    if !is_root() {
        return;
    }
    let dir = Dir::new();
    let servers = ["a", "b"].map(|name| start::server(DC_SERVER, &dir.address(name), &[]));
    let [a, b] = servers.each_ref().map(Program::address);
    let listen = dir.address("p");
    let arguments =
        ["-listen", &listen, "-server", &a, "-server", &b, "-replicas", "2", "-retry", "50"];
    let proxy = Program::start(DC_CLIENT, &arguments);
    proxy.address();
    for address in [&a, &b] {
        proxy.err.wait_for(&format!("connected to {address}\n"));
    }
    let (secret, client) = (Secret::new(), RawClient::connect(&listen));
    let direct = RawClient::connect(&a);
    // About half of them belong to the first server first, so they miss there and are stored again.
    let ids: Vec<[u8; 32]> = (0..16).map(|number| [number; 32]).collect();
    for id in &ids {
        assert_eq!(client.ask(&add(1, id, &secret.reveal())), status(1, ADD, 0));
        assert_eq!(direct.ask(&remove(2, id)), status(2, REMOVE, 0));
    }
    let found = session(3, &secret.reveal());
    until("a repair", || {
        assert!(ids.iter().all(|id| client.ask(&get(3, id)) == found));
        ids.iter().any(|id| direct.ask(&get(3, id)) == found).then_some(())
    });
    secret.until_none_in(proxy.pid(), "after a repair");
}
