//! Seeds, and a mutator that makes inputs from them without a fuzzer.

use distcache_core::Id;
use distcache_core::seal::{self, Keys};
use distcache_testing::bytes::{ADD, GET, PUT, TAKE, add_payload, at_level, message};
use distcache_testing::random::Random;
use distcache_testing::vectors::lines;

/// The longest input that the runner makes.
const MOST: usize = 40_000;

const ADDRESSES: [&str; 15] = [
    "UNIX:/tmp/scache",
    "UNIX:@name",
    "IP:9001",
    "IP::9001",
    "IP:127.0.0.1:9001",
    "IP:[::1]:9001",
    "IPv4:localhost:1",
    "IPv6:65535",
    "IPv6:[fe80::1%1]:9001",
    "FD:0",
    "FD:0:1",
    "FD:-1:3",
    "IP:host:65536",
    "UNIX:",
    "SESSIOND:[::1]:54321",
];

const LINES: [&str; 7] = [
    "-address\0IP:9001\0--server=IP:127.0.0.1:9001",
    "-n\x00007\0--number=3\0-bytes\x0064M",
    "-mode\x000660\0-path=/tmp/x\0-text\0word",
    "-h\0-?\0--help\0-V\0-version",
    "-unknown\0--=\0-\0---x",
    "-text=\0-n\0-n",
    "-address\0SESSIOND:localhost:1\0-listen\0SESSIOND:localhost:1",
];

/// Returns the seeds of one body: from the reference vectors if it takes a stream, else random
/// bytes.
pub fn of(body: &str) -> Vec<Vec<u8>> {
    let lines = lines();
    let requests = lines.iter().map(|line| &line.request[..]);
    let replies = lines.iter().map(|line| &line.outcome.reply[..]);
    match body {
        "address" => ADDRESSES.iter().map(|address| address.as_bytes().to_vec()).collect(),
        "options" => LINES.iter().map(|line| line.as_bytes().to_vec()).collect(),
        "measure" => {
            let asks = requests.map(|request| [&[0], request].concat());
            asks.chain(replies.map(|reply| [&[1], reply].concat())).collect()
        }
        "snoop" => {
            let asks = requests.map(|request| [&[0, 9], request].concat());
            asks.chain(replies.map(|reply| [&[1, 99], reply].concat())).collect()
        }
        "server" => {
            let all: Vec<&[u8]> = requests.collect();
            let alone = all.chunks(1).chain(all[..30].chunks(10));
            let old = alone.map(|asks| [&[1; 8][..], &asks.concat()].concat());
            old.chain(new_requests()).collect()
        }
        "client" => {
            let of = |op: u8| move |reply: &[u8]| [&[op; 9][..], reply].concat();
            let old = (0..4).flat_map(|op| replies.clone().map(of(op)));
            old.chain(new_replies()).collect()
        }
        "sessiond" => packets(),
        "seal" => envelopes(),
        "state" => {
            (0..24).map(|n| [&[n as u8][..], &noise(n, 30 * (1 + n as usize))].concat()).collect()
        }
        _ => (0..20).map(|seed| noise(seed, 40 * (1 + seed as usize))).collect(),
    }
}

/// Envelopes that only look like some of the keys of the body `seal`: with their key ids, and another tag.
fn envelopes() -> Vec<Vec<u8>> {
    let sealed = |(what, len): (u8, usize)| {
        let (id, mut envelope) =
            (Id::new(&[7; 32]).expect("32 bytes"), vec![0; len + seal::OVERHEAD]);
        let keys = Keys::new(&[[1 + what % 3; 32]]).expect("a key");
        keys.seal([what; 24], 9, id, &vec![what; len], &mut envelope);
        // One wrong bit would soon be put right.
        envelope[len + seal::HEADER_LEN..].fill(what);
        let times = [[0, 0, 0, 8 + what % 3], [0, 0, 0, 9]].concat();
        [&[what, 10 * what][..], &times, &[31], &[7; 32], &envelope].concat()
    };
    (0..16).zip([0, 1, 64, 200, 2_000].into_iter().cycle()).map(sealed).collect()
}

/// Requests of level 1, each after a request that it affects, and one at a level too low.
fn new_requests() -> Vec<Vec<u8>> {
    let store = |op, session: &[u8]| message(0, 7, op, &add_payload(60_000, b"an id", session));
    let fetch = |op| message(0, 7, op, b"an id");
    let short = message(0, 7, PUT, b"1234567");
    let cases = [
        vec![store(PUT, b"session"), store(PUT, &[7; 5_000]), fetch(GET)],
        vec![store(ADD, b"session"), fetch(TAKE), fetch(TAKE), store(PUT, b"another")],
        vec![store(PUT, &[8; 3_000]), fetch(TAKE), fetch(GET)],
        vec![store(PUT, b""), fetch(TAKE), short],
    ];
    let seed = |level: u8| {
        move |asks: &Vec<Vec<u8>>| {
            let asks: Vec<u8> = asks.iter().flat_map(|ask| at_level(level, ask.clone())).collect();
            [&[1; 8][..], &asks].concat()
        }
    };
    let valid = cases.iter().map(seed(1)).chain(cases.iter().map(seed(200)));
    valid.chain(cases.iter().map(seed(0))).collect()
}

/// Replies to a client that knows its server's level, or is about to learn it.
fn new_replies() -> Vec<Vec<u8>> {
    let answers = |uid, op, level, payload: &[u8]| at_level(level, message(1, uid, op, payload));
    let known = |op: u8, answers: Vec<u8>| [&[0x80 | op][..], &[9; 8], &answers].concat();
    let learns = |op: u8, answers: [Vec<u8>; 3]| [&[op; 9][..], &answers.concat()].concat();
    vec![
        known(PUT, answers(1, PUT, 1, &[0])),
        known(PUT, answers(1, PUT, 1, &[3])),
        known(TAKE, answers(1, TAKE, 1, &[7; 5_000])),
        known(TAKE, answers(1, TAKE, 1, b"four")),
        known(TAKE, answers(1, TAKE, 0, &[1])),
        learns(PUT, [answers(1, GET, 1, &[1]), answers(2, PUT, 1, &[0]), answers(3, PUT, 1, &[0])]),
        learns(
            TAKE,
            [answers(1, GET, 1, b"session"), answers(2, TAKE, 1, &[1]), answers(3, TAKE, 1, &[1])],
        ),
        learns(
            TAKE,
            [answers(1, GET, 0, &[1]), answers(2, GET, 9, &[1]), answers(3, TAKE, 1, b"session")],
        ),
    ]
}

/// An answer of the server: operation, level, payload.
type Answer = (u8, u8, &'static [u8]);

/// Datagrams of each type, each followed by answers of the server.
fn packets() -> Vec<Vec<u8>> {
    let cases: [(u8, usize, &[Answer]); 7] = [
        (0, 200, &[(0, 1, &[0])]),
        (0, 512, &[(0, 1, &[101]), (4, 1, &[0])]),
        (0, 9, &[(0, 0, &[101]), (2, 0, &[0]), (0, 0, &[0])]),
        (0, 1, &[(0, 1, &[101]), (4, 1, &[3]), (2, 1, &[1]), (0, 1, &[101])]),
        (1, 0, &[(1, 1, &[7; 512])]),
        (1, 0, &[(1, 0, &[1])]),
        (2, 0, &[(2, 1, &[0])]),
    ];
    let seed = |(code, value, answers): &(u8, usize, &[Answer])| {
        let len = 36 + value;
        let mut seed = vec![(len / 9) as u8, (len % 9) as u8, 1, *code, 1, 44];
        seed.extend([9; 32]);
        seed.resize(2 + len, 5);
        for (op, level, payload) in *answers {
            let mut message = message(1, 0, *op, payload);
            message[3] = *level;
            seed.extend((message.len() as u16).to_be_bytes());
            seed.extend(message);
        }
        seed
    };
    cases.iter().map(seed).collect()
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.next() as u8).collect()
}

/// Makes inputs from seeds, the same ones for the same `seed`.
#[derive(Debug)]
pub struct Mutator<'a> {
    seeds: &'a [Vec<u8>],
    random: Random,
    input: Vec<u8>,
}

impl<'a> Mutator<'a> {
    /// Creates a mutator of these seeds.
    pub const fn new(seeds: &'a [Vec<u8>], seed: u64) -> Self {
        Self { seeds, random: Random::new(seed), input: Vec::new() }
    }

    /// Returns the next input.
    #[allow(clippy::should_implement_trait, reason = "it lends, and never ends")]
    pub fn next(&mut self) -> &[u8] {
        let seed = &self.seeds[self.random.below(self.seeds.len())];
        self.input.clear();
        self.input.extend(seed);
        for _ in 0..self.random.below(6) {
            self.change();
        }
        self.input.truncate(MOST);
        &self.input
    }

    fn change(&mut self) {
        let random = &mut self.random;
        let len = self.input.len();
        // Most of what matters is near the front.
        let reach = if random.below(2) == 0 { len.min(40) } else { len };
        let at = random.below(reach);
        let byte = [0, 1, 2, 8, 0x11, 0xff, random.next() as u8][random.below(7)];
        match random.below(7) {
            0 if len > 0 => self.input[at] = byte,
            1 if len > 0 => self.input[at] ^= 1 << random.below(8),
            2 => self.input.insert(at, byte),
            3 if len > 0 => drop(self.input.remove(at)),
            4 => self.input.truncate(random.below(len + 1)),
            5 => {
                let end = len.min(at + random.below(64));
                let part = self.input[at..end].to_vec();
                self.input.extend(part);
            }
            _ => {
                let other = &self.seeds[random.below(self.seeds.len())];
                let from = random.below(other.len());
                self.input.extend(&other[from..]);
            }
        }
    }
}
