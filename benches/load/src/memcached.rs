//! memcached's protocol of lines.

use distcache_core::wire::Op;
use distcache_posix::load::protocol::{Answer, Asked, Protocol};
use distcache_posix::load::session::Session;

use crate::text::{Text, line};

/// Speaks to memcached. ADD is `add`, which leaves what is there, as ours does.
#[derive(Clone, Copy, Debug)]
pub struct Memcached;

impl Protocol for Memcached {
    const REQUEST_EXTRA: usize = 64;
    const ANSWER_EXTRA: usize = 64;

    fn request(&self, asked: &Asked, session: &Session, ttl: u32, out: &mut [u8]) -> usize {
        let len = session.data_len();
        let text = Text::new(out);
        match asked.op {
            Op::Add | Op::Put => text.put(b"add ").put(session.id()).put(b" 0 ").number(ttl / 1000),
            Op::Remove => return text.put(b"delete ").put(session.id()).put(b"\r\n").len(),
            Op::Get | Op::Have | Op::Take => {
                return text.put(b"get ").put(session.id()).put(b"\r\n").len();
            }
        }
        .put(b" ")
        .number(len as u64)
        .put(b"\r\n")
        .fill(len, |out| session.write(out))
        .put(b"\r\n")
        .len()
    }

    fn answer(
        &self,
        asked: &Asked,
        session: &Session,
        bytes: &mut [u8],
    ) -> Result<Option<Answer>, &'static str> {
        let Some(line) = line(bytes) else { return Ok(None) };
        let after = line.len() + 2;
        let said = |done| Ok(Some(Answer { len: after, done }));
        match (asked.op, line) {
            (Op::Add, b"STORED") | (Op::Remove, b"DELETED") => said(true),
            (Op::Add, b"NOT_STORED") | (Op::Remove, b"NOT_FOUND") => said(false),
            (Op::Get | Op::Have, b"END") => said(false),
            (Op::Get | Op::Have, [b'V', b'A', b'L', b'U', b'E', b' ', ..]) => {
                let end = after + session.data_len();
                let Some(data) = bytes.get(after..end + 7) else { return Ok(None) };
                let (data, end_mark) = data.split_at(session.data_len());
                if !session.is(data) || end_mark != b"\r\nEND\r\n" {
                    return Err("it is another session");
                }
                Ok(Some(Answer { len: end + 7, done: true }))
            }
            _ => Err("unknown words"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_are_as_memcached_has_them() {
        let (session, mut out) = (Session::new(1, 8, 9), [0; 99]);
        let id = std::str::from_utf8(session.id()).unwrap().to_owned();
        let data = format!("{id}{}", &id[..1]);
        let get = format!("VALUE {id} 0 9\r\n{data}\r\nEND\r\n");
        for (op, request, right, done) in [
            (Op::Add, format!("add {id} 0 60 9\r\n{data}\r\n"), "STORED\r\n", true),
            (Op::Add, format!("add {id} 0 60 9\r\n{data}\r\n"), "NOT_STORED\r\n", false),
            (Op::Remove, format!("delete {id}\r\n"), "DELETED\r\n", true),
            (Op::Get, format!("get {id}\r\n"), "END\r\n", false),
            (Op::Get, format!("get {id}\r\n"), get.as_str(), true),
        ] {
            let asked = Asked { op, session: 1, uid: 0 };
            let len = Memcached.request(&asked, &session, 60_000, &mut out);
            assert_eq!(out[..len], *request.as_bytes());
            let mut answer = [right.as_bytes(), b"END"].concat();
            let len = right.len();
            for cut in 0..len {
                assert_eq!(Memcached.answer(&asked, &session, &mut answer[..cut]), Ok(None));
            }
            let whole = Memcached.answer(&asked, &session, &mut answer);
            assert_eq!(whole, Ok(Some(Answer { len, done })));
            assert!(Memcached.answer(&asked, &session, &mut b"ERROR\r\n".to_vec()).is_err());
        }
    }
}
