//! A network cut between the gateway and one shard, which neither side is notified of.
//!
//! ```text
//!  clients ── UNIX socket ── dc_gateway ──┐ wire ┌─── shards at B, OTHER and THIRD
//!                              host a ────┘      └──── host b
//! ```
#![cfg(target_os = "linux")]

mod rig;

use std::time::Duration;

use distcache_testing::bytes::{get, status};
use distcache_testing::lan::{B, Lan};
use distcache_testing::process::{Dir, Program, Signal, until};
use distcache_testing::raw_client::RawClient;
use distcache_testing::rig::can_run;

use rig::load::{Load, id};
use rig::{dc_gateway, engines};

/// The second and the third address of host b. When one master is unreachable, only a majority of three
/// knows that it is not cut off itself.
const OTHER: &str = "10.91.0.3";
const THIRD: &str = "10.91.0.4";

#[test]
fn a_shard_behind_a_cut_wire_affects_its_own_ids_and_recovers() {
    if !can_run("a cut wire", true, &["unshare", "nsenter", "ip"]) {
        return;
    }
    for engine in engines("a cut wire") {
        let (lan, dir) = (Lan::new(), Dir::new());
        for at in [OTHER, THIRD] {
            lan.on_b(&["ip", "address", "add", &format!("{at}/24"), "dev", "wire"]);
        }
        let nodes = [B, OTHER, THIRD].map(|at| node(&lan, &engine, &dir, at));
        let ask = |at: &str, words: &[&str]| {
            lan.on_b(&[&["redis-cli", "-h", at, "-p", "7000"], words].concat());
        };
        ask(B, &["cluster", "addslotsrange", "0", "8191"]);
        ask(OTHER, &["cluster", "addslotsrange", "8192", "16000"]);
        ask(THIRD, &["cluster", "addslotsrange", "16001", "16383"]);
        for (number, at) in (1..).zip([B, OTHER, THIRD]) {
            ask(at, &["cluster", "set-config-epoch", &format!("{number}")]);
        }
        ask(B, &["cluster", "meet", OTHER, "7000"]);
        ask(B, &["cluster", "meet", THIRD, "7000"]);
        for at in [B, OTHER, THIRD] {
            let knows = "info=$(redis-cli -h $0 -p 7000 cluster info) && \
                         echo $info | grep -q cluster_slots_ok:16384 && \
                         echo $info | grep -q cluster_state:ok";
            until("a node that knows the cluster", || {
                (lan.start_on_b(&["sh", "-c", knows, at]).ended().code == 0).then_some(())
            });
        }
        let address = dir.address("gateway");
        let url = format!("redis://{B}:7000,{OTHER}:7000");
        let words = ["-listen", &address, "-engine", &url];
        let gateway = lan.start_on_a(&[&[dc_gateway().as_str()], &words[..]].concat());
        gateway.address();
        // "a" is in slot 15495, "b" in 3300.
        let tags = ["b".to_owned(), "a".to_owned()];
        let client = RawClient::connect(&address);
        for tag in &tags {
            let probe = id(tag, 0);
            until("a shard that answers", || {
                (client.ask(&get(1, &probe)) == status(1, 1, 1)).then_some(())
            });
        }
        let load = Load::start(&address, &tags, 3);
        load.wait_for(200);
        assert!(load.take().iter().all(|tally| tally.unreachable == 0 && tally.wrong == 0));
        // Packets to this shard are dropped, and connections to it are not notified.
        lan.on_a(&["ip", "route", "add", "blackhole", &format!("{OTHER}/32")]);
        gateway.err.wait_for(&format!("{OTHER}:7000 is unreachable"));
        load.wait_for(100);
        let cut = load.take();
        assert!(cut.iter().all(|tally| tally.wrong == 0), "{cut:?}");
        assert!(cut[0].unreachable == 0 && cut[0].found > 0 && cut[1].unreachable > 0, "{cut:?}");
        assert!(cut[1].slowest < Duration::from_millis(250 + 3000), "{cut:?}");
        lan.on_a(&["ip", "route", "del", "blackhole", &format!("{OTHER}/32")]);
        load.wait_until_recovered(1);
        let end = load.end();
        assert!(end.iter().all(|tally| tally.wrong == 0), "{end:?}");
        gateway.end(Signal::TERM);
        drop(nodes);
    }
}

fn node(lan: &Lan, engine: &str, dir: &Dir, at: &str) -> Program {
    let own = dir.join(at);
    std::fs::create_dir(&own).expect("a directory");
    let own = own.display().to_string();
    let mut words = vec![engine, "--port", "7000", "--bind", at, "--protected-mode", "no"];
    words.extend(["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"]);
    // They share a host: without these, all of them would appear at its first address.
    words.extend(["--bind-source-addr", at, "--cluster-announce-ip", at]);
    words.extend(["--save", "", "--dir", &own]);
    let node = lan.start_on_b(&words);
    node.out.wait_for("eady to accept connections");
    node
}
