//! Runs against a server in memory, right and wrong.

use std::collections::HashMap;
use std::sync::Mutex;

use super::*;
use crate::client;
use crate::client::tests::{Server, stored};

fn config(seed: u64) -> Config {
    Config { seed: Some(seed), ops: Some(400), persistent: true, ..Config::default() }
}

fn run_on(server: &Server, config: &Config) -> (Result<Report, Failure>, String) {
    let mut out = Vec::new();
    let done = run(config, &server.address, &mut out);
    (done, String::from_utf8(out).unwrap())
}

#[test]
fn a_right_server_passes_and_the_report_has_all_figures() {
    let server = Server::with_store();
    let config = Config { progress: 100, withcert: 3, ..config(7) };
    let (done, out) = run_on(&server, &config);
    let report = done.unwrap();
    assert_eq!((report.ops, report.latencies.count()), (400, 400));
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[0], "10 sessions, 400 operations, -seed 7");
    assert_eq!(lines[1], "100 of 400 operations, all right");
    assert!(lines[5].starts_with("400 operations, all right, in "), "{out}");
    for name in ["p50 ", "p90 ", "p99 ", "p99.9 ", "max "] {
        assert!(lines[6].contains(name), "{out}");
    }
}

#[test]
fn without_a_seed_every_run_has_a_new_one_and_prints_it() {
    let server = Server::with_store();
    let seed = |out: String| {
        out.lines().next().unwrap().rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()
    };
    let config = Config { seed: None, ops: Some(20), ..config(0) };
    let [first, second] = [(); 2].map(|()| {
        let (done, out) = run_on(&server, &config);
        done.unwrap();
        seed(out)
    });
    assert_ne!(first, second);
}

#[test]
fn sessions_left_by_a_run_with_the_same_seed_are_not_a_fault() {
    let server = Server::with_store();
    for _ in 0..3 {
        run_on(&server, &config(7)).0.unwrap();
    }
}

#[test]
fn by_default_there_are_10_operations_for_each_pair_of_sessions() {
    assert_eq!(Config::default().operations(), 1000);
    assert_eq!(Config { sessions: u32::MAX, ..Config::default() }.operations(), u64::MAX);
    assert_eq!(Config { ops: Some(3), ..Config::default() }.operations(), 3);
}

#[test]
fn sessions_have_the_sizes_and_lifetimes_of_the_options() {
    let config = Config { withcert: 400, sessions: 1000, datamin: 60, datamax: 90, ..config(3) };
    let mut random = Rng::with_seed(3);
    let sessions: Vec<_> =
        (0..1000).map(|n| Session::random(&config, n < 400, &mut random)).collect();
    for (number, session) in sessions.iter().enumerate() {
        let more = if number < 400 { CERT_LENS } else { 0..=0 };
        assert!((60 + more.start()..=90 + more.end()).contains(&session.data.len()));
        assert!(ID_LENS.contains(&session.id.len()));
        assert!((55..=65).contains(&session.life.as_secs()), "{:?}", session.life);
    }
}

/// How a server falsifies the answer to an operation.
type Fault = fn(Op, Vec<u8>) -> Vec<u8>;

fn faulty(fault: Fault) -> Server {
    let store = Mutex::new(HashMap::new());
    Server::new(move |_, peer| {
        while let Some((header, payload)) = peer.request() {
            let answer = stored(&mut store.lock().unwrap(), header.op, &payload);
            peer.answer(&header, &fault(header.op, answer));
        }
    })
}

#[test]
fn every_kind_of_wrong_answer_is_found() {
    let faults: [(Op, &str, Fault); 7] = [
        (Op::Add, "'already there'", |op, a| if op == Op::Add { vec![101] } else { a }),
        (Op::Add, "status 104", |op, a| if op == Op::Add { vec![104] } else { a }),
        (
            Op::Get,
            "'not there' and not 'the session'",
            |op, a| if op == Op::Get { vec![1] } else { a },
        ),
        (Op::Get, "differ", |op, mut a| {
            if let (Op::Get, 5.., Some(last)) = (op, a.len(), a.last_mut()) {
                *last ^= 1;
            }
            a
        }),
        (Op::Get, "bytes that differ", |op, mut a| {
            a.truncate(if op == Op::Get { 40 } else { 1 });
            a
        }),
        (
            Op::Remove,
            "'not there' and not 'removed'",
            |op, a| if op == Op::Remove { vec![1] } else { a },
        ),
        (Op::Have, "'there' and not 'not there'", |op, a| if op == Op::Have { vec![0] } else { a }),
    ];
    for (op, text, fault) in faults {
        let failure = run_on(&faulty(fault), &config(11)).0.unwrap_err();
        assert!(
            matches!(&failure, Failure::Operation { op: found, .. } if *found == op),
            "{failure}"
        );
        let line = failure.to_string();
        assert!(line.contains(text) && line.contains("-seed 11") && !line.contains('\n'), "{line}");
    }
}

#[test]
fn a_session_that_expires_too_late_or_too_early_is_found() {
    let config = Config::default();
    let mut session = Session::random(&config, false, &mut Rng::with_seed(5));
    let now = Instant::now();
    let span = |secs| Span {
        sent: now + Duration::from_secs(secs),
        answered: now + Duration::from_secs(secs),
    };
    session.known = session.judge(Op::Add, Answer::There(false), span(0)).unwrap();
    for (secs, there, right) in
        [(50, true, true), (50, false, false), (70, false, true), (70, true, false)]
    {
        for op in [Op::Remove, Op::Have] {
            assert_eq!(session.judge(op, Answer::There(there), span(secs)).is_ok(), right);
        }
    }
    let life = session.life.as_secs();
    for there in [true, false] {
        let known = session.judge(Op::Get, Answer::There(there), span(life)).unwrap();
        assert_eq!(known == Known::Absent, !there, "it cannot come back");
    }
}

#[test]
fn an_unreachable_server_ends_the_run_with_the_reason() {
    // The run begins with ten removals.
    let server = Server::new(|_, peer| {
        for _ in 0..10 {
            let Some((header, _)) = peer.request() else { return };
            peer.answer(&header, &[1]);
        }
        let _ = peer.request();
    });
    let failure = run_on(&server, &config(1)).0.unwrap_err();
    let Failure::Operation { fault: report::Fault::NoAnswer(why), right: 0, .. } = failure else {
        panic!("{failure}");
    };
    assert!(
        matches!(why.kind(), client::FailureKind::Closed | client::FailureKind::Io(_)),
        "{why}"
    );
    let away = "UNIX:/nobody/is/there".parse().unwrap();
    let failure = run(&config(1), &away, &mut Vec::new()).unwrap_err();
    let reason = "cannot connect to UNIX:/nobody/is/there: no such socket. Is dc_client running?";
    assert_eq!(failure.to_string(), reason);
}

#[test]
fn an_option_out_of_range_is_named() {
    let nobody = "UNIX:/nobody/is/there".parse().unwrap();
    let base = Config::default();
    for (config, name) in [
        (Config { sessions: 0, ..base }, "-sessions"),
        (Config { datamin: 4, ..base }, "-datamin"),
        (Config { datamin: 2101, ..base }, "-datamin"),
        (Config { datamax: 32_698, ..base }, "-datamax"),
        (Config { datamax: 32_697, withcert: 1, ..base }, "-datamax"),
        (Config { withcert: 11, ..base }, "-withcert"),
        (Config { timevar: 60, ..base }, "-timevar"),
        (Config { timeout: 604_800, ..base }, "-timeout"),
    ] {
        let failure = run(&config, &nobody, &mut Vec::new()).unwrap_err();
        assert!(matches!(failure, Failure::Config(why) if why.starts_with(name)), "{failure}");
    }
    assert!(Config { datamax: 32_697, ..base }.check().is_ok());
}

#[test]
fn the_longest_sessions_fit() {
    let server = Server::with_store();
    let config = Config { datamin: 32_697, datamax: 32_697, sessions: 30, ..config(9) };
    run_on(&server, &config).0.unwrap();
}
