//! Two nginx, each with a `dc_client` of its own, that share their sessions through one `dc_server`.
//!
//! ```text
//!               ┌─ nginx one ── UNIX socket ─ dc_client ─┐
//!  s_client ────┤                                        ├─ dc_server
//!               └─ nginx other ─ UNIX socket ─ dc_client ┘
//! ```
//!
//! Their configuration is the example that users are given, with its places changed.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use distcache_testing::bytes::{ADD, HAVE, add, have, remove, status};
use distcache_testing::handshake::{Client, Handshake, Version};
use distcache_testing::process::{Dir, Program, Signal, until};
use distcache_testing::raw_client::RawClient;
use distcache_testing::rig::{can_run, certificate, installed, succeed};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");

/// The modules that nginx needs, in their order; packages ndk and http-lua of libnginx-mod.
const MODULES: [&str; 2] =
    ["/usr/lib/nginx/modules/ndk_http_module.so", "/usr/lib/nginx/modules/ngx_http_lua_module.so"];

/// What the example says about time, and what a test says whose cache does not stand still: a machine with
/// much else to do may take longer for an answer.
const PATIENT: (&str, &str) = (IMPATIENT, "distcache.timeout = 20000");
const IMPATIENT: &str = "distcache.timeout = 50";
/// What a test says in which it is counted how often the log is told, and only once in an hour that is.
const SELDOM: &str = "distcache.timeout = 20000; distcache.log_every = 3600 * 1000";
/// What is in each line about the cache.
const COMPLAINT: &str = "distcache: ";
/// How long a connection may take while the cache is silent. Two questions of 50 ms are far less, and
/// forever is more.
const SILENT_MAX: Duration = Duration::from_secs(8);

use Version::{Tls12, Tls13};

fn can_run_here(test: &str) -> bool {
    can_run(test, false, &["openssl", "nginx", "cc", MODULES[0], MODULES[1]])
}

/// Both nginx, with what is between them.
struct Site {
    // In the order in which they end.
    servers: [Nginx; 2],
    proxies: [Program; 2],
    cache: Program,
    dir: Dir,
}

impl Site {
    fn new() -> Self {
        Self::with(&[PATIENT])
    }

    /// As the example has it, but for `changes`: what is there once, and what is to be in its place.
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

    /// A connection that begins a session, at nginx 0 or 1.
    fn begin(&self, version: Version, server: usize) -> Handshake {
        let session = self.session();
        let done = Client { version, session: &session }.begin(self.servers[server].place());
        agreed(version, done)
    }

    /// A connection that offers the last session.
    fn go_on(&self, version: Version, server: usize) -> Handshake {
        let session = self.session();
        let done = Client { version, session: &session }.go_on(self.servers[server].place());
        agreed(version, done)
    }

    /// Waits until sessions are shared again: a connection may first have to be found broken.
    fn until_shared(&self) {
        until("sessions are shared again", || {
            self.begin(Tls12, 0);
            self.go_on(Tls12, 1).resumed.then_some(())
        });
    }
}

/// Checks that nginx has seen the same as the client.
fn agreed(version: Version, handshake: Handshake) -> Handshake {
    let reused = if handshake.resumed { "r" } else { "." };
    let line = format!("{} {reused}", version.name());
    assert!(handshake.said.lines().any(|said| said == line), "{line}: {}", handshake.said);
    handshake
}

/// An nginx in the foreground, with a directory for all that it writes.
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
        let text = place_in(dir, name, &socket);
        let text = changes.iter().fold(text, |text, (from, to)| exchange(&text, from, to));
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

    /// Waits for its n-th line about the cache.
    fn complaint(&self, number: usize) -> String {
        self.program().err.wait_for_nth(COMPLAINT, number)
    }

    /// Ends it, and gives what it had to say.
    fn end(mut self) -> String {
        let program = self.program.take().expect("it is there until it is dropped");
        program.end(Signal::TERM).err
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let Some(mut program) = self.program.take() else { return };
        // Killed, it would leave its workers behind; and a test that fails may be the reason to be here.
        if program.is_running() {
            program.signal(Signal::TERM);
            program.err.end();
        }
    }
}

/// The example with the places of a test.
fn place_in(dir: &Dir, name: &str, socket: &str) -> String {
    let example =
        fs::read_to_string(Path::new(ROOT).join("bins/nginx/nginx.conf.example")).unwrap();
    let modules = MODULES.map(|module| format!("load_module {module};\n")).concat();
    let main = format!("{modules}daemon off; error_log stderr error; pid {name}.pid;\n");
    // Where it would write to places of the system's.
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {what};\n"))
        .concat();
    let http = format!("http {{\naccess_log off;\n{temporary}");
    let changes = [
        ("include /etc/nginx/modules-enabled/*.conf;", main),
        // The sockets are in a directory of the user that runs the test.
        ("user www-data;", "user root;".to_owned()),
        ("http {", http),
        ("/usr/local/share/distcache/", format!("{ROOT}/bins/nginx/")),
        ("UNIX:/run/distcache/scache", dir.address(&format!("{name}.cache"))),
        ("cert.pem", dir.text("cert.pem")),
        ("key.pem", dir.text("key.pem")),
        ("listen 443", format!("listen unix:{socket}")),
    ];
    changes.iter().fold(example, |text, (from, to)| exchange(&text, from, to))
}

/// Puts `to` in the place of `from`, which must be there once.
fn exchange(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from} is once in {text}");
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
        // It may be resumed again and again.
        for server in [second, first, second] {
            assert!(site.go_on(Tls12, server).resumed);
        }
    }
    for server in site.servers {
        assert_eq!(server.end(), "", "nothing to complain about");
    }
}

#[test]
fn a_session_is_stored_under_its_id_and_not_under_the_digits_of_it() {
    if !can_run_here("a_session_is_stored_under_its_id_and_not_under_the_digits_of_it") {
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
fn a_session_is_no_longer_there_than_its_lifetime() {
    if !can_run_here("a_session_is_no_longer_there_than_its_lifetime") {
        return;
    }
    let site = Site::with(&[PATIENT, (".store(300 * 1000)", ".store(1)")]);
    let id = site.begin(Tls12, 0).session_id;
    let cache = RawClient::connect(&site.cache.address());
    until("the end of its life", || (cache.ask(&have(1, &id)) == status(1, HAVE, 1)).then_some(()));
    assert!(!site.go_on(Tls12, 1).resumed);
}

/// Debian's module calls neither block in a handshake of TLS 1.3: should that change, this tells.
#[test]
fn tls_1_3_is_full_handshakes_and_asks_no_cache() {
    if !can_run_here("tls_1_3_is_full_handshakes_and_asks_no_cache") {
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
fn with_tickets_and_one_key_for_all_both_versions_are_resumed_without_the_cache() {
    if !can_run_here("with_tickets_and_one_key_for_all_both_versions_are_resumed_without_the_cache")
    {
        return;
    }
    let keys = Dir::new();
    let key = keys.text("tickets.key");
    succeed(Command::new("openssl").args(["rand", "-out", &key, "80"]));
    let tickets = format!("ssl_session_tickets on; ssl_session_ticket_key {key};");
    let site = Site::with(&[PATIENT, ("ssl_session_tickets off;", &tickets)]);
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
fn when_the_cache_is_dead_handshakes_are_full_and_with_a_new_one_shared_again() {
    if !can_run_here("when_the_cache_is_dead_handshakes_are_full_and_with_a_new_one_shared_again") {
        return;
    }
    let mut site = Site::with(&[(IMPATIENT, SELDOM)]);
    let address = site.cache.address();
    site.begin(Tls12, 0);
    assert!(site.go_on(Tls12, 1).resumed);
    site.cache.freeze();
    site.cache.signal(Signal::KILL);
    for server in [1, 0, 1, 0] {
        assert!(!site.go_on(Tls12, server).resumed);
    }
    for server in &site.servers {
        server.complaint(1);
    }
    site.cache = Program::start(DC_SERVER, &["-listen", &address]);
    site.until_shared();
    for server in site.servers {
        let told = server.end();
        let complaints = told.matches(COMPLAINT).count();
        assert_eq!(complaints, 1, "once in a while, not at each handshake: {told}");
    }
}

#[test]
fn when_the_proxies_are_dead_handshakes_are_full() {
    if !can_run_here("when_the_proxies_are_dead_handshakes_are_full") {
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
fn while_cache_or_proxy_stand_still_no_worker_does() {
    if !can_run_here("while_cache_or_proxy_stand_still_no_worker_does") {
        return;
    }
    let site = Site::with(&[]);
    for still in [&site.cache, &site.proxies[1]] {
        site.until_shared();
        still.freeze();
        for _ in 0..5 {
            let handshake = site.go_on(Tls12, 1);
            assert!(!handshake.resumed);
            assert!(handshake.took < SILENT_MAX, "{:?}", handshake.took);
        }
        still.signal(Signal::CONT);
    }
    site.until_shared();
}

#[test]
fn sessions_that_nginx_cannot_read_cost_a_full_handshake_and_no_worker() {
    if !can_run_here("sessions_that_nginx_cannot_read_cost_a_full_handshake_and_no_worker") {
        return;
    }
    // Each is complained about, so that it is known to have been met.
    let site = Site::with(&[(IMPATIENT, "distcache.timeout = 20000; distcache.log_every = 0")]);
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
        let told = site.servers[1].complaint(number + 1);
        assert!(told.contains(complaint), "{number}: {told}");
    }
    site.until_shared();
    let [one, other] = site.servers.map(Nginx::end);
    assert!(!one.contains(COMPLAINT) && !one.contains("exited on signal"), "{one}");
    assert!(
        other.matches(COMPLAINT).count() == 4 && !other.contains("exited on signal"),
        "{other}"
    );
}

#[test]
fn a_misspelt_target_is_told_and_handshakes_go_on() {
    if !can_run_here("a_misspelt_target_is_told_and_handshakes_go_on") {
        return;
    }
    let misspelt = format!("distcache.target = 'UNIX'; {SELDOM}");
    let site = Site::with(&[(IMPATIENT, &misspelt)]);
    site.begin(Tls12, 0);
    for _ in 0..3 {
        assert!(!site.go_on(Tls12, 0).resumed);
    }
    let told = site.servers[0].complaint(1);
    assert!(told.contains("distcache: UNIX: "), "{told}");
    let [one, _] = site.servers.map(Nginx::end);
    assert_eq!(one.matches(COMPLAINT).count(), 1, "{one}");
}

/// After a question that timed out the library leaves the cache alone, so a worker does not wait for each.
#[test]
fn a_cache_that_stands_still_is_not_asked_by_each_handshake() {
    if !can_run_here("a_cache_that_stands_still_is_not_asked_by_each_handshake") {
        return;
    }
    // Each question in vain is a line.
    let site = Site::with(&[(IMPATIENT, "distcache.timeout = 50; distcache.log_every = 0")]);
    site.begin(Tls12, 1);
    site.proxies[1].freeze();
    until("a question that was left out", || {
        assert!(!site.go_on(Tls12, 1).resumed);
        site.servers[1].program().err.so_far().contains("left alone").then_some(())
    });
    site.proxies[1].signal(Signal::CONT);
    site.until_shared();
}
