//! The client: one request at a time to a server or a proxy.
//!
//! [`Client::request`] puts a request into the outbox; send `pending`, receive into `space`, and
//! call [`Client::advance`] until it says that the answer is there. A client whose connection broke,
//! or whose patience ended, is to be made anew with the new connection: then no late answer can be
//! taken for another one's.

use crate::message::{Reply, Request};
use crate::pool::{Fifo, Pool};
use crate::wire::{self, Direction, HEADER_LEN, MESSAGE_MAX, Malformed, Message, Op};

/// Bytes of memory that a client needs.
pub const MEMORY: usize = 2 * MESSAGE_MAX;

/// Why a request could not be made; nothing has changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestError {
    /// The last request is not answered yet.
    Busy,
    /// The session is too long for one message.
    TooLarge,
}

/// One end of a connection to a server.
#[derive(Debug)]
pub struct Client<'m> {
    pool: Pool<'m>,
    inbox: Fifo,
    outbox: Fifo,
    uid: u32,
    /// The operation that is to be answered.
    open: Option<Op>,
    /// The answer at the front of the inbox.
    answer: Option<Message>,
}

impl<'m> Client<'m> {
    /// A client of a new connection; `None` where there are fewer than [`MEMORY`] bytes.
    pub fn new(memory: &'m mut [u8]) -> Option<Self> {
        let mut pool = Pool::new(memory, MESSAGE_MAX);
        let (mut inbox, mut outbox) = (Fifo::new(), Fifo::new());
        (inbox.keep(&mut pool) && outbox.keep(&mut pool)).then_some(Self {
            pool,
            inbox,
            outbox,
            uid: 0,
            open: None,
            answer: None,
        })
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
        let room = self.outbox.space(&mut self.pool);
        let payload = room.get_mut(HEADER_LEN..).unwrap_or_default();
        let len = request.write(payload);
        let len = len.and_then(|len| wire::frame(room, Direction::Request, uid, op, len));
        let len = len.ok_or(RequestError::TooLarge)?;
        self.outbox.filled(&mut self.pool, len);
        if let Some(answer) = self.answer.take() {
            self.inbox.consume(&mut self.pool, answer.wire_len);
        }
        self.uid = uid;
        self.open = Some(op);
        Ok(())
    }

    /// The bytes to send.
    pub fn pending(&self) -> &[u8] {
        self.outbox.bytes(&self.pool)
    }

    /// The first `len` bytes of `pending` are on their way.
    pub fn sent(&mut self, len: usize) {
        self.outbox.consume(&mut self.pool, len);
    }

    /// Where received bytes go; empty while an answer is there.
    pub fn space(&mut self) -> &mut [u8] {
        match self.answer {
            Some(_) => Default::default(),
            None => self.inbox.space(&mut self.pool),
        }
    }

    /// The next `len` received bytes are in the front of `space`.
    pub fn filled(&mut self, len: usize) {
        self.inbox.filled(&mut self.pool, len);
    }

    /// Looks whether the answer is there; then [`Client::reply`] gives it.
    ///
    /// # Errors
    /// [`Malformed`] where what came is no answer to the request: the connection is to be closed.
    pub fn advance(&mut self) -> Result<bool, Malformed> {
        if self.answer.is_some() {
            return Ok(true);
        }
        let bytes = self.inbox.bytes(&self.pool);
        let Some(message) = Message::measure(bytes, Direction::Response)? else {
            return Ok(false);
        };
        let header = message.header;
        if Some(header.op) != self.open || header.uid != self.uid {
            return Err(Malformed::Payload);
        }
        let wire = self.inbox.bytes_mut(&mut self.pool);
        Reply::parse(header.op, message.payload(wire))?;
        self.answer = Some(message);
        Ok(true)
    }

    /// The answer to the last request; `None` before it is there.
    pub fn reply(&self) -> Option<Reply<'_>> {
        let message = self.answer?;
        let bytes = self.inbox.bytes(&self.pool);
        let payload = bytes.get(HEADER_LEN..)?.get(..message.payload_len)?;
        Reply::parse(message.header.op, payload).ok()
    }
}
