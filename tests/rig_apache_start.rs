//! Installs and starts httpd by the documented commands, while the host of its cache is unknown, and with a
//! cache that is not at its address.

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

/// Makes the cache hang by `hang`, and connects until a request is not sent. Without a pause every request is
/// sent, and the test times out.
fn check_pause(setup: &Setup, hang: impl Fn(&Site)) {
    let site = Site::set_up(setup);
    let client = site.client(&TLS12);
    site.handshake(&client, 0);
    hang(&site);
    until("a request is not sent", || {
        assert_eq!(site.handshake(&client, 0), Full);
        (site.counter(0, "CacheSkipCount") > 0).then_some(())
    });
    assert!(site.counter(0, "CacheErrorCount") > 0, "it was asked before");
}

#[test]
fn after_a_timeout_the_cache_is_not_asked_however_short_the_timeout_is() {
    if !can_run("httpd with a short deadline", false, &TOOLS) {
        return;
    }
    let setup = Setup { timeout: Duration::from_millis(40), ..Setup::default() };
    check_pause(&setup, |site| site.proxies[0].freeze());
}

#[test]
fn after_the_proxy_has_waited_in_vain_for_the_server_the_cache_is_not_asked() {
    if !can_run("httpd with a proxy that gives up", false, &TOOLS) {
        return;
    }
    let setup = Setup { proxy: vec!["-reqtimeout", "500"], ..Setup::default() };
    check_pause(&setup, |site| site.cache.freeze());
}

/// Returns a command that starts httpd with its own table of hosts, and without a name server.
fn with_hosts(dir: &Dir) -> Vec<String> {
    fs::write(dir.join("hosts"), "127.0.0.1 localhost\n").expect("a file of our own");
    let sources = "passwd: files\ngroup: files\nhosts: files\n";
    fs::write(dir.join("nsswitch.conf"), sources).expect("a file of our own");
    let bind = |name: &str| format!("mount --bind {} /etc/{name}", dir.text(name));
    let script = format!("{} && {} && exec \"$@\"", bind("hosts"), bind("nsswitch.conf"));
    ["unshare", "-m", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
}

#[test]
fn httpd_starts_without_the_host_of_its_cache_and_uses_it_when_found() {
    if !can_run("httpd with an unknown host", true, &[&TOOLS[..], &["unshare"]].concat()) {
        return;
    }
    let dir = Dir::new();
    let more = "SSLSessionCache dc:IP:cachehost:PORT\n".to_owned();
    let site = Site::set_up(&Setup { more, before: with_hosts(&dir), ..Setup::default() });
    let client = site.client(&TLS12);
    assert_eq!(site.handshake(&client, 0), Full);
    assert_eq!(site.handshake(&client, 0), Full);
    assert!(site.counter(0, "CacheSkipCount") >= 3, "two stores and a fetch");
    assert_eq!(site.counter(0, "CacheErrorCount"), 0);
    let told = |words: &str| site.servers[0].log().matches(words).count();
    assert_eq!(told("cannot find host 'cachehost'"), 1, "{}", site.servers[0].log());

    // Children must be able to exit while they look the host up.
    site.servers[0].restart();
    until("httpd has restarted", || (told("resuming normal operations") == 2).then_some(()));
    assert_eq!(site.handshake(&client, 0), Full);
    assert_eq!(told("cannot find host 'cachehost'"), 2, "{}", site.servers[0].log());

    fs::write(dir.join("hosts"), "127.0.0.1 localhost cachehost\n").expect("a file of our own");
    until("sessions are shared", || {
        let client = site.client(&TLS12);
        assert_eq!(site.handshake(&client, 0), Full);
        (site.handshake(&client, 1) == Resumed).then_some(())
    });
    assert_eq!(told("the host is found, and"), 1, "{}", site.servers[0].log());
    assert_eq!(told("exit signal"), 0, "{}", site.servers[0].log());
}

#[test]
fn a_missing_socket_below_tmp_is_logged_with_a_hint() {
    if !can_run("httpd with a cache below /tmp", false, &TOOLS) {
        return;
    }
    for (place, hinted) in [("/tmp", true), ("/var/tmp", true), ("/run", false)] {
        let more = format!("SSLSessionCache dc:UNIX:{place}/dct-{}-nobody/s\n", std::process::id());
        let site = Site::set_up(&Setup { more, ..Setup::default() });
        assert_eq!(site.handshake(&site.client(&TLS12), 0), Full);
        let log = site.servers[0].log();
        let line = log.lines().find(|line| line.contains("handshakes go on without the cache"));
        let line = line.unwrap_or_else(|| panic!("no warning in {log}"));
        assert_eq!(line.contains(" (PrivateTmp?) ("), hinted, "{line}");
    }
}

/// Tools that [`by_commands`] needs beyond the usual ones.
const NAMESPACES: [&str; 4] = ["unshare", "ip", "a2enmod", "useradd"];

#[test]
fn the_commands_of_the_readme_set_up_debians_httpd() {
    if !can_run("httpd by its README", true, &[&TOOLS[..], &NAMESPACES].concat()) {
        return;
    }
    let readme = fs::read_to_string(Path::new(ROOT).join("bins/apache/README.md")).expect("it");
    let [build, install, proxy, config] = first_blocks(&readme);
    by_commands(&format!("{build}\n{install}"), &proxy, &config);
}

#[test]
fn the_commands_of_the_page_on_tls_servers_set_up_debians_httpd() {
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

/// Runs the documented commands in namespaces with a copy of /etc and with their own /run and loopback:
/// those that build and enable the module, those that start the proxy, and the configuration of httpd.
fn by_commands(module: &str, proxy: &str, config: &str) {
    let dir = Dir::new();
    certificate(dir.path());
    // The script adds a cache, a site, and clients.
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
    // All processes end with the shell.
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

/// Returns the first N indented blocks of a text.
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
