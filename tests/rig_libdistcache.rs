//! The C library, used by the C programs in `bins/libdistcache/tests`. Each exits with 0 if its checks
//! hold, and otherwise prints the check that failed.

use std::io::{PipeWriter, Write, pipe};
use std::path::Path;
use std::process::Command;

use distcache_testing::c::CBuilder;
use distcache_testing::process::{Dir, Ended, Program, Signal, is_root};
use distcache_testing::rig::{can_run, installed, succeed};
use distcache_testing::secret::Secret;
use distcache_testing::start::{self, ANY_PORT};

const DC_CLIENT: &str = env!("CARGO_BIN_EXE_dc_client");
const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const TOOLS: [&str; 3] = ["cc", "pkg-config", "ar"];

/// No flags; PERSISTENT; PERSISTENT, PIDCHECK, RETRY and LATE.
const FLAGS: [&str; 3] = ["0", "1", "15"];

fn can(test: &str, more: &[&str]) -> bool {
    can_run(test, false, &[&TOOLS, more].concat())
}

fn prefix() -> &'static Path {
    installed(env!("CARGO_MANIFEST_DIR"), env!("CARGO_TARGET_TMPDIR"))
}

fn source(name: &str) -> String {
    format!("{}/bins/libdistcache/tests/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Compiles a test program, and links it as programs for the original library are linked.
fn compile(dir: &Dir, name: &str) -> String {
    let builder = CBuilder { prefix: prefix(), dir: dir.path() };
    builder.make(&source(name), &["distcache"], &["-Wl,--no-as-needed", "-lnal", "-lpthread"])
}

fn passes(program: &str, arguments: &[&str]) {
    let ended = Program::run(program, arguments);
    let success = Ended { code: 0, out: String::new(), err: String::new() };
    assert_eq!(ended, success, "{program} {arguments:?}");
}

/// Starts a cache. Returns it with its address.
fn server(listen: &str) -> (Program, String) {
    let program = start::server(DC_SERVER, listen, &[]);
    let address = program.address();
    (program, address)
}

/// Starts a proxy that is connected to its server. Returns it with its address.
fn proxy(listen: &str, server: &str) -> (Program, String) {
    let program = start::connected(DC_CLIENT, listen, server, &["-retry", "50"]);
    let address = program.address();
    (program, address)
}

/// Starts a program that reads lines from its stdin.
fn waiting(program: &str, arguments: &[&str], timeout_ms: Option<&str>) -> (Program, PipeWriter) {
    let (reader, writer) = pipe().expect("a pipe");
    let mut command = Command::new(program);
    command.args(arguments).stdin(reader).stdout(std::process::Stdio::piped());
    match timeout_ms {
        Some(timeout) => command.env("DISTCACHE_TIMEOUT_MS", timeout),
        None => command.env_remove("DISTCACHE_TIMEOUT_MS"),
    };
    (Program::spawn(command), writer)
}

#[test]
fn every_function_does_what_its_header_says_with_a_server_and_through_a_proxy() {
    if !can("every_function", &[]) {
        return;
    }
    let dir = Dir::new();
    let api = compile(&dir, "api.c");
    for listen in [ANY_PORT, &dir.address("server")] {
        let (_server, direct) = server(listen);
        let (_proxy, through) = proxy(&dir.address("proxy"), &direct);
        let (_tcp_proxy, tcp_through) = proxy(ANY_PORT, &direct);
        for target in [&direct, &through, &tcp_through] {
            FLAGS.iter().for_each(|flags| passes(&api, &[target, flags]));
        }
    }
}

#[test]
fn a_program_with_the_declarations_of_the_original_header_links_and_works() {
    if !can("declarations", &[]) {
        return;
    }
    let dir = Dir::new();
    let (_server, address) = server(ANY_PORT);
    passes(&compile(&dir, "original_declarations.c"), &[&address]);
}

#[test]
fn the_library_links_statically() {
    if !can("static", &[]) {
        return;
    }
    let dir = Dir::new();
    let builder = CBuilder { prefix: prefix(), dir: dir.path() };
    let archive = prefix().join("lib/libdistcache.a").display().to_string();
    let nal = prefix().join("lib/libnal.a").display().to_string();
    let private = builder.flags(&["--static", "--libs-only-l", "distcache"]);
    let private = private.iter().map(String::as_str).filter(|flag| *flag != "-ldistcache");
    let arguments: Vec<_> = [archive.as_str(), nal.as_str()].into_iter().chain(private).collect();
    let program = builder.build("cc", &source("original_declarations.c"), &arguments);
    let (_server, address) = server(ANY_PORT);
    passes(&program, &[&address]);
}

#[test]
fn the_headers_are_c89_and_c_plus_plus() {
    if !can("headers", &["g++"]) {
        return;
    }
    let dir = Dir::new();
    let builder = CBuilder { prefix: prefix(), dir: dir.path() };
    let found = builder.flags(&["--cflags", "--libs", "distcache"]);
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    let text = "#include <distcache/dc_client.h>\n\
                #if DISTCACHE_CLIENT_API < 0x0001 || DISTCACHE_CLIENT_BINARY < 0x0001\n\
                #error\n\
                #endif\n\
                int main(void) { DC_CTX *none = 0; DC_CTX_free(none); return DC_CTX_errstr() == 0; }\n";
    for (compiler, file, standard) in [("cc", "c.c", "-std=c89"), ("g++", "cpp.cc", "-std=c++11")] {
        let path = dir.text(file);
        std::fs::write(&path, text).expect("a file of our own");
        builder.build(compiler, &path, &[&[standard], &found[..]].concat());
    }
}

#[test]
fn the_library_exports_only_the_documented_functions() {
    if !can("symbols", &["nm"]) {
        return;
    }
    let library = prefix().join("lib/libdistcache.so.1");
    let listed = succeed(Command::new("nm").args(["-D", "--defined-only"]).arg(library));
    let mut names: Vec<_> = listed.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    names.sort_unstable();
    let header = prefix().join("include/distcache/dc_client.h");
    let header = std::fs::read_to_string(header).expect("our header");
    let declared: Vec<_> =
        names.iter().filter(|name| header.contains(&format!("{name}("))).collect();
    assert_eq!((names.len(), declared.len()), (14, 14), "{names:?}");
}

#[test]
fn an_invalid_target_makes_no_context_and_a_broken_one_raises_no_signal() {
    if !can("targets", &[]) {
        return;
    }
    let dir = Dir::new();
    passes(&compile(&dir, "targets.c"), &[&dir.text("")]);
}

#[test]
fn without_memory_every_call_fails_and_later_calls_succeed() {
    if !can("memory", &[]) {
        return;
    }
    let dir = Dir::new();
    let memory = compile(&dir, "out_of_memory.c");
    let (_server, address) = server(&dir.address("server"));
    FLAGS.iter().for_each(|flags| passes(&memory, &[&address, flags]));
}

#[test]
fn sixteen_threads_on_one_context_each_get_their_own_answers() {
    if !can("threads", &[]) {
        return;
    }
    let dir = Dir::new();
    let threads = compile(&dir, "threads.c");
    let (_server, direct) = server(ANY_PORT);
    let (_proxy, through) = proxy(&dir.address("proxy"), &direct);
    for flags in FLAGS {
        passes(&threads, &[&direct, flags]);
        passes(&threads, &[&through, flags]);
    }
}

#[test]
fn parent_and_child_use_separate_connections_even_without_pidcheck() {
    if !can("forked", &[]) {
        return;
    }
    let dir = Dir::new();
    let fork = compile(&dir, "fork.c");
    for flags in ["1", "3"] {
        let (server, address) = server(ANY_PORT);
        passes(&fork, &[&address, flags]);
        // One connection each: the child's exit did not break the parent's.
        let said = server.end(Signal::TERM).err;
        assert!(said.contains("dc_server: 2 clients accepted, 0 refused"), "{said}");
    }
}

#[test]
fn sealed_sessions_are_read_only_with_a_key_and_only_under_their_own_id() {
    if !can("sealed", &[]) {
        return;
    }
    let dir = Dir::new();
    let sealed = compile(&dir, "sealed.c");
    let (_server, direct) = server(&dir.address("server"));
    let (_proxy, through) = proxy(&dir.address("proxy"), &direct);
    let [one, two, bad] = [
        ("one", format!("{}\n", "01".repeat(32))),
        ("two", format!("# two keys\n{}\n{}\n", "02".repeat(32), "01".repeat(32))),
        ("bad", "01\n".to_owned()),
    ]
    .map(|(name, text)| key_file(&dir, name, &text));
    for (target, flags) in [(&direct, "0"), (&direct, "9"), (&through, "15")] {
        passes(&sealed, &["functions", target, flags, &one, &two, &bad]);
        passes(&sealed, &["fork", target, flags, &one]);
    }
}

#[test]
fn the_environment_names_a_key_file() {
    if !can("sealed by environment", &[]) {
        return;
    }
    let dir = Dir::new();
    let sealed = compile(&dir, "sealed.c");
    let (_server, address) = server(&dir.address("server"));
    let one = key_file(&dir, "one", &format!("{}\n", "01".repeat(32)));
    let bad = key_file(&dir, "bad", "01\n");
    for (file, mixed, expected) in [
        ("", "1", "plain"),
        (&one, "0", "sealed"),
        (&one, "1", "mixed"),
        (&bad, "0", "line 1 is not a key"),
        (&dir.text("missing"), "0", "no such file"),
    ] {
        let mut command = Command::new(&sealed);
        command.args(["environment", &address, expected, &one]);
        command.env("DISTCACHE_SEALKEYS", file).env("DISTCACHE_SEALKEYS_MIXED", mixed);
        succeed(&mut command);
    }
}

#[test]
fn the_library_opens_what_other_implementations_sealed() {
    if !can("vectors", &[]) {
        return;
    }
    let dir = Dir::new();
    let sealed = compile(&dir, "sealed.c");
    let (_server, address) = server(&dir.address("server"));
    let plain = distcache_posix::Client::connect(address.as_str()).expect("an address");
    let bytes = |digits: &str| -> Vec<u8> {
        let pairs =
            digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
        pairs.map(|pair| u8::from_str_radix(pair, 16).expect("a byte")).collect()
    };
    let mut opened = 0;
    for line in include_str!("vectors/seal.tsv").lines().filter(|line| line.starts_with("opened")) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [_, keys, _, id, envelope, session] = fields[..] else { panic!("{line}") };
        // Those that do not expire.
        if &envelope[8..16] != "ffffffff" {
            continue;
        }
        opened += 1;
        let (name, text) = (format!("keys-{opened}"), keys.replace(',', "\n"));
        let id_bytes = bytes(id);
        let own = distcache_posix::Id::new(&id_bytes).expect("an id");
        plain.put(own, &bytes(envelope), std::time::Duration::from_secs(60)).expect("it is stored");
        passes(&sealed, &["vector", &address, &key_file(&dir, &name, &text), id, session]);
    }
    assert!(opened >= 9);
}

/// Writes a file that only its owner may read. Returns its path.
fn key_file(dir: &Dir, name: &str, text: &str) -> String {
    use std::os::unix::fs::OpenOptionsExt;
    let path = dir.text(name);
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a file of our own");
    path
}

#[test]
fn a_child_forked_during_calls_and_its_parent_each_get_their_own_answers() {
    if !can("fork", &[]) {
        return;
    }
    let dir = Dir::new();
    let threads = compile(&dir, "threads.c");
    let (_server, address) = server(&dir.address("server"));
    for flags in FLAGS {
        passes(&threads, &[&address, flags, "fork"]);
    }
}

#[test]
fn while_the_server_is_stopped_every_call_ends_by_its_deadline_and_later_calls_succeed() {
    if !can("stopped", &[]) {
        return;
    }
    let dir = Dir::new();
    let server_lost = compile(&dir, "server_lost.c");
    // The defaults are 250 ms for UNIX sockets and 1000 ms for TCP.
    for (listen, timeout, wait) in
        [(&*dir.address("server"), Some("600"), "600"), (ANY_PORT, None, "1000")]
    {
        for flags in ["0", "15"] {
            let (server, address) = server(listen);
            let (program, mut line) = waiting(&server_lost, &[&address, flags, wait], timeout);
            program.out.wait_for("ready");
            server.freeze();
            line.write_all(b"go\n").expect("it reads");
            program.out.wait_for("done");
            server.signal(Signal::CONT);
            line.write_all(b"again\n").expect("it reads");
            program.out.wait_for("well");
            drop(line);
            let ended = program.ended();
            assert_eq!((ended.code, ended.err.as_str()), (0, ""));
        }
    }
}

#[test]
fn after_the_server_is_killed_calls_fail_and_a_new_server_is_found() {
    if !can("killed", &[]) {
        return;
    }
    let dir = Dir::new();
    let server_lost = compile(&dir, "server_lost.c");
    for flags in FLAGS {
        let (first, address) = server(&dir.address("server"));
        let (program, mut line) = waiting(&server_lost, &[&address, flags, "0"], None);
        program.out.wait_for("ready");
        assert_eq!(first.end(Signal::KILL).code, -9);
        line.write_all(b"go\n").expect("it reads");
        program.out.wait_for("done");
        let (_second, address_again) = server(&address);
        assert_eq!(address, address_again);
        line.write_all(b"again\n").expect("it reads");
        program.out.wait_for("well");
        drop(line);
        let ended = program.ended();
        assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    }
}

#[test]
fn when_two_processes_take_the_same_sessions_each_session_goes_to_one_of_them() {
    if !can("takers", &[]) {
        return;
    }
    const COUNT: &str = "500";
    let dir = Dir::new();
    let take = compile(&dir, "take.c");
    let (_server, address) = server(ANY_PORT);
    let (_one, first) = proxy(&dir.address("one"), &address);
    let (_two, second) = proxy(&dir.address("two"), &address);
    passes(&take, &[&first, "store", COUNT]);
    let takers = [&first, &second].map(|target| Program::start(&take, &[target, "take", COUNT]));
    let ended = takers.map(Program::ended);
    assert!(ended.iter().all(|ended| ended.code == 0 && ended.err.is_empty()), "{ended:?}");
    let mut taken: Vec<u32> = ended
        .iter()
        .flat_map(|ended| ended.out.lines().map(|line| line.parse().expect("a number")))
        .collect();
    taken.sort_unstable();
    assert_eq!(taken, (0..500).collect::<Vec<_>>());
}

#[test]
fn the_library_keeps_no_copy_of_a_session_except_for_a_reget() {
    if !(can("secrets", &[]) && is_root()) {
        return;
    }
    let dir = Dir::new();
    let secrets = compile(&dir, "secrets.c");
    // The last has no NO_REGET.
    for (flags, keeps) in [("16", false), ("31", false), ("15", true)] {
        let (server, address) = server(&dir.address("server"));
        let (program, mut line) = waiting(&secrets, &[&address, flags], Some("20000"));
        let mut lines = 0;
        let mut ask = |letter: &[u8], secret: &Secret, answer: &str| {
            line.write_all(letter).expect("it reads");
            if matches!(letter, b"p" | b"a") {
                line.write_all(&secret.reveal()).expect("it reads");
            }
            lines += 1;
            let said = program.out.find("an answer", |text| {
                let said: Vec<&str> = text.lines().collect();
                (said.len() >= lines && text.ends_with('\n')).then(|| said[lines - 1].to_owned())
            });
            assert_eq!(said, answer, "{letter:?}");
        };
        let secret = Secret::new();
        let none =
            |when: &str| secret.until_none_in(program.pid(), &format!("flags {flags}, {when}"));
        ask(b"p", &secret, "done");
        none("after put");
        ask(b"a", &secret, "failed");
        none("after an add of a stored id");
        for fetch in [b"g", b"s"] {
            ask(fetch, &secret, "done");
            if keeps {
                secret.until_one_in(program.pid(), "for a reget");
            } else {
                none("after get");
            }
        }
        ask(b"h", &secret, "done");
        none("after the next operation");
        ask(b"t", &secret, "done");
        ask(b"r", &secret, "failed");
        none("after take and remove");
        server.freeze();
        server.signal(Signal::KILL);
        ask(b"p", &secret, "failed");
        none("after the loss of the server");
        drop(line);
        assert_eq!(program.ended().code, 0);
    }
}

#[test]
fn valgrind_finds_no_error_and_no_leak() {
    if !can("valgrind", &["valgrind"]) {
        return;
    }
    let dir = Dir::new();
    let (_server, address) = server(&dir.address("server"));
    let (api, targets, threads) =
        (compile(&dir, "api.c"), compile(&dir, "targets.c"), compile(&dir, "threads.c"));
    let valgrind = ["-q", "--error-exitcode=9", "--leak-check=full", "--num-callers=30"];
    let whole = dir.text("");
    for program in [
        &[&*api, &address, "0"][..],
        &[&api, &address, "15"],
        &[&targets, &whole],
        // Not with a fork: the child leaks what the threads that it lacks had allocated.
        &[&threads, &address, "15"],
    ] {
        passes("valgrind", &[&valgrind, program].concat());
    }
}
