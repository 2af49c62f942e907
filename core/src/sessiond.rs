//! stunnel's session cache protocol, translated into distcache's requests.
//!
//! One datagram is one request. All integers are big-endian:
//!
//! ```text
//!  0       1       2         4                        36
//! +-------+-------+---------+------------------------+-------------------+
//! |version| type  | timeout | key, zeros behind it   | value             |
//! +-------+-------+---------+------------------------+-------------------+
//!     1     below   seconds          32 bytes           0 to 512 bytes
//! ```
//!
//! | type | | meaning |
//! |---|---|---|
//! | 0x00 | new | store the value, in place of any other |
//! | 0x01 | get | fetch the value; the only request with a reply |
//! | 0x02 | remove | remove the value |
//! | 0x80 | reply to get | not found; no value |
//! | 0x81 | reply to get | found; the value follows the key |
//!
//! A reply repeats the version, timeout and key of its request. The session's id is the whole key of 32
//! bytes, with the zeros behind a shorter id: the datagram does not tell how many there are.
//!
//! A new is a PUT with a server of unknown level: see [`Operation`]. Its first request, an ADD, nearly
//! always finds the id free.

use core::fmt;

use crate::client::{Next, Operation};
use crate::id::Id;
use crate::message::{Add, Reply, Request};
use crate::wire::{self, Direction, Envelope, HEADER_LEN, Message, Op};
use zeroize::Zeroize;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;
/// The most bytes of a value.
pub const VALUE_MAX: usize = 512;
/// Bytes of the shortest datagram: one without a value.
pub const PACKET_MIN: usize = 4 + KEY_LEN;
/// Bytes of the longest datagram.
pub const PACKET_MAX: usize = PACKET_MIN + VALUE_MAX;
/// Bytes on the wire of the longest request to a server.
pub const REQUEST_MAX: usize = HEADER_LEN + 8 + KEY_LEN + VALUE_MAX;

const VERSION: u8 = 1;
const NEW: u8 = 0x00;
const GET: u8 = 0x01;
const REMOVE: u8 = 0x02;
const ABSENT: u8 = 0x80;
const FOUND: u8 = 0x81;

/// The command of a datagram.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Command {
    /// Stores the value, in place of any other.
    New,
    /// Fetches the value.
    Get,
    /// Removes the value.
    Remove,
}

/// One received datagram, and the requests to a server that carry it out.
///
/// Send [`Exchange::request`] to a server and pass its answer to [`Exchange::receive`], until that
/// returns [`Received::Done`]: 4 requests at most. Then, or on a failure, send [`Exchange::reply`] back.
///
/// It holds a session, which [`Exchange::clear`] wipes, and the next datagram, and dropping it. A value
/// that moves may leave a copy behind, so keep it in one place, and use it for one datagram after the
/// other with [`Exchange::begin`].
#[derive(Clone)]
pub struct Exchange {
    command: Command,
    operation: Operation,
    /// The datagram as received or, for a get, as the reply: `PACKET_MIN <= len <= PACKET_MAX`.
    packet: [u8; PACKET_MAX],
    len: usize,
}

/// Leaves out the packet, which holds a session.
impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("command", &self.command)
            .field("operation", &self.operation)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// The result of what a server has sent so far.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// The answer is incomplete.
    Incomplete,
    /// Make the next request.
    Ask,
    /// The exchange is complete.
    Done,
}

impl Exchange {
    /// No datagram: it makes no request and has no reply.
    pub const EMPTY: Self = Self {
        command: Command::Remove,
        operation: Operation::new(Op::Remove, 0),
        packet: [0; PACKET_MAX],
        len: 0,
    };

    /// Parses a datagram; `None` if it is not one of this protocol.
    ///
    /// A get or remove may have a value, which is ignored: some senders use packets of one size.
    pub fn new(datagram: &[u8]) -> Option<Self> {
        let mut exchange = Self::EMPTY;
        exchange.parse(datagram)?;
        Some(exchange)
    }

    /// Parses a datagram like [`Exchange::new`], in place of the one before, and wipes it in `datagram`.
    /// `false` if it is not one of this protocol: the exchange is empty then.
    pub fn begin(&mut self, datagram: &mut [u8]) -> bool {
        self.clear();
        let parsed = self.parse(datagram).is_some();
        datagram.zeroize();
        parsed
    }

    fn parse(&mut self, datagram: &[u8]) -> Option<()> {
        let (head, value) = datagram.split_at_checked(PACKET_MIN)?;
        let (command, op, code) = match (head, value) {
            ([VERSION, NEW, ..], [_, ..]) => (Command::New, Op::Put, NEW),
            // The reply to a get, unless a server answers with a session.
            ([VERSION, GET, ..], _) => (Command::Get, Op::Get, ABSENT),
            ([VERSION, REMOVE, ..], _) => (Command::Remove, Op::Remove, REMOVE),
            _ => return None,
        };
        self.packet.get_mut(..datagram.len())?.copy_from_slice(datagram);
        let [_, to, ..] = &mut self.packet;
        *to = code;
        self.len = if command == Command::New { datagram.len() } else { PACKET_MIN };
        (self.command, self.operation) = (command, Operation::new(op, 0));
        Some(())
    }

    /// Wipes the datagram and the reply: the exchange is [`Exchange::EMPTY`] then.
    pub fn clear(&mut self) {
        self.packet.as_mut_slice().zeroize();
        (self.command, self.len) = (Command::Remove, 0);
    }

    /// The command of the datagram.
    pub const fn command(&self) -> Command {
        self.command
    }

    /// Whether a get has found a value.
    pub const fn found(&self) -> bool {
        let [_, code, ..] = self.packet;
        code == FOUND
    }

    /// Writes the request to make now to the front of `out`, and returns its length; `None` if it does
    /// not fit. [`REQUEST_MAX`] bytes are always enough.
    pub fn request(&self, out: &mut [u8]) -> Option<usize> {
        let packet = self.packet.get(..self.len)?;
        let (head, session) = packet.split_at_checked(PACKET_MIN)?;
        let [_, _, t0, t1, key @ ..] = head else {
            return None;
        };
        let id = Id::new(key)?;
        let ttl = u32::from(u16::from_be_bytes([*t0, *t1])).saturating_mul(1000);
        let add = Add { ttl, id, session };
        let request = self.operation.request(&match self.command {
            Command::New => Request::Put(add),
            Command::Get => Request::Get(id),
            Command::Remove => Request::Remove(id),
        });
        let payload_len = request.write(out.get_mut(HEADER_LEN..)?)?;
        wire::frame(out, &Envelope::request(0, request.op()), payload_len)
    }

    /// Takes all that a server has sent so far in answer to the request.
    pub fn receive(&mut self, bytes: &[u8]) -> Received {
        let message = match Message::measure(bytes, Direction::Response) {
            Ok(Some(message)) => message,
            Ok(None) => return Received::Incomplete,
            Err(_) => return Received::Done,
        };
        self.answered(&message, bytes)
    }

    /// Takes the answer to the current request. An answer that does not fit it ends the exchange.
    fn answered(&mut self, message: &Message, wire: &[u8]) -> Received {
        // A message of several frames is longer than any value.
        let Some(payload) = wire.get(HEADER_LEN..).and_then(|wire| wire.get(..message.payload_len))
        else {
            return Received::Done;
        };
        let op = message.header.op;
        let Some(reply) = Reply::parse(op, payload).ok().filter(|_| op == self.operation.op())
        else {
            return Received::Done;
        };
        if let Reply::Session(session) = reply {
            self.find(session);
        }
        match self.operation.answered(message.header.patch, reply) {
            Next::Ask => Received::Ask,
            Next::Keep | Next::Done(_) => Received::Done,
        }
    }

    /// Puts a session into the reply, unless it is longer than [`VALUE_MAX`].
    fn find(&mut self, session: &[u8]) {
        let end = PACKET_MIN.saturating_add(session.len());
        let Some(room) = self.packet.get_mut(PACKET_MIN..end) else {
            return;
        };
        room.copy_from_slice(session);
        self.len = end;
        let [_, code, ..] = &mut self.packet;
        *code = FOUND;
    }

    /// The reply: for a get "not found", until a server has answered with a session; `None` for the
    /// other commands, which have no reply.
    pub fn reply(&self) -> Option<&[u8]> {
        let packet = self.packet.get(..self.len);
        packet.filter(|_| self.command == Command::Get)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.packet.as_mut_slice().zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Status;
    use crate::server::answer;
    use crate::table::{Layout, Table};
    use crate::time::Instant;
    use std::vec;
    use std::vec::Vec;

    const KEY: [u8; KEY_LEN] = [7; KEY_LEN];

    fn packet(code: u8, timeout: u16, value: &[u8]) -> Vec<u8> {
        [&[1, code][..], &timeout.to_be_bytes(), &KEY, value].concat()
    }

    fn exchange(code: u8, value: &[u8]) -> Exchange {
        Exchange::new(&packet(code, 9, value)).expect("a packet")
    }

    #[test]
    fn an_exchange_that_begins_again_holds_nothing_of_the_one_before() {
        let mut exchange = Exchange::EMPTY;
        assert_eq!((exchange.reply(), exchange.request(&mut [0; REQUEST_MAX])), (None, None));
        for (code, value, known) in
            [(NEW, &[9; 512][..], true), (GET, &[], true), (NEW, &[], false)]
        {
            let mut datagram = packet(code, 9, value);
            assert_eq!(exchange.begin(&mut datagram), known);
            assert_eq!(datagram, vec![0; PACKET_MIN + value.len()]);
            let values = exchange.packet.iter().filter(|byte| **byte == 9).count();
            assert_eq!(values, value.len() + usize::from(known), "the value, and the timeout");
        }
        assert_eq!((exchange.reply(), exchange.request(&mut [0; REQUEST_MAX])), (None, None));
        assert!(exchange.begin(&mut packet(GET, 9, &[])));
        assert_eq!(exchange.receive(&answered(Op::Get, 1, &[8; 200])), Received::Done);
        exchange.clear();
        assert_eq!(exchange.packet, [0; PACKET_MAX]);
    }

    #[test]
    fn debug_output_of_an_exchange_shows_no_session() {
        let text = std::format!("{:?}", exchange(NEW, &[123; 40]));
        assert!(text.starts_with("Exchange { ") && !text.contains("123, 123"), "{text}");
    }

    /// The operation and payload of the current request.
    fn asked(exchange: &Exchange) -> (Op, Vec<u8>) {
        let mut out = [0; REQUEST_MAX];
        let len = exchange.request(&mut out).expect("room");
        let message = Message::measure(&out[..len], Direction::Request).unwrap().unwrap();
        assert_eq!((message.wire_len, message.header.patch), (len, wire::LEVEL));
        assert_eq!(exchange.request(&mut out[..len - 1]), None, "not even one byte is missing");
        (message.header.op, out[HEADER_LEN..len].to_vec())
    }

    fn answered(op: Op, level: u16, payload: &[u8]) -> Vec<u8> {
        let mut wire = vec![0; wire::MESSAGE_MAX];
        wire[HEADER_LEN..][..payload.len()].copy_from_slice(payload);
        let direction = Direction::Response;
        let envelope = Envelope { level, direction, ..Envelope::request(0, op) };
        let len = wire::frame(&mut wire, &envelope, payload.len()).unwrap();
        wire.truncate(len);
        wire
    }

    /// The operations of the requests that a new makes, given these answers.
    fn operations(answers: &[(u16, Status)]) -> Vec<Op> {
        let mut exchange = exchange(NEW, b"session");
        let mut operations = vec![asked(&exchange).0];
        for (number, (level, status)) in answers.iter().enumerate() {
            let wire = answered(operations[number], *level, &[status.0]);
            let last = number + 1 == answers.len();
            assert_eq!(exchange.receive(&wire), if last { Received::Done } else { Received::Ask });
            if !last {
                operations.push(asked(&exchange).0);
            }
        }
        assert_eq!(exchange.reply(), None);
        operations
    }

    #[test]
    fn an_invalid_datagram_is_refused_whatever_its_length() {
        let good = packet(NEW, 9, &[5; VALUE_MAX]);
        for len in 0..=good.len() {
            assert_eq!(Exchange::new(&good[..len]).is_some(), len > PACKET_MIN, "{len} bytes");
        }
        assert!(Exchange::new(&packet(NEW, 9, &[5; VALUE_MAX + 1])).is_none());
        assert!(Exchange::new(&packet(NEW, 9, b"")).is_none(), "a new needs a value");
        for code in 0..=u8::MAX {
            let lawful = [NEW, GET, REMOVE].contains(&code);
            assert_eq!(Exchange::new(&packet(code, 9, b"value")).is_some(), lawful, "type {code}");
        }
        for version in (0..=u8::MAX).filter(|version| *version != 1) {
            let mut packet = packet(GET, 9, b"");
            packet[0] = version;
            assert!(Exchange::new(&packet).is_none(), "version {version}");
        }
    }

    #[test]
    fn seconds_become_milliseconds_and_the_whole_key_the_id() {
        for (seconds, millis) in [(0_u16, 0_u32), (1, 1000), (300, 300_000), (65_535, 65_535_000)] {
            let exchange = Exchange::new(&packet(NEW, seconds, b"session")).unwrap();
            let (op, payload) = asked(&exchange);
            assert_eq!(op, Op::Add);
            let id = Id::new(&KEY).unwrap();
            let add = Add { ttl: millis, id, session: b"session" };
            assert_eq!(Add::parse(&payload), Ok(Ok(add)));
        }
        assert_eq!(asked(&exchange(GET, b"ignored")), (Op::Get, KEY.to_vec()));
        assert_eq!(asked(&exchange(REMOVE, b"")), (Op::Remove, KEY.to_vec()));
    }

    #[test]
    fn a_get_is_answered_with_the_value_or_not_found() {
        let absent = packet(ABSENT, 9, b"");
        let session = vec![3; VALUE_MAX];
        let cases: [(&[u8], Vec<u8>); 7] = [
            (&session, packet(FOUND, 9, &session)),
            (b"a five", packet(FOUND, 9, b"a five")),
            (b"four", absent.clone()),
            (&[1], absent.clone()),
            (&[2], absent.clone()),
            (b"", absent.clone()),
            (&[3; VALUE_MAX + 1], absent.clone()),
        ];
        for (payload, reply) in cases {
            let mut exchange = exchange(GET, b"");
            assert_eq!(exchange.reply(), Some(&absent[..]), "the reply before any answer");
            let wire = answered(Op::Get, 1, payload);
            for len in 0..wire.len() {
                assert_eq!(exchange.receive(&wire[..len]), Received::Incomplete);
            }
            assert_eq!(exchange.receive(&wire), Received::Done);
            assert_eq!(exchange.reply(), Some(&reply[..]));
            assert_eq!(exchange.found(), reply[1] == FOUND);
        }
        let mut long = exchange(GET, b"");
        assert_eq!(long.receive(&answered(Op::Get, 1, &[3; 5000])), Received::Done);
        assert_eq!(long.reply(), Some(&absent[..]));
    }

    #[test]
    fn a_new_replaces_the_value_on_every_server() {
        use Op::{Add, Put, Remove};
        const EXISTS: Status = Status::ADD_EXISTS;
        const AWAY: Status = Status::DISCONNECTED;
        const GONE: Status = Status::NOT_OK;
        const OK: Status = Status::OK;
        const UNABLE: Status = Status::UNSUPPORTED;
        type Case = (&'static [(u16, Status)], &'static [Op]);
        let cases: [Case; 8] = [
            (&[(0, OK)], &[Add]),
            (&[(1, AWAY)], &[Add]),
            (&[(1, EXISTS), (1, OK)], &[Add, Put]),
            (&[(0, EXISTS), (0, OK), (0, OK)], &[Add, Remove, Add]),
            (&[(0, EXISTS), (0, GONE), (0, EXISTS)], &[Add, Remove, Add]),
            (&[(0, EXISTS), (0, AWAY)], &[Add, Remove]),
            (&[(1, EXISTS), (1, UNABLE), (0, OK), (0, OK)], &[Add, Put, Remove, Add]),
            (&[(1, EXISTS), (1, UNABLE), (0, OK), (1, EXISTS)], &[Add, Put, Remove, Add]),
        ];
        for (answers, asked) in cases {
            assert_eq!(operations(answers), asked, "{answers:?}");
        }
    }

    #[test]
    fn an_answer_to_another_request_ends_the_exchange() {
        for wire in [
            answered(Op::Have, 1, &[0]),
            answered(Op::Take, 1, b"a session"),
            answered(Op::Remove, 1, b"no status"),
            b"nonsense".to_vec(),
        ] {
            let mut get = exchange(GET, b"");
            assert_eq!((get.receive(&wire), get.found()), (Received::Done, false));
            assert_eq!(exchange(NEW, b"session").receive(&wire), Received::Done);
        }
    }

    #[test]
    fn each_command_does_its_work_on_a_store() {
        let layout = Layout::new(4, 4096).unwrap();
        let mut sessions = vec![0; layout.size()];
        let mut table = Table::in_memory(layout, [0; 16], &mut sessions).unwrap();
        let mut tell = |millis, packet: &[u8]| {
            let mut exchange = Exchange::new(packet).expect("a packet");
            loop {
                let (mut wire, mut out) = ([0; REQUEST_MAX], [0; 1024]);
                let len = exchange.request(&mut wire).expect("room");
                let wire = &mut wire[..len];
                let message = Message::measure(wire, Direction::Request).unwrap().unwrap();
                let now = Instant::from_millis(millis);
                let answer = answer(now, &mut table, &message, wire, &mut out).unwrap().unwrap();
                match exchange.receive(&out[..answer.len]) {
                    Received::Ask => {}
                    received => {
                        assert_eq!(received, Received::Done);
                        return exchange.reply().map(<[u8]>::to_vec);
                    }
                }
            }
        };
        let get = packet(GET, 0, b"");
        let (found, absent) = (|value| Some(packet(FOUND, 0, value)), Some(packet(ABSENT, 0, b"")));
        assert_eq!(tell(0, &get), absent);
        assert_eq!(tell(0, &packet(NEW, 9, b"first")), None);
        assert_eq!(tell(0, &get), found(b"first"));
        assert_eq!(tell(1, &packet(NEW, 9, b"second")), None);
        assert_eq!((tell(9000, &get), tell(9001, &get)), (found(b"second"), absent.clone()));
        assert_eq!(tell(9001, &packet(NEW, 9, b"third")), None);
        assert_eq!(tell(9001, &packet(REMOVE, 0, b"")), None);
        assert_eq!(tell(9001, &get), absent);
    }
}
