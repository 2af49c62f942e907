//! Debian's httpd with our module, as a process of its own.

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

/// Where the module is, built once in a process.
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

/// What it takes to begin a configuration: modules that are not built in, and where things are.
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
    // Where tests run as root, the children do not.
    format!(
        "ServerRoot {dir}\nServerName localhost\nDefaultRuntimeDir {dir}\nPidFile {dir}/httpd.pid\n\
         ErrorLog {dir}/error.log\nLogLevel warn socache_distcache:debug\n\
         User www-data\nGroup www-data\n\
         {modules}LoadModule socache_distcache_module {module}\n"
    )
}

/// One httpd, in a process group of its own; all of it ends on drop.
#[derive(Debug)]
pub(crate) struct Httpd {
    program: Program,
    log: PathBuf,
}

impl Httpd {
    /// Starts one on a whole configuration, by the words `before` and with a deadline for its cache, and
    /// waits until it takes connections; `None` where somebody else came to have its port.
    pub(crate) fn start(
        dir: &Dir,
        config: &str,
        before: &[String],
        deadline: Duration,
    ) -> Option<Self> {
        let (file, log) = (dir.join("httpd.conf"), dir.join("error.log"));
        fs::write(&file, config).expect("a configuration in our own directory");
        let words: Vec<_> = before.iter().map(String::as_str).chain(["apache2"]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.arg("-DFOREGROUND").arg("-d").arg(dir.path()).arg("-f").arg(&file);
        command.env("DISTCACHE_TIMEOUT_MS", deadline.as_millis().to_string());
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

    /// Has it read its configuration again, and begin new children while the old ones finish.
    pub(crate) fn restart(&self) {
        self.program.signal(Signal::USR1);
    }

    /// All that it has written to its error log.
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
            // The parent sees to its children.
            self.program.signal(Signal::TERM);
            // A second panic would hide the first.
            if !std::thread::panicking() {
                until("httpd has ended", || (!self.program.is_running()).then_some(()));
            }
        }
        // What is left of the group, if anything is: nobody else is in it.
        self.program.kill_group();
        let died = self.log().contains("nasty error detected in the parent process");
        assert!(std::thread::panicking() || !died, "httpd ended badly: {}", self.log());
    }
}

/// How long the module's operations may take: longer than they do on the busiest machine, so what fails,
/// fails for a reason.
pub(crate) const PATIENT: Duration = Duration::from_secs(20);

/// How long they may take where the cache stands still, which each of some handshakes waits for.
pub(crate) const IMPATIENT: Duration = Duration::from_secs(2);

/// A port that is free on both addresses at the moment.
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
