//! Builds, installs, uses and removes the C library by the documented commands.

use std::path::Path;
use std::process::{Command, Stdio};

use distcache_testing::process::{Dir, Ended, Program};
use distcache_testing::rig::{can_run, installed, succeed};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const TOOLS: [&str; 3] = ["cc", "pkg-config", "ar"];
/// A PATH without cargo.
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

fn can(test: &str) -> bool {
    can_run(test, false, &TOOLS)
}

/// The directory of the library that `installed` has built.
fn built() -> String {
    installed(ROOT, env!("CARGO_TARGET_TMPDIR")).join("built").display().to_string()
}

/// One of the library's scripts, with only these variables in its environment.
fn script(name: &str, dir: &Dir, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(format!("{ROOT}/bins/libdistcache/{name}"));
    command.env_clear().env("PATH", SYSTEM_PATH).env("BUILD", built()).current_dir(dir.path());
    command.envs(settings.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

fn ended(command: Command) -> Ended {
    Program::spawn(command).ended()
}

fn refuses(mut command: Command, arguments: &[&str], why: &str) {
    command.args(arguments);
    let ended = ended(command);
    assert!(ended.code == 1 && ended.out.is_empty() && ended.err.contains(why), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
}

#[test]
fn concurrent_installs_do_not_mix_and_destdir_receives_a_package() {
    if !can("install") {
        return;
    }
    let dir = Dir::new();
    let package = dir.text("package");
    let both = [
        script("install", &dir, &[("PREFIX", "relative/")]),
        script("install", &dir, &[("DESTDIR", &package)]),
    ];
    for ended in both.map(Program::spawn).map(Program::ended) {
        assert_eq!((ended.code, &*ended.err, ended.out.lines().count()), (0, "", 1), "{ended:?}");
    }
    for (place, prefix) in
        [("relative", dir.text("relative")), ("package/usr/local", "/usr/local".into())]
    {
        let file = |name: &str| dir.join(place).join(name);
        let described =
            std::fs::read_to_string(file("lib/pkgconfig/distcache.pc")).expect("a file");
        assert!(described.starts_with(&format!("prefix={prefix}\n")), "{described}");
        for library in ["libdistcache", "libnal"] {
            let soname = std::fs::read_link(file(&format!("lib/{library}.so"))).expect("a link");
            let real = std::fs::read_link(file("lib").join(&soname)).expect("a link");
            assert_eq!(soname.to_str(), Some(&*format!("{library}.so.1")));
            assert_eq!(real.to_str(), Some(&*format!("{library}.so.1.0.0")));
            assert!(file("lib").join(real).is_file());
        }
    }
}

#[test]
fn the_link_command_that_install_prints_works() {
    if !can("closing_line") {
        return;
    }
    let dir = Dir::new();
    let ended = ended(script("install", &dir, &[("PREFIX", &dir.text("here"))]));
    let (_, line) = ended.out.trim().split_once("link with: cc ... ").expect("it says how");
    let source = format!("{ROOT}/bins/libdistcache/tests/targets.c");
    let compile = format!("cc {source} -o {} {line}", dir.text("program"));
    succeed(Command::new("sh").args(["-c", &compile]));
    succeed(Command::new(dir.text("program")).arg(dir.path()));
}

#[test]
fn uninstall_removes_all_installed_files_and_no_others() {
    if !can("uninstall") {
        return;
    }
    let dir = Dir::new();
    let settings = [("DESTDIR", &*dir.text("package")), ("LIBDIR", "/usr/local/lib64")];
    assert_eq!(ended(script("install", &dir, &settings)).code, 0);
    let others = dir.join("package/usr/local/lib64/libother.so.1");
    std::fs::write(&others, "another library").expect("a file of our own");
    let ended = ended(script("uninstall", &dir, &settings));
    assert_eq!((ended.code, &*ended.err, ended.out.lines().count()), (0, "", 1), "{ended:?}");
    let left = succeed(Command::new("find").arg(dir.path()).args(["!", "-type", "d"]));
    assert_eq!(left.trim(), others.display().to_string());
}

#[test]
fn a_refused_install_prints_one_line_that_says_why() {
    if !can("refusals") {
        return;
    }
    let dir = Dir::new();
    refuses(script("install", &dir, &[]), &["/usr"], "did you mean PREFIX=/usr?");
    refuses(script("install", &dir, &[]), &["prefix=/usr"], "known are PREFIX=");
    refuses(script("uninstall", &dir, &[]), &["-h"], "known are PREFIX=");
    let nowhere = [("BUILD", "nowhere")];
    refuses(script("install", &dir, &nowhere), &[], "run bins/libdistcache/build first");
    let space = [("PREFIX", "/a b")];
    refuses(script("install", &dir, &space), &[], "has a space in it");
    std::fs::write(dir.join("file"), "").expect("a file of our own");
    let below_a_file = [("PREFIX", "file")];
    refuses(script("install", &dir, &below_a_file), &[], "cannot write to ");
}

/// The commands below a heading of docs/tls-servers.md.
fn commands(heading: &str) -> Vec<String> {
    let page = Path::new(ROOT).join("docs/tls-servers.md");
    let page = std::fs::read_to_string(page).expect("it is there");
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).expect("a section");
    let section = section.split("\n## ").next().expect("it begins");
    section.lines().filter_map(|line| line.strip_prefix("    ")).map(str::to_owned).collect()
}

#[test]
fn the_commands_of_the_page_on_tls_servers_build_a_server_on_openssl() {
    let tools = ["unshare", "mount", "../include/openssl/ssl.h"];
    if !can_run("commands", true, &[&TOOLS[..], &tools].concat()) {
        return;
    }
    let library = commands("The C library");
    let [_packages, build, install] = &library[..] else { panic!("three commands: {library:?}") };
    assert_eq!(build, "bins/libdistcache/build");
    let [_packages, compile, ..] = &commands("OpenSSL and C")[..] else { panic!("two commands") };
    let dir = Dir::new();
    let source = format!("{ROOT}/bins/libdistcache/examples/openssl_server.c");
    std::fs::copy(source, dir.join("server.c")).expect("the example");
    // A mount namespace: the directories of the machine stay as they are.
    let script = format!(
        "set -eu
         mount -t tmpfs none /usr/local
         cp -a /etc {etc}
         mount --bind {etc} /etc
         mount -t tmpfs none /var/cache/ldconfig
         (cd {ROOT}; {install})
         cd {home}
         {compile}
         ./a.out 2>&1 | head -n 1
         {ROOT}/bins/libdistcache/uninstall
         ! ./a.out 2>/dev/null",
        etc = dir.text("etc"),
        home = dir.text(""),
    );
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "bash", "-c", &script]);
    shell.env_clear().env("PATH", SYSTEM_PATH).env("BUILD", built());
    let said = succeed(&mut shell);
    let said: Vec<_> = said.lines().collect();
    let [installed, usage, removed] = &said[..] else { panic!("three lines: {said:?}") };
    let link = "link with: cc ... $(pkg-config --cflags --libs distcache)";
    assert!(installed.ends_with(link), "{installed}");
    assert!(usage.contains("usage: "), "{usage}");
    assert_eq!(*removed, "removed libdistcache from /usr/local");
}
