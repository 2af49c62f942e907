//! `-allowuid` and `-allowgid`: whose processes a daemon serves.

use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::process::{Dir, Program, Signal};
use distcache_testing::raw_client::RawClient;
use distcache_testing::start;
use rustix::process::{getegid, geteuid};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

fn serves(address: &str) {
    assert_eq!(RawClient::connect(address).ask(&have(1, b"id")), status(1, HAVE, 1));
}

fn own_user() -> String {
    geteuid().as_raw().to_string()
}

fn own_group() -> String {
    getegid().as_raw().to_string()
}

#[test]
fn users_and_groups_that_are_allowed_are_served() {
    let dir = Dir::new();
    let (user, group) = (own_user(), own_group());
    for allowed in [
        &["-allowuid", &user][..],
        &["-allowgid", &group],
        &["-allowuid", "54321", "-allowuid", &user],
        &["-allowuid", "54321", "-allowgid", &group],
    ] {
        let server = start::server(DC_SERVER, &dir.address("s"), allowed);
        serves(&dir.address("s"));
        let ended = server.end(Signal::TERM);
        assert!(!ended.err.contains("-allowuid"), "{ended:?}");
    }
}

#[test]
fn others_are_closed_at_once_and_counted_in_few_lines() {
    let dir = Dir::new();
    let server = start::server(DC_SERVER, &dir.address("s"), &["-allowuid", "54321"]);
    let proxy = start::before(
        DC_CLIENT,
        &dir.address("p"),
        &dir.address("s"),
        &["-allowgid", "54321", "-allowuid", "54322"],
    );
    for _ in 0..100 {
        assert!(RawClient::connect(&dir.address("p")).rest().is_empty());
        assert!(RawClient::connect(&dir.address("s")).rest().is_empty());
    }
    let line = format!("by -allowuid and -allowgid; the last one was user {}", own_user());
    for program in [proxy, server] {
        let ended = program.end(Signal::TERM);
        // One at the first, one at the end, and one for each 10 s that a slow machine takes.
        assert!((1..10).contains(&ended.err.matches(&line).count()), "{ended:?}");
        let (text, _) = ended.err.rsplit_once(" of these refused").expect("a count");
        let (_, count) = text.rsplit_once(' ').expect("a number");
        assert!(count.parse::<u32>().expect("a number") >= 100, "{ended:?}");
        assert!(ended.err.contains("clients accepted, 1"), "{ended:?}");
    }
}

#[test]
fn tcp_has_no_users_and_alone_it_is_refused() {
    let dir = Dir::new();
    for program in [DC_SERVER, DC_CLIENT] {
        let server: &[&str] =
            if program == DC_SERVER { &[] } else { &["-server", "IP:127.0.0.1:1"] };
        let words = [&["-listen", "IP:127.0.0.1:0", "-allowuid", "0"], server].concat();
        let ended = Program::run(program, &words);
        assert!(ended.code == 1 && ended.out.is_empty(), "{ended:?}");
        assert!(ended.err.contains("apply to UNIX sockets"), "{ended:?}");
        assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    }
    let socket = dir.address("s");
    let words = ["-listen", "IP:127.0.0.1:0", "-listen", &socket, "-allowuid", "54321"];
    let server = Program::start(DC_SERVER, &words);
    let addresses = server.addresses(2);
    serves(&addresses[0]);
    assert!(RawClient::connect(&addresses[1]).rest().is_empty());
}
