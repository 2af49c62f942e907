//! The file that says which process to signal.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::net::listener::take_turn;
use crate::sys;

/// What stands in a file that could not be removed: a number that no process can have. With an empty
/// file `start-stop-daemon --status` cannot tell; with this one it says that the process is gone.
const NOBODY: &str = "2147483647\n";

/// How often a step is tried again because another process came or went meanwhile.
const TRIES: usize = 100;

/// A file with the number of this process, for those who want to signal it.
///
/// The process holds an exclusive lock on it for as long as it lives, which needs the right to write
/// to the file. A file with such a lock names a live process; any other is stale, whatever process has
/// that number by now. Shared locks, which everybody who can read the file can hold, do not count.
///
/// Dropping it removes the file if it still is ours. Where the process may not remove it, having
/// changed its user, the file then has a number that no process can have.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Writes the file, readable to all and writable to the owner whatever the umask is.
    ///
    /// It is written and locked under another name and gets its own in one step, so a reader never
    /// finds half a number, and of several processes that start at once one has the file.
    pub fn create(path: &Path) -> Result<Self, PidFileError> {
        let cannot = |doing| {
            let path = path.to_owned();
            move |error: io::Error| PidFileError { path, why: PidFileWhy::System(doing, error) }
        };
        let path = std::path::absolute(path).map_err(cannot("find it"))?;
        look(&path).map_err(|why| PidFileError { path: path.clone(), why })?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput.into());
        let mut fresh = name.map_err(cannot("write it"))?.to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = path.with_file_name(fresh);
        for _ in 0..TRIES {
            let file = write_fresh(&fresh).map_err(cannot("write it"))?;
            if let Err(why) = put(&fresh, &path) {
                let _ = fs::unlink(&fresh);
                return Err(PidFileError { path, why });
            }
            // A process that ended in the same moment may have removed it with its own.
            if is_at(&path, &file) {
                return Ok(Self { path, file });
            }
        }
        Err(cannot("put it there")(io::ErrorKind::AlreadyExists.into()))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file, as dropping it does.
    pub fn close(self) {}
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if !is_at(&self.path, &self.file) {
            return;
        }
        // No other process replaces it meanwhile: it is locked until this is done.
        if fs::unlink(&self.path).is_err() {
            let _ = self.file.write_all_at(NOBODY.as_bytes(), 0);
        }
    }
}

/// What is in the place of a pid file.
enum There {
    Nothing,
    /// A pid file that no live process holds.
    Stale(fs::Stat),
}

/// Finds out what is at `path`, and refuses it unless it is a stale pid file, or nothing.
fn look(path: &Path) -> Result<There, PidFileWhy> {
    let system = |error: Errno| PidFileWhy::System("look at it", error.into());
    match fs::lstat(path) {
        Err(Errno::NOENT) => return Ok(There::Nothing),
        Err(error) => return Err(system(error)),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => {
            return Err(PidFileWhy::NotAFile);
        }
        Ok(_) => {}
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match fs::openat(fs::CWD, path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(There::Nothing),
        Err(error) => return Err(system(error)),
    };
    let stat = fs::fstat(&file).map_err(system)?;
    match sys::lock_file(file.as_fd(), false) {
        Ok(false) => {
            let mut pid = String::new();
            let _ = File::from(file).take(20).read_to_string(&mut pid);
            Err(PidFileWhy::Held(pid.trim_end().to_owned()))
        }
        // A file system without locks cannot tell; better to start than to refuse for ever.
        _ => Ok(There::Stale(stat)),
    }
}

fn write_fresh(path: &Path) -> io::Result<File> {
    // Left by a process of this number that was killed in the middle of this.
    let _ = fs::unlink(path);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    // Nobody else can open it before it is locked.
    let mut file = File::from(fs::openat(fs::CWD, path, flags, Mode::RUSR | Mode::WUSR)?);
    let _ = sys::lock_file(file.as_fd(), true);
    let written =
        writeln!(file, "{}", std::process::id()).and_then(|()| Ok(fs::fchmod(&file, mode)?));
    if let Err(error) = written {
        let _ = fs::unlink(path);
        return Err(error);
    }
    Ok(file)
}

/// Gives the locked file `fresh` the name `path`, where nothing is or a stale file.
///
/// The lock on the directory lets those who start at once wait for each other. It is not what makes
/// this safe, since any user who can read the directory can keep it.
fn put(fresh: &Path, path: &Path) -> Result<(), PidFileWhy> {
    let _turn = take_turn(path);
    for _ in 0..TRIES {
        let done = match look(path)? {
            There::Nothing => put_new(fresh, path),
            There::Stale(stale) => replace(fresh, path, &stale),
        };
        if done? {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(PidFileWhy::System("put it there", io::ErrorKind::AlreadyExists.into()))
}

/// Whether a step was done; `false` where another process came or went since the look before it.
fn done(step: Result<(), Errno>) -> Result<bool, PidFileWhy> {
    match step {
        Ok(()) => Ok(true),
        Err(Errno::EXIST | Errno::NOENT) => Ok(false),
        Err(error) => Err(PidFileWhy::System("put it there", error.into())),
    }
}

/// Renames `fresh` to `path`, where nothing must be.
fn put_new(fresh: &Path, path: &Path) -> Result<bool, PidFileWhy> {
    #[cfg(target_os = "linux")]
    match fs::renameat_with(fs::CWD, fresh, fs::CWD, path, fs::RenameFlags::NOREPLACE) {
        // File systems and kernels that do not know the flag.
        Err(Errno::INVAL | Errno::NOSYS) => {}
        result => return done(result),
    }
    done(match fs::link(fresh, path) {
        Ok(()) => fs::unlink(fresh),
        // File systems without hard links.
        Err(Errno::PERM | Errno::OPNOTSUPP) => fs::rename(fresh, path),
        Err(error) => Err(error),
    })
}

/// Puts `fresh` at `path` in place of the `stale` file.
///
/// The two change places, and only then it is certain which file this has replaced. Where that is a
/// live one of another process that was faster, both go back. All the while `path` names a file that
/// is locked.
#[cfg(target_os = "linux")]
fn replace(fresh: &Path, path: &Path, stale: &fs::Stat) -> Result<bool, PidFileWhy> {
    let exchange = || fs::renameat_with(fs::CWD, fresh, fs::CWD, path, fs::RenameFlags::EXCHANGE);
    match exchange() {
        // File systems and kernels that do not know the flag.
        Err(Errno::INVAL | Errno::NOSYS) => return done(fs::rename(fresh, path)),
        Err(error) => return done(Err(error)),
        Ok(()) => {}
    }
    if !fs::lstat(fresh).is_ok_and(|replaced| same(&replaced, stale))
        && let Err(why) = look(fresh)
    {
        return if done(exchange())? { Err(why) } else { Ok(false) };
    }
    let _ = fs::unlink(fresh);
    Ok(true)
}

/// Puts `fresh` at `path` in place of the stale file.
#[cfg(not(target_os = "linux"))]
fn replace(fresh: &Path, path: &Path, _stale: &fs::Stat) -> Result<bool, PidFileWhy> {
    done(fs::rename(fresh, path))
}

/// Whether `path` names this file.
fn is_at(path: &Path, file: &File) -> bool {
    let (there, ours) = (fs::lstat(path), fs::fstat(file));
    there.is_ok_and(|there| ours.is_ok_and(|ours| same(&there, &ours)))
}

fn same(one: &fs::Stat, other: &fs::Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// The pid file could not be made.
#[derive(Debug)]
pub struct PidFileError {
    path: PathBuf,
    why: PidFileWhy,
}

#[derive(Debug)]
enum PidFileWhy {
    Held(String),
    NotAFile,
    System(&'static str, io::Error),
}

impl fmt::Display for PidFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot use pid file {}: ", self.path.display())?;
        match &self.why {
            PidFileWhy::Held(pid) => {
                write!(f, "process {pid} holds it; stop that, or choose another")
            }
            PidFileWhy::NotAFile => f.write_str("what is there is no regular file; choose another"),
            PidFileWhy::System(doing, error) => write!(f, "cannot {doing}: {error}"),
        }
    }
}

impl std::error::Error for PidFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.why {
            PidFileWhy::System(_, error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    // Elsewhere than on Linux the locks of one process do not keep itself out, so what takes two
    // processes there is tested on Linux only.
    use super::*;
    use crate::testing::{Dir, in_child, in_child_dir, is_root};
    use std::os::unix::fs::MetadataExt;

    fn content(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn it_has_the_number_and_goes_with_the_process() {
        let dir = Dir::new();
        let path = dir.join("pid");
        let file = PidFile::create(&path).unwrap();
        assert_eq!(content(&path), format!("{}\n", std::process::id()));
        assert_eq!(dir.names(), ["pid"]);
        file.close();
        assert!(dir.names().is_empty());
    }

    #[test]
    fn its_mode_does_not_depend_on_the_umask() {
        in_child("process::pid_file::tests::its_mode_does_not_depend_on_the_umask", || {
            let dir = Dir::new();
            for mask in [0, 0o077, 0o777] {
                rustix::process::umask(Mode::from_raw_mode(mask));
                let path = dir.join("pid");
                let _file = PidFile::create(&path).unwrap();
                assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o644);
            }
        });
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_stale_file_is_replaced_and_a_live_one_refused() {
        in_child(
            "process::pid_file::tests::a_stale_file_is_replaced_and_a_live_one_refused",
            || {
                let dir = Dir::new();
                let path = dir.join("pid");
                std::fs::write(&path, "1\n").unwrap();
                let live = PidFile::create(&path).unwrap();
                let error = PidFile::create(&path).unwrap_err().to_string();
                assert!(
                    error.contains(&format!("process {} holds it", std::process::id())),
                    "{error}"
                );
                drop(live);
                drop(PidFile::create(&path).unwrap());
            },
        );
    }

    #[test]
    fn what_is_no_regular_file_is_left_alone() {
        let dir = Dir::new();
        let path = dir.join("pid");
        std::os::unix::fs::symlink(dir.join("target"), &path).unwrap();
        assert!(PidFile::create(&path).unwrap_err().to_string().contains("no regular file"));
        assert!(path.is_symlink() && !dir.join("target").exists());
        let error = PidFile::create(&dir.join("none").join("pid")).unwrap_err().to_string();
        assert!(error.contains("none/pid") && error.contains("No such file"), "{error}");
    }

    #[test]
    fn another_s_file_stays() {
        let dir = Dir::new();
        let path = dir.join("pid");
        let file = PidFile::create(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "7\n").unwrap();
        drop(file);
        assert_eq!(content(&path), "7\n");
    }

    #[test]
    fn where_it_cannot_be_removed_it_names_nobody() {
        if !is_root() {
            return;
        }
        let body = |dir: &Path| {
            let _file = PidFile::create(&dir.join("pid")).unwrap();
            super::super::change_user("nobody").unwrap();
        };
        let name = "process::pid_file::tests::where_it_cannot_be_removed_it_names_nobody";
        in_child_dir(name, body, |dir| assert_eq!(content(&dir.join("pid")), NOBODY));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn locks_that_need_no_right_to_write_keep_nobody_from_starting() {
        let name = "process::pid_file::tests::\
                    locks_that_need_no_right_to_write_keep_nobody_from_starting";
        in_child(name, || {
            let dir = Dir::new();
            let path = dir.join("pid");
            std::fs::write(&path, "1\n").unwrap();
            let stranger = File::open(&path).unwrap();
            fs::flock(&stranger, fs::FlockOperation::NonBlockingLockExclusive).unwrap();
            assert!(sys::lock_file(stranger.as_fd(), false).unwrap());
            let ours = PidFile::create(&path).unwrap();
            assert_eq!(content(&path), format!("{}\n", std::process::id()));
            // Nor is a live one taken for stale because of them.
            let stranger = File::open(&path).unwrap();
            fs::flock(&stranger, fs::FlockOperation::NonBlockingLockExclusive).unwrap();
            assert!(!sys::lock_file(stranger.as_fd(), false).unwrap());
            assert!(PidFile::create(&path).unwrap_err().to_string().contains("holds it"));
            drop(ours);
        });
    }

    /// What a process writes that starts with the same pid file.
    #[cfg(target_os = "linux")]
    fn fresh(dir: &Dir, name: &str) -> File {
        write_fresh(&dir.join(name)).unwrap()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn of_two_that_found_nothing_the_second_leaves_the_first_alone() {
        in_child(
            "process::pid_file::tests::of_two_that_found_nothing_the_second_leaves_the_first_alone",
            || {
                let dir = Dir::new();
                let path = dir.join("pid");
                let (first, _second) = (fresh(&dir, "a"), fresh(&dir, "b"));
                assert!(put_new(&dir.join("a"), &path).unwrap());
                assert!(!put_new(&dir.join("b"), &path).unwrap());
                assert!(is_at(&path, &first));
                let error = put(&dir.join("b"), &path).unwrap_err();
                assert!(matches!(error, PidFileWhy::Held(_)), "{error:?}");
                assert!(is_at(&path, &first));
            },
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn of_two_that_found_the_same_stale_file_the_second_leaves_the_first_alone() {
        let name = "process::pid_file::tests::\
                    of_two_that_found_the_same_stale_file_the_second_leaves_the_first_alone";
        in_child(name, || {
            let dir = Dir::new();
            let path = dir.join("pid");
            std::fs::write(&path, "1\n").unwrap();
            let (first, second) = (fresh(&dir, "a"), fresh(&dir, "b"));
            let Ok(There::Stale(stale)) = look(&path) else { panic!("it is stale") };
            assert!(replace(&dir.join("a"), &path, &stale).unwrap());
            let error = replace(&dir.join("b"), &path, &stale).unwrap_err();
            assert!(matches!(error, PidFileWhy::Held(_)), "{error:?}");
            assert!(is_at(&path, &first) && is_at(&dir.join("b"), &second));
            // One that has ended meanwhile is stale again.
            drop(first);
            assert!(replace(&dir.join("b"), &path, &stale).unwrap());
            assert!(is_at(&path, &second));
            let mut names = dir.names();
            names.sort();
            assert_eq!(names, ["pid"]);
        });
    }
}
