//! What clients suffer when others never stop sending, never read, or send garbage.
//!
//! Each test prints rows of the table that `stress_connections` explains.
#![cfg(target_os = "linux")]

use std::io::Read;
use std::net::Shutdown;

use distcache_testing::bytes::{HAVE, add, frame, get, have, message, session, status};
use distcache_testing::load::{CONNECTIONS, LoadState};
use distcache_testing::process::{Signal, until};
use distcache_testing::random::Random;
use distcache_testing::raw_client::RawClient;
use distcache_testing::stress::{self, ROUNDS, Target, wait_until_idle};
use distcache_testing::tcp::{connect, try_send, wait_for_close};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

fn each(arguments: &[&str], test: impl FnMut(Target)) {
    stress::each(DC_CLIENT, DC_SERVER, arguments, test);
}

#[test]
fn a_hundred_clients_that_never_read_cost_others_no_answer() {
    each(&["-reqtimeout", "2000"], |target| {
        let (mut load, undisturbed) = target.load();
        let large = vec![b'x'; 32_000];
        let reader = RawClient::connect(&target.address);
        reader.ask(&add(1, b"large", &large));
        let requests = get(2, b"large").repeat(5_000);
        let (stressed, never_read) = load.run_during(ROUNDS, |_| {
            let never_read: Vec<_> =
                (0..100).map(|_| RawClient::connect(&target.address)).collect();
            never_read.iter().for_each(|client| _ = client.send_available(&requests));
            never_read
        });
        assert_eq!(reader.ask(&get(3, b"large")), session(3, &large));
        until("the end of all clients that never read", || {
            never_read.iter().all(RawClient::is_closed).then_some(())
        });
        assert_eq!(reader.ask(&get(4, b"large")), session(4, &large));
        wait_until_idle(target.program.pid());
        let counters = target.finish(
            "100 that never read 32 KB answers, -reqtimeout 2000",
            &undisturbed,
            &stressed,
        );
        assert_eq!(counters.clients, 101 + CONNECTIONS as u64);
        assert_eq!((counters.refused, counters.malformed, counters.stalled), (0, 0, 100));
    });
}

/// Sends requests without waiting for answers, and reads these in another thread. Returns how many
/// answers were right.
fn pipeline(address: &str, state: &LoadState) -> usize {
    let stream = connect(address);
    let (requests, answers) = (have(1, b"nobody's").repeat(500), status(1, HAVE, 1).repeat(500));
    std::thread::scope(|scope| {
        scope.spawn(|| while try_send(&stream, &requests) {});
        let (mut read, mut some) = (0, vec![0; answers.len()]);
        while read < 20 || (state.is_running() && read < 100_000) {
            (&stream).read_exact(&mut some).expect("answers");
            assert!(some == answers, "after {read} times 500 answers");
            read += 1;
        }
        // This ends the sending thread.
        stream.shutdown(Shutdown::Both).expect("the connection is open");
        read * 500
    })
}

#[test]
fn a_client_that_pipelines_without_end_gets_only_its_turns() {
    each(&[], |target| {
        let (mut load, undisturbed) = target.load();
        let (stressed, answers) = load.run_during(ROUNDS, |state| pipeline(&target.address, state));
        println!("{} answered {answers} requests of the client that never stops", target.name);
        wait_until_idle(target.program.pid());
        let counters = target.finish("1 that pipelines without end", &undisturbed, &stressed);
        assert_eq!(counters.clients, 1 + CONNECTIONS as u64);
        assert_eq!((counters.refused, counters.malformed, counters.stalled), (0, 0, 0));
    });
}

#[test]
fn the_requests_of_one_client_are_answered_in_many_turns() {
    let target = Target::server(DC_SERVER, &["-progress", "1"]);
    let client = RawClient::connect(&target.address);
    assert_eq!(client.ask(&have(1, b"nobody's")), status(1, HAVE, 1));
    // All of it has arrived when the turn begins.
    target.program.freeze();
    let requests = 2_900;
    client.send(&have(1, b"nobody's").repeat(requests));
    target.program.signal(Signal::CONT);
    assert_eq!(client.take(15 * requests), status(1, HAVE, 1).repeat(requests));
    // One line a turn, with how many requests it has answered.
    let lines = target.program.end(Signal::TERM).out;
    let new = |line: &str| line.split_once("(+ ")?.1.split_once(')')?.0.parse::<usize>().ok();
    let turns: Vec<_> = lines.lines().filter_map(new).collect();
    assert_eq!(turns.iter().sum::<usize>(), 1 + requests);
    // Once when it is read, and twice more while no other client is ready.
    assert!(turns.iter().all(|new| *new <= 3 * 128), "{turns:?}");
}

/// Returns input that is not the protocol, of several kinds.
fn garbage(number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    match number % 6 {
        0 => b"GET / HTTP/1.1\r\nHost: cache\r\n\r\n".to_vec(),
        1 => [have(1, b"id"), b"\xff".repeat(70_000)].concat(),
        2 => frame(0, 1, 1, 0, &[0; 2048]).repeat(17),
        3 => message(0, 1, 0, &[0; 7]),
        4 => message(1, 1, 1, b"an answer that nobody asked for"),
        _ => {
            // No version of the protocol begins like this.
            let mut noise = vec![1 + random.below(255) as u8];
            noise.extend((0..500 + random.below(1000)).map(|_| random.next() as u8));
            noise
        }
    }
}

#[test]
fn a_flood_of_malformed_frames_costs_other_clients_no_answer() {
    each(&[], |target| {
        let (mut load, undisturbed) = target.load();
        let address = &target.address;
        let flood = |first: u64, state: &LoadState| {
            let mut number = first;
            while number < first + 500 || (state.is_running() && number < first + 1_500) {
                let stream = connect(address);
                try_send(&stream, &garbage(number));
                // The others leave without waiting.
                if number.is_multiple_of(2) {
                    let answers = wait_for_close(&stream);
                    assert!(answers == 0 || answers == 15, "{answers} bytes of answers");
                }
                number += 1;
            }
            number - first
        };
        let (stressed, strangers) = load.run_during(ROUNDS, |state| {
            std::thread::scope(|scope| {
                let many = [0, 10_000, 20_000, 30_000]
                    .map(|first| scope.spawn(move || flood(first, state)));
                many.map(|thread| thread.join().expect("an end")).iter().sum::<u64>()
            })
        });
        let last = RawClient::connect(address);
        assert_eq!(last.ask(&have(1, b"id")), status(1, HAVE, 1));
        wait_until_idle(target.program.pid());
        let counters = target.finish("4 that send garbage at full speed", &undisturbed, &stressed);
        assert_eq!(counters.clients, strangers + 1 + CONNECTIONS as u64);
        assert_eq!((counters.refused, counters.stalled), (0, 0));
        assert!(counters.malformed <= strangers && counters.malformed >= strangers / 2);
    });
}
