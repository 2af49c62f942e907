use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use distcache_core::id::Id;
use distcache_core::seal::Unopened;

use super::*;

/// A directory of its own for each test, removed at its end.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let mut name = [0; 8];
        sys::random(&mut name).unwrap();
        let path = std::env::temp_dir().join(format!("dc-keys-{:x}", u64::from_ne_bytes(name)));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Exchanges the key file in one step, as an administrator should.
    pub(crate) fn file(&self, text: &str) -> PathBuf {
        let (fresh, path) = (self.0.join("fresh"), self.0.join("keys"));
        fs::write(&fresh, text).unwrap();
        fs::set_permissions(&fresh, Permissions::from_mode(0o600)).unwrap();
        fs::rename(&fresh, &path).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// The line of a key of which every byte is `byte`.
pub(crate) fn line(byte: u8) -> String {
    format!("{byte:02x}").repeat(KEY_LEN) + "\n"
}

fn kind(text: &str) -> String {
    format!("{:?}", parse(text.as_bytes()).expect_err("it is refused"))
}

#[test]
fn a_file_of_keys_comments_and_space_gives_its_keys_newest_first() {
    let text =
        format!("# newest first\n\n  {}\t\r\n#{}{}", line(2).trim(), line(9), line(1).trim());
    let keys = parse(text.as_bytes()).unwrap();
    assert_eq!(keys.len(), 2);
    let (id, mut out) = (Id::new(b"id").unwrap(), [0; 50]);
    Keys::new(&[[2; 32]]).unwrap().seal([0; 24], 9, id, b"ab", &mut out).unwrap();
    let mut own = [0; 50];
    keys.seal([0; 24], 9, id, b"ab", &mut own).unwrap();
    assert_eq!(own, out, "the first one seals");
    Keys::new(&[[1; 32]]).unwrap().seal([0; 24], 9, id, b"ab", &mut out).unwrap();
    assert_eq!(keys.open(9, id, &mut out).unwrap(), b"ab", "the second one opens");
    Keys::new(&[[9; 32]]).unwrap().seal([0; 24], 9, id, b"ab", &mut out).unwrap();
    assert_eq!(keys.open(9, id, &mut out), Err(Unopened::UnknownKey), "a comment is no key");
}

#[test]
fn what_is_not_a_list_of_keys_is_refused_by_its_line() {
    assert_eq!(kind(""), "Empty");
    assert_eq!(kind("\n# nothing\n"), "Empty");
    assert_eq!(kind(&format!("{}{}", line(1), &line(2)[1..])), "Malformed(2)");
    assert_eq!(kind(&format!("{}x", line(1).trim())), "Malformed(1)");
    assert_eq!(kind(&format!("key {}", line(1))), "Malformed(1)");
    assert_eq!(kind("\0"), "Malformed(1)");
    assert_eq!(kind(&[line(1), line(2), line(1).to_uppercase()].concat()), "Repeated(3)");
    assert_eq!(kind(&(1..=9).map(line).collect::<String>()), "TooMany(9)");
    assert!(parse((1..=8).map(line).collect::<String>().as_bytes()).is_ok());
    assert_eq!(kind(&format!("{}#{}", line(1), "-".repeat(FILE_MAX - 65))), "TooLong");
    assert!(parse(format!("{}#{}", line(1), "-".repeat(FILE_MAX - 66)).as_bytes()).is_ok());
}

#[test]
fn no_refusal_shows_a_key() {
    for text in [line(0xAB) + "x", line(0xAB) + &line(0xAB), line(0xAB) + &line(0xAB)[2..]] {
        let directory = Directory::new();
        let error = KeyFile::new(&directory.file(&text)).read().unwrap_err();
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(!shown.contains("abab") && !shown.contains("171, 171"), "{shown}");
            assert_eq!(shown.lines().count(), 1);
        }
    }
}

#[test]
fn a_file_that_others_can_read_or_change_is_refused() {
    let directory = Directory::new();
    let path = directory.file(&line(1));
    for mode in [0o640, 0o604, 0o644, 0o620, 0o602, 0o601, 0o700, 0o4600, 0o1600, 0o666] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = KeyFile::new(&path).read().unwrap_err();
        let set = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert!(
            matches!(error.kind, KeyFileErrorKind::TooOpen(shown) if u32::from(shown) == set),
            "{error}"
        );
        assert!(error.to_string().contains(&format!("its mode is {set:o}")), "{error}");
        assert!(error.to_string().ends_with(&format!("chmod 600 {}", path.display())), "{error}");
    }
    for mode in [0o600, 0o400] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert!(KeyFile::new(&path).read().is_ok(), "{mode:o}");
    }
}

#[test]
fn a_file_of_somebody_else_is_refused() {
    let directory = Directory::new();
    let mut stat = rustix::fs::stat(directory.file(&line(1))).unwrap();
    let own = rustix::process::geteuid().as_raw();
    for (owner, reader, taken) in [
        (own, own, true),
        (0, 1000, true),
        (1000, 1000, true),
        (1001, 1000, false),
        (1000, 1001, false),
        (1000, 0, false),
    ] {
        stat.st_uid = owner;
        assert_eq!(inspect(&stat, reader).is_ok(), taken, "{owner} {reader}");
    }
}

#[test]
fn what_is_not_a_file_is_refused_without_waiting_for_it() {
    let directory = Directory::new();
    let missing = KeyFile::new(&directory.0.join("missing")).read().unwrap_err();
    assert!(
        missing.to_string().contains("no such file") && missing.to_string().contains("-newkey")
    );
    assert!(matches!(
        KeyFile::new(&directory.0).read().unwrap_err().kind,
        KeyFileErrorKind::NotAFile
    ));
    let fifo = directory.0.join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let error = KeyFile::new(&fifo).read().unwrap_err();
    assert!(matches!(error.kind, KeyFileErrorKind::NotAFile), "{error}");
    // A link counts as what it leads to.
    let link = directory.0.join("link");
    symlink(directory.file(&line(1)), &link).unwrap();
    assert!(KeyFile::new(&link).read().is_ok());
}

#[test]
fn a_new_key_is_a_line_of_a_key_file_and_never_the_same() {
    let lines = [(); 2].map(|()| new_key().unwrap());
    assert_ne!(lines[0], lines[1]);
    assert_eq!(parse([lines[0].as_str(), &lines[1]].concat().as_bytes()).unwrap().len(), 2);
    assert_eq!(lines[0].len(), 65);
}

#[test]
fn the_time_is_in_seconds_since_1970() {
    let first = unix_now();
    let system = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!((u64::from(first)..=u64::from(unix_now())).contains(&system));
}
