//! What was not sealed by the keys never opens, whatever it was made of; what they sealed opens as it was.

use distcache_core::Id;
use distcache_core::seal::{HEADER_LEN, Keys, OVERHEAD, Unopened, is_sealed};

use crate::input::Input;

/// Input: a byte for what happens, a byte for where, 8 for now and expiry, a byte for the length of the id,
/// the id, the session or the envelope.
pub fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let (what, place) = (input.below(8), input.byte());
    let word = input.word().to_be_bytes();
    let [now, expires] =
        [0, 4].map(|at| u32::from_be_bytes([word[at], word[at + 1], word[at + 2], word[at + 3]]));
    let id_len = 1 + input.below(64);
    let id: Vec<u8> = (0..id_len).map(|_| input.byte()).collect();
    let (id, rest) = (Id::new(&id).expect("1 to 64 bytes"), input.rest());
    let keys = Keys::new(&[[1; 32], [2; 32]]).expect("two keys");

    // No fuzzer finds a tag, so bytes that it chose are no envelope.
    let mut foreign = rest.to_vec();
    let error = keys.open(now, id, &mut foreign).map(|_| ()).expect_err("nobody sealed it");
    assert_eq!(error == Unopened::NotSealed, !is_sealed(rest));
    assert_ne!(error, Unopened::Expired);
    assert_eq!(foreign, rest, "what does not open stays as it is");

    let sealing = if what & 1 == 0 { &keys } else { &Keys::new(&[[2; 32]]).expect("a key") };
    let mut sealed = vec![0xEE; rest.len() + OVERHEAD];
    let nonce = [place; 24];
    assert_eq!(sealing.seal(nonce, expires, id, rest, &mut sealed), Some(sealed.len()));
    let mut in_place = vec![0xEE; sealed.len()];
    in_place[HEADER_LEN..][..rest.len()].copy_from_slice(rest);
    sealing.seal_in_place(nonce, expires, id, &mut in_place).expect("there is room");
    assert_eq!(in_place, sealed);

    let mut copy = sealed.clone();
    match keys.open(now, id, &mut copy) {
        Ok(session) => assert!(now <= expires && *session == *rest),
        Err(error) => {
            assert!(error == Unopened::Expired && now > expires);
            assert!(copy[HEADER_LEN..][..rest.len()].iter().all(|&byte| byte == 0));
        }
    }
    changed(&keys, what, place, now, id, sealed);
}

/// One change of any kind, and it does not open.
fn changed(keys: &Keys, what: usize, place: u8, now: u32, id: Id<'_>, mut sealed: Vec<u8>) {
    let at = usize::from(place) * 7 % sealed.len();
    let mut other = id.bytes().to_vec();
    match what / 2 {
        0 => sealed[at] ^= 1 << (place % 8),
        1 => sealed.truncate(at),
        2 => sealed.insert(at, place),
        _ if other.len() > 1 => drop(other.pop()),
        _ => other[0] ^= 1,
    }
    let other = Id::new(&other).expect("1 to 64 bytes");
    let opened = keys.open(now, other, &mut sealed).map(|_| ());
    assert!(opened.is_err_and(|error| error != Unopened::Expired), "{what} {at}");
}
