//! The client: one request at a time to a server or a proxy.
//!
//! [`Connection::request`] puts a request into the outbox; send `pending`, receive into `space`, and
//! call [`Connection::advance`] until it says that the answer is there. A client whose connection broke,
//! or whose patience ended, is to be made anew with the new connection: then no late answer can be
//! taken for another one's.

use core::fmt;

use crate::buffer::Window;
use crate::message::{Reply, Request};
use crate::wire::{self, Direction, Envelope, HEADER_LEN, MESSAGE_MAX, Malformed, Message, Op};

/// Bytes of memory that a client needs.
pub const MEMORY: usize = 2 * MESSAGE_MAX;

/// Why a request could not be made; nothing has changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestError {
    /// The last request is not answered yet.
    Busy,
    /// The session is too long for one message.
    TooLarge,
    /// The peer is not known to have this operation: it has answered at too low a level, or not at
    /// all yet.
    Unsupported,
}

impl core::fmt::Display for RequestError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Busy => "the last request is not answered yet",
            Self::TooLarge => "the session is too long for one message",
            Self::Unsupported => "the server is not known to have this operation",
        })
    }
}

impl core::error::Error for RequestError {}

/// One end of a connection to a server, with the memory that it works in: borrowed, or its own.
pub struct Connection<M> {
    /// [`MESSAGE_MAX`] bytes of `inbox`, then as many of `outbox`.
    memory: M,
    inbox: Window,
    outbox: Window,
    uid: u32,
    /// The patch level of the peer's last answer; 0 before the first.
    level: u16,
    /// The operation that is to be answered.
    open: Option<Op>,
    /// The answer at the front of the inbox.
    answer: Option<Message>,
}

impl<M: AsRef<[u8]> + AsMut<[u8]>> Connection<M> {
    /// A client of a new connection; `None` where there are fewer than [`MEMORY`] bytes.
    pub fn new(memory: M) -> Option<Self> {
        (memory.as_ref().len() >= MEMORY).then_some(Self {
            memory,
            inbox: Window::new(),
            outbox: Window::new(),
            uid: 0,
            level: 0,
            open: None,
            answer: None,
        })
    }

    /// The memory, for another client.
    pub fn into_memory(self) -> M {
        self.memory
    }

    /// The patch level at which the peer has answered last; 0 before that. Operations that need a
    /// higher one are not sent.
    pub const fn level(&self) -> u16 {
        self.level
    }

    /// On an earlier connection the same peer has answered at this patch level.
    pub const fn set_level(&mut self, level: u16) {
        self.level = level;
    }

    /// Begins a request. The answer to the last one is dropped.
    ///
    /// # Errors
    /// [`RequestError`], with nothing changed.
    pub fn request(&mut self, request: &Request<'_>) -> Result<(), RequestError> {
        if self.open.is_some() && self.answer.is_none() {
            return Err(RequestError::Busy);
        }
        let (uid, op) = (self.uid.wrapping_add(1), request.op());
        if op.level() > self.level {
            return Err(RequestError::Unsupported);
        }
        let room = self.outbox.space(outbox_mut(&mut self.memory));
        let payload = room.get_mut(HEADER_LEN..).unwrap_or_default();
        let len = request.write(payload);
        let len = len.and_then(|len| wire::frame(room, &Envelope::request(uid, op), len));
        let len = len.ok_or(RequestError::TooLarge)?;
        self.outbox.filled(len, MESSAGE_MAX);
        if let Some(answer) = self.answer.take() {
            self.inbox.consume(answer.wire_len);
        }
        self.uid = uid;
        self.open = Some(op);
        Ok(())
    }

    /// The bytes to send.
    pub fn pending(&self) -> &[u8] {
        self.outbox.bytes(outbox(&self.memory))
    }

    /// The first `len` bytes of `pending` are on their way.
    pub fn sent(&mut self, len: usize) {
        self.outbox.consume(len);
    }

    /// Where received bytes go; empty while an answer is there.
    pub fn space(&mut self) -> &mut [u8] {
        match self.answer {
            Some(_) => Default::default(),
            None => self.inbox.space(inbox_mut(&mut self.memory)),
        }
    }

    /// The next `len` received bytes are in the front of `space`.
    pub fn filled(&mut self, len: usize) {
        self.inbox.filled(len, MESSAGE_MAX);
    }

    /// Looks whether the answer is there; then [`Connection::reply`] gives it.
    ///
    /// # Errors
    /// [`Malformed`] where what came is no answer to the request: the connection is to be closed.
    pub fn advance(&mut self) -> Result<bool, Malformed> {
        if self.answer.is_some() {
            return Ok(true);
        }
        let bytes = self.inbox.bytes(inbox(&self.memory));
        let Some(message) = Message::measure(bytes, Direction::Response)? else {
            return Ok(false);
        };
        let header = message.header;
        if Some(header.op) != self.open || header.uid != self.uid {
            return Err(Malformed::Payload);
        }
        let wire = self.inbox.bytes_mut(inbox_mut(&mut self.memory));
        Reply::parse(header.op, message.payload(wire))?;
        self.answer = Some(message);
        self.level = header.patch;
        Ok(true)
    }

    /// The answer to the last request; `None` before it is there.
    pub fn reply(&self) -> Option<Reply<'_>> {
        let message = self.answer?;
        let bytes = self.inbox.bytes(inbox(&self.memory));
        let payload = bytes.get(HEADER_LEN..)?.get(..message.payload_len)?;
        Reply::parse(message.header.op, payload).ok()
    }
}

/// Without the memory, which has sessions in it.
impl<M> fmt::Debug for Connection<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("inbox", &self.inbox)
            .field("outbox", &self.outbox)
            .field("uid", &self.uid)
            .field("level", &self.level)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

fn inbox(memory: &impl AsRef<[u8]>) -> &[u8] {
    memory.as_ref().get(..MESSAGE_MAX).unwrap_or_default()
}

fn inbox_mut(memory: &mut impl AsMut<[u8]>) -> &mut [u8] {
    memory.as_mut().get_mut(..MESSAGE_MAX).unwrap_or_default()
}

fn outbox(memory: &impl AsRef<[u8]>) -> &[u8] {
    memory.as_ref().get(MESSAGE_MAX..MEMORY).unwrap_or_default()
}

fn outbox_mut(memory: &mut impl AsMut<[u8]>) -> &mut [u8] {
    memory.as_mut().get_mut(MESSAGE_MAX..MEMORY).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;
    use crate::message::{Add, Status};
    use std::vec;

    const ID: Id<'static> = match Id::new(b"id") {
        Some(id) => id,
        None => panic!("two bytes are an id"),
    };

    fn reply(uid: u32, op: Op, payload: &[u8]) -> vec::Vec<u8> {
        let mut wire = vec![0; MESSAGE_MAX];
        wire[HEADER_LEN..][..payload.len()].copy_from_slice(payload);
        let envelope = Envelope { direction: Direction::Response, ..Envelope::request(uid, op) };
        let len = wire::frame(&mut wire, &envelope, payload.len()).unwrap();
        wire.truncate(len);
        wire
    }

    fn hear<M: AsRef<[u8]> + AsMut<[u8]>>(client: &mut Connection<M>, bytes: &[u8]) {
        client.space()[..bytes.len()].copy_from_slice(bytes);
        client.filled(bytes.len());
    }

    #[test]
    fn an_answer_is_there_when_its_last_byte_is() {
        let mut memory = vec![0; MEMORY];
        let mut client = Connection::new(&mut memory).unwrap();
        assert_eq!(client.request(&Request::Get(ID)), Ok(()));
        assert_eq!(client.pending()[HEADER_LEN..], *b"id");
        client.sent(client.pending().len());
        let session = [7; 5000];
        for byte in reply(1, Op::Get, &session) {
            assert_eq!((client.advance(), client.reply()), (Ok(false), None));
            hear(&mut client, &[byte]);
        }
        assert_eq!(client.advance(), Ok(true));
        assert_eq!(client.reply(), Some(Reply::Session(&session)));
        assert!(client.space().is_empty());
        assert_eq!(client.request(&Request::Have(ID)), Ok(()));
        assert_eq!(client.reply(), None);
        assert_eq!(client.advance(), Ok(false));
        hear(&mut client, &reply(2, Op::Have, &[1]));
        assert_eq!(client.advance(), Ok(true));
        assert_eq!(client.reply(), Some(Reply::Status(Status::NOT_OK)));
    }

    #[test]
    fn what_is_printed_of_a_client_has_no_session_in_it() {
        let mut memory = vec![0; MEMORY];
        let mut client = Connection::new(&mut memory).unwrap();
        let add = Add { ttl: 1, id: ID, session: &[123; 40] };
        assert_eq!(client.request(&Request::Add(add)), Ok(()));
        let text = std::format!("{client:?}");
        assert!(text.starts_with("Connection { ") && !text.contains("123, 123"), "{text}");
    }

    #[test]
    fn what_was_not_asked_for_is_no_answer() {
        let strays = [
            reply(2, Op::Get, b"session"),
            reply(1, Op::Have, &[0]),
            reply(1, Op::Get, b"session")[1..].to_vec(),
        ];
        for stray in strays {
            let mut memory = vec![0; MEMORY];
            let mut client = Connection::new(&mut memory).unwrap();
            assert_eq!(client.request(&Request::Get(ID)), Ok(()));
            hear(&mut client, &stray);
            assert!(client.advance().is_err());
            assert_eq!(client.reply(), None);
        }
        let mut memory = vec![0; MEMORY];
        let mut client = Connection::new(&mut memory).unwrap();
        hear(&mut client, &reply(0, Op::Get, b"early"));
        assert!(client.advance().is_err());
    }

    #[test]
    fn an_answer_said_twice_answers_one_request() {
        let mut memory = vec![0; MEMORY];
        let mut client = Connection::new(&mut memory).unwrap();
        assert_eq!(client.request(&Request::Get(ID)), Ok(()));
        hear(&mut client, &reply(1, Op::Get, b"session").repeat(2));
        assert_eq!(client.advance(), Ok(true));
        assert_eq!(client.request(&Request::Get(ID)), Ok(()));
        assert!(client.advance().is_err());
    }

    #[test]
    fn a_request_that_cannot_be_made_changes_nothing() {
        let mut memory = vec![0; MEMORY];
        let mut client = Connection::new(&mut memory).unwrap();
        let session = vec![7; wire::PAYLOAD_MAX];
        let largest = wire::PAYLOAD_MAX - 8 - 2;
        let add = |len: usize| Request::Add(Add { ttl: 1, id: ID, session: &session[..len] });
        assert_eq!(client.request(&add(largest + 1)), Err(RequestError::TooLarge));
        assert!(client.pending().is_empty());
        assert_eq!(client.request(&add(largest)), Ok(()));
        assert_eq!(client.request(&Request::Get(ID)), Err(RequestError::Busy));
        assert_eq!(client.pending().len(), MESSAGE_MAX);
        assert!(Connection::new(&mut vec![0; MEMORY - 1]).is_none());
        assert!(
            Connection::new([0; MEMORY]).is_some_and(|client| client.into_memory().len() == MEMORY)
        );
    }
}
