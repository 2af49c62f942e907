//! The steps on a socket's way to its path.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use super::*;
use crate::net::address::Address;
use crate::net::listener::Listener;
use crate::net::stream::Stream;
use crate::testing::{Dir, is_root};

#[test]
#[cfg(target_os = "linux")]
fn a_directory_that_belongs_to_another_is_not_used_to_stage_in() {
    if !is_root() {
        return;
    }
    let dir = Dir::new();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let path = dir.join("s");
    let staged = std::thread::scope(|scope| {
        let as_another = || {
            crate::sys::set_file_owner(65_534);
            StagingDir::new(&path).map(drop)
        };
        scope.spawn(as_another).join().unwrap()
    });
    assert_eq!(staged.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert!(StagingDir::new(&path).is_ok());
}

#[test]
fn a_directory_to_stage_in_is_new_and_gone_afterwards() {
    let dir = Dir::new();
    let name = |attempt| format!(".dc{}.{attempt}", std::process::id());
    std::fs::create_dir(dir.join(&name(0))).unwrap();
    let staging = StagingDir::new(&dir.join("s")).unwrap();
    let mut names = dir.names();
    names.sort();
    assert_eq!(names, [name(0), name(1)]);
    let _fd = staging.bind().unwrap();
    drop(staging);
    assert_eq!(dir.names(), [name(0)], "that one is somebody else's");
}

#[test]
fn only_a_stale_socket_is_replaced() {
    let dir = Dir::new();
    let path = dir.join("s");
    let staging = StagingDir::new(&path).unwrap();
    let _fd = staging.bind().unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let theirs = file_of(&fs::lstat(&path).unwrap());
    assert!(matches!(staging.place(&path, false), Err(ListenErrorKind::InUse)));
    assert_eq!(file_of(&fs::lstat(&path).unwrap()), theirs);
    drop(listener);
    let ours = staging.place(&path, true).unwrap();
    assert_eq!(file_of(&fs::lstat(&path).unwrap()), ours);
    assert_ne!(ours, theirs);
}

#[test]
fn a_burst_of_clients_finds_room_before_any_is_accepted() {
    let dir = Dir::new();
    let mut places = vec![format!("UNIX:{}", dir.join("s").display())];
    if cfg!(target_os = "linux") {
        places.push(format!("UNIX:@{}", dir.path().display()));
    }
    for place in places {
        let address: Address = place.parse().unwrap();
        let _listener = Listener::open(&address, &Ownership::default()).unwrap();
        let target = address.resolve().unwrap()[0];
        let waiting: Result<Vec<_>, _> = (0..100).map(|_| Stream::connect(&target)).collect();
        assert!(waiting.is_ok(), "{place}: {waiting:?}");
    }
}
