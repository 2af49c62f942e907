use super::*;
use std::vec::Vec;

const GET: [u8; 16] = [0, 0x11, 0, 5, 0, 0xde, 0xad, 0xbe, 0xef, 0, 1, 1, 0, 2, b'i', b'd'];

#[test]
fn a_header_has_the_bytes_that_the_protocol_defines() {
    let header = Header::parse(&GET, Direction::Request).unwrap().unwrap();
    let read = Header {
        patch: 5,
        direction: Direction::Request,
        uid: 0xdead_beef,
        op: Op::Get,
        complete: true,
        len: 2,
    };
    assert_eq!(header, read);
    assert_eq!(header.encode(), GET[..14]);
}

#[test]
fn each_invalid_byte_is_named() {
    let cases = [
        (0, 1, Malformed::Version),
        (1, 0x12, Malformed::Version),
        (4, 1, Malformed::Direction),
        (9, 1, Malformed::Class),
        (10, 9, Malformed::Operation),
        (11, 2, Malformed::Complete),
        (11, 0, Malformed::Length),
        (12, 9, Malformed::Length),
    ];
    for (at, value, malformed) in cases {
        let mut bytes = GET;
        bytes[at] = value;
        assert_eq!(Message::measure(&bytes, Direction::Request), Err(malformed), "byte {at}");
    }
}

#[test]
fn each_operation_exists_from_its_level_on() {
    for op in Op::ALL.into_iter().filter(|op| op.level() > 0) {
        let mut bytes = Envelope::request(1, op).header(0).encode();
        let judged = Header::parse(&bytes, Direction::Request).unwrap().unwrap();
        assert_eq!((judged.op, judged.patch), (op, LEVEL));
        bytes[3] = op.level() as u8;
        assert!(Header::parse(&bytes, Direction::Request).is_ok());
        bytes[3] -= 1;
        let judged = Header::parse(&bytes[..11], Direction::Request);
        assert_eq!(judged, Err(Malformed::Operation));
    }
}

#[test]
fn an_answer_is_at_the_lower_of_both_levels() {
    for (asked, ours, level) in [(0, 1, 0), (1, 1, 1), (5, 1, 1), (5, 0, 0)] {
        let request = Header { patch: asked, ..Envelope::request(1, Op::Get).header(0) };
        assert_eq!(Envelope::answer(&request, ours).level, level);
    }
}

#[test]
fn every_prefix_of_a_valid_header_is_incomplete() {
    for len in 0..GET.len() {
        assert_eq!(Message::measure(&GET[..len], Direction::Request), Ok(None), "{len} bytes");
    }
    let full = Header { complete: false, ..response(1, Op::Get).header(2048) };
    for len in 0..HEADER_LEN {
        let measured = Message::measure(&full.encode()[..len], Direction::Response);
        assert_eq!(measured, Ok(None), "{len} bytes");
    }
}

fn response(uid: u32, op: Op) -> Envelope {
    Envelope { direction: Direction::Response, ..Envelope::request(uid, op) }
}

#[test]
fn a_payload_of_any_length_comes_out_as_it_went_in() {
    let ends = [0, 1, 2047, 2048, 2049, 4096, 4097, 4100, PAYLOAD_MAX - 1, PAYLOAD_MAX];
    for len in ends {
        let payload: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        let mut wire = [0; MESSAGE_MAX];
        wire[HEADER_LEN..][..len].copy_from_slice(&payload);
        let written = frame(&mut wire, &response(9, Op::Get), len).unwrap();
        assert_eq!(written, wire_len(len));
        let short = Message::measure(&wire[..written - 1], Direction::Response);
        assert_eq!(short, Ok(None), "{len} bytes");
        let message = Message::measure(&wire, Direction::Response).unwrap().unwrap();
        assert_eq!((message.wire_len, message.payload_len), (written, len));
        assert!(message.payload(&mut wire[..written]) == payload, "{len} bytes");
    }
}

#[test]
fn a_message_that_does_not_fit_is_not_framed() {
    let mut wire = [7; MESSAGE_MAX + 20];
    let mut framed =
        |room: usize, len| frame(&mut wire[..room], &Envelope::request(1, Op::Get), len);
    assert_eq!(framed(13, 0), None);
    assert_eq!(framed(2075, 2048 - 1 + 15), None);
    assert_eq!(framed(MESSAGE_MAX + 20, PAYLOAD_MAX + 1), None);
    assert_eq!(wire, [7; MESSAGE_MAX + 20]);
}

#[test]
fn a_17th_frame_is_one_too_many_and_a_16th_must_be_the_last() {
    let header = Envelope::request(3, Op::Get).header(2048);
    let mut full = [0; FRAME_MAX];
    full[..HEADER_LEN].copy_from_slice(&Header { complete: false, ..header }.encode());
    let bytes = full.repeat(FRAMES_MAX);
    let measure = |len: usize| Message::measure(&bytes[..len], Direction::Request);
    assert_eq!(measure(15 * FRAME_MAX + COMPLETE_AT), Ok(None));
    assert_eq!(measure(15 * FRAME_MAX + COMPLETE_AT + 1), Err(Malformed::TooManyFrames));
}

#[test]
fn half_a_level_of_a_later_frame_is_incomplete() {
    let mut wire = [5; MESSAGE_MAX];
    let envelope = Envelope { level: 0x0100, ..Envelope::request(9, Op::Put) };
    let len = frame(&mut wire, &envelope, 3000).unwrap();
    let measure = |wire: &[u8]| Message::measure(wire, Direction::Request);
    wire[FRAME_MAX + 2..][..2].copy_from_slice(&[0, 1]);
    assert_eq!(measure(&wire[..FRAME_MAX + 3]), Ok(None));
    assert_eq!(measure(&wire[..len]).unwrap().unwrap().wire_len, len);
    wire[FRAME_MAX + 3] = 0;
    assert_eq!(measure(&wire[..FRAME_MAX + 4]), Err(Malformed::Operation));
}

#[test]
fn relabeling_changes_the_envelope_of_every_frame() {
    let mut wire = [5; MESSAGE_MAX];
    let len = frame(&mut wire, &response(9, Op::Get), 5000).unwrap();
    wire[3] = 7;
    let message = Message::measure(&wire, Direction::Response).unwrap().unwrap();
    let mut out = [0; MESSAGE_MAX];
    let other = Envelope { level: 3, ..Envelope::request(77, Op::Take) };
    assert_eq!(message.relabel(&wire, &other, &mut out), Some(len));
    let relabeled = Message::measure(&out, Direction::Request).unwrap().unwrap();
    let Header { uid, patch, op, .. } = relabeled.header;
    assert_eq!((uid, patch, op), (77, 3, Op::Take));
    assert_eq!((relabeled.wire_len, relabeled.payload_len), (len, 5000));
    assert_eq!(message.relabel(&wire, &other, &mut out[..len - 1]), None);
}
