use super::*;

#[test]
fn three_hundred_seeds_hold() {
    trace::report_panics();
    for seed in 0..300 {
        run(seed, false);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [1, 20, 300, 4_000] {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}
