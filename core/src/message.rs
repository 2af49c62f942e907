//! Requests, replies and statuses: what the payloads of messages say.

use core::fmt;

use crate::id::Id;
use crate::wire::{Malformed, Op};

/// The longest lifetime that an ADD or PUT may ask for: 7 days in milliseconds.
pub const TTL_MAX: u32 = 604_800_000;
/// Bytes of an ADD or PUT before its id: the timeout and the length of the id.
pub const ADD_FIXED_LEN: usize = 8;
/// Bytes of a stamp, which the answer to a FETCH that finds nothing carries.
pub const STAMP_LEN: usize = 8;
/// Bytes of the answer to a FETCH before the session: [`Status::OK`] and the lifetime left.
pub const FETCH_FIXED_LEN: usize = 5;
/// Bytes of the shortest session that a GET or TAKE can return: a shorter answer is a status.
pub const SESSION_MIN: usize = 5;

/// The one byte that answers most requests.
///
/// Prints as its name and number, such as `not found (1)`.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Status(pub u8);

impl Status {
    /// The request succeeded; as an answer to HAVE: the session is stored.
    pub const OK: Self = Self(0);
    /// No such session; as an answer to ADD and PUT: no room for this one.
    pub const NOT_OK: Self = Self(1);
    /// Sent by a proxy that cannot reach its server.
    pub const DISCONNECTED: Self = Self(2);
    /// Sent by a proxy, as an answer to operations above level 0: its server is not known to support
    /// them. Use the level 0 operations instead, as [`client::Operation`](crate::client::Operation)
    /// does. Also the answer to a COPY that is not allowed.
    pub const UNSUPPORTED: Self = Self(3);
    /// ADD and PUT: the length of the id leaves no byte for a session.
    pub const ADD_CORRUPT: Self = Self(100);
    /// ADD: another session is stored under this id, and stays.
    pub const ADD_EXISTS: Self = Self(101);
    /// ADD and PUT: the timeout exceeds [`TTL_MAX`].
    pub const ADD_TIMEOUT: Self = Self(102);
    /// ADD and PUT: the id is empty or longer than 64 bytes.
    pub const ADD_ID: Self = Self(103);
    /// ADD and PUT: the session is longer than the cache can hold.
    pub const ADD_DATA: Self = Self(104);
    /// REPAIR: the session was removed or replaced a moment ago, or the stamp is too old.
    pub const REMOVED: Self = Self(105);

    /// The status in a few words; `None` for a number that the protocol does not define.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::OK => Some("ok"),
            Self::NOT_OK => Some("not found"),
            Self::DISCONNECTED => Some("server unreachable"),
            Self::UNSUPPORTED => Some("not supported"),
            Self::ADD_CORRUPT => Some("corrupt"),
            Self::ADD_EXISTS => Some("already there"),
            Self::ADD_TIMEOUT => Some("timeout out of range"),
            Self::ADD_ID => Some("id out of range"),
            Self::ADD_DATA => Some("session out of range"),
            Self::REMOVED => Some("removed"),
            _ => None,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (*self, self.name()) {
            (Self::OK, _) => f.write_str("OK"),
            (Self(number), Some(name)) => write!(f, "{name} ({number})"),
            (Self(number), None) => write!(f, "Status({number})"),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A session to store: the payload of ADD and PUT.
///
/// On the wire: `ttl` (4 bytes), the length of the id (4 bytes), the id, the session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Add<'a> {
    /// Lifetime from its arrival: 0 to [`TTL_MAX`] milliseconds.
    pub ttl: u32,
    /// The id to store it under.
    pub id: Id<'a>,
    /// The session itself: 1 byte or more.
    pub session: &'a [u8],
}

impl<'a> Add<'a> {
    /// Parses the payload of an ADD or PUT.
    ///
    /// # Errors
    /// [`Malformed::Payload`] if it is shorter than [`ADD_FIXED_LEN`]. The inner error is the status
    /// that refuses the request; the checks run in the protocol's order.
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

/// A request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request<'a> {
    /// Stores a session under a free id.
    Add(Add<'a>),
    /// Fetches the session of this id.
    Get(Id<'a>),
    /// Removes the session of this id.
    Remove(Id<'a>),
    /// Asks whether a session of this id is stored.
    Have(Id<'a>),
    /// Stores a session, in place of any that is stored under its id.
    Put(Add<'a>),
    /// Fetches the session of this id and removes it.
    Take(Id<'a>),
    /// Fetches the session of this id, and its lifetime left.
    Fetch(Id<'a>),
    /// Stores a session that a FETCH has missed, which was answered with this stamp.
    Repair(u64, Add<'a>),
}

impl<'a> Request<'a> {
    /// Parses the payload of a request for `op`.
    ///
    /// The front of a payload will do: for ADD and PUT with the whole id and one byte of the session,
    /// which is then cut short; for the others with one byte more than [`ID_MAX`](crate::id::ID_MAX).
    /// The data of a message's first frame is always long enough: see
    /// [`Message::first_frame`](crate::wire::Message::first_frame).
    ///
    /// A COPY concerns no single session: parse it with [`Copy`](crate::copy::Copy).
    ///
    /// # Errors
    /// [`Malformed::Payload`] if an ADD or PUT is shorter than [`ADD_FIXED_LEN`], or a REPAIR shorter
    /// than that and [`STAMP_LEN`]. The inner error is the status that answers the request in place of
    /// a store; [`Status::UNSUPPORTED`] for a COPY.
    #[inline]
    pub fn parse(op: Op, payload: &'a [u8]) -> Result<Result<Self, Status>, Malformed> {
        if op.is_internal() {
            Self::parse_level_2(op, payload)
        } else {
            Self::parse_client(op, payload)
        }
    }

    /// Parses the payload of an operation that clients use: those of levels 0 and 1.
    #[inline(always)] // Otherwise the request is passed through memory.
    pub(crate) fn parse_client(
        op: Op,
        payload: &'a [u8],
    ) -> Result<Result<Self, Status>, Malformed> {
        let parsed = match op {
            Op::Add => Add::parse(payload)?.map(Self::Add),
            Op::Put => Add::parse(payload)?.map(Self::Put),
            Op::Get => Id::new(payload).map(Self::Get).ok_or(Status::NOT_OK),
            Op::Remove => Id::new(payload).map(Self::Remove).ok_or(Status::NOT_OK),
            Op::Have => Id::new(payload).map(Self::Have).ok_or(Status::NOT_OK),
            Op::Take => Id::new(payload).map(Self::Take).ok_or(Status::NOT_OK),
            Op::Fetch | Op::Repair | Op::Copy => Err(Status::UNSUPPORTED),
        };
        Ok(parsed)
    }

    /// Parses the payload of the others, apart so that `parse` stays small where it is inlined.
    #[cold]
    #[inline(never)]
    fn parse_level_2(op: Op, payload: &'a [u8]) -> Result<Result<Self, Status>, Malformed> {
        match op {
            Op::Fetch => Ok(Id::new(payload).map(Self::Fetch).ok_or(Status::NOT_OK)),
            Op::Repair => {
                let (stamp, add) = payload.split_first_chunk().ok_or(Malformed::Payload)?;
                let stamp = u64::from_be_bytes(*stamp);
                Ok(Add::parse(add)?.map(|add| Self::Repair(stamp, add)))
            }
            _ => Ok(Err(Status::UNSUPPORTED)),
        }
    }

    /// The operation that this requests.
    pub const fn op(&self) -> Op {
        match self {
            Self::Add(_) => Op::Add,
            Self::Get(_) => Op::Get,
            Self::Remove(_) => Op::Remove,
            Self::Have(_) => Op::Have,
            Self::Put(_) => Op::Put,
            Self::Take(_) => Op::Take,
            Self::Fetch(_) => Op::Fetch,
            Self::Repair(..) => Op::Repair,
        }
    }

    /// The id of the session.
    pub const fn id(&self) -> Id<'a> {
        match self {
            Self::Add(add) | Self::Put(add) | Self::Repair(_, add) => add.id,
            Self::Get(id)
            | Self::Remove(id)
            | Self::Have(id)
            | Self::Take(id)
            | Self::Fetch(id) => *id,
        }
    }

    /// Writes the payload to the front of `out` and returns its length; `None` if it does not fit.
    pub fn write(&self, out: &mut [u8]) -> Option<usize> {
        match self {
            Self::Add(add) | Self::Put(add) => {
                let id = add.id.bytes();
                let id_len = u32::try_from(id.len()).ok()?.to_be_bytes();
                gather(&[&add.ttl.to_be_bytes(), &id_len, id, add.session], out)
            }
            Self::Repair(stamp, add) => {
                let (room, rest) = out.split_first_chunk_mut()?;
                *room = stamp.to_be_bytes();
                Self::Add(*add).write(rest)?.checked_add(STAMP_LEN)
            }
            Self::Get(id)
            | Self::Remove(id)
            | Self::Have(id)
            | Self::Take(id)
            | Self::Fetch(id) => gather(&[id.bytes()], out),
        }
    }
}

/// Raises the timeout in the payload of an ADD or PUT to `min` milliseconds, if it is lower.
pub fn raise_ttl(payload: &mut [u8], min: u32) {
    if let Some(ttl) = payload.first_chunk_mut()
        && u32::from_be_bytes(*ttl) < min
    {
        *ttl = min.to_be_bytes();
    }
}

/// Lowers the timeout in the payload of an ADD or PUT to `max` milliseconds, if it is higher. One above
/// [`TTL_MAX`] stays as it is, so that the request is refused.
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

/// The answer to a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reply<'a> {
    /// The session that a GET or TAKE requested: [`SESSION_MIN`] bytes or more.
    Session(&'a [u8]),
    /// Any other answer. An empty payload, which the C proxy sends while its server is unreachable,
    /// counts as [`Status::DISCONNECTED`].
    Status(Status),
}

impl<'a> Reply<'a> {
    /// Parses the payload of a response to `op`.
    ///
    /// The answers to FETCH and COPY are parsed as [`Fetched`] and [`Piece`](crate::copy::Piece).
    ///
    /// # Errors
    /// [`Malformed::Payload`] if an answer that must be a status is longer than one byte, and for
    /// longer answers to FETCH and COPY.
    pub const fn parse(op: Op, payload: &'a [u8]) -> Result<Self, Malformed> {
        match (op, payload) {
            (_, []) => Ok(Self::Status(Status::DISCONNECTED)),
            (_, [code]) => Ok(Self::Status(Status(*code))),
            (Op::Get | Op::Take, session) if session.len() >= SESSION_MIN => {
                Ok(Self::Session(session))
            }
            (Op::Get | Op::Take, _) => Ok(Self::Status(Status::NOT_OK)),
            (Op::Fetch | Op::Copy, _)
            | (Op::Add | Op::Put | Op::Remove | Op::Have | Op::Repair, _) => {
                Err(Malformed::Payload)
            }
        }
    }
}

/// The answer to a FETCH.
///
/// On the wire: a hit is 0, the lifetime left (4 bytes), the session; a miss is 1, a stamp
/// (8 bytes). One byte is a status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fetched<'a> {
    /// The session, which lives for `ttl` milliseconds more.
    Session {
        /// 0 to [`TTL_MAX`].
        ttl: u32,
        /// 1 byte or more.
        session: &'a [u8],
    },
    /// No such session. A REPAIR with this stamp may store it at the same server.
    Missing(u64),
    /// Any other answer, an empty one included: see [`Reply::Status`].
    Status(Status),
}

impl<'a> Fetched<'a> {
    /// Parses the payload of a response to FETCH.
    ///
    /// # Errors
    /// [`Malformed::Payload`] if it is none of the three.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        match payload {
            [] => Ok(Self::Status(Status::DISCONNECTED)),
            [status] => Ok(Self::Status(Status(*status))),
            [0, t0, t1, t2, t3, session @ ..] if !session.is_empty() => {
                let ttl = u32::from_be_bytes([*t0, *t1, *t2, *t3]);
                if ttl > TTL_MAX {
                    Err(Malformed::Payload)
                } else {
                    Ok(Self::Session { ttl, session })
                }
            }
            [1, stamp @ ..] => {
                let stamp = stamp.try_into().map_err(|_| Malformed::Payload)?;
                Ok(Self::Missing(u64::from_be_bytes(stamp)))
            }
            _ => Err(Malformed::Payload),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::vec;
    use std::vec::Vec;

    fn payload(ttl: u32, id_len: u32, rest: &[u8]) -> Vec<u8> {
        [&ttl.to_be_bytes(), &id_len.to_be_bytes(), rest].concat()
    }

    #[test]
    fn the_checks_of_an_add_run_in_the_order_of_the_protocol() {
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
    fn an_add_shorter_than_its_fixed_fields_is_malformed() {
        for len in 0..ADD_FIXED_LEN {
            assert_eq!(Add::parse(&vec![0xff; len]), Err(Malformed::Payload), "{len} bytes");
        }
    }

    #[test]
    fn a_timeout_is_bounded_on_both_sides_and_one_out_of_range_stays_so() {
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
    fn a_status_prints_as_its_name_and_number() {
        for (status, text) in [
            (Status::OK, "OK"),
            (Status::NOT_OK, "not found (1)"),
            (Status::ADD_EXISTS, "already there (101)"),
            (Status(77), "Status(77)"),
        ] {
            assert_eq!((format!("{status}"), format!("{status:?}")), (text.into(), text.into()));
        }
    }

    #[test]
    fn a_request_is_parsed_from_what_it_writes_and_from_the_front_of_it() {
        let id = Id::new(&[7; 64]).unwrap();
        let add = Add { ttl: 7, id, session: b"session" };
        let requests = [
            Request::Add(add),
            Request::Get(id),
            Request::Remove(id),
            Request::Have(id),
            Request::Put(add),
            Request::Take(id),
        ];
        for request in requests {
            let mut out = [0; 100];
            let len = request.write(&mut out).unwrap();
            assert_eq!(Request::parse(request.op(), &out[..len]), Ok(Ok(request)));
            let stores = request.op().stores();
            if stores {
                let front = Request::parse(request.op(), &out[..ADD_FIXED_LEN + 65]);
                assert_eq!(front.map(|front| front.map(|front| front.id())), Ok(Ok(id)));
            }
            let none = if stores { Err(Malformed::Payload) } else { Ok(Err(Status::NOT_OK)) };
            assert_eq!(Request::parse(request.op(), &[]), none);
            let long = Request::parse(request.op(), &[1; 65]);
            assert!(matches!(long, Ok(Err(_))), "{long:?}");
        }
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
