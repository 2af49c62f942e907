//! Sealed sessions: what a proxy with keys sends to servers, and what servers can make of it, over virtual
//! time. The tests act as the servers, honest or not.

use std::time::Duration;

use distcache_core::Id;
use distcache_core::proxy::{self, Config, Rejected, Seal};
use distcache_core::seal::{Keys, Nonces, OVERHEAD};
use distcache_testing::bytes::{
    ADD, GET, HAVE, PUT, REMOVE, TAKE, add, add_for, add_payload, at_level, get, have, message,
    messages, remove, session, status,
};
use distcache_testing::memory::{Memory, NO_LIMITS};
use distcache_testing::net::{self, End, Net, Pieces, Probes, with_every_split};
use distcache_testing::scripted::Sessions;

type World<'m> = Net<proxy::Borrowed<'m>>;

const ALONE: Config =
    Config { server_patience: None, ..Config::new(NO_LIMITS, Duration::from_millis(5_000)) };
const COPIED: Config = Config { copies: 2, ..ALONE };
/// The wall clock at the start.
const UNIX: u32 = 1_800_000_000;
const MILLIS: u64 = UNIX as u64 * 1000;
/// The fixed part of an ADD: lifetime and length of the id.
const FIXED: usize = 8;
const PAYLOAD_MAX: usize = 32_768;

fn keys(first_bytes: &[u8]) -> Keys {
    let keys: Vec<_> = first_bytes.iter().map(|byte| [*byte; 32]).collect();
    Keys::new(&keys).expect("one to eight keys")
}

fn seal(keys: Keys, mixed: bool) -> Seal {
    Seal { keys, nonces: Nonces::new([3; 16]), mixed }
}

/// Sealed at the start by another machine with this key, to be opened until `expires`.
fn sealed_by(key: u8, expires: u32, id: &[u8], session: &[u8]) -> Vec<u8> {
    let mut out = vec![0; session.len() + OVERHEAD];
    let id = Id::new(id).expect("a valid id");
    keys(&[key]).seal([8; 24], expires, id, session, &mut out).expect("enough room");
    out
}

/// Bytes of which no eight in a row come twice.
fn secret(len: usize) -> Vec<u8> {
    let mut state = 0x1234_5678_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Servers of one proxy, or of several: sessions, and what was sent to them.
#[derive(Default)]
struct Servers {
    level: u8,
    sessions: Vec<Sessions>,
    /// All bytes that they have received.
    wire: Vec<u8>,
    asked: Vec<Vec<u8>>,
}

/// A proxy with keys and one client.
struct Machine<'m> {
    net: World<'m>,
    client: End,
}

impl Servers {
    fn new(count: usize) -> Self {
        let (sessions, asked) = (vec![Sessions::default(); count], vec![Vec::new(); count]);
        Self { level: 1, sessions, wire: Vec::new(), asked }
    }

    fn answer(&mut self, number: usize, (uid, op, payload): (u32, u8, Vec<u8>)) -> Vec<u8> {
        self.asked[number].push(op);
        let answer = self.sessions[number].execute(op, &payload);
        at_level(self.level, message(1, uid, op, &answer))
    }

    /// Sets what the server has under an id.
    fn has(&mut self, number: usize, id: &[u8], bytes: &[u8]) {
        self.sessions[number].0.insert(id.to_vec(), bytes.to_vec());
    }

    fn stored(&self, number: usize, id: &[u8]) -> &[u8] {
        &self.sessions[number].0[id]
    }
}

impl<'m> Machine<'m> {
    fn new(memory: &'m mut Memory, config: Config, pieces: Pieces, seal: Option<Seal>) -> Self {
        let mut net = Net::new(memory.proxy(config), pieces);
        net.probes = Probes::AnsweredAt(1);
        if let Some(seal) = seal {
            net.machine.set_seal(net.now, MILLIS, seal);
        }
        net.drive();
        let client = net.connect();
        Self { net, client }
    }

    fn settle(&mut self, servers: &mut Servers) {
        loop {
            self.net.drive();
            let mut idle = true;
            for number in 0..servers.sessions.len() {
                let end = net::server(number as u8);
                let bytes = self.net.take(end);
                servers.wire.extend(&bytes);
                for asked in messages(&bytes) {
                    idle = false;
                    self.net.send(end, &servers.answer(number, asked));
                }
            }
            if idle {
                return;
            }
        }
    }

    /// The answer at level 1, without its header, and the uid that it is for.
    fn ask(&mut self, servers: &mut Servers, request: Vec<u8>) -> Vec<u8> {
        self.net.send(self.client, &at_level(1, request));
        self.settle(servers);
        self.net.take(self.client)
    }

    fn rejected(&self) -> Rejected {
        self.net.machine.traffic().rejected
    }
}

fn level_1(bytes: Vec<u8>) -> Vec<u8> {
    at_level(1, bytes)
}

fn put(uid: u32, id: &[u8], session: &[u8]) -> Vec<u8> {
    message(0, uid, PUT, &add_payload(60_000, id, session))
}

fn take(uid: u32, id: &[u8]) -> Vec<u8> {
    message(0, uid, TAKE, id)
}

fn taken(uid: u32, session: &[u8]) -> Vec<u8> {
    level_1(message(1, uid, TAKE, session))
}

fn found(uid: u32, bytes: &[u8]) -> Vec<u8> {
    level_1(session(uid, bytes))
}

fn miss(uid: u32) -> Vec<u8> {
    level_1(status(uid, GET, 1))
}

/// Runs a test with one server and one proxy that has key 1.
fn with_one(mixed: bool, test: impl Fn(&mut Machine<'_>, &mut Servers)) {
    let mut memory = Memory::of(1);
    let seal = seal(keys(&[1]), mixed);
    let mut machine = Machine::new(&mut memory, ALONE, Pieces::Whole, Some(seal));
    test(&mut machine, &mut Servers::new(1));
    machine.net.drive();
    assert_eq!(machine.net.machine.in_flight(), 0);
}

/// Whether eight bytes in a row of `secret` are in `bytes`.
fn shows(bytes: &[u8], secret: &[u8]) -> bool {
    let eights: std::collections::HashSet<_> = secret.windows(8).collect();
    bytes.windows(8).any(|eight| eights.contains(eight))
}

#[test]
fn a_session_comes_back_whole_and_no_server_sees_any_of_it() {
    for len in [5, 200, 1990, 2050, 5_000, PAYLOAD_MAX - OVERHEAD - FIXED - 5] {
        with_every_split(if len == 200 { 70 } else { 20 }, |pieces| {
            let mut memory = Memory::of(1);
            let seal = Some(seal(keys(&[1]), false));
            let mut machine = Machine::new(&mut memory, ALONE, pieces, seal);
            let (mut servers, secret) = (Servers::new(1), secret(len));
            let stored = machine.ask(&mut servers, add(1, b"an id", &secret));
            assert_eq!(stored, level_1(status(1, ADD, 0)));
            assert_eq!(servers.stored(0, b"an id").len(), len + OVERHEAD);
            assert!(machine.ask(&mut servers, get(2, b"an id")) == found(2, &secret));
            let put = machine.ask(&mut servers, put(3, b"an id", &secret));
            assert_eq!(put, level_1(message(1, 3, PUT, &[0])));
            assert!(machine.ask(&mut servers, take(4, b"an id")) == taken(4, &secret));
            assert_eq!(machine.ask(&mut servers, get(5, b"an id")), miss(5));
            assert!(!shows(&servers.wire, &secret) || len < 8);
            assert_eq!(machine.rejected().total(), 0);
        });
    }
}

#[test]
fn a_session_of_any_length_near_the_end_of_a_frame_comes_back_whole() {
    with_one(false, |machine, servers| {
        for len in (1985..2060).chain(4030..4110).chain(5..20) {
            let secret = secret(len);
            machine.ask(servers, put(1, b"an id", &secret));
            assert!(machine.ask(servers, get(2, b"an id")) == found(2, &secret), "{len} bytes");
        }
    });
}

#[test]
fn without_keys_bytes_pass_as_they_are_and_a_second_seal_is_opened_first() {
    let mut memory = Memory::of(1);
    let mut plain = Machine::new(&mut memory, ALONE, Pieces::Whole, None);
    let mut servers = Servers::new(1);
    let envelope = sealed_by(9, UNIX + 60, b"an id", b"a session");
    plain.ask(&mut servers, add(1, b"an id", &envelope));
    assert_eq!(servers.stored(0, b"an id"), envelope);
    assert_eq!(plain.ask(&mut servers, get(2, b"an id")), found(2, &envelope));
    with_one(false, |machine, servers| {
        machine.ask(servers, add(1, b"an id", &envelope));
        assert_eq!(servers.stored(0, b"an id").len(), envelope.len() + OVERHEAD);
        assert_eq!(machine.ask(servers, get(2, b"an id")), found(2, &envelope));
    });
}

/// What a lying server may return for `b"an id"`, and which counter it is.
fn lies(envelope: &[u8]) -> Vec<(&'static str, Vec<u8>, Rejected)> {
    let none = Rejected::NONE;
    let not_sealed = Rejected { not_sealed: 1, ..none };
    let unknown_key = Rejected { unknown_key: 1, ..none };
    let forged = Rejected { forged: 1, ..none };
    let expired = Rejected { expired: 1, ..none };
    let mut lies = vec![
        ("unsealed", b"a session".to_vec(), not_sealed),
        ("unsealed and long", secret(30_000), not_sealed),
        ("two bytes", b"no".to_vec(), not_sealed),
        ("four bytes", b"four".to_vec(), not_sealed),
        ("only the first byte", vec![0xD5; 47], not_sealed),
        ("of another key", sealed_by(2, UNIX + 60, b"an id", b"a session"), unknown_key),
        ("of another id", sealed_by(1, UNIX + 60, b"an ie", b"a session"), forged),
        ("of the id's front", sealed_by(1, UNIX + 60, b"an i", b"a session"), forged),
        ("after its time", sealed_by(1, UNIX - 1, b"an id", b"a session"), expired),
        ("extended", [envelope, b"x"].concat(), forged),
        ("as long as can be", vec![0xD5; PAYLOAD_MAX], unknown_key),
        (
            "as long, with its front",
            {
                let mut long = vec![0; PAYLOAD_MAX];
                long[..envelope.len()].copy_from_slice(envelope);
                long
            },
            forged,
        ),
    ];
    for at in 0..envelope.len() {
        let mut changed = envelope.to_vec();
        changed[at] ^= 1;
        let counted = if at == 0 {
            not_sealed
        } else if at < 4 {
            unknown_key
        } else {
            forged
        };
        lies.push(("changed", changed, counted));
    }
    for len in 5..envelope.len() {
        let counted = if len < OVERHEAD { not_sealed } else { forged };
        lies.push(("cut", envelope[..len].to_vec(), counted));
    }
    let mut prolonged = envelope.to_vec();
    prolonged[4] += 1;
    lies.push(("prolonged", prolonged, forged));
    lies
}

#[test]
fn whatever_a_server_makes_of_a_session_is_a_miss_and_counts() {
    with_one(false, |machine, servers| {
        machine.ask(servers, add(1, b"an id", b"a session"));
        let envelope = servers.stored(0, b"an id").to_vec();
        let mut sum = Rejected::NONE;
        for (what, lie, counted) in lies(&envelope) {
            servers.has(0, b"an id", &lie);
            assert_eq!(machine.ask(servers, get(2, b"an id")), miss(2), "{what} {lie:02x?}");
            assert_eq!(machine.ask(servers, have(3, b"an id")), level_1(status(3, HAVE, 0)));
            let taken = machine.ask(servers, take(4, b"an id"));
            assert_eq!(taken, level_1(message(1, 4, TAKE, &[1])), "{what} {lie:02x?}");
            sum = sum.plus(&counted).plus(&counted);
            assert_eq!(machine.rejected(), sum, "{what} {lie:02x?}");
            assert!(machine.net.is_open(net::SERVER), "{what}");
        }
        servers.has(0, b"an id", &envelope);
        assert_eq!(machine.ask(servers, get(5, b"an id")), found(5, b"a session"));
        assert_eq!(machine.net.machine.server_traffic(0).rejected, sum);
    });
}

#[test]
fn sessions_swapped_between_ids_are_misses() {
    with_one(false, |machine, servers| {
        machine.ask(servers, add(1, b"first", b"session 1"));
        machine.ask(servers, add(2, b"other", b"session 2"));
        let (first, other) = (servers.stored(0, b"first"), servers.stored(0, b"other"));
        let (first, other) = (first.to_vec(), other.to_vec());
        servers.has(0, b"first", &other);
        servers.has(0, b"other", &first);
        assert_eq!(machine.ask(servers, get(3, b"first")), miss(3));
        assert_eq!(machine.ask(servers, get(4, b"other")), miss(4));
        assert_eq!(machine.rejected(), Rejected { forged: 2, ..Rejected::NONE });
    });
}

#[test]
fn answers_swapped_between_requests_are_misses() {
    let mut memory = Memory::of(2);
    let seal = Some(seal(keys(&[1]), false));
    let mut machine = Machine::new(&mut memory, ALONE, Pieces::Whole, seal);
    let mut servers = Servers::new(1);
    machine.ask(&mut servers, add(1, b"first", b"session 1"));
    machine.ask(&mut servers, add(2, b"other", b"session 2"));
    let second = machine.net.connect();
    machine.net.send(machine.client, &get(3, b"first"));
    machine.net.send(second, &get(4, b"other"));
    machine.net.drive();
    let asked = messages(&machine.net.take(net::SERVER));
    for (asked, other) in asked.iter().zip(asked.iter().rev()) {
        let answer = session(asked.0, servers.stored(0, &other.2));
        machine.net.send(net::SERVER, &answer);
    }
    machine.net.drive();
    assert_eq!(machine.net.take(machine.client), status(3, GET, 1));
    assert_eq!(machine.net.take(second), status(4, GET, 1));
}

#[test]
fn a_get_without_a_valid_id_gets_no_session() {
    for id in [&[][..], &[7; 65], &[7; 5000], &[7; PAYLOAD_MAX]] {
        with_one(false, |machine, servers| {
            servers.has(0, id, &sealed_by(1, UNIX + 60, &[7; 64], b"a session"));
            assert_eq!(machine.ask(servers, get(1, id)), miss(1));
            assert_eq!(machine.ask(servers, have(2, b"an id")), level_1(status(2, HAVE, 1)));
            assert_eq!(machine.rejected(), Rejected { forged: 1, ..Rejected::NONE });
        });
    }
}

#[test]
fn statuses_and_empty_answers_are_no_sessions() {
    with_one(false, |machine, servers| {
        for code in [0, 1, 2, 3, 0xD5, 255] {
            servers.has(0, b"an id", &[code]);
            let answer = machine.ask(servers, get(1, b"an id"));
            assert_eq!(answer, level_1(status(1, GET, code)));
        }
        servers.has(0, b"an id", &[]);
        assert_eq!(machine.ask(servers, get(2, b"an id")), found(2, &[]));
        assert_eq!(machine.rejected(), Rejected::NONE);
    });
}

#[test]
fn a_session_of_one_to_four_bytes_is_sealed_too() {
    with_one(false, |machine, servers| {
        for len in 1..5 {
            let secret = secret(len);
            machine.ask(servers, put(1, b"an id", &secret));
            assert_eq!(servers.stored(0, b"an id").len(), len + OVERHEAD);
            assert_eq!(machine.ask(servers, get(2, b"an id")), found(2, &secret));
        }
    });
}

#[test]
fn a_session_opens_until_its_lifetime_is_over_and_not_after() {
    with_one(false, |machine, servers| {
        machine.ask(servers, add_for(1, 10_000, b"an id", b"a session"));
        // The server keeps it, and returns it for ever.
        machine.net.pass(10_000);
        assert_eq!(machine.ask(servers, get(2, b"an id")), found(2, b"a session"));
        machine.net.pass(1_000);
        assert_eq!(machine.ask(servers, get(3, b"an id")), miss(3));
        assert_eq!(machine.rejected(), Rejected { expired: 1, ..Rejected::NONE });
    });
}

#[test]
fn the_wall_clock_counts_and_not_the_time_since_the_start() {
    with_one(false, |machine, servers| {
        machine.ask(servers, add_for(1, 10_000, b"an id", b"a session"));
        machine.net.pass(60_000);
        // The clock was set back meanwhile.
        machine.net.machine.set_unix_time(machine.net.now, MILLIS + 9_999);
        assert_eq!(machine.ask(servers, get(2, b"an id")), found(2, b"a session"));
        machine.net.machine.set_unix_time(machine.net.now, MILLIS + 11_000);
        assert_eq!(machine.ask(servers, get(3, b"an id")), miss(3));
    });
}

#[test]
fn a_raised_lifetime_is_the_one_that_is_sealed() {
    let mut memory = Memory::of(1);
    let config = Config { min_lifetime: Some(Duration::from_secs(100)), ..ALONE };
    let seal = Some(seal(keys(&[1]), false));
    let mut machine = Machine::new(&mut memory, config, Pieces::Whole, seal);
    let mut servers = Servers::new(1);
    machine.ask(&mut servers, add_for(1, 10_000, b"an id", b"a session"));
    assert_eq!(messages(&servers.wire)[0].2[..4], 100_000_u32.to_be_bytes());
    machine.net.pass(100_000);
    assert_eq!(machine.ask(&mut servers, get(2, b"an id")), found(2, b"a session"));
    machine.net.pass(1_000);
    assert_eq!(machine.ask(&mut servers, get(3, b"an id")), miss(3));
}

#[test]
fn a_session_that_fits_only_unsealed_is_refused_and_reaches_no_server() {
    let longest = PAYLOAD_MAX - OVERHEAD - FIXED - 5;
    with_every_split(5, |pieces| {
        let mut memory = Memory::of(1);
        let seal = Some(seal(keys(&[1]), false));
        let mut machine = Machine::new(&mut memory, ALONE, pieces, seal);
        let mut servers = Servers::new(1);
        for (uid, len) in [(1, longest + 1), (2, longest + OVERHEAD)] {
            let secret = secret(len);
            let refused = machine.ask(&mut servers, add(uid, b"an id", &secret));
            assert_eq!(refused, level_1(status(uid, ADD, 104)));
            let refused = machine.ask(&mut servers, put(uid, b"an id", &secret));
            assert_eq!(refused, level_1(message(1, uid, PUT, &[104])));
        }
        assert!(servers.wire.is_empty());
        machine.ask(&mut servers, add(3, b"an id", &secret(longest)));
        assert!(machine.ask(&mut servers, get(4, b"an id")) == found(4, &secret(longest)));
        let traffic = machine.net.machine.traffic();
        assert_eq!((traffic.requests, traffic.answered), (6, 6));
    });
}

#[test]
fn what_every_server_refuses_reaches_none_in_clear() {
    with_one(false, |machine, servers| {
        let secret = secret(100);
        let id_len = |len: u32| [&[0, 0, 1, 0][..], &len.to_be_bytes(), &secret].concat();
        let cases = [
            (add_payload(604_800_001, b"an id", &secret), 102),
            (add_payload(u32::MAX, b"an id", &secret), 102),
            (id_len(100), 100),
            (id_len(u32::MAX), 100),
            (id_len(0), 103),
            (id_len(65), 103),
        ];
        for (payload, code) in cases {
            for op in [ADD, PUT] {
                let refused = machine.ask(servers, message(0, 1, op, &payload));
                assert_eq!(refused, level_1(message(1, 1, op, &[code])));
            }
        }
        assert!(servers.wire.is_empty());
    });
}

#[test]
fn without_a_server_nothing_is_sealed_and_clients_are_told() {
    with_one(false, |machine, servers| {
        machine.net.reach = net::Reach::Refuses;
        machine.net.cut(net::SERVER);
        machine.net.drive();
        let refused = machine.ask(servers, add(1, b"an id", b"a session"));
        assert_eq!(refused, level_1(status(1, ADD, 2)));
        assert_eq!(machine.ask(servers, get(2, b"an id")), level_1(status(2, GET, 2)));
    });
}

#[test]
fn a_lost_server_costs_its_requests_and_the_next_ones_work() {
    with_every_split(40, |pieces| {
        let mut memory = Memory::of(1);
        let seal = Some(seal(keys(&[1]), false));
        let mut machine = Machine::new(&mut memory, ALONE, pieces, seal);
        let mut servers = Servers::new(1);
        machine.ask(&mut servers, add(1, b"an id", b"a session"));
        machine.net.send(machine.client, &[get(2, b"an id"), get(3, b"an id")].concat());
        machine.net.drive();
        assert_eq!(messages(&machine.net.take(net::SERVER)).len(), 1);
        machine.net.cut(net::SERVER);
        machine.net.pass(5_000);
        machine.settle(&mut servers);
        let answers = messages(&machine.net.take(machine.client));
        assert_eq!(answers.iter().map(|answer| answer.0).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(answers[0].2, [2]);
        assert_eq!(machine.ask(&mut servers, get(4, b"an id")), found(4, b"a session"));
    });
}

#[test]
fn requests_behind_each_other_are_answered_in_turn() {
    with_every_split(150, |pieces| {
        let mut memory = Memory::of(1);
        let seal = Some(seal(keys(&[1]), false));
        let mut machine = Machine::new(&mut memory, ALONE, pieces, seal);
        let mut servers = Servers::new(1);
        let requests = [
            add(1, b"first", b"session 1"),
            get(2, b"first"),
            add(3, b"other", b"session 2"),
            get(4, b"other"),
            take(5, b"first"),
            get(6, b"first"),
            remove(7, b"other"),
        ];
        let answers = [
            level_1(status(1, ADD, 0)),
            found(2, b"session 1"),
            level_1(status(3, ADD, 0)),
            found(4, b"session 2"),
            taken(5, b"session 1"),
            miss(6),
            level_1(status(7, REMOVE, 0)),
        ];
        let requests: Vec<_> = requests.into_iter().flat_map(level_1).collect();
        machine.net.send(machine.client, &requests);
        machine.settle(&mut servers);
        assert_eq!(machine.net.take(machine.client), answers.concat());
    });
}

#[test]
fn a_client_that_leaves_before_its_session_comes_costs_nobody_anything() {
    let mut memory = Memory::of(2);
    let seal = Some(seal(keys(&[1]), false));
    let mut machine = Machine::new(&mut memory, ALONE, Pieces::Whole, seal);
    let mut servers = Servers::new(1);
    machine.ask(&mut servers, add(1, b"an id", b"a session"));
    let free = machine.net.machine.buffers_free();
    for _ in 0..20 {
        let hasty = machine.net.connect();
        machine.net.send(hasty, &get(2, b"an id"));
        machine.net.drive();
        machine.net.cut(hasty);
        machine.settle(&mut servers);
    }
    assert_eq!(machine.net.machine.buffers_free(), free);
    assert_eq!(machine.ask(&mut servers, get(3, b"an id")), found(3, b"a session"));
    assert_eq!(machine.net.machine.in_flight(), 0);
}

/// A proxy with two servers that hold copies, and the number of the first and the second of `b"an id"`.
fn copied(memory: &mut Memory) -> (Machine<'_>, Servers, [usize; 2]) {
    let seal = Some(seal(keys(&[1]), false));
    let mut machine = Machine::new(memory, COPIED, Pieces::Whole, seal);
    let mut servers = Servers::new(2);
    machine.ask(&mut servers, add(1, b"an id", b"a session"));
    servers.asked = vec![Vec::new(); 2];
    machine.ask(&mut servers, get(2, b"an id"));
    let first = servers.asked.iter().position(|asked| !asked.is_empty()).expect("one is asked");
    (machine, servers, [first, 1 - first])
}

#[test]
fn a_copy_that_opens_is_found_where_the_first_one_does_not() {
    let mut memory = Memory::of(1).with_servers(2);
    let (mut machine, mut servers, [first, second]) = copied(&mut memory);
    let good = servers.stored(second, b"an id").to_vec();
    assert_ne!(good, servers.stored(first, b"an id"), "each copy has a nonce of its own");
    for (what, lie, _) in lies(&good.clone()) {
        servers.has(first, b"an id", &lie);
        servers.has(second, b"an id", &good);
        let answer = machine.ask(&mut servers, get(3, b"an id"));
        assert_eq!(answer, found(3, b"a session"), "{what}");
        // It is found once, by whoever takes it first.
        let answer = machine.ask(&mut servers, take(4, b"an id"));
        assert_eq!(answer, taken(4, b"a session"), "{what}");
        assert!(servers.sessions.iter().all(|sessions| sessions.0.is_empty()), "{what}");
        let again = machine.ask(&mut servers, take(5, b"an id"));
        assert_eq!(again, taken(5, &[1]));
    }
}

#[test]
fn two_copies_that_do_not_open_are_one_miss() {
    let mut memory = Memory::of(1).with_servers(2);
    let (mut machine, mut servers, _) = copied(&mut memory);
    for number in 0..2 {
        servers.has(number, b"an id", b"unsealed");
    }
    assert_eq!(machine.ask(&mut servers, get(3, b"an id")), miss(3));
    assert_eq!(machine.ask(&mut servers, take(4, b"an id")), taken(4, &[1]));
    assert_eq!(machine.rejected(), Rejected { not_sealed: 4, ..Rejected::NONE });
}

#[test]
fn a_second_copy_that_does_not_open_costs_nothing_while_the_first_does() {
    let mut memory = Memory::of(1).with_servers(2);
    let (mut machine, mut servers, [_, second]) = copied(&mut memory);
    servers.has(second, b"an id", b"unsealed");
    assert_eq!(machine.ask(&mut servers, get(3, b"an id")), found(3, b"a session"));
    assert_eq!(machine.ask(&mut servers, take(4, b"an id")), taken(4, b"a session"));
    assert_eq!(machine.rejected(), Rejected::NONE);
}

#[test]
fn of_two_hedged_answers_the_one_that_opens_counts_in_either_order() {
    for lying in [0, 1] {
        for early in [0, 1] {
            let mut memory = Memory::of(1).with_servers(2);
            let (mut machine, servers, order) = copied(&mut memory);
            machine.net.send(machine.client, &level_1(get(3, b"an id")));
            machine.net.pass(50);
            let asked = order.map(|number| {
                let end = net::server(number as u8);
                let asked = messages(&machine.net.take(end));
                assert_eq!(asked.len(), 1);
                (end, asked[0].0, number)
            });
            for at in [early, 1 - early] {
                let (end, uid, number) = asked[at];
                let honest = servers.stored(number, b"an id");
                let payload = if at == lying { b"a lie that is long enough" } else { honest };
                machine.net.send(end, &level_1(session(uid, payload)));
                machine.net.drive();
            }
            let answer = machine.net.take(machine.client);
            assert_eq!(answer, found(3, b"a session"), "{lying} lies, {early} is early");
            assert_eq!(machine.net.machine.in_flight(), 0);
        }
    }
}

#[test]
fn two_hedged_answers_that_do_not_open_are_one_miss() {
    let mut memory = Memory::of(1).with_servers(2);
    let (mut machine, mut servers, _) = copied(&mut memory);
    machine.net.send(machine.client, &level_1(get(3, b"an id")));
    machine.net.pass(50);
    for number in 0..2 {
        servers.has(number, b"an id", b"a lie that is long enough");
    }
    machine.settle(&mut servers);
    assert_eq!(machine.net.take(machine.client), miss(3));
    assert_eq!(machine.rejected(), Rejected { not_sealed: 2, ..Rejected::NONE });
}

#[test]
fn keys_rotate_machine_by_machine_without_a_miss() {
    let mut memories = [Memory::of(1), Memory::of(1)];
    let mut machines = memories
        .each_mut()
        .map(|memory| Machine::new(memory, ALONE, Pieces::Whole, Some(seal(keys(&[1]), false))));
    let mut servers = Servers::new(1);
    let mut round = 0_u8;
    let mut all_find_all = |machines: &mut [Machine<'_>; 2], servers: &mut Servers| {
        round += 1;
        for from in [0_u8, 1] {
            let stored =
                machines[usize::from(from)].ask(servers, add(1, &[round, from], b"a session"));
            assert_eq!(stored, level_1(status(1, ADD, 0)));
        }
        // What the old key sealed lives for four rounds here.
        for (number, from) in
            (round.saturating_sub(3).max(1)..=round).flat_map(|n| [(n, 0), (n, 1)])
        {
            for machine in &mut *machines {
                let answer = machine.ask(servers, get(2, &[number, from]));
                assert_eq!(answer, found(2, b"a session"), "round {round}, of round {number}");
            }
        }
    };
    for step in [&[1][..], &[1, 2], &[2, 1], &[2, 1], &[2, 1], &[2, 1], &[2]] {
        for number in [0, 1] {
            machines[number].net.machine.set_keys(keys(step));
            all_find_all(&mut machines, &mut servers);
        }
    }
    assert!(machines.iter().all(|machine| machine.rejected() == Rejected::NONE));
    // The order matters: a key that seals before others open with it costs misses.
    machines[0].net.machine.set_keys(keys(&[3, 2]));
    machines[0].ask(&mut servers, add(1, b"hasty", b"a session"));
    assert_eq!(machines[1].ask(&mut servers, get(2, b"hasty")), miss(2));
}

#[test]
fn new_keys_serve_requests_under_way_too() {
    with_one(false, |machine, servers| {
        machine.ask(servers, add(1, b"an id", b"a session"));
        machine.net.send(machine.client, &level_1(get(2, b"an id")));
        machine.net.drive();
        machine.net.machine.set_keys(keys(&[2, 1]));
        machine.settle(servers);
        assert_eq!(machine.net.take(machine.client), found(2, b"a session"));
    });
}

#[test]
fn a_request_that_started_without_keys_ends_without_them() {
    let mut memory = Memory::of(1);
    let mut machine = Machine::new(&mut memory, ALONE, Pieces::Whole, None);
    let mut servers = Servers::new(1);
    machine.ask(&mut servers, add(1, b"an id", b"a session"));
    machine.net.send(machine.client, &level_1(get(2, b"an id")));
    machine.net.drive();
    machine.net.machine.set_seal(machine.net.now, MILLIS, seal(keys(&[1]), false));
    machine.settle(&mut servers);
    assert_eq!(machine.net.take(machine.client), found(2, b"a session"));
    assert_eq!(machine.ask(&mut servers, get(3, b"an id")), miss(3));
}

#[test]
fn mixed_machines_read_what_is_not_sealed_and_write_nothing_in_clear() {
    with_one(true, |machine, servers| {
        let secret = secret(3_000);
        servers.has(0, b"old", &secret);
        assert!(machine.ask(servers, get(1, b"old")) == found(1, &secret));
        assert!(machine.ask(servers, take(2, b"old")) == taken(2, &secret));
        machine.ask(servers, add(3, b"new", &secret));
        assert!(!shows(&servers.wire, &secret));
        assert!(machine.ask(servers, get(4, b"new")) == found(4, &secret));
        assert_eq!(machine.rejected(), Rejected::NONE);
        // What is sealed must still open.
        let mut changed = servers.stored(0, b"new").to_vec();
        changed[100] ^= 1;
        servers.has(0, b"new", &changed);
        assert_eq!(machine.ask(servers, get(5, b"new")), miss(5));
        servers.has(0, b"new", b"four");
        assert_eq!(machine.ask(servers, get(6, b"new")), miss(6));
        let sum = Rejected { forged: 1, not_sealed: 1, ..Rejected::NONE };
        assert_eq!(machine.rejected(), sum);
    });
}

#[test]
fn a_level_0_server_keeps_sealed_sessions_as_any_others() {
    let mut memory = Memory::of(1).with_servers(2);
    let mut machine = Machine::new(&mut memory, COPIED, Pieces::Whole, None);
    machine.net.probes = Probes::AnsweredAt(0);
    for number in 0..2 {
        machine.net.cut(net::server(number));
    }
    machine.net.pass(5_000);
    machine.net.machine.set_seal(machine.net.now, MILLIS, seal(keys(&[1]), false));
    let mut servers = Servers { level: 0, ..Servers::new(2) };
    let secret = secret(5_000);
    servers.has(0, b"an id", b"left over");
    servers.has(1, b"another", b"left over");
    for id in [&b"an id"[..], b"another"] {
        machine.ask(&mut servers, remove(1, id));
        assert_eq!(machine.ask(&mut servers, add(2, id, &secret)), status(2, ADD, 0));
        assert!(machine.ask(&mut servers, get(3, id)) == session(3, &secret));
        assert!(servers.sessions.iter().all(|sessions| sessions.0[id].len() == 5_048));
    }
    assert_eq!(
        machine.ask(&mut servers, take(4, b"an id")),
        at_level(1, message(1, 4, TAKE, &[3]))
    );
    assert!(!shows(&servers.wire, &secret));
}
