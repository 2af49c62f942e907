//! A gateway in front of a cluster of three shards, each with a replica, while parts of it fail.
//!
//! The clients of each shard send one request after the other and check every answer. No answer may be
//! wrong, and a failed shard may affect its own ids only.

mod rig;

use std::time::Duration;

use distcache_testing::bytes::{get, session, status};
use distcache_testing::process::{Dir, Program, Signal, until};
use distcache_testing::raw_client::RawClient;
use distcache_testing::rig::succeed;

use rig::load::{Load, Tally, data, id};
use rig::{Cluster, engines, gateway, number};

/// The gateway's deadline, and the delay that a busy machine may add.
const LATE: Duration = Duration::from_millis(250 + 3000);

/// A cluster, a gateway and clients.
struct Site {
    cluster: Cluster,
    gateway: Program,
    address: String,
    load: Load,
    _dir: Dir,
}

impl Site {
    fn start(engine: &str, words: &[&str]) -> Self {
        let cluster = Cluster::start(engine, 3, 1);
        let dir = Dir::new();
        let (gateway, address) = gateway(&dir, &cluster.url(), words);
        for tag in &cluster.tags {
            let client = RawClient::connect(&address);
            let probe = id(tag, 0);
            until("a shard that answers", || {
                (client.ask(&get(1, &probe)) == status(1, 1, 1)).then_some(())
            });
        }
        let load = Load::start(&address, &cluster.tags, 3);
        load.wait_for(200);
        check(&load.take(), &[]);
        Self { cluster, gateway, address, load, _dir: dir }
    }

    /// Ends everything, and returns what the gateway printed.
    fn end(self) -> String {
        check(&self.load.end(), &[]);
        let ended = self.gateway.end(Signal::TERM);
        assert_eq!(ended.code, 0);
        ended.err
    }
}

/// Checks that no answer is wrong or late, and that only `failed` shards were unreachable.
fn check(tallies: &[Tally], failed: &[usize]) {
    for (shard, tally) in tallies.iter().enumerate() {
        assert_eq!(tally.wrong, 0, "shard {shard}: {tallies:?}");
        assert!(tally.slowest < LATE, "shard {shard}: {tallies:?}");
        assert!(tally.unreachable == 0 || failed.contains(&shard), "shard {shard}: {tallies:?}");
    }
}

#[test]
fn a_killed_master_costs_its_own_ids_until_its_replica_takes_over() {
    for engine in engines("a_killed_master") {
        let site = Site::start(&engine, &[]);
        let master = site.cluster.master_of(1).expect("a master");
        let node = site.cluster.node(master);
        node.program.signal(Signal::KILL);
        site.gateway.err.wait_for(&format!("{master} is unreachable"));
        site.load.wait_for(50);
        let took_over = |master| site.cluster.master_of(1).filter(|now| *now != master);
        until("a replica that takes over", || took_over(master));
        let tallies = site.load.wait_until_recovered(1);
        check(&tallies, &[1]);
        assert!(tallies[1].unreachable > 0, "{tallies:?}");
        site.load.wait_for(200);
        let after = site.load.take();
        check(&after, &[]);
        assert!(after.iter().all(|tally| tally.found > 0), "{after:?}");
        let err = site.end();
        assert!(number(&err, " unavailable") >= tallies[1].unreachable - 20, "{err}");
    }
}

#[test]
fn a_stopped_master_is_replaced_and_not_used_when_it_continues() {
    for engine in engines("a_stopped_master") {
        let site = Site::start(&engine, &[]);
        let master = site.cluster.master_of(2).expect("a master");
        site.load.take();
        site.cluster.node(master).program.freeze();
        site.gateway.err.wait_for(&format!("{master} is unreachable"));
        site.load.wait_for(100);
        let tallies = site.load.wait_until_recovered(2);
        check(&tallies, &[2]);
        assert!(tallies[2].unreachable > 0, "{tallies:?}");
        // It continues as a master, until the cluster makes it a replica.
        site.cluster.node(master).program.signal(Signal::CONT);
        until("a replica", || {
            site.cluster.node(master).try_ask(&["role"])?.starts_with("slave").then_some(())
        });
        site.load.wait_for(200);
        check(&site.load.take(), &[2]);
        let err = site.end();
        assert!(number(&err, " timed out") >= 1, "{err}");
    }
}

#[test]
fn a_stopped_master_does_not_delay_the_answers_of_others() {
    for engine in engines("a_stopped_master_delays") {
        // A deadline that this test does not reach.
        let site = Site::start(&engine, &["-deadline", "25000"]);
        let master = site.cluster.master_of(2).expect("a master");
        site.cluster.node(master).program.freeze();
        // Each client of this shard waits for one answer, and sends nothing else.
        let blocked = site.load.wait_until_blocked(2);
        site.load.wait_for_shards(&[0, 1], 500);
        assert_eq!(site.load.count(2), blocked, "nothing was answered for it");
        site.cluster.node(master).program.signal(Signal::CONT);
        site.load.wait_until_recovered(2);
        let tallies = site.load.end();
        assert!(tallies.iter().all(|tally| tally.wrong == 0), "{tallies:?}");
        assert_eq!(site.gateway.end(Signal::TERM).code, 0);
    }
}

#[test]
fn moving_slots_under_load_loses_no_session() {
    for engine in engines("moving_slots") {
        let site = Site::start(&engine, &[]);
        // Once every id has a session, a miss is a loss.
        until("all sessions", || {
            let size = |shard: usize| {
                let port = site.cluster.master_of(shard)?;
                site.cluster.node(port).ask(&["dbsize"]).parse::<u64>().ok()
            };
            ((0..3).map(size).sum::<Option<u64>>()? == 600).then_some(())
        });
        site.load.take();
        let ids = site.cluster.ids();
        let (from, to) = (site.cluster.master_of(0).unwrap(), site.cluster.master_of(1).unwrap());
        let slot = site.cluster.slot(&site.cluster.tags[0]).to_string();
        for (from, to) in [(from, to), (to, from), (from, to)] {
            move_slot(&site, &slot, (from, &ids[&from]), (to, &ids[&to]));
            site.load.wait_for(100);
        }
        let tallies = site.load.take();
        check(&tallies, &[]);
        assert!(tallies.iter().all(|tally| tally.misses == 0), "{tallies:?}");
        let client = RawClient::connect(&site.address);
        for number in 0..200 {
            let id = id(&site.cluster.tags[0], number);
            assert!(client.ask(&get(9, &id)) == session(9, &data(&id)), "session {number}");
        }
        let err = site.end();
        assert!(number(&err, " MOVED") >= 1 && number(&err, " ASK") >= 1, "{err}");
    }
}

/// Moves a slot in small pieces, so that requests arrive while its keys are on both nodes.
fn move_slot(site: &Site, slot: &str, from: (u16, &str), to: (u16, &str)) {
    let (source, target) = (site.cluster.node(from.0), site.cluster.node(to.0));
    target.ask(&["cluster", "setslot", slot, "importing", from.1]);
    source.ask(&["cluster", "setslot", slot, "migrating", to.1]);
    site.load.wait_for(20);
    loop {
        let keys = source.ask(&["cluster", "getkeysinslot", slot, "20"]);
        let keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty()).collect();
        if keys.is_empty() {
            break;
        }
        let port = to.0.to_string();
        let words = ["migrate", "127.0.0.1", &port, "", "0", "5000", "keys"];
        source.ask(&[&words[..], &keys].concat());
    }
    site.load.wait_for(20);
    for node in [target, source] {
        node.ask(&["cluster", "setslot", slot, "node", to.1]);
    }
}

#[test]
fn a_flushed_shard_only_misses() {
    for engine in engines("a_flushed_shard") {
        let site = Site::start(&engine, &[]);
        let master = site.cluster.master_of(0).expect("a master");
        site.load.wait_for(500);
        site.load.take();
        site.cluster.node(master).ask(&["flushall"]);
        site.load.wait_for(100);
        let tallies = site.load.take();
        check(&tallies, &[]);
        assert!(tallies[0].misses > 0, "{tallies:?}");
        let err = site.end();
        assert_eq!((number(&err, " timed out"), number(&err, " unavailable")), (0, 0), "{err}");
    }
}

#[test]
fn a_cluster_is_followed_while_redis_cli_reshards_it() {
    for engine in engines("a_cluster_is_followed") {
        let site = Site::start(&engine, &["-threads", "2"]);
        let ids = site.cluster.ids();
        let (from, to) = (site.cluster.master_of(2).unwrap(), site.cluster.master_of(0).unwrap());
        let mut reshard = std::process::Command::new("redis-cli");
        reshard.args(["--cluster", "reshard", &format!("127.0.0.1:{from}"), "--cluster-from"]);
        reshard.args([&ids[&from], "--cluster-to", &ids[&to], "--cluster-slots", "1000"]);
        reshard.arg("--cluster-yes");
        succeed(&mut reshard);
        let owned = |port| {
            let slots = site.cluster.slots();
            let own = slots.iter().filter(|row| row.2 == port);
            own.map(|(first, last, _)| u32::from(last - first) + 1).sum::<u32>()
        };
        until("slots of a new owner", || (owned(to) >= 6400).then_some(()));
        site.load.wait_for(100);
        let tallies = site.load.take();
        check(&tallies, &[]);
        assert!(tallies.iter().all(|tally| tally.found > 0), "{tallies:?}");
        site.end();
    }
}

#[test]
fn with_overtake_answers_pass_a_late_one() {
    for engine in engines("with_overtake") {
        let cluster = Cluster::start(&engine, 3, 0);
        let dir = Dir::new();
        let words = ["-overtake", "10", "-deadline", "20000"];
        let (gateway, address) = gateway(&dir, &cluster.url(), &words);
        let ids: Vec<Vec<u8>> = cluster.tags.iter().map(|tag| id(tag, 1)).collect();
        let client = RawClient::connect(&address);
        for id in &ids {
            until("a shard that answers", || {
                (client.ask(&get(1, id)) == status(1, 1, 1)).then_some(())
            });
        }
        let master = cluster.node(cluster.master_of(0).expect("a master"));
        master.program.freeze();
        client.send(&[get(2, &ids[0]), get(3, &ids[1]), get(4, &ids[2])].concat());
        let mut passed = [client.message(), client.message()];
        passed.sort();
        assert_eq!(passed, [status(3, 1, 1), status(4, 1, 1)]);
        master.program.signal(Signal::CONT);
        assert_eq!(client.message(), status(2, 1, 1));
        gateway.end(Signal::TERM);
    }
}
