//! The border between C and the rest: what happens at each call, whatever comes of it.

use std::ffi::c_char;
use std::fmt::{self, Write};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cancel::Uncancelled;
use crate::reason::Reason;
use crate::thread::{with, with_existing};

/// Room for a reason and the NUL behind it: the longest host fits, and what does not is cut.
const WORDS_MAX: usize = 512;

/// Bytes that a call has to find free: more than a session and what else is not asked for with care, and
/// so little that glibc has them at hand. At 112 KiB it gave memory back to the system after each
/// call, of which every thread of the process had to be told.
const MEMORY_PROBE: usize = 40 * 1024;

/// Does the `work` of one call. Where it fails or panics, the result is `failed`, and the reason is kept.
pub(crate) fn call<T>(failed: T, work: impl FnOnce() -> Result<T, Reason>) -> T {
    let known = with(|thread| thread.used_reserve.set(false)).is_some();
    let result = caught(|| match known && has_memory() {
        true => work(),
        false => Err(Reason::Said("no memory")),
    });
    let reason = match result {
        Some(Ok(done)) => {
            write(|words| words.set(format_args!("no failure")));
            return done;
        }
        Some(Err(reason)) => reason,
        None => Reason::Said("a fault in libdistcache itself: please report it"),
    };
    explain(&reason);
    failed
}

/// Does `work`; `None` where it panics.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    let _uncancelled = Uncancelled::new();
    hush();
    // A thread that can have no memory of its own does no work that could panic.
    let before = with(|thread| thread.inside.replace(true)).unwrap_or(false);
    // Whatever a panic leaves is not looked at again: a connection in use is dropped with the stack.
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    with_existing(|thread| thread.inside.set(before));
    result.ok()
}

/// Whether a call can have what it may need. Without it nothing is begun: what is refused later comes from
/// the reserve.
fn has_memory() -> bool {
    let mut probe: Vec<u8> = Vec::new();
    let there = probe.try_reserve_exact(MEMORY_PROBE).is_ok();
    // An allocation that nobody looks at is not made.
    std::hint::black_box(&probe);
    there
}

/// Keeps a reason for the thread to ask for.
pub(crate) fn explain(reason: &Reason) {
    write(|words| words.set(format_args!("{reason}")));
}

/// The reason that the thread kept last, as a C string that stays until its next call.
pub(crate) fn last_words() -> *const c_char {
    with(|thread| match thread.reason.try_borrow() {
        Ok(words) if words.len > 0 => words.bytes.as_ptr().cast(),
        _ => c"no failure".as_ptr(),
    })
    .unwrap_or(c"no memory".as_ptr())
}

fn write(work: impl FnOnce(&mut Words)) {
    with(|thread| {
        if let Ok(mut words) = thread.reason.try_borrow_mut() {
            work(&mut words);
        }
    });
}

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Sync + Send>;

/// The hook that was there before ours.
static OTHERS: OnceLock<Hook> = OnceLock::new();

/// Keeps panics of ours from being printed; those of other Rust code in the process are told as before.
fn hush() {
    /// A flag and no `Once`: a thread that another thread's fork leaves behind never finishes, and
    /// the child would wait for it for ever. Here the child goes on without the hook.
    static BEGUN: AtomicBool = AtomicBool::new(false);
    // Inside a panic the hook must not be touched; the next call does it then.
    if BEGUN.load(Ordering::Relaxed)
        || std::thread::panicking()
        || BEGUN.swap(true, Ordering::Relaxed)
    {
        return;
    }
    // One thread comes here, so this never waits.
    let _ = OTHERS.set(panic::take_hook());
    // It captures nothing, so the box is no allocation.
    panic::set_hook(Box::new(|info| {
        if !with_existing(|thread| thread.inside.get()).unwrap_or(false)
            && let Some(others) = OTHERS.get()
        {
            others(info);
        }
    }));
}

/// A C string: a text without NUL in it, and all behind it NUL.
pub(crate) struct Words {
    bytes: [u8; WORDS_MAX],
    len: usize,
}

impl Default for Words {
    fn default() -> Self {
        Self { bytes: [0; WORDS_MAX], len: 0 }
    }
}

impl Words {
    fn set(&mut self, text: fmt::Arguments<'_>) {
        self.bytes.fill(0);
        self.len = 0;
        let _ = self.write_fmt(text);
    }
}

impl Write for Words {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            let char = if char.is_control() { '?' } else { char };
            let end = self.len.saturating_add(char.len_utf8());
            // The last byte stays NUL.
            if end >= WORDS_MAX {
                return Err(fmt::Error);
            }
            if let Some(room) = self.bytes.get_mut(self.len..end) {
                char.encode_utf8(room);
                self.len = end;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;
    use std::process::Command;

    fn words() -> String {
        // SAFETY: it is a C string, and no call is made while it is looked at.
        unsafe { CStr::from_ptr(last_words()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_reason_is_kept_until_the_next_call_of_the_same_thread() {
        assert_eq!(call(7, || Err(Reason::NotThere)), 7);
        assert_eq!(words(), "no such session");
        std::thread::spawn(|| assert_eq!(words(), "no failure")).join().unwrap();
        assert_eq!(words(), "no such session");
        assert_eq!(call(7, || Ok(8)), 8);
        assert_eq!(words(), "no failure");
    }

    #[test]
    fn a_reason_too_long_is_cut_between_characters_and_has_no_controls() {
        let text = format!("a\0b\n{}", "ü".repeat(WORDS_MAX));
        call((), || Err(Reason::Target(text)));
        let words = words();
        assert!(words.starts_with("a?b?üü") && words.ends_with('ü'));
        assert_eq!(words.len(), WORDS_MAX - 2);
    }

    #[test]
    fn a_panic_is_a_failure_that_prints_nothing_and_others_are_told_as_before() {
        const CHILD: &str = "DISTCACHE_TEST_PANICS";
        if std::env::var_os(CHILD).is_some() {
            assert_eq!(call(-1, || panic!("in the call")), -1);
            assert!(words().starts_with("a fault in libdistcache"), "{}", words());
            let _ = panic::catch_unwind(|| panic!("beside the call"));
            return;
        }
        let name =
            "call::tests::a_panic_is_a_failure_that_prints_nothing_and_others_are_told_as_before";
        let own = std::env::current_exe().unwrap();
        let arguments = ["--exact", name, "--nocapture", "--test-threads=1"];
        let output = Command::new(own).args(arguments).env(CHILD, "1").output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{err}");
        assert!(err.contains("beside the call") && !err.contains("in the call"), "{err}");
    }
}
