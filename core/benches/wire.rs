//! The codec: what it takes to find a message, to make one, and to pass one on.
//!
//! Sessions of 200 bytes fit into one frame; those of 32768 fill sixteen. `cargo bench -p
//! distcache-core --bench wire`.

use distcache_core::message::{Add, Reply, Request};
use distcache_core::wire::{
    self, Direction, Envelope, HEADER_LEN, Header, MESSAGE_MAX, Message, Op,
};
use divan::{Bencher, black_box, counter::BytesCount};

const RESPONSE: Envelope =
    Envelope { direction: Direction::Response, ..Envelope::request(7, Op::Get) };
const SIZES: [usize; 3] = [32, 200, 32_768];

fn main() {
    divan::main();
}

/// An answer that carries as much.
fn answer(payload_len: usize) -> ([u8; MESSAGE_MAX], usize) {
    let mut wire = [0x5A; MESSAGE_MAX];
    let len = wire::frame(&mut wire, &RESPONSE, payload_len);
    (wire, len.expect("it fits"))
}

fn measured(wire: &[u8]) -> Message {
    let message = Message::measure(wire, Direction::Response);
    message.expect("it is lawful").expect("it is whole")
}

#[divan::bench]
fn parse_header(bencher: Bencher<'_, '_>) {
    let (wire, _) = answer(200);
    bencher.bench_local(|| Header::parse(black_box(&wire), Direction::Response));
}

#[divan::bench]
fn parse_half_a_header(bencher: Bencher<'_, '_>) {
    let (wire, _) = answer(200);
    bencher.bench_local(|| Header::parse(black_box(&wire[..7]), Direction::Response));
}

#[divan::bench(args = SIZES)]
fn measure(bencher: Bencher<'_, '_>, payload_len: usize) {
    let (wire, len) = answer(payload_len);
    bencher.bench_local(|| Message::measure(black_box(&wire[..len]), Direction::Response));
}

/// Measuring, and the payload in one piece: what a reader does. Data moves only between frames.
#[divan::bench(args = SIZES)]
fn read(bencher: Bencher<'_, '_>, payload_len: usize) {
    let (original, len) = answer(payload_len);
    let mut wire = original;
    bencher.counter(BytesCount::new(len)).bench_local(|| {
        wire[..len].copy_from_slice(&original[..len]);
        let message = measured(black_box(&wire[..len]));
        let payload = message.payload(&mut wire[..len]);
        black_box(Reply::parse(Op::Get, payload)).is_ok()
    });
}

/// A header in front of a payload that is in its place already; more of them where it needs more.
#[divan::bench(args = SIZES)]
fn frame(bencher: Bencher<'_, '_>, payload_len: usize) {
    let mut wire = [0x5A; MESSAGE_MAX];
    bencher
        .counter(BytesCount::new(payload_len))
        .bench_local(|| wire::frame(black_box(&mut wire), &RESPONSE, payload_len));
}

#[divan::bench(args = SIZES)]
fn relabel(bencher: Bencher<'_, '_>, payload_len: usize) {
    let (wire, len) = answer(payload_len);
    let message = measured(&wire);
    let mut out = [0; MESSAGE_MAX];
    bencher
        .counter(BytesCount::new(len))
        .bench_local(|| message.relabel(black_box(&wire), &RESPONSE, black_box(&mut out)));
}

/// What a client does for an ADD: the payload, and the header around it.
#[divan::bench]
fn write_add(bencher: Bencher<'_, '_>) {
    let id = distcache_core::id::Id::new(&[7; 32]).expect("32 bytes are an id");
    let mut wire = [0; 512];
    bencher.bench_local(|| {
        let request = Request::Add(Add { ttl: 1000, id: black_box(id), session: &[5; 200] });
        let len = request.write(&mut wire[HEADER_LEN..]).expect("it fits");
        wire::frame(black_box(&mut wire), &Envelope::request(7, Op::Add), len)
    });
}

#[divan::bench]
fn parse_add(bencher: Bencher<'_, '_>) {
    let id = distcache_core::id::Id::new(&[7; 32]).expect("32 bytes are an id");
    let mut payload = [0; 240];
    let request = Request::Add(Add { ttl: 1000, id, session: &[5; 200] });
    request.write(&mut payload).expect("it fits");
    bencher.bench_local(|| Add::parse(black_box(&payload)).is_ok_and(|add| add.is_ok()));
}
