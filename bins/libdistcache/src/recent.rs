//! What each thread fetched last through each context, for `DC_CTX_reget_session`.

use std::sync::atomic::{AtomicUsize, Ordering};

use distcache_core::id::{ID_MAX, Id};
use distcache_core::wire::PAYLOAD_MAX;
use zeroize::{Zeroize, Zeroizing};

use crate::reserve::BLOCK_LEN;
use crate::thread::{Thread, with, with_existing};

/// For how many contexts a thread remembers its last fetch. The least recently used is replaced first.
const CONTEXTS_MAX: usize = 8;

/// The least capacity of a session buffer, in bytes. More than a block of the reserve, which must not be
/// used for memory that outlives a call.
const CAPACITY_MIN: usize = 1024;

const _: () = assert!(CAPACITY_MIN > BLOCK_LEN);

/// Identifies a context. Unique in the process, and above 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Number(usize);

impl Number {
    /// Returns a number that no context has had before.
    pub(crate) fn next() -> Self {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
    }
}

/// Recent fetches, the latest first.
pub(crate) type Recent = [Fetched; CONTEXTS_MAX];

/// A fetched session. Behind its length, its memory holds nothing of an earlier one.
#[derive(Default)]
pub(crate) struct Fetched {
    context: Option<Number>,
    id: OwnedId,
    session: Zeroizing<Vec<u8>>,
}

impl Fetched {
    /// Wipes the session, and keeps the memory. Without this, a growing one would leave a copy.
    fn wipe(&mut self) {
        self.id.len = 0;
        self.session.as_mut_slice().zeroize();
        self.session.clear();
    }
}

/// An owned id; empty if `len` is 0.
struct OwnedId {
    bytes: [u8; ID_MAX],
    len: usize,
}

impl Default for OwnedId {
    fn default() -> Self {
        Self { bytes: [0; ID_MAX], len: 0 }
    }
}

impl OwnedId {
    fn set(&mut self, id: Id<'_>) {
        self.len = 0;
        if let Some(room) = self.bytes.get_mut(..id.bytes().len()) {
            room.copy_from_slice(id.bytes());
            self.len = room.len();
        }
    }

    fn is(&self, id: Id<'_>) -> bool {
        self.bytes.get(..self.len) == Some(id.bytes())
    }
}

/// Allocates memory for the next session that this thread fetches through the context. Returns false if
/// there is none.
pub(crate) fn reserve(context: Number) -> bool {
    with_recent(true, |recent| {
        let last = entry(recent, context)?;
        last.wipe();
        last.session.try_reserve_exact(PAYLOAD_MAX).ok()
    })
    .is_some()
}

/// Remembers the session that this thread has just fetched. Does nothing without memory, since the fetch
/// itself has succeeded.
pub(crate) fn remember(context: Number, id: Id<'_>, session: &[u8]) {
    with_recent(true, |recent| {
        let last = entry(recent, context)?;
        last.wipe();
        last.session.try_reserve(session.len().max(CAPACITY_MIN)).ok()?;
        last.id.set(id);
        last.session.extend_from_slice(session);
        Some(())
    });
}

/// Forgets and wipes this thread's last fetch through the context. Keeps its memory for the next.
pub(crate) fn forget(context: Number) {
    with_recent(false, |recent| {
        let last = recent.iter_mut().find(|last| last.context == Some(context))?;
        last.wipe();
        Some(())
    });
}

/// Forgets a context that is being freed, and wipes and frees the memory that this thread kept for it.
pub(crate) fn retire(context: Number) {
    with_recent(false, |recent| {
        let last = recent.iter_mut().find(|last| last.context == Some(context))?;
        *last = Fetched::default();
        Some(())
    });
}

/// Calls `read` with the session that this thread fetched last through the context, if that was `id`.
pub(crate) fn recall<T>(context: Number, id: Id<'_>, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
    with_recent(false, |recent| {
        let wanted = |last: &&Fetched| last.context == Some(context) && last.id.is(id);
        recent.iter().find(wanted).map(|last| read(&last.session))
    })
}

/// Moves the context's entry to the front and returns it. A new context replaces the last entry.
fn entry(recent: &mut Recent, context: Number) -> Option<&mut Fetched> {
    let own = recent.iter().position(|last| last.context == Some(context));
    let at = own.unwrap_or(CONTEXTS_MAX.saturating_sub(1));
    recent.get_mut(..=at)?.rotate_right(1);
    let first = recent.first_mut()?;
    first.context = Some(context);
    Some(first)
}

/// Calls `work` with this thread's fetches. Returns `None` if the thread has none, and `create` is false or
/// there is no memory.
fn with_recent<T>(create: bool, work: impl FnOnce(&mut Recent) -> Option<T>) -> Option<T> {
    let work = |thread: &Thread| work(&mut *thread.recent.try_borrow_mut().ok()?);
    if create { with(work) } else { with_existing(work) }.flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recalled(context: Number, id: &[u8]) -> Option<Vec<u8>> {
        recall(context, Id::new(id).unwrap(), <[u8]>::to_vec)
    }

    #[test]
    fn a_thread_recalls_only_its_own_last_fetch_through_each_context() {
        let (a, b) = (Id::new(b"a").unwrap(), Id::new(b"b").unwrap());
        let (one, two) = (Number::next(), Number::next());
        remember(one, a, b"first");
        remember(one, b, b"second");
        remember(two, a, b"third");
        assert_eq!(recalled(one, b"a"), None);
        assert_eq!(recalled(one, b"b"), Some(b"second".to_vec()));
        assert_eq!(recalled(two, b"a"), Some(b"third".to_vec()));
        std::thread::spawn(move || assert_eq!(recalled(one, b"b"), None)).join().unwrap();
        forget(one);
        retire(two);
        assert_eq!((recalled(one, b"b"), recalled(two, b"a")), (None, None));
    }

    #[test]
    fn a_context_that_is_freed_leaves_no_session_in_memory() {
        let (client, default_timeout) =
            crate::target::client("UNIX:/no/such/socket", 0).ok().unwrap();
        let number = Number::next();
        let ctx = crate::DC_CTX { client, default_timeout, number, keeps: true };
        remember(number, Id::new(b"id").unwrap(), b"session");
        let place = |number| {
            with_recent(false, |recent| recent.iter().position(|last| last.context == Some(number)))
        };
        assert_eq!(place(number), Some(0));
        drop(ctx);
        assert_eq!((place(number), recalled(number, b"id")), (None, None));
    }

    #[test]
    fn the_oldest_fetch_is_forgotten_first() {
        let id = Id::new(b"id").unwrap();
        let contexts: Vec<_> = (0..=CONTEXTS_MAX).map(|_| Number::next()).collect();
        for context in &contexts {
            remember(*context, id, b"session");
        }
        assert_eq!(recalled(contexts[0], b"id"), None);
        assert!(contexts[1..].iter().all(|context| recalled(*context, b"id").is_some()));
    }

    #[test]
    fn reserved_memory_holds_no_session_and_is_used_for_the_next_fetch() {
        let (context, id) = (Number::next(), Id::new(b"id").unwrap());
        remember(context, id, b"session");
        assert!(reserve(context));
        assert_eq!(recalled(context, b"id"), None);
        let place =
            || with_recent(false, |recent| recent.first().map(|last| last.session.as_ptr()));
        let before = place();
        remember(context, id, &[7; PAYLOAD_MAX]);
        assert_eq!(place(), before);
        assert_eq!(recalled(context, b"id"), Some(vec![7; PAYLOAD_MAX]));
    }
}
