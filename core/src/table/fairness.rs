//! How short and long lifetimes share a full table.

use super::*;
use std::vec::Vec;
use std::{println, vec};

/// The default of `dc_server -sessions`.
const SESSIONS: u32 = 65_536;
const BRIEF: u32 = 300_000;
const DAY: u32 = 86_400_000;

struct Full {
    memory: Vec<u8>,
    layout: Layout,
}

impl Full {
    fn new(sessions: u32) -> Self {
        let layout = Layout::new(sessions, u64::from(sessions) * 256).unwrap();
        Self { memory: vec![0; layout.size()], layout }
    }

    fn table(&mut self) -> Table<&mut [Line]> {
        Table::in_memory(self.layout, *b"a key for tests.", &mut self.memory).unwrap()
    }
}

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

/// The id of the `n`th session of a service.
fn name(service: u8, n: u32) -> [u8; 8] {
    let [a, b, c, d] = n.to_le_bytes();
    [service, 1, 2, 3, a, b, c, d]
}

fn add(table: &mut Table<&mut [Line]>, now: u64, ttl: u32, service: u8, n: u32) {
    table.add(at(now), ttl, Id::new(&name(service, n)).unwrap(), b"session").unwrap();
}

/// How many of these sessions of a service are there.
fn there(
    table: &Table<&mut [Line]>,
    now: u64,
    service: u8,
    numbers: core::ops::Range<u32>,
) -> usize {
    numbers.filter(|n| table.has(at(now), Id::new(&name(service, *n)).unwrap())).count()
}

#[test]
fn a_flood_of_long_lives_takes_its_share_of_the_brief_ones_and_no_more() {
    for long in [DAY, TTL_MAX] {
        let mut full = Full::new(SESSIONS);
        let mut table = full.table();
        (0..20_000).for_each(|n| add(&mut table, 0, BRIEF, 0, n));
        (0..65_550).for_each(|n| add(&mut table, 250, long, 1, n));
        let left = there(&table, 250, 0, 0..20_000);
        println!("flood of {long} ms: {left} of 20000 brief sessions are left");
        // The brief ones shrink by their share of what is evicted: 20000 exp(-20014 / 65536).
        assert!((14_700..14_770).contains(&left), "{left}");
        // Those stored first have left.
        assert_eq!(there(&table, 250, 0, (20_000 - left as u32)..20_000), left);
    }
}

#[test]
fn after_a_flood_of_long_lives_new_brief_ones_stay() {
    // New sessions a second, and how many per cent of the lookups that succeed in an empty table still
    // do.
    for (rate, percent) in [(50, 99), (100, 99), (200, 87), (1_000, 87)] {
        let mut full = Full::new(SESSIONS);
        let mut table = full.table();
        (0..20_000).for_each(|n| add(&mut table, 0, BRIEF, 0, n));
        (0..65_550).for_each(|n| add(&mut table, 250, DAY, 1, n));
        // The seconds that a table with no other sessions keeps one.
        let kept = (SESSIONS / rate).min(300);
        let (mut asked, mut met) = (0, 0);
        for second in 1..=300 {
            let first = second * rate;
            for n in first..first + rate {
                add(&mut table, u64::from(second) * 1_000, BRIEF, 2, n);
            }
            if second % 10 > 0 {
                continue;
            }
            // Some sessions are looked up at every tenth of that time.
            for age in (1..=10).map(|tenth| kept * tenth / 10 - 1).filter(|age| *age < second) {
                let of_age = (second - age) * rate;
                asked += rate as usize;
                met += there(&table, u64::from(second) * 1_000, 2, of_age..of_age + rate);
            }
        }
        println!("{rate} a second after a flood: {met} of {asked} lookups found their session");
        assert!(met * 100 >= asked * percent, "{rate} a second: {met} of {asked}");
    }
}

#[test]
fn a_flood_of_brief_lives_takes_its_share_of_the_long_ones_and_no_more() {
    let mut full = Full::new(SESSIONS);
    let mut table = full.table();
    (0..20_000).for_each(|n| add(&mut table, 0, DAY, 0, n));
    (0..65_550).for_each(|n| add(&mut table, 250, BRIEF, 1, n));
    let left = there(&table, 250, 0, 0..20_000);
    println!("flood of {BRIEF} ms: {left} of 20000 long sessions are left");
    assert!((14_700..14_770).contains(&left), "{left}");
}

#[test]
fn services_of_equal_rates_have_equal_shares_whatever_their_lives() {
    for lives in [[BRIEF, DAY], [3_600_000, 7_200_000], [7_200_000, DAY], [60_000, BRIEF]] {
        let mut full = Full::new(6_000);
        let mut table = full.table();
        // Each service stores 500 a second, and asks for each session after 5 seconds: with equal
        // shares a session stays for 6.
        let mut hits = [0_u32; 2];
        let (mut asked, step) = (0, 2);
        for n in 0..60_000_u32 {
            let now = u64::from(n) * step;
            for service in 0..2_u8 {
                add(&mut table, now, lives[usize::from(service)], service, n);
                if n >= 30_000 {
                    let old = n - 2_500;
                    hits[usize::from(service)] += there(&table, now, service, old..old + 1) as u32;
                }
            }
            asked += u32::from(n >= 30_000);
        }
        println!("lives of {lives:?} ms: {hits:?} hits of {asked} each");
        assert!(hits.iter().all(|hits| *hits * 100 >= asked * 99), "{lives:?}: {hits:?}");
    }
}

#[test]
fn equal_lives_leave_in_the_order_in_which_they_expire() {
    for ttl in [1, BRIEF, BRIEF + 1, DAY, TTL_MAX] {
        let mut full = Full::new(100);
        let mut table = full.table();
        for n in 0..1_000 {
            add(&mut table, u64::from(n) / 1_000, ttl, 0, n);
            let oldest = (n + 1).saturating_sub(100);
            assert_eq!(there(&table, 0, 0, oldest..n + 1), (n + 1 - oldest) as usize);
        }
        table.check();
    }
}

#[test]
fn where_bytes_are_short_each_class_loses_its_share_of_them() {
    let small =
        |table: &mut Table<&mut [Line]>| (0..10_000).for_each(|n| add(table, 1, BRIEF, 0, n));
    let large = |table: &mut Table<&mut [Line]>, many| {
        for n in 0..many {
            table.add(at(1), DAY, Id::new(&name(1, n)).unwrap(), &[7; SESSION_MAX]).unwrap();
        }
    };
    let mut full = Full::new(20_000);
    let mut table = full.table();
    small(&mut table);
    // 77 of 129 blocks fill what is left; 79 more evict 10,124 blocks.
    large(&mut table, 156);
    let left = there(&table, 1, 0, 0..10_000);
    println!("156 largest sessions: {left} of 10000 small ones are left");
    // They shrink by their share of the blocks: 10000 exp(-10124 / 20000).
    assert!((5_900..6_150).contains(&left), "{left}");
    table.check();

    let mut full = Full::new(20_000);
    let mut table = full.table();
    large(&mut table, 155);
    small(&mut table);
    let left = there(&table, 1, 1, 0..155);
    println!("10000 small sessions: {left} of 155 largest ones are left");
    // 155 exp(-10000 / 20000), less a session, since evictions free a little more than is needed.
    assert!((90..=97).contains(&left), "{left}");
    table.check();
}
