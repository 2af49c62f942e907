//! Fuzz bodies, one function a file. Each takes any bytes, and panics if the code under test is
//! wrong.
//!
//! The same functions run under cargo-fuzz (`fuzz/fuzz_targets`), in the runner of this package on
//! stable Rust, and over their seeds in `cargo test`.

pub mod address;
pub mod client;
pub mod input;
pub mod measure;
pub mod options;
pub mod pool;
pub mod proxy;
pub mod replicas;
pub mod seal;
pub mod seeds;
pub mod server;
pub mod sessiond;
pub mod slots;
pub mod snoop;
pub mod state;
pub mod table;

/// A function to fuzz.
pub type Body = fn(&[u8]);

/// All bodies by name.
pub const BODIES: [(&str, Body); 14] = [
    ("address", address::body),
    ("client", client::body),
    ("measure", measure::body),
    ("options", options::body),
    ("pool", pool::body),
    ("proxy", proxy::body),
    ("replicas", replicas::body),
    ("seal", seal::body),
    ("server", server::body),
    ("sessiond", sessiond::body),
    ("slots", slots::body),
    ("snoop", snoop::body),
    ("state", state::body),
    ("table", table::body),
];

#[cfg(test)]
mod tests {
    use super::{BODIES, seeds};

    #[test]
    fn every_body_takes_its_seeds_and_what_becomes_of_them() {
        for (name, body) in BODIES {
            let seeds = seeds::of(name);
            assert!(!seeds.is_empty(), "{name} has seeds");
            seeds.iter().for_each(|seed| body(seed));
            let mut mutator = seeds::Mutator::new(&seeds, 1);
            (0..300).for_each(|_| body(mutator.next()));
        }
    }
}
