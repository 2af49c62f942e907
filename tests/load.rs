//! The load of `dc_test -seconds`, on a server and through a proxy, and its report.

use distcache_testing::process::{Dir, Program};
use distcache_testing::start;

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const DC_TEST: &str = env!("CARGO_BIN_EXE_dc_test");

#[test]
fn a_load_of_every_shape_gets_right_answers() {
    let dir = Dir::new();
    let server = Program::start(DC_SERVER, &["-listen", "IP:127.0.0.1:0"]);
    let proxy = start::connected(DC_CLIENT, &dir.address("c"), &server.address(), &[]);
    for address in [server.address(), proxy.address()] {
        for shape in [
            &["-conns", "5"][..],
            &["-depth", "64", "-keys", "3"],
            &["-conns", "20", "-depth", "16", "-idlen", "64", "-datalen", "5000"],
            &["-conns", "9", "-shortlived", "-get", "0"],
            &["-conns", "2", "-nostore", "-get", "100", "-idlen", "8"],
        ] {
            let arguments = [&["-connect", &address, "-seconds", "0.1", "-keys", "200"], shape];
            let ended = Program::run(DC_TEST, &arguments.concat());
            assert!(ended.code == 0 && ended.err.is_empty(), "{shape:?}: {ended:?}");
            let words = ended.out.split_whitespace();
            let names: Vec<_> = words.filter_map(|word| Some(word.split_once('=')?.0)).collect();
            let expected = "ops/s hit p50 p90 p99 p99.9 max ops gets adds seconds";
            assert_eq!(names.join(" "), expected, "{ended:?}");
            assert!(!ended.out.contains(" ops=0 "), "{shape:?}: {ended:?}");
        }
    }
}

#[test]
fn conflicting_options_are_refused() {
    for (arguments, why) in [
        (&["-seconds", "1", "-ops", "5"][..], "-ops cannot be combined with -seconds"),
        (&["-seconds", "1", "-timevar", "5"], "-timevar cannot be combined with -seconds"),
        (&["-conns", "3", "-ops", "5"], "-ops cannot be combined with -conns"),
        (&["-conns", "3"], "-seconds is missing"),
        (&["-seconds", "0"], "-seconds needs"),
        (&["-seconds", "nan"], "-seconds needs"),
        (&["-seconds", "1", "-depth", "2", "-shortlived"], "do not go together"),
        (&["-seconds", "1", "-idlen", "7"], "-idlen"),
    ] {
        let ended = Program::run(DC_TEST, arguments);
        assert_eq!(ended.code, 1);
        assert!(ended.err.contains(why), "{arguments:?}: {ended:?}");
    }
}
