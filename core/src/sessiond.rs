//! stunnel's session cache protocol, told in distcache's requests.
//!
//! One datagram is one request; all integers are big-endian:
//!
//! ```text
//!  0       1       2         4                        36
//! +-------+-------+---------+------------------------+-------------------+
//! |version| type  | timeout | key, zeros behind it   | value             |
//! +-------+-------+---------+------------------------+-------------------+
//!     1     below   seconds          32 bytes           0 to 512 bytes
//! ```
//!
//! | type | | what is asked of the cache |
//! |---|---|---|
//! | 0x00 | new | to store the value, in place of what is there |
//! | 0x01 | get | the value; the only one that is answered |
//! | 0x02 | remove | to forget the value |
//! | 0x80 | answer to get | nothing is there; without a value |
//! | 0x81 | answer to get | the value is behind the key |
//!
//! An answer has the version, timeout and key of its request. All 32 bytes of the key are the session's
//! id, the zeros behind a shorter one among them: nothing in the datagram says how many there are.
//!
//! What is asked may take several requests: an ADD finds nothing at the id nearly always, and else
//! shows what the server can do.
//!
//! ```text
//!  new ──► ADD ──► stored
//!           └─ 101 ──► PUT, to who answers at level 1
//!               │       └─ 3: the server behind a proxy can't ─┐
//!               └──────────────────────────────────► REMOVE ◄──┘ ──► ADD
//! ```

use core::fmt;

use crate::id::Id;
use crate::message::{Add, Reply, Request, Status};
use crate::wire::{self, Direction, Envelope, HEADER_LEN, Message, Op};

/// Bytes of a key.
pub const KEY_LEN: usize = 32;
/// The most bytes of a value.
pub const VALUE_MAX: usize = 512;
/// Bytes of a datagram without a value: the least that it has.
pub const PACKET_MIN: usize = 4 + KEY_LEN;
/// The most bytes of a datagram.
pub const PACKET_MAX: usize = PACKET_MIN + VALUE_MAX;
/// Bytes that any of an exchange's requests to a server has at most on the wire.
pub const REQUEST_MAX: usize = HEADER_LEN + 8 + KEY_LEN + VALUE_MAX;

const VERSION: u8 = 1;
const NEW: u8 = 0x00;
const GET: u8 = 0x01;
const REMOVE: u8 = 0x02;
const ABSENT: u8 = 0x80;
const FOUND: u8 = 0x81;

/// What a datagram asks for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Command {
    /// Store the value in place of what is there.
    New,
    /// Send the value back.
    Get,
    /// Forget the value.
    Remove,
}

/// One datagram that was received, and what is still to be asked for it.
///
/// Write [`Exchange::request`] to a server, hand its answer to [`Exchange::hear`], and so on until that
/// says [`Heard::Over`]; then, or whenever you give up, send [`Exchange::reply`] back.
#[derive(Clone)]
pub struct Exchange {
    command: Command,
    stage: Stage,
    /// The datagram as it came or, for a get, as it goes back: `PACKET_MIN <= len <= PACKET_MAX`.
    packet: [u8; PACKET_MAX],
    len: usize,
}

/// Without the packet, which has a session in it.
impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("command", &self.command)
            .field("stage", &self.stage)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// The request that is being made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Get,
    Remove,
    /// The first of a new.
    Add,
    /// Something was there, and the server can replace it.
    Put,
    /// Something was there, and the server can't replace it.
    Clear,
    /// What was there is gone.
    AddAgain,
}

/// What came of what a server has said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Heard {
    /// Its answer is not whole yet.
    Part,
    /// There is another request to be made.
    Ask,
    /// There is nothing more to ask.
    Over,
}

impl Exchange {
    /// Takes a datagram; `None` where it is none of this protocol.
    ///
    /// A get or remove with a value is one: whoever sends packets of one size means nothing by it.
    pub fn new(datagram: &[u8]) -> Option<Self> {
        let (head, value) = datagram.split_at_checked(PACKET_MIN)?;
        let (command, stage, code) = match (head, value) {
            ([VERSION, NEW, ..], [_, ..]) => (Command::New, Stage::Add, NEW),
            // Until something else is heard, nothing is there.
            ([VERSION, GET, ..], _) => (Command::Get, Stage::Get, ABSENT),
            ([VERSION, REMOVE, ..], _) => (Command::Remove, Stage::Remove, REMOVE),
            _ => return None,
        };
        let mut packet = [0; PACKET_MAX];
        packet.get_mut(..datagram.len())?.copy_from_slice(datagram);
        let [_, to, ..] = &mut packet;
        *to = code;
        let len = if command == Command::New { datagram.len() } else { PACKET_MIN };
        Some(Self { command, stage, packet, len })
    }

    /// What the datagram asks for.
    pub const fn command(&self) -> Command {
        self.command
    }

    /// Whether a value was found for a get.
    pub const fn found(&self) -> bool {
        let [_, code, ..] = self.packet;
        code == FOUND
    }

    /// Writes the request that is to be made now to the front of `out`, and says how long it is;
    /// `None` where there is no room for it. [`REQUEST_MAX`] bytes are always enough.
    pub fn request(&self, out: &mut [u8]) -> Option<usize> {
        let packet = self.packet.get(..self.len)?;
        let (head, session) = packet.split_at_checked(PACKET_MIN)?;
        let [_, _, t0, t1, key @ ..] = head else {
            return None;
        };
        let id = Id::new(key)?;
        let ttl = u32::from(u16::from_be_bytes([*t0, *t1])).saturating_mul(1000);
        let add = Add { ttl, id, session };
        let request = match self.stage {
            Stage::Get => Request::Get(id),
            Stage::Remove | Stage::Clear => Request::Remove(id),
            Stage::Add | Stage::AddAgain => Request::Add(add),
            Stage::Put => Request::Put(add),
        };
        let payload_len = request.write(out.get_mut(HEADER_LEN..)?)?;
        wire::frame(out, &Envelope::request(0, request.op()), payload_len)
    }

    /// Takes what a server has said so far to the request.
    pub fn hear(&mut self, said: &[u8]) -> Heard {
        let message = match Message::measure(said, Direction::Response) {
            Ok(Some(message)) => message,
            Ok(None) => return Heard::Part,
            Err(_) => return Heard::Over,
        };
        let next = self.next(&message, said);
        match next {
            Some(stage) => {
                self.stage = stage;
                Heard::Ask
            }
            None => Heard::Over,
        }
    }

    fn next(&mut self, message: &Message, wire: &[u8]) -> Option<Stage> {
        // What has several frames is longer than any value.
        let payload = wire.get(HEADER_LEN..)?.get(..message.payload_len)?;
        let op = message.header.op;
        let status = match Reply::parse(op, payload) {
            Ok(Reply::Session(session)) if self.stage == Stage::Get && op == Op::Get => {
                self.find(session);
                return None;
            }
            Ok(Reply::Status(status)) => status,
            Ok(Reply::Session(_)) | Err(_) => return None,
        };
        match (self.stage, op, status) {
            (Stage::Add, Op::Add, Status::ADD_EXISTS) => {
                let replaces = message.header.patch >= Op::Put.level();
                Some(if replaces { Stage::Put } else { Stage::Clear })
            }
            (Stage::Put, Op::Put, Status::UNSUPPORTED) => Some(Stage::Clear),
            // Somebody else may have been faster to remove it.
            (Stage::Clear, Op::Remove, Status::OK | Status::NOT_OK) => Some(Stage::AddAgain),
            _ => None,
        }
    }

    /// Puts a session into the reply; one that is too long for it is as good as none.
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

    /// The datagram to send back: for a get that nothing is there, until something was heard; `None`
    /// for what is not answered.
    pub fn reply(&self) -> Option<&[u8]> {
        let packet = self.packet.get(..self.len);
        packet.filter(|_| self.command == Command::Get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn what_is_printed_of_an_exchange_has_no_session_in_it() {
        let text = std::format!("{:?}", exchange(NEW, &[123; 40]));
        assert!(text.starts_with("Exchange { ") && !text.contains("123, 123"), "{text}");
    }

    /// The request that an exchange makes: its operation and its payload.
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

    /// What becomes of a new that hears these answers: the operations asked for.
    fn operations(answers: &[(u16, Status)]) -> Vec<Op> {
        let mut exchange = exchange(NEW, b"session");
        let mut operations = vec![asked(&exchange).0];
        for (number, (level, status)) in answers.iter().enumerate() {
            let wire = answered(operations[number], *level, &[status.0]);
            let last = number + 1 == answers.len();
            assert_eq!(exchange.hear(&wire), if last { Heard::Over } else { Heard::Ask });
            if !last {
                operations.push(asked(&exchange).0);
            }
        }
        assert_eq!(exchange.reply(), None);
        operations
    }

    #[test]
    fn what_is_no_packet_is_refused_whatever_its_length() {
        let good = packet(NEW, 9, &[5; VALUE_MAX]);
        for len in 0..=good.len() {
            assert_eq!(Exchange::new(&good[..len]).is_some(), len > PACKET_MIN, "{len} bytes");
        }
        assert!(Exchange::new(&packet(NEW, 9, &[5; VALUE_MAX + 1])).is_none());
        assert!(Exchange::new(&packet(NEW, 9, b"")).is_none(), "nothing is nothing to store");
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
    fn a_get_is_answered_with_what_is_there_or_that_nothing_is() {
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
            assert_eq!(exchange.reply(), Some(&absent[..]), "whoever gives up says so");
            let wire = answered(Op::Get, 1, payload);
            for len in 0..wire.len() {
                assert_eq!(exchange.hear(&wire[..len]), Heard::Part);
            }
            assert_eq!(exchange.hear(&wire), Heard::Over);
            assert_eq!(exchange.reply(), Some(&reply[..]));
            assert_eq!(exchange.found(), reply[1] == FOUND);
        }
        let mut long = exchange(GET, b"");
        assert_eq!(long.hear(&answered(Op::Get, 1, &[3; 5000])), Heard::Over);
        assert_eq!(long.reply(), Some(&absent[..]));
    }

    #[test]
    fn new_replaces_as_the_server_can() {
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
    fn an_answer_to_something_else_ends_the_exchange() {
        for wire in [
            answered(Op::Have, 1, &[0]),
            answered(Op::Take, 1, b"a session"),
            answered(Op::Remove, 1, b"no status"),
            b"nonsense".to_vec(),
        ] {
            let mut get = exchange(GET, b"");
            assert_eq!((get.hear(&wire), get.found()), (Heard::Over, false));
            assert_eq!(exchange(NEW, b"session").hear(&wire), Heard::Over);
        }
    }

    #[test]
    fn over_a_store_it_does_what_it_says() {
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
                match exchange.hear(&out[..answer.len]) {
                    Heard::Ask => {}
                    heard => {
                        assert_eq!(heard, Heard::Over);
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
