//! The seal: what a session costs on its way to the cache, and on its way back.
//!
//! `cargo bench -p distcache-core --bench seal`.

use distcache_core::Id;
use distcache_core::seal::{Keys, OVERHEAD};
use divan::{Bencher, black_box, counter::BytesCount};

const SIZES: [usize; 3] = [32, 200, 32_768];

fn main() {
    divan::main();
}

fn id() -> Id<'static> {
    Id::new(&[0x1D; 32]).expect("a lawful length")
}

/// In place, as the proxy does it.
#[divan::bench(args = SIZES, sample_size = 256)]
fn seal(bencher: Bencher<'_, '_>, len: usize) {
    let keys = Keys::new(&[[7; 32]]).expect("one key");
    let mut envelope = vec![0x5A; len + OVERHEAD];
    bencher.counter(BytesCount::new(len)).bench_local(|| {
        keys.seal_in_place(black_box([1; 24]), u32::MAX, black_box(id()), &mut envelope)
    });
}

/// With the copy of the envelope, since opening it in place uses it up.
#[divan::bench(args = SIZES, sample_size = 256)]
fn open(bencher: Bencher<'_, '_>, len: usize) {
    let keys = Keys::new(&[[7; 32]]).expect("one key");
    let mut sealed = vec![0x5A; len + OVERHEAD];
    keys.seal_in_place([1; 24], u32::MAX, id(), &mut sealed).expect("it fits");
    let mut envelope = sealed.clone();
    bencher.counter(BytesCount::new(len)).bench_local(|| {
        envelope.copy_from_slice(&sealed);
        keys.open(black_box(1), black_box(id()), &mut envelope).is_ok()
    });
}

/// With eight keys of which the last fits.
#[divan::bench(sample_size = 256)]
fn open_with_the_oldest_of_eight(bencher: Bencher<'_, '_>) {
    let all: [[u8; 32]; 8] = std::array::from_fn(|at| [at as u8; 32]);
    let keys = Keys::new(&all).expect("eight keys");
    let mut sealed = vec![0x5A; 200 + OVERHEAD];
    let oldest = Keys::new(&all[7..]).expect("one key");
    oldest.seal_in_place([1; 24], u32::MAX, id(), &mut sealed).expect("it fits");
    let mut envelope = sealed.clone();
    bencher.bench_local(|| {
        envelope.copy_from_slice(&sealed);
        keys.open(black_box(1), black_box(id()), &mut envelope).is_ok()
    });
}
