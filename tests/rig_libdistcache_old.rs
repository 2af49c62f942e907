//! The C library with a server that answers at patch level 0, like the original dc_server: it closes the
//! connection on PUT and TAKE.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;

use distcache_core::message::{Add, Status};
use distcache_core::wire::{self, Direction, Envelope, HEADER_LEN, MESSAGE_MAX, Message, Op};
use distcache_testing::c::CBuilder;
use distcache_testing::process::{Dir, Ended, Program};
use distcache_testing::rig::{can_run, installed};

type Store = HashMap<Vec<u8>, Vec<u8>>;

/// Starts a server at `path` that runs until the test process exits. Sessions do not expire.
fn old_server(path: &std::path::Path) {
    let listener = UnixListener::bind(path).expect("a socket of our own");
    let store = Arc::new(Mutex::new(Store::new()));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, store) = (stream.expect("a client"), Arc::clone(&store));
            thread::spawn(move || answer_all(stream, &store));
        }
    });
}

/// Answers requests until the client leaves or sends an operation above level 0.
fn answer_all(mut stream: UnixStream, store: &Mutex<Store>) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        while let Some(message) = Message::measure(&bytes, Direction::Request).expect("lawful") {
            let header = message.header;
            let payload = message.payload(&mut bytes[..message.wire_len]).to_vec();
            bytes.drain(..message.wire_len);
            if header.op.level() > 0 {
                return;
            }
            let answer = answer(&mut store.lock().expect("whole"), header.op, &payload);
            let mut out = vec![0; MESSAGE_MAX];
            out[HEADER_LEN..][..answer.len()].copy_from_slice(&answer);
            let len = wire::frame(&mut out, &Envelope::answer(&header, 0), answer.len());
            if stream.write_all(&out[..len.expect("room")]).is_err() {
                return;
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(len) => bytes.extend_from_slice(&buffer[..len]),
        }
    }
}

fn answer(store: &mut Store, op: Op, payload: &[u8]) -> Vec<u8> {
    let code = |good: bool| vec![u8::from(!good)];
    match op {
        Op::Add => match Add::parse(payload).expect("an ADD") {
            Err(Status(code)) => vec![code],
            Ok(add) if store.contains_key(add.id.bytes()) => vec![Status::ADD_EXISTS.0],
            Ok(add) => code(store.insert(add.id.bytes().to_vec(), add.session.to_vec()).is_none()),
        },
        Op::Get => store.get(payload).cloned().unwrap_or_else(|| code(false)),
        Op::Remove => code(store.remove(payload).is_some()),
        Op::Have => code(store.contains_key(payload)),
        Op::Put | Op::Take | Op::Fetch | Op::Repair | Op::Copy => unreachable!("refused before"),
    }
}

#[test]
fn a_take_removes_a_session_from_a_level_0_server_only_after_the_copy_is_safe() {
    if !can_run("old_server", false, &["cc", "pkg-config", "ar"]) {
        return;
    }
    let dir = Dir::new();
    let prefix = installed(env!("CARGO_MANIFEST_DIR"), env!("CARGO_TARGET_TMPDIR"));
    let builder = CBuilder { prefix, dir: dir.path() };
    let source =
        concat!(env!("CARGO_MANIFEST_DIR"), "/bins/libdistcache/tests/allocation_refused.c");
    let program = builder.make(source, &["distcache"], &["-lpthread"]);
    old_server(&dir.join("old"));
    let ended = Program::run(&program, &[&dir.address("old")]);
    assert_eq!(ended, Ended { code: 0, out: String::new(), err: String::new() });
}
