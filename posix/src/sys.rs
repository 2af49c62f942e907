//! All of the crate's `unsafe`: what neither `std` nor `rustix` offers as safe functions.

#[cfg(target_os = "linux")]
pub(crate) mod datagram;
mod peer;
mod process;
#[cfg(feature = "daemon")]
pub(crate) mod schedule;
#[cfg(target_os = "linux")]
mod secret;

use std::ffi::{CString, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;
#[cfg(target_os = "linux")]
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

pub(crate) use self::peer::{peer_groups, peer_user};
pub(crate) use self::process::close_all_but;

/// Registers `fd` with `poller`, level-triggered.
#[cfg(any(test, all(feature = "daemon", not(target_os = "linux"))))]
pub(crate) fn poll_add(
    poller: &polling::Poller,
    fd: BorrowedFd<'_>,
    event: polling::Event,
) -> io::Result<()> {
    // SAFETY: the descriptor is open now. Nothing refers to it through memory afterwards: epoll and
    // kqueue keep numbers, and drop the registration with the last reference to the open file.
    unsafe {
        poller.add_with_mode(std::os::fd::AsRawFd::as_raw_fd(&fd), event, polling::PollMode::Level)
    }
}

/// Takes over the descriptor `number` that the process was started with; a second time it is refused.
///
/// Descriptors 0 to 2 are moved away and stand for /dev/null afterwards: what prints goes on printing,
/// but not into the stream.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    let refuse = |why: &str| {
        let text = format!("descriptor {number} {why}");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    };
    // SAFETY: F_GETFD only looks, at whatever number.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(refuse("is not open"));
    }
    // Inherited ones survived an exec, so they are not marked to close on it. All of our own are.
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(refuse("was taken already, or opened by this process itself"));
    }
    if number > 2 {
        // SAFETY: it is open, and by its flag nothing in this process owns it: std, rustix and we
        // mark all that we open. Marking it here is what refuses the second taker.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        return Ok(fd);
    }
    // SAFETY: 0 to 2 belong to the process as a whole and this one is open.
    let standard = unsafe { BorrowedFd::borrow_raw(number) };
    let fd = rustix::io::fcntl_dupfd_cloexec(standard, 3)?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| {
        let text = format!("cannot open /dev/null in place of descriptor {number}: {error}");
        io::Error::new(error.kind(), text)
    })?;
    match number {
        0 => rustix::stdio::dup2_stdin(&null)?,
        1 => rustix::stdio::dup2_stdout(&null)?,
        _ => rustix::stdio::dup2_stderr(&null)?,
    }
    Ok(fd)
}

/// Locks the whole of `file` without waiting; `false` where a lock of another keeps that from being
/// done.
///
/// An exclusive lock needs a file that is open for writing, so only those who may write to a file can
/// keep others from locking it shared. It goes with the last descriptor of the open file on Linux; on
/// other systems with the process, or as soon as that closes any descriptor of the same file.
pub(crate) fn lock_file(file: BorrowedFd<'_>, exclusive: bool) -> io::Result<bool> {
    use std::os::fd::AsRawFd;
    #[cfg(target_os = "linux")]
    const SET: c_int = libc::F_OFD_SETLK;
    #[cfg(not(target_os = "linux"))]
    const SET: c_int = libc::F_SETLK;
    // SAFETY: an all-zero flock is a valid value of it: the whole file, from its start.
    let mut lock: libc::flock = unsafe { MaybeUninit::zeroed().assume_init() };
    lock.l_type = (if exclusive { libc::F_WRLCK } else { libc::F_RDLCK }) as _;
    lock.l_whence = libc::SEEK_SET as _;
    // SAFETY: the descriptor is open and the lock is initialised; the call only reads it.
    match check(unsafe { libc::fcntl(file.as_raw_fd(), SET, &raw const lock) }) {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Closes what the process was started with beside its standard streams and `keep`.
///
/// An inherited descriptor has survived an exec, so it is not marked to close on one; everything that
/// this process has opened is.
pub(crate) fn close_inherited(keep: &[RawFd]) {
    for number in inherited_numbers() {
        if number > 2 && !keep.contains(&number) {
            // SAFETY: F_GETFD only looks, at whatever number.
            let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
            if flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
                // SAFETY: it is open, and by its flag nothing in this process owns it.
                drop(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
    }
}

/// The descriptors that may be open: what /proc lists, or all that are allowed, up to a number that
/// does not take long to try.
fn inherited_numbers() -> Vec<RawFd> {
    if let Ok(listed) = std::fs::read_dir("/proc/self/fd") {
        let number =
            |entry: io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
        return listed.filter_map(number).collect();
    }
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    (3..most.unwrap_or(u64::MAX).min(1 << 16) as RawFd).collect()
}

/// Removes a variable from the environment. To be called while the process has a single thread.
pub(crate) fn remove_variable(name: &str) {
    // SAFETY: with a single thread nobody reads the environment meanwhile; the caller sees to it.
    unsafe { std::env::remove_var(name) };
}

/// Lets all signals come, whatever the starter of this process had blocked.
pub(crate) fn unblock_signals() -> io::Result<()> {
    // SAFETY: a signal set is plain numbers, and sigemptyset initialises it.
    let mut none: libc::sigset_t = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the set is ours for the call.
    check(unsafe { libc::sigemptyset(&raw mut none) })?;
    // SAFETY: the set is initialised, and the old one is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Fills `bytes` with what nobody can guess. Needs no file.
pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::rand::{GetRandomFlags, getrandom};
        let mut filled = 0;
        while filled < bytes.len() {
            match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
                Ok(len) => filled += len,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        // The most that one call gives.
        for piece in bytes.chunks_mut(256) {
            // SAFETY: the pointer is to as many bytes as are asked for, and they are ours.
            check(unsafe { libc::getentropy(piece.as_mut_ptr().cast(), piece.len()) })?;
        }
        Ok(())
    }
}

/// Forks; `true` in the child. To be called while the process has a single thread.
pub(crate) fn fork() -> io::Result<bool> {
    // SAFETY: with a single thread no lock is held by one that the child lacks; the caller sees to it.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(true),
        _ => Ok(false),
    }
}

/// Ends this process without running what is registered to run at exit: that is the child's.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(code) }
}

/// What a signal shall do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Disposition {
    /// Write the signal's number, one byte, to the descriptor given to [`notify_signals`].
    Notify,
    /// Nothing.
    Ignore,
}

static SIGNAL_FD: AtomicI32 = AtomicI32::new(-1);

/// Lets handled signals write to `fd` from now on. It stays open for good, since a handler may run at any time.
pub(crate) fn notify_signals(fd: OwnedFd) {
    SIGNAL_FD.store(fd.into_raw_fd(), Ordering::Release);
}

/// Sets what `signal` does, for the whole process.
pub(crate) fn set_signal(signal: c_int, disposition: Disposition) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid value of it.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_flags = libc::SA_RESTART;
    action.sa_sigaction = match disposition {
        Disposition::Notify => handler as extern "C" fn(c_int) as libc::sighandler_t,
        Disposition::Ignore => libc::SIG_IGN,
    };
    // SAFETY: the action is initialised and the handler calls only what POSIX allows in one.
    check(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) })
}

extern "C" fn handler(signal: c_int) {
    let byte = u8::try_from(signal).unwrap_or(0);
    // SAFETY: errno is this thread's own, write is async-signal-safe, and the descriptor is never
    // closed. A full pipe loses the byte, but then earlier ones are there to wake the loop.
    unsafe {
        let errno = errno_location();
        let saved = *errno;
        libc::write(SIGNAL_FD.load(Ordering::Acquire), (&raw const byte).cast(), 1);
        *errno = saved;
    }
}

fn errno_location() -> *mut c_int {
    // SAFETY: returns the address of this thread's errno, without other effects.
    #[cfg(any(target_os = "linux", target_os = "l4re", target_os = "hurd"))]
    return unsafe { libc::__errno_location() };
    // SAFETY: as above.
    #[cfg(any(target_vendor = "apple", target_os = "freebsd", target_os = "dragonfly"))]
    return unsafe { libc::__error() };
    // SAFETY: as above.
    #[cfg(any(target_os = "openbsd", target_os = "netbsd", target_os = "android"))]
    return unsafe { libc::__errno() };
}

/// The user id and primary group of the user called `name`.
pub(crate) fn user_by_name(name: &str) -> io::Result<Option<(u32, u32)>> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    user(|entry, buffer, len, found| {
        // SAFETY: all pointers are valid for the call, `len` is the length of `buffer`.
        unsafe { libc::getpwnam_r(name.as_ptr(), entry, buffer, len, found) }
    })
}

/// The user id and primary group of the user numbered `uid`.
pub(crate) fn user_by_id(uid: u32) -> io::Result<Option<(u32, u32)>> {
    user(|entry, buffer, len, found| {
        // SAFETY: all pointers are valid for the call, `len` is the length of `buffer`.
        unsafe { libc::getpwuid_r(uid, entry, buffer, len, found) }
    })
}

/// The id of the group called `name`.
pub(crate) fn group_by_name(name: &str) -> io::Result<Option<u32>> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    look_up(|buffer, len| {
        let mut entry = MaybeUninit::<libc::group>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: all pointers are valid for the call, `len` is the length of `buffer`.
        let error = unsafe {
            libc::getgrnam_r(name.as_ptr(), entry.as_mut_ptr(), buffer, len, &raw mut found)
        };
        // SAFETY: where found is not null it points to `entry`, filled in; the id is a plain number.
        (error, (!found.is_null()).then(|| unsafe { (*found).gr_gid }))
    })
}

fn user(
    call: impl Fn(*mut libc::passwd, *mut libc::c_char, usize, *mut *mut libc::passwd) -> c_int,
) -> io::Result<Option<(u32, u32)>> {
    look_up(|buffer, len| {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = ptr::null_mut();
        let error = call(entry.as_mut_ptr(), buffer, len, &raw mut found);
        // SAFETY: where found is not null it points to `entry`, filled in; the ids are plain numbers.
        (error, (!found.is_null()).then(|| unsafe { ((*found).pw_uid, (*found).pw_gid) }))
    })
}

/// Calls a `get..._r` function with more and more room, until its entry fits.
fn look_up<T>(
    call: impl Fn(*mut libc::c_char, usize) -> (c_int, Option<T>),
) -> io::Result<Option<T>> {
    let mut room: Vec<libc::c_char> = vec![0; 1024];
    loop {
        match call(room.as_mut_ptr(), room.len()) {
            (_, Some(found)) => return Ok(Some(found)),
            // The other numbers are what systems are known to say for "no such entry".
            (0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM, None) => return Ok(None),
            (libc::EINTR, None) => {}
            (libc::ERANGE, None) if room.len() < 1 << 20 => room.resize(room.len() * 2, 0),
            (error, None) => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Makes `gid` the only supplementary group.
pub(crate) fn set_only_group(gid: u32) -> io::Result<()> {
    // SAFETY: one group, one element.
    check(unsafe { libc::setgroups(1, &raw const gid) })
}

/// Sets the real, effective and saved group.
pub(crate) fn set_gid(gid: u32) -> io::Result<()> {
    // SAFETY: takes numbers only, and for all threads.
    #[cfg(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "openbsd"
    ))]
    return check(unsafe { libc::setresgid(gid, gid, gid) });
    // SAFETY: takes a number only; for a privileged process it sets all three.
    #[cfg(not(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "openbsd"
    )))]
    return check(unsafe { libc::setgid(gid) });
}

/// Sets the real, effective and saved user.
pub(crate) fn set_uid(uid: u32) -> io::Result<()> {
    // SAFETY: takes numbers only, and for all threads.
    #[cfg(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "openbsd"
    ))]
    return check(unsafe { libc::setresuid(uid, uid, uid) });
    // SAFETY: takes a number only; for a privileged process it sets all three.
    #[cfg(not(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "openbsd"
    )))]
    return check(unsafe { libc::setuid(uid) });
}

/// Sets the user as whom this thread, and no other, makes files. For tests: that it is another than the
/// effective user stands for a directory that was swapped.
#[cfg(all(test, target_os = "linux"))]
pub(crate) fn set_file_owner(uid: u32) {
    // SAFETY: takes a number only.
    unsafe { libc::setfsuid(uid) };
}

/// Real, effective and saved user, then group; where the system does not tell the saved ones, the effective.
pub(crate) fn ids() -> io::Result<([u32; 3], [u32; 3])> {
    #[cfg(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "openbsd"
    ))]
    {
        let (mut u, mut g) = ([0; 3], [0; 3]);
        let ([ur, ue, us], [gr, ge, gs]) = (&mut u, &mut g);
        // SAFETY: each pointer is to a number that is ours for the call.
        check(unsafe { libc::getresuid(ur, ue, us) })?;
        // SAFETY: as above.
        check(unsafe { libc::getresgid(gr, ge, gs) })?;
        Ok((u, g))
    }
    #[cfg(not(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "openbsd"
    )))]
    {
        use rustix::process::{getegid, geteuid, getgid, getuid};
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        Ok(([getuid().as_raw(), user, user], [getgid().as_raw(), group, group]))
    }
}

/// Anonymous memory from the system, of zeros, which takes room only where it was written to.
#[cfg(target_os = "linux")]
pub(crate) struct Mapping {
    start: ptr::NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its memory as a Box<[u8]> would.
#[cfg(target_os = "linux")]
unsafe impl Send for Mapping {}
// SAFETY: as above; shared access only reads.
#[cfg(target_os = "linux")]
unsafe impl Sync for Mapping {}

#[cfg(target_os = "linux")]
impl Mapping {
    pub(crate) fn zeroed(len: usize) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        if isize::try_from(len).is_err() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at a place of the system's choice overlaps nothing.
        let start = unsafe {
            mmap_anonymous(ptr::null_mut(), len.max(1), ProtFlags::READ | ProtFlags::WRITE, flags)?
        };
        let start = ptr::NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    pub(crate) fn advise_huge(&mut self) -> io::Result<()> {
        use rustix::mm::{Advice, madvise};
        let start = self.start.as_ptr().cast();
        // SAFETY: the range is our mapping, and this advice changes no byte of it.
        unsafe { madvise(start, self.len.max(1), Advice::LinuxHugepage)? };
        Ok(())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes are mapped, initialised by the system, and ours until drop.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(target_os = "linux")]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no borrow of it outlives us.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len.max(1)) };
    }
}

/// A number that is 0 in each new process until that process sets it, however it was made: by fork or
/// by a system call. `None` where the system has no such memory.
///
/// Takes no lock, so a fork at any moment leaves nothing behind for the child to wait for.
#[cfg(target_os = "linux")]
pub(crate) fn wiped_on_fork() -> Option<&'static AtomicUsize> {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
    static PAGE: AtomicPtr<AtomicUsize> = AtomicPtr::new(ptr::null_mut());
    static UNSUPPORTED: AtomicI32 = AtomicI32::new(0);
    const LEN: usize = size_of::<AtomicUsize>();
    // SAFETY: `PAGE` is null or a page that is mapped for good, aligned and initialised with zeros.
    let page = || unsafe { PAGE.load(Ordering::Acquire).as_ref() };
    if page().is_some() || UNSUPPORTED.load(Ordering::Relaxed) != 0 {
        return page();
    }
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at a place of the system's choice overlaps nothing.
    let new = unsafe { mmap_anonymous(ptr::null_mut(), LEN, access, MapFlags::PRIVATE) }.ok()?;
    // SAFETY: the range is our mapping; in this process the advice changes no byte of it.
    let advised = unsafe { madvise(new, LEN, Advice::LinuxWipeOnFork) };
    if advised.is_err() {
        UNSUPPORTED.store(1, Ordering::Relaxed);
    }
    let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
    if advised.is_err()
        || PAGE.compare_exchange(ptr::null_mut(), new.cast(), success, failure).is_err()
    {
        // SAFETY: the mapping is ours, and nobody else has learned of it.
        let _ = unsafe { munmap(new, LEN) };
    }
    page()
}

/// As above: `None`.
#[cfg(not(target_os = "linux"))]
pub(crate) fn wiped_on_fork() -> Option<&'static AtomicUsize> {
    None
}

/// Counts in each child that the C library's `fork` makes, from the first call on: the number of forks
/// between this process and the one that called first.
pub(crate) fn forks() -> usize {
    static FORKS: AtomicUsize = AtomicUsize::new(0);
    static COUNTED: AtomicI32 = AtomicI32::new(0);
    extern "C" fn count() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }
    if COUNTED.load(Ordering::Relaxed) == 0 {
        // SAFETY: the handler does what is allowed in a child of a process with threads, and stays as
        // long as the code does. Two threads that register it make it count twice, which is as good.
        if unsafe { libc::pthread_atfork(None, None, Some(count)) } == 0 {
            COUNTED.store(1, Ordering::Relaxed);
        }
    }
    FORKS.load(Ordering::Relaxed)
}

/// Gives the system back what lies in the whole pages of `bytes`.
#[cfg(target_os = "linux")]
pub(crate) fn discard(bytes: &mut [u8]) {
    use rustix::mm::{Advice, madvise};
    let page = rustix::param::page_size();
    let before = bytes.as_ptr().align_offset(page);
    let Some(within) = bytes.get_mut(before..) else { return };
    let len = within.len() / page * page;
    if len == 0 {
        return;
    }
    // SAFETY: the pages lie wholly in `bytes`, which are borrowed for writing, and stay mapped. They
    // read as other bytes afterwards, and any byte is a valid `u8`. A refusal changes nothing.
    let mut advise = |advice| unsafe { madvise(within.as_mut_ptr().cast(), len, advice) };
    // Locked pages need an advice of their own, which exists since Linux 5.18.
    if advise(Advice::LinuxDontNeed).is_err() {
        let _ = advise(Advice::LinuxDontneedLocked);
    }
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
