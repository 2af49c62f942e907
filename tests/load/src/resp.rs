//! The protocol of Redis.

use distcache_core::wire::Op;
use distcache_posix::load::protocol::{Answer, Asked, Protocol};
use distcache_posix::load::session::Session;

use crate::text::{Text, data, line};

/// Speaks to Redis. ADD is `SET` with `NX`, which like ours does not replace a session.
#[derive(Clone, Copy, Debug)]
pub struct Resp;

impl Protocol for Resp {
    const REQUEST_EXTRA: usize = 96;
    const ANSWER_EXTRA: usize = 32;

    fn request(&self, asked: &Asked, session: &Session, ttl: u32, out: &mut [u8]) -> usize {
        let (id, len) = (session.id(), session.data_len());
        let text = Text::new(out);
        let text = match asked.op {
            Op::Add | Op::Put => text.put(b"*6\r\n$3\r\nSET"),
            Op::Remove => text.put(b"*2\r\n$3\r\nDEL"),
            Op::Get | Op::Have | Op::Take | Op::Fetch | Op::Repair | Op::Copy => {
                text.put(b"*2\r\n$3\r\nGET")
            }
        };
        let text = text.put(b"\r\n$").number(id.len() as u64).put(b"\r\n").put(id);
        if asked.op != Op::Add {
            return text.put(b"\r\n").len();
        }
        let digits = u64::from(ttl.max(1).ilog10()) + 1;
        let text = text.put(b"\r\n$").number(len as u64).put(b"\r\n");
        let text = text.fill(len, |out| session.write(out)).put(b"\r\n$2\r\nPX\r\n$");
        text.number(digits).put(b"\r\n").number(ttl).put(b"\r\n$2\r\nNX\r\n").len()
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
            (Op::Add, b"+OK") | (Op::Remove, b":1") => said(true),
            (Op::Add | Op::Get | Op::Have, b"$-1") | (Op::Remove, b":0") => said(false),
            (Op::Get | Op::Have, [b'$', ..]) => data(bytes, after, session, b"\r\n"),
            _ => Err("unknown reply"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::check_protocol;

    #[test]
    fn requests_and_answers_are_as_redis_has_them() {
        check_protocol(&Resp, ["$-1", "-ERR\r\n"], |id, data| {
            let set = format!(
                "*6\r\n$3\r\nSET\r\n$8\r\n{id}\r\n$9\r\n{data}\r\n$2\r\nPX\r\n$5\r\n60000\r\n$2\r\nNX\r\n"
            );
            let get = format!("*2\r\n$3\r\nGET\r\n$8\r\n{id}\r\n");
            let remove = format!("*2\r\n$3\r\nDEL\r\n$8\r\n{id}\r\n");
            [
                (Op::Add, set.clone(), "+OK\r\n".into(), true),
                (Op::Add, set, "$-1\r\n".into(), false),
                (Op::Remove, remove, ":1\r\n".into(), true),
                (Op::Get, get.clone(), "$-1\r\n".into(), false),
                (Op::Get, get, format!("$9\r\n{data}\r\n"), true),
            ]
        });
    }
}
