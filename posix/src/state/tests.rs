use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use distcache_core::state::Refused;
use distcache_core::{Id, Layout};

use super::*;
use crate::state::writer::{RESULT_LEN, Target, one_state};
use crate::testing::Dir;

fn table() -> Table<Vec<Line>> {
    let layout = Layout::for_sessions(100).unwrap();
    let mut table = Table::new(layout, [7; 16], |lines| vec![[0; 64]; lines]).unwrap();
    for n in 0..100_u8 {
        let id = [n; 20];
        table.add(Instant::ORIGIN, 60_000, Id::new(&id).unwrap(), &[n; 900]).unwrap();
    }
    table
}

/// The bytes of a state of a hundred sessions: header, two chunks, last chunk.
fn bytes() -> Vec<u8> {
    let mut bytes = Vec::new();
    let stamp = Stamp { now: Instant::ORIGIN, unix_ms: 1_800_000_000_000 };
    let written = write(&table(), stamp, None, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    });
    assert_eq!(written.unwrap(), 100);
    bytes
}

/// Lets a writer receive `bytes` and then the end of the socket, and returns what it answered.
fn received(dir: &Dir, bytes: &[u8]) -> Vec<u8> {
    let (mut server, mut writer) = UnixStream::pair().unwrap();
    let target = Target::new(&dir.join("state"));
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            let mut chunk = vec![0; CHUNK_MAX];
            while one_state(&mut writer, &target, &mut chunk).is_ok() {}
        });
        io::Write::write_all(&mut server, bytes).unwrap();
        server.shutdown(std::net::Shutdown::Write).unwrap();
        writing.join().unwrap();
    });
    let mut answers = Vec::new();
    server.read_to_end(&mut answers).unwrap();
    answers
}

fn names(dir: &Dir) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into()).collect()
}

#[test]
fn a_server_that_dies_after_any_byte_leaves_the_old_state() {
    let (dir, bytes) = (Dir::new(), bytes());
    std::fs::write(dir.join("state"), "old").unwrap();
    let edges = [0, 1, 39, 40, 41, 44, 45, 60_000, 65_000, 70_000, 80_000, 92_000];
    let near_the_end = bytes.len() - 30..bytes.len();
    for len in edges.into_iter().chain(near_the_end) {
        assert_eq!(received(&dir, &bytes[..len]), [0; 0], "{len} bytes");
        assert_eq!(std::fs::read(dir.join("state")).unwrap(), b"old");
        assert_eq!(names(&dir), [PathBuf::from("state")], "{len} bytes: nothing is left over");
    }
    assert_eq!(received(&dir, &bytes), [0; RESULT_LEN]);
    assert_eq!(std::fs::read(dir.join("state")).unwrap(), bytes);
    assert_eq!(names(&dir), [PathBuf::from("state")]);
}

#[test]
fn an_abandoned_state_is_followed_by_a_whole_one() {
    let (dir, bytes) = (Dir::new(), bytes());
    let (_, last) = distcache_core::state::follows(*bytes[40..].first_chunk().unwrap()).unwrap();
    assert!(!last);
    let abandoned = [&bytes[..40], &distcache_core::state::ABANDONED, &bytes].concat();
    assert_eq!(received(&dir, &abandoned), [0; RESULT_LEN]);
    assert_eq!(std::fs::read(dir.join("state")).unwrap(), bytes);
}

#[test]
fn what_cannot_be_written_is_answered_with_the_reason_and_the_next_state_is_tried() {
    let (dir, bytes) = (Dir::new(), bytes());
    // A directory in place of the temporary file.
    std::fs::create_dir(dir.join("state.new")).unwrap();
    let answers = received(&dir, &[&bytes[..], &bytes].concat());
    assert_eq!(answers.len(), 2 * RESULT_LEN);
    let error = WriteError::check(*answers.first_chunk().unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("cannot create a file beside it: File exists"), "{error}");
    // A directory in place of the state.
    std::fs::remove_dir(dir.join("state.new")).unwrap();
    std::fs::create_dir_all(dir.join("state/full")).unwrap();
    let answers = received(&dir, &bytes);
    let error = WriteError::check(*answers.first_chunk().unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("cannot put it in its place: "), "{error}");
    assert_eq!(names(&dir), [PathBuf::from("state")]);
}

#[test]
fn what_the_server_cannot_have_sent_ends_the_writer() {
    let (dir, bytes) = (Dir::new(), bytes());
    let absurd = [&bytes[..40], &[0xFE; 4]].concat();
    assert_eq!(received(&dir, &absurd), [0; 0]);
    assert!(names(&dir).is_empty());
}

#[test]
fn a_state_that_is_refused_leaves_the_table_empty() {
    let mut bytes = bytes();
    let at = Stamp { now: Instant::ORIGIN, unix_ms: 1_800_000_001_000 };
    let mut table = table();
    table.clear();
    let loaded = load(&mut &bytes[..], &mut table, at, 30_000, None).unwrap();
    assert_eq!(loaded, Loaded { read: 100, stored: 100 });
    assert_eq!(table.deadline(), Some(Instant::from_millis(30_000)), "no longer than allowed");
    table.clear();
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    let refused = load(&mut &bytes[..], &mut table, at, 30_000, None);
    assert!(matches!(refused, Err(LoadError::Refused(Refused::Damaged))));
    assert!(table.is_empty(), "the chunks before it were right");
}
