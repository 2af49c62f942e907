//! The C library in programs that cancel threads during calls, fork at any time, or run out of memory.
//! Each test runs a C program of `bins/libdistcache/tests`.

use std::path::Path;
use std::process::{Command, Stdio};

use distcache_testing::c::CBuilder;
use distcache_testing::process::{Dir, Ended, Program, Signal};
use distcache_testing::rig::{can_run, installed, succeed};
use distcache_testing::start::{self, ANY_PORT};

const DC_SERVER: &str = env!("CARGO_BIN_EXE_dc_server");
const TOOLS: [&str; 3] = ["cc", "pkg-config", "ar"];

fn can(test: &str) -> bool {
    can_run(test, false, &TOOLS)
}

fn prefix() -> &'static Path {
    installed(env!("CARGO_MANIFEST_DIR"), env!("CARGO_TARGET_TMPDIR"))
}

fn compile(dir: &Dir, name: &str) -> String {
    let builder = CBuilder { prefix: prefix(), dir: dir.path() };
    let source = format!("{}/bins/libdistcache/tests/{name}", env!("CARGO_MANIFEST_DIR"));
    builder.make(&source, &["distcache"], &["-lpthread"])
}

fn passes(program: &str, arguments: &[&str]) {
    let ended = Program::run(program, arguments);
    let success = Ended { code: 0, out: String::new(), err: String::new() };
    assert_eq!(ended, success, "{program} {arguments:?}");
}

fn server(listen: &str) -> (Program, String) {
    let program = start::server(DC_SERVER, listen, &[]);
    let address = program.address();
    (program, address)
}

#[test]
fn a_thread_that_is_cancelled_in_a_call_ends_after_it_and_the_process_goes_on() {
    if !can("cancelled") {
        return;
    }
    let dir = Dir::new();
    passes(&compile(&dir, "cancel.c"), &[&dir.text("")]);
}

#[test]
fn a_child_forked_during_the_first_call_of_a_process_can_make_calls() {
    if !can("first_call") {
        return;
    }
    let dir = Dir::new();
    passes(&compile(&dir, "fork_in_first_call.c"), &["1000"]);
}

#[test]
fn a_child_with_the_process_id_of_its_parent_opens_its_own_connection() {
    if !can_run("same_id", true, &[&TOOLS[..], &["unshare"]].concat()) {
        return;
    }
    let dir = Dir::new();
    let program = compile(&dir, "same_process_id.c");
    for how in ["fork", "clone"] {
        let (server, address) = server(ANY_PORT);
        passes("unshare", &["--pid", "--fork", &program, &address, how]);
        let said = server.end(Signal::TERM).err;
        assert!(said.contains("dc_server: 2 clients accepted, 0 refused"), "{how}: {said}");
    }
}

#[test]
fn a_cache_that_hangs_costs_one_deadline_in_each_pause() {
    if !can("paused") {
        return;
    }
    let dir = Dir::new();
    passes(&compile(&dir, "pause.c"), &[&dir.text("")]);
}

#[test]
fn a_setuid_program_ignores_timeout_and_keys_in_its_environment() {
    if !can_run("setuid", true, &TOOLS) {
        return;
    }
    const NOBODY: u32 = 65534;
    let dir = Dir::new();
    let program = compile(&dir, "setuid.c");
    let (server, address) = server(ANY_PORT);
    server.freeze();
    let ended = |timeout: &str, keys: &str, rights: &str| {
        let mut command = Command::new(&program);
        command.args([&*address, rights]).env("DISTCACHE_TIMEOUT_MS", timeout);
        command.env("DISTCACHE_SEALKEYS", keys);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let ended = Program::spawn(command).ended();
        assert_eq!((ended.code, &*ended.err), (0, ""), "{rights}");
    };
    ended("50", "", "caller");
    std::os::unix::fs::chown(&program, Some(NOBODY), None).expect("we are root");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    std::fs::set_permissions(&program, mode).expect("we are root");
    // With these keys the program gets no context.
    ended("86400000", "/no/such/keys", "own");
    server.signal(Signal::CONT);
}

#[test]
fn whichever_allocation_is_refused_a_call_fails_without_effect_or_succeeds() {
    if !can("refused") {
        return;
    }
    let dir = Dir::new();
    let (_server, address) = server(&dir.address("server"));
    let program = compile(&dir, "allocation_refused.c");
    passes(&program, &[&address]);

    // The same with sessions that are sealed.
    let keys = dir.text("keys");
    std::fs::write(&keys, "07".repeat(32)).expect("a file of our own");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&keys, mode).expect("a file of our own");
    let mut command = Command::new(&program);
    succeed(command.arg(&address).env("DISTCACHE_SEALKEYS", &keys));
}

#[test]
fn without_memory_the_first_call_of_a_thread_fails_if_the_library_was_loaded_by_dlopen() {
    if !can("dlopened") {
        return;
    }
    let dir = Dir::new();
    let builder = CBuilder { prefix: prefix(), dir: dir.path() };
    let source =
        concat!(env!("CARGO_MANIFEST_DIR"), "/bins/libdistcache/tests/allocation_refused_dlopen.c");
    let program = builder.build("cc", source, &["-std=gnu99", "-ldl", "-lpthread"]);
    passes(&program, &[&prefix().join("lib/libdistcache.so.1").display().to_string()]);
}
