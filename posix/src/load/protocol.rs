//! The requests of a load, and their form on the wire.

use distcache_core::message::{ADD_FIXED_LEN, Reply, Status};
use distcache_core::wire::{self, Direction, Envelope, HEADER_LEN, Message, Op};

use super::session::Session;

/// One request of a load.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The operation: ADD, GET or REMOVE.
    pub op: Op,
    /// The number of the session.
    pub session: u32,
    /// The number of the request, for protocols that have one.
    pub uid: u32,
}

/// A right answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    /// Its length in bytes.
    pub len: usize,
    /// Whether the session was found, stored or removed.
    pub done: bool,
}

/// The form of requests and answers on the wire. The benchmark implements it for other caches.
pub trait Protocol {
    /// The most bytes of a request besides id and session.
    const REQUEST_EXTRA: usize;
    /// The most bytes of an answer besides the session.
    const ANSWER_EXTRA: usize;

    /// Writes a request to the front of `out`, which has room for it, and returns its length. An ADD has
    /// a lifetime of `ttl` milliseconds and must not replace a session.
    fn request(&self, asked: &Asked, session: &Session, ttl: u32, out: &mut [u8]) -> usize;

    /// Parses the answer at the front of `bytes`; `None` if it is incomplete. May overwrite `bytes`.
    ///
    /// # Errors
    /// What is wrong with the answer.
    fn answer(
        &self,
        asked: &Asked,
        session: &Session,
        bytes: &mut [u8],
    ) -> Result<Option<Answer>, &'static str>;
}

/// The distcache protocol.
#[derive(Clone, Copy, Debug)]
pub struct Distcache;

/// The headers of the most frames that a message has.
const HEADERS: usize = wire::MESSAGE_MAX - wire::PAYLOAD_MAX;

impl Protocol for Distcache {
    const REQUEST_EXTRA: usize = HEADERS + ADD_FIXED_LEN;
    const ANSWER_EXTRA: usize = HEADERS;

    fn request(&self, asked: &Asked, session: &Session, ttl: u32, out: &mut [u8]) -> usize {
        let (id, payload) = (session.id(), &mut out[HEADER_LEN..]);
        let len = match asked.op {
            Op::Add | Op::Put => {
                let (id_at, data_at) = (ADD_FIXED_LEN, ADD_FIXED_LEN + id.len());
                let end = data_at + session.data_len();
                payload[..4].copy_from_slice(&ttl.to_be_bytes());
                payload[4..id_at].copy_from_slice(&(id.len() as u32).to_be_bytes());
                payload[id_at..data_at].copy_from_slice(id);
                session.write(&mut payload[data_at..end]);
                end
            }
            // A load asks for none of the operations of level 2.
            Op::Get | Op::Remove | Op::Have | Op::Take | Op::Fetch | Op::Repair | Op::Copy => {
                payload[..id.len()].copy_from_slice(id);
                id.len()
            }
        };
        wire::frame(out, &Envelope::request(asked.uid, asked.op), len).unwrap_or(0)
    }

    fn answer(
        &self,
        asked: &Asked,
        session: &Session,
        bytes: &mut [u8],
    ) -> Result<Option<Answer>, &'static str> {
        let measured = Message::measure(bytes, Direction::Response);
        let Some(message) = measured.map_err(|malformed| malformed.reason())? else {
            return Ok(None);
        };
        if (message.header.uid, message.header.op) != (asked.uid, asked.op) {
            return Err("it is for another request");
        }
        let payload = message.payload(&mut bytes[..message.wire_len]);
        let reply = Reply::parse(asked.op, payload).map_err(|malformed| malformed.reason())?;
        let done = match (asked.op, reply) {
            (Op::Get | Op::Take, Reply::Session(data)) if session.is(data) => true,
            (_, Reply::Session(_)) => return Err("it is another session"),
            (Op::Get | Op::Take, Reply::Status(Status::OK)) => {
                return Err("a status, and no session");
            }
            (_, Reply::Status(Status::OK)) => true,
            (Op::Add, Reply::Status(Status::ADD_EXISTS)) => false,
            (Op::Add | Op::Put, Reply::Status(Status::NOT_OK)) => return Err("it was refused"),
            (_, Reply::Status(Status::NOT_OK)) => false,
            (_, Reply::Status(status)) => return Err(status.name().unwrap_or("unknown status")),
        };
        Ok(Some(Answer { len: message.wire_len, done }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use distcache_core::message::Add;

    fn asked(op: Op) -> Asked {
        Asked { op, session: 5, uid: 9 }
    }

    fn answer(op: Op, payload: &[u8], uid: u32) -> Result<Option<bool>, &'static str> {
        let mut wire = [0; 400];
        wire[HEADER_LEN..][..payload.len()].copy_from_slice(payload);
        let envelope = Envelope { direction: Direction::Response, ..Envelope::request(uid, op) };
        let len = wire::frame(&mut wire, &envelope, payload.len()).unwrap();
        let session = Session::new(5, 32, 200);
        for cut in 0..len {
            let cut = Distcache.answer(&asked(op), &session, &mut { wire }[..cut]);
            assert!(matches!(cut, Ok(None) | Err(_)));
        }
        let answer = Distcache.answer(&asked(op), &session, &mut wire)?;
        assert!(answer.is_none_or(|answer| answer.len == len));
        Ok(answer.map(|answer| answer.done))
    }

    #[test]
    fn a_server_can_parse_an_add() {
        let (session, mut out) = (Session::new(5, 32, 200), [0; 600]);
        let len = Distcache.request(&asked(Op::Add), &session, 77, &mut out);
        let message = Message::measure(&out[..len], Direction::Request).unwrap().unwrap();
        let add = Add::parse(message.payload(&mut out)).unwrap().unwrap();
        assert_eq!((add.ttl, add.id.bytes()), (77, session.id()));
        assert!(session.is(add.session));
    }

    #[test]
    fn only_answers_to_the_request_are_right() {
        let mut data = [0; 200];
        Session::new(5, 32, 200).write(&mut data);
        assert_eq!(answer(Op::Get, &data, 9), Ok(Some(true)));
        assert_eq!(answer(Op::Get, &[1], 9), Ok(Some(false)));
        assert_eq!(answer(Op::Add, &[0], 9), Ok(Some(true)));
        assert_eq!(answer(Op::Add, &[101], 9), Ok(Some(false)));
        assert_eq!(answer(Op::Remove, &[1], 9), Ok(Some(false)));
        assert_eq!(answer(Op::Get, &data, 8), Err("it is for another request"));
        assert_eq!(answer(Op::Get, &data[1..], 9), Err("it is another session"));
        assert_eq!(answer(Op::Add, &[104], 9), Err("session out of range"));
        assert_eq!(answer(Op::Get, &[2], 9), Err("server unreachable"));
    }
}
