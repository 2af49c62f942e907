//! The text protocol of memcached.

use distcache_core::wire::Op;
use distcache_posix::load::protocol::{Answer, Asked, Protocol};
use distcache_posix::load::session::Session;

use crate::text::{Text, data, line};

/// Speaks to memcached. ADD is `add`, which like ours does not replace a session.
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
            Op::Get | Op::Have | Op::Take | Op::Fetch | Op::Repair | Op::Copy => {
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
                data(bytes, after, session, b"\r\nEND\r\n")
            }
            _ => Err("unknown reply"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::check_protocol;

    #[test]
    fn requests_and_answers_are_as_memcached_has_them() {
        check_protocol(&Memcached, ["END", "ERROR\r\n"], |id, data| {
            let add = format!("add {id} 0 60 9\r\n{data}\r\n");
            let get = format!("get {id}\r\n");
            let session = format!("VALUE {id} 0 9\r\n{data}\r\nEND\r\n");
            [
                (Op::Add, add.clone(), "STORED\r\n".into(), true),
                (Op::Add, add, "NOT_STORED\r\n".into(), false),
                (Op::Remove, format!("delete {id}\r\n"), "DELETED\r\n".into(), true),
                (Op::Get, get.clone(), "END\r\n".into(), false),
                (Op::Get, get, session, true),
            ]
        });
    }
}
