//! TLS servers on OpenSSL that share sessions by `distcache/dc_openssl.h`, with `openssl s_client`.

use std::path::Path;
use std::process::Command;

use distcache_testing::c::CBuilder;
use distcache_testing::process::{Dir, Program, Signal, until};
use distcache_testing::rig::{can_run, certificate, installed, succeed};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const VERSIONS: [&str; 2] = ["TLSv1.2", "TLSv1.3"];

/// The last one is OpenSSL's header, relative to the directories of PATH.
const TOOLS: [&str; 5] = ["cc", "pkg-config", "ar", "openssl", "../include/openssl/ssl.h"];

fn can(test: &str, more: &[&str]) -> bool {
    can_run(test, false, &[&TOOLS, more].concat())
}

/// A cache with two proxies, and a TLS server for each.
struct Rig {
    dir: Dir,
    cache: Option<Program>,
    cache_address: String,
    _proxies: [Program; 2],
    servers: [TlsServer; 2],
}

struct TlsServer {
    program: Program,
    address: String,
}

impl TlsServer {
    /// Starts a server, by the command `above` if that is not empty.
    fn start(dir: &Dir, above: &[&str], program: &str, cache: &str, more: &[&str]) -> Self {
        let (cert, key) = (dir.text("cert.pem"), dir.text("key.pem"));
        let own = [program, "127.0.0.1:0", &cert, &key, cache];
        let all = [above, &own, more].concat();
        let program = Program::start(all[0], &all[1..]);
        let address = program.address();
        Self { program, address }
    }

    /// Connects, and returns the line that the server sends. Offers the session in the file `with`, and stores
    /// the new session in the file `keep`.
    fn greet(&self, version: &str, with: Option<&str>, keep: Option<&str>) -> String {
        let version = if version == "TLSv1.2" { "-tls1_2" } else { "-tls1_3" };
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", version, "-connect", &self.address]);
        for (option, path) in [("-sess_in", with), ("-sess_out", keep)] {
            command.args(path.map(|path| [option, path]).iter().flatten());
        }
        succeed(&mut command).trim().to_owned()
    }
}

fn cache_at(listen: &str) -> (Program, String) {
    let program = Program::start(DC_SERVER, &["-listen", listen]);
    let address = program.address();
    (program, address)
}

fn prefix() -> &'static Path {
    installed(env!("CARGO_MANIFEST_DIR"), env!("CARGO_TARGET_TMPDIR"))
}

/// The example server, compiled into `dir`, with a certificate beside it.
fn example(dir: &Dir) -> String {
    certificate(dir.path());
    let workshop = CBuilder { prefix: prefix(), dir: dir.path() };
    let source =
        concat!(env!("CARGO_MANIFEST_DIR"), "/bins/libdistcache/examples/openssl_server.c");
    workshop.make(source, &["distcache", "openssl"], &["-lpthread"])
}

impl Rig {
    fn new(more: &[&str]) -> Self {
        let dir = Dir::new();
        let program = example(&dir);
        let (cache, cache_address) = cache_at("IP:127.0.0.1:0");
        let proxies = ["one", "two"].map(|name| {
            let arguments =
                ["-listen", &dir.address(name), "-server", &cache_address, "-retry", "50"];
            let proxy = Program::start(DC_CLIENT, &arguments);
            proxy.address();
            proxy.err.wait_for("connected to ");
            proxy
        });
        let servers = ["one", "two"]
            .map(|name| TlsServer::start(&dir, &[], &program, &dir.address(name), more));
        Self { dir, cache: Some(cache), cache_address, _proxies: proxies, servers }
    }

    /// Begins a session at the first server.
    fn begin(&self, version: &str) -> String {
        let kept = self.dir.text("session");
        let said = self.servers[0].greet(version, None, Some(&kept));
        assert_eq!(said, format!("full {version}"));
        kept
    }

    fn end(self) {
        for server in self.servers {
            let ended = server.program.end(Signal::TERM);
            assert_eq!((ended.code, ended.err.as_str()), (0, ""));
        }
    }
}

#[test]
fn the_header_compiles_as_c_plus_plus() {
    if !can("openssl_header", &["g++"]) {
        return;
    }
    let dir = Dir::new();
    let workshop = CBuilder { prefix: prefix(), dir: dir.path() };
    let source = dir.text("cpp.cc");
    let text = "#include <distcache/dc_openssl.h>\n\
                int main() { return DC_OPENSSL_setup(NULL, NULL, DC_OPENSSL_SINGLE_USE); }\n";
    std::fs::write(&source, text).expect("a file of our own");
    let found = workshop.flags(&["--cflags", "--libs", "distcache", "openssl"]);
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    workshop.build("g++", &source, &[&["-std=c++11"], &found[..]].concat());
}

#[test]
fn a_session_of_one_server_is_resumed_by_both() {
    if !can("openssl", &[]) {
        return;
    }
    let rig = Rig::new(&[]);
    for version in VERSIONS {
        let session = rig.begin(version);
        for server in [1, 0, 1] {
            let said = rig.servers[server].greet(version, Some(&session), None);
            assert_eq!(said, format!("resumed {version}"));
        }
    }
    // In TLS 1.3 each resumption gives the client a new session, which can be resumed, too.
    let (session, next) = (rig.begin("TLSv1.3"), rig.dir.text("next"));
    rig.servers[1].greet("TLSv1.3", Some(&session), Some(&next));
    assert_eq!(rig.servers[0].greet("TLSv1.3", Some(&next), None), "resumed TLSv1.3");
    rig.end();
}

#[test]
fn a_session_for_single_use_is_resumed_only_once_on_any_server() {
    if !can("openssl_once", &[]) {
        return;
    }
    let rig = Rig::new(&["once"]);
    let session = rig.begin("TLSv1.3");
    assert_eq!(rig.servers[1].greet("TLSv1.3", Some(&session), None), "resumed TLSv1.3");
    for server in [0, 1] {
        assert_eq!(rig.servers[server].greet("TLSv1.3", Some(&session), None), "full TLSv1.3");
    }
    rig.end();
}

#[test]
fn while_the_cache_hangs_or_is_down_handshakes_are_full_and_later_resumed() {
    if !can("openssl_away", &[]) {
        return;
    }
    let mut rig = Rig::new(&[]);
    for version in VERSIONS {
        let session = rig.begin(version);
        let full = |rig: &Rig| {
            for server in &rig.servers {
                assert_eq!(server.greet(version, Some(&session), None), format!("full {version}"));
                assert_eq!(server.greet(version, None, None), format!("full {version}"));
            }
        };
        let cache = rig.cache.take().expect("it runs");
        cache.freeze();
        full(&rig);
        assert_eq!(cache.end(Signal::KILL).code, -9);
        full(&rig);
        rig.cache = Some(cache_at(&rig.cache_address).0);
        until("a resumption", || {
            let next = rig.dir.text("next");
            rig.servers[0].greet(version, None, Some(&next));
            let said = rig.servers[1].greet(version, Some(&next), None);
            (said == format!("resumed {version}")).then_some(())
        });
    }
    rig.end();
}

#[test]
fn valgrind_finds_no_error_and_no_leak_in_a_server() {
    if !can("openssl_valgrind", &["valgrind"]) {
        return;
    }
    let dir = Dir::new();
    let program = example(&dir);
    let (_cache, address) = cache_at(&dir.address("cache"));
    let above = ["valgrind", "-q", "--error-exitcode=9", "--leak-check=full"];
    let server = TlsServer::start(&dir, &above, &program, &address, &[]);
    let session = dir.text("session");
    for version in VERSIONS {
        assert_eq!(server.greet(version, None, Some(&session)), format!("full {version}"));
        let said = server.greet(version, Some(&session), None);
        assert_eq!(said, format!("resumed {version}"));
    }
    let ended = server.program.end(Signal::TERM);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
}
