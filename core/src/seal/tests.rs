use std::{format, vec::Vec};

use super::*;

const NOW: u32 = 1_800_000_000;
const SESSION: &[u8] =
    b"a session of some length, so that it fills more than one block of the cipher";

fn keys(first_bytes: &[u8]) -> Keys {
    let keys: Vec<_> = first_bytes.iter().map(|&byte| [byte; KEY_LEN]).collect();
    Keys::new(&keys).unwrap()
}

fn id(bytes: &[u8]) -> Id<'_> {
    Id::new(bytes).unwrap()
}

fn sealed(keys: &Keys, expires: u32) -> Vec<u8> {
    let mut out = std::vec![0; SESSION.len() + OVERHEAD];
    assert_eq!(keys.seal([9; 24], expires, id(b"id"), SESSION, &mut out), Some(out.len()));
    out
}

#[test]
fn a_session_of_any_length_comes_back_48_bytes_shorter() {
    let keys = keys(&[1]);
    for len in (0..200).chain([32_768]) {
        let session: Vec<u8> = (0..len).map(|at: usize| at.to_le_bytes()[0]).collect();
        let mut out = std::vec![0; len + OVERHEAD];
        assert_eq!(keys.seal([3; 24], NOW, id(b"id"), &session, &mut out), Some(len + 48));
        assert!(is_sealed(&out));
        assert_eq!(keys.open(NOW, id(b"id"), &mut out), Ok(&mut session.clone()[..]));
    }
}

#[test]
fn nothing_of_the_session_or_the_key_is_in_the_envelope() {
    let out = sealed(&keys(&[1]), NOW);
    assert!(!out.windows(6).any(|six| SESSION.windows(6).any(|of_session| six == of_session)));
    assert!(!out.windows(3).any(|three| three == [1; 3]));
}

#[test]
fn a_buffer_too_short_stays_as_it_is() {
    let keys = keys(&[1]);
    let mut short = [5; SESSION.len() + OVERHEAD - 1];
    assert_eq!(keys.seal([9; 24], NOW, id(b"id"), SESSION, &mut short), None);
    assert_eq!(keys.seal_in_place([9; 24], NOW, id(b"id"), &mut short[..OVERHEAD - 1]), None);
    assert!(short.iter().all(|&byte| byte == 5));
}

#[test]
fn an_envelope_with_any_bit_changed_does_not_open_and_shows_nothing() {
    let keys = keys(&[1]);
    let out = sealed(&keys, NOW);
    for bit in 0..out.len() * 8 {
        let mut changed = out.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let before = changed.clone();
        let error = match bit / 8 {
            0 => Unopened::NotSealed,
            1..4 => Unopened::UnknownKey,
            _ => Unopened::Forged,
        };
        assert_eq!(keys.open(0, id(b"id"), &mut changed), Err(error), "bit {bit}");
        assert_eq!(changed, before, "bit {bit}");
    }
}

#[test]
fn an_envelope_cut_or_extended_does_not_open() {
    let keys = keys(&[1]);
    let out = sealed(&keys, NOW);
    for len in 0..out.len() {
        let error = if len < OVERHEAD { Unopened::NotSealed } else { Unopened::Forged };
        assert_eq!(keys.open(0, id(b"id"), &mut out.clone()[..len]), Err(error), "{len} bytes");
    }
    let mut longer = out;
    longer.push(0);
    assert_eq!(keys.open(0, id(b"id"), &mut longer), Err(Unopened::Forged));
}

#[test]
fn a_session_opens_under_its_own_id_only() {
    let keys = keys(&[1]);
    let out = sealed(&keys, NOW);
    for other in [&b"ie"[..], b"i", b"id\0", b"\0id", &[0; 64]] {
        assert_eq!(keys.open(0, id(other), &mut out.clone()), Err(Unopened::Forged));
    }
}

#[test]
fn bytes_cannot_move_between_expiry_and_id() {
    let keys = keys(&[1]);
    let mut out = [0; OVERHEAD];
    keys.seal([9; 24], 0x4142_4344, id(b"E"), b"", &mut out).unwrap();
    for (expires, other) in
        [(0x4041_4243_u32, &b"DE"[..]), (0x4243_4445, b"E"), (0x4243_4445, b"A")]
    {
        let mut moved = out;
        moved[4..8].copy_from_slice(&expires.to_be_bytes());
        assert_eq!(keys.open(0, id(other), &mut moved), Err(Unopened::Forged));
    }
}

#[test]
fn a_session_opens_until_the_end_of_its_last_second_and_never_after() {
    let keys = keys(&[1]);
    let out = sealed(&keys, NOW);
    assert!(keys.open(NOW, id(b"id"), &mut out.clone()).is_ok());
    for late in [NOW + 1, u32::MAX] {
        let mut envelope = out.clone();
        assert_eq!(keys.open(late, id(b"id"), &mut envelope), Err(Unopened::Expired));
        assert!(envelope[HEADER_LEN..][..SESSION.len()].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn a_lifetime_is_rounded_up_to_seconds() {
    for (ttl, last) in [(0, 7), (1, 8), (1000, 8), (1001, 9), (u32::MAX, 7 + 4_294_968)] {
        assert_eq!(expires(7, ttl), last, "{ttl} ms");
    }
    assert_eq!(expires(u32::MAX, 1), u32::MAX);
}

#[test]
fn keys_rotate_without_a_miss() {
    // Machine by machine: the new key opens everywhere before it seals anywhere.
    let rotation = [keys(&[1]), keys(&[1, 2]), keys(&[2, 1]), keys(&[2])];
    for neighbours in rotation.windows(2) {
        for (seals, opens) in [(0, 1), (1, 0)] {
            let mut out = sealed(&neighbours[seals], NOW);
            assert!(neighbours[opens].open(NOW, id(b"id"), &mut out).is_ok());
        }
    }
    let mut out = sealed(&keys(&[1]), NOW);
    assert_eq!(keys(&[2]).open(NOW, id(b"id"), &mut out), Err(Unopened::UnknownKey));
}

#[test]
fn the_first_key_seals() {
    assert_eq!(sealed(&keys(&[2, 1]), NOW), sealed(&keys(&[2]), NOW));
    assert_ne!(sealed(&keys(&[2, 1]), NOW), sealed(&keys(&[1, 2]), NOW));
}

#[test]
fn keys_with_the_same_id_are_all_tried() {
    let mut both = keys(&[1, 2]);
    let shared = both.0[0].id;
    both.0[1].id = shared;
    let mut second = keys(&[2]);
    second.0[0].id = shared;
    let mut out = sealed(&second, NOW);
    assert_eq!(both.open(NOW, id(b"id"), &mut out).map(|session| &*session), Ok(SESSION));
}

#[test]
fn one_to_eight_keys_are_taken_and_never_shown() {
    for (count, taken) in [(0, false), (1, true), (8, true), (9, false)] {
        assert_eq!(Keys::new(&[[0xAB; 32]; 9][..count]).is_some(), taken, "{count} keys");
    }
    assert_eq!(format!("{:?}", keys(&[0xAB])), "Keys { len: 1, .. }");
}

#[test]
fn what_is_not_sealed_is_called_so() {
    for plain in [&b""[..], &[0x30; 200], &[FORMAT], &[FORMAT; OVERHEAD - 1]] {
        assert!(!is_sealed(plain));
        let mut plain = plain.to_vec();
        assert_eq!(keys(&[1]).open(0, id(b"id"), &mut plain), Err(Unopened::NotSealed));
    }
}

#[test]
fn nonces_differ_and_end() {
    let mut nonces = Nonces::new(*b"sixteen of chaos");
    let [first, second] = [(); 2].map(|()| nonces.next_nonce().unwrap());
    assert_eq!(first, *b"sixteen of chaos\0\0\0\0\0\0\0\x01");
    assert_eq!(second, *b"sixteen of chaos\0\0\0\0\0\0\0\x02");
    nonces.used = u64::MAX - 1;
    assert_eq!(nonces.next_nonce().unwrap()[16..], [0xFF; 8]);
    assert_eq!(nonces.next_nonce(), None);
}

#[test]
fn a_key_is_64_hexadecimal_digits() {
    let digits = b"000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";
    let key = parse_key(digits).unwrap();
    assert!(key.iter().enumerate().all(|(at, &byte)| usize::from(byte) == at));
    for wrong in [&digits[1..], &digits[..62], &[&digits[..], b"0"].concat(), b""] {
        assert!(parse_key(wrong).is_none());
    }
    for stranger in [b' ', b'g', b'G', b'\0', b'+', 0xFF] {
        let mut digits = *digits;
        digits[20] = stranger;
        assert!(parse_key(&digits).is_none());
    }
}

/// The vector of draft-irtf-cfrg-xchacha-03, appendix A.3.1: the cipher is what it is said to be.
#[test]
fn the_cipher_gives_what_its_draft_says() {
    let key: [u8; 32] = core::array::from_fn(|at| 0x80 + u8::try_from(at).unwrap());
    let nonce: [u8; 24] = core::array::from_fn(|at| 0x40 + u8::try_from(at).unwrap());
    let data = hex("50515253c0c1c2c3c4c5c6c7");
    let mut text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip \
        for the future, sunscreen would be it."
        .to_vec();
    let cipher = XChaCha20Poly1305::new(&key.into());
    let tag =
        cipher.encrypt_inout_detached(&nonce.into(), &data, InOutBuf::from(&mut text[..])).unwrap();
    assert_eq!(
        text,
        hex(
            "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39\
             ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9\
             21f9664c97637da9768812f615c68b13b52e"
        )
    );
    assert_eq!(tag.to_vec(), hex("c0875924c1c7987947deafd8780acf49"));
}

fn hex(digits: &str) -> Vec<u8> {
    let digits = digits.as_bytes().chunks(2).map(|pair| core::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}
