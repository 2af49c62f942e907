//! Which servers an id belongs to, computed without the code under test: all proxies of all builds
//! must agree.

/// Returns the nodes of a proxy's servers, best first for this id. A proxy knows node 2 as `server
/// 2`.
pub fn order(id: &[u8], servers: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut order: Vec<usize> = servers.collect();
    order.sort_by_key(|number| std::cmp::Reverse(rank(id, *number)));
    order
}

/// Returns the rank of a node for an id. Equal ranks are too unlikely to occur. Requests that every
/// server refuses have no id, and all rank nodes alike.
pub fn rank(id: &[u8], node: usize) -> u64 {
    let id = if id.is_empty() { 0 } else { sip(id) };
    let mixed = id ^ sip(format!("server {node}").as_bytes());
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// SipHash-1-3 with the key 0.
fn sip(bytes: &[u8]) -> u64 {
    let mut state: [u64; 4] = [
        0x736f_6d65_7073_6575,
        0x646f_7261_6e64_6f6d,
        0x6c79_6765_6e65_7261,
        0x7465_6462_7974_6573,
    ];
    let whole = bytes.len() / 8 * 8;
    let mut last = [0; 8];
    last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
    last[7] = bytes.len() as u8;
    for word in bytes[..whole].chunks(8).chain([&last[..]]) {
        let word = word.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        state[3] ^= word;
        round(&mut state);
        state[0] ^= word;
    }
    state[2] ^= 0xff;
    (0..3).for_each(|_| round(&mut state));
    state.iter().fold(0, |sum, word| sum ^ word)
}

fn round([a, b, c, d]: &mut [u64; 4]) {
    *a = a.wrapping_add(*b);
    *b = b.rotate_left(13) ^ *a;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*d);
    *d = d.rotate_left(16) ^ *c;
    *a = a.wrapping_add(*d);
    *d = d.rotate_left(21) ^ *a;
    *c = c.wrapping_add(*b);
    *b = b.rotate_left(17) ^ *c;
    *c = c.rotate_left(32);
}
