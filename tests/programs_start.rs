//! How the daemons start: with whatever their starter has left open, blocked or lying about.
#![cfg(target_os = "linux")]

use std::fs;

use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::caller::Caller;
use distcache_testing::process::{Dir, Program, Signal, until};

const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

fn serves(address: &str) {
    assert_eq!(Caller::to(address).ask(&have(1, b"id")), status(1, HAVE, 1));
}

#[test]
fn a_stranger_who_locks_a_stale_pid_file_keeps_nobody_from_starting() {
    let dir = Dir::new();
    let (listen, pid_file) = (dir.address("s"), dir.text("pid"));
    let start = || Program::start(DC_SERVER, &["-listen", &listen, "-pidfile", &pid_file]);
    let killed = start();
    assert_eq!(killed.address(), listen);
    assert_eq!(killed.end(Signal::KILL).code, -9);
    // It takes no more than the right to read.
    let stranger = fs::File::open(dir.join("pid")).expect("a file for all to read");
    stranger.lock().expect("nobody else's lock");
    let server = start();
    assert_eq!(server.address(), listen);
    let number = fs::read_to_string(dir.join("pid")).expect("a pid file");
    assert_eq!(number, format!("{}\n", server.pid()));
    assert_eq!(server.end(Signal::TERM).code, 0);
    assert!(dir.names().is_empty());
}

#[test]
fn of_many_that_start_at_once_with_one_pid_file_one_runs() {
    const MANY: usize = 8;
    for round in 0..10 {
        let dir = Dir::new();
        let pid_file = dir.text("pid");
        if round % 2 == 0 {
            fs::write(&pid_file, "1\n").expect("a stale file");
        }
        let start = |number: usize| {
            let listen = dir.address(&number.to_string());
            Program::start(DC_SERVER, &["-listen", &listen, "-pidfile", &pid_file])
        };
        let mut programs: Vec<_> = (0..MANY).map(start).collect();
        until("the end of all but one", || {
            let running =
                programs.iter_mut().filter_map(|program| program.is_running().then_some(()));
            (running.count() <= 1).then_some(())
        });
        let at = programs.iter_mut().position(Program::is_running).expect("one that runs");
        let last = programs.swap_remove(at);
        serves(&last.address());
        let number = fs::read_to_string(&pid_file).expect("a pid file");
        assert_eq!(number, format!("{}\n", last.pid()));
        for program in programs {
            let ended = program.ended();
            assert_eq!(ended.code, 1, "{ended:?}");
            assert!(ended.err.contains(" holds it; "), "{ended:?}");
        }
        assert_eq!(last.end(Signal::TERM).code, 0);
        assert!(dir.names().is_empty(), "{:?}", dir.names());
    }
}
