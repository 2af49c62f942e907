//! The pid file: the number of the process to signal.

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

/// The content of a pid file that could not be removed: a number that no process can have. With it
/// `start-stop-daemon --status` reports that the process is gone; with an empty file it cannot tell.
const NO_PROCESS: &str = "2147483647\n";

/// How often a step is tried while other processes change the file.
const TRIES: usize = 100;

/// A file with the number of this process.
///
/// The process holds an exclusive lock on the file as long as it lives. That needs write permission,
/// so no other user can hold such a lock. A file with the lock names a live process; a file without it
/// is stale, whatever process has that number now. Shared locks, which need only read permission, do
/// not count.
///
/// Dropping it removes the file if it is still the same file. If the process may not remove it, after a
/// change of user, it writes a number that no process can have.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
    /// Whether this process removes it.
    owned: bool,
}

impl PidFile {
    /// Creates the file, with mode 644 whatever the umask is.
    ///
    /// It is written and locked under another name, then renamed. So a reader never sees half a number,
    /// and of several processes that start at once one gets the file.
    ///
    /// # Errors
    /// [`PidFileError`], also if a live process holds the file, or if it is not a regular file.
    pub fn create(path: &Path) -> Result<Self, PidFileError> {
        let cannot = |doing| {
            let path = path.to_owned();
            move |error: io::Error| PidFileError {
                path,
                kind: PidFileErrorKind::System(doing, error),
            }
        };
        let path = std::path::absolute(path).map_err(cannot("find it"))?;
        inspect(&path).map_err(|kind| PidFileError { path: path.clone(), kind })?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput.into());
        let mut fresh = name.map_err(cannot("write it"))?.to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = path.with_file_name(fresh);
        for _ in 0..TRIES {
            let file = write_fresh(&fresh).map_err(cannot("write it"))?;
            if let Err(kind) = install(&fresh, &path) {
                let _ = fs::unlink(&fresh);
                return Err(PidFileError { path, kind });
            }
            // A process that ended at the same moment may have removed this file instead of its own.
            if is_at(&path, &file) {
                return Ok(Self { path, file, owned: true });
            }
        }
        Err(cannot("put it there")(io::ErrorKind::AlreadyExists.into()))
    }

    /// Its absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file and lock of a predecessor, which removes it until it is [`owned`](Self::own) here. The
    /// lock belongs to the open file, so both processes have it. `None` if that is not the file there.
    #[cfg(target_os = "linux")]
    pub(crate) fn of_another(path: &Path, file: File) -> Option<Self> {
        is_at(path, &file).then(|| Self { path: path.to_owned(), file, owned: false })
    }

    /// Says that another process has the file now, and removes it.
    #[cfg(target_os = "linux")]
    pub(crate) fn disown(&mut self) {
        self.owned = false;
    }

    /// Makes it this process's own, and writes its number.
    ///
    /// # Errors
    /// The system's; the file may contain the predecessor's number then.
    #[cfg(target_os = "linux")]
    pub(crate) fn own(&mut self) -> io::Result<()> {
        self.owned = true;
        let line = format!("{}\n", std::process::id());
        // In this order a reader at any moment finds one of the two numbers first.
        self.file.write_all_at(line.as_bytes(), 0)?;
        self.file.set_len(line.len() as u64)
    }

    /// Its descriptor, to hand over.
    #[cfg(target_os = "linux")]
    pub(crate) fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Removes the file, as dropping it does.
    pub fn close(self) {}
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if !self.owned || !is_at(&self.path, &self.file) {
            return;
        }
        // It is locked until this is done, so no other process replaces it meanwhile.
        if fs::unlink(&self.path).is_err() {
            let _ = self.file.write_all_at(NO_PROCESS.as_bytes(), 0);
        }
    }
}

/// What is at the path of a pid file.
enum Existing {
    Nothing,
    /// A pid file without a live process.
    Stale(fs::Stat),
}

/// Inspects `path`. Anything but nothing or a stale pid file is an error.
fn inspect(path: &Path) -> Result<Existing, PidFileErrorKind> {
    let system = |error: Errno| PidFileErrorKind::System("look at it", error.into());
    match fs::lstat(path) {
        Err(Errno::NOENT) => return Ok(Existing::Nothing),
        Err(error) => return Err(system(error)),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => {
            return Err(PidFileErrorKind::NotAFile);
        }
        Ok(_) => {}
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match fs::openat(fs::CWD, path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(Existing::Nothing),
        Err(error) => return Err(system(error)),
    };
    let stat = fs::fstat(&file).map_err(system)?;
    match sys::lock_file(file.as_fd(), false) {
        Ok(false) => {
            let mut pid = String::new();
            let _ = File::from(file).take(20).read_to_string(&mut pid);
            Err(PidFileErrorKind::Held(pid.trim_end().to_owned()))
        }
        // On a file system without locks, starting is better than refusing for ever.
        _ => Ok(Existing::Stale(stat)),
    }
}

fn write_fresh(path: &Path) -> io::Result<File> {
    // Left behind by a killed process with the same number.
    let _ = fs::unlink(path);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    // Until it is locked, only the owner can open it.
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

/// Renames the locked file `fresh` to `path`, where there is nothing or a stale file.
///
/// With the lock on the directory, processes that start at once take turns. This is safe without it,
/// too, since any user who can read the directory can hold it.
fn install(fresh: &Path, path: &Path) -> Result<(), PidFileErrorKind> {
    let _turn = take_turn(path);
    for _ in 0..TRIES {
        let done = match inspect(path)? {
            Existing::Nothing => install_new(fresh, path),
            Existing::Stale(stale) => replace(fresh, path, &stale),
        };
        if done? {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(PidFileErrorKind::System("put it there", io::ErrorKind::AlreadyExists.into()))
}

/// Whether a step succeeded; false if another process has changed the file since it was inspected.
fn done(step: Result<(), Errno>) -> Result<bool, PidFileErrorKind> {
    match step {
        Ok(()) => Ok(true),
        Err(Errno::EXIST | Errno::NOENT) => Ok(false),
        Err(error) => Err(PidFileErrorKind::System("put it there", error.into())),
    }
}

/// Renames `fresh` to `path`, which must not exist.
fn install_new(fresh: &Path, path: &Path) -> Result<bool, PidFileErrorKind> {
    #[cfg(target_os = "linux")]
    match fs::renameat_with(fs::CWD, fresh, fs::CWD, path, fs::RenameFlags::NOREPLACE) {
        // The file system or kernel does not support the flag.
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

/// Replaces the `stale` file at `path` by `fresh`.
///
/// The two are exchanged; only then it is certain which file was replaced. If that is the live file of
/// another process, they are exchanged back. At every moment `path` names a locked file.
#[cfg(target_os = "linux")]
fn replace(fresh: &Path, path: &Path, stale: &fs::Stat) -> Result<bool, PidFileErrorKind> {
    let exchange = || fs::renameat_with(fs::CWD, fresh, fs::CWD, path, fs::RenameFlags::EXCHANGE);
    match exchange() {
        // The file system or kernel does not support the flag.
        Err(Errno::INVAL | Errno::NOSYS) => return done(fs::rename(fresh, path)),
        Err(error) => return done(Err(error)),
        Ok(()) => {}
    }
    if !fs::lstat(fresh).is_ok_and(|replaced| same(&replaced, stale))
        && let Err(kind) = inspect(fresh)
    {
        return if done(exchange())? { Err(kind) } else { Ok(false) };
    }
    let _ = fs::unlink(fresh);
    Ok(true)
}

/// Replaces the stale file at `path` by `fresh`.
#[cfg(not(target_os = "linux"))]
fn replace(fresh: &Path, path: &Path, _stale: &fs::Stat) -> Result<bool, PidFileErrorKind> {
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

/// The pid file could not be created.
#[derive(Debug)]
pub struct PidFileError {
    path: PathBuf,
    kind: PidFileErrorKind,
}

#[derive(Debug)]
enum PidFileErrorKind {
    Held(String),
    NotAFile,
    System(&'static str, io::Error),
}

impl fmt::Display for PidFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot use pid file {}: ", self.path.display())?;
        match &self.kind {
            PidFileErrorKind::Held(pid) => {
                write!(f, "process {pid} holds it; stop that, or choose another")
            }
            PidFileErrorKind::NotAFile => {
                f.write_str("the file there is no regular file; choose another")
            }
            PidFileErrorKind::System(doing, error) => write!(f, "cannot {doing}: {error}"),
        }
    }
}

impl std::error::Error for PidFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            PidFileErrorKind::System(_, error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    // Only on Linux do these locks exclude the process that holds them. Elsewhere these tests would
    // need two processes.
    use super::*;
    use crate::testing::{Dir, in_child, in_child_dir, is_root};
    use std::os::unix::fs::MetadataExt;

    fn content(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn it_has_the_process_id_and_is_removed_on_close() {
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
    fn a_file_that_is_not_regular_is_left_alone() {
        let dir = Dir::new();
        let path = dir.join("pid");
        std::os::unix::fs::symlink(dir.join("target"), &path).unwrap();
        assert!(PidFile::create(&path).unwrap_err().to_string().contains("no regular file"));
        assert!(path.is_symlink() && !dir.join("target").exists());
        let error = PidFile::create(&dir.join("none").join("pid")).unwrap_err().to_string();
        assert!(error.contains("none/pid") && error.contains("No such file"), "{error}");
    }

    #[test]
    fn the_file_of_another_process_stays() {
        let dir = Dir::new();
        let path = dir.join("pid");
        let file = PidFile::create(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "7\n").unwrap();
        drop(file);
        assert_eq!(content(&path), "7\n");
    }

    #[test]
    fn a_file_that_cannot_be_removed_names_no_process() {
        if !is_root() {
            return;
        }
        let body = |dir: &Path| {
            let _file = PidFile::create(&dir.join("pid")).unwrap();
            super::super::change_user("nobody").unwrap();
        };
        let name = "process::pid_file::tests::a_file_that_cannot_be_removed_names_no_process";
        in_child_dir(name, body, |dir| assert_eq!(content(&dir.join("pid")), NO_PROCESS));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn locks_without_write_permission_do_not_prevent_a_start() {
        let name = "process::pid_file::tests::\
                    locks_without_write_permission_do_not_prevent_a_start";
        in_child(name, || {
            let dir = Dir::new();
            let path = dir.join("pid");
            std::fs::write(&path, "1\n").unwrap();
            let other = File::open(&path).unwrap();
            fs::flock(&other, fs::FlockOperation::NonBlockingLockExclusive).unwrap();
            assert!(sys::lock_file(other.as_fd(), false).unwrap());
            let ours = PidFile::create(&path).unwrap();
            assert_eq!(content(&path), format!("{}\n", std::process::id()));
            // Nor do they make a live file look stale.
            let other = File::open(&path).unwrap();
            fs::flock(&other, fs::FlockOperation::NonBlockingLockExclusive).unwrap();
            assert!(!sys::lock_file(other.as_fd(), false).unwrap());
            assert!(PidFile::create(&path).unwrap_err().to_string().contains("holds it"));
            drop(ours);
        });
    }

    /// The file that another process would install.
    #[cfg(target_os = "linux")]
    fn fresh(dir: &Dir, name: &str) -> File {
        write_fresh(&dir.join(name)).unwrap()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn if_two_processes_find_nothing_the_second_leaves_the_first_alone() {
        in_child(
            "process::pid_file::tests::if_two_processes_find_nothing_the_second_leaves_the_first_alone",
            || {
                let dir = Dir::new();
                let path = dir.join("pid");
                let (first, _second) = (fresh(&dir, "a"), fresh(&dir, "b"));
                assert!(install_new(&dir.join("a"), &path).unwrap());
                assert!(!install_new(&dir.join("b"), &path).unwrap());
                assert!(is_at(&path, &first));
                let error = install(&dir.join("b"), &path).unwrap_err();
                assert!(matches!(error, PidFileErrorKind::Held(_)), "{error:?}");
                assert!(is_at(&path, &first));
            },
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn if_two_processes_find_a_stale_file_the_second_leaves_the_first_alone() {
        let name = "process::pid_file::tests::\
                    if_two_processes_find_a_stale_file_the_second_leaves_the_first_alone";
        in_child(name, || {
            let dir = Dir::new();
            let path = dir.join("pid");
            std::fs::write(&path, "1\n").unwrap();
            let (first, second) = (fresh(&dir, "a"), fresh(&dir, "b"));
            let Ok(Existing::Stale(stale)) = inspect(&path) else { panic!("not stale") };
            assert!(replace(&dir.join("a"), &path, &stale).unwrap());
            let error = replace(&dir.join("b"), &path, &stale).unwrap_err();
            assert!(matches!(error, PidFileErrorKind::Held(_)), "{error:?}");
            assert!(is_at(&path, &first) && is_at(&dir.join("b"), &second));
            // Once its process has ended, the file is stale again.
            drop(first);
            assert!(replace(&dir.join("b"), &path, &stale).unwrap());
            assert!(is_at(&path, &second));
            let mut names = dir.names();
            names.sort();
            assert_eq!(names, ["pid"]);
        });
    }
}
