//! Handovers between servers that die, hang, lie or are of another version.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use distcache_testing::bytes::{
    ADD, HAVE, PUT, REMOVE, add, add_payload, at_level, get, have, message, remove, session, status,
};
use distcache_testing::handover::{
    CLIENTS, CONTENT, COPIED, COUNTS, FakeDoor, HELLO, LOADED, Packet, Peer, READY, REASON,
    REFUSED, SESSIONS, TAKEN, Then, WELCOME, WITH_FD, YOURS, relay,
};
use distcache_testing::process::{Dir, Ended, Program, Signal, has_tool, is_root, until};
use distcache_testing::raw_client::RawClient;

const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

/// What an old server prints when a handover has failed.
const GOES_ON: &str = "; this server goes on";

fn start(dir: &Dir, door: &str, arguments: &[&str]) -> Program {
    let (listen, door) = (dir.address("s"), dir.text(door));
    let usual = ["-listen", &listen, "-handover", &door, "-sessions", "1000"];
    Program::start(DC_SERVER, &[&usual, arguments].concat())
}

fn server(dir: &Dir) -> Program {
    let server = start(dir, "door", &[]);
    assert_eq!(server.address(), dir.address("s"));
    server
}

fn serves(client: &RawClient) {
    assert_eq!(client.ask(&have(1, b"nobody's")), status(1, HAVE, 1));
}

fn descriptors(program: &Program) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", program.pid())).expect("it runs").count()
}

fn some_fds(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| File::open("/dev/null").expect("a file").into()).collect()
}

/// A successor that has said hello and was welcomed.
fn greeted(dir: &Dir) -> Peer {
    let peer = Peer::connect(&dir.join("door"));
    assert!(peer.send(&Packet::new(HELLO, &[(1, b"0.0.0")])));
    peer.expect(WELCOME);
    peer
}

/// The same after ready; returns the counts, too.
fn ready(dir: &Dir, clients: bool) -> (Peer, Vec<u8>) {
    let peer = greeted(dir);
    assert!(peer.send(&Packet::new(READY, &[(TAKEN, &[0, 0])])));
    let counts = peer.expect(SESSIONS).value(COUNTS);
    assert!(peer.send(&Packet::new(COPIED, &[(COUNTS, &counts)])));
    let counts = peer.expect(CONTENT).value(COUNTS);
    if clients {
        assert_eq!(peer.expect(CLIENTS).fds.len(), 1);
    }
    (peer, counts)
}

/// Checks that a successor's fault costs the old server nothing: a client stays connected, no
/// descriptor is left, and one line says what happened.
fn survives(wanted: &str, fault: impl FnOnce(&Dir)) {
    let dir = Dir::new();
    let old = server(&dir);
    let client = RawClient::connect(&dir.address("s"));
    serves(&client);
    let before = descriptors(&old);
    fault(&dir);
    let line = old.err.wait_for(GOES_ON);
    assert!(line.lines().count() == 1 && line.contains(wanted), "{line}");
    serves(&client);
    until("as many descriptors as before", || (descriptors(&old) == before).then_some(()));
    let new = server(&dir);
    assert_eq!(old.ended().code, 0);
    serves(&client);
    assert_eq!(new.end(Signal::TERM).code, 0);
    assert!(dir.names().is_empty(), "{:?}", dir.names());
}

#[test]
fn a_successor_that_leaves_at_any_step_costs_nobody_anything() {
    survives("before it could say hello", |dir| drop(Peer::connect(&dir.join("door"))));
    survives("before it could get ready", |dir| drop(greeted(dir)));
    survives("before it could load everything", |dir| drop(ready(dir, true)));
    survives("before it could", |dir| {
        let peer = greeted(dir);
        assert!(peer.send(&Packet::new(READY, &[])));
    });
    survives("before it could load the sessions", |dir| {
        let peer = greeted(dir);
        assert!(peer.send(&Packet::new(READY, &[])));
        peer.expect(SESSIONS);
    });
}

#[test]
fn a_successor_that_sends_garbage_is_refused() {
    survives("invalid where it had to say hello", |dir| {
        assert!(Peer::connect(&dir.join("door")).send_bytes(b"GET / HTTP/1.0\r\n\r\n", &[]));
    });
    survives("invalid where it had to say hello", |dir| {
        let peer = Peer::connect(&dir.join("door"));
        assert!(peer.send(&Packet::new(READY, &[])));
        assert!(peer.refusal().contains("invalid"));
    });
    survives("invalid where it had to get ready", |dir| {
        let peer = greeted(dir);
        assert!(peer.send(&Packet::new(READY, &[(TAKEN, &[16, 0])])), "there is no such listener");
        assert!(peer.refusal().contains("invalid"));
    });
    survives("invalid where it had to load everything", |dir| {
        let (peer, _) = ready(dir, true);
        assert!(peer.send(&Packet::new(YOURS, &[])));
        assert!(peer.refusal().contains("invalid"));
    });
}

#[test]
fn a_successor_that_lies_about_what_it_has_does_not_get_it() {
    for at in 0..16 {
        survives("invalid where it had to load everything", |dir| {
            let (peer, mut counts) = ready(dir, true);
            counts[at] ^= 1;
            assert!(peer.send(&Packet::new(LOADED, &[(COUNTS, &counts)])));
            assert!(peer.refusal().contains("invalid"));
        });
    }
    survives("invalid where it had to load everything", |dir| {
        let (peer, _) = ready(dir, true);
        assert!(peer.send(&Packet::new(LOADED, &[])));
        assert!(peer.refusal().contains("invalid"));
    });
    survives("invalid where it had to load the sessions", |dir| {
        let peer = greeted(dir);
        assert!(peer.send(&Packet::new(READY, &[])));
        peer.expect(SESSIONS);
        assert!(peer.send(&Packet::new(COPIED, &[(COUNTS, &[7; 16])])));
        assert!(peer.refusal().contains("invalid"));
    });
    survives("refused: no memory", |dir| {
        let (peer, _) = ready(dir, true);
        assert!(peer.send(&Packet::new(REFUSED, &[(REASON, b"no memory")])));
    });
}

#[test]
fn a_successor_with_too_many_descriptors_or_bytes_is_refused() {
    survives("cannot say hello", |dir| {
        let peer = Peer::connect(&dir.join("door"));
        assert!(peer.send_bytes(&[0; 60_000], &[]));
        peer.refusal();
    });
    survives("cannot say hello", |dir| {
        let peer = Peer::connect(&dir.join("door"));
        let packet = Packet { fds: some_fds(250), ..Packet::new(HELLO, &[]) };
        assert!(peer.send(&packet));
        peer.refusal();
    });
    // As many as a packet may have are closed again.
    survives("before it could get ready", |dir| {
        let peer = Peer::connect(&dir.join("door"));
        let packet = Packet { fds: some_fds(200), ..Packet::new(HELLO, &[]) };
        assert!(peer.send(&packet));
        peer.expect(WELCOME);
    });
}

#[test]
fn a_flood_of_successors_is_one_line_in_ten_seconds() {
    let dir = Dir::new();
    let old = server(&dir);
    let client = RawClient::connect(&dir.address("s"));
    serves(&client);
    let before = descriptors(&old);
    for _ in 0..300 {
        let peer = Peer::connect(&dir.join("door"));
        peer.send_bytes(b"no hello", &some_fds(3));
        peer.refusal();
        serves(&client);
    }
    until("as many descriptors as before", || (descriptors(&old) == before).then_some(()));
    let ended = old.end(Signal::TERM);
    assert_eq!(ended.err.matches(GOES_ON).count(), 1, "{ended:?}");
}

#[test]
fn a_successor_that_hangs_delays_nobody_before_it_is_ready() {
    let dir = Dir::new();
    let old = server(&dir);
    let client = RawClient::connect(&dir.address("s"));
    let silent = Peer::connect(&dir.join("door"));
    serves(&client);
    drop(silent);
    let greeted = greeted(&dir);
    serves(&client);
    // At the end nobody waits for it.
    let ended = old.end(Signal::TERM);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(!greeted.send(&Packet::new(READY, &[])));
}

#[test]
fn a_successor_that_hangs_after_ready_is_given_up_after_ten_seconds() {
    survives("took too long to load everything", |dir| {
        let (peer, counts) = ready(dir, true);
        let reason = peer.refusal();
        assert!(reason.contains("too long"), "{reason}");
        assert!(!peer.send(&Packet::new(LOADED, &[(COUNTS, &counts)])), "it is too late");
    });
}

#[test]
fn a_later_major_version_is_refused_by_either_side_with_one_line() {
    survives("version 9.9 beta, speaks version 2 of the handover and this one 1", |dir| {
        let peer = Peer::connect(&dir.join("door"));
        let hello = Packet::new(HELLO, &[(1, b"9.9 beta"), (77, b"later")]);
        assert!(peer.send(&Packet { major: 2, minor: 3, ..hello }));
        assert!(peer.refusal().contains("speaks version 2"));
    });
    let dir = Dir::new();
    let door = FakeDoor::listen(&dir.join("door"));
    let new = start(&dir, "door", &[]);
    let peer = door.accept();
    peer.expect(HELLO);
    let welcome = Packet::new(WELCOME, &[(1, b"9.9")]);
    assert!(peer.send(&Packet { major: 2, ..welcome }));
    let ended = new.ended();
    assert!(ended.code == 1 && ended.err.lines().count() == 1, "{ended:?}");
    assert!(ended.err.contains("version 9.9, speaks version 2"), "{ended:?}");
    assert_eq!(dir.names(), ["door"]);
}

/// Lets a successor take over through a relay that changes packets; returns how both ended, and the
/// successor if it serves.
fn through(each: impl FnMut(&mut Packet) -> Then) -> (Dir, Program, Program, RawClient) {
    let dir = Dir::new();
    let old = server(&dir);
    let client = RawClient::connect(&dir.address("s"));
    client.send(&have(1, b"nobody's")[..7]);
    let door = FakeDoor::listen(&dir.join("relay"));
    let new = start(&dir, "relay", &[]);
    relay(&door, &dir.join("door"), each);
    (dir, old, new, client)
}

fn finishes(client: &RawClient) {
    client.send(&have(1, b"nobody's")[7..]);
    assert_eq!(client.message(), status(1, HAVE, 1));
    serves(client);
}

fn refused(ended: &Ended) {
    assert!(ended.code == 1 && ended.err.contains("cannot take over"), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
}

#[test]
fn unknown_fields_of_a_later_minor_version_are_ignored_on_both_sides() {
    let (_dir, old, new, client) = through(|packet| {
        packet.minor = 7;
        packet.fields.insert(0, (900, b"of a later version".to_vec()));
        packet.fields.insert(0, (WITH_FD | 901, vec![0; 40]));
        packet.fds.insert(0, some_fds(1).remove(0));
        for (tag, value) in &mut packet.fields {
            if *tag == COUNTS {
                value.extend(b"appended");
            }
        }
        Then::Pass
    });
    new.err.wait_for("took over from process");
    assert_eq!(old.ended().code, 0);
    finishes(&client);
    assert_eq!(new.end(Signal::TERM).code, 0);
}

#[test]
fn a_large_table_is_copied_before_clients_wait_and_then_only_what_has_changed() {
    let dir = Dir::new();
    let old = start(&dir, "door", &["-sessions", "9000"]);
    assert_eq!(old.address(), dir.address("s"));
    let client = RawClient::connect(&dir.address("s"));
    let id = |number: u32| number.to_be_bytes();
    let stores = |number: u32| {
        assert_eq!(client.ask(&add(1, &id(number), &id(number))), status(1, ADD, 0));
    };
    (0..5000).for_each(stores);
    let door = FakeDoor::listen(&dir.join("relay"));
    let new = start(&dir, "relay", &["-sessions", "9000"]);
    let mut sessions = vec![];
    relay(&door, &dir.join("door"), |packet| {
        if [SESSIONS, CONTENT].contains(&packet.kind) {
            let changed = packet.fields.iter().any(|(tag, _)| *tag == WITH_FD | 13);
            let count = packet.value(COUNTS)[8..].try_into().map(u64::from_le_bytes);
            sessions.push((changed, count.expect("a number")));
        }
        if packet.kind == SESSIONS {
            // The old server still serves.
            assert_eq!(client.ask(&remove(1, &id(0))), status(1, REMOVE, 0));
            assert_eq!(client.ask(&remove(1, &id(1))), status(1, REMOVE, 0));
            stores(1);
            stores(5000);
            let put = at_level(1, message(0, 1, PUT, &add_payload(60_000, &id(2), b"replaced")));
            assert_eq!(client.ask(&put), at_level(1, status(1, PUT, 0)));
        }
        Then::Pass
    });
    assert_eq!(old.ended().code, 0);
    // The log has 1 twice and the other three once; 0 is gone.
    assert_eq!(sessions, [(false, 5000), (true, 4)]);
    for number in 1..=5000 {
        let data = if number == 2 { b"replaced".to_vec() } else { id(number).to_vec() };
        assert_eq!(client.ask(&get(1, &id(number))), session(1, &data), "{number}");
    }
    assert_eq!(client.ask(&have(1, &id(0))), status(1, HAVE, 1));
    assert_eq!(new.end(Signal::TERM).code, 0);
}

#[test]
fn an_old_server_that_lies_is_not_taken_over_from() {
    type Change = fn(&mut Packet);
    let changes: [(&str, u8, Change); 13] = [
        ("no door", WELCOME, |packet| packet.fields.retain(|(tag, _)| *tag != WITH_FD | 4)),
        ("no descriptors", WELCOME, |packet| packet.fds.clear()),
        ("another kind", WELCOME, |packet| packet.kind = YOURS),
        ("short values", WELCOME, |packet| {
            packet.fields.iter_mut().for_each(|(_, value)| value.truncate(9));
        }),
        ("no sessions", SESSIONS, |packet| packet.fds.clear()),
        ("a file that is no state", SESSIONS, |packet| packet.fds = some_fds(1)),
        ("another number of sessions", SESSIONS, |packet| {
            packet.fields.iter_mut().for_each(|(_, value)| value.iter_mut().for_each(|b| *b ^= 1));
        }),
        ("no content", CONTENT, |packet| packet.fds.clear()),
        ("files that are not sealed", CONTENT, |packet| packet.fds = some_fds(2)),
        ("the files exchanged", CONTENT, |packet| packet.fds.reverse()),
        ("too few sessions", CONTENT, |packet| {
            packet.fields.iter_mut().for_each(|(_, value)| {
                if let Some(last) = value.last_mut() {
                    *last ^= 1;
                }
            });
        }),
        ("no client", CLIENTS, |packet| packet.fds.clear()),
        ("more clients than bytes", CLIENTS, |packet| packet.fds.extend(some_fds(1))),
    ];
    for (lie, kind, change) in changes {
        let (_dir, old, new, client) = through(|packet| {
            if packet.kind == kind {
                change(packet);
            }
            Then::Pass
        });
        refused(&new.ended());
        old.err.wait_for(GOES_ON);
        finishes(&client);
        let ended = old.end(Signal::TERM);
        assert_eq!(ended.code, 0, "{lie}: {ended:?}");
    }
}

#[test]
fn a_successor_killed_at_any_step_before_the_commit_leaves_the_old_server_serving() {
    for kind in [HELLO, WELCOME, READY, SESSIONS, COPIED, CONTENT, CLIENTS, LOADED] {
        let dir = Dir::new();
        let old = server(&dir);
        let client = RawClient::connect(&dir.address("s"));
        client.send(&have(1, b"nobody's")[..7]);
        let door = FakeDoor::listen(&dir.join("relay"));
        let mut new = Some(start(&dir, "relay", &[]));
        relay(&door, &dir.join("door"), |packet| {
            if packet.kind != kind {
                return Then::Pass;
            }
            let ended = new.take().expect("one packet of a kind").end(Signal::KILL);
            assert_eq!(ended.code, -9);
            Then::Cut
        });
        finishes(&client);
        serves(&RawClient::connect(&dir.address("s")));
        assert_eq!(old.end(Signal::TERM).code, 0);
        assert_eq!(dir.names(), ["relay"], "killed at packet {kind}");
    }
}

#[test]
fn an_old_server_killed_at_any_step_is_replaced_only_by_one_that_has_everything() {
    for kind in [HELLO, WELCOME, READY, SESSIONS, COPIED, CONTENT, CLIENTS, LOADED] {
        let dir = Dir::new();
        let mut old = Some(server(&dir));
        let client = RawClient::connect(&dir.address("s"));
        client.send(&have(1, b"nobody's")[..7]);
        let door = FakeDoor::listen(&dir.join("relay"));
        let new = start(&dir, "relay", &[]);
        relay(&door, &dir.join("door"), |packet| {
            if packet.kind != kind {
                return Then::Pass;
            }
            assert_eq!(old.take().expect("one packet of a kind").end(Signal::KILL).code, -9);
            Then::Cut
        });
        if kind == LOADED {
            new.err.wait_for(", which has died");
            finishes(&client);
            serves(&RawClient::connect(&dir.address("s")));
            assert_eq!(new.end(Signal::TERM).code, 0);
            assert_eq!(dir.names(), ["relay"]);
        } else {
            refused(&new.ended());
            assert!(client.is_closed(), "nobody serves");
        }
    }
}

#[test]
fn a_connection_that_breaks_at_any_step_leaves_exactly_one_server() {
    for kind in [HELLO, WELCOME, READY, SESSIONS, COPIED, CONTENT, CLIENTS, LOADED, YOURS] {
        let (dir, old, new, client) =
            through(|packet| if packet.kind == kind { Then::Cut } else { Then::Pass });
        let (serving, other) = if kind == YOURS { (new, old) } else { (old, new) };
        if kind == YOURS {
            // The old server has committed and ended, which is as good as the packet.
            serving.err.wait_for("took over from process");
            assert_eq!(other.ended().code, 0);
        } else {
            refused(&other.ended());
        }
        finishes(&client);
        serves(&RawClient::connect(&dir.address("s")));
        assert_eq!(serving.end(Signal::TERM).code, 0);
        assert_eq!(dir.names(), ["relay"]);
    }
}

#[test]
fn only_root_and_the_same_user_are_served_at_the_door() {
    if !(is_root() && has_tool("setpriv")) {
        return;
    }
    let dir = Dir::new();
    let old = server(&dir);
    let door = dir.join("door");
    let mode = std::fs::metadata(&door).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let nobody = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", DC_SERVER]);
        command.args(["-listen", "UNIX:@nobody", "-handover", &dir.text("door")]);
        Program::spawn(command).ended()
    };
    let ended = nobody();
    assert!(ended.code == 1 && ended.err.contains("cannot connect"), "{ended:?}");
    // Even if somebody opens the door.
    std::fs::set_permissions(&door, PermissionsExt::from_mode(0o666)).unwrap();
    let ended = nobody();
    assert!(ended.code == 1 && ended.err.contains("user 65534"), "{ended:?}");
    old.err.wait_for("a process of user 65534");
    serves(&RawClient::connect(&dir.address("s")));
    assert_eq!(old.end(Signal::TERM).code, 0);
}

#[test]
fn a_server_that_has_changed_its_user_is_replaced_and_its_successor_changes_too() {
    if !is_root() {
        return;
    }
    let dir = Dir::new();
    let mut old = start(&dir, "door", &["-user", "nobody"]);
    old.address();
    for _ in 0..2 {
        let new = start(&dir, "door", &["-user", "nobody"]);
        new.address();
        assert_eq!(old.ended().code, 0);
        let status = std::fs::read_to_string(format!("/proc/{}/status", new.pid())).unwrap();
        assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
        serves(&RawClient::connect(&dir.address("s")));
        old = new;
    }
    assert_eq!(old.end(Signal::TERM).code, 0);
}

#[test]
fn a_door_where_others_could_take_its_place_is_refused() {
    let dir = Dir::new();
    dir.permit(0o777);
    let ended = start(&dir, "door", &[]).ended();
    assert!(
        ended.code == 1 && ended.err.contains("others can write to its directory"),
        "{ended:?}"
    );
    dir.permit(0o755);
    std::fs::write(dir.join("file"), b"precious").unwrap();
    let ended = start(&dir, "file", &[]).ended();
    assert_eq!((ended.code, ended.err.lines().count()), (1, 1), "{ended:?}");
    assert_eq!(std::fs::read(dir.join("file")).unwrap(), b"precious");
    let ended = start(&dir, "none/door", &[]).ended();
    assert!(ended.code == 1 && ended.err.contains("directory"), "{ended:?}");
    assert_eq!(dir.names(), ["file"]);
}

#[test]
fn a_stale_door_is_replaced() {
    let dir = Dir::new();
    let old = server(&dir);
    assert_eq!(old.end(Signal::KILL).code, -9);
    assert_eq!(dir.names(), ["door", "s"]);
    let new = server(&dir);
    serves(&RawClient::connect(&dir.address("s")));
    assert_eq!(new.end(Signal::TERM).code, 0);
    assert!(dir.names().is_empty());
}
