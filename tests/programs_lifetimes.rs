//! `dc_server -maxtimeout`, and its report of ADDs.

use distcache_testing::bytes::{ADD, GET, add_for, get, session, status};
use distcache_testing::process::{Program, Signal};
use distcache_testing::raw_client::{RawClient, ask_until};
use distcache_testing::start::{self, ANY_PORT};

const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

#[test]
fn maxtimeout_shortens_lifetimes_and_7_days_stay_the_most_allowed() {
    let program = start::server(DC_SERVER, ANY_PORT, &["-maxtimeout", "1"]);
    let control = start::server(DC_SERVER, ANY_PORT, &[]);
    for (address, lives) in [(program.address(), false), (control.address(), true)] {
        let client = RawClient::connect(&address);
        let add = |uid, ttl, id| client.ask(&add_for(uid, ttl, id, b"session"));
        assert_eq!(add(1, 604_800_000, b"a"), status(1, ADD, 0));
        assert_eq!(add(2, 604_800_001, b"b"), status(2, ADD, 102));
        if lives {
            assert_eq!(add(3, 1_000, b"a"), status(3, ADD, 101));
            assert_eq!(client.ask(&get(4, b"a")), session(4, b"session"));
        } else {
            ask_until(&address, &get(4, b"a"), &status(4, GET, 1));
        }
    }
    let err = control.end(Signal::TERM).err;
    let said = "3 ADDs: 1 already there, 0 without room, 1 out of range; 0 sessions evicted";
    assert!(err.contains(said), "{err}");
    assert_eq!(program.end(Signal::TERM).code, 0);
}

#[test]
fn a_minimum_lifetime_above_the_maximum_is_refused() {
    let arguments = ["-mintimeout", "60000", "-maxtimeout", "59999"];
    let ended = Program::run(DC_SERVER, &arguments);
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("-mintimeout is longer than -maxtimeout"), "{}", ended.err);
    // A minimum lifetime above the default maximum raises that.
    let program = start::server(DC_SERVER, ANY_PORT, &["-mintimeout", "604800000"]);
    assert_eq!(program.end(Signal::TERM).code, 0);
}
