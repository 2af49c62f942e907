//! Debian's httpd with `mod_socache_distcache`, as a process.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use distcache_testing::process::{Dir, Program, Signal, until};
use distcache_testing::rig::{installed, succeed};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");

/// Returns the path of the module, which is built once in each test process.
pub(crate) fn module() -> &'static Path {
    static MODULE: OnceLock<PathBuf> = OnceLock::new();
    MODULE.get_or_init(|| {
        let prefix = installed(ROOT, TMP);
        let out = prefix.join("apache");
        let mut build = Command::new(Path::new(ROOT).join("bins/apache/build"));
        build.arg(&out).env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")).env("CI", "1");
        succeed(&mut build);
        out.join("mod_socache_distcache.so")
    })
}

/// Returns the first lines of a configuration: the modules to load, and the paths.
pub(crate) fn preamble(dir: &Path) -> String {
    static MODULES: OnceLock<String> = OnceLock::new();
    let modules = MODULES.get_or_init(|| {
        let modules = succeed(Command::new("apxs").args(["-q", "LIBEXECDIR"]));
        let names = ["mpm_event", "authz_core", "status", "ssl"];
        let load = |name| format!("LoadModule {name}_module {}/mod_{name}.so\n", modules.trim());
        names.iter().copied().map(load).collect()
    });
    let module = module().display();
    let dir = dir.display();
    // If the tests run as root, the children run as www-data.
    format!(
        "ServerRoot {dir}\nServerName localhost\nDefaultRuntimeDir {dir}\nPidFile {dir}/httpd.pid\n\
         ErrorLog {dir}/error.log\nLogLevel warn socache_distcache:debug\n\
         User www-data\nGroup www-data\n\
         {modules}LoadModule socache_distcache_module {module}\n"
    )
}

/// An httpd in its own process group, which ends on drop.
#[derive(Debug)]
pub(crate) struct Httpd {
    program: Program,
    log: PathBuf,
}

impl Httpd {
    /// Starts httpd by the command `before` with a configuration and a timeout for its cache, and waits until
    /// it listens. Returns `None` if another process has taken its port.
    pub(crate) fn start(
        dir: &Dir,
        config: &str,
        before: &[String],
        timeout: Duration,
    ) -> Option<Self> {
        let (file, log) = (dir.join("httpd.conf"), dir.join("error.log"));
        fs::write(&file, config).expect("a configuration in our own directory");
        let words: Vec<_> = before.iter().map(String::as_str).chain(["apache2"]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.arg("-DFOREGROUND").arg("-d").arg(dir.path()).arg("-f").arg(&file);
        command.env("DISTCACHE_TIMEOUT_MS", timeout.as_millis().to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let mut httpd = Self { program: Program::spawn(command), log };
        let started = until("httpd listens, or says why not", || {
            if httpd.log().contains("resuming normal operations") {
                return Some(true);
            }
            (!httpd.program.is_running()).then_some(false)
        });
        if started {
            return Some(httpd);
        }
        let log = httpd.log() + &httpd.program.err.all();
        assert!(log.contains("could not bind"), "httpd does not start: {log}");
        None
    }

    /// Restarts it gracefully: it reads its configuration again, and replaces its children.
    pub(crate) fn restart(&self) {
        self.program.signal(Signal::USR1);
    }

    /// Returns the pids of its children.
    pub(crate) fn children(&self) -> Vec<u32> {
        self.program.children()
    }

    /// Returns its error log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Httpd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: {}", self.log.display(), self.log());
        }
        if self.program.is_running() {
            // The parent ends its children.
            self.program.signal(Signal::TERM);
            // A second panic would abort the process.
            if !std::thread::panicking() {
                until("httpd has ended", || (!self.program.is_running()).then_some(()));
            }
        }
        // Kills what is left of the process group, if anything.
        self.program.kill_group();
        let died = self.log().contains("nasty error detected in the parent process");
        assert!(std::thread::panicking() || !died, "httpd ended badly: {}", self.log());
    }
}

/// The timeout of the module for tests whose cache answers: long enough for a busy machine.
pub(crate) const LONG_TIMEOUT: Duration = Duration::from_secs(20);

/// The timeout for tests whose cache hangs.
pub(crate) const SHORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns a port that is free on both addresses at the moment.
pub(crate) fn free_port(addresses: &[Ipv4Addr; 2]) -> u16 {
    for _ in 0..100 {
        let one = TcpListener::bind((addresses[0], 0)).expect("a port of our own machine");
        let port = one.local_addr().expect("it has one").port();
        if TcpListener::bind((addresses[1], port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free on both {addresses:?}");
}
