//! A datagram is a packet of stunnel's or is none, and whatever a server says to what is asked for it,
//! the reply is lawful and comes of an end.

use crate::input::Input;
use crate::measure::{Verdict, slow};
use distcache_core::message::Status;
use distcache_core::sessiond::{Exchange, Heard, REQUEST_MAX};
use distcache_core::wire::HEADER_LEN;

/// First a byte for the length of the datagram (in steps of 9 bytes), then the datagram, then what the
/// server says to one request after the other, each with 2 bytes for its length.
pub fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let len = usize::from(input.byte()) * 9 + input.below(9);
    let rest = input.rest();
    let (packet, mut said) = rest.split_at(len.min(rest.len()));
    let Some(mut exchange) = Exchange::new(packet) else {
        return assert!(!is_packet(packet), "a packet of {} bytes is refused", packet.len());
    };
    assert!(is_packet(packet));
    let mut asked = 0;
    loop {
        let op = ask(&exchange, packet);
        asked += 1;
        assert!(asked <= 4, "no more than ADD, PUT, REMOVE, ADD");
        let (answer, behind) = next(said);
        said = behind;
        let heard = exchange.hear(answer);
        let whole = check(packet, op, answer, heard, &exchange);
        if !whole || heard == Heard::Over {
            return;
        }
    }
}

/// The same as the code under test, said in another way.
fn is_packet(bytes: &[u8]) -> bool {
    let value = bytes.len().checked_sub(36);
    bytes.first() == Some(&1)
        && match (bytes.get(1), value) {
            (Some(0), Some(len)) => (1..=512).contains(&len),
            (Some(1 | 2), Some(len)) => len <= 512,
            _ => false,
        }
}

/// What the server says to one request, and what is behind it.
fn next(said: &[u8]) -> (&[u8], &[u8]) {
    match said.split_first_chunk() {
        Some((len, rest)) => {
            let len = usize::from(u16::from_be_bytes(*len) & 0x1fff);
            rest.split_at(len.min(rest.len()))
        }
        None => (&[], &[]),
    }
}

/// Looks at the request that is made, and gives its operation.
fn ask(exchange: &Exchange, packet: &[u8]) -> u8 {
    let mut out = [0; REQUEST_MAX];
    let len = exchange.request(&mut out).expect("enough room");
    let Verdict::Whole(told) = slow(&out[..len], 0) else { panic!("a request is lawful") };
    let fits = match packet[1] {
        0 => matches!(told.op, 0 | 2 | 4),
        of => told.op == of,
    };
    assert!(fits, "operation {} for type {}", told.op, packet[1]);
    let key = if matches!(told.op, 0 | 4) { &told.payload[8..40] } else { &told.payload[..] };
    assert_eq!(key, &packet[4..36]);
    told.op
}

/// Looks at what was made of an answer; false where that was not whole.
fn check(packet: &[u8], op: u8, answer: &[u8], heard: Heard, exchange: &Exchange) -> bool {
    let verdict = slow(answer, 1);
    assert_eq!(heard == Heard::Part, matches!(verdict, Verdict::Waits));
    let (session, status) = match &verdict {
        Verdict::Whole(told) if told.op == op => match &told.payload[..] {
            [status] => (None, Some(Status(*status))),
            session @ [_, _, _, _, _, ..] if op == 1 => (Some(session), None),
            _ => (None, None),
        },
        _ => (None, None),
    };
    if heard == Heard::Ask {
        let goes_on = [Status::OK, Status::NOT_OK, Status::ADD_EXISTS, Status::UNSUPPORTED];
        assert!(packet[1] == 0 && status.is_some_and(|status| goes_on.contains(&status)));
    }
    let reply = exchange.reply();
    if packet[1] != 1 {
        assert_eq!(reply, None, "only a get is answered");
        return !matches!(verdict, Verdict::Waits);
    }
    let reply = reply.expect("a get is answered");
    assert_eq!((reply[0], &reply[2..36]), (1, &packet[2..36]), "version, timeout and key");
    match session.filter(|session| session.len() <= 512) {
        Some(session) => assert_eq!((reply[1], &reply[36..]), (0x81, session)),
        None => assert_eq!((reply[1], reply.len()), (0x80, 36)),
    }
    !matches!(verdict, Verdict::Waits)
}

const _: () = assert!(REQUEST_MAX == HEADER_LEN + 8 + 32 + 512);
