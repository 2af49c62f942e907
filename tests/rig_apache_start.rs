//! httpd as it is installed and started: by the commands that users are given, while the host of its cache
//! is not known, and with caches that are not where it looks.

#[path = "rig_apache/httpd.rs"]
#[allow(dead_code, reason = "the other tests of httpd use all of it")]
mod httpd;
#[path = "rig_apache/site.rs"]
#[allow(dead_code, reason = "the other tests of httpd use all of it")]
mod site;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use distcache_testing::process::{Dir, until};
use distcache_testing::rig::{can_run, certificate, installed, succeed};
use rustls::HandshakeKind::{Full, Resumed};
use rustls::version::TLS12;

use site::{Setup, Site};

const TOOLS: [&str; 5] = ["apache2", "apxs", "cc", "openssl", "pkg-config"];
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");

/// Has the cache stand still, and visits until a question was left out. Without a pause none ever is, and
/// this goes on until a test's patience ends.
fn is_left_alone(setup: &Setup, still: impl Fn(&Site)) {
    let site = Site::set_up(setup);
    let client = site.client(&TLS12);
    site.shake(&client, 0);
    still(&site);
    until("a cache that is left alone", || {
        assert_eq!(site.shake(&client, 0), Full);
        (site.counter(0, "CacheSkipCount") > 0).then_some(())
    });
    assert!(site.counter(0, "CacheErrorCount") > 0, "it was asked before");
}

#[test]
fn a_cache_that_times_out_is_left_alone_however_short_the_deadline_is() {
    if !can_run("httpd with a short deadline", false, &TOOLS) {
        return;
    }
    let setup = Setup { deadline: Duration::from_millis(40), ..Setup::default() };
    is_left_alone(&setup, |site| site.proxies[0].freeze());
}

#[test]
fn a_cache_whose_proxy_waits_for_the_server_and_gives_up_is_left_alone() {
    if !can_run("httpd with a proxy that gives up", false, &TOOLS) {
        return;
    }
    let setup = Setup { proxy: vec!["-reqtimeout", "500"], ..Setup::default() };
    is_left_alone(&setup, |site| site.cache.freeze());
}

/// A command in front of httpd's that gives it a table of hosts of its own, and no name server.
fn with_hosts(dir: &Dir) -> Vec<String> {
    fs::write(dir.join("hosts"), "127.0.0.1 localhost\n").expect("a file of our own");
    let sources = "passwd: files\ngroup: files\nhosts: files\n";
    fs::write(dir.join("nsswitch.conf"), sources).expect("a file of our own");
    let bind = |name: &str| format!("mount --bind {} /etc/{name}", dir.text(name));
    let script = format!("{} && {} && exec \"$@\"", bind("hosts"), bind("nsswitch.conf"));
    ["unshare", "-m", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
}

#[test]
fn a_host_that_is_not_found_lets_httpd_start_and_is_used_once_it_is_found() {
    if !can_run("httpd with an unknown host", true, &[&TOOLS[..], &["unshare"]].concat()) {
        return;
    }
    let dir = Dir::new();
    let more = "SSLSessionCache dc:IP:cachehost:PORT\n".to_owned();
    let site = Site::set_up(&Setup { more, before: with_hosts(&dir), ..Setup::default() });
    let client = site.client(&TLS12);
    assert_eq!(site.shake(&client, 0), Full);
    assert_eq!(site.shake(&client, 0), Full);
    assert!(site.counter(0, "CacheSkipCount") >= 3, "two stores and a fetch");
    assert_eq!(site.counter(0, "CacheErrorCount"), 0);
    let told = |words: &str| site.servers[0].log().matches(words).count();
    assert_eq!(told("cannot find host 'cachehost'"), 1, "{}", site.servers[0].log());

    // Children end while they look.
    site.servers[0].restart();
    until("httpd has restarted", || (told("resuming normal operations") == 2).then_some(()));
    assert_eq!(site.shake(&client, 0), Full);
    assert_eq!(told("cannot find host 'cachehost'"), 2, "{}", site.servers[0].log());

    fs::write(dir.join("hosts"), "127.0.0.1 localhost cachehost\n").expect("a file of our own");
    until("sessions are shared", || {
        let client = site.client(&TLS12);
        assert_eq!(site.shake(&client, 0), Full);
        (site.shake(&client, 1) == Resumed).then_some(())
    });
    assert_eq!(told("the host is found, and"), 1, "{}", site.servers[0].log());
    assert_eq!(told("exit signal"), 0, "{}", site.servers[0].log());
}

#[test]
fn a_socket_that_is_not_there_below_tmp_is_told_with_a_hint() {
    if !can_run("httpd with a cache below /tmp", false, &TOOLS) {
        return;
    }
    for (place, hinted) in [("/tmp", true), ("/var/tmp", true), ("/run", false)] {
        let more = format!("SSLSessionCache dc:UNIX:{place}/dct-{}-nobody/s\n", std::process::id());
        let site = Site::set_up(&Setup { more, ..Setup::default() });
        assert_eq!(site.shake(&site.client(&TLS12), 0), Full);
        let log = site.servers[0].log();
        let line = log.lines().find(|line| line.contains("handshakes go on without the cache"));
        let line = line.unwrap_or_else(|| panic!("no warning in {log}"));
        assert_eq!(line.contains(" (PrivateTmp?) ("), hinted, "{line}");
    }
}

/// Tools that [`by_commands`] needs beyond the usual ones.
const NAMESPACES: [&str; 4] = ["unshare", "ip", "a2enmod", "useradd"];

#[test]
fn the_commands_of_its_readme_give_debians_httpd_the_cache() {
    if !can_run("httpd by its README", true, &[&TOOLS[..], &NAMESPACES].concat()) {
        return;
    }
    let readme = fs::read_to_string(Path::new(ROOT).join("bins/apache/README.md")).expect("it");
    let [build, install, proxy, config] = first_blocks(&readme);
    by_commands(&format!("{build}\n{install}"), &proxy, &config);
}

#[test]
fn the_commands_of_the_page_on_tls_servers_give_debians_httpd_the_cache() {
    if !can_run("httpd by its section", true, &[&TOOLS[..], &NAMESPACES].concat()) {
        return;
    }
    let page = fs::read_to_string(Path::new(ROOT).join("docs/tls-servers.md")).expect("it");
    let section =
        |heading: &str| page.split(&format!("\n## {heading}\n")).nth(1).expect("a section");
    let [proxy] = first_blocks(section("The proxy"));
    let [_packages, module, config] = first_blocks(section("Apache httpd"));
    by_commands(&module, &proxy, &config);
}

/// Runs commands as users are given them, in namespaces with a copy of /etc, a /run and a loopback of their
/// own: those that make and enable the module, those that start the proxy, and lines for httpd.
fn by_commands(module: &str, proxy: &str, config: &str) {
    let dir = Dir::new();
    certificate(dir.path());
    // What is not among them: a cache, a site, and clients of it.
    let script = format!(
        "set -eux
        ip link set lo up
        mount -t tmpfs none /run
        mkdir /run/lock
        cp -a /etc /usr/lib/apache2/modules /var/lib/apache2 {dir}
        mount --bind {dir}/etc /etc
        mount --bind {dir}/modules /usr/lib/apache2/modules
        mount --bind {dir}/apache2 /var/lib/apache2
        mount -t tmpfs none /var/log/apache2
        mkdir -p target/apache
        mount --bind {dir}/out target/apache
        echo 127.0.0.1 cachehost >>/etc/hosts
        sudo() {{ \"$@\"; }}
        {module}
        dc_server -listen IP:9001 -daemon
        {proxy}
        cat >/etc/apache2/conf-available/distcache.conf <<'END'\n{config}\nEND
        a2enconf distcache
        cat >/etc/apache2/sites-available/site.conf <<'END'
        ServerName localhost
        <VirtualHost *:443>
            SSLEngine on
            SSLCertificateFile {dir}/cert.pem
            SSLCertificateKeyFile {dir}/key.pem
        </VirtualHost>\nEND
        a2ensite site
        apache2ctl configtest
        apache2ctl start
        apache2ctl -M | grep socache_distcache
        shake() {{ echo | openssl s_client -connect localhost:443 -tls1_2 \"$@\"; }}
        until shake -sess_out {dir}/session; do :; done
        shake -sess_in {dir}/session
        cat /var/log/apache2/error.log
        kill $(cat /run/distcache/dc_client.pid)
        while [ -e /run/distcache/dc_client.pid ]; do sleep 0.01; done",
        dir = dir.path().display()
    );
    fs::create_dir(dir.join("bin")).expect("a directory of our own");
    fs::create_dir(dir.join("out")).expect("a directory of our own");
    for program in [env!("CARGO_BIN_EXE_dc_client"), env!("CARGO_BIN_EXE_dc_server")] {
        let name = Path::new(program).file_name().expect("a name");
        symlink(program, dir.join("bin").join(name)).expect("a link in our own directory");
    }
    let path = format!("{}:{}", dir.text("bin"), std::env::var("PATH").unwrap_or_default());
    // All of it ends with the shell.
    let mut command = Command::new("timeout");
    command.args(["120", "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]);
    command.arg("--mount-proc");
    command.args(["bash", "-c", &script]).current_dir(ROOT).env("PATH", path);
    command.env("PKG_CONFIG_PATH", installed(ROOT, TMP).join("lib/pkgconfig"));
    let printed = succeed(&mut command);
    for wanted in ["\nNew, TLSv1.2", "\nReused, TLSv1.2", "enable it: a2enmod socache_distcache"] {
        assert!(printed.contains(wanted), "no {wanted} in {printed}");
    }
    assert!(!printed.contains("socache_distcache:warn"), "{printed}");
}

/// The first indented blocks of a text.
fn first_blocks<const N: usize>(text: &str) -> [String; N] {
    let mut blocks = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line.strip_prefix("    ") {
            Some(code) if inside => {
                let block: &mut String = blocks.last_mut().expect("one was begun");
                *block += &format!("\n{code}");
            }
            Some(code) => blocks.push(code.to_owned()),
            None => {}
        }
        inside = line.starts_with("    ");
    }
    blocks.truncate(N);
    blocks.try_into().expect("that many blocks")
}
