//! Sealed sessions against `vectors/seal.tsv`, which the module for Node has made with another cipher library.

use distcache_core::Id;
use distcache_core::seal::{HEADER_LEN, Keys, Unopened, parse_key};

const VECTORS: &str = include_str!("vectors/seal.tsv");

struct Vector {
    outcome: &'static str,
    keys: Vec<[u8; 32]>,
    now: u32,
    id: Vec<u8>,
    envelope: Vec<u8>,
    session: Vec<u8>,
}

fn vectors() -> Vec<Vector> {
    let lines = VECTORS.lines().filter(|line| !line.starts_with('#'));
    let vectors: Vec<_> = lines
        .map(|line| {
            let fields: Vec<&'static str> = line.split('\t').collect();
            let [outcome, keys, now, id, envelope, session] = fields[..] else { panic!("{line}") };
            let key = |key: &str| *parse_key(key.as_bytes()).expect("a key");
            Vector {
                outcome,
                keys: keys.split(',').map(key).collect(),
                now: now.parse().expect("seconds"),
                id: bytes(id),
                envelope: bytes(envelope),
                session: if session == "-" { Vec::new() } else { bytes(session) },
            }
        })
        .collect();
    assert!(vectors.len() > 30);
    vectors
}

fn bytes(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("a hexadecimal byte")).collect()
}

#[test]
fn every_envelope_opens_or_does_not_as_its_vector_says() {
    for (number, vector) in vectors().iter().enumerate() {
        let keys = Keys::new(&vector.keys).expect("1 to 8 keys");
        let (id, mut envelope) = (Id::new(&vector.id).expect("an id"), vector.envelope.clone());
        let outcome = match keys.open(vector.now, id, &mut envelope) {
            Ok(session) => {
                assert_eq!(*session, vector.session, "{number}");
                "opened"
            }
            Err(Unopened::NotSealed) => "notSealed",
            Err(Unopened::UnknownKey) => "unknownKey",
            Err(Unopened::Forged) => "forged",
            Err(Unopened::Expired) => "expired",
        };
        assert_eq!(outcome, vector.outcome, "{number}");
    }
}

#[test]
fn sealing_with_the_same_nonce_gives_the_same_bytes() {
    for (number, vector) in vectors().iter().enumerate().filter(|(_, it)| it.outcome == "opened") {
        let header: &[u8; HEADER_LEN] = vector.envelope.first_chunk().expect("a header");
        let expires = u32::from_be_bytes(header[4..8].try_into().expect("4 bytes"));
        let nonce = header[8..].try_into().expect("24 bytes");
        let by = |key: &[u8; 32]| {
            let mut out = vec![0; vector.envelope.len()];
            let (keys, id) =
                (Keys::new(&[*key]).expect("a key"), Id::new(&vector.id).expect("an id"));
            assert_eq!(keys.seal(nonce, expires, id, &vector.session, &mut out), Some(out.len()));
            out == vector.envelope
        };
        assert_eq!(vector.keys.iter().filter(|key| by(key)).count(), 1, "{number}");
    }
}
