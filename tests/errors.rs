//! Texts and sources of errors.

use std::error::Error;
use std::io;

use distcache_core::SetupError;
use distcache_core::client::RequestError;
use distcache_core::id::Id;
use distcache_core::table::{AddError, MemoryTooSmall};
use distcache_core::wire::Malformed;
use distcache_posix::client::Client;
use distcache_posix::net::listener::{Listener, Ownership};
use distcache_posix::process::start::StartError;
use distcache_posix::server::RunError;
use distcache_testing::process::Dir;

#[test]
fn every_error_of_the_core_says_what_is_wrong_in_one_line() {
    let errors: [&dyn Error; 22] = [
        &Malformed::MixedFrames,
        &Malformed::TooManyFrames,
        &Malformed::Class,
        &Malformed::Complete,
        &Malformed::Direction,
        &Malformed::Length,
        &Malformed::Operation,
        &Malformed::Payload,
        &Malformed::Version,
        &RequestError::Busy,
        &RequestError::TooLarge,
        &RequestError::Unsupported,
        &AddError::Exists,
        &AddError::Full,
        &AddError::TooLarge,
        &MemoryTooSmall { needed: 4096 },
        &SetupError::BufferLen,
        &SetupError::Buffers(4),
        &SetupError::Slots,
        &SetupError::NoServers,
        &SetupError::TooManyServers,
        &RunError::Setup(SetupError::TooManyServers),
    ];
    let lines = errors.map(ToString::to_string);
    for (number, line) in lines.iter().enumerate() {
        assert!(line.len() > 10 && !line.contains('\n') && !line.ends_with('.'), "{line}");
        // The last one repeats its source.
        assert!(!lines[..number.min(20)].contains(line), "{line} is there twice");
    }
    assert_eq!(lines[15], "the table needs 4096 bytes of memory");
    assert_eq!(lines[20], "a proxy has at most 32 servers");
    assert_eq!(lines[21], lines[20]);
}

/// Returns the kind of the system's error at the end of the chain of sources.
fn kind(error: &dyn Error) -> Option<io::ErrorKind> {
    let mut last = error.source()?;
    while let Some(next) = last.source() {
        last = next;
    }
    Some(last.downcast_ref::<io::Error>()?.kind())
}

#[test]
fn posix_errors_have_the_system_error_as_their_source() {
    let dir = Dir::new();
    std::fs::write(dir.join("file"), "").expect("a file");
    let under_a_file = dir.join("file").join("socket");
    let address = format!("UNIX:{}", under_a_file.display()).parse().expect("an address");
    let error = Listener::open(&address, &Ownership::default()).expect_err("no directory");
    assert_eq!(kind(&error), Some(io::ErrorKind::NotADirectory), "{error}");
    assert_eq!(kind(&StartError::Listen(error)), Some(io::ErrorKind::NotADirectory));

    let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
    for error in [RunError::Io(denied()), RunError::Memory(9, "-maxmem", denied())] {
        assert_eq!(kind(&error), Some(io::ErrorKind::PermissionDenied), "{error}");
    }
    assert_eq!(kind(&StartError::Signals(denied())), Some(io::ErrorKind::PermissionDenied));

    let client = Client::connect(address).expect("no connection yet");
    let failure = client.get(Id::new(b"id").expect("an id")).expect_err("nothing listens");
    assert_eq!(kind(&failure), Some(io::ErrorKind::NotADirectory), "{failure}");
}
