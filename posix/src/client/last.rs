//! What each thread fetched last, for it to look at again without the network.

use std::cell::RefCell;

use distcache_core::id::Id;

/// For how many clients a thread remembers its last fetch; the one used longest ago goes first.
const CLIENTS_MAX: usize = 8;

thread_local! {
    static FETCHED: RefCell<Vec<Fetched>> = const { RefCell::new(Vec::new()) };
}

struct Fetched {
    client: u64,
    id: Vec<u8>,
    session: Vec<u8>,
}

/// This thread has just fetched `session` through the client numbered `client`.
pub(super) fn remember(client: u64, id: Id<'_>, session: &[u8]) {
    enter(|fetched| {
        let mut last = match fetched.iter().position(|last| last.client == client) {
            Some(at) => fetched.remove(at),
            None if fetched.len() == CLIENTS_MAX => fetched.remove(0),
            None => Fetched { client, id: Vec::new(), session: Vec::new() },
        };
        last.client = client;
        last.id.clear();
        last.session.clear();
        // Without memory there is nothing to remember, and no reason to fail.
        let room = fetched.try_reserve(1).and(last.id.try_reserve(id.bytes().len()));
        if room.and(last.session.try_reserve(session.len())).is_ok() {
            last.id.extend_from_slice(id.bytes());
            last.session.extend_from_slice(session);
            fetched.push(last);
        }
    });
}

/// This thread's last fetch through `client` is not to be seen again. Its buffer stays for the next.
pub(super) fn forget(client: u64) {
    enter(|fetched| {
        if let Some(last) = fetched.iter_mut().find(|last| last.client == client) {
            last.id.clear();
        }
    });
}

/// There is no such client any more.
pub(super) fn retire(client: u64) {
    enter(|fetched| fetched.retain(|last| last.client != client));
}

/// Reads what this thread fetched last through `client`, if that was `id`.
pub(super) fn recall<T>(client: u64, id: Id<'_>, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
    enter(|fetched| {
        let last = fetched.iter().find(|last| last.client == client && last.id == id.bytes());
        last.map(|last| read(&last.session))
    })
    .flatten()
}

/// `None` in a thread that is ending and has no memory of its own any more.
fn enter<T>(work: impl FnOnce(&mut Vec<Fetched>) -> T) -> Option<T> {
    FETCHED.try_with(|fetched| work(&mut fetched.borrow_mut())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recalled(client: u64, id: &[u8]) -> Option<Vec<u8>> {
        recall(client, Id::new(id).unwrap(), <[u8]>::to_vec)
    }

    #[test]
    fn a_thread_sees_its_own_last_fetch_of_each_client_and_no_other_s() {
        let (a, b) = (Id::new(b"a").unwrap(), Id::new(b"b").unwrap());
        remember(u64::MAX, a, b"first");
        remember(u64::MAX, b, b"second");
        remember(u64::MAX - 1, a, b"third");
        assert_eq!(recalled(u64::MAX, b"a"), None);
        assert_eq!(recalled(u64::MAX, b"b"), Some(b"second".to_vec()));
        assert_eq!(recalled(u64::MAX - 1, b"a"), Some(b"third".to_vec()));
        std::thread::spawn(|| assert_eq!(recalled(u64::MAX, b"b"), None)).join().unwrap();
        forget(u64::MAX);
        retire(u64::MAX - 1);
        assert_eq!((recalled(u64::MAX, b"b"), recalled(u64::MAX - 1, b"a")), (None, None));
    }

    #[test]
    fn the_fetch_of_longest_ago_makes_room() {
        let id = Id::new(b"id").unwrap();
        for client in 0..=CLIENTS_MAX as u64 {
            remember(client, id, b"session");
        }
        assert_eq!(recalled(0, b"id"), None);
        assert!((1..=CLIENTS_MAX as u64).all(|client| recalled(client, b"id").is_some()));
    }
}
