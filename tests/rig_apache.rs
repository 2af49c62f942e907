//! Two of Debian's httpd that share sessions and staples by `mod_socache_distcache`, each with its own
//! `dc_client`, and one `dc_server`.
//!
//! Tickets are off, so a server can resume a session of the other one only from the cache. With TLS 1.3,
//! httpd stores a session for each ticket that it sends.

#[path = "rig_apache/httpd.rs"]
mod httpd;
#[path = "rig_apache/site.rs"]
mod site;
#[path = "rig_apache/staples.rs"]
mod staples;

use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use distcache_testing::bytes::{self, ADD, HAVE, REMOVE, add, have, remove, status};
use distcache_testing::process::{Dir, Program, Signal, until};
use distcache_testing::raw_client::{RawClient, ask_until};
use distcache_testing::rig::{can_run, succeed};
use distcache_testing::secret::Secret;
use rustls::HandshakeKind::{Full, Resumed};
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

use httpd::{SHORT_TIMEOUT, preamble};
use site::{Setup, Site};
use staples::Responder;

const TOOLS: [&str; 5] = ["apache2", "apxs", "cc", "openssl", "pkg-config"];
const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

#[test]
fn a_session_begun_at_one_httpd_is_resumed_at_the_other() {
    if !can_run("httpd resumes", false, &TOOLS) {
        return;
    }
    let site = Site::new();
    for version in VERSIONS {
        for (first, second) in [(0, 1), (1, 0)] {
            let client = site.client(version);
            assert_eq!(site.handshake(&client, first), Full);
            assert_eq!(site.handshake(&client, second), Resumed, "{version:?}");
            assert_eq!(site.handshake(&client, first), Resumed, "{version:?}");
        }
    }
}

/// So all other servers share it: nginx, stunnel, and httpd's stock module.
#[test]
fn a_session_of_httpd_is_stored_under_its_own_id() {
    if !can_run("httpd's ids", false, &TOOLS) {
        return;
    }
    let site = Site::new();
    let (id, how) = openssl_handshake(&site, 0, &["-sess_out", &site.dirs[0].text("session")]);
    assert_eq!((id.len(), how.as_str()), (32, "New"));
    assert!(is_in_the_cache(&site, &id));
}

#[test]
fn with_keys_httpd_shares_sessions_that_the_cache_cannot_read() {
    if !can_run("httpd seals", false, &TOOLS) {
        return;
    }
    let dir = Dir::new();
    let keys = dir.text("keys");
    std::fs::write(&keys, "07".repeat(32)).unwrap();
    std::fs::set_permissions(&keys, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let before = vec!["env".to_owned(), format!("DISTCACHE_SEALKEYS={keys}")];
    let site = Site::set_up(&Setup { before, ..Setup::default() });
    for version in VERSIONS {
        let client = site.client(version);
        assert_eq!(site.handshake(&client, 0), Full);
        assert_eq!(site.handshake(&client, 1), Resumed, "{version:?}");
    }
    let session = site.dirs[0].text("session");
    let (id, _) = openssl_handshake(&site, 0, &["-sess_out", &session]);
    let (id, address) = (distcache_posix::Id::new(&id).unwrap(), site.dirs[1].address("cache"));
    let plain = distcache_posix::Client::connect(address.as_str()).unwrap();
    let mut stored = plain.get(id).unwrap().unwrap();
    assert!(distcache_core::seal::is_sealed(&stored));
    *stored.last_mut().unwrap() ^= 1;
    plain.put(id, &stored, Duration::from_secs(60)).unwrap();
    let (_, how) = openssl_handshake(&site, 1, &["-sess_in", &session]);
    assert_eq!(how, "New", "a session that the cache has changed is not resumed");
}

#[test]
fn an_object_that_is_too_large_or_not_a_session_is_not_resumed() {
    if !can_run("httpd refuses", false, &TOOLS) {
        return;
    }
    let site = Site::new();
    let file = site.dirs[0].text("session");
    let caller = RawClient::connect(&site.dirs[1].address("cache"));
    // mod_ssl's buffer has 10 KiB. An object that fits is a hit, which OpenSSL then rejects.
    for (planted, counters) in [
        (vec![0x30; 32_000], "CacheRefuseCount 1, RetrieveHitCount 1"),
        (vec![0x30; 10_000], "CacheRefuseCount 1, RetrieveHitCount 3"),
    ] {
        let (id, _) = openssl_handshake(&site, 0, &["-sess_out", &file]);
        assert_eq!(openssl_handshake(&site, 0, &["-sess_in", &file]).1, "Reused");
        assert_eq!(caller.ask(&remove(1, &id)), status(1, REMOVE, 0));
        assert_eq!(caller.ask(&add(1, &id, &planted)), status(1, ADD, 0));
        assert_eq!(openssl_handshake(&site, 0, &["-sess_in", &file]).1, "New");
        let page = site.visit(&site.client(&TLS12), 0, "/server-status?auto").page;
        assert_counters(&page, counters);
    }
    assert_no_child_was_killed(&site);
}

/// The object is one that OpenSSL cannot read: of others it keeps copies of its own. The buffer of mod_ssl is
/// on the stack, and the rest of the handshake overwrites it.
#[test]
fn a_fetched_object_stays_in_no_memory_of_httpd() {
    if !(can_run("httpd's memory", true, &TOOLS)) {
        return;
    }
    let site = Site::new();
    let file = site.dirs[0].text("session");
    let caller = RawClient::connect(&site.dirs[1].address("cache"));
    let (id, _) = openssl_handshake(&site, 0, &["-sess_out", &file]);
    let secret = Secret::new();
    assert_eq!(caller.ask(&remove(1, &id)), status(1, REMOVE, 0));
    assert_eq!(caller.ask(&add(1, &id, &secret.reveal())), status(1, ADD, 0));
    assert_eq!(openssl_handshake(&site, 0, &["-sess_in", &file]).1, "New");
    let children = site.servers[0].children();
    assert!(!children.is_empty());
    for child in children {
        secret.until_none_in(child, "after the handshake");
    }
}

/// Connects with `openssl s_client`. Returns the session id, and `New` or `Reused`.
fn openssl_handshake(site: &Site, server: usize, more: &[&str]) -> (Vec<u8>, String) {
    let address = site.address(server);
    let arguments = ["s_client", "-tls1_2", "-connect", &address, "-servername", "localhost"];
    let printed = succeed(Command::new("openssl").args(arguments).args(more));
    let id = printed.lines().find_map(|line| line.trim().strip_prefix("Session-ID: "));
    let how = printed.lines().find_map(|line| Some(line.split_once(", TLSv1.2, Cipher is ")?.0));
    (bytes_of(id.expect("a session")), how.expect("New or Reused").to_owned())
}

fn is_in_the_cache(site: &Site, id: &[u8]) -> bool {
    let answer = RawClient::connect(&site.dirs[1].address("cache")).ask(&have(1, id));
    assert!(answer == status(1, HAVE, 0) || answer == status(1, HAVE, 1), "{answer:?}");
    answer == status(1, HAVE, 0)
}

/// Decodes hexadecimal digits, with or without colons between bytes.
fn bytes_of(digits: &str) -> Vec<u8> {
    let digits = digits.replace(':', "");
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("two digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

#[test]
fn a_session_of_httpd_can_still_be_resumed_after_two_seconds() {
    if !can_run("httpd resumes later", false, &TOOLS) {
        return;
    }
    let site = Site::new();
    let clients = VERSIONS.map(|version| site.client(version));
    for client in &clients {
        assert_eq!(site.handshake(client, 0), Full);
    }
    // The stock module passes on only the sub-second part of a lifetime, so its sessions expire by then. The
    // sender lives on, so only the timeout ends this wait.
    let (_sender, nothing) = mpsc::channel::<()>();
    assert!(nothing.recv_timeout(Duration::from_secs(2)).is_err());
    for client in &clients {
        assert_eq!(site.handshake(client, 1), Resumed);
    }
}

#[test]
fn sixteen_clients_at_once_lose_no_session_of_two_httpd() {
    if !can_run("httpd under load", false, &TOOLS) {
        return;
    }
    for version in VERSIONS {
        let site = Site::new();
        let slowest = thread::scope(|scope| {
            let clients = [(); 16].map(|()| site.client(version));
            let shakes = clients.into_iter().enumerate().map(|(number, client)| {
                let site = &site;
                scope.spawn(move || {
                    let mut slowest = Duration::ZERO;
                    for round in 0..80 {
                        let visit = site.visit(&client, (number + round) % 2, "/index.html");
                        assert_eq!(visit.kind, if round == 0 { Full } else { Resumed }, "{round}");
                        slowest = slowest.max(visit.took);
                    }
                    slowest
                })
            });
            let shakes: Vec<_> = shakes.collect();
            let slowest = shakes.into_iter().map(|shakes| shakes.join().expect("none fails")).max();
            slowest.expect("sixteen")
        });
        println!("{version:?}: 1280 handshakes, none failed, none lost; slowest {slowest:?}");
        for server in &site.servers {
            assert!(!server.log().contains("socache_distcache:warn"), "no failure is logged");
        }
        assert_no_child_was_killed(&site);
    }
}

#[test]
fn a_graceful_restart_of_httpd_loses_no_session() {
    if !can_run("httpd restarts", false, &TOOLS) {
        return;
    }
    let site = Site::new();
    let clients = VERSIONS.map(|version| site.client(version));
    for client in &clients {
        assert_eq!(site.handshake(client, 0), Full);
    }
    for restarts in 1..=3 {
        site.servers[0].restart();
        until("httpd has restarted", || {
            let log = site.servers[0].log();
            (log.matches("resuming normal operations").count() > restarts).then_some(())
        });
        for client in &clients {
            assert_eq!(site.handshake(client, 0), Resumed);
        }
    }
    assert_no_child_was_killed(&site);
}

/// Checks that no child of httpd was killed by a signal.
fn assert_no_child_was_killed(site: &Site) {
    for server in &site.servers {
        let log = server.log();
        assert!(!log.contains("exit signal") && !log.contains("Segmentation"), "{log}");
    }
}

/// Checks that handshakes succeed after `stop_cache`, with at most `errors_max` failed requests for each, and
/// that sessions are shared again after `restore_cache`.
fn check_outage(
    errors_max: u64,
    stop_cache: impl FnOnce(&Site),
    restore_cache: impl FnOnce(&mut Site),
) {
    let mut site = Site::set_up(&Setup { timeout: SHORT_TIMEOUT, ..Setup::default() });
    let clients: Vec<_> = (0..8).map(|number| site.client(VERSIONS[number % 2])).collect();
    for client in &clients {
        assert_eq!(site.handshake(client, 0), Full);
        assert_eq!(site.handshake(client, 1), Resumed);
    }
    let began = Instant::now();
    stop_cache(&site);
    thread::scope(|scope| {
        for (number, client) in clients.iter().enumerate() {
            let site = &site;
            scope.spawn(move || {
                for round in 0..6 {
                    let visit = site.visit(client, (number + round) % 2, "/index.html");
                    assert_eq!(visit.kind, Full);
                }
            });
        }
    });
    let errors = [0, 1].map(|server| site.counter(server, "CacheErrorCount"));
    println!("48 handshakes, failed requests of each server: {errors:?}");
    // 50: the status pages took two more handshakes.
    assert!(errors.iter().sum::<u64>() <= errors_max * 50, "{errors:?}");
    for server in &site.servers {
        // 48 handshakes make more than a hundred requests, but at most one line in ten seconds.
        let log = server.log();
        let told = log.matches("handshakes go on without the cache").count();
        let most = 1 + began.elapsed().as_secs() / 10 + 1;
        assert!((1..=most).contains(&(told as u64)), "logged {told} times: {log}");
    }
    restore_cache(&mut site);
    for version in VERSIONS {
        until("sessions are shared again", || {
            let client = site.client(version);
            assert_eq!(site.handshake(&client, 0), Full);
            (site.handshake(&client, 1) == Resumed).then_some(())
        });
    }
    assert_no_child_was_killed(&site);
}

/// Starts a new cache at the address of one that was killed.
fn restart_cache(site: &mut Site) {
    let address = site.cache.address();
    until("the end of the old cache", || (!site.cache.is_running()).then_some(()));
    site.cache = Program::start(env!("CARGO_BIN_EXE_dc_server"), &["-listen", &address]);
    site.cache.address();
}

/// Kills a program, and stops it first, since SIGKILL alone may take effect later.
fn kill(program: &Program) {
    program.freeze();
    program.signal(Signal::KILL);
}

#[test]
fn while_the_cache_hangs_httpd_goes_on_with_full_handshakes() {
    if !can_run("httpd with a cache that stands still", false, &TOOLS) {
        return;
    }
    let back = |site: &mut Site| site.cache.signal(Signal::CONT);
    check_outage(1, |site| site.cache.freeze(), back);
}

#[test]
fn while_the_proxies_hang_httpd_goes_on_with_full_handshakes() {
    if !can_run("httpd with proxies that stand still", false, &TOOLS) {
        return;
    }
    let back = |site: &mut Site| site.proxies.iter().for_each(|proxy| proxy.signal(Signal::CONT));
    check_outage(1, |site| site.proxies.iter().for_each(Program::freeze), back);
}

#[test]
fn after_the_cache_is_killed_httpd_goes_on_and_uses_a_new_one() {
    if !can_run("httpd with a cache that was killed", false, &TOOLS) {
        return;
    }
    check_outage(3, |site| kill(&site.cache), restart_cache);
}

#[test]
fn after_the_proxies_are_killed_httpd_goes_on_and_uses_new_ones() {
    if !can_run("httpd with proxies that were killed", false, &TOOLS) {
        return;
    }
    let back = |site: &mut Site| {
        let address = site.cache.address();
        for number in [0, 1] {
            site.restart_proxy(number, &address);
        }
    };
    check_outage(3, |site| site.proxies.iter().for_each(kill), back);
}

#[test]
fn server_status_counts_what_all_children_of_an_httpd_did() {
    if !can_run("httpd counts", false, &TOOLS) {
        return;
    }
    let mut site = Site::new();
    let client = site.client(&TLS12);
    // Reading the page begins a session, too, which is counted.
    let look = |site: &Site, page| site.visit(&site.client(&TLS12), 0, page).page;
    assert_eq!(site.handshake(&client, 0), Full);
    for _ in 0..20 {
        assert_eq!(site.handshake(&client, 0), Resumed);
    }
    let status = look(&site, "/server-status?auto");
    assert_counters(&status, "CacheStoreCount 2, RetrieveHitCount 20, RetrieveMissCount 0");
    assert_counters(&status, "CacheRefuseCount 0, ErrorCount 0, SkipCount 0, RemoveHitCount 0");
    assert!(status.contains("\nCacheType: DC\n"), "{status}");
    assert!(status.contains(&format!("\nCacheTarget: {}\n", site.dirs[0].address("cache"))));

    // A new cache is empty: the session is a miss, and a new one is stored.
    kill(&site.cache);
    restart_cache(&mut site);
    // Until the proxy is connected, its own answer has another status.
    let missed = bytes::status(1, HAVE, 1);
    ask_until(&site.dirs[0].address("cache"), &have(1, b"nobody's"), &missed);
    assert_eq!(site.handshake(&client, 0), Full);
    let status = look(&site, "/server-status?auto");
    assert_counters(&status, "CacheStoreCount 4, RetrieveHitCount 20, RetrieveMissCount 1");

    // Without its proxy, every request fails at once.
    kill(&site.proxies[0]);
    assert_eq!(site.handshake(&client, 0), Full);
    let status = look(&site, "/server-status?auto");
    assert_counters(&status, "CacheErrorCount 3, SkipCount 0, StoreCount 4, RetrieveMissCount 1");
    let page = look(&site, "/server-status");
    assert!(page.contains("CacheRetrieveHitCount: <b>20</b><br>"), "{page}");
    assert!(page.contains("CacheErrorCount: <b>4</b><br>"), "{page}");
}

/// Checks the counters on a page of `?auto`. `wanted` has a prefix, and then names with numbers.
fn assert_counters(status: &str, wanted: &str) {
    let prefix = wanted.split("Cache").next().unwrap_or_default().to_owned() + "Cache";
    for counter in wanted[prefix.len()..].split(", ") {
        let (name, number) = counter.split_once(' ').expect("a name and a number");
        let line = format!("\n{prefix}{name}: {number}\n");
        assert!(status.contains(&line), "no line{line}in {status}");
    }
}

/// Both httpd serve a staple, but only one asks the responder. When the staple is too old, a new one replaces
/// it in the cache, for both.
#[test]
fn a_staple_is_shared_and_replaced_by_a_newer_one() {
    if !can_run("httpd staples", false, &TOOLS) {
        return;
    }
    let dir = Dir::new();
    let responder = Responder::new(&dir);
    // A staple is valid for a few seconds but cached for an hour, so the cache has one that is too old.
    let more = format!(
        "SSLUseStapling on\nSSLStaplingCache dc:CACHE\nSSLStaplingForceURL {}\n\
         SSLStaplingStandardCacheTimeout 3600\nSSLStaplingResponseMaxAge 5\n\
         SSLStaplingResponseTimeSkew 60\nSSLStaplingReturnResponderErrors off\n",
        responder.url()
    );
    let (chain, key) = responder.certificate();
    let setup = Setup { more, ..Setup::default() };
    let site = Site::with(&chain, &key, &setup, responder.roots());

    assert!(is_stapled(&site, 0));
    assert_eq!(responder.asked(), 1);
    assert!(is_stapled(&site, 1) && is_stapled(&site, 0));
    assert_eq!(responder.asked(), 1, "the staple came from the cache");
    until("the staple is too old", || {
        assert!(is_stapled(&site, 0), "an old one is never served, and a new one fetched");
        (responder.asked() == 2).then_some(())
    });
    assert!(is_stapled(&site, 1) && is_stapled(&site, 0));
    assert_eq!(responder.asked(), 2, "the new one is in the cache, where the old one was");

    // Behind its name space's byte, and longer than any session's id.
    let sha1 = bytes_of(&responder.fingerprint());
    let key = [&[b's', 20], &sha1[..], &[0; 11]].concat();
    assert!(is_in_the_cache(&site, &key) && !is_in_the_cache(&site, &sha1));

    let page = |server| site.visit(&site.client(&TLS12), server, "/server-status?auto").page;
    let (status, other) = (page(0), page(1));
    assert_counters(&status, "StaplingCacheStoreCount 2, ErrorCount 0, RefuseCount 0");
    assert_counters(&other, "StaplingCacheStoreCount 0, RetrieveMissCount 0, ErrorCount 0");
    let page = site.visit(&site.client(&TLS12), 0, "/server-status").page;
    assert!(page.contains("StaplingCacheStoreCount: <b>2</b><br>"), "{page}");
}

/// Whether a server shows a staple that OpenSSL takes for a good one.
fn is_stapled(site: &Site, server: usize) -> bool {
    let address = site.address(server);
    let arguments = ["s_client", "-status", "-connect", &address, "-servername", "localhost"];
    let printed = succeed(Command::new("openssl").args(arguments));
    let (good, none) = ("OCSP Response Status: successful", "OCSP response: no response sent");
    assert!(printed.contains(good) != printed.contains(none), "{printed}");
    printed.contains("Cert Status: good")
}

/// Returns the error of httpd about a configuration with this line, or `None` if it is accepted.
fn config_error(line: &str) -> Option<String> {
    let dir = Dir::new();
    let config = preamble(dir.path()) + "Listen 127.0.0.1:1\n" + line + "\n";
    std::fs::write(dir.join("httpd.conf"), config).expect("a file in our own directory");
    let (root, file) = (dir.text(""), dir.text("httpd.conf"));
    let ended = Program::run("apache2", &["-t", "-d", &root, "-f", &file]);
    (ended.code != 0).then_some(ended.err)
}

#[test]
fn the_configuration_test_reports_an_invalid_cache_address() {
    if !can_run("httpd's test of its configuration", false, &TOOLS) {
        return;
    }
    assert_eq!(config_error("SSLSessionCache dc"), None);
    assert_eq!(config_error("SSLSessionCache dc:UNIX:/nowhere/yet"), None);
    assert_eq!(config_error("SSLStaplingCache dc:IP:127.0.0.1:9001"), None);
    for misspelt in ["UNIX", "tmp/scache", "IP:127.0.0.1", "IP:127.0.0.1:port", "IP:cachehost"] {
        let told = config_error(&format!("SSLSessionCache dc:{misspelt}"));
        let told = told.expect("it is refused");
        assert!(told.contains(&format!("dc:{misspelt}: ")), "{told}");
        assert!(told.contains("give the address of dc_client or dc_server"), "{told}");
    }
    let told = config_error("SSLSessionCache dc:IP:cachehost").expect("it is refused");
    assert!(told.contains("it has no port"), "{told}");
}
