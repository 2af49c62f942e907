//! What messages carry: the payloads of requests and of their answers.

use crate::id::Id;
use crate::wire::{Malformed, Op};

/// The longest life that an ADD or PUT may ask for: 7 days in milliseconds.
pub const TTL_MAX: u32 = 604_800_000;
/// The bytes of an ADD or PUT before its id: the timeout and the length of the id.
pub const ADD_FIXED_LEN: usize = 8;
/// A response to GET or TAKE that is shorter than this is taken for a status: no real session is so short.
pub const SESSION_MIN: usize = 5;

/// The one byte with which most requests are answered.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Status(pub u8);

impl Status {
    /// Done; or: the session is there.
    pub const OK: Self = Self(0);
    /// No such session.
    pub const NOT_OK: Self = Self(1);
    /// A proxy's word: the server is away.
    pub const DISCONNECTED: Self = Self(2);
    /// PUT and TAKE: a proxy's word: the server behind it is not known to have them. The old
    /// operations will do.
    pub const UNSUPPORTED: Self = Self(3);
    /// ADD: the id's length leaves no room for a session.
    pub const ADD_CORRUPT: Self = Self(100);
    /// ADD: a session is stored under this id; it stays.
    pub const ADD_EXISTS: Self = Self(101);
    /// ADD: the timeout is over [`TTL_MAX`].
    pub const ADD_TIMEOUT: Self = Self(102);
    /// ADD: the id is empty or longer than 64 bytes.
    pub const ADD_ID: Self = Self(103);
    /// ADD: the session is longer than what the cache can hold.
    pub const ADD_DATA: Self = Self(104);

    /// The status in a few words; `None` for a code that the protocol does not name.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::OK => Some("ok"),
            Self::NOT_OK => Some("not there"),
            Self::DISCONNECTED => Some("server away"),
            Self::UNSUPPORTED => Some("not supported"),
            Self::ADD_CORRUPT => Some("corrupt"),
            Self::ADD_EXISTS => Some("already there"),
            Self::ADD_TIMEOUT => Some("timeout out of range"),
            Self::ADD_ID => Some("id out of range"),
            Self::ADD_DATA => Some("session out of range"),
            _ => None,
        }
    }
}

/// A session to be stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Add<'a> {
    /// How long it is to live from its arrival: 0 to [`TTL_MAX`] milliseconds.
    pub ttl: u32,
    /// Under which id.
    pub id: Id<'a>,
    /// What is to be stored: 1 byte or more.
    pub session: &'a [u8],
}

impl<'a> Add<'a> {
    /// Reads the payload of an ADD or PUT.
    ///
    /// # Errors
    /// [`Malformed::Payload`] where it is shorter than its fixed fields. The inner error is the
    /// status that refuses it; the checks run in the protocol's order.
    pub fn parse(payload: &'a [u8]) -> Result<Result<Self, Status>, Malformed> {
        let fixed = payload.split_first_chunk::<4>();
        let fixed = fixed.and_then(|(ttl, rest)| Some((ttl, rest.split_first_chunk::<4>()?)));
        let Some((ttl, (id_len, rest))) = fixed else {
            return Err(Malformed::Payload);
        };
        let ttl = u32::from_be_bytes(*ttl);
        if ttl > TTL_MAX {
            return Ok(Err(Status::ADD_TIMEOUT));
        }
        let id_len = usize::try_from(u32::from_be_bytes(*id_len)).unwrap_or(usize::MAX);
        let Some((id, session @ [_, ..])) = rest.split_at_checked(id_len) else {
            return Ok(Err(Status::ADD_CORRUPT));
        };
        let Some(id) = Id::new(id) else {
            return Ok(Err(Status::ADD_ID));
        };
        Ok(Ok(Self { ttl, id, session }))
    }
}

/// A request that a client makes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request<'a> {
    /// Store a session.
    Add(Add<'a>),
    /// Fetch the session of this id.
    Get(Id<'a>),
    /// Forget the session of this id.
    Remove(Id<'a>),
    /// Ask for this id.
    Have(Id<'a>),
    /// Store a session in place of what is there.
    Put(Add<'a>),
    /// Fetch the session of this id and forget it.
    Take(Id<'a>),
}

impl<'a> Request<'a> {
    /// What is asked for.
    pub const fn op(&self) -> Op {
        match self {
            Self::Add(_) => Op::Add,
            Self::Get(_) => Op::Get,
            Self::Remove(_) => Op::Remove,
            Self::Have(_) => Op::Have,
            Self::Put(_) => Op::Put,
            Self::Take(_) => Op::Take,
        }
    }

    /// The id that the request is about.
    pub const fn id(&self) -> Id<'a> {
        match self {
            Self::Add(add) | Self::Put(add) => add.id,
            Self::Get(id) | Self::Remove(id) | Self::Have(id) | Self::Take(id) => *id,
        }
    }

    /// Writes the payload to the front of `out` and says how long it is; `None` where there is no
    /// room for it.
    pub fn write(&self, out: &mut [u8]) -> Option<usize> {
        match self {
            Self::Add(add) | Self::Put(add) => {
                let id = add.id.bytes();
                let id_len = u32::try_from(id.len()).ok()?.to_be_bytes();
                gather(&[&add.ttl.to_be_bytes(), &id_len, id, add.session], out)
            }
            Self::Get(id) | Self::Remove(id) | Self::Have(id) | Self::Take(id) => {
                gather(&[id.bytes()], out)
            }
        }
    }
}

/// Lets the session in the payload of an ADD or a PUT live for `min` milliseconds at least. What asks
/// for longer, or for too long, stays as it is.
pub fn raise_ttl(payload: &mut [u8], min: u32) {
    if let Some(ttl) = payload.first_chunk_mut()
        && u32::from_be_bytes(*ttl) < min
    {
        *ttl = min.to_be_bytes();
    }
}

/// Lets the session in the payload of an ADD or a PUT live for `max` milliseconds at most. A lifetime
/// above [`TTL_MAX`] stays as it is: it is refused.
pub fn lower_ttl(payload: &mut [u8], max: u32) {
    if let Some(ttl) = payload.first_chunk_mut()
        && (max..=TTL_MAX).contains(&u32::from_be_bytes(*ttl))
    {
        *ttl = max.to_be_bytes();
    }
}

fn gather(parts: &[&[u8]], out: &mut [u8]) -> Option<usize> {
    let mut len = 0_usize;
    for part in parts {
        let end = len.checked_add(part.len())?;
        out.get_mut(len..end)?.copy_from_slice(part);
        len = end;
    }
    Some(len)
}

/// What a server said to a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reply<'a> {
    /// The session that a GET or TAKE asked for.
    Session(&'a [u8]),
    /// Everything else. An answer without payload, which the C proxy gives while its server is
    /// away, counts as [`Status::DISCONNECTED`].
    Status(Status),
}

impl<'a> Reply<'a> {
    /// Reads the payload of a response to `op`.
    ///
    /// # Errors
    /// [`Malformed::Payload`] where an answer that must be a status is longer than one byte.
    pub const fn parse(op: Op, payload: &'a [u8]) -> Result<Self, Malformed> {
        match (op, payload) {
            (_, []) => Ok(Self::Status(Status::DISCONNECTED)),
            (_, [code]) => Ok(Self::Status(Status(*code))),
            (Op::Get | Op::Take, session) if session.len() >= SESSION_MIN => {
                Ok(Self::Session(session))
            }
            (Op::Get | Op::Take, _) => Ok(Self::Status(Status::NOT_OK)),
            (Op::Add | Op::Put | Op::Remove | Op::Have, _) => Err(Malformed::Payload),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn payload(ttl: u32, id_len: u32, rest: &[u8]) -> Vec<u8> {
        [&ttl.to_be_bytes(), &id_len.to_be_bytes(), rest].concat()
    }

    #[test]
    fn the_checks_of_an_add_run_in_the_protocols_order() {
        let cases = [
            (payload(TTL_MAX + 1, u32::MAX, b""), Status::ADD_TIMEOUT),
            (payload(TTL_MAX, 0, b""), Status::ADD_CORRUPT),
            (payload(TTL_MAX, 3, b"abc"), Status::ADD_CORRUPT),
            (payload(0, u32::MAX, b"abc"), Status::ADD_CORRUPT),
            (payload(0, 0, b"abc"), Status::ADD_ID),
            (payload(0, 65, &[1; 66]), Status::ADD_ID),
        ];
        for (payload, status) in cases {
            assert_eq!(Add::parse(&payload), Ok(Err(status)), "{payload:?}");
        }
    }

    #[test]
    fn an_add_shorter_than_its_fixed_fields_is_none() {
        for len in 0..ADD_FIXED_LEN {
            assert_eq!(Add::parse(&vec![0xff; len]), Err(Malformed::Payload), "{len} bytes");
        }
    }

    #[test]
    fn a_lifetime_is_bounded_on_both_sides_and_one_out_of_range_stays_so() {
        let bounded = |ttl: u32| {
            let mut payload = ttl.to_be_bytes();
            raise_ttl(&mut payload, 10);
            lower_ttl(&mut payload, 20);
            u32::from_be_bytes(payload)
        };
        let cases = [0, 10, 15, 20, 21, TTL_MAX, TTL_MAX + 1, u32::MAX];
        assert_eq!(cases.map(bounded), [10, 10, 15, 20, 20, 20, TTL_MAX + 1, u32::MAX]);
        lower_ttl(&mut [], 20);
    }

    #[test]
    fn what_a_request_writes_is_what_a_server_reads() {
        let id = Id::new(b"id").unwrap();
        let add = Add { ttl: 7, id, session: b"session" };
        let mut out = [0; 17];
        assert_eq!(Request::Add(add).write(&mut out), Some(17));
        assert_eq!(Add::parse(&out), Ok(Ok(add)));
        assert_eq!(Request::Add(add).write(&mut out[..16]), None);
        assert_eq!(Request::Have(id).write(&mut out), Some(2));
        assert_eq!(out[..2], *b"id");
    }

    #[test]
    fn a_reply_is_a_session_only_where_one_was_asked_for() {
        let status = |status| Ok(Reply::Status(status));
        for op in Op::ALL {
            assert_eq!(Reply::parse(op, b""), status(Status::DISCONNECTED));
            assert_eq!(Reply::parse(op, &[101]), status(Status::ADD_EXISTS));
        }
        assert_eq!(Reply::parse(Op::Get, b"four"), status(Status::NOT_OK));
        assert_eq!(Reply::parse(Op::Get, b"a five"), Ok(Reply::Session(b"a five")));
        assert_eq!(Reply::parse(Op::Have, b"a five"), Err(Malformed::Payload));
    }
}
