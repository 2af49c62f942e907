//! Headers and messages are measured as a slow parser measures them, at every length.

use distcache_core::wire::{Direction, Envelope, MESSAGE_MAX, Message};

/// What the protocol's text says about the first bytes of a stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Valid so far, and incomplete.
    Incomplete,
    /// A whole message of this many bytes.
    Whole(Parsed),
    /// No valid message begins like this.
    Invalid,
}

/// A message as the slow parser sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Parsed {
    /// Bytes on the wire.
    pub wire_len: usize,
    /// The uid.
    pub uid: u32,
    /// The operation's code.
    pub op: u8,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Parses byte by byte as the protocol's text says: slow, and without anything of the code under
/// test.
pub fn slow(bytes: &[u8], is_response: u8) -> Verdict {
    let mut payload = Vec::new();
    let (mut first, mut at) = (None, 0);
    for number in 1.. {
        let header: Vec<u8> = bytes[at..].iter().copied().take(14).collect();
        for (place, &byte) in header.iter().enumerate() {
            let valid = match place {
                0 => byte == 0,
                1 => byte == 0x11,
                2 => true,
                // Operations from 4 on need their level in every frame.
                3 => {
                    let op = first.as_ref().map_or(0, |f: &Vec<u8>| f[10]);
                    header[2] > 0 || byte >= u8::from(op > 3) + u8::from(op > 5)
                }
                4 => byte == is_response,
                5..=8 | 10 if first.is_some() => {
                    first.as_ref().map(|f: &Vec<u8>| f[place]) == Some(byte)
                }
                5..=8 => true,
                9 => byte == 0,
                10 => {
                    let level = if header[2] > 0 { 2 } else { header[3].min(2) };
                    byte <= [3, 5, 8][usize::from(level)]
                }
                11 => byte == 1 || (byte == 0 && number < 16),
                12 if header[11] == 1 => byte <= 8,
                12 => byte == 8,
                _ => header[12] < 8 || byte == 0,
            };
            if !valid {
                return Verdict::Invalid;
            }
        }
        if header.len() < 14 {
            return Verdict::Incomplete;
        }
        at += 14;
        for _ in 0..usize::from(header[12]) * 256 + usize::from(header[13]) {
            let Some(&byte) = bytes.get(at) else {
                return Verdict::Incomplete;
            };
            payload.push(byte);
            at += 1;
        }
        let first = first.get_or_insert_with(|| header.clone());
        if header[11] == 1 {
            let uid = u32::from_be_bytes([first[5], first[6], first[7], first[8]]);
            return Verdict::Whole(Parsed { wire_len: at, uid, op: first[10], payload });
        }
    }
    Verdict::Invalid
}

/// Returns the verdict of the code under test.
fn fast(bytes: &[u8], direction: Direction) -> Verdict {
    let message = match Message::measure(bytes, direction) {
        Err(_) => return Verdict::Invalid,
        Ok(None) => return Verdict::Incomplete,
        Ok(Some(message)) => message,
    };
    let mut wire = bytes[..message.wire_len].to_vec();
    let payload = message.payload(&mut wire).to_vec();
    assert_eq!(payload.len(), message.payload_len);
    let (uid, op) = (message.header.uid, message.header.op as u8);
    Verdict::Whole(Parsed { wire_len: message.wire_len, uid, op, payload })
}

/// Input: a byte whose lowest bit is the direction, then the stream.
pub fn body(data: &[u8]) {
    let Some((control, bytes)) = data.split_first() else { return };
    let direction = if control & 1 == 0 { Direction::Request } else { Direction::Response };
    let judge = |len: usize| {
        let verdict = slow(&bytes[..len], direction as u8);
        assert_eq!(fast(&bytes[..len], direction), verdict, "{len} bytes");
        verdict
    };
    let near = |len: &usize| *len < 40 || (len % 2062) < 16 || len.is_multiple_of(1999);
    for len in (0..=bytes.len().min(MESSAGE_MAX + 20)).filter(near) {
        // A decision stays the same whatever follows.
        if judge(len) != Verdict::Incomplete {
            break;
        }
    }
    if let Verdict::Whole(parsed) = judge(bytes.len()) {
        relabeled(bytes, direction, &parsed);
    }
}

fn relabeled(bytes: &[u8], direction: Direction, parsed: &Parsed) {
    let message = Message::measure(bytes, direction).ok().flatten().expect("it was measured");
    let mut out = vec![0; parsed.wire_len];
    let envelope = Envelope { level: 2, direction, uid: 0xdead_beef, op: message.header.op };
    let len = message.relabel(bytes, &envelope, &mut out);
    assert_eq!(len, Some(parsed.wire_len));
    let renamed = Parsed { uid: 0xdead_beef, ..parsed.clone() };
    assert_eq!(slow(&out, direction as u8), Verdict::Whole(renamed));
    assert_eq!(message.relabel(bytes, &envelope, &mut out[1..]), None);
}
