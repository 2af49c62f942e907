//! Checks of a protocol that is not ours, for its tests.

use distcache_core::wire::Op;
use distcache_posix::load::protocol::{Answer, Asked, Protocol};
use distcache_posix::load::session::Session;

/// A request, one of its answers, and whether that says that it was done or found.
pub(crate) type Case = (Op, String, String, bool);

/// Writes each request of `cases`, with the id and the data of a session of 9 bytes that lives for
/// a minute, and reads its answer, first in parts and then with `behind` behind it. A `wrong`
/// answer must be refused.
pub(crate) fn check_protocol<const N: usize>(
    protocol: &impl Protocol,
    [behind, wrong]: [&str; 2],
    cases: impl Fn(&str, &str) -> [Case; N],
) {
    let session = Session::new(1, 8, 9);
    let id = std::str::from_utf8(session.id()).unwrap();
    for (op, request, right, done) in cases(id, &format!("{id}{}", &id[..1])) {
        let asked = Asked { op, session: 1, uid: 0 };
        let mut out = [0; 120];
        let len = protocol.request(&asked, &session, 60_000, &mut out);
        assert_eq!(out[..len], *request.as_bytes());
        let mut answer = [right.as_bytes(), behind.as_bytes()].concat();
        let len = right.len();
        for cut in 0..len {
            assert_eq!(protocol.answer(&asked, &session, &mut answer[..cut]), Ok(None));
        }
        let whole = protocol.answer(&asked, &session, &mut answer);
        assert_eq!(whole, Ok(Some(Answer { len, done })));
        assert!(protocol.answer(&asked, &session, &mut wrong.as_bytes().to_vec()).is_err());
    }
}
