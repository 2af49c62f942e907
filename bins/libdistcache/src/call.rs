//! What every call from C does around its work: catches panics, and keeps the reason of a failure.

use std::ffi::c_char;
use std::fmt::{self, Write};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cancel::Uncancelled;
use crate::reason::Reason;
use crate::thread::{with, with_existing};

/// The most bytes of a reason, with its NUL. The longest host name fits; longer texts are cut.
const REASON_MAX: usize = 512;

/// The bytes that must be free before a call begins: more than a session and all infallible allocations of
/// a call need, but few enough for glibc to keep. At 112 KiB, glibc returned the memory to the system
/// after each call, which interrupts every thread of the process.
const MEMORY_PROBE: usize = 40 * 1024;

/// Does the `work` of one call. If it fails or panics, keeps the reason and returns `failed`.
pub(crate) fn call<T>(failed: T, work: impl FnOnce() -> Result<T, Reason>) -> T {
    let known = with(|thread| thread.used_reserve.set(false)).is_some();
    let result = caught(|| match known && has_memory() {
        true => work(),
        false => Err(Reason::Text("no memory")),
    });
    let reason = match result {
        Some(Ok(done)) => {
            write(|words| words.set(format_args!("no failure")));
            return done;
        }
        Some(Err(reason)) => reason,
        None => Reason::Text("a fault in libdistcache itself: please report it"),
    };
    set_reason(&reason);
    failed
}

/// Does `work`. Returns `None` if it panics.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    let _uncancelled = Uncancelled::new();
    silence_panics();
    // Without memory for thread data the call does no work, so it cannot panic.
    let before = with(|thread| thread.inside.replace(true)).unwrap_or(false);
    // No state is seen half-changed after a panic: unwinding drops the connection in use.
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    wipe_registers();
    with_existing(|thread| thread.inside.set(before));
    result.ok()
}

/// Copies zeros, which takes the same vector registers as copying a session does. Those keep what was copied
/// last, and the dynamic linker writes them to the stack when the program calls another function for the
/// first time.
fn wipe_registers() {
    let zeros = [0_u8; 512];
    let mut copy = [1_u8; 512];
    // C libraries use registers of 32 or 64 bytes, and 8 of them at most. The compiler does not know the
    // length, so it calls the C library.
    for len in [256, 512] {
        let len = std::hint::black_box(len);
        if let (Some(to), Some(from)) = (copy.get_mut(..len), zeros.get(..len)) {
            std::hint::black_box(to).copy_from_slice(std::hint::black_box(from));
        }
    }
}

/// Returns whether there is memory for a call. If not, the call does not begin. If an allocation is
/// refused later, the reserve serves it.
fn has_memory() -> bool {
    let mut probe: Vec<u8> = Vec::new();
    let there = probe.try_reserve_exact(MEMORY_PROBE).is_ok();
    // Keeps the compiler from removing the allocation.
    std::hint::black_box(&probe);
    there
}

/// Sets the reason of this thread's last failure.
pub(crate) fn set_reason(reason: &Reason) {
    write(|words| words.set(format_args!("{reason}")));
}

/// Returns the reason of this thread's last call, as a C string that is valid until its next call.
pub(crate) fn last_reason() -> *const c_char {
    with(|thread| match thread.reason.try_borrow() {
        Ok(words) if words.len > 0 => words.bytes.as_ptr().cast(),
        _ => c"no failure".as_ptr(),
    })
    .unwrap_or(c"no memory".as_ptr())
}

fn write(work: impl FnOnce(&mut ReasonText)) {
    with(|thread| {
        if let Ok(mut words) = thread.reason.try_borrow_mut() {
            work(&mut words);
        }
    });
}

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Sync + Send>;

/// The panic hook that this library has replaced.
static PREVIOUS_HOOK: OnceLock<Hook> = OnceLock::new();

/// Keeps this library's panics from being printed. Those of other Rust code are printed as before.
fn silence_panics() {
    /// A flag, not a `Once`: if another thread forks while this one is in the `Once`, the child would
    /// wait for it for ever. With a flag the child goes on without the hook.
    static BEGUN: AtomicBool = AtomicBool::new(false);
    // The hook cannot be set during a panic; the next call sets it.
    if BEGUN.load(Ordering::Relaxed)
        || std::thread::panicking()
        || BEGUN.swap(true, Ordering::Relaxed)
    {
        return;
    }
    // Only one thread gets here, so this does not wait.
    let _ = PREVIOUS_HOOK.set(panic::take_hook());
    // It captures nothing, so the box does not allocate.
    panic::set_hook(Box::new(|info| {
        if !with_existing(|thread| thread.inside.get()).unwrap_or(false)
            && let Some(previous) = PREVIOUS_HOOK.get()
        {
            previous(info);
        }
    }));
}

/// A C string in a fixed buffer. All bytes behind the text are NUL.
pub(crate) struct ReasonText {
    bytes: [u8; REASON_MAX],
    len: usize,
}

impl Default for ReasonText {
    fn default() -> Self {
        Self { bytes: [0; REASON_MAX], len: 0 }
    }
}

impl ReasonText {
    fn set(&mut self, text: fmt::Arguments<'_>) {
        self.bytes.fill(0);
        self.len = 0;
        let _ = self.write_fmt(text);
    }
}

impl Write for ReasonText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            let char = if char.is_control() { '?' } else { char };
            let end = self.len.saturating_add(char.len_utf8());
            // The last byte stays NUL.
            if end >= REASON_MAX {
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
        // SAFETY: it is a C string, and no call is made while it is read.
        unsafe { CStr::from_ptr(last_reason()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_reason_is_kept_until_the_next_call_of_the_same_thread() {
        assert_eq!(call(7, || Err(Reason::NoSession)), 7);
        assert_eq!(words(), "no such session");
        std::thread::spawn(|| assert_eq!(words(), "no failure")).join().unwrap();
        assert_eq!(words(), "no such session");
        assert_eq!(call(7, || Ok(8)), 8);
        assert_eq!(words(), "no failure");
    }

    #[test]
    fn a_reason_that_is_too_long_is_cut_between_characters_and_has_no_control_characters() {
        let text = format!("a\0b\n{}", "ü".repeat(REASON_MAX));
        call((), || Err(Reason::Target(text)));
        let words = words();
        assert!(words.starts_with("a?b?üü") && words.ends_with('ü'));
        assert_eq!(words.len(), REASON_MAX - 2);
    }

    #[test]
    fn a_panic_in_a_call_prints_nothing_and_other_panics_are_printed_as_before() {
        const CHILD: &str = "DISTCACHE_TEST_PANICS";
        if std::env::var_os(CHILD).is_some() {
            assert_eq!(call(-1, || panic!("in the call")), -1);
            assert!(words().starts_with("a fault in libdistcache"), "{}", words());
            let _ = panic::catch_unwind(|| panic!("beside the call"));
            return;
        }
        let name =
            "call::tests::a_panic_in_a_call_prints_nothing_and_other_panics_are_printed_as_before";
        let own = std::env::current_exe().unwrap();
        let arguments = ["--exact", name, "--nocapture", "--test-threads=1"];
        let output = Command::new(own).args(arguments).env(CHILD, "1").output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{err}");
        assert!(err.contains("beside the call") && !err.contains("in the call"), "{err}");
    }
}
