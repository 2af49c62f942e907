//! One connection to a server or proxy: one request at a time.

use core::fmt;
use core::mem;

use crate::buffer::Window;
use crate::message::{Reply, Request};
use crate::wire::{self, Direction, Envelope, HEADER_LEN, MESSAGE_MAX, Malformed, Message, Op};
use zeroize::Zeroize;

/// Bytes of memory for one connection.
pub const MEMORY: usize = 2 * MESSAGE_MAX;

/// Why a request was refused, with nothing changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestError {
    /// The previous request has no answer yet.
    Busy,
    /// Id and session exceed one message: 32760 bytes together.
    TooLarge,
    /// The peer is not known to have this operation: its last answer had too low a patch level, or it
    /// has not answered yet. An [`Operation`](super::Operation) chooses requests that the peer has.
    Unsupported,
}

impl core::fmt::Display for RequestError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Busy => "the previous request has no answer yet",
            Self::TooLarge => "id and session are too long for one message",
            Self::Unsupported => "the server is not known to support this operation",
        })
    }
}

impl core::error::Error for RequestError {}

/// The client's end of one connection, with its memory: borrowed or owned.
///
/// [`request`](Self::request) fills the outbox. Send [`pending`](Self::pending), receive into
/// [`space`](Self::space), and call [`advance`](Self::advance) until it returns true; then
/// [`reply`](Self::reply) is the answer. After a failure or a timeout, drop the value together with the
/// connection: a late answer must not be taken for that of another request.
///
/// The memory holds sessions. Requests are wiped as they are sent, an answer by
/// [`clear_reply`](Self::clear_reply) or the next request, and the rest when the value is dropped.
pub struct Connection<M: AsRef<[u8]> + AsMut<[u8]>> {
    /// [`MESSAGE_MAX`] bytes for `inbox`, then as many for `outbox`.
    memory: M,
    inbox: Window,
    outbox: Window,
    uid: u32,
    /// The patch level of the peer's last answer; 0 before the first.
    level: u16,
    /// The operation of the last request.
    open: Option<Op>,
    /// The answer at the front of the inbox.
    answer: Option<Message>,
}

impl<M: AsRef<[u8]> + AsMut<[u8]>> Connection<M> {
    /// A new connection; `None` if `memory` has fewer than [`MEMORY`] bytes.
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

    /// Returns the memory, wiped, for another connection.
    pub fn into_memory(mut self) -> M
    where
        M: Default,
    {
        self.wipe();
        mem::take(&mut self.memory)
    }

    fn wipe(&mut self) {
        self.inbox.consume(inbox_mut(&mut self.memory), MESSAGE_MAX);
        self.outbox.consume(outbox_mut(&mut self.memory), MESSAGE_MAX);
    }

    /// The patch level of the peer's last answer; 0 before the first. Operations of higher levels are
    /// refused.
    pub const fn level(&self) -> u16 {
        self.level
    }

    /// Sets the patch level to that of the same peer's answer on an earlier connection.
    pub const fn set_level(&mut self, level: u16) {
        self.level = level;
    }

    /// Starts a request. Wipes the previous answer.
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
        let Some(len) = len else {
            room.zeroize();
            return Err(RequestError::TooLarge);
        };
        self.outbox.filled(len, MESSAGE_MAX);
        self.clear_reply();
        self.uid = uid;
        self.open = Some(op);
        Ok(())
    }

    /// The bytes to send.
    pub fn pending(&self) -> &[u8] {
        self.outbox.bytes(outbox(&self.memory))
    }

    /// Removes the first `len` bytes of `pending`, and wipes them: they are sent.
    pub fn sent(&mut self, len: usize) {
        self.outbox.consume(outbox_mut(&mut self.memory), len);
    }

    /// The buffer for received bytes; empty while there is an answer.
    pub fn space(&mut self) -> &mut [u8] {
        match self.answer {
            Some(_) => Default::default(),
            None => self.inbox.space(inbox_mut(&mut self.memory)),
        }
    }

    /// Takes the `len` bytes that were received into the front of `space`.
    pub fn filled(&mut self, len: usize) {
        self.inbox.filled(len, MESSAGE_MAX);
    }

    /// Checks whether the answer is complete: then [`Connection::reply`] returns it.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are not an answer to the request. Close the connection.
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

    /// The answer to the last request; `None` until it is complete.
    pub fn reply(&self) -> Option<Reply<'_>> {
        let message = self.answer?;
        let bytes = self.inbox.bytes(inbox(&self.memory));
        let payload = bytes.get(HEADER_LEN..)?.get(..message.payload_len)?;
        Reply::parse(message.header.op, payload).ok()
    }

    /// Wipes the answer, if there is one: call it once the reply has been used. [`Connection::reply`] is
    /// `None` then, and the next request can be made.
    pub fn clear_reply(&mut self) {
        if let Some(answer) = self.answer.take() {
            self.inbox.consume(inbox_mut(&mut self.memory), answer.wire_len);
            self.open = None;
        }
    }
}

impl<M: AsRef<[u8]> + AsMut<[u8]>> Drop for Connection<M> {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// Leaves out the memory, which holds sessions.
impl<M: AsRef<[u8]> + AsMut<[u8]>> fmt::Debug for Connection<M> {
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

    fn receive<M: AsRef<[u8]> + AsMut<[u8]>>(client: &mut Connection<M>, bytes: &[u8]) {
        client.space()[..bytes.len()].copy_from_slice(bytes);
        client.filled(bytes.len());
    }

    #[test]
    fn an_answer_is_complete_with_its_last_byte() {
        let mut memory = vec![0; MEMORY];
        let mut client = Connection::new(&mut memory).unwrap();
        assert_eq!(client.request(&Request::Get(ID)), Ok(()));
        assert_eq!(client.pending()[HEADER_LEN..], *b"id");
        client.sent(client.pending().len());
        let session = [7; 5000];
        for byte in reply(1, Op::Get, &session) {
            assert_eq!((client.advance(), client.reply()), (Ok(false), None));
            receive(&mut client, &[byte]);
        }
        assert_eq!(client.advance(), Ok(true));
        assert_eq!(client.reply(), Some(Reply::Session(&session)));
        assert!(client.space().is_empty());
        assert_eq!(client.request(&Request::Have(ID)), Ok(()));
        assert_eq!(client.reply(), None);
        assert_eq!(client.advance(), Ok(false));
        receive(&mut client, &reply(2, Op::Have, &[1]));
        assert_eq!(client.advance(), Ok(true));
        assert_eq!(client.reply(), Some(Reply::Status(Status::NOT_OK)));
    }

    #[test]
    fn what_was_sent_used_or_refused_is_wiped_and_the_rest_when_the_connection_ends() {
        let mut memory = vec![0; MEMORY];
        let mut client = Connection::new(&mut memory[..]).unwrap();
        let traces = |client: &Connection<&mut [u8]>| {
            client.memory.iter().filter(|byte| **byte == 123).count()
        };
        let session = [123; wire::PAYLOAD_MAX];
        let add = |len: usize| Request::Add(Add { ttl: 1, id: ID, session: &session[..len] });
        assert_eq!(client.request(&add(session.len() - 9)), Err(RequestError::TooLarge));
        assert_eq!(traces(&client), 0, "refused");
        assert_eq!(client.request(&add(3_000)), Ok(()));
        client.sent(1_000);
        assert!((2_000..3_000).contains(&traces(&client)));
        client.sent(client.pending().len());
        receive(&mut client, &reply(1, Op::Add, &[0]));
        assert_eq!((client.advance(), traces(&client)), (Ok(true), 0), "sent");
        assert_eq!(client.request(&Request::Get(ID)), Ok(()));
        receive(&mut client, &reply(2, Op::Get, &session[..3_000]));
        assert_eq!(client.advance(), Ok(true));
        assert_eq!(client.reply(), Some(Reply::Session(&session[..3_000])));
        client.clear_reply();
        assert_eq!((client.reply(), traces(&client)), (None, 0), "used");
        assert_eq!((client.advance(), client.request(&add(3_000))), (Ok(false), Ok(())));
        receive(&mut client, &reply(3, Op::Add, &session[..200])[..100]);
        assert!(traces(&client) > 3_000);
        drop(client);
        assert_eq!(memory, vec![0; MEMORY], "ended");
    }

    #[test]
    fn debug_output_of_a_connection_shows_no_session() {
        let mut memory = vec![0; MEMORY];
        let mut client = Connection::new(&mut memory).unwrap();
        let add = Add { ttl: 1, id: ID, session: &[123; 40] };
        assert_eq!(client.request(&Request::Add(add)), Ok(()));
        let text = std::format!("{client:?}");
        assert!(text.starts_with("Connection { ") && !text.contains("123, 123"), "{text}");
    }

    #[test]
    fn an_answer_to_another_request_is_malformed() {
        let strays = [
            reply(2, Op::Get, b"session"),
            reply(1, Op::Have, &[0]),
            reply(1, Op::Get, b"session")[1..].to_vec(),
        ];
        for stray in strays {
            let mut memory = vec![0; MEMORY];
            let mut client = Connection::new(&mut memory).unwrap();
            assert_eq!(client.request(&Request::Get(ID)), Ok(()));
            receive(&mut client, &stray);
            assert!(client.advance().is_err());
            assert_eq!(client.reply(), None);
        }
        let mut memory = vec![0; MEMORY];
        let mut client = Connection::new(&mut memory).unwrap();
        receive(&mut client, &reply(0, Op::Get, b"early"));
        assert!(client.advance().is_err());
    }

    #[test]
    fn an_answer_sent_twice_answers_one_request() {
        let mut memory = vec![0; MEMORY];
        let mut client = Connection::new(&mut memory).unwrap();
        assert_eq!(client.request(&Request::Get(ID)), Ok(()));
        receive(&mut client, &reply(1, Op::Get, b"session").repeat(2));
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
        let client = Connection::new(vec![0; MEMORY]);
        assert!(client.is_some_and(|client| client.into_memory().len() == MEMORY));
        assert!(Connection::new([0; MEMORY]).is_some());
    }
}
