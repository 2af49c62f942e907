//! What each thread fetched last through each context, for `DC_CTX_reget_session`.

use std::sync::atomic::{AtomicUsize, Ordering};

use distcache_core::id::{ID_MAX, Id};
use distcache_core::wire::PAYLOAD_MAX;

use crate::reserve::BLOCK_LEN;
use crate::thread::{Thread, with, with_existing};

/// For how many contexts a thread remembers its last fetch; the one used longest ago goes first.
const CONTEXTS_MAX: usize = 8;

/// The fewest bytes of memory for a session.
const ROOM_MIN: usize = 1024;

const _: () = assert!(ROOM_MIN > BLOCK_LEN);

/// What tells contexts apart, for as long as the process lives. Above 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Number(usize);

impl Number {
    /// One that no context had before.
    pub(crate) fn next() -> Self {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
    }
}

/// The latest fetch first.
pub(crate) type Recent = [Fetched; CONTEXTS_MAX];

/// A session that was fetched.
#[derive(Default)]
pub(crate) struct Fetched {
    context: Option<Number>,
    id: Name,
    session: Vec<u8>,
}

/// An id; none where `len` is 0.
struct Name {
    bytes: [u8; ID_MAX],
    len: usize,
}

impl Default for Name {
    fn default() -> Self {
        Self { bytes: [0; ID_MAX], len: 0 }
    }
}

impl Name {
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

/// Makes room for whatever this thread fetches next through the context; false where there is none.
pub(crate) fn reserve(context: Number) -> bool {
    enter(true, |recent| {
        let last = entry(recent, context)?;
        last.id.len = 0;
        last.session.clear();
        last.session.try_reserve_exact(PAYLOAD_MAX).ok()
    })
    .is_some()
}

/// This thread has just fetched `session`. Without memory there is nothing to remember, and no reason to
/// fail.
pub(crate) fn remember(context: Number, id: Id<'_>, session: &[u8]) {
    enter(true, |recent| {
        let last = entry(recent, context)?;
        last.id.len = 0;
        last.session.clear();
        // More than a block of the reserve, where nothing must stay.
        last.session.try_reserve(session.len().max(ROOM_MIN)).ok()?;
        last.id.set(id);
        last.session.extend_from_slice(session);
        Some(())
    });
}

/// This thread's last fetch must not be seen again. Its memory stays for the next.
pub(crate) fn forget(context: Number) {
    enter(false, |recent| {
        let last = recent.iter_mut().find(|last| last.context == Some(context))?;
        last.id.len = 0;
        Some(())
    });
}

/// There is no such context any more.
pub(crate) fn retire(context: Number) {
    enter(false, |recent| {
        let last = recent.iter_mut().find(|last| last.context == Some(context))?;
        *last = Fetched::default();
        Some(())
    });
}

/// Reads what this thread fetched last through the context, if that was `id`.
pub(crate) fn recall<T>(context: Number, id: Id<'_>, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
    enter(false, |recent| {
        let wanted = |last: &&Fetched| last.context == Some(context) && last.id.is(id);
        recent.iter().find(wanted).map(|last| read(&last.session))
    })
}

/// The place for the context, at the front: its own one, or the one used longest ago.
fn entry(recent: &mut Recent, context: Number) -> Option<&mut Fetched> {
    let own = recent.iter().position(|last| last.context == Some(context));
    let at = own.unwrap_or(CONTEXTS_MAX.saturating_sub(1));
    recent.get_mut(..=at)?.rotate_right(1);
    let first = recent.first_mut()?;
    first.context = Some(context);
    Some(first)
}

/// `None` where there is no memory of this thread, and none can be had or is wanted.
fn enter<T>(make: bool, work: impl FnOnce(&mut Recent) -> Option<T>) -> Option<T> {
    let work = |thread: &Thread| work(&mut *thread.recent.try_borrow_mut().ok()?);
    if make { with(work) } else { with_existing(work) }.flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recalled(context: Number, id: &[u8]) -> Option<Vec<u8>> {
        recall(context, Id::new(id).unwrap(), <[u8]>::to_vec)
    }

    #[test]
    fn a_thread_sees_its_own_last_fetch_through_each_context_and_no_other_s() {
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
    fn a_context_that_is_freed_leaves_nothing_in_the_thread_s_memory() {
        let (client, usual) = crate::target::client("UNIX:/no/such/socket", 0).ok().unwrap();
        let number = Number::next();
        let ctx = crate::DC_CTX { client, usual, number };
        remember(number, Id::new(b"id").unwrap(), b"session");
        let place = |number| {
            enter(false, |recent| recent.iter().position(|last| last.context == Some(number)))
        };
        assert_eq!(place(number), Some(0));
        drop(ctx);
        assert_eq!((place(number), recalled(number, b"id")), (None, None));
    }

    #[test]
    fn the_fetch_of_longest_ago_makes_room() {
        let id = Id::new(b"id").unwrap();
        let contexts: Vec<_> = (0..=CONTEXTS_MAX).map(|_| Number::next()).collect();
        for context in &contexts {
            remember(*context, id, b"session");
        }
        assert_eq!(recalled(contexts[0], b"id"), None);
        assert!(contexts[1..].iter().all(|context| recalled(*context, b"id").is_some()));
    }

    #[test]
    fn what_is_reserved_is_no_fetch_and_is_used_for_the_next() {
        let (context, id) = (Number::next(), Id::new(b"id").unwrap());
        remember(context, id, b"session");
        assert!(reserve(context));
        assert_eq!(recalled(context, b"id"), None);
        let place = || enter(false, |recent| recent.first().map(|last| last.session.as_ptr()));
        let before = place();
        remember(context, id, &[7; PAYLOAD_MAX]);
        assert_eq!(place(), before);
        assert_eq!(recalled(context, b"id"), Some(vec![7; PAYLOAD_MAX]));
    }
}
