//! A command line is read to its end, or to an error of one line, whatever the words are.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use distcache_posix::options::{Options, OptionsError};

/// Words are separated by NULs. The first letter of an option decides how its value is read.
pub fn body(data: &[u8]) {
    let words = data.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    let words: Vec<OsString> = words.collect();
    let most = words.len();
    let mut options = Options::new(words);
    for read in 0.. {
        assert!(read <= most, "no word is read twice");
        match next(&mut options) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                let line = error.to_string();
                assert!(!line.is_empty() && !line.contains('\n'), "one line: {line:?}");
                return;
            }
        }
    }
}

fn next(options: &mut Options) -> Result<bool, OptionsError> {
    let Some(name) = options.next()? else { return Ok(false) };
    match name.as_bytes().first() {
        Some(b'a') => drop(options.service_address()?),
        Some(b'b') => assert!((1..=1 << 40).contains(&options.bytes(1..=1 << 40)?)),
        Some(b'c') => assert!((3..=9999).contains(&options.count(3..=9999)?)),
        Some(b'd') => {
            let limits = Duration::from_millis(1)..=Duration::from_secs(60);
            assert!(limits.contains(&options.duration(limits.clone())?));
        }
        Some(b'i') => assert!((3..=99_999).contains(&options.millis(3..=99_999)?)),
        Some(b'l') => options.listen_address()?.streaming().expect("it was checked"),
        Some(b'm') => assert!(options.mode()? <= 0o777),
        Some(b'n') => assert!((3..=99).contains(&options.number(3..=99)?)),
        Some(b'p') => drop(options.path()?),
        Some(b's') => options.server_address()?.connectable().expect("it was checked"),
        Some(b't') => assert!(!options.text()?.is_empty()),
        Some(b'u') => return Err(options.unknown()),
        _ => {}
    }
    Ok(true)
}
