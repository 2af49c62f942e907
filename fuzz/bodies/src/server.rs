//! A server answers a stream in pieces as it answers it whole, and only valid requests. Its buffers hold
//! nothing once the client has left.

use crate::measure::{Verdict, slow};
use distcache_core::server::{Config, Store};
use distcache_core::{Layout, Table};
use distcache_testing::bytes::{ADD, COPY, GET, PUT, REPAIR, TAKE, whole_messages};
use distcache_testing::memory::{Memory, NO_LIMITS};
use distcache_testing::net::{Net, Pieces};
use distcache_testing::random::Random;
use distcache_testing::store::Plain;

/// The outcome of a stream: the answers, whether the connection is open, and operations.
type Outcome = (Vec<u8>, bool, u64);

/// Input: 8 bytes that say where to split, then the stream.
pub fn body(data: &[u8]) {
    let Some((seed, stream)) = data.split_first_chunk() else { return };
    let seed = u64::from_be_bytes(*seed);
    let plain = |pieces, buffers| parsed(stream, pieces, buffers, Plain::new(8));
    let whole = plain(Pieces::Whole, 4);
    assert_eq!(plain(Pieces::Any(Random::new(seed)), 4), whole);
    assert_eq!(plain(Pieces::Of(1 + (seed % 3000) as usize), 2), whole);
    answers_fit(stream, &whole);
    // A table also supports FETCH, REPAIR and COPY.
    let whole = parsed(stream, Pieces::Whole, 4, table());
    assert_eq!(parsed(stream, Pieces::Any(Random::new(seed)), 2, table()), whole);
}

fn table() -> Table<Vec<[u8; 64]>> {
    let layout = Layout::new(8, 1 << 18).expect("a small table");
    Table::new(layout, [7; 16], |lines| vec![[0; 64]; lines]).expect("enough memory")
}

fn parsed(stream: &[u8], pieces: Pieces, buffers: usize, store: impl Store) -> Outcome {
    let mut memory = Memory::with_buffers(1, buffers);
    let config = Config { allow_copy: true, ..Config::new(NO_LIMITS) };
    let mut net = Net::new(memory.server_with(config, store), pieces);
    let client = net.connect();
    net.send(client, stream);
    net.drive();
    let operations = net.machine.operations().total;
    let outcome = (net.take(client), net.is_open(client), operations);
    net.cut(client);
    net.drive();
    drop(net);
    assert!(memory.is_wiped(), "bytes stay behind");
    outcome
}

/// Checks that each whole request is answered in order under its own uid, up to the first invalid
/// one.
fn answers_fit(stream: &[u8], (answers, open, operations): &Outcome) {
    let mut levels = answers.get(2..).unwrap_or_default();
    let (answers, rest) = whole_messages(answers);
    assert!(rest.is_empty());
    assert_eq!(answers.len() as u64, *operations);
    let (mut rest, mut answered) = (stream, answers.into_iter());
    let valid = loop {
        match slow(rest, 0) {
            Verdict::Incomplete => break true,
            Verdict::Invalid => break false,
            // An ADD, PUT, REPAIR or COPY without its fixed fields.
            Verdict::Whole(parsed)
                if [ADD, PUT].contains(&parsed.op) && parsed.payload.len() < 8
                    || parsed.op == REPAIR && parsed.payload.len() < 16
                    || parsed.op == COPY && parsed.payload.len() != 8 =>
            {
                break false;
            }
            Verdict::Whole(parsed) => {
                let (uid, op, payload) = answered.next().expect("an answer to each request");
                assert_eq!((uid, op), (parsed.uid, parsed.op));
                assert!(op == GET || op == TAKE || payload.len() == 1, "a status");
                // At the level of the request, but no higher than 2.
                let level = if rest[2] > 0 { 2 } else { rest[3].min(2) };
                assert_eq!(levels[..2], [0, level]);
                let frames = payload.len().div_ceil(2048).max(1);
                levels = levels.get(14 * frames + payload.len()..).unwrap_or_default();
                rest = &rest[parsed.wire_len..];
            }
        }
    };
    assert_eq!((answered.next(), valid), (None, *open));
}
