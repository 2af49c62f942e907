//! A link between proxy and server that is cut, and a network that drops packets.
//!
//! ```text
//!  clients ── UNIX socket ── dc_client ────┐ link ┌─── dc_server
//!         (not bound to a network namespace)│      │
//!                               host a ────┘      └──── host b
//! ```
//!
//! Both hosts are network namespaces of the test, apart from every other network.
#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use distcache_testing::bytes::{ADD, HAVE, add, get, have, session, status};
use distcache_testing::lan::{A, B, Lan};
use distcache_testing::load::{Load, data};
use distcache_testing::process::{Dir, Program, Signal};
use distcache_testing::raw_client::{RawClient, ask_until};
use distcache_testing::stress::{
    Counters, ROUNDS, can_make_namespaces, print_row, wait_until_idle,
};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");

/// The proxy's timeout for answers, in milliseconds.
const REQTIMEOUT: u64 = 1000;

/// A server and a proxy on two hosts.
struct Site {
    proxy: Program,
    server: Program,
    address: String,
    lan: Lan,
    _dir: Dir,
}

impl Site {
    fn new() -> Self {
        let (lan, dir) = (Lan::new(), Dir::new());
        let at = format!("IP:{B}:9001");
        let server = lan.start_on_b(&[DC_SERVER, "-listen", &at]);
        server.address();
        let (address, reqtimeout) = (dir.address("c"), REQTIMEOUT.to_string());
        let words = ["-listen", &address, "-server", &at, "-retry", "100"];
        let words = [&[DC_CLIENT], &words[..], &["-reqtimeout", &reqtimeout]].concat();
        let proxy = lan.start_on_a(&words);
        proxy.err.wait_for("connected to ");
        Self { proxy, server, address, lan, _dir: dir }
    }

    /// Waits until the proxy has reported `times` times that the server is unreachable.
    fn wait_unreachable(&self, times: usize) {
        self.proxy.err.find("a report that the server is unreachable", |text| {
            (text.matches(" is unreachable (").count() >= times).then_some(())
        });
    }

    /// Waits until the proxy reaches the server.
    fn wait_until_connected(&self) {
        ask_until(&self.address, &have(9, b"nobody's"), &status(9, HAVE, 1));
    }

    /// Cuts the link with requests in flight, and checks how they end.
    fn check_in_flight(&self, cut: impl Fn(&Lan)) -> Duration {
        let clients: Vec<_> = (0..20).map(|_| RawClient::connect(&self.address)).collect();
        for client in &clients {
            assert_eq!(client.ask(&have(1, b"nobody's")), status(1, HAVE, 1));
        }
        cut(&self.lan);
        let begun = Instant::now();
        clients.iter().for_each(|client| client.send(&have(2, b"nobody's")));
        for client in &clients {
            assert_eq!(client.message(), status(2, HAVE, 2));
        }
        let ended = begun.elapsed();
        assert!(ended < 10 * Duration::from_millis(REQTIMEOUT), "in flight for {ended:?}");
        // From now on requests do not wait.
        for client in &clients {
            assert_eq!(client.ask(&have(3, b"nobody's")), status(3, HAVE, 2));
        }
        ended
    }

    /// Cuts and heals the link twice while clients use it. A stored session must survive that.
    fn cut_and_heal(self, what: &str, cut: impl Fn(&Lan), heal: impl Fn(&Lan)) {
        let mut load = Load::connect(&self.address);
        let undisturbed = load.run(ROUNDS);
        let kept = data(b"kept");
        assert_eq!(
            RawClient::connect(&self.address).ask(&add(1, b"kept", &kept)),
            status(1, ADD, 0)
        );
        for time in 1..=2 {
            let ended = self.check_in_flight(&cut);
            println!("{what}: requests in flight ended after {} ms", ended.as_millis());
            self.wait_unreachable(time);
            wait_until_idle(self.proxy.pid());
            heal(&self.lan);
            self.wait_until_connected();
            assert_eq!(RawClient::connect(&self.address).ask(&get(2, b"kept")), session(2, &kept));
        }
        let stressed = load.run(ROUNDS);
        let err = self.proxy.end(Signal::TERM).err;
        assert_eq!(self.server.end(Signal::TERM).code, 0);
        let counters = Counters::last(&err).expect("counters");
        print_row("both", what, &undisturbed, &stressed, &counters);
        assert_eq!((counters.malformed, counters.stalled), (0, 0), "{err}");
        assert!(
            err.contains("; 3 connections, 2 lost, 2 of them given up; 0 stray answers; 0 sessions repaired\n"),
            "{err}"
        );
    }
}

#[test]
fn a_cut_link_costs_only_requests_in_flight() {
    if !can_make_namespaces() {
        return;
    }
    Site::new().cut_and_heal(
        "the server's link cut and healed",
        |lan| lan.on_b(&["ip", "link", "set", "wire", "down"]),
        |lan| lan.on_b(&["ip", "link", "set", "wire", "up"]),
    );
}

#[test]
fn a_link_cut_at_the_proxy_costs_only_requests_in_flight() {
    if !can_make_namespaces() {
        return;
    }
    Site::new().cut_and_heal(
        "the proxy's link cut and healed",
        |lan| lan.on_a(&["ip", "link", "set", "wire", "down"]),
        |lan| lan.on_a(&["ip", "link", "set", "wire", "up"]),
    );
}

#[test]
fn a_network_that_drops_every_packet_costs_only_requests_in_flight() {
    if !can_make_namespaces() {
        return;
    }
    let black_hole = format!("{A}/32");
    Site::new().cut_and_heal(
        "packets dropped for a while",
        |lan| lan.on_b(&["ip", "route", "add", "blackhole", &black_hole]),
        |lan| lan.on_b(&["ip", "route", "del", "blackhole", &black_hole]),
    );
}
