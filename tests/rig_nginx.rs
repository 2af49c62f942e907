//! Two nginx, each with a `dc_client` of its own, that share their sessions through one `dc_server`.
//!
//! ```text
//!               ┌─ nginx one ── UNIX socket ─ dc_client ─┐
//!  s_client ────┤                                        ├─ dc_server
//!               └─ nginx other ─ UNIX socket ─ dc_client ┘
//! ```
//!
//! Their configuration is `bins/nginx/nginx.conf.example` with the paths and addresses of a test.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use distcache_testing::bytes::{ADD, HAVE, add, have, remove, status};
use distcache_testing::handshake::{Client, Handshake, Version};
use distcache_testing::process::{Dir, Program, Signal, is_root, until};
use distcache_testing::raw_client::RawClient;
use distcache_testing::rig::{can_run, certificate, installed, succeed};
use distcache_testing::secret::Secret;

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");

/// The modules that nginx loads, in this order, of the packages libnginx-mod-http-ndk and -lua.
const MODULES: [&str; 2] =
    ["/usr/lib/nginx/modules/ndk_http_module.so", "/usr/lib/nginx/modules/ngx_http_lua_module.so"];

/// The change to the example for tests whose cache answers: a timeout long enough for a busy machine.
const LONG_TIMEOUT: (&str, &str) = (EXAMPLE_TIMEOUT, "distcache.timeout = 20000");
/// The timeout in the example.
const EXAMPLE_TIMEOUT: &str = "distcache.timeout = 50";
/// Settings for tests that count log lines: a long timeout, and one line in an hour.
const LOG_ONCE: &str = "distcache.timeout = 20000; distcache.log_every = 3600 * 1000";
/// What every log line about the cache contains.
const LOG_PREFIX: &str = "distcache: ";
/// How long a connection may take while the cache hangs. It waits for two timeouts of 50 ms; the rest is for
/// a busy machine.
const HANGING_MAX: Duration = Duration::from_secs(8);

use Version::{Tls12, Tls13};

fn can_run_here(test: &str) -> bool {
    can_run(test, false, &["openssl", "nginx", "cc", MODULES[0], MODULES[1]])
}

/// Both nginx, the proxies and the cache.
struct Site {
    // In the order in which they are dropped.
    servers: [Nginx; 2],
    proxies: [Program; 2],
    cache: Program,
    dir: Dir,
}

impl Site {
    fn new() -> Self {
        Self::with(&[LONG_TIMEOUT])
    }

    /// With `changes` to the example: each replaces a text that occurs once.
    fn with(changes: &[(&str, &str)]) -> Self {
        let dir = Dir::new();
        certificate(dir.path());
        let cache = Program::start(DC_SERVER, &["-listen", "IP:127.0.0.1:0"]);
        let names = ["one", "other"];
        let proxies = names.map(|name| {
            let listen = dir.address(&format!("{name}.cache"));
            let cache = cache.address();
            let options = ["-listen", &listen, "-server", &cache, "-retry", "50"];
            let proxy = Program::start(DC_CLIENT, &options);
            proxy.err.wait_for("connected to ");
            proxy
        });
        let servers = names.map(|name| Nginx::start(&dir, name, changes));
        Self { servers, proxies, cache, dir }
    }

    fn session(&self) -> PathBuf {
        self.dir.join("session")
    }

    /// Connects to nginx 0 or 1 and begins a session.
    fn begin(&self, version: Version, server: usize) -> Handshake {
        let session = self.session();
        let done = Client { version, session: &session }.begin(self.servers[server].place());
        check_agreement(version, done)
    }

    /// Connects and offers the last session.
    fn go_on(&self, version: Version, server: usize) -> Handshake {
        let session = self.session();
        let done = Client { version, session: &session }.go_on(self.servers[server].place());
        check_agreement(version, done)
    }

    /// Waits until sessions are shared again, since a broken connection may first have to be noticed.
    fn until_shared(&self) {
        until("sessions are shared again", || {
            self.begin(Tls12, 0);
            self.go_on(Tls12, 1).resumed.then_some(())
        });
    }
}

/// Checks that nginx and the client agree about the handshake.
fn check_agreement(version: Version, handshake: Handshake) -> Handshake {
    let reused = if handshake.resumed { "r" } else { "." };
    let line = format!("{} {reused}", version.name());
    assert!(handshake.said.lines().any(|said| said == line), "{line}: {}", handshake.said);
    handshake
}

/// An nginx in the foreground, with a directory for its files.
struct Nginx {
    program: Option<Program>,
    socket: String,
}

impl Nginx {
    fn start(dir: &Dir, name: &str, changes: &[(&str, &str)]) -> Self {
        let prefix = dir.join(name);
        fs::create_dir(&prefix).unwrap();
        let socket = dir.text(&format!("{name}.tls"));
        let configuration = dir.join(&format!("{name}.conf"));
        let text = example_for(dir, name, &socket);
        let text = changes.iter().fold(text, |text, (from, to)| replace_once(&text, from, to));
        fs::write(&configuration, text).unwrap();

        let mut command = Command::new("nginx");
        command.arg("-p").arg(prefix).arg("-c").arg(configuration).args(["-e", "stderr"]);
        command.env("LD_LIBRARY_PATH", installed(ROOT, TMP).join("lib"));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut program = Program::spawn(command);
        until("nginx listens", || {
            assert!(program.is_running(), "nginx ended: {}", program.err.all());
            UnixStream::connect(&socket).ok()
        });
        Self { program: Some(program), socket }
    }

    fn place(&self) -> [&str; 2] {
        ["-unix", &self.socket]
    }

    fn program(&self) -> &Program {
        self.program.as_ref().expect("it is there until it is dropped")
    }

    /// Waits for its n-th log line about the cache.
    fn log_line(&self, number: usize) -> String {
        self.program().err.wait_for_nth(LOG_PREFIX, number)
    }

    /// Ends it, and returns what it has logged.
    fn end(mut self) -> String {
        let program = self.program.take().expect("it is there until it is dropped");
        program.end(Signal::TERM).err
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let Some(mut program) = self.program.take() else { return };
        // SIGKILL would leave its workers running. This also runs if a test has failed.
        if program.is_running() {
            program.signal(Signal::TERM);
            program.err.end();
        }
    }
}

/// The example with the paths and addresses of a test.
fn example_for(dir: &Dir, name: &str, socket: &str) -> String {
    let example =
        fs::read_to_string(Path::new(ROOT).join("bins/nginx/nginx.conf.example")).unwrap();
    let modules = MODULES.map(|module| format!("load_module {module};\n")).concat();
    let main = format!("{modules}daemon off; error_log stderr error; pid {name}.pid;\n");
    // The defaults are directories of the system.
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {what};\n"))
        .concat();
    let http = format!("http {{\naccess_log off;\n{temporary}");
    let changes = [
        ("include /etc/nginx/modules-enabled/*.conf;", main),
        // The sockets are in a directory of the user who runs the test.
        ("user www-data;", "user root;".to_owned()),
        ("http {", http),
        ("/usr/local/share/distcache/", format!("{ROOT}/bins/nginx/")),
        ("UNIX:/run/distcache/scache", dir.address(&format!("{name}.cache"))),
        ("cert.pem", dir.text("cert.pem")),
        ("key.pem", dir.text("key.pem")),
        ("listen 443", format!("listen unix:{socket}")),
    ];
    changes.iter().fold(example, |text, (from, to)| replace_once(&text, from, to))
}

/// Replaces `from`, which must occur once, by `to`.
fn replace_once(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from} must occur once in {text}");
    text.replace(from, to)
}

#[test]
fn a_session_begun_at_one_nginx_is_resumed_at_the_other() {
    if !can_run_here("a_session_begun_at_one_nginx_is_resumed_at_the_other") {
        return;
    }
    let site = Site::new();
    for (first, second) in [(0, 1), (1, 0)] {
        assert!(!site.begin(Tls12, first).resumed);
        // It can be resumed more than once.
        for server in [second, first, second] {
            assert!(site.go_on(Tls12, server).resumed);
        }
    }
    for server in site.servers {
        assert_eq!(server.end(), "", "no failure is logged");
    }
}

#[test]
fn a_session_is_stored_under_the_bytes_of_its_id_not_under_its_hexadecimal_digits() {
    if !can_run_here(
        "a_session_is_stored_under_the_bytes_of_its_id_not_under_its_hexadecimal_digits",
    ) {
        return;
    }
    let site = Site::new();
    let id = site.begin(Tls12, 0).session_id;
    assert_eq!(id.len(), 32);
    let cache = RawClient::connect(&site.cache.address());
    assert_eq!(cache.ask(&have(1, &id)), status(1, HAVE, 0));
    let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    for digits in [digits.to_uppercase(), digits] {
        assert_eq!(cache.ask(&have(2, digits.as_bytes())), status(2, HAVE, 1));
    }
}

#[test]
fn a_session_expires_after_its_lifetime() {
    if !can_run_here("a_session_expires_after_its_lifetime") {
        return;
    }
    let site = Site::with(&[LONG_TIMEOUT, (".store(300 * 1000)", ".store(1)")]);
    let id = site.begin(Tls12, 0).session_id;
    let cache = RawClient::connect(&site.cache.address());
    until("the end of its life", || (cache.ask(&have(1, &id)) == status(1, HAVE, 1)).then_some(()));
    assert!(!site.go_on(Tls12, 1).resumed);
}

/// Debian's Lua module runs neither block in a TLS 1.3 handshake. If that changes, this test fails.
#[test]
fn tls_1_3_handshakes_are_full_and_do_not_use_the_cache() {
    if !can_run_here("tls_1_3_handshakes_are_full_and_do_not_use_the_cache") {
        return;
    }
    let site = Site::new();
    assert!(!site.begin(Tls13, 0).resumed);
    for server in [1, 0] {
        assert!(!site.go_on(Tls13, server).resumed);
    }
    for server in site.servers {
        assert_eq!(server.end(), "");
    }
    let told = site.cache.end(Signal::TERM).err;
    // The proxies have asked whether it answers.
    assert!(told.contains(" requests: 0 of 0 GETs found; 0 ADDs"), "{told}");
}

#[test]
fn with_tickets_and_a_shared_key_both_versions_resume_without_the_cache() {
    if !can_run_here("with_tickets_and_a_shared_key_both_versions_resume_without_the_cache") {
        return;
    }
    let keys = Dir::new();
    let key = keys.text("tickets.key");
    succeed(Command::new("openssl").args(["rand", "-out", &key, "80"]));
    let tickets = format!("ssl_session_tickets on; ssl_session_ticket_key {key};");
    let site = Site::with(&[LONG_TIMEOUT, ("ssl_session_tickets off;", &tickets)]);
    for version in [Tls12, Tls13] {
        assert!(!site.begin(version, 0).resumed);
        assert!(site.go_on(version, 1).resumed, "{version:?}");
    }
    drop(site.servers);
    let told = site.cache.end(Signal::TERM).err;
    // The proxies have asked whether it answers.
    assert!(told.contains(" requests: 0 of 0 GETs found; 0 ADDs"), "{told}");
}

#[test]
fn without_a_cache_handshakes_are_full_and_a_new_cache_is_used() {
    if !can_run_here("without_a_cache_handshakes_are_full_and_a_new_cache_is_used") {
        return;
    }
    let mut site = Site::with(&[(EXAMPLE_TIMEOUT, LOG_ONCE)]);
    let address = site.cache.address();
    site.begin(Tls12, 0);
    assert!(site.go_on(Tls12, 1).resumed);
    site.cache.freeze();
    site.cache.signal(Signal::KILL);
    for server in [1, 0, 1, 0] {
        assert!(!site.go_on(Tls12, server).resumed);
    }
    for server in &site.servers {
        server.log_line(1);
    }
    site.cache = Program::start(DC_SERVER, &["-listen", &address]);
    site.until_shared();
    for server in site.servers {
        let told = server.end();
        let complaints = told.matches(LOG_PREFIX).count();
        assert_eq!(complaints, 1, "not one for each handshake: {told}");
    }
}

#[test]
fn without_proxies_handshakes_are_full() {
    if !can_run_here("without_proxies_handshakes_are_full") {
        return;
    }
    let site = Site::new();
    site.begin(Tls12, 0);
    for proxy in &site.proxies {
        proxy.freeze();
        proxy.signal(Signal::KILL);
    }
    for server in [1, 0, 1] {
        assert!(!site.go_on(Tls12, server).resumed);
    }
}

#[test]
fn while_cache_or_proxy_hang_workers_go_on() {
    if !can_run_here("while_cache_or_proxy_hang_workers_go_on") {
        return;
    }
    let site = Site::with(&[]);
    for still in [&site.cache, &site.proxies[1]] {
        site.until_shared();
        still.freeze();
        for _ in 0..5 {
            let handshake = site.go_on(Tls12, 1);
            assert!(!handshake.resumed);
            assert!(handshake.took < HANGING_MAX, "{:?}", handshake.took);
        }
        still.signal(Signal::CONT);
    }
    site.until_shared();
}

#[test]
fn a_session_that_nginx_cannot_read_costs_a_full_handshake_and_no_worker() {
    if !can_run_here("a_session_that_nginx_cannot_read_costs_a_full_handshake_and_no_worker") {
        return;
    }
    // Every failure is logged, which shows that nginx has received each session.
    let site =
        Site::with(&[(EXAMPLE_TIMEOUT, "distcache.timeout = 20000; distcache.log_every = 0")]);
    let cache = RawClient::connect(&site.cache.address());
    let cases = [
        (&[0x30; 4097][..], "a session of 4097 bytes is too long for nginx"),
        (&[0x30; 32_000][..], "a session of 32000 bytes is too long for nginx"),
        (&[0x30; 4096][..], "failed to de-serialize session"),
        (&b"garbage"[..], "failed to de-serialize session"),
    ];
    for (number, (session, complaint)) in cases.into_iter().enumerate() {
        let id = site.begin(Tls12, 0).session_id;
        cache.ask(&remove(1, &id));
        assert_eq!(cache.ask(&add(2, &id, session)), status(2, ADD, 0));
        assert!(!site.go_on(Tls12, 1).resumed);
        let told = site.servers[1].log_line(number + 1);
        assert!(told.contains(complaint), "{number}: {told}");
    }
    site.until_shared();
    let [one, other] = site.servers.map(Nginx::end);
    assert!(!one.contains(LOG_PREFIX) && !one.contains("exited on signal"), "{one}");
    assert!(
        other.matches(LOG_PREFIX).count() == 4 && !other.contains("exited on signal"),
        "{other}"
    );
}

/// A string of Lua cannot be wiped. The session is one that OpenSSL cannot read: of others it keeps copies of
/// its own.
#[test]
fn a_fetched_session_stays_in_no_memory_but_a_string_of_lua() {
    if !(can_run_here("a_fetched_session_stays") && is_root()) {
        return;
    }
    let site = Site::new();
    let id = site.begin(Tls12, 0).session_id;
    let caller = RawClient::connect(&site.cache.address());
    let secret = Secret::new();
    caller.ask(&remove(1, &id));
    assert_eq!(caller.ask(&add(1, &id, &secret.reveal())), status(1, ADD, 0));
    assert!(!site.go_on(Tls12, 0).resumed);
    let workers = site.servers[0].program().children();
    assert!(!workers.is_empty());
    for worker in workers {
        let copies = secret.copies_in(worker);
        assert!(copies.most() <= 1, "{copies}");
    }
}

#[test]
fn with_keys_workers_share_sessions_that_the_cache_cannot_read() {
    if !can_run_here("with_keys_workers_share_sessions_that_the_cache_cannot_read") {
        return;
    }
    let keys = Dir::new();
    let path = keys.text("keys");
    fs::write(&path, "07".repeat(32)).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let settings = format!("distcache.sealkeys = '{path}'; {LOG_ONCE}");
    let site = Site::with(&[(EXAMPLE_TIMEOUT, &settings)]);
    let id = site.begin(Tls12, 0).session_id;
    assert!(site.go_on(Tls12, 1).resumed);
    let plain = distcache_posix::Client::connect(site.cache.address().as_str()).unwrap();
    let own = distcache_posix::Id::new(&id).unwrap();
    let mut stored = plain.get(own).unwrap().unwrap();
    assert!(distcache_core::seal::is_sealed(&stored));

    // What the cache has changed is a full handshake and a line in the log.
    *stored.last_mut().unwrap() ^= 1;
    plain.put(own, &stored, Duration::from_secs(60)).unwrap();
    assert!(!site.go_on(Tls12, 1).resumed);
    let told = site.servers[1].log_line(1);
    assert!(told.contains("a session that did not open, 1 so far"), "{told}");
    let [one, other] = site.servers.map(Nginx::end);
    assert!(!one.contains(LOG_PREFIX) && other.matches(LOG_PREFIX).count() == 1, "{one}{other}");
}

#[test]
fn with_keys_that_cannot_be_used_no_session_leaves_a_worker() {
    if !can_run_here("with_keys_that_cannot_be_used_no_session_leaves_a_worker") {
        return;
    }
    let settings = format!("distcache.sealkeys = '/no/such/keys'; {LOG_ONCE}");
    let site = Site::with(&[(EXAMPLE_TIMEOUT, &settings)]);
    let id = site.begin(Tls12, 0).session_id;
    assert!(!site.go_on(Tls12, 0).resumed);
    let told = site.servers[0].log_line(1);
    assert!(told.contains("cannot use the keys in /no/such/keys: there is no such file"), "{told}");
    let cache = RawClient::connect(&site.cache.address());
    assert_eq!(cache.ask(&have(1, &id)), status(1, HAVE, 1));
    let [one, _] = site.servers.map(Nginx::end);
    assert_eq!(one.matches(LOG_PREFIX).count(), 1, "{one}");
}

#[test]
fn an_invalid_target_is_logged_and_handshakes_go_on() {
    if !can_run_here("an_invalid_target_is_logged_and_handshakes_go_on") {
        return;
    }
    let misspelt = format!("distcache.target = 'UNIX'; {LOG_ONCE}");
    let site = Site::with(&[(EXAMPLE_TIMEOUT, &misspelt)]);
    site.begin(Tls12, 0);
    for _ in 0..3 {
        assert!(!site.go_on(Tls12, 0).resumed);
    }
    let told = site.servers[0].log_line(1);
    assert!(told.contains("distcache: UNIX: "), "{told}");
    let [one, _] = site.servers.map(Nginx::end);
    assert_eq!(one.matches(LOG_PREFIX).count(), 1, "{one}");
}

/// After a timeout the library pauses, so a worker does not wait in each handshake.
#[test]
fn a_cache_that_hangs_is_not_asked_in_each_handshake() {
    if !can_run_here("a_cache_that_hangs_is_not_asked_in_each_handshake") {
        return;
    }
    // Every failure is logged.
    let site = Site::with(&[(EXAMPLE_TIMEOUT, "distcache.timeout = 50; distcache.log_every = 0")]);
    site.begin(Tls12, 1);
    site.proxies[1].freeze();
    until("a request is not sent", || {
        assert!(!site.go_on(Tls12, 1).resumed);
        site.servers[1].program().err.so_far().contains("left alone").then_some(())
    });
    site.proxies[1].signal(Signal::CONT);
    site.until_shared();
}
