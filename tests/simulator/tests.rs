use super::*;

#[test]
fn three_hundred_seeds_hold() {
    trace::report_panics();
    let repaired: u64 = (0..300).map(|seed| run(seed, false).repaired).sum();
    assert!(repaired > 0, "no world repairs anything");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [1, 20, 300, 4_000] {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}
