//! The snoop reports the messages that a slow parser finds, however the stream is split, and every
//! byte of their payloads once.

use crate::measure::{Verdict, slow};
use distcache_core::snoop::{Event, PEEK_MAX, Pairs, Reader};
use distcache_core::wire::Direction;

/// Input: a byte for the direction, one for the length of the pieces, then the stream.
pub fn body(data: &[u8]) {
    let [way, piece, stream @ ..] = data else { return };
    let direction = if way % 2 == 0 { Direction::Request } else { Direction::Response };
    let (parsed, payloads, lost) = read(stream, direction, usize::from(*piece) + 1);

    let mut rest = stream;
    let mut messages = parsed.iter();
    let mut payload = Vec::new();
    let verdict = loop {
        match slow(rest, direction as u8) {
            Verdict::Whole(whole) => {
                assert_eq!(messages.next(), Some(&(whole.uid, whole.payload.len())));
                payload.extend_from_slice(&whole.payload);
                rest = &rest[whole.wire_len..];
            }
            other => break other,
        }
    };
    assert_eq!(messages.next(), None, "no message that is not there");
    assert_eq!(lost, verdict == Verdict::Invalid);
    assert!(payloads.starts_with(&payload), "no byte lost or out of its place");
}

/// Returns the uids and sizes of the messages, all payload, and whether the stream became invalid.
fn read(stream: &[u8], direction: Direction, piece: usize) -> (Vec<(u32, usize)>, Vec<u8>, bool) {
    let mut reader = Reader::new(direction);
    let mut pairs = Pairs::new();
    let (mut parsed, mut payloads) = (Vec::new(), Vec::new());
    for mut bytes in stream.chunks(piece) {
        loop {
            match reader.read(&mut bytes) {
                Ok(None) => break,
                Ok(Some(Event::Payload(payload))) => payloads.extend_from_slice(payload),
                Ok(Some(Event::Message(seen))) => {
                    assert_eq!(seen.peek().len(), seen.payload_len.min(PEEK_MAX));
                    pairs.asked(parsed.len(), &seen);
                    let asked = pairs.answered(&seen.header).map(|asked| asked.mark);
                    assert_eq!(asked, Some(parsed.len()), "each answer finds its request");
                    parsed.push((seen.header.uid, seen.payload_len));
                }
                Err(_) => {
                    assert!(reader.is_lost() && bytes.is_empty());
                    return (parsed, payloads, true);
                }
            }
        }
    }
    (parsed, payloads, false)
}
