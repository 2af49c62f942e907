//! Keys that follow their file, in a process with threads and forks.
//!
//! At most once in [`LOOK_EVERY`] one caller looks at the file: a single stat, and a read if the file is
//! another one than before. A bad file changes nothing: the old keys stay.
//!
//! No call waits, as in the client's connection pool. Keys lie in one of [`SLOTS`]; new ones go into
//! another slot, then `current` points there, and the old ones are wiped. If another thread holds a slot
//! while its process forks, the child can still read that slot, or takes another one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::Duration;

use distcache_core::seal::Keys;
use rustix::fs::Stat;

use super::every::Every;
use super::{KeyFile, KeyFileError};

/// The least time between two looks at the file.
const LOOK_EVERY: Duration = Duration::from_secs(10);

const SLOTS: usize = 4;

/// The keys of a [`KeyFile`], read again when the file changes.
#[derive(Debug)]
pub struct SealKeys {
    file: KeyFile,
    slots: [RwLock<Option<Loaded>>; SLOTS],
    current: AtomicUsize,
    looks: Every,
}

#[derive(Debug)]
struct Loaded {
    keys: Keys,
    version: Version,
}

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Version([i128; 5]);

impl Version {
    fn of(stat: &Stat) -> Self {
        // The change time too: a copy can have the modification time of its original.
        Self([
            stat.st_ino.into(),
            stat.st_size.into(),
            stat.st_mtime.into(),
            stat.st_ctime.into(),
            stat.st_ctime_nsec.into(),
        ])
    }
}

impl SealKeys {
    /// Reads the file.
    ///
    /// # Errors
    /// [`KeyFileError`] if anything about the file is wrong.
    pub fn open(file: KeyFile) -> Result<Self, KeyFileError> {
        let (keys, stat) = file.read_with_stat()?;
        let mut slots = [const { RwLock::new(None) }; SLOTS];
        if let Ok(first) = slots[0].get_mut() {
            *first = Some(Loaded { keys, version: Version::of(&stat) });
        }
        Ok(Self { file, slots, current: AtomicUsize::new(0), looks: Every::after(LOOK_EVERY) })
    }

    /// The file.
    pub fn file(&self) -> &KeyFile {
        &self.file
    }

    /// Calls `work` with the keys. `None` if other threads exchange them over and over meanwhile.
    pub fn with<T>(&self, work: impl FnOnce(&Keys) -> T) -> Option<T> {
        for _ in 0..SLOTS {
            let current = self.current.load(Ordering::Acquire);
            // `current` moves before its old slot is cleared, so a new look finds the new one.
            if let Some(slot) = self.slots.get(current).and_then(read)
                && let Some(loaded) = &*slot
            {
                return Some(work(&loaded.keys));
            }
        }
        None
    }

    /// Reads the file again if it has changed, at most once in ten seconds; `None` if there was nothing to
    /// do.
    ///
    /// # Errors
    /// [`KeyFileError`] if it has changed and anything about it is wrong. The old keys stay.
    pub fn follow(&self) -> Option<Result<(), KeyFileError>> {
        if self.looks.is_due() { self.look() } else { None }
    }

    /// Reads the file again if it has changed.
    fn look(&self) -> Option<Result<(), KeyFileError>> {
        self.clear_old();
        let stat = rustix::fs::stat(self.file.path());
        let current = self.slots.get(self.current.load(Ordering::Acquire)).and_then(read)?;
        let known = current.as_ref().map(|loaded| loaded.version);
        drop(current);
        if stat.is_ok_and(|stat| Some(Version::of(&stat)) == known) {
            return None;
        }
        let (keys, stat) = match self.file.read_with_stat() {
            Ok(loaded) => loaded,
            Err(error) => return Some(Err(error)),
        };
        self.store(Loaded { keys, version: Version::of(&stat) })?;
        self.clear_old();
        Some(Ok(()))
    }

    fn store(&self, loaded: Loaded) -> Option<()> {
        let current = self.current.load(Ordering::Acquire);
        let mut others = self.slots.iter().enumerate().filter(|&(at, _)| at != current);
        let (at, mut slot) = others.find_map(|(at, slot)| Some((at, write(slot)?)))?;
        *slot = Some(loaded);
        drop(slot);
        self.current.store(at, Ordering::Release);
        Some(())
    }

    /// Wipes what `current` no longer points to. What a thread still uses waits for the next look.
    fn clear_old(&self) {
        let current = self.current.load(Ordering::Acquire);
        for (at, slot) in self.slots.iter().enumerate() {
            if at != current
                && let Some(mut old) = write(slot)
            {
                *old = None;
            }
        }
    }
}

fn read<T>(slot: &RwLock<T>) -> Option<RwLockReadGuard<'_, T>> {
    match slot.try_read() {
        Ok(slot) => Some(slot),
        // Nothing that can panic runs under the write lock, so the keys are intact.
        Err(TryLockError::Poisoned(slot)) => Some(slot.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

fn write<T>(slot: &RwLock<T>) -> Option<RwLockWriteGuard<'_, T>> {
    match slot.try_write() {
        Ok(slot) => Some(slot),
        Err(TryLockError::Poisoned(slot)) => Some(slot.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use distcache_core::id::Id;

    use super::super::tests::{Directory, line};
    use super::*;

    /// Which key seals, by what it makes of a fixed session.
    fn sealed(keys: &SealKeys) -> Vec<u8> {
        let mut out = vec![0; 49];
        let id = Id::new(b"id").unwrap();
        keys.with(|keys| keys.seal([0; 24], 0, id, b"x", &mut out)).unwrap().unwrap();
        out
    }

    #[test]
    fn keys_follow_their_file_and_a_bad_file_changes_nothing() {
        let directory = Directory::new();
        let path = directory.file(&line(1));
        let keys = SealKeys::open(KeyFile::new(&path)).unwrap();
        let first = sealed(&keys);
        assert!(keys.look().is_none(), "nothing has changed");

        directory.file("nonsense");
        assert!(keys.look().unwrap().is_err());
        assert_eq!(sealed(&keys), first);
        std::fs::remove_file(&path).unwrap();
        assert!(keys.look().unwrap().is_err());
        assert_eq!(sealed(&keys), first);

        directory.file(&line(2));
        assert!(keys.look().unwrap().is_ok());
        assert_ne!(sealed(&keys), first);
        let loaded = keys.slots.iter().filter(|slot| slot.read().unwrap().is_some()).count();
        assert_eq!(loaded, 1, "old keys are wiped");
        directory.file(&line(1));
        assert!(keys.look().unwrap().is_ok());
        assert_eq!(sealed(&keys), first);
    }

    #[test]
    fn the_file_is_looked_at_once_in_ten_seconds() {
        let directory = Directory::new();
        let keys = SealKeys::open(KeyFile::new(&directory.file(&line(1)))).unwrap();
        directory.file(&line(2));
        assert!(keys.follow().is_none(), "ten seconds have not passed");
        keys.looks.expire();
        assert!(keys.follow().unwrap().is_ok());
        directory.file(&line(3));
        assert!(keys.follow().is_none(), "it was looked at just now");
    }

    #[test]
    fn keys_can_be_used_while_slots_are_stuck_and_while_they_are_exchanged() {
        let directory = Directory::new();
        let keys = SealKeys::open(KeyFile::new(&directory.file(&line(1)))).unwrap();
        // As in the child of a process whose threads held two slots, one of them for writing.
        let _reader = keys.slots[0].read().unwrap();
        let _writer = keys.slots[1].write().unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..100 {
                    directory.file(&line(2 + round % 2));
                    assert!(keys.look().is_none_or(|looked| looked.is_ok()));
                }
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                sealed(&keys);
            }
        });
        assert_ne!(keys.current.load(Ordering::Relaxed), 0);
    }
}
