//! A datagram is or is not a packet of stunnel's. Whatever a server answers to the requests made
//! for it, the reply is valid and the exchange ends.

use crate::input::Input;
use crate::measure::{Verdict, slow};
use distcache_core::message::Status;
use distcache_core::sessiond::{Exchange, REQUEST_MAX, Received};
use distcache_core::wire::HEADER_LEN;

/// Input: a byte for the length of the datagram (in steps of 9 bytes), the datagram, then the
/// server's answer to each request, with 2 bytes for its length.
pub fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let len = usize::from(input.byte()) * 9 + input.below(9);
    let rest = input.rest();
    let (packet, mut answers) = rest.split_at(len.min(rest.len()));
    let Some(mut exchange) = Exchange::new(packet) else {
        return assert!(!is_packet(packet), "a packet of {} bytes is refused", packet.len());
    };
    assert!(is_packet(packet));
    let mut asked = 0;
    loop {
        let op = ask(&exchange, packet);
        asked += 1;
        assert!(asked <= 4, "no more than ADD, PUT, REMOVE, ADD");
        let (answer, behind) = next(answers);
        answers = behind;
        let received = exchange.receive(answer);
        let whole = check(packet, op, answer, received, &exchange);
        if !whole || received == Received::Done {
            return;
        }
    }
}

/// Decides the same as the code under test, in another way.
fn is_packet(bytes: &[u8]) -> bool {
    let value = bytes.len().checked_sub(36);
    bytes.first() == Some(&1)
        && match (bytes.get(1), value) {
            (Some(0), Some(len)) => (1..=512).contains(&len),
            (Some(1 | 2), Some(len)) => len <= 512,
            _ => false,
        }
}

/// Splits off the server's answer to one request.
fn next(answers: &[u8]) -> (&[u8], &[u8]) {
    match answers.split_first_chunk() {
        Some((len, rest)) => {
            let len = usize::from(u16::from_be_bytes(*len) & 0x1fff);
            rest.split_at(len.min(rest.len()))
        }
        None => (&[], &[]),
    }
}

/// Checks the next request, and returns its operation.
fn ask(exchange: &Exchange, packet: &[u8]) -> u8 {
    let mut out = [0; REQUEST_MAX];
    let len = exchange.request(&mut out).expect("enough room");
    let Verdict::Whole(parsed) = slow(&out[..len], 0) else { panic!("a valid request") };
    let fits = match packet[1] {
        0 => matches!(parsed.op, 0 | 2 | 4),
        of => parsed.op == of,
    };
    assert!(fits, "operation {} for type {}", parsed.op, packet[1]);
    let key = if matches!(parsed.op, 0 | 4) { &parsed.payload[8..40] } else { &parsed.payload[..] };
    assert_eq!(key, &packet[4..36]);
    parsed.op
}

/// Checks the outcome of an answer. Returns false if the answer was not whole.
fn check(packet: &[u8], op: u8, answer: &[u8], received: Received, exchange: &Exchange) -> bool {
    let verdict = slow(answer, 1);
    assert_eq!(received == Received::Incomplete, matches!(verdict, Verdict::Incomplete));
    let (session, status) = match &verdict {
        Verdict::Whole(parsed) if parsed.op == op => match &parsed.payload[..] {
            [status] => (None, Some(Status(*status))),
            session @ [_, _, _, _, _, ..] if op == 1 => (Some(session), None),
            _ => (None, None),
        },
        _ => (None, None),
    };
    if received == Received::Ask {
        let goes_on = [Status::OK, Status::NOT_OK, Status::ADD_EXISTS, Status::UNSUPPORTED];
        assert!(packet[1] == 0 && status.is_some_and(|status| goes_on.contains(&status)));
    }
    let reply = exchange.reply();
    if packet[1] != 1 {
        assert_eq!(reply, None, "only a get is answered");
        return !matches!(verdict, Verdict::Incomplete);
    }
    let reply = reply.expect("a get is answered");
    assert_eq!((reply[0], &reply[2..36]), (1, &packet[2..36]), "version, timeout and key");
    match session.filter(|session| session.len() <= 512) {
        Some(session) => assert_eq!((reply[1], &reply[36..]), (0x81, session)),
        None => assert_eq!((reply[1], reply.len()), (0x80, 36)),
    }
    !matches!(verdict, Verdict::Incomplete)
}

const _: () = assert!(REQUEST_MAX == HEADER_LEN + 8 + 32 + 512);
