use super::*;
use crate::testing::Dir;
use distcache_core::message::Status;
use protocol::Distcache;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

/// Answers every request on every connection with one status.
fn server(dir: &Dir, status: Status) -> Address {
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut header = [0; 14];
                while stream.read_exact(&mut header).is_ok() {
                    let len = usize::from(u16::from_be_bytes([header[12], header[13]]));
                    stream.read_exact(&mut vec![0; len]).unwrap();
                    let [v0, v1, .., op, _, _, _] = header;
                    let uid = &header[5..9];
                    let answer = [&[v0, v1, 0, 0, 1], uid, &[0, op, 1, 0, 1, status.0]].concat();
                    let _ = stream.write_all(&answer);
                }
            });
        }
    });
    format!("UNIX:{}", path.display()).parse().unwrap()
}

#[test]
fn a_wrong_answer_ends_the_load() {
    let dir = Dir::new();
    let address = server(&dir, Status::ADD_DATA);
    let config = Config { keys: 10, time: Duration::from_secs(9), ..Config::default() };
    let failure = run(&config, &Distcache, &address).unwrap_err();
    assert!(matches!(failure, Failure::Wrong { op: Op::Add, session: 0, .. }), "{failure}");
}

#[test]
fn a_load_counts_its_requests() {
    for short_lived in [false, true] {
        let dir = Dir::new();
        let address = server(&dir, Status::NOT_OK);
        let load = |millis| {
            let time = Duration::from_millis(millis);
            let config = Config { clients: 3, get: 100, short_lived, time, ..Config::default() };
            run(&Config { store_first: false, ..config }, &Distcache, &address).unwrap()
        };
        // Where the machine has much else to do, the first time may be too short.
        let mut reports = [50, 500, 5000].into_iter().map(load);
        let report = reports.find(|report| report.gets > 3).expect("some answers");
        assert_eq!(report.gets, report.latencies.count());
        assert_eq!((report.hits, report.adds), (0, 0));
        let line = report.to_string();
        assert!(line.starts_with("ops/s=") && line.contains(" hit=0.0000 p50="), "{line}");
    }
}

#[test]
fn an_unreachable_server_ends_the_load_with_the_reason() {
    let address = "UNIX:/nowhere/at/all".parse().unwrap();
    let failure = run(&Config::default(), &Distcache, &address).unwrap_err();
    let reason = "cannot connect to UNIX:/nowhere/at/all: no such socket. Is dc_client running?";
    assert_eq!(failure.to_string(), reason);
    let config = Config { short_lived: true, depth: 2, ..Config::default() };
    assert!(matches!(run(&config, &Distcache, &address), Err(Failure::Config(_))));
}
