//! The protocol of Redis.

use distcache_core::wire::Op;
use distcache_posix::load::protocol::{Answer, Asked, Protocol};
use distcache_posix::load::session::Session;

use crate::text::{Text, line};

/// Speaks to Redis. ADD is `SET` with `NX`, which leaves what is there, as ours does.
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
            Op::Get | Op::Have | Op::Take => text.put(b"*2\r\n$3\r\nGET"),
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
            (Op::Get | Op::Have, [b'$', ..]) => {
                let end = after + session.data_len();
                let Some(data) = bytes.get(after..end + 2) else { return Ok(None) };
                if !session.is(&data[..session.data_len()]) || !data.ends_with(b"\r\n") {
                    return Err("it is another session");
                }
                Ok(Some(Answer { len: end + 2, done: true }))
            }
            _ => Err("unknown words"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_are_as_redis_has_them() {
        let (session, mut out) = (Session::new(1, 8, 9), [0; 120]);
        let id = std::str::from_utf8(session.id()).unwrap().to_owned();
        let data = format!("{id}{}", &id[..1]);
        let get = format!("$9\r\n{data}\r\n");
        let set = format!(
            "*6\r\n$3\r\nSET\r\n$8\r\n{id}\r\n$9\r\n{data}\r\n$2\r\nPX\r\n$5\r\n60000\r\n$2\r\nNX\r\n"
        );
        for (op, request, right, done) in [
            (Op::Add, set.clone(), "+OK\r\n", true),
            (Op::Add, set, "$-1\r\n", false),
            (Op::Remove, format!("*2\r\n$3\r\nDEL\r\n$8\r\n{id}\r\n"), ":1\r\n", true),
            (Op::Get, format!("*2\r\n$3\r\nGET\r\n$8\r\n{id}\r\n"), "$-1\r\n", false),
            (Op::Get, format!("*2\r\n$3\r\nGET\r\n$8\r\n{id}\r\n"), get.as_str(), true),
        ] {
            let asked = Asked { op, session: 1, uid: 0 };
            let len = Resp.request(&asked, &session, 60_000, &mut out);
            assert_eq!(out[..len], *request.as_bytes());
            let mut answer = [right.as_bytes(), b"$-1"].concat();
            let len = right.len();
            for cut in 0..len {
                assert_eq!(Resp.answer(&asked, &session, &mut answer[..cut]), Ok(None));
            }
            let whole = Resp.answer(&asked, &session, &mut answer);
            assert_eq!(whole, Ok(Some(Answer { len, done })));
            assert!(Resp.answer(&asked, &session, &mut b"-ERR\r\n".to_vec()).is_err());
        }
    }
}
