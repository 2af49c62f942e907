//! The module for Node: its own tests with a real `dc_server`, and two TLS servers of Node that share their
//! sessions.
//!
//! ```text
//!               ┌─ example.mjs ─ UNIX socket ─ dc_client ─┐
//!  s_client ────┤                                         ├─ dc_server
//!               └─ example.mjs ─ UNIX socket ─ dc_client ─┘
//! ```

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::handshake::{Client, Handshake, Version};
use distcache_testing::process::{Dir, Program, Signal, is_root, until};
use distcache_testing::raw_client::RawClient;
use distcache_testing::rig::{can_run, certificate};
use distcache_testing::secret::Secret;
use distcache_testing::start;

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The timeout, in milliseconds, for tests whose cache answers: long enough for a busy machine.
const LONG_TIMEOUT: &str = "20000";
/// The timeout for tests whose cache hangs.
const SHORT_TIMEOUT: &str = "250";
/// How long a connection may take while the cache hangs. It waits for two timeouts of 250 ms; the rest is
/// for a busy machine.
const HANGING_MAX: Duration = Duration::from_secs(8);

use Version::{Tls12, Tls13};

fn can_run_here(test: &str) -> bool {
    can_run(test, false, &["openssl", "node"])
}

/// An address without its prefix, such as `IP:`.
fn without_prefix(address: &str) -> &str {
    address.split_once(':').expect("an address").1
}

/// Both servers, the proxies and the cache.
struct Site {
    servers: [Program; 2],
    proxies: [Program; 2],
    cache: Program,
    dir: Dir,
}

impl Site {
    fn new() -> Self {
        Self::with(LONG_TIMEOUT)
    }

    fn with(timeout: &str) -> Self {
        let dir = Dir::new();
        certificate(dir.path());
        let cache = Program::start(DC_SERVER, &["-listen", "IP:127.0.0.1:0"]);
        let names = ["one", "other"];
        let proxies = names.map(|name| {
            let (listen, cache) = (dir.address(name), cache.address());
            let options = ["-listen", &listen, "-server", &cache, "-retry", "50"];
            let proxy = Program::start(DC_CLIENT, &options);
            proxy.err.wait_for("connected to ");
            proxy
        });
        let servers = names.map(|name| {
            let script = format!("{ROOT}/bins/node/example.mjs");
            let [key, cert, path] = ["key.pem", "cert.pem", name].map(|name| dir.text(name));
            let mut command = Command::new("node");
            command.args([&script, &key, &cert, &path, "127.0.0.1:0"]);
            command.env("DISTCACHE_TIMEOUT_MS", timeout);
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            let server = Program::spawn(command);
            server.address();
            server
        });
        Self { servers, proxies, cache, dir }
    }

    /// Connects to server 0 or 1. Begins a session, or offers the last one.
    fn connect(&self, version: Version, server: usize, begin: bool) -> Handshake {
        let (session, address) = (self.dir.join("session"), self.servers[server].address());
        let (client, place) = (Client { version, session: &session }, ["-connect", &address]);
        let done = if begin { client.begin(place) } else { client.go_on(place) };
        let word = if done.resumed { "Resumed" } else { "Full" };
        let hello = format!("hello, the handshake was {word}");
        assert!(done.said.lines().any(|line| line == hello), "{hello}: {}", done.said);
        done
    }

    fn begin(&self, version: Version, server: usize) -> Handshake {
        self.connect(version, server, true)
    }

    fn go_on(&self, version: Version, server: usize) -> Handshake {
        self.connect(version, server, false)
    }

    /// Waits until sessions are shared again, since a proxy may first have to connect.
    fn until_shared(&self) {
        until("sessions are shared again", || {
            self.begin(Tls12, 0);
            self.go_on(Tls12, 1).resumed.then_some(())
        });
    }
}

#[test]
fn the_tests_of_the_module_pass_with_a_real_server() {
    if !can_run_here("the_tests_of_the_module_pass_with_a_real_server") {
        return;
    }
    let dir = Dir::new();
    certificate(dir.path());
    let cache = Program::start(DC_SERVER, &["-listen", "IP:127.0.0.1:0"]);
    let mut command = Command::new("node");
    command.args(["--test", "bins/node/distcache.test.mjs"]).current_dir(ROOT);
    command.env("DISTCACHE_SERVER", without_prefix(&cache.address())).env("TLS_DIR", dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let ended = Program::spawn(command).ended();
    assert_eq!(ended.code, 0, "{}{}", ended.out, ended.err);
    // The test runner succeeds if it finds no tests, so look for one.
    assert!(ended.out.contains("of a thousand requests at once"), "{}", ended.out);
}

#[test]
fn the_module_keeps_no_copy_of_a_session() {
    if !(can_run_here("the_module_keeps_no_copy_of_a_session") && is_root()) {
        return;
    }
    let dir = Dir::new();
    let _cache = start::server(DC_SERVER, &dir.address("s"), &[]);
    for copies in [1, 100] {
        let secret = Secret::new();
        let session = secret.reveal().repeat(copies);
        let (reader, mut line) = std::io::pipe().expect("a pipe");
        let mut command = Command::new("node");
        let script = format!("{ROOT}/tests/rig_node/secrets.mjs");
        command.args([&script, &dir.text("s"), &session.len().to_string()]);
        command.stdin(reader).stdout(Stdio::piped());
        let node = Program::spawn(command);
        let mut count = 0;
        let mut done = || {
            count += 1;
            node.out.wait_for_nth("done", count);
        };
        // The second time it replaces the session, with another request.
        for _ in 0..2 {
            line.write_all(b"p").expect("it reads");
            line.write_all(&session).expect("it reads");
            done();
            secret.until_none_in(node.pid(), "after put");
        }
        line.write_all(b"g").expect("it reads");
        done();
        secret.until_none_in(node.pid(), "after get");
        drop(line);
        assert_eq!(node.ended().code, 0);
    }
}

#[test]
fn a_session_begun_at_one_server_is_resumed_at_the_other() {
    if !can_run_here("a_session_begun_at_one_server_is_resumed_at_the_other") {
        return;
    }
    let site = Site::new();
    for (first, second) in [(0, 1), (1, 0)] {
        let id = site.begin(Tls12, first).session_id;
        let cache = RawClient::connect(&site.cache.address());
        assert_eq!(cache.ask(&have(1, &id)), status(1, HAVE, 0), "stored under its own id");
        for server in [second, first, second] {
            assert!(site.go_on(Tls12, server).resumed);
        }
    }
}

/// Node does not expose the ids of TLS 1.3 sessions. If that changes, this test fails.
#[test]
fn tls_1_3_handshakes_are_full() {
    if !can_run_here("tls_1_3_handshakes_are_full") {
        return;
    }
    let site = Site::new();
    assert!(!site.begin(Tls13, 0).resumed);
    for server in [1, 0] {
        assert!(!site.go_on(Tls13, server).resumed);
    }
}

#[test]
fn without_a_cache_handshakes_are_full_and_a_new_cache_is_used() {
    if !can_run_here("without_a_cache_handshakes_are_full_and_a_new_cache_is_used") {
        return;
    }
    let mut site = Site::new();
    let address = site.cache.address();
    site.begin(Tls12, 0);
    assert!(site.go_on(Tls12, 1).resumed);
    let began = Instant::now();
    site.cache.freeze();
    site.cache.signal(Signal::KILL);
    for server in [1, 0, 1, 0] {
        assert!(!site.go_on(Tls12, server).resumed);
    }
    for server in &site.servers {
        server.err.wait_for("sessions are not shared meanwhile");
    }
    site.cache = Program::start(DC_SERVER, &["-listen", &address]);
    site.until_shared();
    for server in site.servers {
        let told = server.end(Signal::TERM).err;
        let most = 1 + began.elapsed().as_secs() / 10;
        assert!(told.lines().count() as u64 <= most, "one line in ten seconds: {told}");
    }
}

#[test]
fn while_cache_or_proxy_hang_handshakes_are_full_and_end() {
    if !can_run_here("while_cache_or_proxy_hang_handshakes_are_full_and_end") {
        return;
    }
    let site = Site::with(SHORT_TIMEOUT);
    for still in [&site.cache, &site.proxies[1]] {
        site.until_shared();
        still.freeze();
        for _ in 0..3 {
            let handshake = site.go_on(Tls12, 1);
            assert!(!handshake.resumed);
            assert!(handshake.took < HANGING_MAX, "{:?}", handshake.took);
        }
        still.signal(Signal::CONT);
    }
    site.until_shared();
}

/// The code of the page on TLS servers, with a certificate and an address added.
#[test]
fn servers_with_the_code_of_the_page_on_tls_servers_share_sessions() {
    if !can_run_here("servers_with_the_code_of_the_page_on_tls_servers_share_sessions") {
        return;
    }
    let dir = Dir::new();
    certificate(dir.path());
    let cache = Program::start(DC_SERVER, &["-listen", &dir.address("cache")]);
    cache.address();
    let page = std::fs::read_to_string(format!("{ROOT}/docs/tls-servers.md")).expect("it");
    let section = page.split("\n## Node\n").nth(1).expect("a section").lines();
    let code = section.skip_while(|line| !line.starts_with("    "));
    let code: Vec<_> = code
        .map_while(|line| line.strip_prefix("    ").or_else(|| line.is_empty().then_some("")))
        .collect();
    let code = code.join("\n");
    for place in ["'/run/distcache/scache'", "'./distcache.mjs'"] {
        assert_eq!(code.matches(place).count(), 1, "{place} in {code}");
    }
    let code = code
        .replace(
            "'/run/distcache/scache'",
            &format!("'{}', timeout: {LONG_TIMEOUT}", dir.text("cache")),
        )
        .replace("'./distcache.mjs'", &format!("'{ROOT}/bins/node/distcache.mjs'"));
    let script = format!(
        "import {{ readFileSync }} from 'node:fs';
        const [key, cert] = ['key.pem', 'cert.pem'].map((name) => readFileSync(`{dir}/${{name}}`));
        const answer = (request, response) => response.end('hello');
        {code}
        const say = () => console.log(`server: listening on 127.0.0.1:${{server.address().port}}`);
        server.listen(0, '127.0.0.1', say);",
        dir = dir.path().display()
    );
    std::fs::write(dir.join("server.mjs"), script).expect("a file of our own");
    let servers = [(); 2].map(|()| Program::start("node", &[&dir.text("server.mjs")]));
    let session = dir.join("session");
    let client = Client { version: Tls12, session: &session };
    assert!(!client.begin(["-connect", &servers[0].address()]).resumed);
    assert!(client.go_on(["-connect", &servers[1].address()]).resumed);
}
