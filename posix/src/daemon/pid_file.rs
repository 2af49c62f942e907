//! The file that says which process to signal.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// A file with the number of this process, for those who want to signal it.
///
/// The process holds a lock on it for as long as it lives: a file whose lock is held names a live
/// process, any other is stale, whatever process has that number by now. Dropping it removes the
/// file if it still is ours; where the process may not remove it, having changed its user, the file
/// is emptied instead, so that nobody signals a stranger.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Writes the file, readable to all and writable to the owner whatever the umask is. It takes the
    /// place of a stale one in one step, so that nobody ever reads half a number.
    pub fn create(path: &Path) -> Result<Self, PidFileError> {
        let cannot = |doing| {
            let path = path.to_owned();
            move |error: io::Error| PidFileError { path, why: PidFileWhy::System(doing, error) }
        };
        let path = std::path::absolute(path).map_err(cannot("find it"))?;
        refuse_live(&path)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput.into());
        let mut fresh = name.map_err(cannot("write it"))?.to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = path.with_file_name(fresh);
        let file = write_fresh(&fresh).map_err(cannot("write it"))?;
        if let Err(error) = fs::rename(&fresh, &path) {
            let _ = fs::unlink(&fresh);
            return Err(cannot("put it there")(error.into()));
        }
        Ok(Self { path, file })
    }

    /// Removes the file, as dropping it does.
    pub fn close(self) {}
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let same = |there: &fs::Stat, ours: &fs::Stat| {
            (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
        };
        let (there, ours) = (fs::lstat(&self.path), fs::fstat(&self.file));
        if !there.is_ok_and(|there| ours.is_ok_and(|ours| same(&there, &ours))) {
            return;
        }
        if fs::unlink(&self.path).is_err() {
            let _ = self.file.set_len(0);
        }
    }
}

/// Refuses what is there unless it is a pid file that no live process holds, or nothing.
fn refuse_live(path: &Path) -> Result<(), PidFileError> {
    let refuse = |why| Err(PidFileError { path: path.to_owned(), why });
    match fs::lstat(path) {
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return refuse(PidFileWhy::System("look at it", error.into())),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => {
            return refuse(PidFileWhy::NotAFile);
        }
        Ok(_) => {}
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match fs::openat(fs::CWD, path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return refuse(PidFileWhy::System("look at it", error.into())),
    };
    match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = File::from(file).take(20).read_to_string(&mut pid);
            refuse(PidFileWhy::Held(pid.trim_end().to_owned()))
        }
        // A file system without locks cannot tell; better to start than to refuse for ever.
        _ => Ok(()),
    }
}

fn write_fresh(path: &Path) -> io::Result<File> {
    // Left by a process of this number that was killed in the middle of this.
    let _ = fs::unlink(path);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let mut file = File::from(fs::openat(fs::CWD, path, flags, mode)?);
    let written = fs::fchmod(&file, mode)
        .map_err(io::Error::from)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = written {
        let _ = fs::unlink(path);
        return Err(error);
    }
    let _ = fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    Ok(file)
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
        in_child("daemon::pid_file::tests::its_mode_does_not_depend_on_the_umask", || {
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
    fn a_stale_file_is_replaced_and_a_live_one_refused() {
        in_child(
            "daemon::pid_file::tests::a_stale_file_is_replaced_and_a_live_one_refused",
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
    fn who_may_not_remove_it_any_more_empties_it() {
        if !is_root() {
            return;
        }
        let body = |dir: &Path| {
            let _file = PidFile::create(&dir.join("pid")).unwrap();
            super::super::change_user("nobody").unwrap();
        };
        let name = "daemon::pid_file::tests::who_may_not_remove_it_any_more_empties_it";
        in_child_dir(name, body, |dir| assert_eq!(content(&dir.join("pid")), ""));
    }
}
